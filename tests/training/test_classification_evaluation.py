"""Figures of a classification, beside scikit-learn's, in every draw of the cases, and where they are not defined."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from sklearn import metrics

from labeling_protocols.strata import Strata
from training.classification_evaluation import (
    AnsweredCase,
    Answers,
    chosen,
    classification_report,
    classification_statistic,
    confusion,
    operating_points,
    roc,
)
from training.classification_pictures import charts
from training.drawing import png
from training.intervals import draw_patients, resample
from training.report import EvaluationReport

GRADES = ("1", "2", "3", "4")
YES_NO = ("no", "yes")


def drawn_cases(seed: int, options: tuple[str, ...], n: int = 60, *, coarse: bool = False) -> list[AnsweredCase]:
    """Answers that are often right; with `coarse` many cases have the same probability."""
    random = np.random.default_rng(seed)
    truths = random.integers(0, len(options), n)
    scores = random.normal(0, 1, (n, len(options))) + 1.2 * np.eye(len(options))[truths]
    if coarse:
        scores = np.round(scores)
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return [
        answered(n, options[truth], dict(zip(options, row.tolist(), strict=True)))
        for n, (truth, row) in enumerate(zip(truths, shares, strict=True))
    ]


def answered(number: int, truth: str, probabilities: dict[str, float]) -> AnsweredCase:
    return AnsweredCase(
        case=f"c{number:03d}",
        patient=f"P{number // 2}",
        strata=Strata(sex="F" if number % 3 else "M"),
        truth=truth,
        probabilities=probabilities,
    )


def answers_of(cases: list[AnsweredCase], options: tuple[str, ...], **more: Any) -> Answers:
    of = {one.case: (one.truth, one.probabilities) for one in cases}
    return Answers(question="grade", options=options, of=of, **more)


def by_sklearn(cases: list[AnsweredCase], options: tuple[str, ...]) -> dict[str, float]:
    """The same figures by scikit-learn, which knows nothing of draws."""
    truths, answers = [one.truth for one in cases], [chosen(one, options) for one in cases]
    found = {"accuracy": metrics.accuracy_score(truths, answers)}
    places = {option: place for place, option in enumerate(options)}
    found["weighted_kappa"] = metrics.cohen_kappa_score(
        [places[t] for t in truths], [places[a] for a in answers], weights="quadratic", labels=list(range(len(options)))
    )
    areas = []
    for option in options if len(options) > 2 else options[1:]:
        so, said = np.array([t == option for t in truths]), np.array([a == option for a in answers])
        scores = np.array([one.probabilities[option] for one in cases])
        away, sensitivity, _ = metrics.roc_curve(so, scores, drop_intermediate=False)
        best = int(np.argmax(np.round(sensitivity - away, 9)))
        areas.append(metrics.roc_auc_score(so, scores))
        found |= {
            f"auc/{option}": areas[-1],
            f"average_precision/{option}": metrics.average_precision_score(so, scores),
            f"sensitivity/{option}": metrics.recall_score(so, said),
            f"specificity/{option}": metrics.recall_score(~so, ~said),
            f"sensitivity_at_youden/{option}": sensitivity[best],
            f"specificity_at_youden/{option}": 1 - away[best],
            f"specificity_at_0.95_sensitivity/{option}": 1 - away[sensitivity >= 0.95 - 1e-9].min(),
            f"brier_score/{option}": metrics.brier_score_loss(so, scores),
        }
    return {**found, "auc_mean": float(np.mean(areas))}


@pytest.mark.parametrize("options", [YES_NO, GRADES])
@pytest.mark.parametrize("coarse", [False, True])
def test_figures_are_those_of_scikit_learn(options: tuple[str, ...], coarse: bool) -> None:
    for seed in range(3):
        cases = drawn_cases(seed, options, coarse=coarse)
        ours = classification_statistic(options, ordinal=True)(cases)
        for name, value in by_sklearn(cases, options).items():
            assert ours[name] == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("options", [YES_NO, GRADES])
def test_all_draws_at_once_are_those_one_by_one(options: tuple[str, ...]) -> None:
    cases = drawn_cases(5, options, n=14, coarse=True)
    statistic = classification_statistic(options, ordinal=True)
    times = draw_patients([one.patient for one in cases], resamples=30)
    together = resample(statistic, cases, times)
    alone = resample(lambda sample: statistic(sample), cases, times)
    assert set(together) == set(alone)
    for name, values in together.items():
        assert values == pytest.approx(alone[name], abs=1e-9, nan_ok=True), name


def test_the_area_and_points_of_a_curve_worked_out_by_hand() -> None:
    """Of 2 × 3 pairs one is even and one the wrong way: (4 + 0.5) / 6."""
    scores = {"no": (0.1, 0.4, 0.6), "yes": (0.4, 0.9)}
    cases = [
        answered(n, truth, {"no": 1 - score, "yes": score})
        for n, (truth, score) in enumerate((t, s) for t, found in scores.items() for s in found)
    ]
    curve = roc(cases, "yes")
    assert curve.areas()[0] == pytest.approx(4.5 / 6)
    assert curve.thresholds.tolist() == [math.inf, 0.9, 0.6, 0.4, 0.1]
    assert curve.sensitivity[0] == pytest.approx([0, 0.5, 0.5, 1, 1])
    assert curve.specificity[0] == pytest.approx([1, 1, 2 / 3, 1 / 3, 0])
    points = operating_points(cases, "yes")
    assert (points["youden"].threshold, points["youden"].sensitivity, points["youden"].specificity) == (0.9, 0.5, 1.0)
    assert (points["sensitivity"].threshold, points["sensitivity"].sensitivity) == (0.4, 1.0)
    assert points["sensitivity"].specificity == pytest.approx(1 / 3)
    assert confusion(cases, YES_NO).tolist() == [[2, 1], [1, 1]]


def test_of_two_options_the_second_is_told() -> None:
    found = classification_statistic(YES_NO, ordinal=False)(drawn_cases(0, YES_NO))
    assert {name.partition("/")[2] for name in found} == {"", "yes"}
    assert found["auc_mean"] == found["auc/yes"]
    assert "weighted_kappa" not in found


@pytest.mark.parametrize("truth", YES_NO)
def test_with_one_kind_of_cases_nothing_is_made_up(truth: str) -> None:
    cases = [answered(n, truth, {"no": 0.3, "yes": 0.7}) for n in range(6)]
    found = classification_statistic(YES_NO, ordinal=True)(cases)
    for name in ("auc_mean", "auc/yes", "average_precision/yes", "sensitivity_at_youden/yes"):
        assert found[name] is None
    assert found["sensitivity/yes" if truth == "no" else "specificity/yes"] is None
    assert found["accuracy"] == (truth == "yes")
    report = classification_report(answers_of(cases, YES_NO), cases, ordinal=True, model="m", test_set="t")
    assert f"every case is truly {truth}: no AUC is defined" in report.notes
    auc = report.figure("auc_mean")
    assert auc is not None
    assert auc.value is None
    assert auc.interval is None
    assert operating_points(cases, "yes") == {}


def test_kappa_is_not_defined_where_everything_is_one_answer() -> None:
    cases = [answered(n, "no", {"no": 0.9, "yes": 0.1}) for n in range(4)]
    assert classification_statistic(YES_NO, ordinal=True)(cases)["weighted_kappa"] is None


def test_a_report_has_intervals_subgroups_a_champion_and_its_worst_cases() -> None:
    cases, before = drawn_cases(1, YES_NO), drawn_cases(1, YES_NO, coarse=True)
    report = classification_report(
        answers_of(cases, YES_NO, unanswered=3),
        cases,
        ordinal=False,
        model="grade 1.0.0",
        test_set="0" * 64,
        champion=("grade 0.9.0", answers_of(before, YES_NO)),
    )
    assert report.task == "classification"
    auc = report.figure("auc/yes")
    assert auc is not None
    assert auc.value is not None
    assert auc.interval is not None
    assert auc.interval.low < auc.value < auc.interval.high
    assert {(group.attribute, group.value) for group in report.subgroups} == {("sex", "F"), ("sex", "M")}
    worst = min(cases, key=lambda one: one.probabilities[one.truth])
    assert report.worst_first()[0] == (worst.case, worst.probabilities[worst.truth])
    assert report.comparison is not None
    assert report.comparison.p_values["accuracy"] is not None
    assert report.notes == ("3 case(s) left out: their truth has no answer to grade",)
    assert EvaluationReport.from_json(report.as_json()) == report


def test_answers_are_kept_as_text_without_loss() -> None:
    answers = answers_of(drawn_cases(2, GRADES, n=5), GRADES, unanswered=2)
    assert Answers.from_json(answers.as_json()) == answers


@pytest.mark.parametrize(
    ("truth", "probabilities", "said"),
    [
        ("maybe", {"no": 0.5, "yes": 0.5}, "found the truth 'maybe'"),
        ("yes", {"no": 1.0}, "probabilities of no; expected those of no, yes"),
    ],
)
def test_answers_that_are_not_of_the_question_are_refused(
    truth: str, probabilities: dict[str, float], said: str
) -> None:
    case = answered(0, truth, probabilities)
    with pytest.raises(ValueError, match=said):
        classification_report(answers_of([case], YES_NO), [case], ordinal=False, model="m", test_set="t")


def test_answers_to_cases_of_another_test_set_are_refused() -> None:
    cases = drawn_cases(3, YES_NO)
    with pytest.raises(ValueError, match="c000 was answered and is not among the test set's"):
        classification_report(answers_of(cases, YES_NO), cases[1:], ordinal=False, model="m", test_set="t")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9))
def test_figures_lie_between_0_and_1_or_are_not_defined(seed: int, n: int) -> None:
    found = classification_statistic(GRADES, ordinal=False)(drawn_cases(seed, GRADES, n=n, coarse=True))
    assert all(value is None or 0 <= value <= 1 + 1e-9 for value in found.values())


@pytest.mark.parametrize("options", [YES_NO, GRADES])
def test_charts_are_drawn_also_where_an_option_never_occurs(options: tuple[str, ...]) -> None:
    cases = [one for one in drawn_cases(4, options) if one.truth != options[-1]]
    drawn: dict[str, Figure] = dict(charts(answers_of(cases, options)))
    assert list(drawn) == ["roc", "confusion", "reliability"]
    assert all(png(picture).startswith(b"\x89PNG") for picture in drawn.values())
    legend = drawn["roc"].axes[0].get_legend()
    assert legend is not None
    assert legend.get_texts()[-1].get_text() == f"{options[-1]}: not defined"
