"""Verdicts by hand-worked examples: what makes a dispute, how severe it is, and what its reasons say."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import permutations
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from labeling_protocols.agreement import average_surface_distance_mm, dice, hd95_mm, iou, surface_dice
from labeling_protocols.assessment import assess
from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Answer, Box, Label, Point
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.protocol_parts import AgreementLimits, AnswerAgreement, ChoiceQuestion
from labeling_protocols.records import LesionAgreement, LesionKind, PairAgreement, StructureAgreement, Verdict
from labeling_protocols.rows import verdict_of
from tests.store.drawn_labels import box, label, point

NODULE, ABDOMEN = (load_protocol(SHIPPED / f"{name}.yaml") for name in ("lung_nodule", "abdomen_ct"))
NAMES = {letter: letter.upper() for letter in "abcd"}


def said(verdict: Verdict) -> list[str]:
    return [reason.said(NAMES) for reason in verdict.reasons]


def limited(protocol: Protocol, structure: str, **limits: float | None) -> Protocol:
    of_structure = replace(protocol.agreement[structure], **limits)  # type: ignore[arg-type]  # any limit
    return replace(protocol, agreement={**protocol.agreement, structure: of_structure})


def test_reads_within_the_limits_have_no_reasons(protocol: Protocol) -> None:
    verdict = assess(protocol, {"a": label([(1, 1, 5), (2, 5, 9)]), "b": label([(1, 1, 5), (2, 5, 10)])})
    assert verdict.agreed
    assert verdict.severity == 0.0
    assert {pair.structure: round(pair.dice, 3) for pair in verdict.pairs if pair.dice is not None} == {
        "anterior": 1.0,
        "posterior": 0.889,
    }


def test_reads_beyond_the_limits_are_disputed_with_the_numbers_in_words(protocol: Protocol) -> None:
    verdict = assess(protocol, {"a": label([(1, 0, 3), (2, 3, 7)]), "b": label([(1, 0, 3), (2, 5, 9)])})
    assert said(verdict) == ["posterior: Dice 0.50 < 0.75 (A and B)"]
    assert verdict.reasons[0].readers == ("a", "b")
    assert verdict.severity == pytest.approx((0.75 - 0.5) / 0.75)


def test_who_is_called_what_does_not_decide_which_of_two_equal_reasons_stands_first(protocol: Protocol) -> None:
    """The first is as far from the second as from the third (Dice 0.5), and from the third in volume too."""
    asked = limited(protocol, "anterior", volume_difference_max=0.6, hd95_mm_max=9.0)
    drawn = [label([(1, start, stop)]) for start, stop in ((0, 4), (2, 6), (1, 9))]
    told = {
        tuple(reason.text for reason in assess(asked, dict(zip(names, drawn, strict=True))).reasons)
        for names in permutations("abc")
    }
    (texts,) = told
    assert texts[:2] == (
        "anterior: Dice 0.50 < 0.75 ({0} and {1})",
        "anterior: Dice 0.50 < 0.75, volumes differ by 67 % > 60 % ({0} and {1})",
    )


def test_every_number_of_a_pair_is_told(protocol: Protocol) -> None:
    # 36 voxels each of 1 mm³, 18 shared; a lesion that both have.
    verdict = assess(
        limited(protocol, "posterior", surface_dice_min=0.9, surface_tolerance_mm=1.0),
        {"a": label([(2, 4, 8)]), "b": label([(2, 6, 11)])},
    )
    pair = verdict.pairs[1]
    assert (pair.structure, pair.reader_a, pair.reader_b, pair.missed) == ("posterior", "a", "b", False)
    assert pair.dice == pytest.approx(2 * 18 / (36 + 45))
    assert pair.iou == pytest.approx(18 / 63)
    assert pair.volume_difference_ml == pytest.approx(-0.009)
    assert pair.hd95_mm == pytest.approx(2.55, abs=0.5)
    assert pair.surface_dice is not None
    assert pair.average_surface_distance_mm is not None
    assert (pair.f1, pair.findings_a, pair.findings_b, pair.findings_matched) == (1.0, 1, 1, 1)


def test_a_structure_left_out_is_the_severest_dispute_and_stands_first(protocol: Protocol) -> None:
    a = label([(1, 1, 5), (2, 5, 9)])
    verdict = assess(protocol, {"a": a, "b": label([(1, 3, 7)]), "c": a, "d": label([(1, 1, 5)])})
    assert verdict.severity == 1.0
    assert said(verdict)[0] == "posterior: B and D left it out and A and C outlined it"
    assert said(verdict)[1] == "anterior: Dice 0.50 < 0.75 (A and B)"
    missed = [(pair.reader_a, pair.reader_b) for pair in verdict.pairs if pair.missed]
    assert missed == [("a", "b"), ("a", "d"), ("b", "c"), ("c", "d")]


def test_numbers_that_look_alike_are_told_to_the_digit_that_differs(protocol: Protocol) -> None:
    strict = limited(protocol, "posterior", dice_min=0.8891)
    verdict = assess(strict, {"a": label([(1, 1, 5), (2, 5, 9)]), "b": label([(1, 1, 5), (2, 5, 10)])})
    assert said(verdict) == ["posterior: Dice 0.8889 < 0.8891 (A and B)"]


def test_each_limit_of_outlines_makes_a_dispute_of_its_own(protocol: Protocol) -> None:
    # 36 and 45 voxels from the same start: Dice 72/81; volumes differ by 9 of 40.5 on the mean; HD95 is 1 mm.
    reads = {"a": label([(1, 1, 5), (2, 5, 9)]), "b": label([(1, 1, 5), (2, 5, 10)])}

    def of(**limits: float) -> Verdict:
        return assess(limited(protocol, "posterior", **limits), reads)

    assert said(of(volume_difference_max=0.22)) == ["posterior: volumes differ by 22.2 % > 22.0 % (A and B)"]
    assert of(volume_difference_max=0.23).agreed
    assert said(of(hd95_mm_max=0.9)) == ["posterior: HD95 1.0 mm > 0.9 mm (A and B)"]
    assert of(surface_dice_min=1.0, surface_tolerance_mm=1.0).agreed
    disputed = of(surface_dice_min=0.9, surface_tolerance_mm=0.5)
    assert said(disputed) == [
        f"posterior: surface Dice at 0.5 mm {disputed.pairs[1].surface_dice:.2f} < 0.90 (A and B)"
    ]
    several = of(volume_difference_max=0.1, hd95_mm_max=0.5)
    assert said(several) == ["posterior: HD95 1.0 mm > 0.5 mm, volumes differ by 22 % > 10 % (A and B)"]
    assert several.severity == pytest.approx(1 - 0.1 / (9 / 40.5))


def test_other_limits_can_stand_in_for_the_protocols(protocol: Protocol) -> None:
    reads = {"a": label([(1, 1, 5), (2, 5, 9)]), "known truth": label([(1, 1, 5), (2, 7, 11)])}
    loose = {name: AgreementLimits(dice_min=0.5, hd95_mm_max=9.0) for name in protocol.values}
    assert not assess(protocol, reads).agreed
    assert assess(protocol, reads, loose).agreed


def test_a_reader_without_voxels_on_one_side_of_the_patient_is_told(protocol: Protocol) -> None:
    # X runs to the patient's left (LPS) and the middle lies between voxels 5 and 6.
    verdict = assess(protocol, {"a": label([(2, 3, 9)]), "b": label([(2, 6, 9)])})
    assert said(verdict) == ["posterior: Dice 0.67 < 0.75 (A and B)", "posterior: B has no voxels right of the midline"]
    mirrored = assess(protocol, {"a": label([(2, 3, 9)]), "b": label([(2, 3, 6)])})
    assert said(mirrored)[1] == "posterior: B has no voxels left of the midline"


def test_sides_are_the_patients_not_the_arrays(protocol: Protocol) -> None:
    # The array's z axis (its slowest) runs to the patient's right, y to the front, x downwards.
    geometry = Geometry(
        shape_ZYX=(6, 6, 6),
        spacing_mm_XYZ=(1.0, 1.0, 2.0),
        origin_mm_LPS=(300.0, -50.0, 7.0),
        direction_LPS=(0.0, 0.0, -1.0, 0.0, -1.0, 0.0, -1.0, 0.0, 0.0),
    )

    def drawn(*block: slice) -> Label:
        array = np.zeros((1, 6, 6, 6), np.uint8)
        array[0][block] = 2
        return Label(geometry=geometry, layers_LZYX=array)

    whole, start, end = slice(0, 6), slice(0, 3), slice(3, 6)
    everywhere = drawn(whole, whole, whole)
    assert said(assess(protocol, {"a": everywhere, "b": drawn(start, whole, whole)}))[1:] == [
        "posterior: B has no voxels right of the midline"
    ]
    assert said(assess(protocol, {"a": everywhere, "b": drawn(end, whole, whole)}))[1:] == [
        "posterior: B has no voxels left of the midline"
    ]
    assert len(said(assess(protocol, {"a": everywhere, "b": drawn(whole, whole, end)}))) == 1


def test_sides_are_no_matter_where_outlines_agree_or_little_lies_beyond_the_middle(protocol: Protocol) -> None:
    agreeing = assess(protocol, {"a": label([(2, 3, 7)]), "b": label([(2, 3, 6)])})
    assert agreeing.agreed
    slip = label([(2, 0, 6)])
    slip.layers_LZYX[0, 1, 1, 6:10] = 2  # 4 of 58 voxels are left of the middle
    assert said(assess(protocol, {"a": slip, "b": label([(2, 0, 3)])})) == [
        "posterior: Dice 0.64 < 0.75, HD95 4.3 mm > 4.0 mm (A and B)"
    ]


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
    surfaces = limited(protocol, "posterior", surface_dice_min=0.5, surface_tolerance_mm=1.0)
    for pair in assess(surfaces, reads).pairs:
        value = protocol.values[pair.structure]
        masks = [reads[reader].mask_ZYX(value) for reader in (pair.reader_a, pair.reader_b)]
        assert pair.dice == dice(*masks)
        assert pair.iou == iou(*masks)
        assert pair.hd95_mm == hd95_mm(*masks, (1.0, 1.0, 1.0))
        assert pair.average_surface_distance_mm == average_surface_distance_mm(*masks, (1.0, 1.0, 1.0))
        expected = surface_dice(*masks, (1.0, 1.0, 1.0), 1.0) if pair.structure == "posterior" else None
        assert pair.surface_dice == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 2)), min_size=2, max_size=4), st.randoms())
def test_the_order_of_the_readers_changes_no_verdict(drawn: list[np.ndarray], order: Random) -> None:
    protocol = load_protocol(SHIPPED / "hippocampus.yaml")
    reads = {f"r{number}": label(array_ZYX=array) for number, array in enumerate(drawn)}
    shuffled = {reader: reads[reader] for reader in order.sample([*reads], len(reads))}
    first, again = assess(protocol, reads), assess(protocol, shuffled)
    assert first == again
    assert first.agreed == (first.severity == 0.0)
    assert 0.0 <= first.severity <= 1.0


def nodules(*x_mm: float) -> Label:
    return label(boxes=[box(x) for x in x_mm])


def test_boxes_nearer_than_the_limit_are_the_same_finding() -> None:
    verdict = assess(NODULE, {"a": nodules(10, 50), "b": nodules(15, 59)})
    assert verdict.agreed
    assert [pair.f1 for pair in verdict.pairs] == [1.0, 1.0]
    assert (verdict.pairs[0].findings_a, verdict.pairs[0].findings_b, verdict.pairs[0].findings_matched) == (2, 2, 2)


def test_a_finding_only_one_reader_boxed_lowers_f1_and_is_named() -> None:
    # 1 of 1 and 3 in common: F1 2·1 / (1 + 3).
    verdict = assess(NODULE, {"a": nodules(10), "b": nodules(10, 50, 90)})
    assert said(verdict) == [
        "nodule: F1 of findings 0.50 < 0.80 (A and B)",
        "nodule: lesion 2 was found by 1 of 2 readers (B)",
        "nodule: lesion 3 was found by 1 of 2 readers (B)",
    ]
    assert verdict.severity == pytest.approx((0.8 - 0.5) / 0.8)


def test_boxes_can_be_matched_by_what_they_share() -> None:
    by_iou = limited(NODULE, "nodule", match_mm_max=None, match_iou_min=0.5)
    assert assess(by_iou, {"a": nodules(10), "b": nodules(11)}).agreed  # 48 of 80 mm³
    assert assess(by_iou, {"a": nodules(10), "b": nodules(12)}).pairs[0].f1 == 0.0  # 32 of 96 mm³


def test_readers_who_found_nothing_agree_and_one_who_did_is_the_severest_dispute() -> None:
    assert assess(NODULE, {"a": nodules(), "b": nodules()}).agreed
    assert assess(NODULE, {"a": nodules(), "b": nodules(10)}).severity == 1.0


def test_one_box_is_matched_with_one_box_only() -> None:
    pair = assess(NODULE, {"a": nodules(10), "b": nodules(8, 12)}).pairs[0]
    assert pair.f1 == pytest.approx(2 / 3)


def test_points_count_like_boxes_and_by_protocol_need_not_agree() -> None:
    a, b = (label(points=[point(x) for x in places]) for places in ((10.0,), (10.0, 80.0)))
    verdict = assess(NODULE, {"a": a, "b": b})
    assert verdict.pairs[1].f1 == pytest.approx(2 / 3)
    assert verdict.agreed
    strict = limited(NODULE, "micronodule", f1_min=0.9)
    assert said(assess(strict, {"a": a, "b": b})) == [
        "micronodule: F1 of findings 0.67 < 0.90 (A and B)",
        "micronodule: lesion 2 was found by 1 of 2 readers (B)",
    ]


def test_a_structure_that_is_only_pointed_at_has_no_outline_numbers() -> None:
    pair = assess(NODULE, {"a": nodules(), "b": nodules()}).pairs[1]
    found = PairAgreement(
        structure="micronodule", reader_a="a", reader_b="b", f1=1.0, findings_a=0, findings_b=0, findings_matched=0
    )
    assert pair == found


def four_readers(*of_d: tuple[int, int, int]) -> dict[str, Label]:
    three = label([(1, 0, 3), (1, 4, 6), (1, 7, 9)])
    return {"a": three, "b": three, "c": three, "d": label([(1, 0, 3), (1, 4, 6), (1, 7, 9), *of_d])}


def test_a_nodule_that_one_of_four_outlined_is_a_dispute_that_names_it() -> None:
    verdict = assess(NODULE, four_readers((1, 10, 11)))
    assert said(verdict) == ["nodule: lesion 4 was found by 1 of 4 readers (D)"]
    # Three in common of three and four: F1 6/7.
    assert verdict.severity == pytest.approx(1 / 7)
    assert verdict.lesions[3] == LesionAgreement(
        structure="nodule",
        number=4,
        kind=LesionKind.OUTLINE,
        centre_mm_LPS=(10.0, 2.0, 2.0),
        found_by=("d",),
        volumes_ml={"a": 0.0, "b": 0.0, "c": 0.0, "d": pytest.approx(0.009)},
        dice_min=0.0,
    )
    assert [lesion.dice_min for lesion in verdict.lesions] == [1.0, 1.0, 1.0, 0.0]
    assert assess(NODULE, four_readers()).agreed
    assert assess(limited(NODULE, "nodule", lesion_f1_min=0.85), four_readers((1, 10, 11))).agreed


def test_a_lesion_that_a_reader_boxed_and_did_not_outline_was_found_and_not_outlined_by_him() -> None:
    reads = four_readers((1, 10, 11))
    reads["c"] = label([(1, 0, 3), (1, 4, 6), (1, 7, 9)], boxes=[box(10, 1.0, y_mm=2.0)])
    loose = limited(NODULE, "nodule", f1_min=0.0)
    verdict = assess(loose, reads)
    assert said(verdict) == ["nodule: lesion 4 was outlined by 1 of 4 readers (D)"]
    assert verdict.lesions[3].found_by == ("c", "d")


def test_lesions_within_a_structure_have_the_lowest_dice_of_any_two_readers() -> None:
    reads = {
        "a": label([(1, 0, 4), (1, 6, 10)]),
        "b": label([(1, 0, 4), (1, 7, 11)]),
        "c": label([(1, 0, 3), (1, 6, 10)]),
    }
    verdict = assess(NODULE, reads)
    # The second lesion of a and b (36 each) shares 27; the first of a and c (36 and 27) shares 27.
    by_place = {lesion.centre_mm_LPS[0]: lesion.dice_min for lesion in verdict.lesions}
    assert by_place == {8.0: pytest.approx(0.75), 1.5: pytest.approx(54 / 63)}


def test_of_very_many_lesions_ten_are_named_and_the_others_counted() -> None:
    array = np.zeros((1, 31, 31), np.uint8)
    array[0, ::2, ::2] = 1
    whole = np.zeros_like(array)
    whole[0, 0, 0] = 1
    verdict = assess(NODULE, {"a": label(array_ZYX=array), "b": label(array_ZYX=whole)})
    lesions = [words for words in said(verdict) if "lesion" in words]
    assert len(lesions) == 11
    assert lesions[-1] == "nodule: 245 further lesions were not found by all readers"


def test_all_readers_together_are_measured_over_what_any_of_them_outlined() -> None:
    # Three readers over 5 steps of 9 voxels: 3 steps all, 1 step two, 1 step one. Observed (3 + 1/3 + 1/3) / 5.
    reads = {"a": label([(1, 0, 5)]), "b": label([(1, 0, 4)]), "c": label([(1, 0, 3)])}
    inside = 12 / 15
    by_chance = inside**2 + (1 - inside) ** 2
    anterior, posterior = assess(load_protocol(SHIPPED / "hippocampus.yaml"), reads).structures
    assert anterior.fleiss_kappa == pytest.approx((11 / 15 - by_chance) / (1 - by_chance))
    assert anterior.krippendorff_alpha is not None
    assert posterior == StructureAgreement(structure="posterior", fleiss_kappa=None, krippendorff_alpha=None)


def answered(**readers: Mapping[str, Answer]) -> dict[str, Label]:
    return {reader: label(answers=answers) for reader, answers in readers.items()}


def test_numbers_within_their_tolerance_agree_and_others_are_told_in_order_of_size() -> None:
    assert assess(NODULE, answered(a={"malignancy": 3}, b={"malignancy": 4})).agreed
    verdict = assess(NODULE, answered(a={"malignancy": 5}, b={"malignancy": 2}, c={"malignancy": 4}))
    assert said(verdict) == ["malignancy: answers 2, 4, 5, more than 1 apart"]
    assert verdict.severity == pytest.approx((3 - 1) / (4 - 1))


def test_an_answer_without_a_majority_is_a_dispute_by_its_protocol() -> None:
    def seen(*answers: str) -> dict[str, Label]:
        return answered(**{f"r{number}": {"image_quality": answer} for number, answer in enumerate(answers)})

    assert assess(NODULE, seen("everywhere", "everywhere", "nowhere")).agreed
    verdict = assess(NODULE, seen("nowhere", "everywhere"))
    assert said(verdict) == ["image_quality: no answer has a majority among everywhere, nowhere"]


def test_exact_answers_must_be_equal_and_free_ones_never_are_a_dispute() -> None:
    question = next(question for question in NODULE.questions if question.name == "image_quality")
    reads = answered(a={"image_quality": "nowhere"}, b={"image_quality": "everywhere"}, c={"image_quality": "nowhere"})
    exact = replace(NODULE, questions=(replace(question, agreement=AnswerAgreement.EXACT),))
    assert said(assess(exact, reads)) == ["image_quality: answers everywhere, nowhere, nowhere"]
    free = replace(NODULE, questions=(replace(question, agreement=AnswerAgreement.ANY),))
    assert assess(free, reads).agreed


def test_an_answer_that_looks_like_a_place_holder_is_told_as_it_is() -> None:
    odd = ChoiceQuestion(name="odd", title="?", kind="choice", options=("{0}", "{{x"))
    verdict = assess(replace(NODULE, questions=(odd,)), answered(a={"odd": "{0}"}, b={"odd": "{{x"}))
    assert said(verdict) == ["odd: answers {0}, {{x"]


def test_a_question_left_open_is_no_disagreement_and_remarks_never_are() -> None:
    assert assess(NODULE, answered(a={"malignancy": 5}, b={})).agreed
    assert assess(NODULE, answered(a={"remark": "hilum"}, b={"remark": "apex"})).agreed


def test_the_other_characteristics_of_a_nodule_never_are_a_dispute() -> None:
    assert assess(NODULE, answered(a={"subtlety": 1, "texture": 1}, b={"subtlety": 5, "texture": 5})).agreed


def test_reasons_hold_no_reader_but_as_a_place_holder() -> None:
    verdict = assess(NODULE, {"ann": nodules(10), "ben": label(boxes=[box(70)], answers={"malignancy": 1})})
    assert not any(name in reason.text for reason in verdict.reasons for name in ("ann", "ben"))
    assert verdict.reasons[0].said({}) == "nodule: F1 of findings 0.00 < 0.80 (a reader and a reader)"


def test_a_verdict_survives_being_kept() -> None:
    verdict = assess(NODULE, {**four_readers((1, 10, 11)), "e": nodules(10)})
    assert verdict.reasons
    assert verdict_of(json.loads(json.dumps(asdict(verdict)))) == verdict


@settings(max_examples=60, deadline=None)
@given(*(st.lists(st.floats(0, 60), max_size=5) for _ in range(2)))
def test_f1_is_one_with_itself_and_the_same_from_both_sides(a: list[float], b: list[float]) -> None:
    def boxes_at(places: list[float]) -> tuple[Box, ...]:
        return tuple(box(x) for x in places)

    def f1(x: Label, y: Label) -> float | None:
        return assess(NODULE, {"a": x, "b": y}).pairs[0].f1

    one, other = label(boxes=boxes_at(a)), label(boxes=boxes_at(b))
    assert f1(one, one) == 1.0
    assert f1(one, other) == f1(other, one)


def test_points_of_one_structure_are_no_findings_of_another() -> None:
    stray = label(points=[Point(structure="nodule", position_mm_LPS=(0.0, 0.0, 0.0))])
    assert assess(NODULE, {"a": stray, "b": nodules()}).pairs[1].f1 == 1.0
