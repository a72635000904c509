"""Agreement by hand-worked numbers, and against MONAI's definitions where both define them."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_hausdorff_distance

from labeling_protocols.agreement import assess, dice, hd95_mm
from labeling_protocols.label import Answer, Box, Label, Point
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.protocol_parts import AgreementLimits, AnswerAgreement
from tests.store.drawn_labels import box, label, point

SPACING = (2.0, 1.0, 0.5)
NODULE, ABDOMEN = (load_protocol(SHIPPED / f"{name}.yaml") for name in ("lung_nodule", "abdomen_ct"))


def mask(*voxels: tuple[int, int, int]) -> np.ndarray:
    array = np.zeros((5, 5, 5), dtype=bool)
    for voxel in voxels:
        array[voxel] = True
    return array


def test_dice_of_two_voxels_of_which_one_is_shared_is_a_half() -> None:
    assert dice(mask((0, 0, 0), (0, 0, 1)), mask((0, 0, 1), (0, 0, 2))) == 0.5


def test_two_empty_masks_agree_and_one_empty_mask_is_a_miss() -> None:
    assert (dice(mask(), mask()), hd95_mm(mask(), mask(), SPACING)) == (1.0, 0.0)
    assert (dice(mask(), mask((1, 1, 1))), hd95_mm(mask(), mask((1, 1, 1)), SPACING)) == (0.0, None)


def test_hd95_counts_millimetres_along_each_axis() -> None:
    origin = mask((0, 0, 0))
    assert hd95_mm(origin, mask((2, 0, 0)), SPACING) == 4.0
    assert hd95_mm(origin, mask((0, 2, 0)), SPACING) == 2.0
    assert hd95_mm(origin, mask((0, 0, 2)), SPACING) == 1.0


@settings(max_examples=60, deadline=None)
@given(arrays(bool, (4, 5, 6)), arrays(bool, (4, 5, 6)))
def test_hd95_is_monais_where_both_masks_have_voxels(a: np.ndarray, b: np.ndarray) -> None:
    a[1, 1, 1] = b[2, 3, 4] = True
    ours = hd95_mm(a, b, SPACING)
    batch = [torch.from_numpy(np.pad(x, 1).astype(np.float32))[None, None] for x in (a, b)]
    theirs = compute_hausdorff_distance(*batch, include_background=True, percentile=95, spacing=list(SPACING))
    assert ours == pytest.approx(float(theirs), abs=1e-4)


def test_reads_within_the_limits_have_no_reasons(protocol: Protocol) -> None:
    verdict = assess(protocol, {"a": label([(1, 1, 5), (2, 5, 9)]), "b": label([(1, 1, 5), (2, 5, 10)])})
    assert verdict.agreed
    assert {pair.structure: round(pair.dice, 3) for pair in verdict.pairs if pair.dice is not None} == {
        "anterior": 1.0,
        "posterior": 0.889,
    }


def test_reads_beyond_the_limits_are_disputed_with_the_numbers_in_words(protocol: Protocol) -> None:
    verdict = assess(protocol, {"a": label([(1, 1, 5), (2, 5, 9)]), "b": label([(1, 1, 5), (2, 7, 11)])})
    assert verdict.reasons == ("posterior: Dice 0.50 < 0.75",)


def test_a_structure_left_out_is_the_severest_dispute(protocol: Protocol) -> None:
    verdict = assess(protocol, {"a": label([(1, 1, 5), (2, 5, 9)]), "b": label([(1, 1, 5)])})
    assert verdict.severity == 1.0
    assert "left out" in verdict.reasons[0]


def test_other_limits_can_stand_in_for_the_protocols(protocol: Protocol) -> None:
    reads = {"a": label([(1, 1, 5), (2, 5, 9)]), "known truth": label([(1, 1, 5), (2, 7, 11)])}
    loose = {name: AgreementLimits(dice_min=0.5, hd95_mm_max=9.0) for name in protocol.values}
    assert not assess(protocol, reads).agreed
    assert assess(protocol, reads, loose).agreed


def test_structures_in_other_layers_are_compared_as_structures() -> None:
    # The tumour lies inside the liver for both readers; one drew it in the first layer.
    a = label([(1, 1, 9)], [(6, 2, 5)])
    b = label([(6, 2, 5)], [(1, 1, 9)])
    verdict = assess(ABDOMEN, {"a": a, "b": b})
    assert verdict.agreed
    assert {pair.dice for pair in verdict.pairs} == {1.0}
    assert not assess(ABDOMEN, {"a": a, "b": label([(1, 1, 2), (6, 2, 5), (1, 5, 9)])}).agreed  # cut out of the liver


@settings(max_examples=40, deadline=None)
@given(st.lists(arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 2)), min_size=2, max_size=4))
def test_a_verdicts_numbers_are_those_of_the_whole_masks(protocol: Protocol, drawn: list[np.ndarray]) -> None:
    reads = {f"r{number}": label(array_ZYX=array) for number, array in enumerate(drawn)}
    for pair in assess(protocol, reads).pairs:
        value = protocol.values[pair.structure]
        masks = [reads[reader].mask_ZYX(value) for reader in (pair.reader_a, pair.reader_b)]
        assert pair.dice == dice(*masks)
        assert pair.hd95_mm == hd95_mm(*masks, (1.0, 1.0, 1.0))


def nodules(*x_mm: float) -> Label:
    return label(boxes=[box(x) for x in x_mm])


def test_boxes_nearer_than_the_limit_are_the_same_finding() -> None:
    verdict = assess(NODULE, {"a": nodules(10, 50), "b": nodules(15, 59)})
    assert verdict.agreed
    assert [pair.f1 for pair in verdict.pairs] == [1.0, 1.0]


def test_a_finding_only_one_reader_boxed_lowers_f1_and_is_told() -> None:
    # 1 of 1 and 3 in common: F1 2·1 / (1 + 3).
    verdict = assess(NODULE, {"a": nodules(10), "b": nodules(10, 50, 90)})
    assert verdict.reasons == ("nodule: F1 of findings 0.50 < 0.80",)
    assert verdict.severity == pytest.approx((0.8 - 0.5) / 0.8)


def test_readers_who_found_nothing_agree_and_one_who_did_is_the_severest_dispute() -> None:
    assert assess(NODULE, {"a": nodules(), "b": nodules()}).agreed
    assert assess(NODULE, {"a": nodules(), "b": nodules(10)}).severity == 1.0


def test_one_box_is_matched_with_one_box_only() -> None:
    pair = assess(NODULE, {"a": nodules(10), "b": nodules(8, 12)}).pairs[0]
    assert pair.f1 == pytest.approx(2 / 3)


def test_as_many_boxes_as_possible_are_matched_even_where_a_nearer_pair_is_given_up() -> None:
    # 9 lies nearest to 8, and taking that pair would leave 0 alone with 17 mm to the other.
    pair = assess(NODULE, {"a": nodules(0, 9), "b": nodules(8, 17)}).pairs[0]
    assert pair.f1 == 1.0


def test_points_count_like_boxes_and_by_protocol_need_not_agree() -> None:
    a, b = (label(points=[point(x) for x in places]) for places in ((10.0,), (10.0, 80.0)))
    verdict = assess(NODULE, {"a": a, "b": b})
    assert verdict.pairs[1].f1 == pytest.approx(2 / 3)
    assert verdict.agreed
    limits = {**NODULE.agreement, "micronodule": AgreementLimits(f1_min=0.9, match_mm_max=5.0)}
    strict = replace(NODULE, agreement=limits)
    assert assess(strict, {"a": a, "b": b}).reasons == ("micronodule: F1 of findings 0.67 < 0.90",)


def test_a_structure_that_is_only_pointed_at_has_no_dice() -> None:
    pair = assess(NODULE, {"a": nodules(), "b": nodules()}).pairs[1]
    assert (pair.structure, pair.dice, pair.hd95_mm) == ("micronodule", None, None)


def answered(**readers: Mapping[str, Answer]) -> dict[str, Label]:
    return {reader: label(answers=answers) for reader, answers in readers.items()}


def test_numbers_within_their_tolerance_agree_and_others_are_told_in_order_of_size() -> None:
    assert assess(NODULE, answered(a={"malignancy": 3}, b={"malignancy": 4})).agreed
    verdict = assess(NODULE, answered(a={"malignancy": 5}, b={"malignancy": 2}, c={"malignancy": 4}))
    assert verdict.reasons == ("malignancy: answers 2, 4, 5, more than 1 apart",)
    assert verdict.severity == pytest.approx((3 - 1) / (4 - 1))


def test_an_answer_without_a_majority_is_a_dispute_by_its_protocol() -> None:
    def seen(*answers: str) -> dict[str, Label]:
        return answered(**{f"r{number}": {"image_quality": answer} for number, answer in enumerate(answers)})

    assert assess(NODULE, seen("everywhere", "everywhere", "nowhere")).agreed
    verdict = assess(NODULE, seen("nowhere", "everywhere"))
    assert verdict.reasons == ("image_quality: no answer has a majority among everywhere, nowhere",)


def test_exact_answers_must_be_equal_and_free_ones_never_are_a_dispute() -> None:
    question = NODULE.questions[1]
    reads = answered(a={"image_quality": "nowhere"}, b={"image_quality": "everywhere"}, c={"image_quality": "nowhere"})
    exact = replace(NODULE, questions=(replace(question, agreement=AnswerAgreement.EXACT),))
    assert assess(exact, reads).reasons == ("image_quality: answers everywhere, nowhere, nowhere",)
    free = replace(NODULE, questions=(replace(question, agreement=AnswerAgreement.ANY),))
    assert assess(free, reads).agreed


def test_a_question_left_open_is_no_disagreement_and_remarks_never_are() -> None:
    assert assess(NODULE, answered(a={"malignancy": 5}, b={})).agreed
    assert assess(NODULE, answered(a={"remark": "hilum"}, b={"remark": "apex"})).agreed


def test_reasons_name_no_reader() -> None:
    verdict = assess(NODULE, {"ann": nodules(10), "ben": label(boxes=[box(70)], answers={"malignancy": 1})})
    assert not any(name in reason for reason in verdict.reasons for name in ("ann", "ben"))


def boxes_at(places: list[float]) -> tuple[Box, ...]:
    return tuple(box(x) for x in places)


@settings(max_examples=60, deadline=None)
@given(*(st.lists(st.floats(0, 60), max_size=5) for _ in range(2)))
def test_f1_is_one_with_itself_and_the_same_from_both_sides(a: list[float], b: list[float]) -> None:
    def f1(x: Label, y: Label) -> float | None:
        return assess(NODULE, {"a": x, "b": y}).pairs[0].f1

    one, other = label(boxes=boxes_at(a)), label(boxes=boxes_at(b))
    assert f1(one, one) == 1.0
    assert f1(one, other) == f1(other, one)


def test_points_of_one_structure_are_no_findings_of_another() -> None:
    stray = label(points=[Point(structure="nodule", position_mm_LPS=(0.0, 0.0, 0.0))])
    assert assess(NODULE, {"a": stray, "b": nodules()}).pairs[1].f1 == 1.0
