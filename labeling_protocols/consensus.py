"""One label from several: reads of one grid in, their consensus out. Pure functions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from labeling_protocols.protocol import Protocol, Ties

Label = NDArray[np.uint8]


# Stands for "infinitely deep" where a mask has no boundary; far beyond any patient, and unlike inf it can be averaged.
_NO_BOUNDARY_MM = 1e6


def majority(protocol: Protocol, labels_ZYX: Sequence[Label], spacing_mm_ZYX: tuple[float, float, float]) -> Label:
    """The value most readers gave each voxel; voxels where several values lead are settled by the protocol's `ties`.

    Raises `ValueError` without labels, or where their shapes differ.
    """
    if not labels_ZYX:
        raise ValueError("a consensus needs at least one read, found none")
    if len({label.shape for label in labels_ZYX}) != 1:
        raise ValueError(f"reads of one case share a grid, found shapes {sorted({x.shape for x in labels_ZYX})}")
    consensus: Label = np.zeros_like(labels_ZYX[0])
    box = _box_of_any(labels_ZYX)
    cropped = [label[box] for label in labels_ZYX]
    values = np.array([0, *protocol.values.values()], dtype=np.uint8)
    votes = np.stack([sum((label == value).astype(np.uint8) for label in cropped) for value in values])
    leading = votes == votes.max(axis=0)
    tied = leading.sum(axis=0) > 1
    chosen = values[votes.argmax(axis=0)]
    chosen[tied] = 0
    if tied.any() and protocol.consensus.ties is Ties.NEAREST_BOUNDARY:
        chosen[tied] = _nearest_boundary(values, cropped, leading, spacing_mm_ZYX)[tied]
    consensus[box] = chosen
    return consensus


def _box_of_any(labels_ZYX: Sequence[Label]) -> tuple[slice, ...]:
    """Bounding box of everything any reader outlined, one voxel wider, so that its boundaries lie inside."""
    found = ndimage.find_objects(np.any([label > 0 for label in labels_ZYX], axis=0).astype(np.uint8))
    if not found:
        return (slice(0, 0),) * 3
    return tuple(slice(max(0, side.start - 1), side.stop + 1) for side in found[0])


def _nearest_boundary(
    values: NDArray[np.uint8],
    labels_ZYX: Sequence[Label],
    leading: NDArray[np.bool_],
    spacing_mm_ZYX: tuple[float, float, float],
) -> Label:
    """Among the leading values, the one with the deepest mean signed distance (Rohlfing & Maurer 2007).

    Equal depths go to the smaller value, so a rim one voxel wide that only half of the readers drew is background.
    """
    depth_mm = np.full(leading.shape, -np.inf)
    for index, value in enumerate(values):
        depths = [_signed_depth_mm(label == value, spacing_mm_ZYX) for label in labels_ZYX]
        depth_mm[index] = np.where(leading[index], np.mean(depths, axis=0), -np.inf)
    settled: Label = values[depth_mm.argmax(axis=0)]
    return settled


def _signed_depth_mm(mask_ZYX: NDArray[np.bool_], spacing_mm_ZYX: tuple[float, float, float]) -> NDArray[np.float64]:
    """Distance to the mask's boundary, positive inside; a mask without a boundary lies infinitely far."""
    if mask_ZYX.all() or not mask_ZYX.any():
        return np.full(mask_ZYX.shape, _NO_BOUNDARY_MM if mask_ZYX.all() else -_NO_BOUNDARY_MM)
    inside = ndimage.distance_transform_edt(mask_ZYX, sampling=spacing_mm_ZYX)
    outside = ndimage.distance_transform_edt(~mask_ZYX, sampling=spacing_mm_ZYX)
    depth: NDArray[np.float64] = inside - outside
    return depth
