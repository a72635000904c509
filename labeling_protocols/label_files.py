"""Viewers' files in (NIfTI, NRRD, 3D Slicer's segmentations and markups), a `Label` out, and back.

Segments are mapped to a protocol by their names, and by their values where a file names none.
"""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.blobs import replacing, write_durably
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Label, LabelError
from labeling_protocols.markups import markups_bytes, read_markups
from labeling_protocols.protocol import Protocol
from labeling_protocols.seg_nrrd import Segment, read_segments, write_segments
from labeling_protocols.volumes import read_volume, suffix_of, write_volume

MARKUPS = ".mrk.json"
_NRRD = ".nrrd"
_SHOWN = 8
# A label's voxel may lie this far (in voxels) from the image's.
_GRID_TOLERANCE = 0.05


class LabelFormat(StrEnum):
    """What voxels are written as; the value is the file's suffix without its first dot."""

    NIFTI = "nii.gz"
    SEG_NRRD = "seg.nrrd"


def is_label_file(path: Path) -> bool:
    return bool(suffix_of(path.name)) or path.name.lower().endswith(MARKUPS)


def read_label(files: Sequence[Path], protocol: Protocol, geometry: Geometry) -> Label:
    """The label that a volume (or none) and any markups make, on the image's grid and in the protocol's values.

    A segmentation cropped to what it outlines is put back in its place. Raises `LabelError` or
    `UnreadableVolumeError`, which are both `ValueError`, naming what the protocol has not.
    """
    marks = [path for path in files if path.name.lower().endswith(MARKUPS)]
    volumes = [path for path in files if path not in marks]
    if len(volumes) > 1:
        raise LabelError(f"one volume with all structures was expected, found {len(volumes)}. Nothing was taken.")
    layers_LZYX = np.zeros((0, *geometry.shape_ZYX), np.uint8)
    if volumes:
        layers_LZYX = _read_layers(volumes[0], protocol, geometry)
    found = [read_markups(path.read_bytes(), protocol, geometry) for path in marks]
    return Label(
        geometry=geometry,
        layers_LZYX=layers_LZYX,
        boxes=tuple(box for boxes, _ in found for box in boxes),
        points=tuple(point for _, points in found for point in points),
    )


def write_label(label: Label, protocol: Protocol, folder: Path, stem: str, form: LabelFormat) -> tuple[Path, ...]:
    """Write a label's files, each whole or not at all, and return them.

    Voxels go into one file; NIfTI knows no overlap, so there structures that overlap lie in one file a layer. Boxes and
    points go into one of markups. Answers have no viewer's file.
    """
    files: list[Path] = []
    if form is LabelFormat.SEG_NRRD and len(label.layers_LZYX):
        files.append(folder / f"{stem}.{form}")
        with replacing(files[-1]) as temporary:
            write_segments(label, protocol, temporary)
    elif len(label.layers_LZYX):
        layers = _flattened(label.layers_LZYX)
        for number, layer_ZYX in enumerate(layers, start=1):
            files.append(folder / (f"{stem}.{form}" if len(layers) == 1 else f"{stem}_layer-{number}.{form}"))
            with replacing(files[-1]) as temporary:
                write_volume(Volume(array_ZYX=layer_ZYX, geometry=label.geometry), temporary)
    return (*files, *write_markups(label, folder, stem))


def write_markups(label: Label, folder: Path, stem: str) -> tuple[Path, ...]:
    """Write a label's boxes and points as one file of markups, or none where it has neither."""
    if not (label.boxes or label.points):
        return ()
    path = folder / f"{stem}{MARKUPS}"
    write_durably(path, markups_bytes(label.boxes, label.points, label.geometry))
    return (path,)


def layers_in_protocol_values(
    layers_LZYX: NDArray[np.uint8], described: Sequence[Segment], protocol: Protocol
) -> NDArray[np.uint8]:
    """The layers with each segment's value replaced by that of the structure it is called after.

    Raises `LabelError` for voxels that no segment describes, a name that is no outlined structure, or two segments of
    one structure.
    """
    mapped: list[NDArray[np.uint8]] = []
    taken: set[int] = set()
    for number, layer_ZYX in enumerate(layers_LZYX):
        table = np.zeros(256, np.uint8)
        for value in np.flatnonzero(np.bincount(layer_ZYX.ravel(), minlength=256)).tolist():
            if value:
                table[value] = _value_of(number, value, described, protocol)
                if table[value] in taken:
                    raise LabelError("two segments have the name of one structure. Nothing was taken.")
                taken.add(int(table[value]))
        if table.any():
            mapped.append(table[layer_ZYX])
    return np.stack(mapped) if mapped else np.zeros((1, *layers_LZYX.shape[1:]), np.uint8)


def _read_layers(path: Path, protocol: Protocol, geometry: Geometry) -> NDArray[np.uint8]:
    if path.name.lower().endswith(_NRRD):
        found = read_segments(path)
        if found.described:
            if found.layers_LZYX[0].size == 1:  # how Slicer writes a segmentation in which nothing is drawn
                return np.zeros((1, *geometry.shape_ZYX), np.uint8)
            layers = np.concatenate([_whole(layer_ZYX, found.geometry) for layer_ZYX in found.layers_LZYX])
            return layers_in_protocol_values(_placed(layers, found.geometry, geometry), found.described, protocol)
    volume = read_volume(path)
    label = Label.of(volume)
    values = np.flatnonzero(np.bincount(label.layers_LZYX.ravel(), minlength=256)).tolist()
    foreign = [value for value in values if value and value not in protocol.values.values()]
    if foreign:
        raise LabelError(
            f"the label has values {foreign[:_SHOWN]} and no names for them;"
            f" expected those of {protocol.name}: {_spoken_values(protocol)}. Nothing was taken."
        )
    return _placed(label.layers_LZYX, volume.geometry, geometry)


def _whole(layer_ZYX: NDArray[np.generic], geometry: Geometry) -> NDArray[np.uint8]:
    return Label.of(Volume(array_ZYX=layer_ZYX, geometry=geometry)).layers_LZYX


def _value_of(layer: int, value: int, described: Sequence[Segment], protocol: Protocol) -> int:
    names = next((found.names for found in described if (found.layer, found.value) == (layer, value)), ())
    if not names:
        raise LabelError(f"the segmentation has voxels of value {value} that no segment describes. Nothing was taken.")
    known = {
        spoken.casefold(): structure.value
        for structure in protocol.outlined
        for spoken in (structure.name, structure.title)
    }
    for name in names:
        if name.casefold() in known:
            return known[name.casefold()]
    raise LabelError(
        f"the segmentation has a segment {ascii(names[0])[:40]}; protocol {protocol.name} outlines"
        f" {', '.join(protocol.values)}. Nothing was taken."
    )


def _placed(layers_LZYX: NDArray[np.uint8], geometry: Geometry, onto: Geometry) -> NDArray[np.uint8]:
    """The layers on the image's grid, of which theirs is a part, or around which theirs has nothing but zeros."""
    difference = onto.difference(geometry)
    if difference is None:
        return layers_LZYX
    steps = np.linalg.inv(onto.affine_LPS()) @ geometry.affine_LPS()
    offset_XYZ = np.rint(steps[:3, 3]).astype(int)
    expected = np.eye(4)
    expected[:3, 3] = offset_XYZ
    far = np.array([*reversed(geometry.shape_ZYX), 1], float)
    off = np.abs((steps - expected) @ far).max() + np.abs(steps - expected)[:3, 3].max()
    if off > 2 * _GRID_TOLERANCE:
        raise LabelError(f"the label does not lie on the image's grid: {difference}. Nothing was taken.")
    offset_ZYX = offset_XYZ[::-1]
    begin = np.maximum(offset_ZYX, 0)
    end = np.minimum(offset_ZYX + layers_LZYX.shape[1:], onto.shape_ZYX)
    placed = np.zeros((len(layers_LZYX), *onto.shape_ZYX), np.uint8)
    if np.all(end > begin):
        inside = tuple(slice(int(b), int(e)) for b, e in zip(begin, end, strict=True))
        theirs = tuple(slice(int(b), int(e)) for b, e in zip(begin - offset_ZYX, end - offset_ZYX, strict=True))
        placed[(slice(None), *inside)] = layers_LZYX[(slice(None), *theirs)]
    if np.count_nonzero(placed) != np.count_nonzero(layers_LZYX):
        raise LabelError("the label has voxels outside the image. Nothing was taken.")
    return placed


def _flattened(layers_LZYX: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One layer where no voxel has two values, all of them otherwise."""
    if len(layers_LZYX) > 1 and np.count_nonzero(layers_LZYX, axis=0).max() > 1:
        return layers_LZYX
    flat: NDArray[np.uint8] = layers_LZYX.max(axis=0, keepdims=True)
    return flat


def _spoken_values(protocol: Protocol) -> str:
    return ", ".join(f"{value} {name}" for name, value in protocol.values.items()) or "none"
