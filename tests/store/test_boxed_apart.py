"""Lesions that touch are told apart where readers boxed them apart, whatever order the readers stand in."""

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from labeling_protocols.boxed_apart import boxed_apart
from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Box

# One row of 12 voxels, 2 mm apart along x, on a grid turned round and with a corner that the region leaves out.
GRID = Geometry(
    shape_ZYX=(1, 1, 14),
    spacing_mm_XYZ=(2.0, 1.0, 3.0),
    origin_mm_LPS=(50.0, -7.0, 4.0),
    direction_LPS=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
)
REGION = (slice(0, 1), slice(0, 1), slice(2, 14))


def box(low: int, high: int) -> Box:
    """Round the voxels from `low` to `high` of the row."""
    return Box(
        structure="nodule",
        centre_mm_LPS=(50.0 - 2.0 * ((low + high) / 2 + 2), -7.0, 4.0),
        size_mm_XYZ=(2.0 * (high - low + 1), 1.0, 3.0),
    )


def row(*drawn: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros((1, 1, 12), bool)
    for low, high in drawn:
        mask[0, 0, low : high + 1] = True
    return mask


def told_apart(*readers: tuple[list[tuple[int, int]], list[Box]]) -> list[set[int]]:
    """The voxels of each thing, for outlines that are one component all together; every order of readers agrees."""
    found = []
    for order in permutations(readers):
        masks = [row(*drawn) for drawn, _ in order]
        union = np.logical_or.reduce(masks).astype(np.int32)
        split, count = boxed_apart(union, masks, [boxes for _, boxes in order], GRID, REGION)
        assert ((split > 0) == (union > 0)).all()
        things = [set(np.flatnonzero(split == number).tolist()) for number in range(1, count + 1)]
        assert all(things)
        found.append(sorted(things, key=min))
    assert all(each == found[0] for each in found)
    return found[0]


def voxels(low: int, high: int) -> set[int]:
    return set(range(low, high + 1))


def test_a_reader_who_boxed_two_things_in_his_outline_has_two() -> None:
    assert told_apart(([(0, 8)], [box(0, 4), box(5, 8)])) == [voxels(0, 4), voxels(5, 8)]


def test_another_readers_outline_across_both_is_divided_with_them() -> None:
    apart = ([(0, 8)], [box(0, 4), box(5, 8)])
    joined = ([(1, 9)], [box(1, 9)])
    assert told_apart(apart, joined) == [voxels(0, 4), voxels(5, 9)]


def test_what_only_one_of_them_found_is_a_thing_of_its_own() -> None:
    """As one of LIDC's four readers did: his outlines of two nodules touch, the others outlined one of them."""
    found_both = ([(0, 9)], [box(0, 5), box(6, 9)])
    found_one = ([(2, 5)], [box(2, 5)])
    assert told_apart(found_both, found_one, found_one) == [voxels(0, 5), voxels(6, 9)]


def test_two_readers_with_a_thing_each_side_by_side_have_two() -> None:
    assert told_apart(([(0, 4)], [box(0, 4)]), ([(5, 9)], [box(5, 9)])) == [voxels(0, 4), voxels(5, 9)]


def test_boxes_of_one_thing_leave_it_whole_however_large_they_are() -> None:
    assert told_apart(([(0, 8)], [box(0, 8)]), ([(6, 9)], [box(6, 9)])) == [voxels(0, 9)]


def test_two_readers_pairs_that_share_one_thing_are_three() -> None:
    left = ([(0, 7)], [box(0, 3), box(4, 7)])
    right = ([(4, 11)], [box(4, 7), box(8, 11)])
    assert told_apart(left, right) == [voxels(0, 3), voxels(4, 7), voxels(8, 11)]


@pytest.mark.parametrize("boxes", [[], [box(2, 4)]], ids=["no boxes", "a box elsewhere"])
def test_without_boxes_round_it_a_component_stays_as_it_is(boxes: list[Box]) -> None:
    component = np.array([[[0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 2, 2]]], np.int32)
    split, count = boxed_apart(component, [component > 0], [boxes], GRID, REGION)
    assert np.array_equal(split, component)
    assert count == 2


def test_voxels_outside_every_box_go_to_the_nearest() -> None:
    assert told_apart(([(0, 11)], [box(1, 3), box(7, 9)])) == [voxels(0, 5), voxels(6, 11)]


def test_other_components_keep_their_numbers() -> None:
    component = np.array([[[1, 1, 1, 1, 0, 2, 2, 0, 3, 3, 3, 3]]], np.int32)
    boxes = [box(0, 1), box(2, 3), box(5, 6), box(8, 9), box(10, 11)]
    split, count = boxed_apart(component, [component > 0], [boxes], GRID, REGION)
    assert split.ravel().tolist() == [1, 1, 4, 4, 0, 2, 2, 0, 3, 3, 5, 5]
    assert count == 5


def test_nothing_outlined_is_nothing_to_split() -> None:
    empty = np.zeros((0, 0, 0), np.int32)
    split, count = boxed_apart(empty, [empty > 0], [[box(0, 3)]], GRID, (slice(0, 0), slice(0, 0), slice(0, 0)))
    assert (split.size, count) == (0, 0)
