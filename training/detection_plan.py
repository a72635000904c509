"""What a detection's plan adds to any other's: a plan and the sizes of the training boxes in, anchors and strides out.

After nnDetection (Baumgartner et al., MICCAI 2021), whose anchors follow from the boxes of the training cases too. All
of them stand on one feature map, the finest of a U-Net's decoder, which is as coarse as the smallest boxes bear.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from training.plan import Plan, PlanError

NETWORK = "RetinaNet"
ANCHORS_MAX = 6
_FACTOR = (
    1.6  # between the edges of neighbouring anchors; a cube between two of them has an IoU of one half with either
)
_CELLS_MIN = 2  # places of the feature map along the edge of a small box
_STRIDE_MAX = 4
_SMALL = 0.1  # quantile of the edges
_STAGES_MIN = 3  # of a DynUNet
_ROUNDS = 50
_LEARNING_RATE = 1e-3

_Size = tuple[float, float, float]
_Stride = tuple[int, int, int]


def plan_detection(plan: Plan, sizes_mm_RAS: Sequence[_Size]) -> Plan:
    """A plan made for any task as one for a RetinaNet; `sizes_mm_RAS` are the edges of the training cases' boxes.

    Raises `PlanError` where there are no boxes.
    """
    if not sizes_mm_RAS:
        raise PlanError(f"no training case has a box of {', '.join(plan.targets)}. Nothing was trained.")
    small_voxels = np.quantile(np.asarray(sizes_mm_RAS), _SMALL, axis=0) / plan.spacing_mm_RAS
    strides = _strides(plan.strides, small_voxels)
    channels = plan.channels[-len(strides) :]
    return replace(
        plan,
        network=NETWORK,
        anchors_mm=derive_anchors(sizes_mm_RAS),
        strides=strides,
        channels=(*channels, *[channels[-1]] * (len(strides) - len(channels))),
        learning_rate=_LEARNING_RATE,
    )


def derive_anchors(sizes_mm_RAS: Sequence[_Size]) -> tuple[_Size, ...]:
    """Box shapes to start from, smallest first: the middles of clusters of the boxes' edges on a logarithmic scale.

    There are as many as it takes to go from small boxes (5th percentile) to large ones in steps of a constant factor,
    at most `ANCHORS_MAX`, and never more than there are different boxes. The order of the boxes does not matter.
    """
    edges = np.log(sorted(sizes_mm_RAS, key=lambda size: (np.prod(size), *size)))
    low, high = np.quantile(edges.mean(axis=1), (0.05, 0.95))
    count = min(1 + int(np.ceil((high - low) / np.log(_FACTOR))), ANCHORS_MAX)
    places = ((np.arange(count) + 0.5) / count * len(edges)).astype(int)
    middles = np.unique(edges[places], axis=0)
    for _ in range(_ROUNDS):
        nearest = cdist(edges, middles).argmin(axis=1)
        middles = np.stack([edges[nearest == place].mean(axis=0) for place in np.unique(nearest)])
    shapes = np.exp(middles[np.argsort(middles.sum(axis=1), kind="stable")])
    return tuple((round(x, 2), round(y, 2), round(z, 2)) for x, y, z in shapes.tolist())


def _strides(strides: Sequence[_Stride], small_voxels: NDArray[np.float64]) -> tuple[_Stride, ...]:
    """The stages of a plan, the first of them as coarse as a small box bears, and three at least."""
    whole = np.cumprod(np.asarray(strides), axis=0)
    first = np.minimum(2 ** np.floor(np.log2(np.maximum(small_voxels / _CELLS_MIN, 1.0))).astype(int), _STRIDE_MAX)
    reached = [np.minimum(first, whole[-1])]
    for factor in whole:
        if (factor > reached[-1]).any():
            reached.append(np.maximum(factor, reached[-1]))
    steps = [reached[0], *(after // before for before, after in pairwise(reached))]
    steps += [np.ones(3, dtype=int)] * (_STAGES_MIN - len(steps))
    return tuple((int(x), int(y), int(z)) for x, y, z in steps)
