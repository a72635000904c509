"""Boxes between the patient and the network's grid: a truth's boxes in, boxes in voxels out, and found ones back again.

In voxels a box is (x0, y0, z0, x1, y1, z1) along the prepared image's axes, and voxel i reaches from i to i + 1, as in
MONAI's boxes: the middle of a voxel is half a voxel further on than its index. Preparation turns and resamples an image
along its own axes, so that boxes stay boxes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from labeling_protocols.findings import boxes_of
from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Box, Label
from labeling_protocols.surfaces import NEIGHBOURS_26

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A box that a model found, and how sure it is, from 0 to 1."""

    box: Box
    score: float


def true_boxes(label: Label, values: Mapping[str, int]) -> tuple[Box, ...]:
    """The boxes of these structures (name to voxel value) in a truth, in the order of the names.

    What is outlined and has no box gets the one that just holds it: each connected component (26 neighbours) in whose
    extent no box of its structure has its centre.
    """
    found: list[Box] = []
    for name, value in values.items():
        boxes = boxes_of(label, name)
        found += boxes
        found += [extent for extent in _extents(name, label, value) if not any(_holds(extent, b, label) for b in boxes)]
    return tuple(found)


def boxes_in_voxels(boxes: Sequence[Box], geometry: Geometry, affine_RAS: NDArray[np.float64]) -> Tensor:
    """The boxes of an image of this geometry on the grid it was prepared to, float32 of shape (n, 6).

    `affine_RAS` takes the prepared image's voxel indices to millimetres in RAS.
    """
    if not boxes:
        return torch.zeros((0, 6), dtype=torch.float32)
    to_index = np.linalg.inv(affine_RAS)
    centres_mm_RAS = np.array([box.centre_mm_LPS for box in boxes]) @ _LPS_TO_RAS
    centres = centres_mm_RAS @ to_index[:3, :3].T + to_index[:3, 3] + 0.5
    sizes_mm = np.array([box.size_mm_XYZ for box in boxes]) @ _axes(geometry, affine_RAS).T
    halves = sizes_mm / np.linalg.norm(affine_RAS[:3, :3], axis=0) / 2.0
    return torch.from_numpy(np.concatenate([centres - halves, centres + halves], axis=1)).float()


def boxes_in_patient(
    structures: Sequence[str], boxes: Tensor, geometry: Geometry, affine_RAS: NDArray[np.float64]
) -> tuple[Box, ...]:
    """Boxes (n, 6) on the prepared grid as boxes of an image of this geometry; `structures` names each one's."""
    corners = boxes.double().reshape(-1, 6).cpu().numpy()
    low, high = corners[:, :3], corners[:, 3:]
    centres_mm_RAS = ((low + high) / 2.0 - 0.5) @ affine_RAS[:3, :3].T + affine_RAS[:3, 3]
    sizes_mm = (high - low) * np.linalg.norm(affine_RAS[:3, :3], axis=0) @ _axes(geometry, affine_RAS)
    return tuple(
        Box(structure=structure, centre_mm_LPS=(x, y, z), size_mm_XYZ=(a, b, c))
        for structure, (x, y, z), (a, b, c) in zip(
            structures, (centres_mm_RAS @ _LPS_TO_RAS).tolist(), sizes_mm.tolist(), strict=True
        )
    )


def sizes_mm_RAS(boxes: Sequence[Box], geometry: Geometry) -> list[tuple[float, float, float]]:
    """Edges of an image's boxes along those of its axes that lie nearest to R, A and S."""
    affine = geometry.affine_RAS()
    order = np.argsort(np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).argmax(axis=0))
    x, y, z = (int(axis) for axis in order)
    return [(box.size_mm_XYZ[x], box.size_mm_XYZ[y], box.size_mm_XYZ[z]) for box in boxes]


def _extents(structure: str, label: Label, value: int) -> list[Box]:
    """A box around each connected component of a structure's outline."""
    numbered_ZYX, _ = ndimage.label(label.mask_ZYX(value), structure=NEIGHBOURS_26)
    geometry = label.geometry
    affine = geometry.affine_LPS()
    boxes = []
    for sides_ZYX in ndimage.find_objects(numbered_ZYX):
        sides = sides_ZYX[::-1]
        middle = np.array([(side.start + side.stop - 1) / 2.0 for side in sides])
        x, y, z = (affine[:3, :3] @ middle + affine[:3, 3]).tolist()
        a, b, c = (
            float((side.stop - side.start) * mm) for side, mm in zip(sides, geometry.spacing_mm_XYZ, strict=True)
        )
        boxes.append(Box(structure=structure, centre_mm_LPS=(x, y, z), size_mm_XYZ=(a, b, c)))
    return boxes


def _holds(outer: Box, inner: Box, label: Label) -> bool:
    """Whether the centre of one box of an image lies in another."""
    direction = np.reshape(label.geometry.direction_LPS, (3, 3))
    apart_mm = (np.asarray(inner.centre_mm_LPS) - outer.centre_mm_LPS) @ direction
    return bool((np.abs(apart_mm) <= np.asarray(outer.size_mm_XYZ) / 2.0).all())


def _axes(geometry: Geometry, affine_RAS: NDArray[np.float64]) -> NDArray[np.float64]:
    """Which axis of the prepared image (row) each axis of the image itself (column) became: one 1 a row and column."""
    image = _LPS_TO_RAS @ np.reshape(geometry.direction_LPS, (3, 3))
    prepared = affine_RAS[:3, :3] / np.linalg.norm(affine_RAS[:3, :3], axis=0)
    return np.rint(np.abs(prepared.T @ image))
