"""STAPLE by pattern: how often each pattern of answers occurs in; how sure its truth is, and each reader, out.

Warfield, Zou and Wells (IEEE Trans Med Imaging 2004; 23:903) weigh each reader by how well he agrees with an estimate
of the truth, and estimate the truth from the readers so weighed, in turn until neither changes. All voxels of one
pattern get the same estimate, so the patterns stand for the voxels: this is exact, and takes no longer for a large
volume. Start, prior, and when to stop are those of ITK's STAPLEImageFilter and MultiLabelSTAPLEImageFilter.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]
_Flags = NDArray[np.bool_]
_Counts = NDArray[np.int64]

_STILL_SQUARED = 1e-14  # no reader's sensitivity or specificity moves by more than the root of this, as in ITK
_STILL_LABELS = 1e-5  # ITK's threshold where there are several labels
_ROUNDS_MAX = 20_000
_EQUAL = 1e-9  # weights that differ by less, relative to the larger, are a tie


@dataclass(frozen=True, kw_only=True)
class Performance:
    """How well one reader found one structure, against the estimate: both 0 to 1.

    Sensitivity is None where the estimate has nothing of the structure, specificity where it has nothing else.
    """

    sensitivity: float | None
    specificity: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """What STAPLE made of the patterns.

    `weights_PV` is the probability of each value (0 first) for each of P patterns, `performance_VK` how well each
    reader found each value. `settled` is False where it was stopped after `rounds` rounds and still moved.
    """

    weights_PV: _Floats
    performance_VK: tuple[tuple[Performance, ...], ...]
    rounds: int
    settled: bool

    @property
    def leading_VP(self) -> _Flags:
        """Which value is the most probable of each pattern; several where they are equally so."""
        best_P = self.weights_PV.max(axis=1)
        leading: _Flags = (self.weights_PV >= (best_P * (1.0 - _EQUAL))[:, np.newaxis]).T
        return leading


def staple(drawn_PK: _Flags, counts_P: _Counts) -> Estimate:
    """The estimate for one structure: who drew it in each pattern, and how many voxels show that.

    The prior is the mean share of voxels that the readers drew, over all of the volume. A pattern that neither a voxel
    of the structure nor one of background could show has both weights 0.5.
    """
    share_P = drawn_PK.mean(axis=1)
    prior = float(share_P @ counts_P) / float(counts_P.sum())
    weight_P, before = share_P, None
    rounds, settled = 0, False
    while not settled and rounds < _ROUNDS_MAX:
        true_P, false_P = weight_P * counts_P, (1.0 - weight_P) * counts_P
        sensitivity_K = _share(true_P @ drawn_PK, true_P.sum())
        specificity_K = _share(false_P @ ~drawn_PK, false_P.sum())
        alpha_P = prior * np.where(drawn_PK, sensitivity_K, 1.0 - sensitivity_K).prod(axis=1)
        beta_P = (1.0 - prior) * np.where(drawn_PK, 1.0 - specificity_K, specificity_K).prod(axis=1)
        both_P = alpha_P + beta_P
        weight_P = np.divide(alpha_P, both_P, out=np.full(len(both_P), 0.5), where=both_P > 0)
        now = np.concatenate([sensitivity_K, specificity_K])
        settled = before is not None and bool((np.square(now - before) <= _STILL_SQUARED).all())
        before, rounds = now, rounds + 1
    weights_PV = np.stack([1.0 - weight_P, weight_P], axis=1)
    return Estimate(
        weights_PV=weights_PV,
        performance_VK=_performance(np.stack([~drawn_PK, drawn_PK]), weights_PV, counts_P),
        rounds=rounds,
        settled=settled,
    )


def label_staple(given_VPK: _Flags, counts_P: _Counts) -> Estimate:
    """The estimate for values that exclude each other, the first being background: who gave which in each pattern.

    Each reader has a confusion matrix, at first against the majority of voxels that have one. The prior is each value's
    share of all answers. A pattern that no value could show has all weights 0.
    """
    answered_KVP = np.moveaxis(given_VPK, 2, 0).astype(np.float64)
    counted_VP = given_VPK.sum(axis=2)
    prior_V = (counted_VP @ counts_P) / (counts_P.sum() * given_VPK.shape[2])
    leading_VP = counted_VP == counted_VP.max(axis=0)
    decided_VP = leading_VP & (leading_VP.sum(axis=0) == 1)
    confusion_KVV = _normalised(answered_KVP @ (decided_VP * counts_P).T, axis=2)  # [reader, answer, truth]
    rounds, settled = 0, False
    while not settled and rounds < _ROUNDS_MAX:
        weights_PV = _normalised(_joint(prior_V, confusion_KVV, answered_KVP), axis=1)
        updated_KVV = _normalised(answered_KVP @ (weights_PV * counts_P[:, np.newaxis]), axis=1)
        settled = bool(np.abs(updated_KVV - confusion_KVV).max() < _STILL_LABELS)
        confusion_KVV, rounds = updated_KVV, rounds + 1
    weights_PV = _normalised(_joint(prior_V, confusion_KVV, answered_KVP), axis=1)
    return Estimate(
        weights_PV=weights_PV,
        performance_VK=_performance(given_VPK, weights_PV, counts_P),
        rounds=rounds,
        settled=settled,
    )


def _joint(prior_V: _Floats, confusion_KVV: _Floats, answered_KVP: _Floats) -> _Floats:
    """The prior times how probable each reader's answer is for each truth, by pattern and truth."""
    joint_PV = np.broadcast_to(prior_V, (answered_KVP.shape[2], len(prior_V)))
    for confusion_VV, answered_VP in zip(confusion_KVV, answered_KVP, strict=True):
        joint_PV = joint_PV * (answered_VP.T @ confusion_VV)
    return joint_PV


def _performance(given_VPK: _Flags, weights_PV: _Floats, counts_P: _Counts) -> tuple[tuple[Performance, ...], ...]:
    performance = []
    for given_PK, weight_P in zip(given_VPK, weights_PV.T, strict=True):
        true_P, false_P = weight_P * counts_P, (weights_PV.sum(axis=1) - weight_P) * counts_P
        found_K, spared_K = true_P @ given_PK, false_P @ ~given_PK
        performance.append(
            tuple(
                Performance(
                    sensitivity=float(found / true_P.sum()) if true_P.sum() else None,
                    specificity=float(spared / false_P.sum()) if false_P.sum() else None,
                )
                for found, spared in zip(found_K, spared_K, strict=True)
            )
        )
    return tuple(performance)


def _share(part: _Floats, whole: float) -> _Floats:
    """Part of the whole; all of it where there is nothing, so that nothing speaks against a reader."""
    return part / whole if whole else np.ones_like(part)


def _normalised(weights: _Floats, axis: int) -> _Floats:
    """The weights so that they add up to 1 along an axis; those that are all 0 stay so."""
    total = weights.sum(axis=axis, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
