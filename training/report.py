"""What is known of a model, for every task: scored cases and a statistic in; figures with intervals, subgroups, out.

A report says the same whatever order its cases came in, and its digest names it. It holds case ids, no patients.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from training.comparison import Champion, Comparison, compare
from training.intervals import RESAMPLES, SEED, Figure, Interval, KnownCase, S, Statistic, draw_patients, figures_of
from training.subgroups import SMALL, Subgroup, subgroups_of

__all__ = [
    "LOWER_IS_BETTER",
    "Champion",
    "Comparison",
    "EvaluationReport",
    "Figure",
    "Interval",
    "KnownCase",
    "Statistic",
    "Subgroup",
    "build_report",
    "lower_is_better",
]

# Figures of which less is better, by what stands before the first "/".
LOWER_IS_BETTER = (
    "hd95_mm",
    "average_surface_distance_mm",
    "volume_error",
    "missed",
    "invented",
    "calibration_error",
    "brier_score",
)

_NARROW, _NONE = "intervals are too narrow", "there are no intervals"
_NO_VALUES: Mapping[str, float | None] = {}


def lower_is_better(name: str) -> bool:
    """Whether less of a figure is better."""
    return name.partition("/")[0] in LOWER_IS_BETTER


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """One model on one test set.

    `test_set` is a snapshot's digest, or that of a folder's contents. `missed` and `invented` count what the truth has
    and the model has not, and the other way round. `by_case` are case ids with their value of the figure `principal`,
    worst first. `human` are figures of what readers reach among each other, `notes` what a reader of the report should
    know of how figures were measured, `resamples` how many draws the intervals are of.
    """

    task: str
    model: str
    test_set: str
    cases: int
    patients: int
    figures: tuple[Figure, ...]
    missed: int
    invented: int
    subgroups: tuple[Subgroup, ...]
    human: tuple[Figure, ...]
    comparison: Comparison | None
    principal: str
    by_case: tuple[tuple[str, float], ...]
    notes: tuple[str, ...] = ()
    resamples: int = RESAMPLES

    def figure(self, name: str) -> Figure | None:
        """The figure of this name, None where the report has none."""
        return next((figure for figure in self.figures if figure.name == name), None)

    def human_figure(self, name: str) -> Figure | None:
        """What readers reach among each other on the figure of this name, None where that is not known."""
        return next((figure for figure in self.human if figure.name == name), None)

    def worst_first(self) -> tuple[tuple[str, float], ...]:
        """Case ids with their value of the principal figure, of all cases that have one."""
        return self.by_case

    def warnings(self) -> tuple[str, ...]:
        """What is too few to say much, in words; empty where nothing is."""
        few = [f"{self.patients} patient(s) only: {_NARROW if self.patients > 1 else _NONE}"]
        groups = [f"{one.attribute} {one.value}: {one.n} case(s) only" for one in self.subgroups if one.small]
        return (*(few if self.patients < SMALL else []), *groups)

    def as_json(self) -> str:
        """Equal reports give equal text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.as_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> "EvaluationReport":
        """Raises `ValueError` where the text is no such report."""
        stored = json.loads(text)
        known = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if not isinstance(stored, dict) or not needed <= set(stored) <= known:
            raise ValueError(f"this is no evaluation report: expected an object with {', '.join(sorted(known))}")
        comparison = stored["comparison"]
        return cls(
            **{
                **stored,
                "figures": _figures(stored["figures"]),
                "subgroups": _subgroups(stored["subgroups"]),
                "human": _figures(stored["human"]),
                "comparison": None if comparison is None else _comparison(comparison),
                "by_case": tuple((case, value) for case, value in stored["by_case"]),
                "notes": tuple(stored.get("notes", ())),
            }
        )


def build_report(
    scored: Sequence[S],
    statistic: Statistic[S],
    *,
    task: str,
    model: str,
    test_set: str,
    principal: str,
    values: Callable[[S], Mapping[str, float | None]] = lambda one: _NO_VALUES,
    champion: Champion[S] | None = None,
    human: Sequence[Figure] = (),
    notes: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> EvaluationReport:
    """The report of these cases, each of them once.

    `statistic` maps any sample of scored cases, also one drawn with replacement, to figures by name; one that is a
    `Resampling`, as `PerCase` is, gives all draws at once. `values` are what each case has by itself under the figures'
    names: they rank cases by the figure `principal`, and make the tests against the champion. The same arguments
    give the same report. Raises `ValueError` where there are no cases, or one stands twice.
    """
    cases = sorted(scored, key=lambda one: one.case)
    _require_each_once([one.case for one in cases])
    by_case = [dict(values(one)) for one in cases]
    names = dict.fromkeys(name for row in by_case for name in row)
    counts = {name: sum(row.get(name) is not None for row in by_case) for name in names}
    times = draw_patients([one.patient for one in cases], resamples, seed)
    figures = figures_of(statistic, cases, times, counts)
    counted = {figure.name: int(figure.value or 0) for figure in figures if figure.name in ("missed", "invented")}
    return EvaluationReport(
        task=task,
        model=model,
        test_set=test_set,
        cases=len(cases),
        patients=len({one.patient for one in cases}),
        figures=figures,
        missed=counted.get("missed", 0),
        invented=counted.get("invented", 0),
        subgroups=subgroups_of(cases, statistic, resamples, seed),
        human=tuple(human),
        comparison=None if champion is None else compare(cases, champion, statistic, values, resamples, seed),
        principal=principal,
        by_case=_ranked([(one.case, row.get(principal)) for one, row in zip(cases, by_case, strict=True)], principal),
        notes=tuple(notes),
        resamples=resamples,
    )


def _require_each_once(cases: Sequence[str]) -> None:
    if not cases:
        raise ValueError("no case was scored; expected at least one. No report was made.")
    if twice := sorted(case for case, n in Counter(cases).items() if n > 1):
        raise ValueError(f"case(s) {', '.join(twice)} were scored more than once. No report was made.")


def _ranked(values: Sequence[tuple[str, float | None]], name: str) -> tuple[tuple[str, float], ...]:
    known = [(case, value) for case, value in values if value is not None]
    return tuple(sorted(known, key=lambda one: (-one[1] if lower_is_better(name) else one[1], one[0])))


def _interval(stored: dict[str, float] | None) -> Interval | None:
    return None if stored is None else Interval(**stored)


def _figures(stored: Sequence[dict[str, Any]]) -> tuple[Figure, ...]:
    return tuple(Figure(**{**figure, "interval": _interval(figure["interval"])}) for figure in stored)


def _subgroups(stored: Sequence[dict[str, Any]]) -> tuple[Subgroup, ...]:
    return tuple(
        Subgroup(**{**one, "intervals": {name: Interval(**found) for name, found in one["intervals"].items()}})
        for one in stored
    )


def _comparison(stored: dict[str, Any]) -> Comparison:
    return Comparison(
        champion=stored["champion"],
        differences=_figures(stored["differences"]),
        p_values=stored["p_values"],
        subgroups=_subgroups(stored["subgroups"]),
    )
