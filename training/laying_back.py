"""A network's scores brought back to the image: scores of a part of its grid in, scores of the part of the image out.

A network's grid has the image's own axes, in another order, direction and spacing (`preparation.py`), so that linear
interpolation takes one axis after the other. Where both grids have the same voxels nothing is interpolated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SAME = 1e-4  # of a voxel


@dataclass(frozen=True, kw_only=True, eq=False)
class LaidBack:
    """Scores (C, Z, Y, X) of the part `slices_ZYX` of an image."""

    scores: Tensor
    slices_ZYX: tuple[slice, slice, slice]


def lay_back(
    scores: Tensor, start: Sequence[int], to_network: NDArray[np.float64], shape_ZYX: Sequence[int]
) -> LaidBack:
    """Scores (C, X, Y, Z) of the part of the network's grid that begins at `start`, on the image's own grid.

    `to_network` leads from the image's voxel indices (x, y, z) to the network's. What lies up to half a voxel beyond
    the outermost centres has their scores.
    """
    network_axis = np.abs(to_network[:3, :3]).argmax(axis=0)  # of each axis of the image
    slices = []
    for axis in range(3):
        of_network = int(network_axis[axis])
        scale = float(to_network[of_network, axis])
        first = float(to_network[of_network, 3]) - start[of_network]
        size = scores.shape[1 + of_network]
        index = torch.arange(shape_ZYX[2 - axis], dtype=torch.float64)
        place = scale * index + first
        within = torch.nonzero((place >= -0.5 - _SAME) & (place <= size - 0.5 + _SAME)).ravel()
        low, high = (int(within[0]), int(within[-1]) + 1) if len(within) else (0, 0)
        scores = _along(scores, 1 + of_network, place[low:high].clamp(0, size - 1))
        slices.append(slice(low, high))
    x, y, z = (1 + int(axis) for axis in network_axis)
    return LaidBack(scores=scores.permute(0, z, y, x), slices_ZYX=(slices[2], slices[1], slices[0]))


def chosen(scores: Tensor) -> Tensor:
    """The channel with the highest score, the first of equals; uint8. One pass a channel beats `argmax` over few."""
    best, channel = scores[0].clone(), torch.zeros(scores.shape[1:], dtype=torch.uint8, device=scores.device)
    for number, of_channel in enumerate(scores[1:], start=1):
        channel.masked_fill_(of_channel > best, number)
        torch.maximum(best, of_channel, out=best)
    return channel


def _along(scores: Tensor, axis: int, place: Tensor) -> Tensor:
    """Scores at these places along one axis."""
    below = place.floor()
    share = place - below
    near = place.round()
    if bool(((place - near).abs() < _SAME).all()):
        return _at(scores, axis, near.long())
    low = below.long()
    high = (low + 1).clamp_max(scores.shape[axis] - 1)
    shape = [1] * scores.ndim
    shape[axis] = -1
    weight = share.to(scores).reshape(shape)
    return torch.lerp(_at(scores, axis, low), _at(scores, axis, high), weight)


def _at(scores: Tensor, axis: int, index: Tensor) -> Tensor:
    if torch.equal(index, torch.arange(scores.shape[axis])):
        return scores
    return scores.index_select(axis, index.to(scores.device))
