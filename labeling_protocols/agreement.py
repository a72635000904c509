"""How far outlines agree: masks or layers on one grid in, a number for each pair of readers and structure out.

Surfaces and their distances are MONAI's. A surface voxel is one of the mask with a face neighbour outside it, and the
volume's edge counts as outside; distances run between the centres of surface voxels, from each of either surface to the
nearest of the other.

A structure that one mask has and the other lacks is scored, not dropped: Dice, IoU and surface Dice 0, and distances
None, which count as a miss. A structure that neither has is agreement: Dice, IoU and surface Dice 1, distances 0.

Others define some of these otherwise, so that their figures differ:

- DeepMind's `surface-distance` takes for the surface the corners where voxels of both kinds meet, half a voxel outside
  ours, and weighs each by the area of surface about it, where ours all count alike. Surfaces that moved in parallel are
  equally far apart in both; a voxel and its neighbour but one are 1.5 apart there on the mean, 2 here. Its HD95 is the
  distance below which 95 % of the area lies, ours goes between the two nearest. Its Dice of empty masks is NaN.
- SimpleITK's `HausdorffDistanceImageFilter` measures from every voxel of a mask to the other mask, not from surface to
  surface: what lies inside the other mask is at distance 0, so that a cavity deep inside one of them tells as far as
  its wall is from its middle, here as far as it lies deep. Its mean is over whole masks, and it knows no percentile.
  From its contours and distance maps ours can be had where the volume is padded: it takes the edge for no outside.
- MONAI itself gives NaN or infinity where a mask is empty, and its reductions leave those out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.surfaces import Mask, Region, Spacing, Surface, surface_of, union_of, value_regions

_MM3_AN_ML = 1000.0
_NO_SPACING: Spacing = (1.0, 1.0, 1.0)  # of what is counted in voxels


@dataclass(frozen=True, kw_only=True)
class OutlineAgreement:
    """How far two readers' outlines of one structure agree.

    `hd95_mm` and `average_surface_distance_mm` are None where only one of them has it; `surface_dice` is None where no
    tolerance is known. `volume_difference_ml` is the first reader's volume less the second's.
    """

    dice: float
    iou: float
    hd95_mm: float | None
    surface_dice: float | None
    average_surface_distance_mm: float | None
    volume_difference_ml: float


def outline_agreements(
    readers_LZYX: Sequence[NDArray[np.uint8]],
    values: Sequence[int],
    spacing_mm_ZYX: Spacing,
    tolerance_mm: Mapping[int, float],
) -> dict[int, dict[tuple[int, int], OutlineAgreement]]:
    """How far each pair of readers agrees on each value, by value, then by the pair's places (a < b) in `readers_LZYX`.

    A reader's layers lie on one grid with everybody's; without outlines there may be none. Each reader's surface is
    found once. `tolerance_mm` is the distance, by value, at which surfaces count as the same. Raises `ValueError` where
    the grids differ.
    """
    grids = {layers_LZYX.shape[1:] for layers_LZYX in readers_LZYX}
    if len(grids) > 1:
        raise ValueError(f"layers of {sorted(grids)} voxels, expected one grid for all readers; nothing was measured")
    regions = [_regions(layers_LZYX) for layers_LZYX in readers_LZYX]
    return {
        value: {
            (a, b): _agreement(_Pair(a=outlines[a], b=outlines[b]), tolerance_mm.get(value))
            for a, b in combinations(range(len(outlines)), 2)
        }
        for value in values
        for outlines in [_outlines(value, readers_LZYX, regions, spacing_mm_ZYX)]
    }


def dice(a_ZYX: Mask, b_ZYX: Mask) -> float:
    """Dice's coefficient, 2|A∩B| / (|A|+|B|); 1 where both masks are empty (Dice 1945)."""
    return _pair(a_ZYX, b_ZYX).dice


def iou(a_ZYX: Mask, b_ZYX: Mask) -> float:
    """Intersection over union, |A∩B| / |A∪B|; 1 where both masks are empty (Jaccard 1901)."""
    return _pair(a_ZYX, b_ZYX).iou


def hd95_mm(a_ZYX: Mask, b_ZYX: Mask, spacing_mm_ZYX: Spacing) -> float | None:
    """Robust Hausdorff distance in mm: the larger of the two directed 95th percentiles between surface voxels.

    0 if both masks are empty, None if one is. Percentiles go linearly between the two nearest distances.
    """
    return _pair(a_ZYX, b_ZYX, spacing_mm_ZYX).hd95_mm


def surface_dice(a_ZYX: Mask, b_ZYX: Mask, spacing_mm_ZYX: Spacing, tolerance_mm: float) -> float:
    """The share of both surfaces' voxels that lie at most so far from the other surface (Nikolov et al. 2021).

    1 if both masks are empty, 0 if one is.
    """
    return _pair(a_ZYX, b_ZYX, spacing_mm_ZYX).surface_dice(tolerance_mm)


def average_surface_distance_mm(a_ZYX: Mask, b_ZYX: Mask, spacing_mm_ZYX: Spacing) -> float | None:
    """The mean distance in mm from both surfaces' voxels to the other one; 0 if both are empty, None if one is."""
    return _pair(a_ZYX, b_ZYX, spacing_mm_ZYX).average_surface_distance_mm


def volume_difference_ml(a_ZYX: Mask, b_ZYX: Mask, spacing_mm_ZYX: Spacing) -> float:
    """The first mask's volume less the second's."""
    return _pair(a_ZYX, b_ZYX, spacing_mm_ZYX).volume_difference_ml


@dataclass(frozen=True, kw_only=True, eq=False)
class _Outline:
    """One reader's mask in a box that holds all readers' masks; its surface is found once."""

    mask_ZYX: Mask
    spacing_mm_ZYX: Spacing

    @cached_property
    def voxels(self) -> int:
        return int(np.count_nonzero(self.mask_ZYX))

    @cached_property
    def surface(self) -> Surface:
        return Surface(points=surface_of(self.mask_ZYX), spacing_mm_ZYX=self.spacing_mm_ZYX)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pair:
    """Two outlines in one box; but for the sign of a difference, it is all one which of them comes first."""

    a: _Outline
    b: _Outline

    @property
    def dice(self) -> float:
        both, voxels = self._shared, self.a.voxels + self.b.voxels
        return 2.0 * both / voxels if voxels else 1.0

    @property
    def iou(self) -> float:
        union = self.a.voxels + self.b.voxels - self._shared
        return self._shared / union if union else 1.0

    @property
    def hd95_mm(self) -> float | None:
        if self._one_is_empty:
            return None
        return max((float(np.percentile(distance_mm, 95)) for distance_mm in self._distances_mm), default=0.0)

    @property
    def average_surface_distance_mm(self) -> float | None:
        if self._one_is_empty:
            return None
        voxels = sum(distance_mm.size for distance_mm in self._distances_mm)
        return sum(float(distance_mm.sum()) for distance_mm in self._distances_mm) / voxels if voxels else 0.0

    def surface_dice(self, tolerance_mm: float) -> float:
        if self._one_is_empty:
            return 0.0
        voxels = sum(distance_mm.size for distance_mm in self._distances_mm)
        # In single precision, as MONAI compares them: three voxels of 0.8 mm are within 2.4 mm.
        within = [distance_mm.astype(np.float32) <= np.float32(tolerance_mm) for distance_mm in self._distances_mm]
        return sum(int(np.count_nonzero(near)) for near in within) / voxels if voxels else 1.0

    @property
    def volume_difference_ml(self) -> float:
        voxel_mm3 = float(np.prod(self.a.spacing_mm_ZYX))
        return (self.a.voxels - self.b.voxels) * voxel_mm3 / _MM3_AN_ML

    @property
    def _one_is_empty(self) -> bool:
        return (self.a.voxels == 0) != (self.b.voxels == 0)

    @cached_property
    def _shared(self) -> int:
        return int(np.count_nonzero(self.a.mask_ZYX & self.b.mask_ZYX))

    @cached_property
    def _distances_mm(self) -> list[NDArray[np.float64]]:
        """From each surface to the other; nothing where a mask is empty."""
        if not (self.a.voxels and self.b.voxels):
            return []
        ways = ((self.a.surface, self.b.surface), (self.b.surface, self.a.surface))
        return [there.distance_mm(here.points) for here, there in ways]


def _pair(a_ZYX: Mask, b_ZYX: Mask, spacing_mm_ZYX: Spacing = _NO_SPACING) -> _Pair:
    a, b = (_Outline(mask_ZYX=mask_ZYX, spacing_mm_ZYX=spacing_mm_ZYX) for mask_ZYX in (a_ZYX, b_ZYX))
    return _Pair(a=a, b=b)


def _agreement(pair: _Pair, tolerance_mm: float | None) -> OutlineAgreement:
    return OutlineAgreement(
        dice=pair.dice,
        iou=pair.iou,
        hd95_mm=pair.hd95_mm,
        surface_dice=None if tolerance_mm is None else pair.surface_dice(tolerance_mm),
        average_surface_distance_mm=pair.average_surface_distance_mm,
        volume_difference_ml=pair.volume_difference_ml,
    )


def _regions(layers_LZYX: NDArray[np.uint8]) -> dict[int, Region]:
    """The bounding box of each value, over all layers."""
    regions: dict[int, Region] = {}
    for layer_ZYX in layers_LZYX:
        for value, region in value_regions(layer_ZYX).items():
            regions[value] = union_of([regions[value], region]) if value in regions else region
    return regions


def _outlines(
    value: int,
    readers_LZYX: Sequence[NDArray[np.uint8]],
    regions: Sequence[Mapping[int, Region]],
    spacing_mm_ZYX: Spacing,
) -> list[_Outline]:
    """Each reader's outline of a value, cut to where any reader drew it."""
    region = union_of([of_reader[value] for of_reader in regions if value in of_reader])
    shape = tuple(side.stop - side.start for side in region)
    outlines = []
    for layers_LZYX in readers_LZYX:
        mask_ZYX = np.zeros(shape, np.bool_)
        for layer_ZYX in layers_LZYX:
            mask_ZYX |= layer_ZYX[region] == value
        outlines.append(_Outline(mask_ZYX=mask_ZYX, spacing_mm_ZYX=spacing_mm_ZYX))
    return outlines
