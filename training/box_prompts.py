"""A box that a viewer draws around a structure: the request's `roi` in, voxels of the image that bound it out.

3D Slicer sends `roi` as voxel indices (i0, i1, j0, j1, k0, k1) of the box's two corners, in either order, and the name
of the structure that is being outlined as `label`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labeling_protocols.geometry import Geometry
from training.clicks import ClickError

ROI = "roi"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Nothing of `structures` lies outside the voxels from `low_XYZ` up to and without `high_XYZ` of the image."""

    structures: tuple[str, ...]
    low_XYZ: tuple[int, int, int]
    high_XYZ: tuple[int, int, int]

    @property
    def slices_ZYX(self) -> tuple[slice, slice, slice]:
        x, y, z = (slice(low, high) for low, high in zip(self.low_XYZ, self.high_XYZ, strict=True))
        return z, y, x

    def middle_mm_LPS(self, geometry: Geometry) -> tuple[float, float, float]:
        """The middle of the box in the patient."""
        return _in_patient(
            [(low + high - 1) / 2 for low, high in zip(self.low_XYZ, self.high_XYZ, strict=True)], geometry
        )

    def corners_mm_LPS(self, geometry: Geometry) -> list[tuple[float, float, float]]:
        """The centres of the box's eight corner voxels in the patient."""
        ends = [(low, high - 1) for low, high in zip(self.low_XYZ, self.high_XYZ, strict=True)]
        return [_in_patient((x, y, z), geometry) for x in ends[0] for y in ends[1] for z in ends[2]]


def bounds_of(params: Mapping[str, Any], structures: Sequence[str], geometry: Geometry) -> Bounds | None:
    """The box in a viewer's request for inference, None where there is none.

    It bounds the structure that `label` names, and all of them where it names none. Raises `ClickError`.
    """
    sent = params.get(ROI) or []
    if not sent:
        return None
    if not isinstance(sent, list | tuple) or len(sent) != 6 or not all(_is_number(number) for number in sent):
        raise ClickError(
            f"found {ROI}: {str(sent)[:80]}; expected six voxel indices (i, i, j, j, k, k). Nothing was outlined."
        )
    pairs = [sorted((float(sent[2 * axis]), float(sent[2 * axis + 1]))) for axis in range(3)]
    low = [max(0, int(np.floor(first + 0.5))) for first, _ in pairs]
    high = [
        min(size, int(np.floor(last + 0.5)) + 1)
        for (_, last), size in zip(pairs, geometry.shape_ZYX[::-1], strict=True)
    ]
    if any(first >= last for first, last in zip(low, high, strict=True)):
        raise ClickError(
            f"the box ({ROI}) lies outside the image of {geometry.shape_ZYX[::-1]} voxels (x, y, z)."
            " Nothing was outlined."
        )
    label = params.get("label")
    bounded = (str(label),) if label in structures else tuple(structures)
    return Bounds(structures=bounded, low_XYZ=(low[0], low[1], low[2]), high_XYZ=(high[0], high[1], high[2]))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _in_patient(index_XYZ: Sequence[float], geometry: Geometry) -> tuple[float, float, float]:
    x, y, z, _ = geometry.affine_LPS() @ [*index_XYZ, 1.0]
    return float(x), float(y), float(z)
