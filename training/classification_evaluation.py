"""How well a model answers a question about cases it has not seen: probabilities and true answers in, a report out.

Figures of the report; each option of the question is set against all others. Of a question with two options they are
of the second, its positive answer ("yes").

- "auc/…": area under the ROC curve, ties counting half (Hanley & McNeil 1982, Radiology 143:29); "auc_mean" over the
  options. "average_precision/…": the step-wise area under the precision-recall curve.
- "accuracy", "sensitivity/…", "specificity/…": of the most probable answer; "probability_of_truth": the mean
  probability of the true one.
- "sensitivity_at_youden/…", "specificity_at_youden/…": at the threshold where their sum is largest (Youden 1950), and
  "specificity_at_0.95_sensitivity/…": the best that keeps so much sensitivity. Both thresholds are chosen on the same
  cases, which flatters a model; the intervals choose them anew in every draw.
- "weighted_kappa": quadratic weights (Cohen 1968), of the most probable answers; only where options have an order.
- "calibration_error/…", "brier_score/…", and their means over the options (`training/probabilities.py`).

Where a figure needs two kinds of cases and there is one, it is not defined, and None.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.strata import Strata
from training.case_figures import PerCase, Together
from training.intervals import Drawn, Statistic, Times
from training.probabilities import Calibration, Reliability, reliability
from training.report import Champion, EvaluationReport, Figure, build_report
from training.roc import Curve, curve_of
from training.segmentation_report import KnownCase

TASK = "classification"
SENSITIVITY = 0.95  # at which the specificity is told
PRINCIPAL = "probability_of_truth"

_Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A model's answers to one question: `of` each case its true answer and the probability of every option.

    `unanswered` cases were left out, because their truth has no answer to the question.
    """

    question: str
    options: tuple[str, ...]
    of: Mapping[str, tuple[str, Mapping[str, float]]]
    unanswered: int = 0

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Answers":
        stored = json.loads(text)
        of = {case: (truth, probabilities) for case, (truth, probabilities) in stored["of"].items()}
        return cls(**{**stored, "options": tuple(stored["options"]), "of": of})


@dataclass(frozen=True, kw_only=True)
class AnsweredCase:
    """One case's true answer, and the probability the model gave each option."""

    case: str
    patient: str
    strata: Strata
    truth: str
    probabilities: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """What calling a case positive from a probability of `threshold` on leads to; at infinity none is called so."""

    threshold: float
    sensitivity: float
    specificity: float


def classification_report(
    answers: Answers,
    cases: Iterable[KnownCase],
    *,
    ordinal: bool,
    model: str,
    test_set: str,
    champion: tuple[str, Answers] | None = None,
    human: Sequence[Figure] = (),
) -> EvaluationReport:
    """The report of these answers; `champion` is that version's name and its answers to the same cases.

    `ordinal` says that the options have an order. Raises `ValueError` for a case that is not among `cases` and for a
    truth or probabilities that are not of the options.
    """
    known, options = {one.case: one for one in cases}, answers.options
    return build_report(
        answered_cases(answers, known),
        classification_statistic(options, ordinal=ordinal),
        task=TASK,
        model=model,
        test_set=test_set,
        principal=PRINCIPAL,
        values=lambda one: answer_values(one, options),
        champion=Champion(name=champion[0], scored=answered_cases(champion[1], known)) if champion else None,
        human=human,
        notes=_notes(answers),
    )


def answered_cases(answers: Answers, known: Mapping[str, KnownCase]) -> list[AnsweredCase]:
    """The answers with whose cases they are of; raises `ValueError` where one does not fit."""
    found = []
    for case, (truth, probabilities) in answers.of.items():
        if case not in known:
            raise ValueError(f"case {case} was answered and is not among the test set's. No report was made.")
        if truth not in answers.options or {*probabilities} != {*answers.options}:
            raise ValueError(
                f"case {case}: found the truth {truth!r} and probabilities of {', '.join(probabilities)}; expected"
                f" those of {', '.join(answers.options)}. No report was made."
            )
        one = known[case]
        found.append(
            AnsweredCase(case=case, patient=one.patient, strata=one.strata, truth=truth, probabilities=probabilities)
        )
    return found


def classification_statistic(options: Sequence[str], *, ordinal: bool) -> Statistic[AnsweredCase]:
    """All figures of any sample of cases."""
    return Together(
        PerCase(lambda one: answer_values(one, options)),
        _Together(options, ordinal),
        Calibration(lambda one: reliabilities(one, options)),
    )


def answer_values(one: AnsweredCase, options: Sequence[str]) -> dict[str, float | None]:
    """What one case has of the figures by itself."""
    return {"accuracy": float(chosen(one, options) == one.truth), PRINCIPAL: one.probabilities[one.truth]}


def chosen(one: AnsweredCase, options: Sequence[str]) -> str:
    """The most probable option, the first of several alike."""
    return max(options, key=lambda option: one.probabilities[option])


def told_of(options: Sequence[str]) -> tuple[str, ...]:
    """The options that have figures of their own: all, or the second of two."""
    return tuple(options) if len(options) > 2 else tuple(options[1:])


def confusion(scored: Sequence[AnsweredCase], options: Sequence[str]) -> NDArray[np.int64]:
    """How often each true answer (row) was answered how (column), both in the order of the options."""
    counts = np.zeros((len(options), len(options)), dtype=np.int64)
    for one in scored:
        counts[options.index(one.truth), options.index(chosen(one, options))] += 1
    return counts


def roc(scored: Sequence[AnsweredCase], option: str) -> Curve:
    """The ROC curve of one option against all others, these cases being one draw."""
    return curve_of(*_against_others(scored, option), np.ones((1, len(scored)), dtype=np.int64))


def operating_points(scored: Sequence[AnsweredCase], option: str) -> dict[str, OperatingPoint]:
    """Youden's point ("youden") and that of the fixed sensitivity ("sensitivity"); none where they are not defined."""
    curve = roc(scored, option)
    if np.isnan(curve.areas()[0]):
        return {}
    places = {"youden": curve.youden()[0], "sensitivity": curve.reaching(SENSITIVITY)[0]}
    return {
        name: OperatingPoint(
            threshold=float(curve.thresholds[place]),
            sensitivity=float(curve.sensitivity[0, place]),
            specificity=float(curve.specificity[0, place]),
        )
        for name, place in places.items()
    }


class _Together:
    """What only cases together have, all draws at once."""

    def __init__(self, options: Sequence[str], ordinal: bool) -> None:
        self._options = tuple(options)
        self._ordinal = ordinal

    def __call__(self, scored: Sequence[AnsweredCase]) -> dict[str, float | None]:
        drawn = self.resampled(scored, np.ones((1, len(scored)), dtype=np.int64))
        return {name: None if np.isnan(values[0]) else float(values[0]) for name, values in drawn.items()}

    def resampled(self, scored: Sequence[AnsweredCase], times: Times) -> Drawn:
        counts = self._confusions(scored, times)
        by_option = {option: self._of_option(option, scored, times, counts) for option in told_of(self._options)}
        areas = np.array([drawn["auc"] for drawn in by_option.values()])
        found = {"auc_mean": areas.mean(axis=0)}
        for option, figures in by_option.items():
            found |= {f"{name}/{option}": drawn for name, drawn in figures.items()}
        return {**found, "weighted_kappa": weighted_kappas(counts)} if self._ordinal else found

    def _confusions(self, scored: Sequence[AnsweredCase], times: Times) -> _Floats:
        """The confusion matrix of each draw, (draws, true, answered)."""
        count = len(self._options)
        pairs = np.array([confusion([one], self._options).ravel() for one in scored]).reshape(len(scored), -1)
        return (times @ pairs).reshape(-1, count, count).astype(np.float64)

    def _of_option(
        self, option: str, scored: Sequence[AnsweredCase], times: Times, counts: _Floats
    ) -> dict[str, _Floats]:
        curve = curve_of(*_against_others(scored, option), times)
        place = self._options.index(option)
        right, true, answered = counts[:, place, place], counts[:, place].sum(axis=1), counts[:, :, place].sum(axis=1)
        youden = curve.youden()
        return {
            "auc": curve.areas(),
            "average_precision": curve.average_precisions(),
            "sensitivity": _share(right, true),
            "specificity": 1.0 - _share(answered - right, _all(counts) - true),
            "sensitivity_at_youden": curve.at(curve.sensitivity, youden),
            "specificity_at_youden": curve.at(curve.specificity, youden),
            f"specificity_at_{SENSITIVITY}_sensitivity": curve.at(curve.specificity, curve.reaching(SENSITIVITY)),
        }


def weighted_kappas(counts: _Floats) -> _Floats:
    """Quadratic weighted kappa of confusion matrices (draws, true, answered); NaN where all is one answer."""
    places = np.arange(counts.shape[1])
    weights = np.square(places[:, np.newaxis] - places)
    n = _all(counts)
    expected = _share(np.einsum("di,dj->dij", counts.sum(axis=2), counts.sum(axis=1)), n[:, np.newaxis, np.newaxis])
    return 1.0 - _share((counts * weights).sum(axis=(1, 2)), (expected * weights).sum(axis=(1, 2)))


def _against_others(scored: Sequence[AnsweredCase], option: str) -> tuple[_Floats, NDArray[np.bool_]]:
    """Each case's probability of the option, and whether it is the truth."""
    return np.array([one.probabilities[option] for one in scored]), np.array([one.truth == option for one in scored])


def reliabilities(one: AnsweredCase, options: Sequence[str]) -> dict[str, Reliability]:
    """One case's probabilities beside what was so, by option."""
    return {option: reliability(one.probabilities[option], one.truth == option) for option in told_of(options)}


def _notes(answers: Answers) -> list[str]:
    truths = {truth for truth, _ in answers.of.values()}
    absent = [option for option in answers.options if option not in truths]
    notes = [f"no case is truly {option}: its AUC and sensitivity are not defined" for option in absent]
    if len(truths) == 1:
        notes.append(f"every case is truly {truths.pop()}: no AUC is defined")
    if answers.unanswered:
        notes.append(f"{answers.unanswered} case(s) left out: their truth has no answer to {answers.question}")
    return notes


def _all(counts: _Floats) -> _Floats:
    total: _Floats = counts.sum(axis=(1, 2))
    return total


def _share(part: NDArray[Any], whole: NDArray[Any]) -> _Floats:
    """NaN where there is nothing to have a share of."""
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
