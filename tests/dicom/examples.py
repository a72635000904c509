"""Identities, grids and protocols that the DICOM tests share, and the programs they ask for a second opinion."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from labeling_protocols.dicom_seg import Algorithm, ObjectIdentity
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.protocol import SHIPPED, Code, Protocol, Structure, load_protocol
from labeling_protocols.pseudonyms import keyed_uid
from labeling_protocols.series import Series, read_series, scan
from labeling_protocols.series_writer import SeriesIdentity, write_series
from tests.conftest import image_of

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


def dicom_validator_errors(path: Path) -> str:
    """What dicom-validator holds against an object; skips where no edition of the standard lies on this machine.

    dicom-validator fetches the standard from the internet once, into ~/dicom-validator or DICOM_STANDARD.
    """
    standard = Path(os.environ.get("DICOM_STANDARD", Path.home() / "dicom-validator"))
    if not any(standard.glob("*/docbook")):
        pytest.skip("dicom-validator has no edition of the standard here: run validate_iods once with internet access")
    command = [str(Path(sys.executable).parent / "validate_iods"), "-src", str(standard), "-e", "local", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if said.returncode == 0 else said.stdout + said.stderr


def series_on(
    grid: Geometry,
    folder: Path,
    *,
    shuffle: int | None = None,
    flipped: bool = False,
    thickness_mm: float | None = None,
) -> Series:
    """A series of noise on a grid; with a thickness that its pitch is not, where one is given."""
    name = "-".join(str(n) for n in grid.shape_ZYX)
    write_series(image_of(1, grid), folder, identity_of(name), flipped=flipped, shuffle=shuffle)
    if thickness_mm is not None:
        for path in folder.iterdir():
            image = dcmread(path)
            image.SliceThickness = thickness_mm
            image.save_as(path)
    return read_series(scan(folder)[0].files)


def outlining(*structures: Structure, overlaps: bool = False) -> Protocol:
    """A protocol of these structures, any two of which may overlap or none."""
    protocol = load_protocol(SHIPPED / "hippocampus.yaml")
    limits = next(iter(protocol.agreement.values()))
    names = [structure.name for structure in structures]
    return replace(
        protocol,
        structures=structures,
        agreement=dict.fromkeys(names, limits),
        gate=replace(protocol.gate, dice_min=dict.fromkeys(names, 0.5), surface_dice_min=None, hd95_mm_max=None),
        overlaps=tuple((a, b) for i, a in enumerate(names) for b in names[:i]) if overlaps else (),
    )


def structure(name: str, value: int, type_: tuple[str, str], modifier: tuple[str, str] | None = None) -> Structure:
    return Structure(
        name=name,
        title=name.replace("_", " ").capitalize(),
        value=value,
        color="#30a0c0",
        category=Code(scheme="SCT", value="123037004", meaning="Anatomical Structure"),
        type=Code(scheme=type_[1], value=type_[0], meaning=name),
        modifier=Code(scheme=modifier[1], value=modifier[0], meaning="modified") if modifier else None,
    )


def protocol_of(seg: Dataset) -> Protocol:
    """A protocol with a structure for each segment: its codes, its number as the value, its label as the title."""
    structures = []
    for segment in seg.SegmentSequence:
        types = segment.get("SegmentedPropertyTypeCodeSequence")
        if types and str(types[0].CodeValue) == "125040":
            continue
        coded = (str(types[0].CodeValue), str(types[0].CodingSchemeDesignator)) if types else ("1", "99NONE")
        found = structure(f"segment_{segment.SegmentNumber}", int(segment.SegmentNumber), coded)
        structures.append(replace(found, title=str(segment.SegmentLabel)))
    return outlining(*structures, overlaps=True)


# dcmqi, the library behind 3D Slicer's segmentations (https://github.com/QIICR/dcmqi)


def read_by_dcmqi(path: Path, folder: Path, onto: Geometry) -> dict[str, NDArray[np.bool_]]:
    """Each segment's voxels on a grid by the segment's label, as `segimage2itkimage` understands the file."""
    folder.mkdir()
    _dcmqi("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", folder, "-t", "nrrd")
    groups = json.loads((folder / "meta.json").read_text())["segmentAttributes"]
    masks = {}
    for number, segments in enumerate(groups, start=1):
        image = sitk.ReadImage(str(folder / f"{number}.nrrd"))
        for segment in segments:
            label = str(segment["SegmentLabel"])
            masks[label] = on_grid(Volume.from_sitk(image), int(segment["labelID"]), onto)
    return masks


def write_by_dcmqi(layers: Sequence[Volume], protocol: Protocol, series: Series, folder: Path, *options: str) -> Path:
    """A segmentation by `itkimage2segimage`, from one image a layer in the protocol's values."""
    folder.mkdir()
    images, attributes = [], []
    for number, layer in enumerate(layers, start=1):
        images.append(folder / f"{number}.nrrd")
        drawn = Volume(array_ZYX=layer.array_ZYX.astype(np.int16), geometry=layer.geometry)
        sitk.WriteImage(drawn.to_sitk(), str(images[-1]))
        attributes.append([_dcmqi_segment(protocol, int(value)) for value in np.unique(drawn.array_ZYX) if value])
    content = {
        "ContentCreatorName": "Doe^Jane",
        "SeriesDescription": "dcmqi",
        "SeriesNumber": "7",
        "InstanceNumber": "1",
    }
    (folder / "meta.json").write_text(json.dumps({**content, "segmentAttributes": attributes}))
    given = ["--inputImageList", ",".join(map(str, images)), "--inputMetadata", folder / "meta.json"]
    slices = ["--inputDICOMList", ",".join(map(str, series.files))]
    _dcmqi("itkimage2segimage", *given, *slices, "--outputDICOM", folder / "seg.dcm", *options)
    return folder / "seg.dcm"


def on_grid(volume: Volume, value: int, onto: Geometry) -> NDArray[np.bool_]:
    """The voxels of this value put on another grid point by point; every one of them has to hit a voxel there."""
    mask = np.zeros(onto.shape_ZYX, bool)
    index_ZYX = np.argwhere(volume.array_ZYX == value)
    points = np.column_stack([index_ZYX[:, ::-1], np.ones(len(index_ZYX))]) @ volume.geometry.affine_LPS().T
    found_XYZ = (points @ np.linalg.inv(onto.affine_LPS()).T)[:, :3]
    assert np.abs(found_XYZ - np.rint(found_XYZ)).max(initial=0) < 0.01
    mask[tuple(np.rint(found_XYZ).astype(int).T[::-1])] = True
    return mask


def _dcmqi_segment(protocol: Protocol, value: int) -> dict[str, object]:
    found = next(structure for structure in protocol.outlined if structure.value == value)

    def coded(code: Code) -> dict[str, str]:
        return {"CodeValue": code.value, "CodingSchemeDesignator": code.scheme, "CodeMeaning": code.meaning}

    segment = {
        "labelID": value,
        "SegmentLabel": found.title,
        "SegmentDescription": found.name,
        "SegmentAlgorithmType": "MANUAL",
        "SegmentedPropertyCategoryCodeSequence": coded(found.category),
        "SegmentedPropertyTypeCodeSequence": coded(found.type),
    }
    if found.modifier:
        segment["SegmentedPropertyTypeModifierCodeSequence"] = coded(found.modifier)
    return segment


def _dcmqi(program: str, *arguments: object) -> None:
    command = Path(sys.executable).parent / program
    if not command.is_file():
        pytest.skip("dcmqi is not installed (PyPI package dcmqi)")
    said = subprocess.run([str(command), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout[-1500:] + said.stderr[-1500:]
