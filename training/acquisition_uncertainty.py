"""How unsure a model is of a case: probabilities of several views or members in, one after the other, numbers out.

Predictive entropy is the entropy of the views' mean (Shannon 1948); mutual information is what of it the views do not
share, H(mean) - mean(H), the score of BALD (Houlsby et al. 2011, arXiv:1112.5745). Both go by structure: the mean over
voxels, weighed by the structure's probability there, as nnActive does it by class (Lüth et al. 2025, arXiv:2511.19183).
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.acquisition_cases import AcquisitionError, CaseSummary

# Of a voxel that is this improbable nothing is counted: a whole volume of such would drown a small structure.
_LEAST_PROBABILITY = 0.01
_ROUNDING = 1e-2  # how far half precision may take the probabilities of a voxel from a sum of 1

_Floats = NDArray[np.float32]


class Views:
    """Views of one case, taken one at a time; all it holds is their sum, their entropies' sum and each one's answer."""

    def __init__(self, structures: Sequence[str]) -> None:
        self._structures = tuple(structures)
        self._sum: _Floats | None = None
        self._entropies: _Floats = np.zeros((), dtype=np.float32)
        self._answers: list[NDArray[np.uint8]] = []

    def add(self, probabilities: NDArray[Any]) -> None:
        """One view's probabilities (C, X, Y, Z), background first; raises `AcquisitionError` for anything else."""
        given = np.asarray(probabilities, dtype=np.float32)
        self._require(given)
        entropy = entropy_of(given)
        if self._sum is None:
            self._sum, self._entropies = given.copy(), entropy
        else:
            self._sum += given
            self._entropies += entropy
        self._answers.append(given.argmax(axis=0).astype(np.uint8))

    def summary(self, case: str, **known: Any) -> CaseSummary:
        """What the views say together; `known` are the fields that they do not tell."""
        if self._sum is None:
            return CaseSummary(case=case, **known)
        views = len(self._answers)
        mean = self._sum / views
        entropy = entropy_of(mean)
        # Rounding can put the mean's entropy a hair below the entropies' mean, which it never is.
        information = np.maximum(entropy - self._entropies / views, 0.0)
        answer = mean.argmax(axis=0)
        by_structure = list(enumerate(self._structures, start=1))
        return CaseSummary(
            case=case,
            entropy={name: mean_where_probable(entropy, mean[channel]) for channel, name in by_structure},
            mutual_information={
                name: mean_where_probable(information, mean[channel]) for channel, name in by_structure
            },
            disagreement={name: self._disagreement(channel) for channel, name in by_structure},
            voxels={name: float(np.count_nonzero(answer == channel)) for channel, name in by_structure},
            **known,
        )

    def _disagreement(self, channel: int) -> float:
        masks = [answer == channel for answer in self._answers]
        return disagreement_of(masks)

    def _require(self, given: _Floats) -> None:
        channels = len(self._structures) + 1
        if given.ndim != 4 or given.shape[0] != channels or (self._sum is not None and given.shape != self._sum.shape):
            expected = self._sum.shape if self._sum is not None else f"({channels}, X, Y, Z)"
            raise AcquisitionError(f"a view of shape {given.shape}; expected {expected}. Nothing was measured.")
        sums = given.sum(axis=0)
        if given.size and not (given.min() >= 0 and np.abs(sums - 1).max() <= _ROUNDING):
            raise AcquisitionError(
                f"probabilities of a voxel from {given.min():g} that come to {sums.min():g} to {sums.max():g}; expected"
                " none below 0 and a sum of 1. Nothing was measured."
            )


def entropy_of(probabilities: _Floats) -> _Floats:
    """Entropy by voxel of probabilities (C, …), in units of the greatest possible, log C: 0 to 1."""
    if len(probabilities) < 2:
        return np.zeros(probabilities.shape[1:], dtype=np.float32)
    total = np.zeros(probabilities.shape[1:], dtype=np.float32)
    for channel in probabilities:  # one at a time: a volume of all channels more would double the memory
        total -= channel * np.log(np.maximum(channel, np.finfo(np.float32).tiny))
    scaled: _Floats = np.clip(total / np.float32(np.log(len(probabilities))), 0.0, 1.0)
    return scaled


def mean_where_probable(values: _Floats, probability: _Floats) -> float:
    """The mean of values over the voxels of a structure, each weighed by its probability; 0 where it is nowhere.

    One voxel's worth of nothing is added, so that a trace of a probability somewhere is not taken for a structure.
    """
    weights = np.where(probability >= _LEAST_PROBABILITY, probability, 0.0)
    return float(np.sum(values * weights, dtype=np.float64) / (np.sum(weights, dtype=np.float64) + 1.0))


def disagreement_of(masks: Sequence[NDArray[np.bool_]]) -> float:
    """The mean of 1 - Dice over all pairs of masks; two empty ones agree, and one mask alone does too."""
    sizes = [int(np.count_nonzero(mask)) for mask in masks]
    apart = [
        1.0 - 2.0 * int(np.count_nonzero(masks[a] & masks[b])) / (sizes[a] + sizes[b]) if sizes[a] + sizes[b] else 0.0
        for a, b in combinations(range(len(masks)), 2)
    ]
    return float(np.mean(apart)) if apart else 0.0
