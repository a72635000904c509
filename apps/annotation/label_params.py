"""What a save says beside its file: the form field `params` in, boxes, points, answers and seconds out.

    {"boxes": [{"structure": "nodule", "centre_mm_LPS": [x, y, z], "size_mm_XYZ": [x, y, z]}],
     "points": [{"structure": "nodule", "position_mm_LPS": [x, y, z]}],
     "answers": {"nodule_count": 2, "quality": "good"},
     "seconds": 431.5}

Each is optional; sizes lie along the image's own axes. `label_info` is monailabel's (`label_values.py`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from labeling_protocols.label import Answer, Box, Label, LabelError, Point

_Triple = tuple[Annotated[float, Field(allow_inf_nan=False)], ...]
_Three = Annotated[_Triple, Field(min_length=3, max_length=3)]
_Name = Annotated[str, Field(max_length=64)]
_DAY_S = 86_400.0
_MOST = 10_000


class _Box(BaseModel):
    model_config = ConfigDict(extra="forbid")
    structure: _Name
    centre_mm_LPS: _Three
    size_mm_XYZ: _Three


class _Point(BaseModel):
    model_config = ConfigDict(extra="forbid")
    structure: _Name
    position_mm_LPS: _Three


class _Params(BaseModel):
    model_config = ConfigDict(extra="ignore")
    boxes: Annotated[tuple[_Box, ...], Field(max_length=_MOST)] | None = None
    points: Annotated[tuple[_Point, ...], Field(max_length=_MOST)] | None = None
    answers: dict[_Name, Annotated[str, Field(max_length=_MOST, strict=True)] | bool | int | float] | None = None
    seconds: Annotated[float, Field(ge=0, le=_DAY_S, allow_inf_nan=False)] | None = None


@dataclass(frozen=True, kw_only=True)
class LabelParams:
    """What a save says; None for what it does not speak of."""

    boxes: tuple[Box, ...] | None
    points: tuple[Point, ...] | None
    answers: Mapping[str, Answer] | None
    seconds: float | None


def label_params_of(params: Mapping[str, Any]) -> LabelParams:
    """Raises `LabelError` where boxes, points, answers or seconds are of another form than above."""
    try:
        found = _Params.model_validate(params)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:4])
        raise LabelError(f"params cannot be read ({ascii(where)[1:80]}: {first['msg']}). Nothing was saved.") from None
    return LabelParams(
        boxes=None if found.boxes is None else tuple(Box(**box.model_dump()) for box in found.boxes),
        points=None if found.points is None else tuple(Point(**point.model_dump()) for point in found.points),
        answers=found.answers,
        seconds=found.seconds,
    )


def as_params(label: Label) -> dict[str, Any]:
    """The boxes, points and answers of a label in the form in which they are saved."""
    said = {
        "boxes": [asdict(box) for box in label.boxes],
        "points": [asdict(point) for point in label.points],
        "answers": dict(label.answers),
    }
    return {name: value for name, value in said.items() if value}
