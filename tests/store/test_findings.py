"""Matching of boxes and points by hand-worked examples: which are the same, and how many readers have each."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling_protocols.findings import (
    FindingAgreement,
    Sameness,
    common_boxes,
    common_points,
    compared,
    finding_kappa,
    groups,
    matched,
)
from labeling_protocols.label import Box
from tests.store.drawn_labels import box, point

WITHIN_10_MM = Sameness(mm_max=10.0)
SHARING_A_THIRD = Sameness(mm_max=None, iou_min=1 / 3)
# The image's X axis runs along the patient's Y, and its Y axis against the patient's X.
TURNED = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def boxes(*x_mm: float) -> list[Box]:
    return [box(x) for x in x_mm]


def sized(x_mm: float, y_mm: float, size_mm_XYZ: tuple[float, float, float]) -> Box:
    return Box(structure="nodule", centre_mm_LPS=(x_mm, y_mm, 0.0), size_mm_XYZ=size_mm_XYZ)


def test_taking_the_nearest_pair_first_would_leave_one_unmatched() -> None:
    # 9 lies nearest to 8, and that pair would leave 0 alone with 17, which is too far.
    assert sorted(matched(boxes(0, 9), boxes(8, 17), WITHIN_10_MM)) == [(0, 0), (1, 1)]


def test_of_as_many_pairs_the_nearest_are_taken() -> None:
    assert sorted(matched(boxes(0, 4), boxes(5, 1), WITHIN_10_MM)) == [(0, 1), (1, 0)]


def test_sensitivity_precision_and_f1_count_from_either_reader() -> None:
    found = compared(boxes(0, 50), boxes(3, 90, 130), WITHIN_10_MM)
    assert found == FindingAgreement(a=2, b=3, matched=1)
    assert (found.sensitivity, found.precision) == (0.5, pytest.approx(1 / 3))
    assert found.f1 == pytest.approx(2 / 5)
    assert (compared([], boxes(1), WITHIN_10_MM).sensitivity, compared([], boxes(1), WITHIN_10_MM).f1) == (None, 0.0)
    assert (compared([], [], WITHIN_10_MM).f1, compared(boxes(1), [], WITHIN_10_MM).precision) == (1.0, None)


def test_no_distance_at_all_is_the_same_only_at_the_same_place() -> None:
    assert matched(boxes(1, 2), boxes(2, 3), Sameness(mm_max=0.0)) == [(1, 0)]


def test_boxes_that_share_enough_of_their_union_are_the_same() -> None:
    # Cubes of 4 mm, 2 mm apart: 32 of 96 mm³ shared, a third; 2.1 mm apart a little less.
    assert compared(boxes(0), boxes(2), SHARING_A_THIRD).matched == 1
    assert compared(boxes(0), boxes(2.1), SHARING_A_THIRD).matched == 0
    assert compared([box(0, 4)], [box(0, 2)], SHARING_A_THIRD).matched == 0, "8 of 64 mm³, at the same place"


def test_boxes_lie_along_the_images_axes_not_the_patients() -> None:
    # Long along the image's X axis, which is the patient's Y: two that follow each other there share half.
    a, b = sized(0, 0, (12, 2, 2)), sized(0, 4, (12, 2, 2))
    assert compared([a], [b], Sameness(mm_max=None, iou_min=0.5, direction_LPS=TURNED)).matched == 1
    assert compared([a], [b], Sameness(mm_max=None, iou_min=0.5)).matched == 0


def test_boxes_without_size_share_nothing() -> None:
    assert compared([box(0, 0.0)], [box(0, 0.0)], SHARING_A_THIRD).matched == 0


def test_points_are_matched_by_distance_also_where_boxes_are_by_what_they_share() -> None:
    same = Sameness(mm_max=5.0, iou_min=0.3).of_points
    assert compared([point(1)], [point(4)], same).matched == 1


def test_a_chain_of_neighbours_is_not_one_finding() -> None:
    # 0, 8 and 16: each is near to the next, the ends are not near to each other.
    found = groups([boxes(0), boxes(8), boxes(16)], WITHIN_10_MM)
    assert sorted(len(group) for group in found) == [1, 2]


def test_two_findings_of_one_reader_are_never_one() -> None:
    assert len(groups([boxes(0, 1)], WITHIN_10_MM)) == 2


def test_a_finding_counts_from_so_many_readers_on() -> None:
    readers = [boxes(0, 50, 100), boxes(1, 51), boxes(2), []]
    assert [len(group) for group in groups(readers, WITHIN_10_MM)] == [3, 2, 1]
    assert [b.centre_mm_LPS[0] for b in common_boxes(readers, 10.0)] == [1.0], "more than half, where nothing is said"
    assert [b.centre_mm_LPS[0] for b in common_boxes(readers, 10.0, found_by_min=2)] == [1.0, 50.5]
    assert [b.centre_mm_LPS[0] for b in common_boxes(readers, 10.0, found_by_min=1)] == [1.0, 50.5, 100.0]
    assert common_boxes(readers, 10.0, found_by_min=4) == ()
    spots = [[point(0), point(50)], [point(2)], []]
    assert [p.position_mm_LPS[0] for p in common_points(spots, 5.0)] == [1.0]
    assert [p.position_mm_LPS[0] for p in common_points(spots, 5.0, found_by_min=1)] == [1.0, 50.0]


def test_common_boxes_can_be_those_that_share_enough() -> None:
    readers = [[box(0)], [box(1)], [box(3)]]
    # 0 and 1 share 48 of 80 mm³, 1 and 3 share 32 of 96, 0 and 3 share 16 of 112.
    assert [b.centre_mm_LPS[0] for b in common_boxes(readers, None, match_iou_min=0.5)] == [0.5]


def test_agreement_over_findings_takes_a_half_for_chance() -> None:
    # Three readers; one finding by all, one by a single reader: pairs agree on 3 of 3 and 1 of 3: 2/3, so 1/3.
    assert finding_kappa([boxes(0, 50), boxes(1), boxes(2)], WITHIN_10_MM) == pytest.approx(1 / 3)
    assert finding_kappa([boxes(0), boxes(1)], WITHIN_10_MM) == 1.0
    assert finding_kappa([[], []], WITHIN_10_MM) is None
    assert finding_kappa([boxes(0)], WITHIN_10_MM) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), max_size=4), min_size=2, max_size=4), st.randoms())
def test_the_order_of_the_readers_and_of_their_findings_changes_no_group(
    readers: list[list[int]], order: Random
) -> None:
    drawn = [[box(x) for x in sorted({*of_reader})] for of_reader in readers]
    shuffled = [order.sample(of_reader, len(of_reader)) for of_reader in order.sample(drawn, len(drawn))]

    def shown(readers: list[list[Box]]) -> list[list[float]]:
        found = groups(readers, WITHIN_10_MM)
        return [sorted(readers[r][i].centre_mm_LPS[0] for r, i in group) for group in found]

    assert shown(drawn) == shown(shuffled)


@settings(max_examples=60, deadline=None)
@given(*(st.lists(st.floats(0, 60), max_size=5) for _ in range(2)))
def test_matches_are_as_many_from_either_side_and_all_with_itself(a: list[float], b: list[float]) -> None:
    one, other = boxes(*a), boxes(*b)
    assert compared(one, one, WITHIN_10_MM).f1 == 1.0
    assert compared(one, other, WITHIN_10_MM).matched == compared(other, one, WITHIN_10_MM).matched
