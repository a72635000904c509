"""Connected components of outlines and the readers' boxes in, components split between what was boxed apart out.

Two lesions that touch are one component of an outline, and only the boxes say that there are two. Pure functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.findings import assigned
from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Box
from labeling_protocols.surfaces import Mask, Region


@dataclass(frozen=True, kw_only=True, order=True)
class _Extent:
    """A box in voxels of the components' array."""

    centre_ZYX: tuple[float, ...]
    half_ZYX: tuple[float, ...]

    def depth(self, places_ZYX: NDArray[np.float64] | NDArray[np.intp]) -> NDArray[np.float64]:
        """How far places lie from the box's middle: 0 there, 1 on its faces, more outside."""
        apart: NDArray[np.float64] = np.abs(places_ZYX - self.centre_ZYX) / self.half_ZYX
        return apart.max(axis=-1)


def boxed_apart(
    component_ZYX: NDArray[np.int32],
    masks_ZYX: Sequence[Mask],
    boxes: Sequence[Sequence[Box]],
    geometry: Geometry,
    region: Region,
) -> tuple[NDArray[np.int32], int]:
    """The components (1, 2 …, 0 for none), split where readers boxed several things in one, and how many there are.

    `masks_ZYX` and `boxes` are each reader's outline, within the `region` of the grid that the components are of, and
    his boxes. Two boxes show the same thing where the centre of one lies in the other, and no two of one reader do. A
    voxel belongs to the box it lies deepest in or, outside of all, nearest to; where readers told different numbers of
    things apart, the boxes of those who told most. The readers' order changes nothing.
    """
    extents = [[_extent(box, geometry, region) for box in of_reader] for of_reader in boxes]
    by_component: dict[int, list[list[_Extent]]] = {}
    for reader, of_reader in enumerate(extents):
        for extent in of_reader:
            home = _home(extent, component_ZYX, masks_ZYX[reader])
            if home:
                by_component.setdefault(home, [[] for _ in boxes])[reader].append(extent)
    split_ZYX, count = component_ZYX.copy(), int(component_ZYX.max(initial=0))
    for component, of_readers in sorted(by_component.items()):
        things = _things(of_readers)
        if len(things) < 2:
            continue
        places_ZYX = np.argwhere(component_ZYX == component)
        depths = np.array([np.min([box.depth(places_ZYX) for box in thing], axis=0) for thing in things])
        nearest = np.unique(depths.argmin(axis=0), return_inverse=True)[1]  # a box that no voxel is nearest to has none
        split_ZYX[tuple(places_ZYX.T)] = np.where(nearest == 0, component, count + nearest)
        count += int(nearest.max())
    return split_ZYX, count


def _extent(box: Box, geometry: Geometry, region: Region) -> _Extent:
    x, y, z = (np.linalg.inv(geometry.affine_LPS()) @ [*box.centre_mm_LPS, 1.0])[:3]
    starts = [side.start for side in region]
    sides = np.divide(box.size_mm_XYZ, geometry.spacing_mm_XYZ)[::-1] / 2
    return _Extent(
        centre_ZYX=tuple(float(at - start) for at, start in zip((z, y, x), starts, strict=True)),
        half_ZYX=tuple(float(side) for side in sides),
    )


def _home(extent: _Extent, component_ZYX: NDArray[np.int32], mask_ZYX: Mask) -> int:
    """The component in which most of what the reader outlined in his box lies; 0 where he outlined nothing there."""
    within = tuple(
        slice(max(0, int(np.ceil(centre - half))), max(0, int(np.floor(centre + half)) + 1))
        for centre, half in zip(extent.centre_ZYX, extent.half_ZYX, strict=True)
    )
    drawn = component_ZYX[within][mask_ZYX[within]]
    return int(np.bincount(drawn).argmax()) if drawn.size else 0


def _things(of_readers: Sequence[Sequence[_Extent]]) -> list[list[_Extent]]:
    """What the boxes in one component show: each thing's boxes, of those of its finders who told most things apart."""
    ordered = sorted((sorted(each) for each in of_readers if each), key=lambda each: (-len(each), each))
    things: list[list[_Extent]] = []
    told: list[int] = []
    for boxes in ordered:
        apart = np.array([[min(_apart(box, other) for other in thing) for box in boxes] for thing in things])
        same = {index: thing for thing, index in (assigned(apart, apart <= 1.0) if things else ())}
        for index, box in enumerate(boxes):
            if index not in same:
                things.append([box])
                told.append(len(boxes))
            elif told[same[index]] == len(boxes):
                things[same[index]].append(box)
    return things


def _apart(a: _Extent, b: _Extent) -> float:
    """How far the centre of one lies from the middle of the other, as deep as either does."""
    return float(min(a.depth(np.array(b.centre_ZYX)), b.depth(np.array(a.centre_ZYX))))
