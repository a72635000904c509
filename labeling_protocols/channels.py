"""Several registered images of one case: its channels in; the same on one grid, checked against the protocol, out.

The first channel is what viewers open, and its grid is the label's. A further one whose grid differs is resampled onto
that once, when the case is made; nothing is registered here: what is not in one frame of reference is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from labeling_protocols.geometry import Geometry, Volume

COVERED_MIN = 0.5  # of the first channel's voxels that a further one must show
# How far a further channel's voxels may lie from the first's and still be taken as they are.
SAME_GRID_MM = 0.1

Images = Volume | Sequence[Volume]
"""The image of a case, or its channels in the protocol's order."""


class ChannelsError(ValueError):
    """Channels that are not those asked for, or do not lie on one grid: what was found, what was expected."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Channel:
    """A further image of a case; `series` is its de-identified Series Instance UID where it came from DICOM.

    `resampled` says that it lay on another grid and was brought onto the first channel's.
    """

    name: str
    volume: Volume
    series: str | None = None
    resampled: bool = False


def channels_of(images: Images) -> tuple[Volume, ...]:
    """The channels, the first first."""
    return (images,) if isinstance(images, Volume) else tuple(images)


def require_channels(expected: Sequence[str], found: Sequence[str]) -> None:
    """Raise `ChannelsError` unless these are the channels a protocol asks for, in any order, by name."""
    lacking = [name for name in expected if name not in found]
    foreign = [name for name in found if name not in expected]
    if lacking:
        raise ChannelsError(f"it lacks channel {', '.join(lacking)}; expected {', '.join(expected)}. No case was made.")
    if foreign:
        known = ", ".join(expected) or "one image, without a name"
        raise ChannelsError(f"it has channel {', '.join(foreign)}; expected {known}. No case was made.")
    if len(set(found)) < len(found):
        twice = sorted({name for name in found if list(found).count(name) > 1})
        raise ChannelsError(f"more than one image is channel {', '.join(twice)}; expected one. No case was made.")


def require_one_grid(first: Geometry, channels: Sequence[Channel]) -> None:
    """Raise `ChannelsError` for a channel that does not lie on the first one's grid."""
    for channel in channels:
        if difference := first.difference(channel.volume.geometry, SAME_GRID_MM):
            raise ChannelsError(
                f"channel {channel.name} does not lie on the first channel's grid: {difference}. No case was made."
            )


def onto_grid(volume: Volume, grid: Geometry, name: str) -> tuple[Volume, bool]:
    """An image of the same frame of reference on this grid, and whether it was resampled (linearly) for that.

    What lies beyond the image becomes its lowest value. Raises `ChannelsError` where it shows too little of the grid.
    """
    if grid.difference(volume.geometry, SAME_GRID_MM) is None:
        return Volume(array_ZYX=volume.array_ZYX, geometry=grid), False
    covered = _covered(volume.geometry, grid)
    if covered < COVERED_MIN:
        raise ChannelsError(
            f"channel {name} shows {covered:.0%} of what the first channel shows; at least {COVERED_MIN:.0%} was"
            " expected. No case was made."
        )
    reference = sitk.Image([int(n) for n in reversed(grid.shape_ZYX)], sitk.sitkUInt8)
    reference.SetSpacing(grid.spacing_mm_XYZ)
    reference.SetOrigin(grid.origin_mm_LPS)
    reference.SetDirection(grid.direction_LPS)
    moved = sitk.Resample(
        volume.to_sitk(),
        reference,
        sitk.Transform(3, sitk.sitkIdentity),
        sitk.sitkLinear,
        float(volume.array_ZYX.min()),
        sitk.sitkFloat32,
    )
    return Volume(array_ZYX=sitk.GetArrayFromImage(moved), geometry=grid), True


def _covered(image: Geometry, grid: Geometry) -> float:
    """The share of a grid's voxel centres that lie within an image's, outermost half voxels included."""
    to_image = np.linalg.inv(image.affine_LPS()) @ grid.affine_LPS()
    x, y, z = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in reversed(grid.shape_ZYX)), indexing="ij")
    inside = np.ones(x.shape, dtype=bool)
    for row, size in zip(to_image[:3], reversed(image.shape_ZYX), strict=True):
        index = row[0] * x + row[1] * y + row[2] * z + row[3]
        inside &= (index >= -0.5) & (index <= size - 0.5)
    return float(inside.mean())
