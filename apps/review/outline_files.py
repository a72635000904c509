"""Several labels of one case in, one small NIfTI file with all their outlines out.

A voxel's value is the number of a pattern of answers: which structures label A has there, which B, and so on. Three
masks of 79 MB become one volume of a byte a voxel, cut to where anybody drew, and whose outlines are seen is then a
matter of looking up patterns. The patterns, and where boxes and points lie, stand in a header extension (JSON).
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.compiled import compiled
from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Box, Label, LabelError, Point
from labeling_protocols.surfaces import Region, region_of

_HEADER_BYTES = 348
_COMMENT = 6  # NIfTI-1's code for an extension of text
_UINT8, _UINT16 = 2, 512  # NIfTI-1 data types
_MM = 2  # NIFTI_UNITS_MM
_PATTERNS_MAX = 65_535

_Codes = NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlines:
    """`codes_ZYX` numbers the pattern of each voxel within `region` of the image; 0 is where nobody drew.

    `patterns` tell, by number and then by label, the values it has there.
    """

    region: Region
    codes_ZYX: NDArray[np.uint8] | _Codes
    patterns: tuple[tuple[tuple[int, ...], ...], ...]


def outline_file(labels: Mapping[str, Label], geometry: Geometry) -> bytes:
    """The labels, by the name they are shown under, as a NIfTI file (.nii) on the image's grid, cut to the outlines.

    Its extension names the labels, where the cut begins, the patterns, and each label's boxes and points in voxels of
    the image. Raises `LabelError` where there are more than 65,535 patterns.
    """
    found = outlines_of(list(labels.values()))
    start_XYZ = [side.start for side in reversed(found.region)]
    told = {
        "labels": list(labels),
        "start_XYZ": start_XYZ,
        "image_XYZ": list(reversed(geometry.shape_ZYX)),
        "patterns": found.patterns,
        "boxes": [_box(name, box, geometry) for name, label in labels.items() for box in label.boxes],
        "points": [_point(name, point, geometry) for name, label in labels.items() for point in label.points],
    }
    return nifti_bytes(found.codes_ZYX, _cut_affine(geometry, start_XYZ), json.dumps(told, separators=(",", ":")))


def outlines_of(labels: Sequence[Label]) -> Outlines:
    """The patterns of these labels, of one grid, within the smallest box around everything outlined."""
    layers = [(place, layer_ZYX) for place, label in enumerate(labels) for layer_ZYX in label.layers_LZYX]
    region = region_of(layer_ZYX for _, layer_ZYX in layers)
    shape_ZYX = tuple(side.stop - side.start for side in region)
    codes_ZYX = np.zeros(shape_ZYX, np.uint16)
    patterns: list[tuple[frozenset[int], ...]] = [(frozenset(),) * len(labels)]
    for place, layer_ZYX in layers:
        joined = np.zeros((_PATTERNS_MAX + 1, 256), np.uint16)
        sources = np.zeros((_PATTERNS_MAX + 1, 2), np.uint16)
        count = _join(codes_ZYX, np.ascontiguousarray(layer_ZYX[region]), joined, sources)
        if count < 0:
            raise LabelError(f"the labels differ in more than {_PATTERNS_MAX} ways; they are not shown together")
        patterns = [_with(patterns[code], place, value) for code, value in sources[:count].tolist()]
    numbered, kept = _without_repeats(patterns)
    codes: Any = numbered[codes_ZYX]
    return Outlines(region=region, codes_ZYX=codes if len(kept) > 256 else codes.astype(np.uint8), patterns=kept)


def nifti_bytes(voxels_ZYX: NDArray[Any], affine_RAS: NDArray[np.float64], told: str = "") -> bytes:
    """A NIfTI-1 file with voxels, grid and one text extension, and with nothing else in its header."""
    extension = b""
    if told:
        text = told.encode()
        size = (8 + len(text) + 15) // 16 * 16
        extension = struct.pack("<ii", size, _COMMENT) + text.ljust(size - 8, b" ")
    header = bytearray(_HEADER_BYTES + 4)
    voxel_mm = np.linalg.norm(affine_RAS[:3, :3], axis=0)
    struct.pack_into("<i", header, 0, _HEADER_BYTES)
    struct.pack_into("<8h", header, 40, 3, *reversed(voxels_ZYX.shape), 1, 1, 1, 1)
    bits = 8 * voxels_ZYX.dtype.itemsize
    struct.pack_into("<2h", header, 70, _UINT8 if bits == 8 else _UINT16, bits)
    struct.pack_into("<8f", header, 76, 1.0, *voxel_mm, 0.0, 0.0, 0.0, 0.0)
    struct.pack_into("<2f", header, 108, len(header) + len(extension), 1.0)
    struct.pack_into("<B", header, 123, _MM)
    struct.pack_into("<2h", header, 252, 0, 1)  # no quaternion, the affine below in scanner coordinates
    struct.pack_into("<12f", header, 280, *affine_RAS[:3].ravel())
    struct.pack_into("<4s", header, 344, b"n+1\0")
    header[_HEADER_BYTES] = bool(extension)
    little = voxels_ZYX.astype(voxels_ZYX.dtype.newbyteorder("<"), copy=False)
    return bytes(header) + extension + little.tobytes()


def _with(pattern: tuple[frozenset[int], ...], place: int, value: int) -> tuple[frozenset[int], ...]:
    return tuple(values | {value} if value and at == place else values for at, values in enumerate(pattern))


def _without_repeats(
    patterns: list[tuple[frozenset[int], ...]],
) -> tuple[_Codes, tuple[tuple[tuple[int, ...], ...], ...]]:
    """A number for each pattern that is the same for equal ones: layers may hold the same values in another order."""
    numbers: dict[tuple[frozenset[int], ...], int] = {}
    numbered = np.array([numbers.setdefault(pattern, len(numbers)) for pattern in patterns], np.uint16)
    return numbered, tuple(tuple(tuple(sorted(values)) for values in pattern) for pattern in numbers)


def _cut_affine(geometry: Geometry, start_XYZ: list[int]) -> NDArray[np.float64]:
    affine = geometry.affine_RAS()
    affine[:3, 3] += affine[:3, :3] @ start_XYZ
    return affine


def _box(name: str, box: Box, geometry: Geometry) -> dict[str, Any]:
    """A box by its corners, in voxels of the image; whole numbers are voxel centres."""
    centre, half = _voxel(box.centre_mm_LPS, geometry), np.array(box.size_mm_XYZ) / geometry.spacing_mm_XYZ / 2
    return {
        "label": name,
        "structure": box.structure,
        "low_XYZ": (centre - half).round(3).tolist(),
        "high_XYZ": (centre + half).round(3).tolist(),
    }


def _point(name: str, point: Point, geometry: Geometry) -> dict[str, Any]:
    place_XYZ = _voxel(point.position_mm_LPS, geometry).round(3).tolist()
    return {"label": name, "structure": point.structure, "place_XYZ": place_XYZ}


def _voxel(position_mm_LPS: tuple[float, float, float], geometry: Geometry) -> NDArray[np.float64]:
    index: NDArray[np.float64] = np.linalg.solve(geometry.affine_LPS(), np.array([*position_mm_LPS, 1.0]))[:3]
    return index


@compiled
def _join(codes_ZYX: _Codes, layer_ZYX: NDArray[np.uint8], joined: _Codes, sources: _Codes) -> int:
    """Give each pair of a code so far and a value its own code, in place: how many there are, or -1 for too many.

    `joined` takes, by code and value, the new code (0: none yet; 0 with 0 stays 0), `sources` the pair of each code.
    """
    count = 1
    for z in range(codes_ZYX.shape[0]):
        for y in range(codes_ZYX.shape[1]):
            for x in range(codes_ZYX.shape[2]):
                code, value = codes_ZYX[z, y, x], layer_ZYX[z, y, x]
                if code == 0 and value == 0:
                    continue
                new = joined[code, value]
                if new == 0:
                    if count > 65_535:
                        return -1
                    new = np.uint16(count)
                    joined[code, value] = new
                    sources[count, 0], sources[count, 1] = code, value
                    count += 1
                codes_ZYX[z, y, x] = new
    return count
