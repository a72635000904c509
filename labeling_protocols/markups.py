"""3D Slicer's markups: `.mrk.json` in, boxes and points named by a protocol out, and back.

ROIs are boxes and fiducial lists points; other markups (lines, curves, planes) are refused. The format is Slicer's JSON
schema of markups, version 1.0.3.
"""

import json
import re
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Box, LabelError, Point
from labeling_protocols.protocol import Protocol, Task

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
_COUNTED = re.compile(r"[-_ ]\d+$")  # Slicer counts what it names: "nodule-1", "nodule_2"

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Triple = tuple[_Number, _Number, _Number]
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


class _ControlPoint(BaseModel):
    label: str = ""
    description: str = ""
    position: _Triple | None = None
    positionStatus: str = "defined"


class _Markup(BaseModel):
    type: Literal["Fiducial", "ROI"]
    name: str = ""
    description: str = ""
    coordinateSystem: Literal["LPS", "RAS"] = "LPS"
    coordinateUnits: Literal["mm"] | tuple[Literal["mm"], str, str] = "mm"
    controlPoints: tuple[_ControlPoint, ...] = ()
    center: _Triple | None = None
    size: _Triple | None = None
    orientation: Annotated[tuple[_Number, ...], Field(min_length=9, max_length=9)] = _IDENTITY


class _File(BaseModel):
    markups: tuple[_Markup, ...]


def read_markups(content: bytes, protocol: Protocol, geometry: Geometry) -> tuple[tuple[Box, ...], tuple[Point, ...]]:
    """The boxes and points in a markups file.

    A box that does not lie along the image's axes becomes the smallest one around it that does. Raises `LabelError`
    for other markups, and for a name that is no structure readers box (or point at) under this protocol.
    """
    try:
        found = _File.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise LabelError(f"the markups cannot be read ({where}: {first['msg']}). Nothing was taken.") from None
    boxes = [_box(markup, protocol, geometry) for markup in found.markups if markup.type == "ROI"]
    points = [
        Point(
            structure=_structure((point.label, point.description, markup.name), protocol, Task.POINTS),
            position_mm_LPS=_in_LPS(markup, point.position),
        )
        for markup in found.markups
        if markup.type == "Fiducial"
        for point in markup.controlPoints
        if point.position is not None and point.positionStatus == "defined"
    ]
    return tuple(boxes), tuple(points)


def markups_bytes(boxes: Sequence[Box], points: Sequence[Point], geometry: Geometry) -> bytes:
    """A markups file of these boxes, one ROI each, and points, one list of all."""
    axes = np.reshape(geometry.direction_LPS, (3, 3)).copy()
    if np.linalg.det(axes) < 0:
        axes[:, 2] *= -1  # a box is the same turned round, and viewers expect right-handed axes
    markups: list[dict[str, object]] = [
        {
            "type": "ROI",
            "name": box.structure,
            "coordinateSystem": "LPS",
            "coordinateUnits": "mm",
            "roiType": "Box",
            "center": list(box.centre_mm_LPS),
            "orientation": [float(part) for part in axes.ravel()],
            "size": list(box.size_mm_XYZ),
            "controlPoints": [
                {"label": box.structure, "position": list(box.centre_mm_LPS), "positionStatus": "defined"}
            ],
        }
        for box in boxes
    ]
    if points:
        named = [
            {"label": point.structure, "position": list(point.position_mm_LPS), "positionStatus": "defined"}
            for point in points
        ]
        markups.append(
            {
                "type": "Fiducial",
                "name": "points",
                "coordinateSystem": "LPS",
                "coordinateUnits": "mm",
                "controlPoints": named,
            }
        )
    return (json.dumps({"@schema": _SCHEMA, "markups": markups}, indent=1) + "\n").encode()


def _box(markup: _Markup, protocol: Protocol, geometry: Geometry) -> Box:
    points = markup.controlPoints
    names = (markup.name, markup.description, *(name for point in points for name in (point.label, point.description)))
    centre = markup.center or (points[0].position if points else None)
    if centre is None or markup.size is None or min(markup.size) <= 0:
        raise LabelError("an ROI has no centre or no size along some axis. Nothing was taken.")
    axes_LPS = np.reshape(markup.orientation, (3, 3)) * _signs(markup)[:, np.newaxis]
    if not np.allclose(axes_LPS.T @ axes_LPS, np.eye(3), atol=1e-3):
        raise LabelError("an ROI's axes are not at right angles. Nothing was taken.")
    size_XYZ = np.abs(np.reshape(geometry.direction_LPS, (3, 3)).T @ axes_LPS) @ np.asarray(markup.size)
    return Box(
        structure=_structure(names, protocol, Task.BOXES),
        centre_mm_LPS=_in_LPS(markup, centre),
        size_mm_XYZ=_triple(np.round(size_XYZ, 9)),
    )


def _structure(names: Sequence[str], protocol: Protocol, task: Task) -> str:
    """The structure the first of these names means: its name or title, with or without a number after it."""
    known = {
        spoken.casefold(): structure.name
        for structure in protocol.structures
        if task in structure.tasks
        for spoken in (structure.name, structure.title)
    }
    for name in names:
        for spoken in (name, _COUNTED.sub("", name)):
            if found := known.get(spoken.strip().casefold()):
                return found
    given = ", ".join(ascii(name)[:40] for name in dict.fromkeys(names) if name) or "no name"
    expected = ", ".join(dict.fromkeys(known.values())) or "none"
    raise LabelError(
        f"a markup is called {given}; protocol {protocol.name} has {task.value} of {expected}. Nothing was taken."
    )


def _signs(markup: _Markup) -> NDArray[np.float64]:
    return np.array([1.0, 1.0, 1.0] if markup.coordinateSystem == "LPS" else [-1.0, -1.0, 1.0])


def _in_LPS(markup: _Markup, position: _Triple) -> _Triple:
    return _triple(np.asarray(position) * _signs(markup))


def _triple(numbers: NDArray[np.float64]) -> _Triple:
    x, y, z = (float(number) + 0.0 for number in numbers)
    return (x, y, z)
