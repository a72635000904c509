"""Slices whose pixels' places in their files are known in, the volume they make out, without reading a header.

Values are those of `series.read_series`, which is asked wherever a slice is more than its layout can say. Slices are
read, decoded and rescaled while they are in the processor's cache, several at once.
"""

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from labeling_protocols.dicom_elements import NotSteppedError, step
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.series import read_series, smallest_type
from labeling_protocols.slice_layout import WANTED, SliceLayout, layout_of
from labeling_protocols.stack import SeriesError, grid_of, order_along_normal, require_one_stack

_THREADS = min(4, os.cpu_count() or 1)
_NATIVE = frozenset((ExplicitVRLittleEndian, ImplicitVRLittleEndian))
_Decoder = Callable[[bytes], NDArray[np.generic]]
_DECODERS: Mapping[str, _Decoder] = {
    JPEGLSLossless: imagecodecs.jpegls_decode,
    JPEGLSNearLossless: imagecodecs.jpegls_decode,
    JPEG2000Lossless: imagecodecs.jpeg2k_decode,
    JPEG2000: imagecodecs.jpeg2k_decode,
    JPEGLossless: imagecodecs.ljpeg_decode,
    JPEGLosslessSV1: imagecodecs.ljpeg_decode,
    JPEGBaseline8Bit: imagecodecs.jpeg8_decode,
    JPEGExtended12Bit: imagecodecs.jpeg8_decode,
}
# File Meta Information begins with its own length (PS3.10 section 7.1).
_META, _GROUP_LENGTH, _TRANSFER_SYNTAX = 144, 12, 0x00020010
_HEAD_BYTES = 1 << 18
_LOW, _HIGH = -(2**15), 2**15 - 1  # of int16


@dataclass(frozen=True, kw_only=True)
class StoredSlice:
    """An image's file; `layout` is None where it is more, or other, than one plain slice, or nobody has looked."""

    path: Path
    transfer_syntax: str
    layout: SliceLayout | None


class _NotReadError(Exception):
    """A slice that is not read here: its pixels are cut, or of a kind that these codecs do not know."""


@dataclass(frozen=True, kw_only=True)
class _Slice:
    path: Path
    transfer_syntax: str
    layout: SliceLayout


def look_at(path: Path) -> StoredSlice:
    """A file of a DICOM image, as it would be stored; raises `SeriesError` where it begins as none."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        whole = not file.read(1)
    try:
        meta_ends = _META + struct.unpack_from("<I", head, _META - 4)[0]
        meta = step(head[_META - _GROUP_LENGTH : meta_ends], ExplicitVRLittleEndian, {_TRANSFER_SYNTAX}, whole=True)
        transfer_syntax = meta.values[_TRANSFER_SYNTAX].decode("ascii").rstrip("\0 ")
    except (struct.error, KeyError, ValueError) as error:
        raise SeriesError("a file of the series could not be read as DICOM; a Part 10 file was expected") from error
    try:
        layout = layout_of(step(head[meta_ends:], transfer_syntax, WANTED, whole=whole), meta_ends)
    except NotSteppedError:
        layout = None
    return StoredSlice(path=path, transfer_syntax=transfer_syntax, layout=layout)


@dataclass(frozen=True, kw_only=True)
class StoredVolume:
    """A volume and the files of its slices, in the order of its z axis."""

    volume: Volume
    files: tuple[Path, ...]


def read_stored(slices: Sequence[StoredSlice]) -> StoredVolume:
    """The volume these slices make, as `read_series` has it; raises `SeriesError`."""
    known = [
        _Slice(path=one.path, transfer_syntax=one.transfer_syntax, layout=one.layout)
        for one in slices
        if one.layout is not None and one.transfer_syntax in (_NATIVE | _DECODERS.keys())
    ]
    try:
        if not slices or len(known) < len(slices):
            raise _NotReadError
        return _stacked(known)
    except _NotReadError:
        series = read_series([one.path for one in slices])
        return StoredVolume(volume=series.volume, files=series.files)


def _stacked(slices: Sequence[_Slice]) -> StoredVolume:
    layouts = [one.layout for one in slices]
    require_one_stack(layouts)
    ordered = [slices[i] for i in order_along_normal(layouts)]
    geometry = grid_of([one.layout for one in ordered])
    volume = Volume(array_ZYX=_array(ordered, geometry), geometry=geometry)
    return StoredVolume(volume=volume, files=tuple(one.path for one in ordered))


def _array(slices: Sequence[_Slice], geometry: Geometry) -> NDArray[np.generic]:
    with ThreadPoolExecutor(_THREADS) as threads:
        if all(_is_short(one.layout) for one in slices):
            short_ZYX = np.empty(geometry.shape_ZYX, np.int16)
            if all(threads.map(_fill_short, slices, short_ZYX)):
                return short_ZYX
        return smallest_type(np.stack(list(threads.map(_values, slices))))


def _is_short(layout: SliceLayout) -> bool:
    """Whether int16 may hold the values: 16 bits, moved by a whole number."""
    return layout.bits_allocated == 16 and _is_whole(layout)


def _is_whole(layout: SliceLayout) -> bool:
    return layout.slope == 1 and layout.intercept == int(layout.intercept)


def _fill_short(one: _Slice, values_YX: NDArray[np.int16]) -> bool:
    """Put the slice's values there; False where they do not all fit."""
    layout = one.layout
    stored_YX = values_YX if layout.signed else values_YX.view(np.uint16)
    if one.transfer_syntax in _NATIVE:
        _read_native(one, stored_YX)
    else:
        stored_YX[...] = _decoded(one).astype(stored_YX.dtype, copy=False)
    low, high = int(stored_YX.min()), int(stored_YX.max())
    least, most = _range(layout)
    if low < least or high > most:  # bits above those that are stored hold something else, or lack the sign
        return False
    intercept = int(layout.intercept)
    if low + intercept < _LOW or high + intercept > _HIGH:
        return False
    if intercept:
        stored_YX += stored_YX.dtype.type(intercept % 2**16) if not layout.signed else np.int16(intercept)
    return True


def _range(layout: SliceLayout) -> tuple[int, int]:
    """The least and the most that the stored bits can say."""
    if layout.signed:
        return -(2 ** (layout.bits_stored - 1)), 2 ** (layout.bits_stored - 1) - 1
    return 0, 2**layout.bits_stored - 1


def _values(one: _Slice) -> NDArray[np.generic]:
    """The slice's rescaled values, as wide as they may be."""
    layout = one.layout
    kinds = {8: np.uint8, 16: np.uint16, 32: np.uint32}
    if layout.bits_allocated not in kinds:
        raise _NotReadError
    if one.transfer_syntax in _NATIVE:
        stored_YX: NDArray[np.generic] = np.empty((layout.rows, layout.columns), kinds[layout.bits_allocated])
        _read_native(one, stored_YX)
    else:
        stored_YX = _decoded(one)
    values = stored_YX.astype(np.int64) & (2**layout.bits_stored - 1)
    if layout.signed:
        values -= (values >> (layout.bits_stored - 1)) << layout.bits_stored
    if _is_whole(layout):
        return values + int(layout.intercept)
    return values * layout.slope + layout.intercept


def _read_native(one: _Slice, stored_YX: NDArray[np.generic]) -> None:
    if one.layout.length < stored_YX.nbytes:
        raise _NotReadError
    with one.path.open("rb", buffering=0) as file:
        if os.preadv(file.fileno(), [stored_YX.data], one.layout.offset) != stored_YX.nbytes:
            raise _NotReadError


def _decoded(one: _Slice) -> NDArray[np.generic]:
    with one.path.open("rb", buffering=0) as file:
        file.seek(one.layout.offset)
        content = file.read()
    try:
        stored_YX = _DECODERS[one.transfer_syntax](get_frame(content, 0, number_of_frames=1))
    except Exception as error:  # hostile bytes raise anything
        raise _NotReadError from error
    if stored_YX.shape != (one.layout.rows, one.layout.columns):
        raise _NotReadError
    return stored_YX
