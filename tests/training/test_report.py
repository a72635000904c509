"""Evaluation reports: figures, subgroups and comparison by hand, the same whatever order cases come in."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from labeling_protocols.strata import Strata
from tests.training.scored import MEANS, Scored, one_each, values_of
from training.case_figures import PerCase, Summary
from training.comparison import signed_rank_p
from training.report import Champion, EvaluationReport, build_report, lower_is_better
from training.subgroups import SMALL, UNKNOWN


def report_of(
    cases: list[Scored], champion: list[Scored] | None = None, statistic: PerCase[Scored] = MEANS
) -> EvaluationReport:
    return build_report(
        cases,
        statistic,
        task="segmentation",
        model="hippocampus-segmentation 1.0.7",
        test_set="f" * 64,
        principal="dice",
        values=values_of,
        champion=Champion(name="hippocampus-segmentation 1.0.5", scored=champion) if champion else None,
        resamples=200,
    )


def test_a_report_says_how_many_and_how_good() -> None:
    report = report_of(one_each(0.5, 0.7, None, 0.9))
    figure = report.figure("dice")
    assert figure is not None
    assert figure.interval is not None
    assert (report.cases, report.patients, figure.n) == (4, 4, 3)
    assert figure.value == pytest.approx(0.7)
    assert 0.5 <= figure.interval.low < 0.7 < figure.interval.high <= 0.9
    assert report.figure("hd95_mm/anterior") is None


def test_worst_cases_come_first_and_one_without_a_value_is_not_ranked() -> None:
    assert report_of(one_each(0.5, 0.9, None, 0.1)).worst_first() == (("c003", 0.1), ("c000", 0.5), ("c001", 0.9))


def test_of_a_figure_of_which_less_is_better_the_largest_is_worst() -> None:
    cases = [Scored(case=c, patient=c, values={"hd95_mm/tumour": mm}) for c, mm in (("a", 3.0), ("b", 9.0))]
    report = build_report(
        cases, MEANS, task="t", model="m", test_set="s", principal="hd95_mm/tumour", values=values_of, resamples=2
    )
    assert report.worst_first() == (("b", 9.0), ("a", 3.0))


@pytest.mark.parametrize("name", ["hd95_mm/tumour", "missed", "calibration_error", "volume_error/liver"])
def test_less_is_better_of_distances_errors_and_misses(name: str) -> None:
    assert lower_is_better(name)


@pytest.mark.parametrize("name", ["dice_mean", "surface_dice/liver", "auc/malignant", "sensitivity_at_0.5_fp", "map"])
def test_more_is_better_of_everything_else(name: str) -> None:
    assert not lower_is_better(name)


def test_the_order_of_cases_changes_nothing_and_another_value_changes_the_digest() -> None:
    cases = one_each(0.5, 0.7, 0.9, 0.8)
    report = report_of(cases)
    assert report_of(cases[::-1]).as_json() == report.as_json()
    assert report_of([*cases[:3], replace(cases[3], values={"dice": 0.81})]).digest != report.digest


def test_a_report_is_read_back_as_it_was() -> None:
    cases = one_each(0.5, 0.7, 0.9, strata=Strata(maker="Siemens", slice_thickness_mm=1.0))
    report = report_of(cases, champion=one_each(0.4, 0.7, None))
    again = EvaluationReport.from_json(report.as_json())
    assert again == report
    assert again.digest == report.digest
    assert report.comparison is not None


def test_a_report_from_before_notes_were_taken_is_read() -> None:
    report = report_of(one_each(0.5, 0.7))
    stored = json.loads(report.as_json())
    del stored["notes"]
    assert EvaluationReport.from_json(json.dumps(stored)) == report


@pytest.mark.parametrize("text", ["{}", "[]", '{"task": "segmentation"}', '{"unheard_of": 1}'])
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no evaluation report: expected an object with by_case, cases"):
        EvaluationReport.from_json(text)


def test_a_report_names_no_patient() -> None:
    cases = [replace(one, patient=f"PATIENT-{n}") for n, one in enumerate(one_each(0.5, 0.7, 0.9))]
    assert "PATIENT" not in report_of(cases, champion=cases).as_json()


def test_misses_and_inventions_are_counted() -> None:
    cases = [
        Scored(case=f"c{n}", patient=f"p{n}", values={"missed": missed, "invented": invented})
        for n, (missed, invented) in enumerate([(2.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
    ]
    report = report_of(cases, statistic=PerCase(values_of, lambda name: Summary.TOTAL))
    assert (report.missed, report.invented) == (3, 1)


def test_nothing_scored_and_one_case_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="no case was scored"):
        report_of([])
    with pytest.raises(ValueError, match=r"case\(s\) c000 were scored more than once"):
        report_of([*one_each(0.5, 0.7), *one_each(0.6)])


# Subgroups


def test_subgroups_have_their_own_figures_and_the_unknown_are_one() -> None:
    strata = [Strata(sex="F"), Strata(sex="M"), Strata(sex="M"), Strata()]
    cases = [replace(one, strata=of) for one, of in zip(one_each(0.5, 0.7, 0.9, 0.2), strata, strict=True)]
    found = {(group.attribute, group.value): group for group in report_of(cases).subgroups}
    assert {key: (group.n, group.figures["dice"]) for key, group in found.items()} == {
        ("sex", "F"): (1, 0.5),
        ("sex", "M"): (2, pytest.approx(0.8)),
        ("sex", UNKNOWN): (1, 0.2),
    }
    assert set(found["sex", "M"].intervals) == {"dice"}
    assert found["sex", "F"].intervals == {}  # one patient


def test_thickness_stands_in_the_order_of_millimetres() -> None:
    thickness_mm = [6.0, 2.0, None, 0.8, 4.0]
    cases = [
        replace(one, strata=Strata(maker="GE", slice_thickness_mm=mm))
        for one, mm in zip(one_each(0.5, 0.7, 0.9, 0.2, 0.3), thickness_mm, strict=True)
    ]
    assert [(group.attribute, group.value) for group in report_of(cases).subgroups] == [
        ("maker", "GE"),
        *(("slice_thickness", band) for band in ("<=1 mm", "1-3 mm", "3-5 mm", ">5 mm", UNKNOWN)),
    ]


def test_few_cases_are_called_small_and_warned_of() -> None:
    def report(n: int) -> EvaluationReport:
        return report_of(one_each(*np.linspace(0.5, 0.9, n).tolist(), strata=Strata(maker="GE")))

    (enough,), (small,) = report(SMALL).subgroups, report(SMALL - 1).subgroups
    assert (enough.small, small.small) == (False, True)
    assert report(SMALL).warnings() == ()
    assert report(SMALL - 1).warnings() == (
        "19 patient(s) only: intervals are too narrow",
        "maker GE: 19 case(s) only",
    )


# Comparison with the champion


def test_differences_are_the_candidate_less_the_champion_over_the_same_draws() -> None:
    """The champion is 0.1 worse everywhere: every draw differs by 0.1, however wide either's own interval is."""
    ours, theirs = one_each(0.5, 0.7, 0.9, 0.8), one_each(0.4, 0.6, 0.8, 0.7)
    comparison = report_of(ours, champion=theirs[::-1]).comparison
    assert comparison is not None
    (difference,) = comparison.differences
    assert difference.interval is not None
    assert difference.value == pytest.approx(0.1)
    assert (difference.interval.low, difference.interval.high) == pytest.approx((0.1, 0.1))
    assert comparison.champion == "hippocampus-segmentation 1.0.5"


def test_the_interval_of_a_difference_is_scipys_of_paired_differences() -> None:
    random = np.random.default_rng(3)
    ours, theirs = random.uniform(0.6, 0.9, 30), random.uniform(0.6, 0.9, 30)
    comparison = report_of(one_each(*ours.tolist()), champion=one_each(*theirs.tolist())).comparison
    assert comparison is not None
    (difference,) = comparison.differences
    expected = stats.bootstrap(
        (ours - theirs,), np.mean, n_resamples=200, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert difference.interval is not None
    assert (difference.interval.low, difference.interval.high) == pytest.approx((expected.low, expected.high))


def test_five_better_cases_of_five_have_a_p_of_one_sixteenth() -> None:
    """Of 2⁵ ways to give five ranks a sign, all plus and all minus are as far out: 2/32."""
    assert signed_rank_p([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(2 / 32)


def test_no_difference_anywhere_has_a_p_of_one() -> None:
    assert signed_rank_p([0.0, 0.0, 0.0]) == 1.0
    assert signed_rank_p([]) is None


def test_p_is_of_patients_not_of_cases() -> None:
    """Ten cases of five patients, each patient's two 0.1·k apart on the mean: as for five differences."""
    ours, theirs = [], []
    for patient in range(5):
        for case, share in (("a", 0.5), ("b", 1.5)):
            better = 0.1 * (patient + 1) * share
            name = {"case": f"{patient}{case}", "patient": f"p{patient}"}
            ours.append(Scored(**name, values={"dice": 0.2 + better}))  # type: ignore[arg-type]
            theirs.append(Scored(**name, values={"dice": 0.2}))  # type: ignore[arg-type]
    comparison = report_of(ours, champion=theirs).comparison
    assert comparison is not None
    assert comparison.p_values["dice"] == pytest.approx(2 / 32)
    assert comparison.differences[0].n == 10


def test_what_only_one_of_both_has_is_compared_by_nobody() -> None:
    comparison = report_of(one_each(0.5, 0.6), champion=one_each(None, None)).comparison
    assert comparison is not None
    assert (comparison.differences[0].value, comparison.differences[0].n) == (None, 0)
    assert comparison.p_values == {"dice": None}


def test_subgroups_are_compared_too() -> None:
    strata = [Strata(sex="F"), Strata(sex="M"), Strata(sex="M"), Strata(sex="F")]
    ours = [replace(one, strata=of) for one, of in zip(one_each(0.5, 0.7, 0.9, 0.8), strata, strict=True)]
    comparison = report_of(ours, champion=one_each(0.4, 0.8, 0.9, 0.7)).comparison
    assert comparison is not None
    found = {group.value: group.figures["dice"] for group in comparison.subgroups}
    assert found == {"F": pytest.approx(0.1), "M": pytest.approx(-0.05)}


def test_a_champion_of_other_cases_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"scored on 3 case\(s\), 2 of them among the candidate's 2; expected the same"
    ):
        report_of(one_each(0.5, 0.6), champion=one_each(0.5, 0.6, 0.7))


def test_a_function_and_a_per_case_statistic_make_the_same_report() -> None:
    ours, theirs = one_each(0.5, 0.7, 0.9, 0.8), one_each(0.4, 0.8, 0.85, 0.7)
    fast = report_of(ours, theirs)
    slow = report_of(ours, theirs, lambda sample: MEANS(sample))  # type: ignore[arg-type]
    for a, b in zip(fast.figures, slow.figures, strict=True):
        assert a.interval is not None
        assert b.interval is not None
        assert (a.interval.low, a.interval.high) == pytest.approx((b.interval.low, b.interval.high))
    assert fast.comparison is not None
    assert slow.comparison is not None
    assert json.dumps(fast.comparison.p_values) == json.dumps(slow.comparison.p_values)


def test_a_report_of_many_cases_is_made_within_seconds() -> None:
    random = np.random.default_rng(0)
    names = [f"{kind}/{n}" for kind in ("dice", "surface_dice", "hd95_mm", "volume_error") for n in range(5)]
    cases = [
        Scored(
            case=f"c{n}",
            patient=f"p{n // 2}",
            strata=Strata(maker="AB"[n % 2], sex="FM"[n % 3 > 0], slice_thickness_mm=float(1 + n % 6)),
            values=dict(zip(names, random.uniform(size=len(names)).tolist(), strict=True)),
        )
        for n in range(500)
    ]
    medians: PerCase[Scored] = PerCase(
        values_of, lambda name: Summary.MEDIAN if name.startswith("hd95") else Summary.MEAN
    )
    began = time.process_time()
    report = build_report(
        cases,
        medians,
        task="segmentation",
        model="m",
        test_set="s",
        principal="dice/0",
        values=values_of,
        champion=Champion(name="n", scored=cases),
    )
    assert time.process_time() - began < 15  # 1.5 s of an idle core
    assert report.resamples == 1000
    assert len(report.figures) == len(names)
