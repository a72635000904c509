"""The report of outlines: its figures by hand, and those of the evaluation it is made of."""

import pytest

from labeling_protocols.strata import Strata
from training.evaluation import Evaluation, Score
from training.probabilities import reliability
from training.report import Figure
from training.segmentation_report import OutlinedCase, segmentation_report


def score(case: str, structure: str, dice: float, *, truth: int = 100, predicted: int = 100) -> Score:
    both = truth > 0 and predicted > 0
    return Score(
        case=case,
        structure=structure,
        dice=dice,
        hd95_mm=10.0 * (1.0 - dice) if both else None,
        truth_voxels=truth,
        predicted_voxels=predicted,
        surface_dice=dice,
        average_surface_distance_mm=1.0 - dice if both else None,
        volume_difference_ml=(predicted - truth) / 1000,
    )


CASES = [
    OutlinedCase(case=case, patient=patient, strata=Strata(maker=maker), scores=())
    for case, patient, maker in (("a", "P0", "GE"), ("b", "P0", "GE"), ("c", "P1", "Siemens"))
]
EVALUATION = Evaluation(
    scores=(
        score("a", "anterior", 0.8, predicted=120),
        score("a", "posterior", 0.9, predicted=80),
        score("b", "anterior", 0.7, predicted=90),
        score("b", "posterior", 0.0, predicted=0),
        score("c", "anterior", 0.9),
        score("c", "posterior", 0.0, truth=0),
    ),
    tolerance_mm={"anterior": 1.0, "posterior": 2.0},
    calibration={case: {"anterior": reliability([0.9, 0.4], [True, False])} for case in "abc"},
)


def value(figure: Figure | None) -> float | None:
    assert figure is not None
    return figure.value


def test_figures_are_those_worked_out_by_hand() -> None:
    report = segmentation_report(EVALUATION, CASES, model="m", test_set="s")
    found = {figure.name: (figure.value, figure.n) for figure in report.figures}
    assert found == {
        "dice_mean": (pytest.approx(0.55), 3),
        "dice/anterior": (pytest.approx(0.8), 3),
        "dice/posterior": (pytest.approx(0.3), 3),
        "surface_dice_mean": (pytest.approx(0.55), 3),
        "surface_dice/anterior": (pytest.approx(0.8), 3),
        "surface_dice/posterior": (pytest.approx(0.3), 3),
        "hd95_mm/anterior": (pytest.approx(2.0), 3),
        "hd95_mm/posterior": (pytest.approx(1.0), 1),
        "average_surface_distance_mm/anterior": (pytest.approx(0.2), 3),
        "average_surface_distance_mm/posterior": (pytest.approx(0.1), 1),
        "volume_error/anterior": (pytest.approx((0.2 + 0.1 + 0.0) / 3), 3),
        "volume_error/posterior": (pytest.approx((0.2 + 1.0) / 2), 2),
        "volume_bias_ml/anterior": (pytest.approx((0.02 - 0.01) / 3), 3),
        "volume_bias_ml/posterior": (pytest.approx((-0.02 - 0.1 + 0.1) / 3), 3),
        "missed": (1.0, 3),
        "invented": (1.0, 3),
        "calibration_error": (pytest.approx((0.1 + 0.4) / 2), 3),
        "calibration_error/anterior": (pytest.approx((0.1 + 0.4) / 2), 3),
        "brier_score": (pytest.approx((0.01 + 0.16) / 2), 3),
        "brier_score/anterior": (pytest.approx((0.01 + 0.16) / 2), 3),
    }
    assert (report.cases, report.patients, report.missed, report.invented) == (3, 2, 1, 1)


def test_the_report_and_the_evaluation_say_the_same() -> None:
    report = segmentation_report(EVALUATION, CASES, model="m", test_set="s")
    assert value(report.figure("dice_mean")) == pytest.approx(EVALUATION.dice_mean)
    for name, dice in EVALUATION.dice.items():
        assert value(report.figure(f"dice/{name}")) == dice
    assert [case for case, _ in report.worst_first()] == list(EVALUATION.case_dice())


def test_tolerances_and_subgroups_are_told() -> None:
    report = segmentation_report(EVALUATION, CASES, model="m", test_set="s")
    assert report.notes == (
        "surface Dice of anterior: surfaces within 1 mm count as the same",
        "surface Dice of posterior: surfaces within 2 mm count as the same",
    )
    by_maker = {group.value: group for group in report.subgroups}
    assert by_maker["GE"].figures["missed"] == 1.0
    assert by_maker["Siemens"].figures["invented"] == 1.0


def test_one_more_miss_than_the_champion_is_seen() -> None:
    better = Evaluation(scores=tuple(s if s.case != "b" else score("b", s.structure, 0.7) for s in EVALUATION.scores))
    report = segmentation_report(EVALUATION, CASES, model="m", test_set="s", champion=("n", better))
    assert report.comparison is not None
    differences = {figure.name: figure.value for figure in report.comparison.differences}
    assert differences["missed"] == 1.0
    assert differences["dice/posterior"] == pytest.approx(-0.7 / 3)
    assert differences["calibration_error"] is None  # the champion's probabilities were not asked for


def test_a_case_that_is_not_of_the_test_set_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 3 scored cases are not among the test set's, such as c"):
        segmentation_report(EVALUATION, CASES[:2], model="m", test_set="s")
