"""Bootstrap intervals over patients, by hand and against SciPy's bootstrap."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from tests.training.scored import MEANS, Scored, one_each, values_of
from training.case_figures import PerCase, Summary, Together
from training.intervals import draw_patients, figures_of, interval_of, resample

MEDIANS: PerCase[Scored] = PerCase(values_of, lambda name: Summary.MEDIAN)
TOTALS: PerCase[Scored] = PerCase(values_of, lambda name: Summary.TOTAL)


@pytest.fixture(scope="module")
def dice() -> list[float]:
    return np.random.default_rng(1).beta(8, 2, 41).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("statistic", "same"), [(MEANS, np.mean), (MEDIANS, np.median)])
def test_intervals_are_those_of_scipys_percentile_bootstrap(
    dice: list[float], statistic: PerCase[Scored], same: object
) -> None:
    cases = one_each(*dice)
    (figure,) = figures_of(statistic, cases, draw_patients([one.patient for one in cases], 500, seed=7))
    theirs = stats.bootstrap(
        (dice,), same, n_resamples=500, method="percentile", rng=np.random.default_rng(7), vectorized=True
    ).confidence_interval
    assert figure.interval is not None
    assert (figure.interval.low, figure.interval.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_a_patient_is_drawn_with_all_his_cases_as_often_as_there_are_patients() -> None:
    times = draw_patients(["a", "b", "a", "c"], 200)
    assert (times[:, 0] == times[:, 2]).all()
    assert (times[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert {*times[:, 1].tolist()} == {0, 1, 2, 3}
    assert (times == draw_patients(["a", "b", "a", "c"], 200)).all()
    assert (times != draw_patients(["a", "b", "a", "c"], 200, seed=1)).any()


def test_cases_of_one_patient_make_intervals_wider_than_if_they_were_strangers(dice: list[float]) -> None:
    strangers = one_each(*dice, *dice)
    alike = [Scored(case=one.case, patient=f"p{n % len(dice)}", values=one.values) for n, one in enumerate(strangers)]
    widths = []
    for cases in (strangers, alike):
        (figure,) = figures_of(MEANS, cases, draw_patients([one.patient for one in cases]))
        assert figure.interval is not None
        widths.append(figure.interval.high - figure.interval.low)
    assert widths[1] / widths[0] == pytest.approx(2**0.5, rel=0.15)


def test_draws_all_at_once_are_the_draws_one_by_one(dice: list[float]) -> None:
    """Three names, one of them unknown of most cases, and 25 cases of 10 patients, three of whom nothing is known."""
    cases = [
        Scored(
            case=f"c{n}",
            patient=f"p{n % 10}",
            values={"a": dice[n], "b": dice[-n - 1] if n % 3 else None, "c": 1.0 if n == 4 else None},
        )
        for n in range(25)
    ]
    times = draw_patients([one.patient for one in cases], 60)
    times[0] = 0
    times[0, 0] = 1  # of whom b and c are not known
    for statistic in (MEANS, MEDIANS, TOTALS):
        at_once = resample(statistic, cases, times)
        one_by_one = resample(lambda sample, asked=statistic: asked(sample), cases, times)  # type: ignore[misc]
        for name in ("a", "b", "c"):
            np.testing.assert_allclose(at_once[name], one_by_one[name], rtol=1e-12, err_msg=name)
    assert np.isnan(resample(MEDIANS, cases, times)["b"][0])
    assert np.isnan(resample(MEANS, cases, times)["c"][0])


def test_a_statistic_that_is_only_a_function_has_intervals_too() -> None:
    """AUC of twelve cases, which no weighing of cases gives directly, by scikit-learn."""
    scores = [0.9, 0.8, 0.7, 0.65, 0.6, 0.5, 0.45, 0.4, 0.3, 0.2, 0.15, 0.1]
    truths = [1, 1, 0, 1, 1, 0, 1, 0, 0, 1, 0, 0]
    cases = [
        Scored(case=f"c{n:02d}", patient=f"p{n:02d}", values={"score": score, "truth": truth})
        for n, (score, truth) in enumerate(zip(scores, truths, strict=True))
    ]

    def auc(sample: Sequence[Scored]) -> Mapping[str, float | None]:
        truth = [one.values["truth"] for one in sample]
        one_class = len({*truth}) == 1
        return {"auc": None if one_class else float(roc_auc_score(truth, [one.values["score"] for one in sample]))}

    (figure,) = figures_of(auc, cases, draw_patients([one.patient for one in cases], 300))
    assert figure.value == roc_auc_score(truths, scores)
    assert figure.interval is not None
    assert 0.3 < figure.interval.low < figure.value < figure.interval.high <= 1.0


def test_of_one_patient_nothing_can_be_drawn() -> None:
    cases = [Scored(case=case, patient="p", values={"dice": value}) for case, value in (("a", 0.5), ("b", 0.9))]
    (figure,) = figures_of(MEANS, cases, draw_patients(["p", "p"]))
    assert (figure.value, figure.interval) == (0.7, None)


def test_a_figure_that_many_draws_do_not_have_gets_no_interval() -> None:
    drawn = np.linspace(0.0, 1.0, 101)
    assert interval_of(drawn) is not None
    drawn[:5] = np.nan  # 4.95 %
    kept = interval_of(drawn)
    assert kept is not None
    assert (kept.low, kept.high) == pytest.approx((0.05 + 0.025 * 0.95, 1.0 - 0.025 * 0.95))
    drawn[5] = np.nan
    assert interval_of(drawn) is None
    assert interval_of(None) is None


def test_what_no_case_has_is_none_and_its_total_zero() -> None:
    nothing = one_each(None, None)
    assert MEANS(nothing) == MEDIANS(nothing) == {"dice": None}
    assert TOTALS(nothing) == {"dice": 0.0}
    (figure,) = figures_of(MEANS, nothing, draw_patients(["a", "b"]), {"dice": 0})
    assert (figure.value, figure.interval, figure.n) == (None, None, 0)


def test_statistics_together_are_each_of_them() -> None:
    named: PerCase[Scored] = PerCase(lambda one: {"worst": one.values["dice"]}, lambda name: Summary.MEDIAN)
    cases = one_each(0.1, 0.2, 0.9)
    both = Together(MEANS, named)
    assert both(cases) == {"dice": pytest.approx(0.4), "worst": 0.2}
    assert set(both.resampled(cases, draw_patients(["a", "b", "c"], 5))) == {"dice", "worst"}
