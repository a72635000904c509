"""How sure a figure is: scored cases and a statistic in, figures with 95 % bootstrap intervals over patients out.

Patients are drawn with replacement, as many as there are, and each brings all its cases: cases of one patient are
alike, so that drawing cases would make intervals too narrow (Field & Welsh 2007, J R Stat Soc B 69:369). Intervals are
percentiles of what the statistic is in the draws (Efron & Tibshirani 1993, chapter 13): they stay within the figure's
range and suit medians and counts, of which the jackknife that BCa intervals are corrected by fails (ibid., section
11.6). With a handful of patients they are too narrow all the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.strata import Strata

RESAMPLES = 1000
SEED = 0
UNDEFINED_SHARE_MAX = 0.05  # of the draws in which a figure may be undefined and still have an interval
_TAILS = (0.025, 0.975)

Times = NDArray[np.int64]
Drawn = Mapping[str, NDArray[np.float64]]


class KnownCase(Protocol):
    """Whose case it is and what it is of; what a model did on it may stand beside."""

    @property
    def case(self) -> str: ...
    @property
    def patient(self) -> str: ...
    @property
    def strata(self) -> Strata: ...


S = TypeVar("S", bound=KnownCase)
S_contra = TypeVar("S_contra", bound=KnownCase, contravariant=True)

# Figures by name of any sample of scored cases, in which a case may stand several times; None where not defined.
Statistic = Callable[[Sequence[S]], Mapping[str, float | None]]


@runtime_checkable
class Resampling(Protocol[S_contra]):
    """A statistic that can be had of all draws at once, which is some hundred times faster than one by one."""

    def __call__(self, scored: Sequence[S_contra], /) -> Mapping[str, float | None]: ...

    def resampled(self, scored: Sequence[S_contra], times: Times, /) -> Drawn:
        """The figures by draw, shape (draws,), NaN where not defined.

        `times` of shape (draws, cases) says how often each case was drawn, in the cases' order.
        """


@dataclass(frozen=True, kw_only=True)
class Interval:
    """95 % of the draws lie between these."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a report; `n` cases have a value of it. `value` is None where it is not defined."""

    name: str
    value: float | None
    interval: Interval | None
    n: int


def draw_patients(patients: Sequence[str], resamples: int = RESAMPLES, seed: int = SEED) -> Times:
    """How often each case is drawn, shape (resamples, cases), from each case's patient; the seed decides it."""
    known, of_case = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    chosen = np.random.default_rng(seed).integers(0, len(known), (resamples, len(known)))
    times_of_patient = np.zeros((resamples, len(known)), dtype=np.int64)
    np.add.at(times_of_patient, (np.arange(resamples)[:, np.newaxis], chosen), 1)
    return times_of_patient[:, of_case]


def resample(statistic: Statistic[S], scored: Sequence[S], times: Times) -> Drawn:
    """The statistic of every draw, by name of figure; all at once where the statistic can do that."""
    if isinstance(statistic, Resampling):
        return statistic.resampled(scored, times)
    samples = ([one for one, n in zip(scored, row.tolist(), strict=True) for _ in range(n)] for row in times)
    drawn = [statistic(sample) for sample in samples]
    names = dict.fromkeys(name for figures in drawn for name in figures)
    return {
        name: np.array([np.nan if figures.get(name) is None else figures[name] for figures in drawn], dtype=np.float64)
        for name in names
    }


def interval_of(drawn: NDArray[np.float64] | None) -> Interval | None:
    """The middle 95 % of the draws; None where the figure is undefined in more than a few of them."""
    if drawn is None:
        return None
    defined = drawn[~np.isnan(drawn)]
    if drawn.size == 0 or defined.size < (1.0 - UNDEFINED_SHARE_MAX) * drawn.size:
        return None
    low, high = np.quantile(defined, _TAILS)
    return Interval(low=float(low), high=float(high))


def figures_of(
    statistic: Statistic[S], scored: Sequence[S], times: Times, counts: Mapping[str, int] | None = None
) -> tuple[Figure, ...]:
    """Every figure of these cases with its interval; none has one where all cases are one patient's.

    `counts` says how many cases have a value of a figure, all where it does not name it.
    """
    drawn = resample(statistic, scored, times) if len({one.patient for one in scored}) > 1 else {}
    known = counts or {}
    return tuple(
        Figure(
            name=name,
            value=None if value is None else float(value),
            interval=None if value is None else interval_of(drawn.get(name)),
            n=known.get(name, len(scored)),
        )
        for name, value in statistic(scored).items()
    )
