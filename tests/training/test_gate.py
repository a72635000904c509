"""The gate: every limit refuses with its own reason, and just enough passes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from labeling_protocols.protocol_parts import GateLimits
from training.change_control import (
    ChangePlan,
    DataChange,
    Impact,
    JudgedBy,
    Modifications,
    PlanChange,
    Procedures,
    Risk,
    SubgroupRule,
    Verification,
)
from training.changes import Changes
from training.figure_names import spoken
from training.gate import Decision, GateReport, decide, report
from training.report import Comparison, EvaluationReport, Figure, Interval, Subgroup

LIMITS = GateLimits(dice_mean_min=0.7, dice_min={"anterior": 0.6, "posterior": 0.5}, missed_max=1, dice_drop_max=0.05)
PASSED = Decision(passed=True, reasons=())
DICE = {"dice_mean": 0.9, "dice/anterior": 0.9, "dice/posterior": 0.9}
SAME = Changes()

Ranges = Mapping[str, tuple[float, float]]


def scored(figures: Mapping[str, float | None] = {}, *, intervals: Ranges = {}, **values: Any) -> EvaluationReport:  # noqa: B006  never changed
    """A report of 40 cases of 30 patients with Dice 0.9 throughout, but for what is given."""
    known = {**DICE, **figures} if values.get("task", "segmentation") in ("segmentation", "interactive") else figures
    whole: dict[str, Any] = {
        "task": "segmentation",
        "model": "candidate",
        "test_set": "a" * 64,
        "cases": 40,
        "patients": 30,
        "figures": tuple(
            Figure(name=name, value=value, interval=_interval(intervals.get(name)), n=40)
            for name, value in known.items()
        ),
        "missed": 0,
        "invented": 0,
        "subgroups": (),
        "human": (),
        "comparison": None,
        "principal": "dice_mean",
        "by_case": (),
    }
    return EvaluationReport(**{**whole, **values})


def _interval(ends: tuple[float, float] | None) -> Interval | None:
    return None if ends is None else Interval(low=ends[0], high=ends[1])


def group(value: str, n: int, figures: Mapping[str, float | None], attribute: str = "sex") -> Subgroup:
    return Subgroup(attribute=attribute, value=value, n=n, patients=n, small=n < 20, figures=figures)


def change_plan(*, task: str = "segmentation", modifications: Modifications | None = None, **values: Any) -> ChangePlan:
    """A plan that bounds the mean Dice at 0.5, which nothing here falls below, and what else is given."""
    bounds: dict[str, Any] = {"cases_min": 1, "patients_min": 1, "figures_min": {"dice_mean": 0.5}}
    return ChangePlan(
        protocol="hippocampus",
        task=task,  # type: ignore[arg-type]  # one of its words
        version=1,
        title="Plan",
        modifications=modifications or Modifications(description="None."),
        procedures=Procedures(data_management="As ever.", retraining="As ever.", update="As ever."),
        verification=Verification(**{**bounds, **values}),
        impact=Impact(benefits=("Some.",), risks=(Risk(risk="Some.", mitigation="Some."),), cumulative="None."),
    )


def refused(*reasons: str, notes: tuple[str, ...] = ()) -> Decision:
    return Decision(passed=False, reasons=reasons, notes=notes)


# The protocol's limits


def test_a_candidate_within_all_limits_passes() -> None:
    assert decide(LIMITS, None, scored(), None, None) == PASSED


def test_exactly_the_limits_pass() -> None:
    limits = GateLimits(
        dice_mean_min=0.75,
        dice_min={"anterior": 0.5, "posterior": 1.0},
        missed_max=1,
        dice_drop_max=0.25,
        surface_dice_min={"anterior": 0.9},
        hd95_mm_max={"anterior": 2.0},
        calibration_error_max=0.1,
    )
    figures = {"dice_mean": 0.75, "dice/anterior": 0.5, "dice/posterior": 1.0}
    more = {"surface_dice/anterior": 0.9, "hd95_mm/anterior": 2.0, "calibration_error": 0.1}
    candidate = scored({**figures, **more}, missed=1)
    assert decide(limits, None, candidate, scored({"dice_mean": 1.0}, missed=1), SAME) == PASSED


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({"dice_mean": 0.65}, "mean Dice 0.650 < 0.700"),
        ({"dice/anterior": 0.59}, "anterior: Dice 0.590 < 0.600"),
        ({"dice/posterior": 0.49}, "posterior: Dice 0.490 < 0.500"),
        ({"dice_mean": 0.69996}, "mean Dice 0.69996 < 0.70000"),
        ({"dice/posterior": None}, "posterior: Dice was not measured, 0.500 is to be reached"),
        ({"dice_mean": float("nan")}, "mean Dice was not measured, 0.700 is to be reached"),
    ],
)
def test_each_dice_refuses_with_its_own_reason_alone(figures: dict[str, float | None], reason: str) -> None:
    assert decide(LIMITS, None, scored(figures), None, None) == refused(reason)


def test_a_figure_that_the_report_has_not_reaches_no_limit() -> None:
    bare = replace(scored(), figures=scored().figures[:2])
    assert decide(LIMITS, None, bare, None, None) == refused("posterior: Dice was not measured, 0.500 is to be reached")


def test_one_miss_more_than_allowed_refuses() -> None:
    assert decide(LIMITS, None, scored(missed=1), None, None) == PASSED
    assert decide(LIMITS, None, scored(missed=2), None, None) == refused("2 structure(s) missed, at most 1 allowed")


def test_without_a_scored_case_nothing_passes() -> None:
    assert decide(LIMITS, None, scored(cases=0), None, None) == refused("no case was scored")


@pytest.mark.parametrize(
    ("limit", "figure", "reason"),
    [
        (
            {"surface_dice_min": {"anterior": 0.9}},
            {"surface_dice/anterior": 0.89},
            "anterior: surface Dice 0.890 < 0.900",
        ),
        ({"hd95_mm_max": {"anterior": 2.0}}, {"hd95_mm/anterior": 2.25}, "anterior: median HD95 (mm) 2.250 > 2.000"),
        ({"calibration_error_max": 0.1}, {"calibration_error": 0.11}, "calibration error 0.110 > 0.100"),
        ({"calibration_error_max": 0.1}, {}, "calibration error was not measured, 0.100 is to be reached"),
        (
            {"figures_min": {"segmentation": {"surface_dice_mean": 0.8}}},
            {"surface_dice_mean": 0.7},
            "mean surface Dice 0.700 < 0.800",
        ),
        (
            {"figures_max": {"segmentation": {"volume_error/anterior": 0.2}}},
            {"volume_error/anterior": 0.3},
            "anterior: volume error 0.300 > 0.200",
        ),
    ],
)
def test_each_further_limit_refuses_where_it_is_given(limit: Any, figure: dict[str, float], reason: str) -> None:
    assert decide(replace(LIMITS, **limit), None, scored(figure), None, None) == refused(reason)
    assert decide(LIMITS, None, scored(figure), None, None) == PASSED


def test_limits_of_another_task_do_not_count() -> None:
    limits = replace(LIMITS, figures_min={"detection": {"map": 0.5}}, figures_max={"detection": {"brier_score": 0.1}})
    assert decide(limits, None, scored(), None, None) == PASSED


def test_a_detection_model_is_held_to_its_own_figures_and_not_to_dice() -> None:
    limits = replace(LIMITS, figures_min={"detection": {"sensitivity_at_1_fp": 0.8}})
    good, bad = (scored({"sensitivity_at_1_fp": value}, task="detection", missed=9) for value in (0.8, 0.75))
    assert decide(limits, None, good, None, None) == PASSED
    assert decide(limits, None, bad, None, None) == refused("sensitivity at 1 false positives a study 0.750 < 0.800")


def test_a_detection_model_for_which_nothing_is_asked_does_not_pass() -> None:
    found = scored({"map": 0.9, "calibration_error": 0.0}, task="detection")
    for limits in (LIMITS, replace(LIMITS, calibration_error_max=0.1, subgroup_dice_drop_max=0.1)):
        (reason,) = decide(limits, None, found, None, None).reasons
        assert reason == (
            "nothing says what a detection model has to reach: the protocol's gate names no figure for it"
            " (gate.figures_min) and there is no change control plan"
        )
    plan = change_plan(task="detection", figures_min={"map": 0.8})
    assert decide(LIMITS, plan, found, None, None) == PASSED


# Against the champion


def test_a_candidate_too_far_below_the_champion_is_refused() -> None:
    champion = scored({"dice_mean": 0.86})
    decision = decide(LIMITS, None, scored({"dice_mean": 0.8}), champion, SAME)
    assert decision == refused("mean Dice 0.800 is more than 0.050 below the champion's 0.860")
    assert decide(LIMITS, None, scored({"dice_mean": 0.81}), champion, SAME) == PASSED


def test_rounding_does_not_refuse_what_lies_exactly_at_the_allowed_drop() -> None:
    limits = replace(LIMITS, dice_drop_max=0.1)
    assert 0.8 - 0.7 > 0.1  # as floats
    candidate, champion = scored({"dice_mean": 0.7}), scored({"dice_mean": 0.8})
    assert decide(limits, None, candidate, champion, SAME) == PASSED
    lower = replace(limits, dice_mean_min=0.5)
    assert decide(lower, None, scored({"dice_mean": 0.69999}), champion, SAME) == refused(
        "mean Dice 0.69999 is more than 0.100 below the champion's 0.80000"
    )


def test_rounding_does_not_refuse_what_lies_exactly_at_a_bound() -> None:
    figures = {"dice_mean": 0.7 - 1e-12, "hd95_mm/anterior": 2.0 + 1e-12}
    limits = replace(LIMITS, hd95_mm_max={"anterior": 2.0})
    assert decide(limits, None, scored(figures), None, None) == PASSED
    assert decide(limits, None, scored({**figures, "dice_mean": 0.7 - 1e-7}), None, None) == refused(
        "mean Dice 0.6999999 < 0.7000000"
    )


def test_a_better_candidate_passes() -> None:
    assert decide(LIMITS, None, scored({"dice_mean": 0.99}), scored({"dice_mean": 0.7}), SAME) == PASSED


def test_one_miss_more_than_the_champions_refuses() -> None:
    limits = replace(LIMITS, missed_max=10)
    decision = decide(limits, None, scored(missed=4), scored(missed=3), SAME)
    assert decision == refused("4 missed, the champion 3; at most 0 more allowed")
    assert decide(limits, None, scored(missed=3), scored(missed=3), SAME) == PASSED
    assert decide(limits, None, scored(missed=2), scored(missed=3), SAME) == PASSED


def test_a_change_plan_may_allow_misses_more() -> None:
    limits, plan = replace(LIMITS, missed_max=10), change_plan(missed_more_max=2)
    assert decide(limits, plan, scored(missed=5), scored(missed=3), SAME) == PASSED
    decision = decide(limits, plan, scored(missed=6), scored(missed=3), SAME)
    assert decision == refused("6 missed, the champion 3; at most 2 more allowed")


@pytest.mark.parametrize(("ours", "theirs"), [("a", "b"), ("b", "a")])
def test_a_champion_scored_on_another_test_set_cannot_be_compared_with(ours: str, theirs: str) -> None:
    candidate = scored({"dice_mean": 0.7}, test_set=ours * 64)
    decision = decide(LIMITS, None, candidate, scored(test_set=theirs * 64, missed=-5), SAME)
    assert decision == refused(
        f"the champion was scored on another test set ({theirs * 12}) than the candidate ({ours * 12})"
    )


@pytest.mark.parametrize("fewer", [{"cases": 39}, {"patients": 29}, {"cases": 41}, {"patients": 31}])
def test_a_champion_scored_on_other_cases_cannot_be_compared_with(fewer: dict[str, int]) -> None:
    decision = decide(LIMITS, None, scored({"dice_mean": 0.7}), scored(**fewer), SAME)  # type: ignore[arg-type]  # values
    assert decision == refused("the champion was scored on other cases than the candidate")


@pytest.mark.parametrize(("ours", "theirs"), [("segmentation", "interactive"), ("interactive", "segmentation")])
def test_a_champion_of_another_task_cannot_be_compared_with(ours: str, theirs: str) -> None:
    decision = decide(LIMITS, None, scored({"dice_mean": 0.7}, task=ours), scored(task=theirs), SAME)
    assert decision == refused(f"the champion was scored for {theirs}, the candidate for {ours}")


def test_interactive_models_are_held_to_dice_too() -> None:
    figures = {"dice_mean": 0.6}
    decision = decide(LIMITS, None, scored(figures, task="interactive", missed=2), scored(task="interactive"), SAME)
    assert len(decision.reasons) == 4  # mean Dice, misses, below the champion, more misses


def test_all_reasons_are_given_at_once() -> None:
    low = {"dice_mean": 0.1, "dice/anterior": 0.1, "dice/posterior": 0.1}
    assert decide(LIMITS, None, scored(low, missed=4), scored(), SAME).reasons == (
        "mean Dice 0.100 < 0.700",
        "anterior: Dice 0.100 < 0.600",
        "posterior: Dice 0.100 < 0.500",
        "4 structure(s) missed, at most 1 allowed",
        "mean Dice 0.100 is more than 0.050 below the champion's 0.900",
        "4 missed, the champion 0; at most 0 more allowed",
    )


# Subgroups


def test_a_worse_subgroup_refuses_though_the_whole_is_no_worse() -> None:
    limits = replace(LIMITS, subgroup_dice_drop_max=0.02)
    ours = (group("F", 21, {"dice_mean": 0.85}), group("M", 20, {"dice_mean": 0.95}))
    theirs = (group("F", 21, {"dice_mean": 0.9}), group("M", 20, {"dice_mean": 0.9}))
    decision = decide(limits, None, scored(subgroups=ours), scored(subgroups=theirs), SAME)
    assert decision == refused("sex F: mean Dice 0.850 is more than 0.020 below the champion's 0.900")
    assert decide(LIMITS, None, scored(subgroups=ours), scored(subgroups=theirs), SAME) == PASSED


def test_a_subgroup_at_the_allowed_drop_passes() -> None:
    limits = replace(LIMITS, subgroup_dice_drop_max=0.05)
    ours, theirs = (group("F", 20, {"dice_mean": value}) for value in (0.85, 0.9))
    assert decide(limits, None, scored(subgroups=(ours,)), scored(subgroups=(theirs,)), SAME) == PASSED


def test_a_small_subgroup_is_noted_and_decides_nothing() -> None:
    limits = replace(LIMITS, subgroup_dice_drop_max=0.02)
    ours, theirs = (group("F", 19, {"dice_mean": value}) for value in (0.1, 0.9))
    decision = decide(limits, None, scored(subgroups=(ours,)), scored(subgroups=(theirs,)), SAME)
    assert decision == Decision(
        passed=True,
        reasons=(),
        notes=(
            "sex F: 19 case(s), fewer than 20, decide nothing",
            "not decided: sex F: mean Dice 0.100 is more than 0.020 below the champion's 0.900",
        ),
    )


def test_a_plan_says_which_subgroups_and_figures_count_from_how_many_cases() -> None:
    rule = SubgroupRule(cases_min=5, drop_max={"hd95_mm/anterior": 1.0}, attributes=("slice_thickness",))
    plan = change_plan(subgroups=rule)
    near, far = ({"hd95_mm/anterior": value, "dice_mean": 0.9} for value in (1.0, 2.5))
    thick, thin = "3-5 mm", "<=1 mm"
    ours = (
        group("F", 30, far),
        group(thick, 5, far, "slice_thickness"),
        group(thin, 4, near, "slice_thickness"),
    )
    theirs = (
        group("F", 30, near),
        group(thick, 5, near, "slice_thickness"),
        group(thin, 4, near, "slice_thickness"),
    )
    decision = decide(LIMITS, plan, scored(subgroups=ours), scored(subgroups=theirs), SAME)
    assert decision == refused(
        "slice thickness 3-5 mm: anterior: median HD95 (mm) 2.500 is more than 1.000 above the champion's 1.000",
        notes=("slice thickness <=1 mm: 4 case(s), fewer than 5, decide nothing",),
    )


def test_a_subgroup_the_champions_report_has_not_refuses() -> None:
    limits = replace(LIMITS, subgroup_dice_drop_max=0.02)
    ours = (group("F", 20, {"dice_mean": 0.9}),)
    decision = decide(limits, None, scored(subgroups=ours), scored(), SAME)
    assert decision == refused("sex F: the champion's report does not have this subgroup")


def test_a_figure_lost_in_a_subgroup_refuses_and_one_nobody_has_does_not() -> None:
    limits = replace(LIMITS, subgroup_dice_drop_max=0.02)
    ours = (group("F", 20, {"dice_mean": None}), group("M", 20, {}))
    theirs = (group("F", 20, {"dice_mean": 0.9}), group("M", 20, {"dice_mean": None}))
    decision = decide(limits, None, scored(subgroups=ours), scored(subgroups=theirs), SAME)
    assert decision == refused("sex F: mean Dice was not measured; the champion's is 0.900")


def test_the_dice_of_subgroups_is_not_asked_of_a_detection_model() -> None:
    limits = replace(LIMITS, subgroup_dice_drop_max=0.02, figures_min={"detection": {"map": 0.1}})
    ours, theirs = (
        scored({"map": 0.9}, task="detection", subgroups=(group("F", 20, {"dice_mean": value}),))
        for value in (0.1, 0.9)
    )
    assert decide(limits, None, ours, theirs, SAME) == PASSED


# The change control plan


@pytest.mark.parametrize(("planned", "asked"), [("segmentation", "interactive"), ("interactive", "segmentation")])
def test_a_plan_for_another_task_refuses(planned: str, asked: str) -> None:
    decision = decide(LIMITS, change_plan(task=planned), scored(task=asked), None, None)
    assert decision == refused(f"the change control plan is for {planned}, the candidate for {asked}")


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ({"cases_min": 41}, "40 held-out case(s), at least 41 needed"),
        ({"patients_min": 31}, "30 held-out patient(s), at least 31 needed"),
        ({"figures_min": {"dice_mean": 0.95}}, "mean Dice 0.900 < 0.950"),
        ({"figures_max": {"calibration_error": 0.1}}, "calibration error 0.200 > 0.100"),
        ({"calibration_error_max": 0.1}, "calibration error 0.200 > 0.100"),
        ({"figures_min": {"dice/hilum": 0.5}}, "hilum: Dice was not measured, 0.500 is to be reached"),
    ],
)
def test_each_bound_of_the_plan_refuses_with_its_own_reason_alone(bounds: dict[str, Any], reason: str) -> None:
    candidate = scored({"calibration_error": 0.2})
    assert decide(LIMITS, change_plan(**bounds), candidate, None, None) == refused(reason)
    assert decide(LIMITS, change_plan(), candidate, None, None) == PASSED


def test_exactly_the_plans_bounds_pass() -> None:
    plan = change_plan(
        cases_min=40,
        patients_min=30,
        figures_min={"dice_mean": 0.9},
        figures_max={"hd95_mm/anterior": 1.5},
        calibration_error_max=0.2,
        drop_max={"dice_mean": 0.0, "hd95_mm/anterior": 0.5},
    )
    candidate = scored({"calibration_error": 0.2, "hd95_mm/anterior": 1.5})
    champion = scored({"calibration_error": 0.0, "hd95_mm/anterior": 1.0})
    assert decide(LIMITS, plan, candidate, champion, SAME) == PASSED


def test_where_protocol_and_plan_bound_the_same_figure_both_hold_and_one_reason_is_given_once() -> None:
    low = scored({"dice_mean": 0.6})
    both = change_plan(figures_min={"dice_mean": 0.7})
    assert decide(LIMITS, both, low, None, None) == refused("mean Dice 0.600 < 0.700")
    stricter = change_plan(figures_min={"dice_mean": 0.8})
    assert decide(LIMITS, stricter, scored({"dice_mean": 0.75}), None, None) == refused("mean Dice 0.750 < 0.800")


def test_drops_of_the_plan_go_by_what_is_better() -> None:
    plan = change_plan(drop_max={"dice/anterior": 0.02, "hd95_mm/anterior": 0.5})
    better = scored({"dice/anterior": 0.95, "hd95_mm/anterior": 1.0})
    worse = scored({"dice/anterior": 0.9, "hd95_mm/anterior": 1.75})
    assert decide(LIMITS, plan, worse, better, SAME) == refused(
        "anterior: Dice 0.900 is more than 0.020 below the champion's 0.950",
        "anterior: median HD95 (mm) 1.750 is more than 0.500 above the champion's 1.000",
    )
    assert decide(LIMITS, plan, better, worse, SAME) == PASSED


def test_a_figure_that_only_the_champion_has_refuses() -> None:
    plan = change_plan(drop_max={"surface_dice/anterior": 0.02})
    champion = scored({"surface_dice/anterior": 0.9})
    assert decide(LIMITS, plan, scored(), champion, SAME) == refused(
        "anterior: surface Dice was not measured; the champion's is 0.900"
    )
    assert decide(LIMITS, plan, champion, scored(), SAME) == PASSED


def test_where_the_interval_counts_its_worse_end_is_held_against_the_bound() -> None:
    plan = change_plan(
        judged_by=JudgedBy.INTERVAL, figures_min={"dice_mean": 0.85}, figures_max={"hd95_mm/anterior": 2.0}
    )
    figures = {"dice_mean": 0.9, "hd95_mm/anterior": 1.5}
    narrow = {"dice_mean": (0.85, 0.95), "hd95_mm/anterior": (1.0, 2.0)}
    wide = {"dice_mean": (0.84, 0.96), "hd95_mm/anterior": (0.5, 2.5)}
    assert decide(LIMITS, plan, scored(figures, intervals=narrow), None, None) == PASSED
    assert decide(LIMITS, plan, scored(figures, intervals=wide), None, None) == refused(
        "lower 95 % bound of mean Dice 0.840 < 0.850",
        "upper 95 % bound of anterior: median HD95 (mm) 2.500 > 2.000",
    )
    by_point = replace(plan, verification=replace(plan.verification, judged_by=JudgedBy.POINT))
    assert decide(LIMITS, by_point, scored(figures, intervals=wide), None, None) == PASSED


def test_where_the_interval_counts_a_figure_without_one_refuses() -> None:
    plan = change_plan(judged_by=JudgedBy.INTERVAL, figures_min={"dice_mean": 0.85})
    assert decide(LIMITS, plan, scored(), None, None) == refused(
        "mean Dice has no 95 % interval, whose worse end is to be held against 0.850"
    )
    without = change_plan(judged_by=JudgedBy.INTERVAL, figures_min={"map": 0.85})
    assert decide(LIMITS, without, scored({"map": None}), None, None) == refused(
        "mAP was not measured, 0.850 is to be reached"
    )
    unknown = scored(intervals={"dice_mean": (float("nan"), 0.95)})
    assert decide(LIMITS, plan, unknown, None, None) == refused(
        "lower 95 % bound of mean Dice was not measured, 0.850 is to be reached"
    )


def paired(differences: Mapping[str, tuple[float, float] | None], champion: str = "champion") -> Comparison:
    return Comparison(
        champion=champion,
        differences=tuple(
            Figure(name=name, value=0.0, interval=_interval(ends), n=40) for name, ends in differences.items()
        ),
    )


PAIRED = change_plan(
    judged_by=JudgedBy.INTERVAL,
    figures_min={"dice_mean": 0.5},
    drop_max={"dice_mean": 0.02, "hd95_mm/anterior": 0.5},
)
SURE = {"dice_mean": (0.88, 0.92)}


def test_where_the_interval_counts_the_paired_difference_decides() -> None:
    champion = scored(model="champion")
    apart = paired({"dice_mean": (-0.03, 0.04), "hd95_mm/anterior": (-1.0, 0.75)})
    assert decide(LIMITS, PAIRED, scored(intervals=SURE, comparison=apart), champion, SAME) == refused(
        "mean Dice may lie 0.030 below the champion's (95 %), 0.020 allowed",
        "anterior: median HD95 (mm) may lie 0.750 above the champion's (95 %), 0.500 allowed",
    )
    near = paired({"surface_dice": (-1.0, 1.0), "hd95_mm/anterior": (-1.0, 0.5), "dice_mean": (-0.02, 0.04)})
    assert decide(LIMITS, PAIRED, scored(intervals=SURE, comparison=near), champion, SAME) == PASSED
    rounded = paired({"dice_mean": (-0.02 - 1e-12, 0.04), "hd95_mm/anterior": (-1.0, 0.5)})
    assert decide(LIMITS, PAIRED, scored(intervals=SURE, comparison=rounded), champion, SAME) == PASSED


def test_where_the_interval_counts_a_difference_without_one_refuses() -> None:
    champion = scored(model="champion")
    apart = paired({"dice_mean": None})
    assert decide(LIMITS, PAIRED, scored(intervals=SURE, comparison=apart), champion, SAME) == refused(
        "mean Dice: the difference from the champion has no 95 % interval, by which the plan judges",
        "anterior: median HD95 (mm): the difference from the champion has no 95 % interval, by which the plan judges",
    )
    nan = paired({"dice_mean": (float("nan"), 0.0), "hd95_mm/anterior": (0.0, float("nan"))})
    assert len(decide(LIMITS, PAIRED, scored(intervals=SURE, comparison=nan), champion, SAME).reasons) == 2


def test_reports_read_from_their_files_are_judged_like_those_just_made() -> None:
    near = paired({"hd95_mm/anterior": (-1.0, 0.5), "dice_mean": (-0.02, 0.04)})
    reports = (scored(intervals=SURE, comparison=near), scored(model="champion"))
    candidate, champion = (EvaluationReport.from_json(report.as_json()) for report in reports)
    assert decide(LIMITS, PAIRED, candidate, champion, SAME) == PASSED


@pytest.mark.parametrize(
    "comparison", [None, *(paired({"dice_mean": (0.0, 0.0)}, champion=name) for name in ("a", "of yesterday"))]
)
def test_where_the_interval_counts_a_comparison_with_another_model_refuses(comparison: Comparison | None) -> None:
    candidate = scored(intervals=SURE, comparison=comparison)
    assert decide(LIMITS, PAIRED, candidate, scored(model="champion"), SAME) == refused(
        "mean Dice: there is no paired comparison with champion, by which the plan judges",
        "anterior: median HD95 (mm): there is no paired comparison with champion, by which the plan judges",
    )


def test_a_change_outside_of_the_plan_refuses_and_one_within_does_not() -> None:
    plan = change_plan(
        modifications=Modifications(
            description="More cases, another network.",
            data=DataChange(description="More.", cases_removed_max=1),
            plan={"network": PlanChange(description="One of two.", allowed=("UNet", "DynUNet"))},
        )
    )
    within = Changes(plan={"network": ("UNet", "DynUNet")}, cases_added=5, cases_removed=1)
    assert decide(LIMITS, plan, scored(), scored(), within) == PASSED
    beyond = Changes(plan={"network": ("UNet", "SegResNet")})
    assert decide(LIMITS, plan, scored(), scored(), beyond) == refused(
        "change control plan: network UNet → SegResNet is outside the plan's UNet or DynUNet"
    )
    assert decide(LIMITS, None, scored(), scored(), beyond) == PASSED


def test_a_first_model_changes_nothing() -> None:
    assert decide(LIMITS, change_plan(), scored(), None, Changes(cases_added=5)) == PASSED


def test_with_a_plan_it_must_be_known_what_changed() -> None:
    assert decide(LIMITS, change_plan(), scored(), scored(), None) == refused(
        "it is not known what differs from the champion, which the change control plan asks for"
    )
    assert decide(LIMITS, None, scored(), scored(), None) == PASSED


# The report


def test_a_report_rests_on_both_evaluations_and_the_plan_by_their_digests() -> None:
    candidate, champion, plan = scored({"dice_mean": 0.1}), scored(missed=3), change_plan()
    decision = decide(LIMITS, plan, candidate, champion, SAME)
    kept = report(
        decision,
        candidate,
        champion,
        protocol="hippocampus",
        run_id="r",
        snapshot="s",
        bundle_sha256="b",
        champion_number=4,
        change_plan=plan,
    )
    assert (kept.evaluation, kept.champion_evaluation) == (candidate.digest, champion.digest)
    assert (kept.change_plan, kept.champion, kept.task) == (plan.digest, 4, "segmentation")
    assert (kept.figures["dice_mean"], kept.champion_figures["dice_mean"]) == (0.1, 0.9)
    assert (kept.missed, kept.champion_missed, kept.cases, kept.patients) == (0, 3, 40, 30)
    assert kept.test_set == "a" * 64
    assert not kept.decision.passed
    assert GateReport.from_json(kept.as_json()) == kept
    assert GateReport.from_json(kept.as_json()).digest == kept.digest
    assert replace(kept, bundle_sha256="c").digest != kept.digest


def test_a_report_of_a_first_model_names_no_champion() -> None:
    kept = report(
        PASSED,
        scored(),
        None,
        protocol="hippocampus",
        run_id="r",
        snapshot="s",
        bundle_sha256="b",
        champion_number=None,
    )
    assert (kept.champion, kept.champion_evaluation, kept.change_plan, kept.champion_missed) == (None,) * 4
    assert kept.champion_figures == {}
    assert GateReport.from_json(kept.as_json()) == kept


def test_a_report_of_the_first_kind_is_still_read() -> None:
    first = """{"protocol": "hippocampus", "run_id": "r", "snapshot": "s", "bundle_sha256": "b", "champion": 1,
     "dice": {"anterior": 0.8}, "dice_mean": 0.8, "champion_dice_mean": 0.7, "missed": 2, "cases": 5,
     "decision": {"passed": false, "reasons": ["worse"]}}"""
    kept = GateReport.from_json(first)
    assert kept.figures == {"dice_mean": 0.8, "dice/anterior": 0.8}
    assert kept.champion_figures == {"dice_mean": 0.7}
    assert kept.decision == refused("worse")
    assert (kept.missed, kept.cases, kept.test_set, kept.task) == (2, 5, "s", "segmentation")


@pytest.mark.parametrize("text", ["{}", "[]", '{"protocol": "hippocampus"}'])
def test_what_is_no_gate_report_is_not_read_as_one(text: str) -> None:
    with pytest.raises(ValueError, match="no gate report"):
        GateReport.from_json(text)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dice_mean", "mean Dice"),
        ("surface_dice/anterior", "anterior: surface Dice"),
        ("sensitivity_at_0.5_fp", "sensitivity at 0.5 false positives a study"),
        ("specificity/yes", "yes: specificity"),
        ("brier_score", "Brier score"),
        ("map", "mAP"),
    ],
)
def test_figures_are_called_by_their_names_in_words(name: str, words: str) -> None:
    assert spoken(name) == words
