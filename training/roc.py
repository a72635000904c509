"""ROC curves of many draws of the same cases at once: scores, truths and how often each was drawn in, areas out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """Points from no case called positive to all, a row a draw: `sensitivity` and `specificity` (draws, points).

    `thresholds` (points,) fall; the first, infinity, calls no case positive. `positives` and `negatives` (draws,
    points) are those called so. What needs a kind of cases that was not drawn is NaN.
    """

    thresholds: _Floats
    positives: _Floats
    negatives: _Floats

    @property
    def sensitivity(self) -> _Floats:
        return _divided(self.positives, self.positives[:, -1:])

    @property
    def specificity(self) -> _Floats:
        return 1.0 - _divided(self.negatives, self.negatives[:, -1:])

    def areas(self) -> _Floats:
        """The area under each curve, by trapezia: cases of equal score count half."""
        width, height = np.diff(1.0 - self.specificity, axis=1), self.sensitivity
        area: _Floats = (width * (height[:, 1:] + height[:, :-1]) / 2).sum(axis=1)
        return area

    def average_precisions(self) -> _Floats:
        """Mean precision at the thresholds, weighed by the sensitivity each adds; NaN where a curve has no area."""
        precision = np.divide(
            self.positives, called := self.positives + self.negatives, out=np.zeros_like(called), where=called > 0
        )
        found = (np.diff(self.sensitivity, axis=1) * precision[:, 1:]).sum(axis=1)
        return np.where(np.isnan(self.areas()), np.nan, found)

    def youden(self) -> NDArray[np.intp]:
        """Where sensitivity and specificity add up to most, the highest threshold of several alike."""
        return _first(total := np.nan_to_num(self.sensitivity + self.specificity), total.max(axis=1, keepdims=True))

    def reaching(self, sensitivity: float) -> NDArray[np.intp]:
        """The highest threshold that has at least this sensitivity."""
        return _first(np.nan_to_num(self.sensitivity), np.full((len(self.positives), 1), sensitivity))

    def at(self, values: _Floats, places: NDArray[np.intp]) -> _Floats:
        """The value of each draw at its place; NaN where a curve has no area."""
        found: _Floats = np.where(np.isnan(self.areas()), np.nan, values[np.arange(len(values)), places])
        return found


def curve_of(scores: _Floats, truths: NDArray[np.bool_], times: NDArray[np.int64]) -> Curve:
    """The curves of cases with these scores and truths (cases,), drawn so many times (draws, cases)."""
    order = np.argsort(-scores, kind="stable")
    falling, true, drawn = scores[order], truths[order], times[:, order].astype(np.float64)
    starts = np.flatnonzero(np.diff(falling, prepend=np.inf))
    return Curve(
        thresholds=np.concatenate([[np.inf], falling[starts]]),
        positives=_called(drawn * true, starts),
        negatives=_called(drawn * ~true, starts),
    )


def _called(drawn: _Floats, starts: NDArray[np.intp]) -> _Floats:
    """How many (draws, points) are called positive when the threshold falls to each group of equal scores."""
    by_score = np.add.reduceat(drawn, starts, axis=1)
    return np.concatenate([np.zeros((len(drawn), 1)), by_score.cumsum(axis=1)], axis=1)


def _first(values: _Floats, least: _Floats) -> NDArray[np.intp]:
    """The first place of each row whose value is at least the row's own `least`, but for rounding."""
    return (values >= least - _ROUNDING).argmax(axis=1)


def _divided(part: _Floats, whole: _Floats) -> _Floats:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
