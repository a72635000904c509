"""Where an adjudicator looks first: a dispute in, a place in its image out."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from apps.review.disputes import ShownDispute
from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.store import Store
from labeling_protocols.surfaces import region_of


def focus_mm_RAS(store: Store, dispute: ShownDispute) -> tuple[float, float, float]:
    """The middle of the disagreement in the slice that has most of it: where a viewer opens.

    Where no voxel is in dispute: the first box or point of any reader, else the middle of the image.
    """
    labels = [store.label(read.label) for read in dispute.reads.values()]
    region = region_of([layer_ZYX for label in labels for layer_ZYX in label.layers_LZYX])
    differs = _differs(dispute.protocol, labels, region)
    if differs.any():
        start_ZYX = np.array([side.start for side in region])
        return _middle_mm_RAS(differs, start_ZYX, dispute.case.geometry)
    places = [box.centre_mm_LPS for label in labels for box in label.boxes]
    places += [point.position_mm_LPS for label in labels for point in label.points]
    x, y, z = places[0] if places else dispute.case.geometry.corners_mm_LPS().mean(axis=0)
    return (-float(x), -float(y), float(z))


def _differs(protocol: Protocol, labels: Sequence[Label], region: tuple[slice, slice, slice]) -> NDArray[np.bool_]:
    """Where readers differ on any structure, within the region anybody drew in."""
    differs = np.zeros(tuple(side.stop - side.start for side in region), dtype=bool)
    for structure in protocol.outlined:
        masks = [(label.layers_LZYX[:, *region] == structure.value).any(axis=0) for label in labels]
        for mask in masks[1:]:
            differs |= mask != masks[0]
    return differs


def _middle_mm_RAS(
    mask_ZYX: NDArray[np.bool_], start_ZYX: NDArray[np.int_], geometry: Geometry
) -> tuple[float, float, float]:
    z = int(mask_ZYX.sum(axis=(1, 2)).argmax())
    points_YX = np.argwhere(mask_ZYX[z])
    middle = np.median(points_YX, axis=0)
    y, x = points_YX[np.abs(points_YX - middle).sum(axis=1).argmin()]
    place_ZYX = start_ZYX + np.array([z, y, x])
    point = geometry.affine_RAS() @ np.array([*place_ZYX[::-1], 1.0])
    return float(point[0]), float(point[1]), float(point[2])
