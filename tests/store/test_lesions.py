"""Lesions of several readers by hand-worked examples: what is one lesion, who found it, and where it lies."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Box, Label, Point
from labeling_protocols.lesion_outlines import OUTLINED_AT_MOST, outlines_of
from labeling_protocols.lesions import Lesion, lesions_of
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.protocol_parts import AgreementLimits, Task
from labeling_protocols.records import LesionKind
from tests.store.drawn_labels import box, label, point

NODULE = load_protocol(SHIPPED / "lung_nodule.yaml")
# 2 mm slices, axes turned by 90° about z and the last one against the patient's.
OBLIQUE = Geometry(
    shape_ZYX=(4, 6, 8),
    spacing_mm_XYZ=(0.5, 1.0, 2.0),
    origin_mm_LPS=(10.0, 20.0, 30.0),
    direction_LPS=(0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
)


def drawn(*voxels_ZYX: tuple[int, int, int], boxes: tuple[Box, ...] = (), points: tuple[Point, ...] = ()) -> Label:
    array = np.zeros((4, 6, 8), np.uint8)
    for voxel in voxels_ZYX:
        array[voxel] = 1
    return label(array_ZYX=array, boxes=boxes, points=points)


def nodules(labels: Mapping[str, Label], protocol: Protocol = NODULE) -> list[Lesion]:
    return [lesion for lesion in lesions_of(protocol, labels) if lesion.structure == "nodule"]


def test_what_touches_at_a_corner_is_one_lesion() -> None:
    [lesion] = nodules({"a": drawn((0, 0, 0), (1, 1, 1))})
    assert (lesion.kind, lesion.found_by, lesion.number) == (LesionKind.OUTLINE, ("a",), 1)
    assert lesion.centre_mm_LPS == (0.5, 0.5, 0.5)


def test_lesions_are_numbered_by_their_size_and_equal_ones_by_their_place() -> None:
    found = nodules({"a": drawn((0, 0, 0), (0, 0, 4), (3, 5, 5), (3, 5, 6)), "b": drawn((0, 0, 4))})
    assert [lesion.number for lesion in found] == [1, 2, 3]
    assert [lesion.region for lesion in found] == [
        (slice(3, 4), slice(5, 6), slice(5, 7)),
        (slice(0, 1), slice(0, 1), slice(0, 1)),
        (slice(0, 1), slice(0, 1), slice(4, 5)),
    ]
    assert [lesion.found_by for lesion in found] == [("a",), ("a",), ("a", "b")]


def test_a_lesion_is_what_any_reader_outlined_of_it() -> None:
    # Two readers' halves meet; a third outlined one voxel of each.
    labels = {"a": drawn((1, 1, 1), (1, 1, 2)), "b": drawn((1, 1, 3), (1, 1, 4)), "c": drawn((1, 1, 2), (1, 1, 3))}
    [lesion] = nodules(labels)
    assert lesion.found_by == ("a", "b", "c")
    assert lesion.mask_ZYX is not None
    assert lesion.mask_ZYX.tolist() == [[[True, True, True, True]]]


def test_a_mask_within_a_lesions_region_is_that_lesions_alone() -> None:
    # A bent lesion around another's voxel.
    bent = [(0, 0, x) for x in range(5)] + [(0, y, 0) for y in range(5)]
    large, small = nodules({"a": drawn(*bent, (0, 3, 3))})
    assert large.region == (slice(0, 1), slice(0, 5), slice(0, 5))
    assert large.mask_ZYX is not None
    assert (np.count_nonzero(large.mask_ZYX), bool(large.mask_ZYX[0, 3, 3])) == (9, False)
    assert small.region == (slice(0, 1), slice(3, 4), slice(3, 4))


def test_a_centre_lies_in_the_patient_not_in_the_array() -> None:
    array = np.zeros((1, 4, 6, 8), np.uint8)
    array[0, 1, 2, 4] = array[0, 1, 2, 5] = 1
    [lesion] = nodules({"a": Label(geometry=OBLIQUE, layers_LZYX=array)})
    # Index (4.5, 2, 1): X goes 2.25 mm along y, Y 2 mm against x, Z 2 mm against z.
    assert lesion.centre_mm_LPS == pytest.approx((8.0, 22.25, 28.0))


def test_layers_of_a_label_are_one_outline() -> None:
    [lesion] = nodules({"a": label([(1, 0, 2)], [(1, 2, 4)]), "b": label()})
    assert lesion.region == (slice(1, 4), slice(1, 4), slice(0, 4))


def test_nobody_outlined_or_boxed_anything_and_there_is_no_lesion() -> None:
    assert lesions_of(NODULE, {"a": drawn(), "b": drawn()}) == ()
    empty = Label(geometry=OBLIQUE, layers_LZYX=np.zeros((0, 4, 6, 8), np.uint8))
    assert lesions_of(NODULE, {"a": empty, "b": empty}) == ()


def test_a_box_whose_centre_lies_in_a_lesion_or_near_its_centre_belongs_to_it() -> None:
    labels = {"a": drawn((1, 1, 1)), "b": drawn(boxes=(box(1.4),)), "c": drawn(boxes=(box(11),)), "d": drawn()}
    first, other = nodules(labels)
    assert first.found_by == ("a", "b")
    assert [*first.boxes] == ["b"]
    # The box at 11 mm lies 10.1 mm from the voxel, beyond the limit of 10.
    assert (other.kind, other.number, other.found_by) == (LesionKind.BOX, 2, ("c",))
    assert (other.region, other.mask_ZYX, other.centre_mm_LPS) == (None, None, (11.0, 0.0, 0.0))


def test_a_box_within_a_long_lesion_belongs_to_it_however_far_from_its_centre() -> None:
    limits = {**NODULE.agreement, "nodule": replace(NODULE.agreement["nodule"], match_mm_max=0.5)}
    near = replace(NODULE, agreement=limits)
    labels = {"a": drawn(*((0, 0, x) for x in range(8))), "b": drawn(boxes=(box(7.4),)), "c": drawn(boxes=(box(7.6),))}
    first, other = nodules(labels, near)
    assert (first.found_by, other.found_by) == (("a", "b"), ("c",))


def test_of_two_boxes_of_one_reader_the_nearer_belongs_to_the_lesion() -> None:
    labels = {"a": drawn((0, 0, 0)), "b": drawn(boxes=(box(6), box(1)))}
    first, other = nodules(labels)
    assert (first.boxes["b"], other.boxes["b"]) == (box(1), box(6))


def test_boxes_alone_make_lesions_where_they_match_largest_first() -> None:
    labels = {"a": drawn(boxes=(box(0, 4), box(50, 8))), "b": drawn(boxes=(box(3, 6), box(90, 2)))}
    found = nodules(labels)
    assert [(lesion.centre_mm_LPS[0], lesion.found_by) for lesion in found] == [
        (50.0, ("a",)),
        (1.5, ("a", "b")),
        (90.0, ("b",)),
    ]
    assert {lesion.kind for lesion in found} == {LesionKind.BOX}


def test_boxes_matched_by_what_they_share_are_lesions_so() -> None:
    limits = {**NODULE.agreement, "nodule": AgreementLimits(match_iou_min=0.5, f1_min=0.8, dice_min=0.6, hd95_mm_max=5)}
    labels = {"a": drawn(boxes=(box(0),)), "b": drawn(boxes=(box(1),)), "c": drawn(boxes=(box(3),))}
    assert [lesion.found_by for lesion in nodules(labels, replace(NODULE, agreement=limits))] == [("a", "b"), ("c",)]


def test_points_are_lesions_of_their_structure() -> None:
    labels = {"a": drawn(points=(point(0), point(30))), "b": drawn(points=(point(4),))}
    found = lesions_of(NODULE, labels)
    assert [(lesion.structure, lesion.number, lesion.kind) for lesion in found] == [
        ("micronodule", 1, LesionKind.POINT),
        ("micronodule", 2, LesionKind.POINT),
    ]
    assert [lesion.found_by for lesion in found] == [("a", "b"), ("a",)]
    assert found[0].points == {"a": point(0), "b": point(4)}


def test_a_point_within_a_box_belongs_to_the_box() -> None:
    tasks = (Task.BOXES, Task.POINTS)
    structures = tuple(replace(structure, tasks=tasks) for structure in NODULE.structures)
    limits = dict.fromkeys(NODULE.agreement, AgreementLimits(match_mm_max=1.0, f1_min=0.5))
    both = replace(NODULE, structures=structures, agreement=limits, gate=replace(NODULE.gate, dice_min={}))
    inside, outside = (Point(structure="nodule", position_mm_LPS=(x, 0.0, 0.0)) for x in (4.9, 5.1))
    labels = {"a": drawn(boxes=(box(0, 10),)), "b": drawn(points=(inside,)), "c": drawn(points=(outside,))}
    assert [lesion.found_by for lesion in nodules(labels, both)] == [("a", "b"), ("c",)]


def test_of_very_many_lesions_the_largest_are_told_apart_and_all_are_counted() -> None:
    array = np.zeros((1, 61, 61), np.uint8)
    array[0, ::2, ::2] = 1  # 31 × 31 single voxels that touch nowhere
    array[0, 60, 58:61] = 1
    protocol = replace(NODULE, overlaps=())
    labels = {"a": label(array_ZYX=array), "b": label(array_ZYX=np.zeros_like(array))}
    found = nodules(labels, protocol)
    assert len(found) == OUTLINED_AT_MOST
    assert found[0].region == (slice(0, 1), slice(60, 61), slice(58, 61))
    outlines = outlines_of(protocol, labels)["nodule"]
    assert (len(outlines.voxels), outlines.told_apart) == (31 * 31 - 1, OUTLINED_AT_MOST)
    assert outlines.pattern_voxels.sum() == np.count_nonzero(array)


def test_a_dozen_and_a_half_readers_are_counted_like_two() -> None:
    labels = {f"r{number:02}": drawn((0, 0, 0), (0, 0, 1 + number % 2)) for number in range(18)}
    outlines = outlines_of(NODULE, labels)["nodule"]
    assert outlines.voxels.tolist() == [[2] * 18]
    assert sorted(outlines.pattern_voxels[0].tolist()) == [1, 1, 1]
    assert outlines.votes.tolist() == [0] * 9 + [2] + [0] * 8 + [1]
    assert outlines.dice_min == (0.5,)


@settings(max_examples=60, deadline=None)
@given(st.lists(arrays(np.uint8, (3, 4, 5), elements=st.sampled_from([0, 0, 0, 1])), min_size=1, max_size=3))
def test_every_outlined_voxel_is_in_one_lesion_and_the_readers_order_changes_nothing(drawn_: list[np.ndarray]) -> None:
    labels = {f"r{number}": label(array_ZYX=array) for number, array in enumerate(drawn_)}
    found = nodules(labels)
    covered = np.zeros((3, 4, 5), int)
    for lesion in found:
        assert lesion.region is not None
        assert lesion.mask_ZYX is not None
        covered[lesion.region] += lesion.mask_ZYX
        region = lesion.region
        has = {r for r in labels if (labels[r].layers_LZYX[0][region][lesion.mask_ZYX] == 1).any()}
        assert {*lesion.found_by} == has
    assert np.array_equal(covered, np.logical_or.reduce(drawn_).astype(int))
    sizes = [np.count_nonzero(lesion.mask_ZYX) for lesion in found]
    assert sizes == sorted(sizes, reverse=True)
    for order in permutations(labels):
        again = nodules({reader: labels[reader] for reader in order})
        assert [(a.number, a.region, a.centre_mm_LPS, a.found_by) for a in again] == [
            (b.number, b.region, b.centre_mm_LPS, b.found_by) for b in found
        ]
