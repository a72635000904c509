"""The gate: every limit refuses with its own reason, and just enough passes."""

from typing import Any

import pytest

from labeling_protocols.protocol import GateLimits
from training.evaluation import Evaluation, Score
from training.gate import Decision, GateReport, decide, report

LIMITS = GateLimits(dice_mean_min=0.7, dice_min={"anterior": 0.6, "posterior": 0.5}, missed_max=1, dice_drop_max=0.05)


def evaluation(anterior: float = 0.9, posterior: float = 0.9, *, missed: int = 0, cases: int = 4) -> Evaluation:
    """`cases` alike cases; in the first `missed` of them the model drew no anterior."""
    scores = []
    for number in range(cases):
        drawn = 0 if number < missed else 10
        common: dict[str, Any] = {"case": f"c{number}", "hd95_mm": 1.0, "truth_voxels": 10}
        scores.append(Score(structure="anterior", dice=anterior, predicted_voxels=drawn, **common))
        scores.append(Score(structure="posterior", dice=posterior, predicted_voxels=10, **common))
    return Evaluation(scores=tuple(scores))


def test_a_candidate_within_all_limits_passes() -> None:
    assert decide(LIMITS, evaluation(), None) == Decision(passed=True, reasons=())


def test_exactly_the_limits_pass() -> None:
    limits = GateLimits(
        dice_mean_min=0.75, dice_min={"anterior": 0.5, "posterior": 1.0}, missed_max=1, dice_drop_max=0.25
    )
    assert decide(limits, evaluation(0.5, 1.0, missed=1), evaluation(1.0, 1.0)).passed


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (evaluation(0.65, 0.65), "mean Dice 0.650 < 0.700"),
        (evaluation(0.59, 0.95), "anterior: Dice 0.590 < 0.600"),
        (evaluation(0.99, 0.49), "posterior: Dice 0.490 < 0.500"),
        (evaluation(missed=2), "2 structure(s) missed, at most 1 allowed"),
        (Evaluation(scores=()), "no held-out case was scored"),
        (Evaluation(scores=evaluation().scores[::2]), "posterior: not scored"),
    ],
)
def test_each_limit_refuses_with_its_own_reason_alone(candidate: Evaluation, reason: str) -> None:
    assert decide(LIMITS, candidate, None) == Decision(passed=False, reasons=(reason,))


def test_a_candidate_too_far_below_the_champion_is_refused() -> None:
    decision = decide(LIMITS, evaluation(0.8, 0.8), evaluation(0.86, 0.86))
    assert decision.reasons == ("mean Dice 0.800 is more than 0.050 below the champion's 0.860",)
    assert decide(LIMITS, evaluation(0.8, 0.8), evaluation(0.84, 0.84)).passed


def test_a_champion_scored_on_other_cases_cannot_be_compared_with() -> None:
    decision = decide(LIMITS, evaluation(), evaluation(cases=3))
    assert decision.reasons == ("the champion was scored on other cases than the candidate",)


def test_all_reasons_are_given_at_once() -> None:
    assert len(decide(LIMITS, evaluation(0.1, 0.1, missed=4), evaluation()).reasons) == 5


def test_a_report_survives_its_file() -> None:
    candidate = evaluation(0.1)
    kept = report(
        decide(LIMITS, candidate, None),
        candidate,
        None,
        protocol="hippocampus",
        run_id="r",
        snapshot="s",
        bundle_sha256="b",
        champion_number=None,
    )
    assert GateReport.from_json(kept.as_json()) == kept
    assert not kept.decision.passed
