"""Figures that each case has by itself, put together over cases: values by case in; means, medians and totals out."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from training.intervals import Drawn, Resampling, S, Times

_Values = Mapping[str, float | None]


class Summary(StrEnum):
    """How the cases' values of one name become one figure."""

    MEAN = "mean"
    MEDIAN = "median"
    TOTAL = "total"


class PerCase(Generic[S]):
    """A statistic of values that every case has, or has not, by itself.

    `values` gives a case's values by name, None for what it has not; `summary` how a name's values come together. A
    figure that no case has a value of is None; a total is then 0.
    """

    def __init__(self, values: Callable[[S], _Values], summary: Callable[[str], Summary] | None = None) -> None:
        self.values = values
        self._summary = summary or (lambda name: Summary.MEAN)

    def __call__(self, scored: Sequence[S]) -> dict[str, float | None]:
        return {
            name: _put_together(self._summary(name), [value for value in values if value is not None])
            for name, values in self._columns(scored).items()
        }

    def resampled(self, scored: Sequence[S], times: Times) -> Drawn:
        columns = self._columns(scored)
        values = np.array(list(columns.values()), dtype=np.float64).reshape(len(columns), len(scored))  # None is NaN
        counted = (~np.isnan(values)).astype(np.float64)
        as_float = times.astype(np.float64)  # integers are multiplied one by one
        totals, drawn = np.nan_to_num(values) @ as_float.T, counted @ as_float.T
        means = np.divide(totals, drawn, out=np.full_like(totals, np.nan), where=drawn > 0)
        figures: dict[str, NDArray[np.float64]] = {}
        for row, name in enumerate(columns):
            summary = self._summary(name)
            if summary is Summary.MEDIAN:
                figures[name] = _medians(values[row], times)
            else:
                figures[name] = means[row] if summary is Summary.MEAN else totals[row]
        return figures

    def _columns(self, scored: Sequence[S]) -> dict[str, list[float | None]]:
        rows = [self.values(one) for one in scored]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: [row.get(name) for row in rows] for name in names}


class Together(Generic[S]):
    """Several statistics of the same cases as one; no two give figures of one name."""

    def __init__(self, *statistics_: Resampling[S]) -> None:
        self._statistics = statistics_

    def __call__(self, scored: Sequence[S]) -> dict[str, float | None]:
        return {name: value for one in self._statistics for name, value in one(scored).items()}

    def resampled(self, scored: Sequence[S], times: Times) -> Drawn:
        return {name: drawn for one in self._statistics for name, drawn in one.resampled(scored, times).items()}


def _put_together(summary: Summary, values: list[float]) -> float | None:
    if summary is Summary.TOTAL:
        return float(sum(values))
    if not values:
        return None
    return statistics.fmean(values) if summary is Summary.MEAN else float(statistics.median(values))


def _medians(values: NDArray[np.float64], times: Times) -> NDArray[np.float64]:
    """The mean of the two middle values of each draw, which are one value where an odd number was drawn."""
    order = np.argsort(values)[: np.count_nonzero(~np.isnan(values))]  # NaN sorts last
    if not order.size:
        return np.full(len(times), np.nan)
    up_to = times[:, order].cumsum(axis=1)
    drawn = up_to[:, -1:]
    middle = [(up_to <= place).sum(axis=1).clip(max=order.size - 1) for place in ((drawn - 1) // 2, drawn // 2)]
    medians = (values[order[middle[0]]] + values[order[middle[1]]]) / 2.0
    return np.where(drawn[:, 0] > 0, medians, np.nan)
