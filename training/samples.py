"""Volumes to try the server with: MSD hippocampus through MONAI's loader, or phantoms where it cannot be had."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.series_writer import SeriesIdentity, write_series
from labeling_protocols.volumes import write_volume

MSD_TASK = "Task04_Hippocampus"
_PHANTOM_SHAPE_ZYX = (36, 50, 36)


def sample_volumes(folder: Path, count: int, *, seed: int = 0) -> str:
    """Fill `folder`/images and /labels with `count` NIfTI volumes of equal names; returns words on their source."""
    try:
        return fetch_msd(folder, count)
    except Exception as error:  # noqa: BLE001  MONAI's loader raises bare Exception when a host cannot be reached
        draw_phantoms(folder, count, seed=seed)
        return f"phantoms drawn by the program, because MSD {MSD_TASK} could not be fetched ({type(error).__name__})"


def fetch_msd(folder: Path, count: int) -> str:
    """The first `count` training volumes of MSD Task04 (CC-BY-SA 4.0, Antonelli 2022), fetched by MONAI."""
    from monai.apps import DecathlonDataset

    root = folder / "msd"
    root.mkdir(parents=True, exist_ok=True)
    dataset = DecathlonDataset(
        root, MSD_TASK, "training", transform=[], download=True, val_frac=0.0, cache_num=0, progress=True
    )
    pairs = sorted(dataset.data, key=lambda pair: str(pair["image"]))[:count]
    for kind in ("image", "label"):
        (folder / f"{kind}s").mkdir(exist_ok=True)
        for pair in pairs:
            source = Path(str(pair[kind]))
            (folder / f"{kind}s" / source.name).write_bytes(source.read_bytes())
    return f"MSD {MSD_TASK} (CC-BY-SA 4.0)"


def draw_phantoms(folder: Path, count: int, *, seed: int = 0) -> None:
    """Curved tubes in noise, their front half one structure and their back half another, no two alike."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image, label = phantom(np.random.default_rng((seed, number)))
        write_volume(image, folder / "images" / f"phantom_{number:03d}.nii.gz")
        write_volume(label, folder / "labels" / f"phantom_{number:03d}.nii.gz")


def draw_series(folder: Path, *, seed: int = 0) -> None:
    """One more phantom, as a DICOM MR series: something to look at in a DICOM viewer."""
    image, _ = phantom(np.random.default_rng((seed, 10**6)))
    study, series, frame = (generate_uid(prefix=None) for _ in range(3))
    identity = SeriesIdentity(
        patient_id="PHANTOM",
        patient_name="Phantom^Drawn",
        study_uid=study,
        series_uid=series,
        frame_of_reference_uid=frame,
        study_description="Phantom",
    )
    write_series(image, folder, identity)


def phantom(random: np.random.Generator) -> tuple[Volume, Volume]:
    """One image and its label (1 anterior, 2 posterior), 1 mm voxels, with its own size, bend and contrast."""
    z, y, x = np.meshgrid(*(np.arange(n, dtype=float) for n in _PHANTOM_SHAPE_ZYX), indexing="ij")
    centre_Z, centre_X = 18 + random.normal(0, 1.5, 2)
    along = (y - 25 - random.normal(0, 1.5)) / random.uniform(15, 18)
    bend_mm = random.uniform(2, 5)
    radius_mm = random.uniform(5, 7) * np.sqrt(np.clip(1 - along**2, 0, None)) * (1 + 0.25 * along)
    away_mm = np.hypot(z - centre_Z - bend_mm * along**2, (x - centre_X - bend_mm * along) * random.uniform(0.9, 1.2))
    inside = away_mm < radius_mm
    border = random.uniform(-0.05, 0.15)
    label = np.where(inside, np.where(along > border, 1, 2), 0).astype(np.uint8)
    return _on_grid(_painted(label, random)), _on_grid(label)


def _painted(label: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.int16]:
    """Intensities for the structures, a background that waves, and noise."""
    level = random.uniform(200, 2000)
    contrast = np.array([0.55, 1.0, 0.9])[label] * level
    waves = sum(
        np.sin(np.arange(n) / random.uniform(4, 9)).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, n in enumerate(label.shape)
    )
    noisy = contrast + 0.05 * level * waves + random.normal(0, 0.06 * level, label.shape)
    return np.clip(noisy, 0, 32767).astype(np.int16)


def _on_grid(array_ZYX: NDArray[np.generic]) -> Volume:
    geometry = Geometry(
        shape_ZYX=_PHANTOM_SHAPE_ZYX,
        spacing_mm_XYZ=(1.0, 1.0, 1.0),
        origin_mm_LPS=(0.0, 0.0, 0.0),
        direction_LPS=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
    )
    return Volume(array_ZYX=array_ZYX, geometry=geometry)
