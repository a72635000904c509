"""Agreement of outlines by hand-worked numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from labeling_protocols.agreement import (
    OutlineAgreement,
    average_surface_distance_mm,
    dice,
    hd95_mm,
    iou,
    outline_agreements,
    surface_dice,
    volume_difference_ml,
)

SPACING = (2.0, 1.0, 0.5)
AGREED = OutlineAgreement(
    dice=1.0, iou=1.0, hd95_mm=0.0, surface_dice=1.0, average_surface_distance_mm=0.0, volume_difference_ml=0.0
)


def mask(*voxels: tuple[int, int, int]) -> np.ndarray:
    array = np.zeros((5, 5, 5), dtype=bool)
    for voxel in voxels:
        array[voxel] = True
    return array


def row(length: int) -> np.ndarray:
    """Voxels beside one another along x, half a millimetre apart."""
    return mask(*((2, 2, x) for x in range(length)))


def cube(shape: tuple[int, int, int], *sides: slice) -> np.ndarray:
    array = np.zeros(shape, dtype=bool)
    array[sides] = True
    return array


def test_dice_of_two_voxels_of_which_one_is_shared_is_a_half_and_their_iou_a_third() -> None:
    a, b = mask((0, 0, 0), (0, 0, 1)), mask((0, 0, 1), (0, 0, 2))
    assert dice(a, b) == 0.5
    assert iou(a, b) == 1 / 3


def test_dice_and_iou_weigh_masks_of_unlike_size() -> None:
    assert dice(row(1), row(4)) == 2 / 5
    assert iou(row(1), row(4)) == 1 / 4


def test_two_empty_masks_agree() -> None:
    nothing = mask()
    assert (dice(nothing, nothing), iou(nothing, nothing)) == (1.0, 1.0)
    assert (hd95_mm(nothing, nothing, SPACING), average_surface_distance_mm(nothing, nothing, SPACING)) == (0.0, 0.0)
    assert surface_dice(nothing, nothing, SPACING, 1.0) == 1.0
    assert volume_difference_ml(nothing, nothing, SPACING) == 0.0


@pytest.mark.parametrize("masks", [(mask(), mask((1, 1, 1))), (mask((1, 1, 1)), mask())], ids=["a", "b"])
def test_a_mask_that_is_empty_alone_is_a_miss(masks: tuple[np.ndarray, np.ndarray]) -> None:
    assert (dice(*masks), iou(*masks)) == (0.0, 0.0)
    assert (hd95_mm(*masks, SPACING), average_surface_distance_mm(*masks, SPACING)) == (None, None)
    assert surface_dice(*masks, SPACING, 100.0) == 0.0


def test_hd95_counts_millimetres_along_each_axis() -> None:
    origin = mask((0, 0, 0))
    assert hd95_mm(origin, mask((2, 0, 0)), SPACING) == 4.0
    assert hd95_mm(origin, mask((0, 2, 0)), SPACING) == 2.0
    assert hd95_mm(origin, mask((0, 0, 2)), SPACING) == 1.0
    assert hd95_mm(origin, mask((1, 2, 2)), SPACING) == 3.0


def test_hd95_is_the_larger_of_both_ways_between_the_two_nearest_distances() -> None:
    # From five voxels to the first of them: 0, 0.5, 1, 1.5, 2; 95 % lie below place 3.8 of 0 to 4. Back: 0.
    assert hd95_mm(row(5), row(1), SPACING) == pytest.approx(1.9)
    assert hd95_mm(row(1), row(5), SPACING) == pytest.approx(1.9)


def test_the_average_distance_is_over_the_voxels_of_both_surfaces() -> None:
    # 0 one way; 0, 0.5, 1, 1.5 and 2 back.
    assert average_surface_distance_mm(row(1), row(5), SPACING) == 5 / 6
    assert average_surface_distance_mm(row(5), row(1), SPACING) == 5 / 6


@pytest.mark.parametrize(("tolerance_mm", "within"), [(0.0, 2), (0.4, 2), (0.5, 3), (1.0, 4), (1.9, 5), (2.0, 6)])
def test_surface_dice_is_the_share_of_both_surfaces_within_the_tolerance(tolerance_mm: float, within: int) -> None:
    assert surface_dice(row(1), row(5), SPACING, tolerance_mm) == within / 6
    assert surface_dice(row(5), row(1), SPACING, tolerance_mm) == within / 6


def test_a_tolerance_of_whole_voxels_holds_whatever_their_decimals_come_to() -> None:
    assert 3 * 0.8 > 2.4
    assert surface_dice(mask((0, 0, 0)), mask((0, 0, 3)), (1.0, 1.0, 0.8), 2.4) == 1.0


def test_the_volume_difference_is_the_firsts_less_the_seconds() -> None:
    assert volume_difference_ml(row(4), row(1), (5.0, 10.0, 20.0)) == 3.0
    assert volume_difference_ml(row(1), row(4), (5.0, 10.0, 20.0)) == -3.0
    assert volume_difference_ml(row(1), mask(), (2.0, 1.0, 0.5)) == 0.001


def test_what_lies_inside_is_no_surface() -> None:
    # A cube of 27 voxels has 26 on its surface, with its core or without.
    solid = cube((5, 5, 5), slice(1, 4), slice(1, 4), slice(1, 4))
    hollow = solid.copy()
    hollow[2, 2, 2] = False
    assert dice(solid, hollow) == 52 / 53
    assert (hd95_mm(solid, hollow, SPACING), surface_dice(solid, hollow, SPACING, 0.0)) == (0.0, 1.0)


@pytest.mark.parametrize("edge", [0, 1])
def test_the_volumes_edge_counts_as_outside(edge: int) -> None:
    shape, side = (3 + 2 * edge,) * 3, slice(edge, 3 + edge)
    core = np.zeros(shape, dtype=bool)
    core[(1 + edge,) * 3] = True
    # The core lies 1 from the 6 nearest of 26 voxels of the surface; 12 edges are √2 from it and 8 corners √3.
    mean_mm = (1 + 6 + 12 * 2**0.5 + 8 * 3**0.5) / 27
    assert average_surface_distance_mm(cube(shape, side, side, side), core, (1.0, 1.0, 1.0)) == pytest.approx(mean_mm)


def test_surfaces_are_measured_however_far_apart_they_are() -> None:
    # Two voxels that 3, 40 and 60 voxels part: 6, 40 and 30 mm.
    a, b = np.zeros((2, 5, 45, 70), dtype=bool)
    a[0, 2, 3] = b[3, 42, 63] = True
    assert hd95_mm(a, b, SPACING) == pytest.approx((6**2 + 40**2 + 30**2) ** 0.5)
    a[3, 42, 62] = True  # and one beside
    assert average_surface_distance_mm(a, b, SPACING) == pytest.approx((2536**0.5 + 0.5 + 0.5) / 3)


def layers(*drawn: tuple[int, ...]) -> NDArray[np.uint8]:
    """Layers of one row of voxels each, in a volume of one slice with a row free on both sides."""
    array_LZYX = np.zeros((len(drawn), 1, 3, 6), dtype=np.uint8)
    for layer_ZYX, values in zip(array_LZYX, drawn, strict=True):
        layer_ZYX[0, 1, : len(values)] = values
    return array_LZYX


def test_every_pair_of_readers_is_measured_on_every_value() -> None:
    readers = [layers((1, 1, 2)), layers((1, 0, 2)), layers((0, 1, 0, 2))]
    found = outline_agreements(readers, (1, 2), SPACING, {1: 0.0, 2: 0.5})
    assert {value: list(pairs) for value, pairs in found.items()} == {
        value: [(0, 1), (0, 2), (1, 2)] for value in (1, 2)
    }
    assert [pair.dice for pair in found[1].values()] == [2 / 3, 2 / 3, 0.0]
    assert [pair.iou for pair in found[1].values()] == [0.5, 0.5, 0.0]
    assert [pair.surface_dice for pair in found[1].values()] == [2 / 3, 2 / 3, 0.0]
    assert [pair.average_surface_distance_mm for pair in found[1].values()] == [0.5 / 3, 0.5 / 3, 0.5]
    assert [pair.volume_difference_ml for pair in found[1].values()] == [0.001, 0.001, 0.0]
    assert [pair.dice for pair in found[2].values()] == [1.0, 0.0, 0.0]
    assert [pair.hd95_mm for pair in found[2].values()] == [0.0, 0.5, 0.5]
    assert [pair.surface_dice for pair in found[2].values()] == [1.0, 1.0, 1.0]


def test_what_one_reader_left_out_and_what_nobody_drew_is_in_the_answer() -> None:
    readers = [layers((1, 1)), layers((0, 0, 2))]
    found = outline_agreements(readers, (1, 2, 3), SPACING, {1: 1.0, 2: 1.0, 3: 1.0})
    missed = OutlineAgreement(
        dice=0.0,
        iou=0.0,
        hd95_mm=None,
        surface_dice=0.0,
        average_surface_distance_mm=None,
        volume_difference_ml=0.002,
    )
    assert found[1] == {(0, 1): missed}
    assert found[2][0, 1].hd95_mm is None
    assert found[2][0, 1].volume_difference_ml == -0.001
    assert found[3] == {(0, 1): AGREED}


def test_a_value_without_a_tolerance_has_no_surface_dice() -> None:
    found = outline_agreements([layers((1, 2)), layers((1, 2))], (1, 2), SPACING, {2: 0.0})
    assert (found[1][0, 1].surface_dice, found[2][0, 1].surface_dice) == (None, 1.0)


def test_a_value_counts_in_whichever_layers_it_is_drawn() -> None:
    # A structure over two layers, for one reader overlapping another one.
    readers = [layers((1, 1), (0, 2, 0, 0, 1)), layers((1, 1, 0, 0, 1)), layers((0, 2), (1, 0, 0, 0, 1), (0, 1))]
    found = outline_agreements(readers, (1, 2), SPACING, {1: 0.0})
    assert found[1] == dict.fromkeys([(0, 1), (0, 2), (1, 2)], AGREED)
    assert [pair.dice for pair in found[2].values()] == [0.0, 1.0, 0.0]


def test_a_label_without_layers_has_left_everything_out() -> None:
    found = outline_agreements([layers(), layers((1,)), layers()], (1,), SPACING, {1: 1.0})[1]
    assert [pair.hd95_mm for pair in found.values()] == [None, 0.0, None]
    assert outline_agreements([layers(), layers()], (1,), SPACING, {1: 1.0})[1] == {(0, 1): AGREED}


def test_one_reader_has_nobody_to_agree_with() -> None:
    assert outline_agreements([layers((1,))], (1,), SPACING, {}) == {1: {}}
    assert outline_agreements([], (1,), SPACING, {}) == {1: {}}


def test_readers_on_other_grids_are_refused() -> None:
    smaller = np.zeros((1, 1, 3, 5), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"layers of \[\(1, 3, 5\), \(1, 3, 6\)\] voxels, expected one grid"):
        outline_agreements([layers((1,)), smaller], (1,), SPACING, {})


@settings(max_examples=30, deadline=None)
@given(st.lists(arrays(np.uint8, (1, 3, 4, 5), elements=st.integers(0, 2)), min_size=2, max_size=4))
def test_numbers_found_together_are_those_of_the_whole_masks(readers: list[NDArray[np.uint8]]) -> None:
    found = outline_agreements(readers, (1, 2), SPACING, {1: 0.5, 2: 1.0})
    for value, tolerance_mm in ((1, 0.5), (2, 1.0)):
        for (a, b), pair in found[value].items():
            masks = readers[a][0] == value, readers[b][0] == value
            assert pair == OutlineAgreement(
                dice=dice(*masks),
                iou=iou(*masks),
                hd95_mm=hd95_mm(*masks, SPACING),
                surface_dice=surface_dice(*masks, SPACING, tolerance_mm),
                average_surface_distance_mm=average_surface_distance_mm(*masks, SPACING),
                volume_difference_ml=volume_difference_ml(*masks, SPACING),
            )


@settings(max_examples=30, deadline=None)
@given(arrays(bool, (3, 4, 5)), arrays(bool, (3, 4, 5)))
def test_it_is_all_one_which_reader_comes_first(a: np.ndarray, b: np.ndarray) -> None:
    spacing = (0.7, 1.3, 0.1)
    for metric in (dice, iou):
        assert metric(a, b) == metric(b, a)
    assert hd95_mm(a, b, spacing) == hd95_mm(b, a, spacing)
    assert surface_dice(a, b, spacing, 1.3) == surface_dice(b, a, spacing, 1.3)
    assert average_surface_distance_mm(a, b, spacing) == average_surface_distance_mm(b, a, spacing)
    assert volume_difference_ml(a, b, spacing) == -volume_difference_ml(b, a, spacing)
