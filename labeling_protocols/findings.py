"""Boxes and points of several readers: which of them show the same finding, and how far readers agree. Pure functions.

A finding is a box or a point. Two show the same where their centres lie at most so many millimetres apart or, for
boxes, where they share at least so much of their union.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Box, Label, Point
from labeling_protocols.protocol_parts import AgreementLimits
from labeling_protocols.reliability import free_marginal_kappa

Finding = Box | Point
Place = tuple[int, int]  # of a finding: which reader, and which of his

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Sameness:
    """When two findings are the same: by IoU of their boxes where `iou_min` is given, otherwise by distance in mm.

    `direction_LPS` are the image's axes (ITK's 3×3 matrix): boxes lie along these.
    """

    mm_max: float | None
    iou_min: float | None = None
    direction_LPS: tuple[float, ...] = _IDENTITY

    @property
    def of_points(self) -> "Sameness":
        """The same for points, which have no size to share."""
        return replace(self, iou_min=None)


@dataclass(frozen=True, kw_only=True)
class FindingAgreement:
    """How many findings two readers have, and how many of these are the same, matched one to one."""

    a: int
    b: int
    matched: int

    @property
    def f1(self) -> float:
        """Share of findings common to both, 2·matched / (a + b); 1 where neither has any."""
        return 2.0 * self.matched / (self.a + self.b) if self.a + self.b else 1.0

    @property
    def sensitivity(self) -> float | None:
        """Share of a's findings that b has; None where a has none."""
        return self.matched / self.a if self.a else None

    @property
    def precision(self) -> float | None:
        """Share of b's findings that a has; None where b has none."""
        return self.matched / self.b if self.b else None


def sameness(limits: AgreementLimits, geometry: Geometry) -> Sameness:
    """What a protocol's limits call the same on an image's grid."""
    return Sameness(mm_max=limits.match_mm_max, iou_min=limits.match_iou_min, direction_LPS=geometry.direction_LPS)


def compared(a: Sequence[Finding], b: Sequence[Finding], same: Sameness) -> FindingAgreement:
    """Two readers' findings, with as many matched one to one as can be."""
    return FindingAgreement(a=len(a), b=len(b), matched=len(matched(a, b, same)))


def matched(a: Sequence[Finding], b: Sequence[Finding], same: Sameness) -> list[tuple[int, int]]:
    """The places in a and b of findings that are the same, one to one: as many as possible, then the nearest."""
    if not (a and b):
        return []
    apart, near = _apart(a, b, same)
    return assigned(apart, near)


def assigned(apart: NDArray[np.float64], near: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Rows and columns of a matrix matched one to one where `near`: as many as possible, then the least `apart`."""
    # A pair too far apart costs more than all near pairs together, so that it never replaces one.
    cost = np.where(near, apart, apart[near].sum() + 1.0)
    return [(a, b) for a, b in np.transpose(linear_sum_assignment(cost)).tolist() if near[a, b]]


def groups(readers: Sequence[Sequence[Finding]], same: Sameness, found_by_min: int = 1) -> list[list[Place]]:
    """Findings that are the same, at most one a reader, where so many readers have it; sorted by their mean place.

    The nearest pairs are joined first; a group grows only while all of its findings match each other, so that a chain
    of neighbours does not become one finding. The order of the readers does not matter.
    """
    places = [(reader, index) for reader, findings in enumerate(readers) for index in range(len(findings))]
    if not places:
        return []
    places.sort(key=lambda place: _order(readers[place[0]][place[1]]))
    findings = [readers[reader][index] for reader, index in places]
    apart, near = _apart(findings, findings, same)
    centres_mm = _centres_mm(findings)
    together = [group for group in _joined(places, apart, near) if len(group) >= found_by_min]
    together.sort(key=lambda group: tuple(centres_mm[sorted(group)].mean(axis=0)))
    return [[places[number] for number in sorted(group)] for group in together]


def finding_kappa(readers: Sequence[Sequence[Finding]], same: Sameness) -> float | None:
    """Free-marginal agreement of all readers on whether each finding that anybody has is there (Randolph 2005).

    There is no list of what nobody found, so chance is a half rather than what the readers' shares make it.
    None without findings, or with one reader.
    """
    found = np.array([len(group) for group in groups(readers, same)], np.int64)
    return free_marginal_kappa(np.stack([found, len(readers) - found], axis=1))


def common_boxes(
    readers: Sequence[Sequence[Box]],
    match_mm_max: float | None,
    *,
    match_iou_min: float | None = None,
    found_by_min: int | None = None,
    direction_LPS: tuple[float, ...] = _IDENTITY,
) -> tuple[Box, ...]:
    """The mean box of each finding that so many readers boxed, more than half where not said; of one structure."""
    same = Sameness(mm_max=match_mm_max, iou_min=match_iou_min, direction_LPS=direction_LPS)
    together = groups(readers, same, _most(len(readers)) if found_by_min is None else found_by_min)
    return tuple(mean_box([readers[reader][index] for reader, index in group]) for group in together)


def common_points(
    readers: Sequence[Sequence[Point]], match_mm_max: float | None, *, found_by_min: int | None = None
) -> tuple[Point, ...]:
    """The mean place of each finding that so many readers pointed at, more than half where not said."""
    together = groups(
        readers, Sameness(mm_max=match_mm_max), _most(len(readers)) if found_by_min is None else found_by_min
    )
    return tuple(mean_point([readers[reader][index] for reader, index in group]) for group in together)


def mean_box(boxes: Sequence[Box]) -> Box:
    """The box with the mean centre and the mean size of these."""
    return Box(
        structure=boxes[0].structure,
        centre_mm_LPS=_mean([box.centre_mm_LPS for box in boxes]),
        size_mm_XYZ=_mean([box.size_mm_XYZ for box in boxes]),
    )


def mean_point(points: Sequence[Point]) -> Point:
    """The point in the middle of these."""
    return Point(structure=points[0].structure, position_mm_LPS=_mean([point.position_mm_LPS for point in points]))


def boxes_of(label: Label, structure: str) -> tuple[Box, ...]:
    return tuple(box for box in label.boxes if box.structure == structure)


def points_of(label: Label, structure: str) -> tuple[Point, ...]:
    return tuple(point for point in label.points if point.structure == structure)


def centre_mm_LPS(finding: Finding) -> tuple[float, float, float]:
    return finding.centre_mm_LPS if isinstance(finding, Box) else finding.position_mm_LPS


def _joined(places: Sequence[Place], apart: NDArray[np.float64], near: NDArray[np.bool_]) -> list[list[int]]:
    """Numbers of findings that go together, each in one group."""
    members = {number: [number] for number in range(len(places))}
    home = list(range(len(places)))
    for a, b in _nearest_first(apart, near):
        joined = [*members[home[a]], *members[home[b]]] if home[a] != home[b] else []
        one_each = len({places[number][0] for number in joined}) == len(joined)
        if joined and one_each and near[np.ix_(joined, joined)].all():
            kept, gone = home[a], home[b]
            members[kept] = joined
            del members[gone]
            for number in joined:
                home[number] = kept
    return list(members.values())


def _nearest_first(apart: NDArray[np.float64], near: NDArray[np.bool_]) -> list[tuple[int, int]]:
    a, b = np.nonzero(np.triu(near, 1))
    order = np.argsort(apart[a, b], kind="stable")
    return list(zip(a[order].tolist(), b[order].tolist(), strict=True))


def _apart(a: Sequence[Finding], b: Sequence[Finding], same: Sameness) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """How far apart each two findings are, and which of them are the same."""
    if same.iou_min is not None:
        shared = _ious(a, b, np.reshape(same.direction_LPS, (3, 3)))
        return 1.0 - shared, shared >= same.iou_min
    apart_mm = cdist(_centres_mm(a), _centres_mm(b))
    return apart_mm, apart_mm <= (same.mm_max or 0.0)


def _ious(a: Sequence[Finding], b: Sequence[Finding], direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of each two boxes, whose sides lie along the image's axes; a point has no size."""
    centres = [_centres_mm(findings) @ direction for findings in (a, b)]  # along the image's axes
    halves = [_sizes_mm(findings) / 2.0 for findings in (a, b)]
    low, high = ([centre + sign * half for centre, half in zip(centres, halves, strict=True)] for sign in (-1.0, 1.0))
    overlap = np.minimum(high[0][:, np.newaxis], high[1]) - np.maximum(low[0][:, np.newaxis], low[1])
    shared = np.prod(np.maximum(overlap, 0.0), axis=2)
    sizes = [np.prod(2.0 * half, axis=1) for half in halves]
    union = sizes[0][:, np.newaxis] + sizes[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _order(finding: Finding) -> tuple[float, ...]:
    """By z, y, x and then size: what stands in the same order holds the same."""
    return (*reversed(centre_mm_LPS(finding)), *(finding.size_mm_XYZ if isinstance(finding, Box) else ()))


def _centres_mm(findings: Sequence[Finding]) -> NDArray[np.float64]:
    return np.array([centre_mm_LPS(finding) for finding in findings], dtype=np.float64).reshape(-1, 3)


def _sizes_mm(findings: Sequence[Finding]) -> NDArray[np.float64]:
    sizes = [finding.size_mm_XYZ if isinstance(finding, Box) else (0.0, 0.0, 0.0) for finding in findings]
    return np.array(sizes, dtype=np.float64).reshape(-1, 3)


def _most(readers: int) -> int:
    return readers // 2 + 1


def _mean(places: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    x, y, z = np.mean(places, axis=0).tolist()
    return (x, y, z)
