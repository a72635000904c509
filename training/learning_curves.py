"""What strategies made of the same seconds of annotation: simulated runs in; areas, bands and differences out.

A seed is one run of every strategy from the same start with the same luck in training, so strategies are compared seed
by seed. Bands are bootstrapped over seeds; differences have intervals of Student's t instead, since with five seeds a
bootstrap's percentiles are about a third too narrow (Efron & Tibshirani 1993, chapter 13).
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import integrate, stats

from training.intervals import Interval, draw_patients, interval_of

RANDOM, FOREGROUND_RANDOM = "random", "foreground_random"
_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Standing:
    """After a round: `seconds` were there to be spent by then, `spent_s` of them were, on `cases`, in order.

    `dice` is the mean over the test cases that have a structure or were given one, by structure; 0 counts for a miss
    and for an invention.
    """

    seconds: float
    spent_s: float
    cases: tuple[str, ...]
    dice: Mapping[str, float]

    @property
    def dice_mean(self) -> float:
        """Over the structures, so that a small and rare one counts as much as a large one."""
        return statistics.fmean(self.dice.values())


@dataclass(frozen=True, kw_only=True)
class Run:
    """One strategy, one seed, one set of cases; the first standing is the start that all strategies share."""

    archive: str
    strategy: str
    seed: int
    standings: tuple[Standing, ...]

    @property
    def area(self) -> float:
        """Area under Dice over seconds, divided by the seconds: the mean Dice while annotation went on, 0 to 1."""
        seconds = [standing.seconds for standing in self.standings]
        dice = [standing.dice_mean for standing in self.standings]
        return float(integrate.trapezoid(dice, seconds)) / (seconds[-1] - seconds[0])


@dataclass(frozen=True, kw_only=True)
class Band:
    """A strategy's mean Dice at each of `seconds`, and between which 95 % of the draws of seeds lie."""

    seconds: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Area of a strategy less that of a baseline, the mean over seeds; no interval of fewer than two."""

    strategy: str
    baseline: str
    mean: float
    interval: Interval | None
    seeds: int

    @property
    def clear(self) -> bool:
        """Whether it is larger than its interval: 0 is not in it."""
        return self.interval is not None and not self.interval.low <= 0.0 <= self.interval.high


def archives_of(runs: Iterable[Run]) -> list[str]:
    """The sets, in the order they came in."""
    return list(dict.fromkeys(run.archive for run in runs))


def by_strategy(runs: Iterable[Run], archive: str) -> dict[str, list[Run]]:
    """One set's runs, the baselines first, the others by mean area, each strategy's by seed."""
    found: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        if run.archive == archive:
            found.setdefault(run.strategy, []).append(run)
    baselines = [name for name in (RANDOM, FOREGROUND_RANDOM) if name in found]
    others = sorted((name for name in found if name not in baselines), key=lambda name: -area_of(found[name]))
    return {name: found[name] for name in (*baselines, *others)}


def area_of(runs: Sequence[Run]) -> float:
    """The mean of one strategy's areas."""
    return statistics.fmean(run.area for run in runs)


def band_of(runs: Sequence[Run]) -> Band:
    """One strategy's curve; its seeds were given the same seconds."""
    dice = np.array([[standing.dice_mean for standing in run.standings] for run in runs])
    times = draw_patients([str(run.seed) for run in runs])
    intervals = [interval_of(times @ column / len(runs)) for column in dice.T]
    known = [
        Interval(low=value, high=value) if one is None else one for value, one in zip(dice[0], intervals, strict=True)
    ]
    return Band(
        seconds=tuple(standing.seconds for standing in runs[0].standings),
        mean=tuple(dice.mean(axis=0).tolist()),
        low=tuple(one.low for one in known),
        high=tuple(one.high for one in known),
    )


def difference(runs: Sequence[Run], baseline: Sequence[Run]) -> Difference:
    """Of one strategy's runs and a baseline's, over the seeds that both have."""
    theirs = {run.seed: run.area for run in baseline}
    apart = [run.area - theirs[run.seed] for run in runs if run.seed in theirs]
    return Difference(
        strategy=runs[0].strategy,
        baseline=baseline[0].strategy,
        mean=statistics.fmean(apart),
        interval=_student(apart),
        seeds=len(apart),
    )


def _student(values: Sequence[float]) -> Interval | None:
    if len(values) < 2:
        return None
    reach = float(stats.t.ppf((1 + _LEVEL) / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    middle = statistics.fmean(values)
    return Interval(low=middle - reach, high=middle + reach)
