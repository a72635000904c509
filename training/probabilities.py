"""Whether a model's probabilities can be believed: probabilities and what was true in, calibration error and curve out.

Of cases that a model gives 0.8, eight in ten should have what it says. Probabilities fall into bins of equal width, and
the expected calibration error is the mean distance between a bin's mean probability and its share of what was true,
weighed by how many fell into it (Naeini et al. 2015, AAAI 29:2901; Guo et al. 2017, ICML 70:1321, with 15 bins).
Brier's score is the mean squared distance between probability and truth (Brier 1950). Only sums by bin are kept, so
that memory does not grow with voxels, and sums of cases add up.

Voxels count where truth or prediction lie, and `MARGIN_VOXELS` around: in a whole volume nearly everything is
background that any model is sure of, and every model would look calibrated (Mehrtash et al. 2020, IEEE TMI 39:3868).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from labeling_protocols.surfaces import Mask, region_of
from training.intervals import Drawn, S, Times

BINS = 15
MARGIN_VOXELS = 2
_ROUNDING = 1e-2  # how far bfloat16 may take a probability out of 0 to 1

_Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One bin that something fell into: the mean of its probabilities, the share of it that was true, how many."""

    probability: float
    share: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Sums over probabilities: by bin how many there were, how many of them were true, and what they add up to."""

    counts: tuple[int, ...]
    positives: tuple[int, ...]
    probability_sums: tuple[float, ...]
    squared_error: float

    def __add__(self, other: "Reliability") -> "Reliability":
        return Reliability(
            counts=tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)),
            positives=tuple(a + b for a, b in zip(self.positives, other.positives, strict=True)),
            probability_sums=tuple(a + b for a, b in zip(self.probability_sums, other.probability_sums, strict=True)),
            squared_error=self.squared_error + other.squared_error,
        )

    @property
    def n(self) -> int:
        return sum(self.counts)

    @property
    def calibration_error(self) -> float | None:
        """Expected calibration error, 0 to 1; None without probabilities."""
        apart = sum(abs(s - p) for s, p in zip(self.probability_sums, self.positives, strict=True))
        return apart / self.n if self.n else None

    @property
    def brier_score(self) -> float | None:
        """0 to 1; None without probabilities."""
        return self.squared_error / self.n if self.n else None

    def curve(self) -> tuple[CurvePoint, ...]:
        """The reliability diagram's points, by probability."""
        return tuple(
            CurvePoint(probability=total / n, share=positive / n, n=n)
            for n, positive, total in zip(self.counts, self.positives, self.probability_sums, strict=True)
            if n
        )

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Reliability":
        """From what `asdict` made of one."""
        return cls(
            counts=tuple(stored["counts"]),
            positives=tuple(stored["positives"]),
            probability_sums=tuple(stored["probability_sums"]),
            squared_error=stored["squared_error"],
        )


def reliability(probabilities: ArrayLike, happened: ArrayLike, bins: int = BINS) -> Reliability:
    """The sums of these probabilities and of whether what they are of was so; one of each for a single case.

    A probability on the edge of two bins falls into the lower. Raises `ValueError` for what is no probability, such as
    a network's output before its softmax.
    """
    given = np.asarray(probabilities, dtype=np.float64).ravel()
    true = np.asarray(happened, dtype=np.bool_).ravel()
    if given.shape != true.shape:
        raise ValueError(
            f"{given.size} probabilities of {true.size} outcomes; expected one each. Nothing was measured."
        )
    if given.size and not (given.min() >= -_ROUNDING and given.max() <= 1.0 + _ROUNDING):
        raise ValueError(
            f"probabilities run from {given.min():g} to {given.max():g}; expected 0 to 1. Nothing was measured."
        )
    clipped = given.clip(0.0, 1.0)
    places = np.searchsorted(np.linspace(0.0, 1.0, bins + 1)[1:-1], clipped)
    return Reliability(
        counts=tuple(np.bincount(places, minlength=bins).tolist()),
        positives=tuple(np.bincount(places[true], minlength=bins).tolist()),
        probability_sums=tuple(np.bincount(places, clipped, minlength=bins).tolist()),
        squared_error=float(np.square(clipped - true).sum()),
    )


def voxel_reliability(
    probability_ZYX: NDArray[np.floating[Any]], truth_ZYX: Mask, predicted_ZYX: Mask, bins: int = BINS
) -> Reliability:
    """The sums over the voxels of truth and prediction and the margin around them; none where neither has any."""
    if not probability_ZYX.shape == truth_ZYX.shape == predicted_ZYX.shape:
        raise ValueError(
            f"probabilities of {probability_ZYX.shape} voxels (z, y, x), truth of {truth_ZYX.shape}, prediction of"
            f" {predicted_ZYX.shape}; expected one grid. Nothing was measured."
        )
    region = region_of([truth_ZYX.view(np.uint8), predicted_ZYX.view(np.uint8)], MARGIN_VOXELS)
    drawn_ZYX = truth_ZYX[region] | predicted_ZYX[region]
    if not drawn_ZYX.size:
        return reliability([], [], bins)
    near_ZYX = ndimage.binary_dilation(drawn_ZYX, iterations=MARGIN_VOXELS)
    return reliability(probability_ZYX[region][near_ZYX], truth_ZYX[region][near_ZYX], bins)


class Calibration(Generic[S]):
    """A statistic: calibration error and Brier's score over all cases' sums, by what the probabilities are of.

    `of` gives a case's sums by name, such as a structure's or an answer's; figures are "calibration_error/<name>",
    "brier_score/<name>" and the means of each over the names that have one, "calibration_error" and "brier_score". A
    case counts by its voxels.
    """

    def __init__(self, of: Callable[[S], Mapping[str, Reliability]]) -> None:
        self._of = of

    def __call__(self, scored: Sequence[S]) -> dict[str, float | None]:
        once = np.ones((1, len(scored)), dtype=np.int64)
        return {
            name: None if np.isnan(drawn[0]) else float(drawn[0])
            for name, drawn in self.resampled(scored, once).items()
        }

    def resampled(self, scored: Sequence[S], times: Times) -> Drawn:
        by_case = [self._of(one) for one in scored]
        names = list(dict.fromkeys(name for found in by_case for name in found))
        if not names:
            return {}
        errors, scores = zip(*(_drawn([case.get(name) for case in by_case], times) for name in names), strict=True)
        return {
            "calibration_error": _over_names(errors),
            **{f"calibration_error/{name}": drawn for name, drawn in zip(names, errors, strict=True)},
            "brier_score": _over_names(scores),
            **{f"brier_score/{name}": drawn for name, drawn in zip(names, scores, strict=True)},
        }


def _drawn(by_case: Sequence[Reliability | None], times: Times) -> tuple[_Floats, _Floats]:
    """Calibration error and Brier's score of each draw; NaN where nothing was drawn that has probabilities."""
    known = [place for place, found in enumerate(by_case) if found is not None]
    sums = [found for found in by_case if found is not None]
    drawn = times[:, known].astype(np.float64)
    apart = np.array([np.subtract(found.probability_sums, found.positives) for found in sums])
    n = drawn @ np.array([found.n for found in sums], dtype=np.float64)
    empty = np.full(len(times), np.nan)
    error = np.divide(np.abs(drawn @ apart).sum(axis=1), n, out=empty.copy(), where=n > 0)
    score = np.divide(drawn @ np.array([found.squared_error for found in sums]), n, out=empty.copy(), where=n > 0)
    return error, score


def _over_names(drawn: Sequence[_Floats]) -> _Floats:
    stacked = np.stack(drawn)
    known = ~np.isnan(stacked)
    empty = np.full(stacked.shape[1], np.nan)
    return np.divide(np.nansum(stacked, axis=0), known.sum(axis=0), out=empty, where=known.any(axis=0))
