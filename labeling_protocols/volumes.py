"""Volume files: NIfTI and NRRD in and out, through SimpleITK; what cannot be read is refused in words."""

import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from labeling_protocols.geometry import Volume

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha")


class UnreadableVolumeError(ValueError):
    """A file that is not a 3D volume SimpleITK can read; the message carries no header text."""


def is_volume_file(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def read_volume(path: Path) -> Volume:
    """The volume in a NIfTI or NRRD file.

    Raises `UnreadableVolumeError` for a corrupt file, anything but one 3D scalar volume, or voxels that are not finite.
    """
    image = _read(path)
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise UnreadableVolumeError(
            f"expected one 3D volume of single numbers, found {image.GetDimension()} dimensions"
            f" with {image.GetNumberOfComponentsPerPixel()} component(s) a voxel"
        )
    return _volume(image)


def read_channels(path: Path) -> tuple[Volume, ...]:
    """The volumes along the fourth axis of a file, one of a 3D file; raises as `read_volume`.

    Several numbers a voxel, as NRRD keeps channels, are channels too.
    """
    image = _read(path)
    components = image.GetNumberOfComponentsPerPixel()
    if image.GetDimension() == 3 and components > 1:
        return tuple(_volume(sitk.VectorIndexSelectionCast(image, number)) for number in range(components))
    if image.GetDimension() == 4 and components == 1:
        return tuple(_volume(image[..., number]) for number in range(image.GetSize()[3]))
    return (read_volume(path),)


def read_volume_bytes(content: bytes, suffix: str) -> Volume:
    """The volume in the bytes of a file with this suffix; raises as `read_volume`."""
    if suffix.lower() not in SUFFIXES:
        raise UnreadableVolumeError(f"expected a volume file ({', '.join(SUFFIXES)}), found {suffix or 'no suffix'!r}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"volume{suffix.lower()}"
        path.write_bytes(content)
        return read_volume(path)


def write_volume(volume: Volume, path: Path) -> None:
    """Write voxels and grid and nothing else: no text of the source's header survives."""
    sitk.WriteImage(volume.to_sitk(), str(path), useCompression=path.name.endswith(".gz"), compressionLevel=1)


def volume_bytes(volume: Volume, suffix: str) -> bytes:
    """The bytes of a file with this suffix."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"volume{suffix}"
        write_volume(volume, path)
        return path.read_bytes()


def suffix_of(name: str) -> str:
    """The volume suffix of a file name ('.nii.gz' counts as one), or ''."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def _read(path: Path) -> sitk.Image:
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise UnreadableVolumeError(f"{_kind(path)} file could not be read: {_last_line(error)}") from error


def _volume(image: sitk.Image) -> Volume:
    volume = Volume.from_sitk(image)
    if np.issubdtype(volume.array_ZYX.dtype, np.floating) and not np.isfinite(volume.array_ZYX).all():
        raise UnreadableVolumeError("the volume has voxels that are not finite numbers (NaN or infinite)")
    return volume


def _kind(path: Path) -> str:
    return "NIfTI" if ".nii" in path.name.lower() else "NRRD" if path.suffix.lower() in (".nrrd", ".nhdr") else "volume"


def _last_line(error: RuntimeError) -> str:
    """ITK's own reason without the C++ source lines and paths it puts before it."""
    lines = [line.split("): ")[-1].strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given").split("/")[0].strip(" :,")
