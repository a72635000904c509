"""Where something is drawn, its surface, and how far voxels lie from it: masks in, boxes and millimetres out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

Mask = NDArray[np.bool_]
Points = NDArray[np.intp]  # voxel indices (z, y, x), shape (n, 3)
Spacing = tuple[float, float, float]
Region = tuple[slice, slice, slice]

_NOTHING: Region = (slice(0, 0), slice(0, 0), slice(0, 0))


def region_of(volumes_ZYX: Iterable[NDArray[np.uint8]], margin: int = 0) -> Region:
    """The smallest box around every voxel that is not 0 in any of these volumes of one shape, and a margin."""
    found = [region for volume_ZYX in volumes_ZYX if (region := _region_of_one(volume_ZYX, margin)) is not None]
    return union_of(found)


def union_of(regions: Sequence[Region]) -> Region:
    """The smallest box around these boxes; empty where there are none."""
    if not regions:
        return _NOTHING
    z, y, x = (slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*regions, strict=True))
    return (z, y, x)


def surface_of(mask_ZYX: Mask) -> Points:
    """The voxels of the mask with a face neighbour outside it; the volume's edge counts as outside."""
    padded = np.zeros([length + 2 for length in mask_ZYX.shape], dtype=np.bool_)
    padded[1:-1, 1:-1, 1:-1] = mask_ZYX
    buried = padded[:-2, 1:-1, 1:-1] & padded[2:, 1:-1, 1:-1]
    buried &= padded[1:-1, :-2, 1:-1]
    buried &= padded[1:-1, 2:, 1:-1]
    buried &= padded[1:-1, 1:-1, :-2]
    buried &= padded[1:-1, 1:-1, 2:]
    return np.argwhere(mask_ZYX & ~buried)


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """Voxels to measure distances to; at least one."""

    points: Points
    spacing_mm_ZYX: Spacing

    def distance_mm(self, points: Points) -> NDArray[np.float64]:
        """How far each of these voxels lies from the nearest of the surface, centre to centre.

        Worked out from whole steps, so that places that mirror each other get equal distances to the last bit.
        """
        _, nearest = self._tree.query(points * np.array(self.spacing_mm_ZYX))
        steps_mm = (self.points[nearest] - points) * np.array(self.spacing_mm_ZYX)
        distance: NDArray[np.float64] = np.sqrt(np.square(steps_mm).sum(axis=1))
        return distance

    @cached_property
    def _tree(self) -> KDTree:
        # On a grid, splitting in the middle of space is as good as at the median, and much sooner done.
        return KDTree(self.points * np.array(self.spacing_mm_ZYX), balanced_tree=False, compact_nodes=False)


def _region_of_one(volume_ZYX: NDArray[np.uint8], margin: int) -> Region | None:
    seen_YX = np.maximum.reduce(volume_ZYX, axis=0)  # one pass over the memory in its order
    y, x = _bounds(seen_YX.any(axis=1), margin), _bounds(seen_YX.any(axis=0), margin)
    if y is None or x is None:
        return None
    z = _bounds(np.maximum.reduce(volume_ZYX[:, y, x], axis=2).any(axis=1), margin)
    return None if z is None else (z, y, x)


def _bounds(seen: Mask, margin: int) -> slice | None:
    places = np.flatnonzero(seen)
    if not places.size:
        return None
    return slice(max(0, int(places[0]) - margin), min(seen.size, int(places[-1]) + 1 + margin))
