"""Where an image's pixels lie in its file and what they mean: an encoded header in, a record that JSON can hold out.

Taken when an image arrives, so that a volume is read without its headers. It carries no identifier of a patient.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from labeling_protocols.dicom_elements import Elements

# Tags by the field they fill (PS3.6 chapter 6).
_NUMBERS = {
    "samples": 0x00280002,
    "rows": 0x00280010,
    "columns": 0x00280011,
    "bits_allocated": 0x00280100,
    "bits_stored": 0x00280101,
    "high_bit": 0x00280102,
    "signed": 0x00280103,
}
_DECIMALS = {
    "position_mm_LPS": (0x00200032, 3),
    "orientation_LPS": (0x00200037, 6),
    "spacing_mm_YX": (0x00280030, 2),
    "intercept": (0x00281052, 1),
    "slope": (0x00281053, 1),
}
_PHOTOMETRIC, _FRAME_OF_REFERENCE, _FRAMES = 0x00280004, 0x00200052, 0x00280008
# Whatever says that a slice is not read by rescale slope and intercept alone, or that it is several.
_MODALITY_LUT, _SHARED_GROUPS = 0x00283000, 0x52009229

WANTED = frozenset(
    (
        *_NUMBERS.values(),
        *(tag for tag, _ in _DECIMALS.values()),
        *(_PHOTOMETRIC, _FRAME_OF_REFERENCE, _FRAMES, _MODALITY_LUT, _SHARED_GROUPS),
    )
)


@dataclass(frozen=True, kw_only=True)
class SliceLayout:
    """One slice of a regular image. `offset` is where its pixels begin in the file, `length` their bytes, -1 where they
    are encapsulated; values are `stored * slope + intercept` (PS3.3 C.11.1)."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    position_mm_LPS: tuple[float, float, float]
    orientation_LPS: tuple[float, float, float, float, float, float]
    spacing_mm_YX: tuple[float, float]
    slope: float
    intercept: float
    frame_of_reference: str
    offset: int
    length: int

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "SliceLayout":
        return _ADAPTER.validate_python(told)


_ADAPTER = TypeAdapter(SliceLayout)


def layout_of(elements: Elements, data_set_at: int) -> SliceLayout | None:
    """The layout of an image whose data set begins at this place of its file; None for anything but one plain slice."""
    try:
        return _layout(elements, data_set_at)
    except (KeyError, ValueError, UnicodeDecodeError):
        return None


def _layout(elements: Elements, data_set_at: int) -> SliceLayout | None:
    values = elements.values
    numbers = {name: int.from_bytes(values[tag], "little") for name, tag in _NUMBERS.items()}
    several = _MODALITY_LUT in values or _SHARED_GROUPS in values or _text(values.get(_FRAMES, b"1")) != "1"
    plain = numbers["samples"] == 1 and _text(values[_PHOTOMETRIC]) == "MONOCHROME2"
    if several or not plain or elements.pixels is None or numbers["high_bit"] != numbers["bits_stored"] - 1:
        return None
    decimals = {name: _decimals(values, tag, count) for name, (tag, count) in _DECIMALS.items()}
    return SliceLayout(
        rows=numbers["rows"],
        columns=numbers["columns"],
        bits_allocated=numbers["bits_allocated"],
        bits_stored=numbers["bits_stored"],
        signed=bool(numbers["signed"]),
        position_mm_LPS=decimals["position_mm_LPS"],  # type: ignore[arg-type]  # `_decimals` counts them
        orientation_LPS=decimals["orientation_LPS"],  # type: ignore[arg-type]
        spacing_mm_YX=decimals["spacing_mm_YX"],  # type: ignore[arg-type]
        slope=decimals["slope"][0],
        intercept=decimals["intercept"][0],
        frame_of_reference=_text(values.get(_FRAME_OF_REFERENCE, b"")),
        offset=data_set_at + elements.pixels,
        length=elements.pixels_length,
    )


def _decimals(values: Mapping[int, bytes], tag: int, count: int) -> tuple[float, ...]:
    text = _text(values.get(tag, b""))
    if not text and tag in (_DECIMALS["slope"][0], _DECIMALS["intercept"][0]):
        return (1.0,) if tag == _DECIMALS["slope"][0] else (0.0,)
    found = tuple(float(one) for one in text.split("\\"))
    if len(found) != count:
        raise ValueError(f"{count} numbers were expected")
    return found


def _text(value: bytes) -> str:
    return value.decode("ascii").strip("\0 ")
