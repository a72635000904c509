"""Where the frames of a DICOM segmentation lie: a frame and its functional groups in, places on a grid out."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from labeling_protocols.geometry import Geometry

# A frame may lie this far (in voxels) from the grid it is read onto.
_GRID_TOLERANCE = 0.05


class SegError(ValueError):
    """A segmentation that cannot be written or mapped to a protocol: what was found, what was expected."""


def frame_index(
    seg: Dataset, groups: Dataset, geometry: Geometry, frame_YX: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Where on the grid (z, y, x) the non-zero pixels of one frame lie."""
    frame_to_patient = _frame_affine(seg, groups)
    frame_to_grid = np.linalg.inv(geometry.affine_LPS()) @ frame_to_patient
    row, column = np.nonzero(frame_YX)
    points_XYZ = frame_to_grid @ np.stack([column, row, np.zeros_like(row), np.ones_like(row)])
    index_XYZ = np.rint(points_XYZ[:3]).astype(np.intp)
    off = float(np.abs(points_XYZ[:3] - index_XYZ).max(initial=0))
    steps = np.abs(frame_to_grid[:3, :2])
    if off > _GRID_TOLERANCE or np.abs(steps - np.rint(steps)).max() > _GRID_TOLERANCE:
        raise SegError(
            f"a frame's pixels lie up to {off:.2f} voxels beside the image's, or have another size or direction;"
            " a segmentation on the image's own grid was expected"
        )
    x, y, z = index_XYZ
    if row.size and (index_XYZ.min() < 0 or bool(np.any(index_XYZ.max(axis=1) >= geometry.shape_ZYX[::-1]))):
        raise SegError("a frame draws outside the image; a segmentation of this series was expected")
    return z, y, x


def _frame_affine(seg: Dataset, groups: Dataset) -> NDArray[np.float64]:
    """4×4 matrix from (column, row, 0) of a frame to millimetres in LPS (PS3.3 C.7.6.2.1.1)."""
    orientation = np.array(macro(seg, groups, "PlaneOrientationSequence").ImageOrientationPatient, float)
    row_mm, column_mm = (float(v) for v in macro(seg, groups, "PixelMeasuresSequence").PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * column_mm
    affine[:3, 1] = orientation[3:] * row_mm
    affine[:3, 2] = 0
    affine[:3, 3] = np.array(macro(seg, groups, "PlanePositionSequence").ImagePositionPatient, float)
    return affine


def macro(seg: Dataset, groups: Dataset, name: str) -> Dataset:
    """A functional group of a frame, its own or the shared one (PS3.3 C.7.6.16)."""
    sequence = groups.get(name) or seg.SharedFunctionalGroupsSequence[0].get(name)
    if not sequence:
        raise SegError(f"a frame has no {name}; it cannot be placed")
    return sequence[0]
