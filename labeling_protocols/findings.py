"""Boxes and points of several readers: which of them show the same finding. Pure functions.

A finding is a box or a point; two show the same where their centres lie at most so many millimetres apart.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from labeling_protocols.label import Box, Label, Point


def f1(a: Sequence[Box | Point], b: Sequence[Box | Point], match_mm_max: float) -> float:
    """Share of findings common to both, 2|matched| / (|a|+|b|); 1 where neither has any."""
    return 2.0 * matches(a, b, match_mm_max) / (len(a) + len(b)) if a or b else 1.0


def matches(a: Sequence[Box | Point], b: Sequence[Box | Point], match_mm_max: float) -> int:
    """How many findings can be matched one to one: as many as possible, then as near as possible."""
    if not (a and b):
        return 0
    apart_mm = cdist(_centres_mm(a), _centres_mm(b))
    near = apart_mm <= match_mm_max
    # A pair too far apart costs more than all near pairs together, so that it never replaces one.
    cost = np.where(near, apart_mm, match_mm_max * (min(apart_mm.shape) + 1))
    return int(near[linear_sum_assignment(cost)].sum())


def common_boxes(readers: Sequence[Sequence[Box]], match_mm_max: float) -> tuple[Box, ...]:
    """The mean box of each finding that more than half of the readers boxed; boxes of one structure."""
    return tuple(
        Box(
            structure=group[0].structure,
            centre_mm_LPS=_mean([box.centre_mm_LPS for box in group]),
            size_mm_XYZ=_mean([box.size_mm_XYZ for box in group]),
        )
        for group in (
            [readers[reader][index] for reader, index in members] for members in _common(readers, match_mm_max)
        )
    )


def common_points(readers: Sequence[Sequence[Point]], match_mm_max: float) -> tuple[Point, ...]:
    """The mean place of each finding that more than half of the readers pointed at; points of one structure."""
    return tuple(
        Point(
            structure=readers[members[0][0]][members[0][1]].structure,
            position_mm_LPS=_mean([readers[reader][index].position_mm_LPS for reader, index in members]),
        )
        for members in _common(readers, match_mm_max)
    )


def boxes_of(label: Label, structure: str) -> tuple[Box, ...]:
    return tuple(box for box in label.boxes if box.structure == structure)


def points_of(label: Label, structure: str) -> tuple[Point, ...]:
    return tuple(point for point in label.points if point.structure == structure)


def _common(readers: Sequence[Sequence[Box | Point]], match_mm_max: float) -> list[list[tuple[int, int]]]:
    """Groups of (reader, index), at most one a reader and more than half of the readers, sorted by place.

    The nearest pairs are joined first; a group grows only while all of its findings match each other, so that a chain
    of neighbours does not become one finding. The order of the readers does not matter.
    """
    found = [(reader, index) for reader, findings in enumerate(readers) for index in range(len(findings))]
    if not found:
        return []
    places_mm = np.concatenate([_centres_mm(findings) for findings in readers if findings])
    by_place = np.lexsort(places_mm.T)
    found, centres_mm = [found[number] for number in by_place], places_mm[by_place]
    apart_mm = cdist(centres_mm, centres_mm)
    groups = {number: [number] for number in range(len(found))}
    home = list(range(len(found)))
    for a, b in _pairs_by_distance(apart_mm, match_mm_max):
        joined = [*groups[home[a]], *groups[home[b]]] if home[a] != home[b] else []
        one_each = len({found[number][0] for number in joined}) == len(joined)
        if joined and one_each and apart_mm[np.ix_(joined, joined)].max() <= match_mm_max:
            kept, gone = home[a], home[b]
            groups[kept] = joined
            del groups[gone]
            for number in joined:
                home[number] = kept
    agreed = [group for group in groups.values() if 2 * len(group) > len(readers)]
    agreed.sort(key=lambda group: tuple(centres_mm[group].mean(axis=0)))
    return [[found[number] for number in sorted(group)] for group in agreed]


def _pairs_by_distance(apart_mm: NDArray[np.float64], match_mm_max: float) -> list[tuple[int, int]]:
    a, b = np.nonzero(np.triu(apart_mm <= match_mm_max, 1))
    order = np.argsort(apart_mm[a, b], kind="stable")
    return list(zip(a[order].tolist(), b[order].tolist(), strict=True))


def _centres_mm(findings: Sequence[Box | Point]) -> NDArray[np.float64]:
    centres = [x.centre_mm_LPS if isinstance(x, Box) else x.position_mm_LPS for x in findings]
    return np.array(centres, dtype=np.float64).reshape(-1, 3)


def _mean(places: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    x, y, z = np.mean(places, axis=0).tolist()
    return (x, y, z)
