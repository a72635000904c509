"""A segmentation's pixel data in, one array a frame out: never more in memory than a frame beside what was sent.

What a file says of itself is held against what it brings before anything is made: sizes against lengths, and the sizes
within a compressed frame against those of the file.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import iter_pixels
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from labeling_protocols.dicom_items import SegError, items_of, text_of, value_of, whole_number

DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"  # Deflated Image Frame Compression (PS3.5 A.4.12), unknown to pydicom 3.0
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
_COMPRESSED = (RLELossless, JPEGLSLossless, JPEG2000Lossless)
_FRAME_PIXELS_MAX = 1 << 26
_FRAMES_MAX = 1 << 20
_RLE_HEADER = 64


@dataclass(frozen=True, kw_only=True)
class FrameFormat:
    """How many frames of which size, and how a pixel is stored."""

    frames: int
    rows: int
    columns: int
    bits: int

    @property
    def pixels(self) -> int:
        return self.rows * self.columns

    @property
    def frame_bytes(self) -> int:
        """Of one frame by itself."""
        return -(-self.pixels * self.bits // 8)


def frame_format(seg: Dataset) -> FrameFormat:
    """What a segmentation says of its frames; raises `SegError` where it contradicts itself."""
    where = "the segmentation"
    rows = whole_number(seg, "Rows", where, 1, 65535)
    columns = whole_number(seg, "Columns", where, 1, 65535)
    if rows * columns > _FRAME_PIXELS_MAX:
        raise SegError(f"frames of {rows} × {columns} pixels; at most {_FRAME_PIXELS_MAX:,} pixels were expected")
    frames = whole_number(seg, "NumberOfFrames", where, 1, _FRAMES_MAX)
    described = len(items_of(seg, "PerFrameFunctionalGroupsSequence"))
    if described != frames:
        raise SegError(f"NumberOfFrames is {frames} and {described} frames are described; nothing was read")
    bits = whole_number(seg, "BitsAllocated", where, 1, 16)
    if bits not in (1, 8, 16) or whole_number(seg, "BitsStored", where, 1, 16) != bits:
        raise SegError(f"pixels of {bits} bits, not all of them stored; 1, 8 or 16 were expected")
    if whole_number(seg, "SamplesPerPixel", where, 1, 4) != 1:
        raise SegError("pixels of several samples; one was expected")
    return FrameFormat(frames=frames, rows=rows, columns=columns, bits=bits)


def frames_of(seg: Dataset, form: FrameFormat) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
    """Each frame as stored, shape (rows, columns), in the order of the file; raises `SegError`."""
    data = value_of(seg, "PixelData")
    if not isinstance(data, bytes | bytearray):
        raise SegError("the segmentation has no pixel data; nothing was read")
    syntax = text_of(seg.file_meta, "TransferSyntaxUID") if hasattr(seg, "file_meta") else ""
    if not syntax or syntax in _NATIVE:
        return _native(seg, data, form)
    if syntax == DEFLATED_FRAMES:
        return _deflated(data, form)
    if syntax in _COMPRESSED and form.bits > 1:
        _refuse_bombs(data, form, syntax)
        return _decoded(seg, form)
    raise SegError(
        f"{form.bits}-bit pixels of transfer syntax {syntax[:64]}; uncompressed or deflated ones were expected, or of"
        " 8 or 16 bits in RLE, JPEG-LS or JPEG 2000 without loss"
    )


def _native(seg: Dataset, data: bytes | bytearray, form: FrameFormat) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
    """Frames of single bits follow one another without a gap (PS3.5 8.1.1), so one may begin within a byte."""
    needed = -(-form.frames * form.pixels * form.bits // 8)
    if not needed <= len(data) <= needed + 1:
        raise SegError(
            f"{len(data)} bytes of pixel data; {needed} were expected for {form.frames} frames of {form.rows} ×"
            f" {form.columns} pixels of {form.bits} bit"
        )
    big_endian = getattr(seg, "original_encoding", (False, True))[1] is False
    stored = np.frombuffer(data, np.uint8)
    for number in range(form.frames):
        first_bit = number * form.pixels * form.bits
        if form.bits == 1:
            last_byte = -(-(first_bit + form.pixels) // 8)
            bits = np.unpackbits(stored[first_bit // 8 : last_byte], bitorder="little")
            flat = bits[first_bit % 8 : first_bit % 8 + form.pixels]
        else:
            flat = stored[first_bit // 8 : first_bit // 8 + form.frame_bytes]
            if form.bits == 16:
                flat = flat.view(">u2" if big_endian else "<u2")
        yield flat.reshape(form.rows, form.columns)


def _deflated(data: bytes | bytearray, form: FrameFormat) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
    for packed in _fragments(data, form):
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            plain = unpacker.decompress(packed, form.frame_bytes + 2)
        except zlib.error as error:
            raise SegError("a deflated frame is damaged; nothing was read") from error
        if not form.frame_bytes <= len(plain) <= form.frame_bytes + 1:
            raise SegError(f"a deflated frame does not hold the {form.frame_bytes} bytes that were expected")
        flat = np.frombuffer(plain, np.uint8)[: form.frame_bytes]
        if form.bits == 1:
            flat = np.unpackbits(flat, bitorder="little")[: form.pixels]
        elif form.bits == 16:
            flat = flat.view("<u2")
        yield flat.reshape(form.rows, form.columns)


def _decoded(seg: Dataset, form: FrameFormat) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
    count = 0
    try:
        for frame in iter_pixels(seg, raw=True):
            count += 1
            yield np.asarray(frame).reshape(form.rows, form.columns)
    except SegError:
        raise
    except Exception as error:  # decoders of several libraries raise what they like at damaged frames
        raise SegError(f"frame {count + 1} cannot be decoded ({type(error).__name__}); nothing was read") from error
    if count != form.frames:
        raise SegError(f"{form.frames} frames were expected, found {count}; nothing was read")


def _refuse_bombs(data: bytes | bytearray, form: FrameFormat, syntax: str) -> None:
    """Refuse compressed frames that would unpack to more than the file says a frame has."""
    longest = 2 * form.frame_bytes + 2 * form.rows + _RLE_HEADER  # RLE's worst rows are a little longer than plain ones
    for packed in _fragments(data, form):
        if syntax == RLELossless:
            too_large = len(packed) > longest
        else:
            sizes = _jpeg_ls_size(packed) if syntax == JPEGLSLossless else _jpeg_2000_size(packed)
            too_large = sizes != (form.rows, form.columns)
        if too_large:
            raise SegError(
                f"a compressed frame is not of {form.rows} × {form.columns} pixels as its file says; nothing was read"
            )


def _fragments(data: bytes | bytearray, form: FrameFormat) -> Iterator[bytes]:
    """Each frame's compressed bytes; raises `SegError` where there are not as many as the file says."""
    count = 0
    try:
        for packed in generate_frames(bytes(data), number_of_frames=form.frames):
            count += 1
            yield packed
    except (ValueError, EOFError, struct.error) as error:
        raise SegError("the compressed frames cannot be told apart; the file is damaged") from error
    if count != form.frames:
        raise SegError(f"{form.frames} compressed frames were expected, found {count}; nothing was read")


def _jpeg_ls_size(packed: bytes) -> tuple[int, int] | None:
    """Rows and columns of a JPEG-LS frame (ITU-T T.87 C.2.2, marker SOF55)."""
    start = packed[:1024].find(b"\xff\xf7")
    return struct.unpack_from(">HH", packed, start + 5) if start >= 0 and len(packed) >= start + 9 else None


def _jpeg_2000_size(packed: bytes) -> tuple[int, int] | None:
    """Rows and columns of a JPEG 2000 codestream (ITU-T T.800 A.5.1, marker SIZ)."""
    start = packed[:1024].find(b"\xff\x51")
    if start < 0 or len(packed) < start + 38:
        return None
    width, height, left, top = struct.unpack_from(">4I", packed, start + 6)
    return height - top, width - left
