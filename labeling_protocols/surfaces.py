"""Where something is drawn, its surface, and how far voxels lie from it: masks in, boxes and millimetres out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.compiled import compiled
from labeling_protocols.nearest import Near, Points, Spacing, far_mm, near, near_mm

__all__ = [
    "NEIGHBOURS_26",
    "Mask",
    "Points",
    "Region",
    "Spacing",
    "Surface",
    "region_of",
    "surface_of",
    "union_of",
    "value_regions",
]

Mask = NDArray[np.bool_]
Region = tuple[slice, slice, slice]

# What makes one piece of voxels: those that touch by a face, an edge or a corner.
NEIGHBOURS_26: Mask = np.ones((3, 3, 3), np.bool_)

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


def value_regions(volume_ZYX: NDArray[np.uint8]) -> dict[int, Region]:
    """The smallest box around each value but 0 that occurs, all found in one pass."""
    first, last = np.full((256, 3), np.iinfo(np.intp).max, np.intp), np.full((256, 3), -1, np.intp)
    _find_values(np.ascontiguousarray(volume_ZYX), first, last)
    regions: dict[int, Region] = {}
    for value in np.flatnonzero(last[:, 0] >= 0).tolist():
        z, y, x = (slice(int(a), int(b) + 1) for a, b in zip(first[value], last[value], strict=True))
        regions[value] = (z, y, x)
    return regions


def surface_of(mask_ZYX: Mask) -> Points:
    """The voxels of the mask with a face neighbour outside it; the volume's edge counts as outside."""
    points = np.empty((np.count_nonzero(mask_ZYX), 3), np.intp)
    return points[: _find_surface(np.ascontiguousarray(mask_ZYX).view(np.uint8), points)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """Voxels to measure distances to; at least one."""

    points: Points
    spacing_mm_ZYX: Spacing

    def distance_mm(self, points: Points) -> NDArray[np.float64]:
        """How far each of these voxels lies from the nearest of the surface, centre to centre."""
        distance_mm = near_mm(points, self._near)
        far = np.flatnonzero(distance_mm < 0)
        if far.size:
            distance_mm[far] = far_mm(points[far], self.points, self.spacing_mm_ZYX)
        return distance_mm

    @cached_property
    def _near(self) -> Near:
        return near(self.points, self.spacing_mm_ZYX)


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


@compiled
def _any(row: NDArray[np.uint8]) -> bool:
    seen = np.uint8(0)
    for x in range(row.size):
        seen |= row[x]
    return seen != 0


@compiled
def _find_values(volume_ZYX: NDArray[np.uint8], first: Points, last: Points) -> None:
    """Widen each value's box by every run of it."""
    depth, height, width = volume_ZYX.shape
    for z in range(depth):
        for y in range(height):
            row = volume_ZYX[z, y]
            if not _any(row):
                continue
            x = 0
            while x < width:
                value, begin = row[x], x
                while x < width and row[x] == value:
                    x += 1
                if value:
                    first[value, 0] = min(first[value, 0], z)
                    first[value, 1] = min(first[value, 1], y)
                    first[value, 2] = min(first[value, 2], begin)
                    last[value, 0] = max(last[value, 0], z)
                    last[value, 1] = max(last[value, 1], y)
                    last[value, 2] = max(last[value, 2], x - 1)


@compiled
def _find_surface(mask_ZYX: NDArray[np.uint8], points: Points) -> int:
    """Write the surface's voxels in their order; how many there are."""
    depth, height, width = mask_ZYX.shape
    surface = np.zeros((width + 7) // 8 * 8, np.uint8)  # one row, looked at in words of eight voxels
    words = surface.view(np.uint64)
    count = 0
    for z in range(depth):
        for y in range(height):
            row = mask_ZYX[z, y]
            if not _any(row):
                continue
            surface[:width] = row
            if 0 < z < depth - 1 and 0 < y < height - 1:
                below, above = mask_ZYX[z - 1, y], mask_ZYX[z + 1, y]
                before, behind = mask_ZYX[z, y - 1], mask_ZYX[z, y + 1]
                for x in range(1, width - 1):
                    buried = row[x - 1] & row[x + 1] & below[x] & above[x] & before[x] & behind[x]
                    surface[x] = row[x] & ~buried
            for word in range(words.size):
                if not words[word]:
                    continue
                for x in range(8 * word, 8 * word + 8):
                    if surface[x]:
                        points[count, 0], points[count, 1], points[count, 2] = z, y, x
                        count += 1
    return count
