"""Identities and grids that the DICOM tests share."""

import shutil
import subprocess
from pathlib import Path

import pytest

from labeling_protocols.dicom_seg import Algorithm, ObjectIdentity
from labeling_protocols.geometry import Geometry
from labeling_protocols.pseudonyms import keyed_uid
from labeling_protocols.series_writer import SeriesIdentity

AXIAL = Geometry(
    shape_ZYX=(5, 7, 9),
    spacing_mm_XYZ=(1.0, 1.0, 1.0),
    origin_mm_LPS=(0.0, 0.0, 0.0),
    direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
)
ANISOTROPIC = Geometry(
    shape_ZYX=(6, 11, 8),
    spacing_mm_XYZ=(0.7, 1.3, 4.0),
    origin_mm_LPS=(-120.5, 33.25, -700.0),
    direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
)
SAGITTAL = Geometry(
    shape_ZYX=(6, 10, 8),
    spacing_mm_XYZ=(1.5, 0.9, 2.0),
    origin_mm_LPS=(40.0, -60.0, 90.0),
    # rows run backwards (P), columns down (inferior), slices to the right: a flipped, left-handed axis order
    direction_LPS=(0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
)

ALGORITHM = Algorithm(
    name="hippocampus-segmentation", version="1.0.3", device_uid=keyed_uid(b"test", "device", "hippocampus 1.0.3")
)


def uid(*parts: str) -> str:
    return keyed_uid(b"test", "example", *parts)


def identity_of(name: str) -> SeriesIdentity:
    return SeriesIdentity(
        patient_id=f"ID-{name}",
        patient_name="Roe^Richard",
        study_uid=uid(name, "study"),
        series_uid=uid(name, "series"),
        frame_of_reference_uid=uid(name, "frame"),
    )


def object_of(name: str, number: int = 900) -> ObjectIdentity:
    return ObjectIdentity(series_uid=uid(name, "result"), instance_uid=uid(name, "object"), series_number=number)


def dciodvfy_errors(path: Path) -> list[str]:
    """What dicom3tools holds against an object; skips where it is not installed."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian package dicom3tools)")
    said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]
