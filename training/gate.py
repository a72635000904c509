"""Whether a candidate may become champion: reports, limits and changes in, a `Decision` with its reasons out.

Pure functions. A figure that is not there, or is no number, reaches no bound. What a protocol says and what a change
control plan says both hold.
"""

import math
from collections.abc import Iterator, Mapping

from labeling_protocols.protocol_parts import GateLimits
from training.change_control import ChangePlan, JudgedBy, SubgroupRule, Verification, outside
from training.changes import Changes
from training.figure_names import spoken
from training.gate_report import Decision, GateReport, report
from training.report import EvaluationReport, Figure, Subgroup, lower_is_better
from training.subgroups import SMALL

__all__ = ["Decision", "GateReport", "decide", "report"]

OUTLINING = ("segmentation", "interactive")  # the tasks whose models Dice is of
_ROUNDING = 1e-9  # what a sum of floats may lose; 0.8 is not below 0.9 - 0.1
_PLACES, _PLACES_MAX = 3, 9


def decide(
    limits: GateLimits,
    change_plan: ChangePlan | None,
    candidate: EvaluationReport,
    champion: EvaluationReport | None,
    changed: Changes | None,
) -> Decision:
    """Hold a candidate against the protocol's limits, the change control plan, and the champion on the same cases.

    `changed` is what differs from the champion's training; None where there is no champion.
    """
    verification = change_plan.verification if change_plan is not None else None
    reasons = [*_plan_fits(change_plan, candidate), *_enough(verification, candidate)]
    reasons += _within_bounds(limits, verification, candidate)
    notes: list[str] = []
    if champion is not None:
        apart = list(_incomparable(candidate, champion))
        reasons += apart
        if not apart:
            reasons += _not_worse(limits, verification, candidate, champion)
            in_subgroups, notes = _subgroups(limits, verification, candidate, champion)
            reasons += in_subgroups
        reasons += _as_planned(change_plan, changed)
    return Decision(passed=not reasons, reasons=tuple(dict.fromkeys(reasons)), notes=tuple(dict.fromkeys(notes)))


def _plan_fits(change_plan: ChangePlan | None, candidate: EvaluationReport) -> Iterator[str]:
    if change_plan is not None and change_plan.task != candidate.task:
        yield f"the change control plan is for {change_plan.task}, the candidate for {candidate.task}"


def _enough(verification: Verification | None, candidate: EvaluationReport) -> Iterator[str]:
    if not candidate.cases:
        yield "no case was scored"
    if verification is not None:
        if candidate.cases < verification.cases_min:
            yield f"{candidate.cases} held-out case(s), at least {verification.cases_min} needed"
        if candidate.patients < verification.patients_min:
            yield f"{candidate.patients} held-out patient(s), at least {verification.patients_min} needed"


def _within_bounds(limits: GateLimits, verification: Verification | None, candidate: EvaluationReport) -> Iterator[str]:
    """Every bound that does not look at the champion; a plan's are of the point or the interval, as it says."""
    bounds = [*_bounds_of_protocol(limits, candidate.task)]
    if limits.calibration_error_max is not None:
        yield from _bounded("calibration_error", limits.calibration_error_max, candidate, JudgedBy.POINT)
    if not bounds and verification is None:
        yield (
            f"nothing says what a {candidate.task} model has to reach: the protocol's gate names no figure for it"
            " (gate.figures_min) and there is no change control plan"
        )
    for name, bound in bounds:
        yield from _bounded(name, bound, candidate, JudgedBy.POINT)
    if verification is not None:
        for name, bound in _bounds_of_plan(verification):
            yield from _bounded(name, bound, candidate, verification.judged_by)
    if candidate.task in OUTLINING and candidate.missed > limits.missed_max:
        yield f"{candidate.missed} structure(s) missed, at most {limits.missed_max} allowed"


def _bounds_of_protocol(limits: GateLimits, task: str) -> Iterator[tuple[str, float]]:
    if task in OUTLINING:
        yield "dice_mean", limits.dice_mean_min
        for what, by_structure in (
            ("dice", limits.dice_min),
            ("surface_dice", limits.surface_dice_min),
            ("hd95_mm", limits.hd95_mm_max),
        ):
            for structure, bound in (by_structure or {}).items():
                yield f"{what}/{structure}", bound
    for by_task in (limits.figures_min, limits.figures_max):
        yield from (by_task or {}).get(task, {}).items()


def _bounds_of_plan(verification: Verification) -> Iterator[tuple[str, float]]:
    yield from (verification.figures_min or {}).items()
    yield from (verification.figures_max or {}).items()
    if verification.calibration_error_max is not None:
        yield "calibration_error", verification.calibration_error_max


def _bounded(name: str, bound: float, candidate: EvaluationReport, judged_by: JudgedBy) -> Iterator[str]:
    """A figure of which more is better is at least its bound, any other at most."""
    less_is_better, figure = lower_is_better(name), candidate.figure(name)
    value = _number(figure.value) if figure is not None else None
    words = spoken(name)
    if figure is not None and value is not None and judged_by is JudgedBy.INTERVAL:
        if figure.interval is None:
            yield f"{words} has no 95 % interval, whose worse end is to be held against {_written(bound)}"
            return
        value = _number(figure.interval.high if less_is_better else figure.interval.low)
        words = f"{'upper' if less_is_better else 'lower'} 95 % bound of {words}"
    if value is None:
        yield f"{words} was not measured, {_written(bound)} is to be reached"
    elif less_is_better and value > bound + _ROUNDING:
        yield "{} {} > {}".format(words, *_apart(value, bound))
    elif not less_is_better and value < bound - _ROUNDING:
        yield "{} {} < {}".format(words, *_apart(value, bound))


def _incomparable(candidate: EvaluationReport, champion: EvaluationReport) -> Iterator[str]:
    if champion.task != candidate.task:
        yield f"the champion was scored for {champion.task}, the candidate for {candidate.task}"
    if champion.test_set != candidate.test_set:
        yield (
            f"the champion was scored on another test set ({champion.test_set[:12]}) than the candidate"
            f" ({candidate.test_set[:12]})"
        )
    elif (champion.cases, champion.patients) != (candidate.cases, candidate.patients):
        yield "the champion was scored on other cases than the candidate"


def _not_worse(
    limits: GateLimits, verification: Verification | None, candidate: EvaluationReport, champion: EvaluationReport
) -> Iterator[str]:
    if candidate.task in OUTLINING:
        yield from _dropped("dice_mean", limits.dice_drop_max, candidate, champion)
    if verification is not None:
        for name, allowed in (verification.drop_max or {}).items():
            if verification.judged_by is JudgedBy.INTERVAL:
                yield from _surely_dropped(name, allowed, candidate, champion)
            else:
                yield from _dropped(name, allowed, candidate, champion)
    more = verification.missed_more_max if verification is not None else 0
    if candidate.missed > champion.missed + more:
        yield f"{candidate.missed} missed, the champion {champion.missed}; at most {more} more allowed"


def _dropped(name: str, allowed: float, candidate: EvaluationReport, champion: EvaluationReport) -> Iterator[str]:
    values = [_value(report.figure(name)) for report in (candidate, champion)]
    yield from _worse(spoken(name), name, allowed, *values)


def _worse(words: str, name: str, allowed: float, ours: float | None, theirs: float | None) -> Iterator[str]:
    """A figure the champion has not either is nothing to compare by."""
    if theirs is None:
        return
    if ours is None:
        yield f"{words} was not measured; the champion's is {_written(theirs)}"
        return
    side, drop = ("above", ours - theirs) if lower_is_better(name) else ("below", theirs - ours)
    if drop > allowed + _ROUNDING:
        found, standard = _apart(ours, theirs, allowed)
        yield f"{words} {found} is more than {_written(allowed)} {side} the champion's {standard}"


def _surely_dropped(
    name: str, allowed: float, candidate: EvaluationReport, champion: EvaluationReport
) -> Iterator[str]:
    """By the worse end of the interval of the paired difference."""
    comparison = candidate.comparison
    if comparison is None or comparison.champion != champion.model:
        yield f"{spoken(name)}: there is no paired comparison with {champion.model}, by which the plan judges"
        return
    difference = next((figure for figure in comparison.differences if figure.name == name), None)
    if difference is None or difference.interval is None:
        yield f"{spoken(name)}: the difference from the champion has no 95 % interval, by which the plan judges"
        return
    less_is_better = lower_is_better(name)
    drop = difference.interval.high if less_is_better else -difference.interval.low
    if not drop <= allowed + _ROUNDING:
        side = "above" if less_is_better else "below"
        found, limit = _apart(drop, allowed)
        yield f"{spoken(name)} may lie {found} {side} the champion's (95 %), {limit} allowed"


def _subgroups(
    limits: GateLimits, verification: Verification | None, candidate: EvaluationReport, champion: EvaluationReport
) -> tuple[list[str], list[str]]:
    """Reasons, and notes on what is too small to decide anything."""
    reasons: list[str] = []
    notes: list[str] = []
    theirs = {(group.attribute, group.value): group for group in champion.subgroups}
    for rule in _rules(limits, verification, candidate.task):
        for group in candidate.subgroups:
            if group.attribute not in rule.attributes:
                continue
            found = list(_worse_within(group, theirs.get((group.attribute, group.value)), rule.drop_max))
            if group.n < rule.cases_min:
                small = f"{_where(group)}: {group.n} case(s), fewer than {rule.cases_min}, decide nothing"
                notes += [small, *(f"not decided: {words}" for words in found)]
            else:
                reasons += found
    return reasons, notes


def _rules(limits: GateLimits, verification: Verification | None, task: str) -> Iterator[SubgroupRule]:
    if limits.subgroup_dice_drop_max is not None and task in OUTLINING:
        yield SubgroupRule(cases_min=SMALL, drop_max={"dice_mean": limits.subgroup_dice_drop_max})
    if verification is not None and verification.subgroups is not None:
        yield verification.subgroups


def _worse_within(ours: Subgroup, theirs: Subgroup | None, drops: Mapping[str, float]) -> Iterator[str]:
    where = _where(ours)
    if theirs is None:
        yield f"{where}: the champion's report does not have this subgroup"
        return
    for name, allowed in drops.items():
        values = (_number(group.figures.get(name)) for group in (ours, theirs))
        yield from _worse(f"{where}: {spoken(name)}", name, allowed, *values)


def _where(group: Subgroup) -> str:
    return f"{group.attribute.replace('_', ' ')} {group.value}"


def _as_planned(change_plan: ChangePlan | None, changed: Changes | None) -> Iterator[str]:
    if change_plan is None:
        return
    if changed is None:
        yield "it is not known what differs from the champion, which the change control plan asks for"
    else:
        yield from (f"change control plan: {words}" for words in outside(change_plan.modifications, changed))


def _value(figure: Figure | None) -> float | None:
    return None if figure is None else _number(figure.value)


def _number(value: float | None) -> float | None:
    """A comparison with NaN is never true, so that it would pass everything."""
    return value if value is not None and math.isfinite(value) else None


def _written(value: float) -> str:
    return f"{value:.{_PLACES}f}"


def _apart(found: float, bound: float, allowed: float = 0.0) -> tuple[str, str]:
    """Both numbers with as many places as show that they lie more than `allowed` apart."""
    for places in range(_PLACES, _PLACES_MAX):
        if abs(round(found, places) - round(bound, places)) > allowed + _ROUNDING:
            return f"{found:.{places}f}", f"{bound:.{places}f}"
    return f"{found:.{_PLACES_MAX}f}", f"{bound:.{_PLACES_MAX}f}"
