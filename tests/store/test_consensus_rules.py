"""Rules of consensus against SimpleITK's vote and plain numpy, and what they name rather than decide."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from labeling_protocols.consensus import Formed, consensus, form_consensus, majority
from labeling_protocols.label import Label
from labeling_protocols.label_rules import overlap_errors
from labeling_protocols.protocol import SHIPPED, Protocol, Ties, load_protocol
from labeling_protocols.protocol_parts import ConsensusRule
from tests.store.drawn_labels import box, label, point

NODULE, ABDOMEN = (load_protocol(SHIPPED / f"{name}.yaml") for name in ("lung_nodule", "abdomen_ct"))
LIVER, SPLEEN, RIGHT, TUMOUR = 1, 2, 3, 6
VOLUMES = st.lists(arrays(np.uint8, (2, 3, 4), elements=st.integers(0, 2)), min_size=1, max_size=5)
COLUMN = 9  # voxels that one place along x stands for in drawn labels


def formed(
    protocol: Protocol,
    labels: Sequence[Label],
    rule: ConsensusRule,
    ties: Ties = Ties.BACKGROUND,
    found_by_min: int | None = None,
) -> Formed:
    protocol = replace(protocol, consensus=replace(protocol.consensus, ties=ties, found_by_min=found_by_min))
    return form_consensus(protocol, {f"reader {number}": one for number, one in enumerate(labels)}, rule)


def votes(arrays_ZYX: Sequence[np.ndarray], values: Sequence[int]) -> np.ndarray:
    return np.stack([np.sum([one == value for one in arrays_ZYX], axis=0) for value in values])


@settings(max_examples=60, deadline=None)
@given(VOLUMES)
def test_a_majority_is_simpleitks_vote_with_ties_to_background(
    protocol: Protocol, arrays_ZYX: list[np.ndarray]
) -> None:
    images = [sitk.GetImageFromArray(array_ZYX) for array_ZYX in arrays_ZYX]
    voted_ZYX = sitk.GetArrayFromImage(sitk.LabelVoting(images, 255))
    found = formed(protocol, [label(array_ZYX=one) for one in arrays_ZYX], ConsensusRule.MAJORITY)
    assert np.array_equal(found.label.array_ZYX, np.where(voted_ZYX == 255, 0, voted_ZYX))
    counted_VZYX = votes(arrays_ZYX, [0, 1, 2])
    leading_VZYX = (counted_VZYX == counted_VZYX.max(axis=0)) & (voted_ZYX == 255)
    tied = {name: int(leading_VZYX[value].sum()) for name, value in protocol.values.items()}
    assert found.tied_voxels == {name: count for name, count in tied.items() if count}
    assert found.clashing_voxels == {}
    assert found.performance is None
    assert found.undefined == ()
    background = replace(protocol, consensus=replace(protocol.consensus, ties=Ties.BACKGROUND))
    assert np.array_equal(majority(background, arrays_ZYX, (1.0, 2.0, 3.0)), found.label.array_ZYX)


@settings(max_examples=60, deadline=None)
@given(VOLUMES)
def test_an_intersection_is_what_all_readers_drew(protocol: Protocol, arrays_ZYX: list[np.ndarray]) -> None:
    found = formed(protocol, [label(array_ZYX=one) for one in arrays_ZYX], ConsensusRule.INTERSECTION)
    same_ZYX = np.all([one == arrays_ZYX[0] for one in arrays_ZYX], axis=0)
    assert np.array_equal(found.label.array_ZYX, np.where(same_ZYX, arrays_ZYX[0], 0))
    assert found.tied_voxels == found.clashing_voxels == {}


@settings(max_examples=60, deadline=None)
@given(VOLUMES)
def test_a_union_is_what_any_reader_drew_and_clashes_are_voted_on(
    protocol: Protocol, arrays_ZYX: list[np.ndarray]
) -> None:
    found = formed(protocol, [label(array_ZYX=one) for one in arrays_ZYX], ConsensusRule.UNION)
    one_ZYX, two_ZYX = votes(arrays_ZYX, [1, 2])
    expected_ZYX = np.where(one_ZYX > two_ZYX, 1, np.where(two_ZYX > one_ZYX, 2, 0))
    assert np.array_equal(found.label.array_ZYX, expected_ZYX)
    assert found.performance is None
    clashing = int(((one_ZYX > 0) & (two_ZYX > 0)).sum())
    tied = int(((one_ZYX > 0) & (one_ZYX == two_ZYX)).sum())
    assert found.clashing_voxels == ({"anterior": clashing, "posterior": clashing} if clashing else {})
    assert found.tied_voxels == ({"anterior": tied, "posterior": tied} if tied else {})


def test_a_union_of_one_structure_is_all_of_it_whoever_drew_it() -> None:
    labels = [label([(1, 1, 3)]), label([(1, 5, 7)]), label()]
    found = formed(NODULE, labels, ConsensusRule.UNION)
    assert np.array_equal(found.label.array_ZYX, label([(1, 1, 3), (1, 5, 7)]).array_ZYX)
    nothing = formed(NODULE, labels, ConsensusRule.INTERSECTION)
    assert not nothing.label.array_ZYX.any()


def test_a_clash_in_a_union_goes_to_the_structure_it_lies_deepest_in_where_votes_are_even(protocol: Protocol) -> None:
    # x 5 is one voxel from the end of anterior (x 1 to 5) and two inside posterior (x 4 to 10): posterior, as is x 4.
    # x 4 lies two deep in anterior and one deep in posterior: anterior.
    labels = [label([(1, 1, 6)]), label([(2, 4, 11)])]
    found = formed(protocol, labels, ConsensusRule.UNION, Ties.NEAREST_BOUNDARY)
    assert found.tied_voxels == found.clashing_voxels == {"anterior": 2 * COLUMN, "posterior": 2 * COLUMN}
    x = found.label.array_ZYX[2, 2].tolist()
    assert x == [0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0]


def test_a_rule_that_is_given_stands_in_for_the_protocols(protocol: Protocol) -> None:
    labels = {"a": label([(1, 1, 4)]), "b": label([(1, 2, 6)]), "c": label([(1, 3, 9)])}
    assert form_consensus(protocol, labels).label.array_ZYX.sum() == 4 * COLUMN  # x 2 to 5
    union = replace(protocol, consensus=replace(protocol.consensus, rule=ConsensusRule.UNION))
    assert form_consensus(union, labels).label.array_ZYX.sum() == 8 * COLUMN
    assert consensus(union, list(labels.values())).array_ZYX.sum() == 8 * COLUMN
    assert form_consensus(union, labels, ConsensusRule.INTERSECTION).label.array_ZYX.sum() == 1 * COLUMN


def test_the_order_of_the_readers_does_not_matter(protocol: Protocol) -> None:
    labels = {"b": label([(1, 1, 4)]), "c": label([(2, 2, 6)]), "a": label([(1, 3, 9)])}
    for rule in ConsensusRule:
        one = form_consensus(protocol, labels, rule)
        other = form_consensus(protocol, dict(reversed(labels.items())), rule)
        assert np.array_equal(one.label.layers_LZYX, other.label.layers_LZYX)
        assert one.performance == other.performance


def test_structures_of_different_groups_that_clash_go_to_the_one_with_more_votes_and_are_counted() -> None:
    # Spleen and tumour may not overlap but are voted on apart; a union gives each all that anybody drew.
    labels = [label([(SPLEEN, 1, 6)]), label([(SPLEEN, 1, 6)]), label([(TUMOUR, 4, 9)])]
    found = formed(ABDOMEN, labels, ConsensusRule.UNION)
    assert found.label.array_ZYX[2, 2].tolist() == [0, 2, 2, 2, 2, 2, 6, 6, 6, 0, 0, 0]
    assert found.clashing_voxels == {"spleen": 2 * COLUMN, "liver_tumour": 2 * COLUMN}
    outvoted = formed(ABDOMEN, [labels[0], labels[2], labels[2]], ConsensusRule.UNION)
    assert outvoted.label.array_ZYX[2, 2].tolist() == [0, 2, 2, 2, 6, 6, 6, 6, 6, 0, 0, 0]
    assert not outvoted.label.mask_ZYX(LIVER).any()
    even = formed(ABDOMEN, [labels[0], labels[2]], ConsensusRule.UNION)
    assert np.array_equal(even.label.array_ZYX, found.label.array_ZYX)  # the earlier one in the protocol


def test_only_the_structures_that_clash_are_counted() -> None:
    labels = [label([(SPLEEN, 1, 5)]), label([(RIGHT, 4, 8)]), label([(LIVER, 9, 11)]), label([(4, 11, 12)])]
    found = formed(ABDOMEN, labels, ConsensusRule.UNION)
    assert found.clashing_voxels == found.tied_voxels == {"spleen": COLUMN, "right_kidney": COLUMN}


def test_clashes_between_groups_of_several_structures_are_counted_pair_by_pair() -> None:
    # Pancreas and tumour are decided on apart from the others, because each may overlap the liver.
    protocol = replace(ABDOMEN, overlaps=(("liver", "pancreas"), ("liver", "liver_tumour")))
    drawn = [label([(SPLEEN, 0, 3), (RIGHT, 4, 8)]), label([(TUMOUR, 2, 3), (5, 4, 5), (TUMOUR, 7, 8)])]
    found = formed(protocol, drawn, ConsensusRule.UNION)
    assert found.label.array_ZYX[2, 2].tolist() == [2, 2, 2, 0, 3, 3, 3, 3, 0, 0, 0, 0]  # the earlier in the protocol
    pairs = {"spleen": 1, "right_kidney": 2, "pancreas": 1, "liver_tumour": 2}
    assert found.clashing_voxels == {name: columns * COLUMN for name, columns in pairs.items()}
    assert found.tied_voxels == {}


def test_structures_that_may_overlap_do_in_a_union_and_do_not_clash() -> None:
    labels = [label([(LIVER, 1, 9)], [(TUMOUR, 3, 5)]), label([(LIVER, 2, 9)], [(TUMOUR, 4, 7)])]
    found = formed(ABDOMEN, labels, ConsensusRule.UNION)
    assert len(found.label.layers_LZYX) == 2
    assert np.array_equal(found.label.mask_ZYX(LIVER), label([(1, 1, 9)]).mask_ZYX(1))
    assert np.array_equal(found.label.mask_ZYX(TUMOUR), label([(6, 3, 7)]).mask_ZYX(6))
    assert found.clashing_voxels == {}


def test_three_structures_that_split_the_readers_are_a_tie_of_all_three() -> None:
    labels = [label([(value, 2, 5)]) for value in (LIVER, SPLEEN, RIGHT)]
    found = formed(ABDOMEN, labels, ConsensusRule.MAJORITY)
    assert found.tied_voxels == {name: 3 * COLUMN for name in ("liver", "spleen", "right_kidney")}
    assert not found.label.array_ZYX.any()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(arrays(np.uint8, (2, 3, 4), elements=st.sampled_from([0, 1, 2, 6])), min_size=1, max_size=4),
    st.sampled_from(ConsensusRule),
    st.sampled_from(Ties),
)
def test_no_rule_overlaps_what_may_not_or_invents_a_value(
    arrays_ZYX: list[np.ndarray], rule: ConsensusRule, ties: Ties
) -> None:
    found = formed(ABDOMEN, [label(array_ZYX=array) for array in arrays_ZYX], rule, ties).label
    assert overlap_errors(ABDOMEN, found) == []
    for value in (1, 2, 6):
        drawn_by_somebody = np.any([array == value for array in arrays_ZYX], axis=0)
        assert not (found.mask_ZYX(value) & ~drawn_by_somebody).any()


def boxed(*x_mm: float) -> Label:
    return label(boxes=[box(x) for x in x_mm], points=[point(x) for x in x_mm])


@pytest.mark.parametrize(
    ("rule", "found_by_min", "places"),
    [
        (ConsensusRule.MAJORITY, None, [10.0]),  # more than half of four: three
        (ConsensusRule.STAPLE, None, [10.0]),
        (ConsensusRule.INTERSECTION, None, []),
        (ConsensusRule.UNION, None, [10.0, 50.0, 90.0]),
        (ConsensusRule.MAJORITY, 1, [10.0, 50.0, 90.0]),
        (ConsensusRule.UNION, 2, [10.0, 50.0]),
        (ConsensusRule.INTERSECTION, 3, [10.0]),
        (ConsensusRule.STAPLE, 4, []),
    ],
)
def test_a_finding_counts_where_so_many_readers_have_it(
    rule: ConsensusRule, found_by_min: int | None, places: list[float]
) -> None:
    labels = [boxed(10, 50), boxed(10, 50), boxed(10), boxed(90)]
    found = formed(NODULE, labels, rule, found_by_min=found_by_min)
    assert [one.centre_mm_LPS[0] for one in found.label.boxes] == places
    assert [one.position_mm_LPS[0] for one in found.label.points] == places
    assert not [words for words in found.undefined if "must have found" in words]


def test_findings_that_more_readers_must_have_than_there_are_is_named() -> None:
    found = formed(NODULE, [boxed(10), boxed(10)], ConsensusRule.MAJORITY, found_by_min=3)
    assert found.label.boxes == ()
    assert found.undefined == tuple(
        f"{name}: 3 readers must have found a box or point for it to count, and 2 read the case"
        for name in ("nodule", "micronodule")
    )
    outlined_only = formed(ABDOMEN, [label(), label()], ConsensusRule.MAJORITY, found_by_min=3)
    assert outlined_only.undefined == ()


def test_boxes_are_the_same_by_the_share_of_their_union_where_the_protocol_says_so() -> None:
    limits = {**NODULE.agreement, "nodule": replace(NODULE.agreement["nodule"], match_mm_max=None, match_iou_min=0.5)}
    shared = replace(NODULE, agreement=limits)
    apart = [label(boxes=[box(10)]), label(boxes=[box(12)])]  # 4 mm cubes: 2 of 6 mm shared
    assert consensus(shared, apart).boxes == ()
    assert consensus(shared, [apart[0], label(boxes=[box(11)])]).boxes == (box(10.5),)  # 3 of 5 mm


def test_answers_do_not_depend_on_the_rule() -> None:
    labels = [label(answers={"malignancy": value}) for value in (3, 4, 4)]
    for rule in ConsensusRule:
        assert formed(NODULE, labels, rule).label.answers == {"malignancy": 4}
    with pytest.raises(ValueError, match="at least one read"):
        form_consensus(NODULE, {})


def test_a_tie_is_settled_alike_wherever_in_the_volume_it_lies(protocol: Protocol) -> None:
    near_ZYX = [np.zeros((9, 12, 24), np.uint8) for _ in range(2)]
    near_ZYX[0][1:4, 1:5, 1:5] = 1
    near_ZYX[1][1:4, 1:5, 1:10] = 1
    far_ZYX = [np.roll(one_ZYX, (3, 5, 9), axis=(0, 1, 2)) for one_ZYX in near_ZYX]
    near, far = (
        formed(protocol, [label(array_ZYX=one) for one in some], ConsensusRule.MAJORITY, Ties.NEAREST_BOUNDARY)
        for some in (near_ZYX, far_ZYX)
    )
    assert near.tied_voxels == far.tied_voxels == {"anterior": 3 * 4 * 5}
    assert 3 * 4 * 4 < np.count_nonzero(near.label.array_ZYX) < 3 * 4 * 9
    assert np.array_equal(far.label.array_ZYX, np.roll(near.label.array_ZYX, (3, 5, 9), axis=(0, 1, 2)))


def depth_mm(mask_ZYX: np.ndarray, spacing_mm_ZYX: tuple[float, float, float]) -> np.ndarray:
    """Signed distance to the nearest voxel on the other side, by scipy's transform; without one, very far."""
    if mask_ZYX.all() or not mask_ZYX.any():
        return np.where(mask_ZYX, 1e6, -1e6)
    inside, outside = (ndimage.distance_transform_edt(one, spacing_mm_ZYX) for one in (mask_ZYX, ~mask_ZYX))
    return inside - outside


@settings(max_examples=40, deadline=None)
@given(
    st.lists(arrays(np.uint8, (3, 4, 6), elements=st.sampled_from([0, 0, 1, 1, 2])), min_size=2, max_size=4),
    st.sampled_from([1, 6]),
)
def test_ties_go_where_scipys_distances_put_them(protocol: Protocol, arrays_ZYX: list[np.ndarray], around: int) -> None:
    arrays_ZYX = [np.pad(one, around - 1) for one in arrays_ZYX]
    labels = [label(array_ZYX=one, spacing_mm_XYZ=(0.7, 1.1, 3.1)) for one in arrays_ZYX]
    found_ZYX = formed(protocol, labels, ConsensusRule.MAJORITY, Ties.NEAREST_BOUNDARY).label.array_ZYX
    counted = votes(arrays_ZYX, [0, 1, 2])
    leading = counted == counted.max(axis=0)
    depths = np.stack(
        [np.mean([depth_mm(one == value, (3.1, 1.1, 0.7)) for one in arrays_ZYX], axis=0) for value in (0, 1, 2)]
    )
    depths[~leading] = -np.inf
    first, second = np.sort(depths, axis=0)[:-3:-1]
    clear_ZYX = first - second > 1e-6  # where two are equally deep, rounding decides
    assert np.array_equal(found_ZYX[clear_ZYX], depths.argmax(axis=0)[clear_ZYX])


def test_what_only_one_of_two_readers_drew_at_all_is_background(protocol: Protocol) -> None:
    for labels in ([label([(1, 2, 9)]), label()], [label(), label([(1, 2, 9)])]):
        found = formed(protocol, labels, ConsensusRule.MAJORITY, Ties.NEAREST_BOUNDARY)
        assert found.tied_voxels == {"anterior": 7 * COLUMN}
        assert not found.label.array_ZYX.any()


def test_ties_of_the_largest_value_are_settled_too(protocol: Protocol) -> None:
    first, second = protocol.structures
    protocol = replace(protocol, structures=(first, replace(second, value=255)))
    labels = [label([(255, 1, stop)], spacing_mm_XYZ=(1.0, 9.0, 9.0)) for stop in (5, 9)]
    found = formed(protocol, labels, ConsensusRule.MAJORITY, Ties.NEAREST_BOUNDARY)
    assert np.flatnonzero(found.label.array_ZYX[2, 2]).tolist() == [1, 2, 3, 4, 5, 6]
    assert found.tied_voxels == {"posterior": 4 * COLUMN}
