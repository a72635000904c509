"""Labels as bytes: a label in, a short header and its run lengths under zstd out, and back without loss.

After the magic stands a canonical JSON header (its length before it), after that one zstd frame. Where structures are
outlined, as people outline them, the frame holds where the value changes (`label_runs.py`); where values change so
often that this would be longer, it holds the voxels as they are.
"""

import json
import math
import struct
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import zstandard
from pydantic import Field, TypeAdapter, ValidationError

from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Answer, Box, Label, LabelError, Point
from labeling_protocols.label_runs import BYTES_A_RUN, VOXELS_A_RUN, fill_runs, pack_runs

_MAGIC = b"OVRL\x02"
_MAGIC_1 = b"OVRL\x01"  # one layer of voxels under zstd, the header its geometry alone
_LEVEL = 3
_MOST_VOXELS = 2**31  # in all layers; so that steps are uint32 and a hostile header asks for no more memory


@dataclass(frozen=True, kw_only=True)
class EncodedLabel:
    """A label's bytes, and how many voxels have each value that is present (0 left out; all layers together)."""

    content: bytes
    voxels: dict[int, int]


@dataclass(frozen=True, kw_only=True)
class _Header:
    geometry: Geometry
    layers: Annotated[int, Field(ge=0, le=255)]
    frame: Literal["runs", "voxels"]
    runs: Annotated[int, Field(ge=0, le=_MOST_VOXELS)]
    boxes: tuple[Box, ...]
    points: tuple[Point, ...]
    answers: dict[str, Answer]


_HEADER: TypeAdapter[_Header] = TypeAdapter(_Header)
_GEOMETRY: TypeAdapter[Geometry] = TypeAdapter(Geometry)


def encode_label(label: Label) -> EncodedLabel:
    """Equal labels give equal bytes, so a label's digest is its content's name. Raises `LabelError`."""
    flat = np.ascontiguousarray(label.layers_LZYX).reshape(-1)
    if flat.size > _MOST_VOXELS:
        raise LabelError(f"a label has at most {_MOST_VOXELS} voxels in all its layers, found {flat.size}")
    runs = pack_runs(flat)
    if runs is None:
        head, content, counts = _header(label, "voxels", 0), flat.tobytes(), np.bincount(flat, minlength=256)
    else:
        head, content, counts = _header(label, "runs", runs.count), runs.content, runs.voxels
    return EncodedLabel(
        content=_MAGIC + struct.pack("<I", len(head)) + head + zstandard.ZstdCompressor(level=_LEVEL).compress(content),
        voxels={value: count for value, count in enumerate(counts.tolist()) if count and value},
    )


def decode_label(content: bytes) -> Label:
    """Raises `ValueError` where the bytes are not an encoded label; asks for no more memory than their header says."""
    header, frame = _split(content)
    shape_LZYX = (header.layers, *header.geometry.shape_ZYX)
    size = math.prod(shape_LZYX)
    if size > _MOST_VOXELS or header.runs * VOXELS_A_RUN > size:
        raise ValueError(f"a damaged label: its header speaks of {size} voxels in {header.runs} runs")
    if header.frame == "runs":
        flat = fill_runs(_unzipped(frame, header.runs * BYTES_A_RUN), size)
    else:
        flat = np.frombuffer(bytearray(_unzipped(frame, size)), dtype=np.uint8)
    return Label(
        geometry=header.geometry,
        layers_LZYX=flat.reshape(shape_LZYX),
        boxes=header.boxes,
        points=header.points,
        answers=header.answers,
    )


def decode_answers(content: bytes) -> dict[str, Answer]:
    """The answers of an encoded label alone, its voxels left packed. Raises `ValueError` as `decode_label` does."""
    return _split(content)[0].answers


# The header


def _split(content: bytes) -> tuple[_Header, bytes]:
    """The header, and the frame that follows it."""
    magic = content[: len(_MAGIC)]
    if magic not in (_MAGIC, _MAGIC_1):
        raise ValueError("not an encoded label: the file does not begin as one")
    start = len(_MAGIC) + 4
    length = int.from_bytes(content[len(_MAGIC) : start], "little")
    if len(content) < start + length:
        raise ValueError(f"a damaged label: {start + length} bytes and more were expected, found {len(content)}")
    return _read_header(content[start : start + length], magic), content[start + length :]


def _header(label: Label, frame: str, runs: int) -> bytes:
    header = {
        "geometry": {name: _numbers(numbers) for name, numbers in label.geometry.as_json().items()},
        "layers": len(label.layers_LZYX),
        "frame": frame,
        "runs": int(runs),
        "boxes": [
            {
                "structure": box.structure,
                "centre_mm_LPS": _numbers(box.centre_mm_LPS),
                "size_mm_XYZ": _numbers(box.size_mm_XYZ),
            }
            for box in label.boxes
        ],
        "points": [
            {"structure": point.structure, "position_mm_LPS": _numbers(point.position_mm_LPS)} for point in label.points
        ],
        "answers": dict(label.answers),
    }
    header["geometry"]["shape_ZYX"] = [int(n) for n in label.geometry.shape_ZYX]  # type: ignore[index]
    try:
        return json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError) as error:
        raise LabelError(f"a label's boxes, points and answers are text and finite numbers: {error}") from error


def _numbers(numbers: Any) -> list[float]:
    """Numbers that are equal written alike: 1 as 1.0, and -0.0 as 0.0."""
    return [float(number) + 0.0 for number in numbers]


def _read_header(text: bytes, magic: bytes) -> _Header:
    try:
        if magic == _MAGIC:
            return _HEADER.validate_json(text)
        geometry = _GEOMETRY.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "all of it"
        raise ValueError(f"a damaged label: its header cannot be read ({where}: {first['msg']})") from None
    return _Header(geometry=geometry, layers=1, frame="voxels", runs=0, boxes=(), points=(), answers={})


def _unzipped(frame: bytes, size: int) -> bytes:
    """What a zstd frame holds: `size` bytes and no other number."""
    try:
        said = zstandard.frame_content_size(frame)
        if said != size:
            raise ValueError(f"a damaged label: {size} bytes of content were expected, found {said}")
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"a damaged label: its content cannot be unpacked ({error})") from error
