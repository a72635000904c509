"""What a reader draws of one case: voxels of structures, boxes, points and answers, on the image's grid."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.geometry import Geometry, Volume

Answer = str | int | float | bool
_SHOWN = 8


class LabelError(ValueError):
    """A label that cannot become a read: what was found, what was expected; nothing was stored."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box around one finding; `size_mm_XYZ` lies along the image's own axes, not the patient's."""

    structure: str
    centre_mm_LPS: tuple[float, float, float]
    size_mm_XYZ: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One place in the patient."""

    structure: str
    position_mm_LPS: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Label:
    """One label of one case.

    `layers_LZYX` holds uint8 values of the protocol's structures, 0 for none; structures that overlap lie in different
    layers, so that most labels have one. A label without outlines has none. `answers` go by the question's name.
    """

    geometry: Geometry
    layers_LZYX: NDArray[np.uint8]
    boxes: tuple[Box, ...] = ()
    points: tuple[Point, ...] = ()
    answers: Mapping[str, Answer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.layers_LZYX.dtype != np.uint8:
            raise LabelError(f"a label holds uint8 values, found {self.layers_LZYX.dtype}; nothing was stored")
        if self.layers_LZYX.shape[1:] != self.geometry.shape_ZYX:
            raise LabelError(
                f"layers of shape {self.layers_LZYX.shape} (layer, z, y, x) on a grid of {self.geometry.shape_ZYX}"
            )

    @classmethod
    def of(cls, volume: Volume) -> "Label":
        """A volume of any number type as a label of one layer; raises `LabelError` where it holds no uint8 values."""
        array_ZYX = volume.array_ZYX
        if array_ZYX.dtype != np.uint8:
            found = np.unique(array_ZYX)
            foreign = found[~np.isin(found, np.arange(256))]
            if foreign.size:
                shown = ", ".join(f"{value:g}" for value in foreign[:_SHOWN])
                raise LabelError(f"the label has values that are no whole numbers from 0 to 255: {shown}.")
        return cls(geometry=volume.geometry, layers_LZYX=array_ZYX.astype(np.uint8, copy=False)[np.newaxis])

    @property
    def array_ZYX(self) -> NDArray[np.uint8]:
        """All layers in one volume; where structures overlap, the later layer is seen."""
        if len(self.layers_LZYX) == 1:
            layer: NDArray[np.uint8] = self.layers_LZYX[0]
            return layer
        flat_ZYX = np.zeros(self.geometry.shape_ZYX, dtype=np.uint8)
        for layer_ZYX in self.layers_LZYX:
            np.copyto(flat_ZYX, layer_ZYX, where=layer_ZYX != 0)
        return flat_ZYX

    def mask_ZYX(self, value: int) -> NDArray[np.bool_]:
        """Where the structure of this value lies, in whatever layer."""
        mask: NDArray[np.bool_] = (self.layers_LZYX == value).any(axis=0)
        return mask

    def volume(self) -> Volume:
        """The label as one image (overlaps as in `array_ZYX`)."""
        return Volume(array_ZYX=self.array_ZYX, geometry=self.geometry)


def whole_structures(layers_LZYX: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same structures in as few layers as they fit in one after the other, none in more than one layer."""
    kept: list[NDArray[np.uint8]] = [np.zeros(layers_LZYX.shape[1:], np.uint8)]
    for value in np.flatnonzero(np.bincount(layers_LZYX.ravel(), minlength=256)).tolist():
        mask_ZYX = (layers_LZYX == value).any(axis=0)
        if value and not any(_fits(layer_ZYX, mask_ZYX, value) for layer_ZYX in kept):
            kept.append(mask_ZYX.astype(np.uint8) * np.uint8(value))
    return np.stack(kept)


def _fits(layer_ZYX: NDArray[np.uint8], mask_ZYX: NDArray[np.bool_], value: int) -> bool:
    """Whether a structure found room in a layer, and was put there."""
    if layer_ZYX[mask_ZYX].any():
        return False
    layer_ZYX[mask_ZYX] = value
    return True
