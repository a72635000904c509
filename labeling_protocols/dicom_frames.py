"""Where the frames of a DICOM segmentation lie: a frame and its functional groups in, its part of a grid out.

A frame is put on a grid by its own place and orientation alone (PS3.3 C.7.6.16.2.3 and C.7.6.16.2.4), in millimetres of
the patient; slice numbers, thickness and the order of frames say nothing. It may be turned, mirrored, cropped or cut
across the grid's slices: each of its pixels has to be one voxel. Nothing is ever resampled.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from labeling_protocols.dicom_items import SegError, items_of, numbers, one_item
from labeling_protocols.geometry import Geometry

# A frame's pixels may lie this far from the grid's voxels: as far as slices may lie from their series' regular grid
# (`series.py`), and never more than a part of a voxel. The last of it is what rounding to 16 characters (DS) costs.
TOLERANCE_MM = 0.1
TOLERANCE_VOXELS = 0.1
_ROUNDING = 1.01


@dataclass(frozen=True, kw_only=True)
class FramePart:
    """A frame's pixels turned the way the grid runs, as many as lie on it, and the part of the grid that they cover."""

    values_2D: NDArray[np.uint8]
    index_ZYX: tuple[slice | int, ...]


def macro(seg: Dataset, groups: Dataset, keyword: str, where: str) -> Dataset:
    """A functional group of a frame, its own or the shared one (PS3.3 C.7.6.16)."""
    own = items_of(groups, keyword)
    return own[0] if own else one_item(one_item(seg, "SharedFunctionalGroupsSequence", "the file"), keyword, where)


def place_frame(
    seg: Dataset, groups: Dataset, geometry: Geometry, frame_YX: NDArray[np.uint8], where: str
) -> FramePart:
    """The part of a grid that a frame's non-zero pixels cover; `where` names the frame in refusals.

    Raises `SegError` for a frame whose pixels lie farther than `TOLERANCE_MM` or `TOLERANCE_VOXELS` (the smaller of
    both) from voxels, and for pixels drawn outside the grid.
    """
    frame_to_grid = _voxels_of_mm(geometry) @ _frame_affine(seg, groups, where)
    steps = np.rint(frame_to_grid[:3, :2]).astype(np.intp)
    rows, columns = frame_YX.shape
    _refuse_other_pixels(frame_to_grid, steps, geometry, (rows, columns), where)
    offset_XYZ = np.rint(frame_to_grid[:3, 3]).astype(np.intp)
    _refuse_beside(frame_to_grid, steps, offset_XYZ, geometry, (rows, columns), where)
    along_column, along_row = (int(np.flatnonzero(steps[:, k])[0]) for k in (1, 0))  # which grid axis each runs along
    turned = frame_YX[:: steps[along_column, 1], :: steps[along_row, 0]]
    if along_column < along_row:  # an array's axes run Z, Y, X: the grid's first axis is its last
        turned = turned.T
    index: list[slice | int] = [0, 0, 0]
    inside: list[slice] = []
    for axis in (2, 1, 0):
        size = geometry.shape_ZYX[2 - axis]
        if axis not in (along_column, along_row):
            index[2 - axis] = _slice_number(int(offset_XYZ[axis]), size, geometry.spacing_mm_XYZ[axis], where)
            continue
        length = rows if axis == along_column else columns
        first = int(offset_XYZ[axis]) - (length - 1 if steps[axis].sum() < 0 else 0)
        begin, end = max(first, 0), max(min(first + length, size), max(first, 0))
        index[2 - axis] = slice(begin, end)
        inside.append(slice(begin - first, end - first))
    part = turned[tuple(inside)]
    lost = 0 if part.shape == turned.shape else np.count_nonzero(turned) - np.count_nonzero(part)
    if lost:
        raise SegError(f"{where} draws {lost} pixels outside the image; a segmentation of this series was expected")
    return FramePart(values_2D=part, index_ZYX=tuple(index))


def spoken_mm(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in values) + ") mm"


@lru_cache(maxsize=8)
def _voxels_of_mm(geometry: Geometry) -> NDArray[np.float64]:
    """4×4 matrix from millimetres in LPS to voxels of a grid, made once for all its frames."""
    return np.linalg.inv(geometry.affine_LPS())


def _refuse_other_pixels(
    frame_to_grid: NDArray[np.float64],
    steps: NDArray[np.intp],
    geometry: Geometry,
    shape_YX: tuple[int, int],
    where: str,
) -> None:
    """Refuse a frame whose rows and columns do not go from voxel to voxel."""
    once = np.abs(steps).sum(axis=0).tolist() == [1, 1] and np.abs(steps).sum(axis=1).max() == 1
    # How far rows and columns have gone astray at the frame's far corner, in millimetres.
    far = (np.abs(frame_to_grid[:3, :2] - steps) @ np.array([shape_YX[1] - 1, shape_YX[0] - 1])).max(initial=0.0)
    beside_mm = float(far * max(geometry.spacing_mm_XYZ))
    if not once or far > 0.5:
        sizes_mm = np.linalg.norm((geometry.affine_LPS() @ frame_to_grid)[:3, :2], axis=0)
        raise SegError(
            f"{where} has pixels of {sizes_mm[1]:.3f} × {sizes_mm[0]:.3f} mm, or rows of a direction, that are not the"
            f" image's (voxels of {' × '.join(f'{mm:.3f}' for mm in geometry.spacing_mm_XYZ)} mm along x, y, z);"
            f" it would go {beside_mm:.2f} mm astray, and nothing is resampled"
        )


def _refuse_beside(
    frame_to_grid: NDArray[np.float64],
    steps: NDArray[np.intp],
    offset_XYZ: NDArray[np.intp],
    geometry: Geometry,
    shape_YX: tuple[int, int],
    where: str,
) -> None:
    """Refuse a frame that lies between slices, or beside the voxels of one."""
    corners = np.array(
        [[0, 0, 1], [shape_YX[1] - 1, 0, 1], [0, shape_YX[0] - 1, 1], [*(n - 1 for n in shape_YX[::-1]), 1]]
    )
    apart = np.column_stack([frame_to_grid[:3, :2] - steps, frame_to_grid[:3, 3] - offset_XYZ])
    off_voxels_XYZ = np.abs(apart @ corners.T).max(axis=1)
    spacing_mm = np.array(geometry.spacing_mm_XYZ)
    allowed_mm = np.minimum(TOLERANCE_MM, TOLERANCE_VOXELS * spacing_mm) * _ROUNDING
    off_mm = off_voxels_XYZ * spacing_mm
    if np.all(off_mm <= allowed_mm):
        return
    worst = int(np.argmax(off_mm / allowed_mm))
    across = not steps[worst].any()
    axis = "xyz"[worst]
    found = f"{off_mm[worst]:.2f} mm ({off_voxels_XYZ[worst]:.2f} voxels)"
    first = frame_to_grid[worst, 3]
    what = (
        f"lies between the image's slices {int(np.floor(first))} and {int(np.floor(first)) + 1} (counted from 0 along"
        f" {axis}), {found} from the nearest"
        if across
        else f"lies up to {found} beside the image's voxels along {axis}"
    )
    raise SegError(f"{where} {what}; at most {allowed_mm[worst]:.2f} mm was expected, and nothing is resampled")


def _slice_number(number: int, size: int, spacing_mm: float, where: str) -> int:
    if 0 <= number < size:
        return number
    beyond = -number if number < 0 else number - size + 1
    raise SegError(
        f"{where} draws outside the image, {beyond * spacing_mm:.1f} mm beyond its"
        f" {'first' if number < 0 else 'last'} slice; a segmentation of this series was expected"
    )


def _frame_affine(seg: Dataset, groups: Dataset, where: str) -> NDArray[np.float64]:
    """4×4 matrix from (column, row, 0) of a frame to millimetres in LPS (PS3.3 C.7.6.2.1.1)."""
    turned = macro(seg, groups, "PlaneOrientationSequence", where)
    orientation = np.array(numbers(turned, "ImageOrientationPatient", 6, where))
    row_mm, column_mm = numbers(macro(seg, groups, "PixelMeasuresSequence", where), "PixelSpacing", 2, where)
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * column_mm
    affine[:3, 1] = orientation[3:] * row_mm
    affine[:3, 2] = 0
    placed = macro(seg, groups, "PlanePositionSequence", where)
    affine[:3, 3] = numbers(placed, "ImagePositionPatient", 3, where)
    return affine
