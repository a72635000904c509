"""3D Slicer's segmentation files: `.seg.nrrd` in, layers with named segments out, and back with names and colours.

The format is Slicer's (developer guide, "Segmentations"): a 3D NRRD file, or a 4D one whose first axis holds layers
where segments overlap, with fields `Segment{i}_Name`, `_LabelValue`, `_Layer`, `_Color` and others about each segment.
"""

import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
from numpy.typing import NDArray

from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Label, whole_structures
from labeling_protocols.protocol import Code, Protocol, Structure
from labeling_protocols.volumes import UnreadableVolumeError

_MOST_VOXELS = 2**31
_COMPRESSION = 3
_FIELD = re.compile(r"^Segment(\d+)_(ID|Name|LabelValue|Layer)$")
# What pynrrd raises for a file that is none, beside its own error.
_UNREADABLE = (
    nrrd.NRRDError,
    zlib.error,
    OSError,
    EOFError,
    StopIteration,
    LookupError,
    ArithmeticError,
    TypeError,
    ValueError,
)
# What each word of a NRRD file's space means along LPS's axes.
_SIGNS = {"left": 1, "right": -1, "posterior": 1, "anterior": -1, "superior": 1, "inferior": -1}


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One segment: what it is called, and its voxel value within its layer."""

    names: tuple[str, ...]
    value: int
    layer: int


@dataclass(frozen=True, kw_only=True)
class Segments:
    """The voxels of a file and what it says about them; `described` is empty where it says nothing."""

    geometry: Geometry
    layers_LZYX: NDArray[np.generic]
    described: tuple[Segment, ...]


def read_segments(path: Path) -> Segments:
    """The layers and segments of a NRRD file, of 3D Slicer's or of anybody's; raises `UnreadableVolumeError`."""
    try:
        with path.open("rb") as file:
            header: dict[str, Any] = nrrd.read_header(file)
            _refuse_header(header)
            data_XYZ = nrrd.read_data(header, file, str(path), index_order="F")
        if data_XYZ.ndim == 3:
            data_XYZ = data_XYZ[np.newaxis]
        x, y, z = data_XYZ.shape[1:]
        return Segments(
            geometry=Geometry.from_affine_LPS(_affine_LPS(header), (z, y, x)),
            layers_LZYX=data_XYZ.transpose(0, 3, 2, 1),
            described=_segments(header),
        )
    except UnreadableVolumeError:
        raise
    except _UNREADABLE as error:
        said = str(error) if isinstance(error, ValueError | nrrd.NRRDError) else type(error).__name__
        raise UnreadableVolumeError(f"NRRD file could not be read: {said}") from error


def write_segments(label: Label, protocol: Protocol, path: Path) -> None:
    """A label as a segmentation file of 3D Slicer, with every outlined structure's name, colour and code."""
    geometry = label.geometry
    layers, places = _arranged(label, protocol)
    several = len(layers) > 1
    directions = geometry.affine_LPS()[:3, :3].T
    header: dict[str, Any] = {
        "space": "left-posterior-superior",
        "space directions": np.vstack([np.full(3, np.nan), directions]) if several else directions,
        "kinds": [*(["list"] if several else []), "domain", "domain", "domain"],
        "encoding": "gzip",
        "space origin": np.asarray(geometry.origin_mm_LPS),
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",  # what Slicer before 5.2 called the one below
        "Segmentation_SourceRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for number, (structure, layer) in enumerate(places):
        header |= {f"Segment{number}_{name}": text for name, text in _fields(structure, layer, layers).items()}
    data_XYZ = layers.transpose(0, 3, 2, 1)
    nrrd.write(str(path), data_XYZ if several else data_XYZ[0], header, compression_level=_COMPRESSION, index_order="F")


# Reading


def _refuse_header(header: dict[str, Any]) -> None:
    if "data file" in header or "datafile" in header:
        raise UnreadableVolumeError("the NRRD file names another file as its data; one file with its data was expected")
    sizes = [int(size) for size in header["sizes"]]
    if len(sizes) not in (3, 4) or min(sizes) < 1 or math.prod(sizes) > _MOST_VOXELS:
        raise UnreadableVolumeError(f"expected a 3D volume, or layers of one, found sizes {sizes}")
    if len(sizes) == 4 and str(header.get("kinds", ["list"])[0]) not in ("list", "vector", "none", "???"):
        raise UnreadableVolumeError(f"expected the layers along the first axis, found axes {header['kinds']}")


def _affine_LPS(header: dict[str, Any]) -> NDArray[np.float64]:
    if "space" not in header or "space directions" not in header:
        raise UnreadableVolumeError("the NRRD file does not say where its voxels lie (no space or space directions)")
    letters = {"lps": "left-posterior-superior", "ras": "right-anterior-superior", "las": "left-anterior-superior"}
    space = str(header["space"]).lower()
    words = letters.get(space, space).split("-")
    if len(words) != 3 or any(word not in _SIGNS for word in words):
        raise UnreadableVolumeError(f"the NRRD file's space is {space!r}, left-posterior-superior was expected")
    signs = np.array([_SIGNS[word] for word in words], float)
    directions = np.asarray(header["space directions"], float)[-3:]
    affine = np.eye(4)
    affine[:3, :3] = (directions * signs).T
    affine[:3, 3] = np.asarray(header.get("space origin", np.zeros(3)), float) * signs
    if not np.isfinite(affine).all():
        raise UnreadableVolumeError("the NRRD file's origin and directions are not finite numbers")
    return affine


def _segments(header: dict[str, Any]) -> tuple[Segment, ...]:
    found: dict[int, dict[str, str]] = {}
    for key, text in header.items():
        if matched := _FIELD.match(str(key)):
            found.setdefault(int(matched[1]), {})[matched[2]] = str(text).strip()
    # Slicer before 4.11 wrote neither value nor layer: one binary volume a segment.
    return tuple(
        Segment(
            names=tuple(dict.fromkeys(name for name in (fields.get("Name"), fields.get("ID")) if name)),
            value=int(fields.get("LabelValue", 1)),
            layer=int(fields.get("Layer", number)),
        )
        for number, fields in sorted(found.items())
    )


# Writing


def _arranged(label: Label, protocol: Protocol) -> tuple[NDArray[np.uint8], list[tuple[Structure, int]]]:
    """Layers with each outlined structure in one of them, and in which (the first where it has no voxels)."""
    layers = label.layers_LZYX if len(label.layers_LZYX) else np.zeros((1, *label.geometry.shape_ZYX), np.uint8)
    found = _values(layers)
    if sum(map(len, found)) > len(set[int]().union(*found)):  # a structure in parts, which the format has no word for
        layers = whole_structures(layers)
        found = _values(layers)
    layer_of = {value: number for number, values in enumerate(found) for value in values}
    return layers, [(structure, layer_of.get(structure.value, 0)) for structure in protocol.outlined]


def _values(layers_LZYX: NDArray[np.uint8]) -> list[set[int]]:
    return [set(np.unique(layer_ZYX).tolist()) - {0} for layer_ZYX in layers_LZYX]


def _fields(structure: Structure, layer: int, layers_LZYX: NDArray[np.uint8]) -> dict[str, str]:
    color = " ".join(f"{part / 255:.6g}" for part in bytes.fromhex(structure.color[1:]))
    codes = "~".join((_code(structure.category), _code(structure.type), _code(structure.modifier)))
    return {
        "ID": structure.name,
        "Name": structure.name,
        "NameAutoGenerated": "0",
        "Color": color,
        "ColorAutoGenerated": "0",
        "LabelValue": str(structure.value),
        "Layer": str(layer),
        "Extent": _extent(layers_LZYX[layer] == structure.value),
        "Tags": f"TerminologyEntry:Overread~{codes}~Anatomic codes - DICOM master list~^^~^^|",
    }


def _code(code: Code | None) -> str:
    return f"{code.scheme}^{code.value}^{code.meaning}" if code else "^^"


def _extent(mask_ZYX: NDArray[np.bool_]) -> str:
    """First and last index along x, y and z; Slicer writes an empty segment as from 0 to -1."""
    if not mask_ZYX.any():
        return "0 -1 0 -1 0 -1"
    along = [np.flatnonzero(mask_ZYX.any(axis=axes)) for axes in ((0, 1), (0, 2), (1, 2))]
    return " ".join(f"{at[0]} {at[-1]}" for at in along)
