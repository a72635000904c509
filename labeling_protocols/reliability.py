"""How reliable several readers are: tables of their answers or measurements in, coefficients out. Pure functions.

A table has a row an item and a column a category and holds how many readers put the item there; `times` says how often
a row occurs, so that millions of voxels stand in a few rows. Where a coefficient is not defined it is None: readers who
all use one category agree, and leave nothing to measure chance by.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Table = NDArray[np.int64]
Interval = tuple[float, float]
_Floats = NDArray[np.float64]

_TAIL = 0.975  # of 95 % intervals
_NEGLIGIBLE = 1e-12  # share of all variance that is rounding
_ROUNDING = 1e-28  # share of the squared measurements themselves that is


class Level(StrEnum):
    """What a step from one category to another means."""

    NOMINAL = "nominal"  # another category
    ORDINAL = "ordinal"  # so many ranks
    INTERVAL = "interval"  # so much of the measure


@dataclass(frozen=True, kw_only=True)
class Icc:
    """Intraclass correlation of one measurement, over `items` by `readers`, with 95 % intervals.

    `icc_2_1`: two-way random effects, absolute agreement, for readers drawn from many. `icc_3_1`: two-way mixed
    effects, consistency, for these very readers; a constant difference between them does not lower it.
    """

    items: int
    readers: int
    icc_2_1: float
    icc_2_1_interval: Interval
    icc_3_1: float
    icc_3_1_interval: Interval


@dataclass(frozen=True, kw_only=True)
class BlandAltman:
    """Differences a less b over `items`: their mean, the limits 95 % of them lie within, and all 95 % intervals."""

    items: int
    bias: float
    bias_interval: Interval
    lower: float
    lower_interval: Interval
    upper: float
    upper_interval: Interval


def fleiss_kappa(table: Table, times: ArrayLike | None = None) -> float | None:
    """Agreement beyond what the readers' shared use of the categories makes by chance (Fleiss 1971).

    Raises `ValueError` where items have different numbers of readers.
    """
    weights = _weights(table, times)
    readers = table.sum(axis=1)
    if len({*readers.tolist()}) > 1:
        raise ValueError(f"Fleiss' kappa needs as many readers of every item, found {sorted({*readers.tolist()})}")
    if not weights.sum() or readers[0] < 2 or _one_category(table, weights):
        return None
    shares = weights @ table / (weights.sum() * readers[0])
    chance = float(np.square(shares).sum())
    return (_observed(table, weights) - chance) / (1.0 - chance)


def krippendorff_alpha(
    table: Table, times: ArrayLike | None = None, *, level: Level = Level.NOMINAL, values: ArrayLike | None = None
) -> float | None:
    """1 less the observed disagreement over that expected by chance (Krippendorff 2011).

    Missing answers are left out of a row; an item with one answer takes no part. Ordinal categories stand in their
    order; interval ones have `values`, or 0, 1, 2 and so on.
    """
    paired = table.sum(axis=1) > 1
    counts, weights = table[paired].astype(np.float64), _weights(table, times)[paired]
    if not weights.sum() or _one_category(counts, weights):
        return None
    scaled = counts * (weights / (counts.sum(axis=1) - 1.0))[:, np.newaxis]
    coincidences = counts.T @ scaled - np.diag(scaled.sum(axis=0))
    totals = coincidences.sum(axis=1)
    apart = _apart(level, totals, values)
    expected = np.outer(totals, totals) * apart
    return 1.0 - float((coincidences * apart).sum()) * float(totals.sum() - 1.0) / float(expected.sum())


def free_marginal_kappa(table: Table, times: ArrayLike | None = None, *, categories: int | None = None) -> float | None:
    """Agreement beyond chance where readers may use each of the categories as often as they like (Randolph 2005).

    `categories`: how many there are to choose from, the table's columns where it is left out. Items with fewer than two
    answers take no part.
    """
    observed = observed_agreement(table, times)
    choices = table.shape[1] if categories is None else categories
    return None if observed is None or choices < 2 else (observed - 1.0 / choices) / (1.0 - 1.0 / choices)


def observed_agreement(table: Table, times: ArrayLike | None = None) -> float | None:
    """The share of pairs of readers who agree, on the mean over items; None without an item that two answered."""
    paired = table.sum(axis=1) > 1
    weights = _weights(table, times)[paired]
    return _observed(table[paired], weights) if weights.sum() else None


def icc(measured: _Floats) -> Icc | None:
    """Intraclass correlations of measurements of shape (items, readers) (Shrout & Fleiss 1979, McGraw & Wong 1996).

    None with fewer than two items or readers, or where neither items nor errors vary.
    """
    items, readers = measured.shape
    if items < 2 or readers < 2:
        return None
    between_items, between_readers, error = _mean_squares(measured)
    if between_items == error == 0.0:
        return None
    consistent = (between_items - error) / (between_items + (readers - 1) * error)
    spread = between_items + (readers - 1) * error + readers * (between_readers - error) / items
    agreeing = (between_items - error) / spread
    return Icc(
        items=items,
        readers=readers,
        icc_2_1=agreeing,
        icc_2_1_interval=_agreeing_interval(agreeing, between_items, between_readers, error, measured.shape),
        icc_3_1=consistent,
        icc_3_1_interval=_consistent_interval(between_items, error, measured.shape),
    )


def bland_altman(a: ArrayLike, b: ArrayLike) -> BlandAltman | None:
    """Bias and limits of agreement of measurements of the same items (Bland & Altman 1999); None for fewer than two."""
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    items = len(differences)
    if items < 2:
        return None
    bias, deviation = float(differences.mean()), float(differences.std(ddof=1))
    reach, steps = float(stats.norm.ppf(_TAIL)), float(stats.t.ppf(_TAIL, items - 1))
    lower, upper = bias - reach * deviation, bias + reach * deviation
    of_bias = steps * deviation / sqrt(items)
    of_limit = steps * deviation * sqrt(1.0 / items + reach**2 / (2.0 * (items - 1)))
    return BlandAltman(
        items=items,
        bias=bias,
        bias_interval=(bias - of_bias, bias + of_bias),
        lower=lower,
        lower_interval=(lower - of_limit, lower + of_limit),
        upper=upper,
        upper_interval=(upper - of_limit, upper + of_limit),
    )


def table_of(answers: Sequence[Sequence[Hashable]], categories: Sequence[Hashable]) -> Table:
    """The table of these items' answers over these categories, in their order."""
    columns = {category: column for column, category in enumerate(categories)}
    table = np.zeros((len(answers), len(categories)), np.int64)
    for row, of_item in zip(table, answers, strict=True):
        for answer in of_item:
            row[columns[answer]] += 1
    return table


def _weights(table: Table, times: ArrayLike | None) -> _Floats:
    return np.ones(len(table)) if times is None else np.asarray(times, np.float64)


def _one_category(table: Table | _Floats, weights: _Floats) -> bool:
    return int(np.count_nonzero(weights @ table)) < 2


def _observed(table: Table, weights: _Floats) -> float:
    counts = table.astype(np.float64)
    readers = counts.sum(axis=1)
    agreeing = (counts * (counts - 1.0)).sum(axis=1) / (readers * (readers - 1.0))
    return float(weights @ agreeing / weights.sum())


def _apart(level: Level, totals: _Floats, values: ArrayLike | None) -> _Floats:
    """The squared difference of every two categories."""
    if level is Level.NOMINAL:
        return 1.0 - np.eye(len(totals))
    if level is Level.ORDINAL:  # answers up to and with a category, half of its own: ranks by their middle
        values = np.cumsum(totals) - totals / 2.0
    scale = np.arange(len(totals), dtype=np.float64) if values is None else np.asarray(values, np.float64)
    squared: _Floats = np.square(scale[:, np.newaxis] - scale)
    return squared


def _mean_squares(measured: _Floats) -> tuple[float, float, float]:
    """Between items, between readers, and what is left; 0 where it is no more than rounding."""
    items, readers = measured.shape
    centred = measured - measured.mean()
    of_items, of_readers = centred.mean(axis=1, keepdims=True), centred.mean(axis=0, keepdims=True)
    rounding = _NEGLIGIBLE * float(np.square(centred).sum()) + _ROUNDING * float(np.square(measured).sum())
    sums = (
        readers * float(np.square(of_items).sum()),
        items * float(np.square(of_readers).sum()),
        float(np.square(centred - of_items - of_readers).sum()),
    )
    between_items, between_readers, error = (0.0 if total <= rounding else total for total in sums)
    return between_items / (items - 1), between_readers / (readers - 1), error / ((items - 1) * (readers - 1))


def _consistent_interval(between_items: float, error: float, shape: tuple[int, ...]) -> Interval:
    items, readers = shape
    free, free_of_error = items - 1, (items - 1) * (readers - 1)
    narrow = stats.f.ppf(_TAIL, free, free_of_error) * error
    wide = error / stats.f.ppf(_TAIL, free_of_error, free)
    low, high = ((between_items - least) / (between_items + (readers - 1) * least) for least in (narrow, wide))
    return float(low), float(high)


def _agreeing_interval(
    agreeing: float, between_items: float, between_readers: float, error: float, shape: tuple[int, ...]
) -> Interval:
    """McGraw & Wong 1996, table 7, ICC(A,1), with each term multiplied out so that an error of 0 has a limit."""
    items, readers = shape
    of_readers = readers * agreeing * between_readers
    of_error = (items * (1.0 + (readers - 1) * agreeing) - readers * agreeing) * error
    below = (items - 1) * of_readers**2 + of_error**2
    if below == 0.0:
        return (agreeing, agreeing)
    free = (readers - 1) * (items - 1) * (of_readers + of_error) ** 2 / below
    noise = readers * between_readers + (readers * items - readers - items) * error
    upper = stats.f.ppf(_TAIL, items - 1, free)
    lower = stats.f.ppf(_TAIL, free, items - 1)
    low = items * (between_items - upper * error) / (upper * noise + items * between_items)
    high = items * (lower * between_items - error) / (noise + items * lower * between_items)
    return float(low), float(high)
