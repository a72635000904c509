"""How well scored boxes find true ones: boxes in; hits, FROC curves and average precision out. Arrays only.

Boxes are corners (x0, y0, z0, x1, y1, z1) along their image's axes, in any one unit of length. A box hits at most one
true box and a true box is hit at most once, by the most certain box first: whoever finds a lesion twice has one false
positive. FROC is Chakraborty's (Med Phys 1989;16:561), its score that of LUNA16 (Setio et al., Med Image Anal
2017;42:1); average precision is COCO's, over 101 recalls.

Figures of many draws of studies are had at once: `times` (draws, studies) says how often each study was drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives a study, of LUNA16's score
_RECALLS = np.arange(101) / 100
_ROUND = 1e-9

_Floats = NDArray[np.float64]
_Bools = NDArray[np.bool_]
_Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Hit:
    """When a box finds a true one: where they share so much of their union, or else where their centres lie so near;
    where neither is said, where its centre lies in the true box."""

    iou_min: float | None = None
    mm_max: float | None = None

    def nearness(self, found: _Floats, true: _Floats) -> _Floats:
        """How near each found box (row) is to each true one (column), more is nearer; -inf where it does not hit it."""
        if self.iou_min is not None:
            shared = box_iou(found, true)
            return np.where(shared >= self.iou_min, shared, -np.inf)
        apart = _centres(found)[:, np.newaxis] - _centres(true)
        distance = np.linalg.norm(apart, axis=2)
        if self.mm_max is not None:
            return np.where(distance <= self.mm_max, -distance, -np.inf)
        within = (np.abs(apart) <= (true[:, 3:] - true[:, :3]) / 2.0).all(axis=2)
        return np.where(within, -distance, -np.inf)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranked:
    """The found boxes of many studies, most certain first: score, whether it hits, and its study's place."""

    scores: _Floats
    hits: _Bools
    studies: _Ints


def box_iou(a: _Floats, b: _Floats) -> _Floats:
    """Intersection over union of each box of a (row) with each of b (column)."""
    low = np.maximum(a[:, np.newaxis, :3], b[:, :3])
    high = np.minimum(a[:, np.newaxis, 3:], b[:, 3:])
    shared = np.prod(np.maximum(high - low, 0.0), axis=2)
    union = np.prod(a[:, 3:] - a[:, :3], axis=1)[:, np.newaxis] + np.prod(b[:, 3:] - b[:, :3], axis=1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def hits_of(found: _Floats, true: _Floats, hit: Hit) -> _Bools:
    """Which of one study's found boxes, most certain first, hit a true one; each takes the nearest that is left."""
    nearness = hit.nearness(found, true)
    hits = np.zeros(len(found), dtype=np.bool_)
    for place in range(len(found) if len(true) else 0):
        nearest = int(nearness[place].argmax())
        if nearness[place, nearest] > -np.inf:
            hits[place] = True
            nearness[:, nearest] = -np.inf
    return hits


def ranked(scores: Sequence[_Floats], hits: Sequence[_Bools]) -> Ranked:
    """The found boxes of all studies together; of equal scores those of the first study come first."""
    together = np.concatenate([np.zeros(0), *scores])
    order = np.argsort(-together, kind="stable")
    studies = np.repeat(np.arange(len(scores)), [len(of_study) for of_study in scores])
    return Ranked(
        scores=together[order],
        hits=np.concatenate([np.zeros(0, dtype=np.bool_), *hits])[order],
        studies=studies.astype(np.int64)[order],
    )


def froc_curve(found: Ranked, truths: int, studies: int) -> tuple[_Floats, _Floats]:
    """False positives a study and sensitivity at every score as a limit, from (0, 0) on; `truths` is above 0."""
    ends = _ends(found.scores)
    false, true = (np.cumsum(kind)[ends] for kind in (~found.hits, found.hits))
    return np.append(0.0, false / studies), np.append(0.0, true / truths)


def sensitivities(found: Ranked, truths: _Ints, times: _Ints, rates: Sequence[float]) -> _Floats:
    """Sensitivity at each rate of false positives a study by draw, (draws, rates); NaN where nothing is to be found.

    `truths` are by study. Between the points of its curve a rate's sensitivity is interpolated, as LUNA16 does it:
    only a hit and a false positive of the same score lie on a slope. Beyond the curve's end it stays.
    """
    ends = _ends(found.scores)
    results = np.full((len(times), len(rates)), np.nan)
    total, studies = times @ truths, times.sum(axis=1)
    for draw in np.flatnonzero(total > 0):
        drawn = times[draw, found.studies]
        false, true = (np.append(0, np.cumsum(drawn * kind)[ends]) for kind in (~found.hits, found.hits))
        results[draw] = np.interp(rates, false / studies[draw], true / total[draw])
    return results


def average_precisions(found: Ranked, truths: _Ints, times: _Ints) -> _Floats:
    """Average precision by draw, (draws,); NaN where nothing is to be found. `truths` are by study.

    It is the mean over the recalls 0, 0.01, … 1 of the best precision at that recall or a higher one.
    """
    results = np.full(len(times), np.nan)
    total = times @ truths
    for draw in np.flatnonzero(total > 0):
        drawn = times[draw, found.studies]
        true = np.cumsum(drawn * found.hits)
        precision = true / np.maximum(np.cumsum(drawn), 1)
        best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        needed = np.ceil(_RECALLS * total[draw] - _ROUND)
        results[draw] = best[np.searchsorted(true, needed)].mean()
    return results


def score_limit(found: Ranked, studies: int, rate: float) -> float | None:
    """The lowest score that keeps so many false positives a study or fewer, half way to the next one that would be
    too many; None where all boxes together are not too many."""
    allowed = math.floor(rate * studies + _ROUND)
    false = found.scores[~found.hits]
    if len(false) <= allowed:
        return None
    too_many = float(false[allowed])
    kept = found.scores[found.scores > too_many]
    return (too_many + (float(kept[-1]) if len(kept) else 1.0)) / 2.0


def _ends(scores: _Floats) -> _Ints:
    """Where each run of equal scores ends: no limit lies within a run."""
    return np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.zeros(0, dtype=np.int64)


def _centres(boxes: _Floats) -> _Floats:
    return (boxes[:, :3] + boxes[:, 3:]) / 2.0
