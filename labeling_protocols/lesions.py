"""What several readers found of a structure, lesion by lesion: their labels in, numbered lesions out. Pure functions.

A lesion is a connected component (26 neighbours) of what any reader outlined, or boxes and points that show the same
finding and belong to none of these. Lesions that one reader's outline joins are one, unless boxes tell them apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import cdist

from labeling_protocols.findings import (
    Sameness,
    assigned,
    boxes_of,
    centre_mm_LPS,
    groups,
    mean_box,
    mean_point,
    points_of,
    sameness,
)
from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Box, Label, Point
from labeling_protocols.lesion_outlines import OUTLINED_AT_MOST, Outlines, outlines_of
from labeling_protocols.protocol import AgreementLimits, Protocol, Structure, Task
from labeling_protocols.records import LesionKind
from labeling_protocols.surfaces import Mask, Region

__all__ = ["OUTLINED_AT_MOST", "Lesion", "lesions_of", "structure_lesions"]

_Finding = TypeVar("_Finding", Box, Point)


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesion:
    """One lesion of a structure; `number` counts from 1 in the structure, largest first.

    `region` and `mask_ZYX` say where any reader outlined it: the mask lies in that box of the volume. Both are None for
    what is only boxed or pointed at. `boxes` and `points` go by reader, at most one each.
    """

    structure: str
    number: int
    kind: LesionKind
    centre_mm_LPS: tuple[float, float, float]
    found_by: tuple[str, ...]
    region: Region | None
    mask_ZYX: Mask | None
    boxes: Mapping[str, Box]
    points: Mapping[str, Point]


def lesions_of(protocol: Protocol, labels: Mapping[str, Label]) -> tuple[Lesion, ...]:
    """The lesions of every structure, in the protocol's order; `labels` maps reader to label on one grid.

    In a structure the outlined ones come first, largest first, `OUTLINED_AT_MOST` of them; then what is only boxed,
    then what is only pointed at. The order of the readers does not matter.
    """
    outlines = outlines_of(protocol, labels)
    return tuple(
        lesion
        for structure in protocol.structures
        for lesion in structure_lesions(
            structure, protocol.agreement[structure.name], outlines.get(structure.name), labels
        )
    )


def structure_lesions(
    structure: Structure, limits: AgreementLimits, outlines: Outlines | None, labels: Mapping[str, Label]
) -> tuple[Lesion, ...]:
    """One structure's lesions; `outlines` is None where it is not outlined."""
    geometry = next(iter(labels.values())).geometry
    same = sameness(limits, geometry)
    lesions = [] if outlines is None else _outlined(structure.name, outlines, geometry)
    if Task.BOXES in structure.tasks:
        boxes = {reader: boxes_of(labels[reader], structure.name) for reader in sorted(labels)}
        lesions = _with_boxes(structure.name, lesions, boxes, same, geometry)
    if Task.POINTS in structure.tasks:
        points = {reader: points_of(labels[reader], structure.name) for reader in sorted(labels)}
        lesions = _with_points(structure.name, lesions, points, same.of_points, geometry)
    return tuple(_numbered(lesion, number) for number, lesion in enumerate(lesions, 1))


def _outlined(structure: str, outlines: Outlines, geometry: Geometry) -> list[Lesion]:
    count = outlines.told_apart
    boxes = ndimage.find_objects(outlines.lesion_ZYX, max_label=count) if count else []
    affine, start_ZYX = geometry.affine_LPS(), [side.start for side in outlines.region]
    lesions = []
    for number, within in enumerate(boxes, 1):
        mask_ZYX = outlines.lesion_ZYX[within] == number
        offset_ZYX = [first + side.start for first, side in zip(start_ZYX, within, strict=True)]
        centre_ZYX = [
            float(np.average(np.arange(length), weights=mask_ZYX.sum(axis=others))) + first
            for length, others, first in zip(mask_ZYX.shape, ((1, 2), (0, 2), (0, 1)), offset_ZYX, strict=True)
        ]
        x, y, z = (affine[:3, :3] @ centre_ZYX[::-1] + affine[:3, 3]).tolist()
        in_z, in_y, in_x = (
            slice(first, first + length) for first, length in zip(offset_ZYX, mask_ZYX.shape, strict=True)
        )
        lesions.append(
            Lesion(
                structure=structure,
                number=number,
                kind=LesionKind.OUTLINE,
                centre_mm_LPS=(x, y, z),
                found_by=outlines.outlined_by(number),
                region=(in_z, in_y, in_x),
                mask_ZYX=mask_ZYX,
                boxes={},
                points={},
            )
        )
    return lesions


def _with_boxes(
    structure: str, lesions: Sequence[Lesion], boxes: Mapping[str, Sequence[Box]], same: Sameness, geometry: Geometry
) -> list[Lesion]:
    """The lesions with the boxes that belong to them, and a lesion of each finding among the others, largest first."""
    own, left = _attached(lesions, boxes, same, geometry)
    others = [
        _found(structure, LesionKind.BOX, centre_mm_LPS(_mean_box(of_reader)), boxes=of_reader)
        for of_reader in _together(left, same)
    ]
    others.sort(key=lambda lesion: -float(np.prod(_mean_box(lesion.boxes).size_mm_XYZ)))
    return [*(replace(lesion, boxes=of_reader) for lesion, of_reader in zip(lesions, own, strict=True)), *others]


def _with_points(
    structure: str, lesions: Sequence[Lesion], points: Mapping[str, Sequence[Point]], same: Sameness, geometry: Geometry
) -> list[Lesion]:
    """The lesions with the points that belong to them, and a lesion of each finding among the others, by place."""
    own, left = _attached(lesions, points, same, geometry)
    others = [
        _found(structure, LesionKind.POINT, centre_mm_LPS(mean_point([*of_reader.values()])), points=of_reader)
        for of_reader in _together(left, same)
    ]
    return [*(replace(lesion, points=of_reader) for lesion, of_reader in zip(lesions, own, strict=True)), *others]


def _attached(
    lesions: Sequence[Lesion], findings: Mapping[str, Sequence[_Finding]], same: Sameness, geometry: Geometry
) -> tuple[list[dict[str, _Finding]], dict[str, list[_Finding]]]:
    """For each lesion the finding of each reader that belongs to it, and by reader those that belong to none.

    A reader's findings and the lesions are matched one to one: as many as possible, then as near as possible.
    """
    own: list[dict[str, _Finding]] = [{} for _ in lesions]
    left: dict[str, list[_Finding]] = {}
    for reader, of_reader in findings.items():
        taken = set()
        if lesions and of_reader:
            centres_mm = np.array([centre_mm_LPS(finding) for finding in of_reader])
            apart_mm = cdist(np.array([lesion.centre_mm_LPS for lesion in lesions]), centres_mm)
            near = apart_mm <= (same.mm_max or 0.0)
            near |= np.array([_holds(lesion, centres_mm, geometry) for lesion in lesions])
            for lesion, index in assigned(apart_mm, near):
                own[lesion][reader] = of_reader[index]
                taken.add(index)
        left[reader] = [finding for index, finding in enumerate(of_reader) if index not in taken]
    return own, left


def _holds(lesion: Lesion, places_mm_LPS: NDArray[np.float64], geometry: Geometry) -> NDArray[np.bool_]:
    """Which of these places lie in the box around a lesion, whose sides lie along the image's axes."""
    if lesion.region is not None:
        affine = geometry.affine_LPS()
        index_XYZ = (places_mm_LPS - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
        low, high = ([getattr(side, end) - 0.5 for side in reversed(lesion.region)] for end in ("start", "stop"))
        within: NDArray[np.bool_] = ((index_XYZ >= low) & (index_XYZ <= high)).all(axis=1)
        return within
    if not lesion.boxes:
        return np.zeros(len(places_mm_LPS), np.bool_)
    apart_mm = (places_mm_LPS - lesion.centre_mm_LPS) @ np.reshape(geometry.direction_LPS, (3, 3))
    inside: NDArray[np.bool_] = (np.abs(apart_mm) <= np.array(_mean_box(lesion.boxes).size_mm_XYZ) / 2.0).all(axis=1)
    return inside


def _together(left: Mapping[str, Sequence[_Finding]], same: Sameness) -> list[dict[str, _Finding]]:
    """Findings that are the same, by reader, in the order of their places."""
    readers = [*left]
    return [
        {readers[reader]: left[readers[reader]][index] for reader, index in group}
        for group in groups([*left.values()], same)
    ]


def _found(
    structure: str,
    kind: LesionKind,
    centre_mm: tuple[float, float, float],
    *,
    boxes: Mapping[str, Box] | None = None,
    points: Mapping[str, Point] | None = None,
) -> Lesion:
    return Lesion(
        structure=structure,
        number=0,
        kind=kind,
        centre_mm_LPS=centre_mm,
        found_by=(),
        region=None,
        mask_ZYX=None,
        boxes=boxes or {},
        points=points or {},
    )


def _numbered(lesion: Lesion, number: int) -> Lesion:
    """With its number, and everybody who outlined, boxed or pointed at it."""
    return replace(lesion, number=number, found_by=tuple(sorted({*lesion.found_by, *lesion.boxes, *lesion.points})))


def _mean_box(boxes: Mapping[str, Box]) -> Box:
    return mean_box([*boxes.values()])
