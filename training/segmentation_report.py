"""The report of outlines: an evaluation and whose cases they are in, an `EvaluationReport` out.

Figures of the report, by structure and over all cases:

- "dice/…", "surface_dice/…": means, what was missed or invented counted as 0; "dice_mean", "surface_dice_mean" over the
  structures.
- "hd95_mm/…", "average_surface_distance_mm/…": medians over the cases where both sides have the structure, or neither.
- "volume_error/…": the mean share by which volumes differ from the truth's, too much and too little alike; and
  "volume_bias_ml/…" the mean of prediction less truth, which is 0 where too much and too little even out.
- "missed", "invented": how many structures the model left out that are there, and drew that are not.
- "calibration_error", "brier_score" (`training/probabilities.py`), where probabilities were asked for.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from labeling_protocols.strata import Strata
from training.case_figures import PerCase, Summary, Together
from training.evaluation import Evaluation, Score
from training.probabilities import Calibration, Reliability
from training.report import Champion, EvaluationReport, Figure, KnownCase, build_report

__all__ = ["TASK", "KnownCase", "OutlinedCase", "outline_values", "segmentation_report"]

TASK = "segmentation"
_MEDIANS = ("hd95_mm", "average_surface_distance_mm")
_TOTALS = ("missed", "invented")


@dataclass(frozen=True, kw_only=True)
class OutlinedCase:
    """One case's scores and, where probabilities were asked for, its sums by structure."""

    case: str
    patient: str
    strata: Strata
    scores: tuple[Score, ...]
    calibration: Mapping[str, Reliability] = field(default_factory=dict)


def segmentation_report(
    evaluation: Evaluation,
    cases: Iterable[KnownCase],
    *,
    model: str,
    test_set: str,
    champion: tuple[str, Evaluation] | None = None,
    human: Sequence[Figure] = (),
    task: str = TASK,
) -> EvaluationReport:
    """The report of these scores, compared with the champion of this name where one is given.

    Raises `ValueError` where a scored case is not among `cases`, or the champion was scored on others.
    """
    known = {one.case: one for one in cases}
    per_case = PerCase(outline_values, _summary)
    return build_report(
        _outlined(evaluation, known),
        Together(per_case, Calibration(lambda one: one.calibration)),
        task=task,
        model=model,
        test_set=test_set,
        principal="dice_mean",
        values=outline_values,
        champion=Champion(name=champion[0], scored=_outlined(champion[1], known)) if champion else None,
        human=human,
        notes=_notes(evaluation),
    )


def outline_values(one: OutlinedCase) -> dict[str, float | None]:
    """What one case has of each figure by itself."""
    scores = one.scores
    surfaces = [score.surface_dice for score in scores if score.surface_dice is not None]
    return {
        "dice_mean": statistics.fmean(score.dice for score in scores),
        **{f"dice/{score.structure}": score.dice for score in scores},
        "surface_dice_mean": statistics.fmean(surfaces) if surfaces else None,
        **{f"surface_dice/{score.structure}": score.surface_dice for score in scores},
        **{f"hd95_mm/{score.structure}": score.hd95_mm for score in scores},
        **{f"average_surface_distance_mm/{score.structure}": score.average_surface_distance_mm for score in scores},
        **{f"volume_error/{score.structure}": _size(score.volume_error) for score in scores},
        **{f"volume_bias_ml/{score.structure}": score.volume_difference_ml for score in scores},
        "missed": float(sum(score.missed for score in scores)),
        "invented": float(sum(score.invented for score in scores)),
    }


def _summary(name: str) -> Summary:
    kind = name.partition("/")[0]
    return Summary.MEDIAN if kind in _MEDIANS else Summary.TOTAL if kind in _TOTALS else Summary.MEAN


def _outlined(evaluation: Evaluation, known: Mapping[str, KnownCase]) -> list[OutlinedCase]:
    by_case = evaluation.by_case()
    if foreign := sorted(set(by_case) - set(known)):
        raise ValueError(
            f"{len(foreign)} of {len(by_case)} scored cases are not among the test set's, such as {foreign[0]}."
            " No report was made."
        )
    return [
        OutlinedCase(
            case=case,
            patient=known[case].patient,
            strata=known[case].strata,
            scores=tuple(scores),
            calibration=evaluation.calibration.get(case, {}),
        )
        for case, scores in by_case.items()
    ]


def _notes(evaluation: Evaluation) -> list[str]:
    tolerances = sorted(evaluation.tolerance_mm.items())
    return [f"surface Dice of {name}: surfaces within {mm:g} mm count as the same" for name, mm in tolerances]


def _size(value: float | None) -> float | None:
    return None if value is None else abs(value)
