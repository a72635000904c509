"""A label's voxels and its series' slices in; the frames of a segmentation, and the items that describe them, out.

The items are built as bytes: hundreds of frames differ in a few numbers, and a dataset of each would take ten times
as long as everything else. Explicit VR Little Endian throughout, sequences and items with their lengths (PS3.5 7.5).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.valuerep import DSfloat

from labeling_protocols.dicom_seg_packing import find_present, pack_frames

_LARGE_VOXELS = 1 << 20  # from here on the compiler is worth loading
_LONG = ("SQ", "OB", "OW")

_CODE = (0x00080100, 0x00080102, 0x00080104)
_DERIVATION = ("113076", "DCM", "Segmentation")
_PURPOSE = ("121322", "DCM", "Source image for image processing operation")


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Which frames a label needs: for each, its segment's number (0 in a label map) and its slice."""

    segments: NDArray[np.int64]
    slices: NDArray[np.int64]

    @property
    def used(self) -> list[int]:
        """The slices that any frame lies on, in the order of the frames."""
        return np.unique(self.slices)[::-1].tolist()


def present_values(layers_LZYX: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of the 256 values stand on which slice, shape (slices, 256); background, 0, is left out."""
    present_ZV = np.zeros((layers_LZYX.shape[1], 256), np.bool_)
    if layers_LZYX.size < _LARGE_VOXELS:
        for z in range(layers_LZYX.shape[1]):
            present_ZV[z] = np.bincount(layers_LZYX[:, z].ravel(), minlength=256) > 0
        present_ZV[:, 0] = False
        return present_ZV
    for layer_ZYX in layers_LZYX:
        find_present(_words(layer_ZYX), present_ZV)
    return present_ZV


def drawn_frames(present_ZS: NDArray[np.bool_], *, as_labelmap: bool) -> Drawn:
    """One frame for each segment and slice that has voxels of it, by segment and then from the last slice to the first,
    highdicom's order; one for each slice with any voxel in a label map. `present_ZS` says which of segments 1, 2, …
    stand on which slice.

    A label without voxels has one frame, blank: a segmentation cannot be without.
    """
    if as_labelmap:
        slices = np.flatnonzero(present_ZS.any(axis=1))[::-1]
        segments = np.zeros_like(slices)
    else:
        segments, back = np.nonzero(present_ZS[::-1].T)
        segments, slices = segments + 1, len(present_ZS) - 1 - back
    if not slices.size:
        slices, segments = np.zeros(1, np.int64), np.full(1, 0 if as_labelmap else 1)
    return Drawn(segments=segments.astype(np.int64), slices=slices.astype(np.int64))


def packed_frames(layers_LZYX: NDArray[np.uint8], values: Sequence[int], drawn: Drawn) -> bytes:
    """One bit a pixel, frame after frame without a gap (PS3.5 8.1.1), and as many bytes as make them even."""
    frame_pixels = layers_LZYX[0, 0].size
    if layers_LZYX.size < _LARGE_VOXELS:
        value_F = np.array(values)[drawn.segments - 1]
        masks = [(layers_LZYX[:, z] == v).any(axis=0) for v, z in zip(value_F, drawn.slices, strict=True)]
        return _even(np.packbits(np.concatenate(masks, axis=None), bitorder="little").tobytes())
    frame_ZV = np.full((layers_LZYX.shape[1], 256), -1, np.int64)
    frame_ZV[drawn.slices, np.array(values)[drawn.segments - 1]] = np.arange(drawn.slices.size)
    packed = np.zeros(-(-drawn.slices.size * frame_pixels // 16) * 2, np.uint8)
    for layer_ZYX in layers_LZYX:
        pack_frames(_words(layer_ZYX), frame_ZV, frame_pixels, packed)
    return packed.tobytes()


def labelmap_frames(layers_LZYX: NDArray[np.uint8], values: Sequence[int], drawn: Drawn) -> bytes:
    """A byte a pixel, the number of its segment; no voxel may be of two."""
    table = np.zeros(256, np.uint8)
    table[list(values)] = np.arange(1, len(values) + 1)
    return _even(table[layers_LZYX[:, drawn.slices].max(axis=0)].tobytes())


def per_frame_items(sources: Sequence[Dataset], drawn: Drawn, *, segment_items: bool) -> bytes:
    """The Per-Frame Functional Groups Sequence (5200,9230) as an element: where each frame comes from, lies and stands
    in the dimensions (segment, then place), and its segment where that is not shared by all.
    """
    place_of = {z: place for place, z in enumerate(drawn.used, start=1)}
    derived = {z: _derivation(sources[z]) for z in place_of}
    placed = {z: _plane_position(sources[z]) for z in place_of}
    items = []
    for segment, z in zip(drawn.segments.tolist(), drawn.slices.tolist(), strict=True):
        indices = struct.pack("<II", segment, place_of[z]) if segment else struct.pack("<I", place_of[z])
        content = sequence(0x00209111, [element(0x00209157, "UL", indices)])
        own = sequence(0x0062000A, [element(0x0062000B, "US", struct.pack("<H", segment))]) if segment_items else b""
        items.append(derived[z] + content + placed[z] + own)
    return sequence(0x52009230, items)


def referenced_instances(sources: Sequence[Dataset]) -> bytes:
    """The items of a sequence that refers to these slices (PS3.3 10.8)."""
    return b"".join(_item(_reference(source)) for source in sources)


def element(tag: int, vr: str, value: bytes) -> bytes:
    """A data element with its value made even (PS3.5 7.1.2)."""
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "OB") else b" "
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    return (
        head + struct.pack("<HI" if vr in _LONG else "<H", *((0, len(value)) if vr in _LONG else (len(value),))) + value
    )


def sequence(tag: int, items: Sequence[bytes]) -> bytes:
    return element(tag, "SQ", b"".join(map(_item, items)))


def _even(value: bytes) -> bytes:
    return value + bytes(len(value) % 2)


def _item(content: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def _code(value: tuple[str, str, str]) -> bytes:
    vrs = ("SH", "SH", "LO")
    return b"".join(element(tag, vr, text.encode()) for tag, vr, text in zip(_CODE, vrs, value, strict=True))


def _reference(source: Dataset) -> bytes:
    return element(0x00081150, "UI", str(source.SOPClassUID).encode()) + element(
        0x00081155, "UI", str(source.SOPInstanceUID).encode()
    )


def _derivation(source: Dataset) -> bytes:
    """Derivation Image Sequence of a frame that lies on this slice (PS3.3 C.7.6.16.2.6)."""
    image = _reference(source) + element(0x0028135A, "CS", b"YES") + sequence(0x0040A170, [_code(_PURPOSE)])
    derived = sequence(0x00082112, [image]) + sequence(0x00089215, [_code(_DERIVATION)])
    return sequence(0x00089124, [derived])


def _plane_position(source: Dataset) -> bytes:
    numbers = "\\".join(str(DSfloat(float(mm), auto_format=True)) for mm in source.ImagePositionPatient)
    return sequence(0x00209113, [element(0x00200032, "DS", numbers.encode())])


def _words(layer_ZYX: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Eight voxels in a word, a slice in a row, filled up with background where they are no whole number of words."""
    flat_ZP = np.ascontiguousarray(layer_ZYX).reshape(len(layer_ZYX), -1)
    if rest := flat_ZP.shape[1] % 8:
        flat_ZP = np.pad(flat_ZP, ((0, 0), (0, 8 - rest)))
    words: NDArray[np.uint64] = flat_ZP.view("<u8")
    return words
