"""Consensus by hand-worked examples: voxels, overlapping structures, boxes, points and answers."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from labeling_protocols.consensus import consensus, majority
from labeling_protocols.label import Label
from labeling_protocols.label_rules import overlap_errors
from labeling_protocols.protocol import SHIPPED, Protocol, Ties, load_protocol
from tests.store.drawn_labels import box, label, point

NODULE, ABDOMEN = (load_protocol(SHIPPED / f"{name}.yaml") for name in ("lung_nodule", "abdomen_ct"))
THICK = (1.0, 9.0, 9.0)


def with_ties(protocol: Protocol, ties: Ties) -> Protocol:
    return replace(protocol, consensus=replace(protocol.consensus, ties=ties))


def test_two_of_three_readers_decide_a_voxel(protocol: Protocol) -> None:
    labels = [label([(1, 1, 4)]), label([(1, 2, 5)]), label([(1, 3, 6)])]
    assert np.array_equal(consensus(protocol, labels).array_ZYX, label([(1, 2, 5)]).array_ZYX)


def test_an_even_split_goes_to_the_nearest_boundary(protocol: Protocol) -> None:
    # The readers end 4 voxels apart; halfway between them is the boundary that is nearest to both.
    labels = [label([(1, 1, stop)], spacing_mm_XYZ=THICK) for stop in (5, 9)]
    assert np.array_equal(consensus(protocol, labels).array_ZYX, label([(1, 1, 7)]).array_ZYX)


def test_an_even_split_can_be_background_by_protocol(protocol: Protocol) -> None:
    labels = [label([(1, 1, stop)], spacing_mm_XYZ=THICK) for stop in (5, 9)]
    found = consensus(with_ties(protocol, Ties.BACKGROUND), labels)
    assert np.array_equal(found.array_ZYX, label([(1, 1, 5)]).array_ZYX)


def test_a_consensus_of_labels_on_different_grids_is_refused(protocol: Protocol) -> None:
    other = label(array_ZYX=np.zeros((4, 5, 12), dtype=np.uint8))
    with pytest.raises(ValueError, match="share a grid"):
        consensus(protocol, [label(), other])
    with pytest.raises(ValueError, match="at least one read"):
        consensus(protocol, [])


@settings(max_examples=50, deadline=None)
@given(st.lists(arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 2)), min_size=1, max_size=4))
def test_a_consensus_never_invents_a_value_nobody_gave(protocol: Protocol, arrays_ZYX: list[np.ndarray]) -> None:
    found = consensus(protocol, [label(array_ZYX=array) for array in arrays_ZYX]).array_ZYX
    assert np.any([found == one for one in arrays_ZYX] + [found == 0], axis=0).all()
    assert np.array_equal(found, majority(protocol, arrays_ZYX, (1.0, 1.0, 1.0)))


def test_structures_that_overlap_are_voted_on_apart_from_each_other() -> None:
    labels = [
        label([(1, 1, 9)], [(6, 2, 5)]),
        label([(6, 3, 6)], [(1, 1, 10)]),  # the same structures in the other order of layers
        label([(1, 2, 9)], [(6, 3, 5)]),
    ]
    found = consensus(ABDOMEN, labels)
    assert len(found.layers_LZYX) == 2
    assert np.array_equal(found.mask_ZYX(1), label([(1, 1, 9)]).mask_ZYX(1))
    assert np.array_equal(found.mask_ZYX(6), label([(6, 3, 5)]).mask_ZYX(6))


def test_a_consensus_without_overlaps_has_one_layer() -> None:
    labels = [label([(1, 1, 5)], [(6, 6, 8)]), label([(1, 1, 5)], [(6, 6, 8)])]
    assert np.array_equal(consensus(ABDOMEN, labels).layers_LZYX, label([(1, 1, 5), (6, 6, 8)]).layers_LZYX)


def test_structures_that_may_not_overlap_do_not_after_a_vote_in_other_layers() -> None:
    # Two of five say spleen, two say tumour, one nothing: both lead in their layers, and the earlier structure stays.
    labels = [label([(2, 1, 9)])] * 2 + [label([(6, 1, 9)])] * 2 + [label([(2, 1, 2)])]
    found = consensus(with_ties(ABDOMEN, Ties.BACKGROUND), labels)
    assert overlap_errors(ABDOMEN, found) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(arrays(np.uint8, (2, 3, 4), elements=st.sampled_from([0, 1, 2, 6])), min_size=1, max_size=4))
def test_a_consensus_never_overlaps_where_the_protocol_forbids_it(arrays_ZYX: list[np.ndarray]) -> None:
    found = consensus(ABDOMEN, [label(array_ZYX=array) for array in arrays_ZYX])
    assert overlap_errors(ABDOMEN, found) == []
    for value in (1, 2, 6):
        drawn_by_somebody = np.any([array == value for array in arrays_ZYX], axis=0)
        assert not (found.mask_ZYX(value) & ~drawn_by_somebody).any()


def boxed(*x_mm: float) -> Label:
    return label(boxes=[box(x) for x in x_mm])


def test_a_box_that_more_than_half_of_the_readers_drew_counts_at_its_mean_place_and_size() -> None:
    labels = [label(boxes=[box(10, 4.0)]), label(boxes=[box(13, 8.0)]), label(boxes=[box(10, 6.0), box(90)]), label()]
    assert consensus(NODULE, labels).boxes == (box(11, 6.0),)


def test_a_box_that_half_of_the_readers_drew_does_not_count() -> None:
    assert consensus(NODULE, [boxed(10), boxed(10), boxed(), boxed()]).boxes == ()


def test_a_chain_of_neighbours_does_not_become_one_finding() -> None:
    # 0 and 9 match, 9 and 18 match, 0 and 18 do not (10 mm at most).
    assert consensus(NODULE, [boxed(0), boxed(9), boxed(18)]).boxes == (box(4.5),)


def test_two_boxes_of_one_reader_are_two_findings() -> None:
    labels = [boxed(10, 16), boxed(10, 16), boxed(10, 16)]
    assert consensus(NODULE, labels).boxes == (box(10), box(16))


def test_points_that_most_readers_set_count_at_their_mean_place() -> None:
    labels = [label(points=[point(x)]) for x in (10.0, 12.0, 40.0)]
    assert consensus(NODULE, labels).points == (point(11.0),)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), max_size=4, unique=True), min_size=1, max_size=4), st.randoms())
def test_the_order_of_the_readers_does_not_move_a_box(readers: list[list[int]], order: Random) -> None:
    labels = [boxed(*places) for places in readers]
    shuffled = order.sample(labels, len(labels))
    assert consensus(NODULE, shuffled).boxes == consensus(NODULE, labels).boxes


def test_a_label_without_layers_stays_without() -> None:
    labels = [replace(boxed(10), layers_LZYX=np.zeros((0, 5, 5, 12), dtype=np.uint8))] * 3
    found = consensus(NODULE, labels)
    assert found.layers_LZYX.shape == (0, 5, 5, 12)
    assert found.boxes == (box(10),)


def test_answers_are_the_majoritys_the_lower_median_or_left_open() -> None:
    labels = [
        label(answers={"malignancy": 3, "image_quality": "nowhere", "remark": "apex"}),
        label(answers={"malignancy": 4, "image_quality": "nowhere", "remark": "hilum"}),
        label(answers={"malignancy": 4, "image_quality": "everywhere"}),
        label(answers={"malignancy": 3}),
    ]
    assert consensus(NODULE, labels).answers == {"malignancy": 3, "image_quality": "nowhere"}


def test_numbers_too_far_apart_have_no_median() -> None:
    labels = [label(answers={"malignancy": answer}) for answer in (1, 5, 2)]
    assert consensus(NODULE, labels).answers == {}
