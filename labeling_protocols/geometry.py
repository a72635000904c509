"""Where a volume's voxels lie in the patient: grids in, affines and differences in words out.

Arrays are indexed ZYX (slowest axis first, as ITK stores them); points and axes are XYZ in millimetres in the
patient's LPS frame (DICOM PS3.3 C.7.6.2.1.1). NIfTI speaks RAS: `affine_RAS` is the one place that converts.
"""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A regular grid in the patient.

    `direction_LPS` is ITK's row-major 3×3 matrix; its columns are the directions of the X, Y and Z index axes.
    `origin_mm_LPS` is the centre of voxel (0, 0, 0).
    """

    shape_ZYX: tuple[int, int, int]
    spacing_mm_XYZ: tuple[float, float, float]
    origin_mm_LPS: tuple[float, float, float]
    direction_LPS: tuple[float, ...]

    def __post_init__(self) -> None:
        if min(self.shape_ZYX) < 1:
            raise ValueError(f"a volume needs at least one voxel along each axis, found shape {self.shape_ZYX}")
        if min(self.spacing_mm_XYZ) <= 0:
            raise ValueError(f"voxel spacing must be positive, found {self.spacing_mm_XYZ} mm")
        if len(self.direction_LPS) != 9:
            raise ValueError(f"a direction has 9 numbers, found {len(self.direction_LPS)}")

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing_mm_XYZ)) / 1000.0

    @property
    def spacing_mm_ZYX(self) -> tuple[float, float, float]:
        x, y, z = self.spacing_mm_XYZ
        return (z, y, x)

    def affine_LPS(self) -> NDArray[np.float64]:
        """4×4 matrix from voxel index (x, y, z) to millimetres in LPS."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.direction_LPS, (3, 3)) * np.asarray(self.spacing_mm_XYZ)
        affine[:3, 3] = self.origin_mm_LPS
        return affine

    def affine_RAS(self) -> NDArray[np.float64]:
        """4×4 matrix from voxel index (x, y, z) to millimetres in RAS, the frame of NIfTI and MONAI."""
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ self.affine_LPS()

    def corners_mm_LPS(self) -> NDArray[np.float64]:
        """Centres of the eight corner voxels, shape (8, 3)."""
        z, y, x = (n - 1 for n in self.shape_ZYX)
        index_XYZ1 = np.array([(i, j, k, 1) for k in (0, z) for j in (0, y) for i in (0, x)], dtype=float)
        corners: NDArray[np.float64] = (index_XYZ1 @ self.affine_LPS().T)[:, :3]
        return corners

    def difference(self, other: "Geometry", tolerance_mm: float = 0.1) -> str | None:
        """How `other` differs from this grid, in words, or None where every corner lies within the tolerance."""
        if self.shape_ZYX != other.shape_ZYX:
            return f"expected shape {self.shape_ZYX} (z, y, x), found {other.shape_ZYX}"
        apart_mm = float(np.abs(self.corners_mm_LPS() - other.corners_mm_LPS()).max())
        if apart_mm > tolerance_mm:
            return f"its corners lie up to {apart_mm:.2f} mm from the image's, at most {tolerance_mm} mm was expected"
        return None

    def as_json(self) -> dict[str, list[float]]:
        return {
            "shape_ZYX": list(self.shape_ZYX),
            "spacing_mm_XYZ": list(self.spacing_mm_XYZ),
            "origin_mm_LPS": list(self.origin_mm_LPS),
            "direction_LPS": list(self.direction_LPS),
        }

    @classmethod
    def from_json(cls, stored: dict[str, list[float]]) -> "Geometry":
        z, y, x = (int(n) for n in stored["shape_ZYX"])
        sx, sy, sz = stored["spacing_mm_XYZ"]
        ox, oy, oz = stored["origin_mm_LPS"]
        return cls(
            shape_ZYX=(z, y, x),
            spacing_mm_XYZ=(sx, sy, sz),
            origin_mm_LPS=(ox, oy, oz),
            direction_LPS=tuple(stored["direction_LPS"]),
        )

    @classmethod
    def from_affine_LPS(cls, affine: NDArray[np.float64], shape_ZYX: tuple[int, int, int]) -> "Geometry":
        """The grid with this index-to-millimetre matrix; its columns must be at right angles."""
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if np.any(spacing == 0):
            raise ValueError("the affine has an axis of zero length")
        direction = affine[:3, :3] / spacing
        if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-3):
            raise ValueError("the volume's axes are not at right angles (a sheared or tilted grid)")
        return cls(
            shape_ZYX=shape_ZYX,
            spacing_mm_XYZ=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
            origin_mm_LPS=(float(affine[0, 3]), float(affine[1, 3]), float(affine[2, 3])),
            direction_LPS=tuple(float(v) for v in direction.ravel()),
        )


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Voxels and where they lie; `array_ZYX.shape` equals `geometry.shape_ZYX`."""

    array_ZYX: NDArray[np.generic]
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.array_ZYX.shape != self.geometry.shape_ZYX:
            raise ValueError(f"voxels of shape {self.array_ZYX.shape} on a grid of {self.geometry.shape_ZYX}")

    def to_sitk(self) -> sitk.Image:
        image = sitk.GetImageFromArray(self.array_ZYX)
        image.SetSpacing(self.geometry.spacing_mm_XYZ)
        image.SetOrigin(self.geometry.origin_mm_LPS)
        image.SetDirection(self.geometry.direction_LPS)
        return image

    @classmethod
    def from_sitk(cls, image: sitk.Image) -> "Volume":
        array = sitk.GetArrayFromImage(image)
        z, y, x = array.shape
        return cls(
            array_ZYX=array,
            geometry=Geometry(
                shape_ZYX=(z, y, x),
                spacing_mm_XYZ=image.GetSpacing(),
                origin_mm_LPS=image.GetOrigin(),
                direction_LPS=image.GetDirection(),
            ),
        )
