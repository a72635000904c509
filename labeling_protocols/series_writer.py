"""A volume in, a DICOM series of single-frame MR or CT images on disk out: what phantoms, demos and tests send."""

import random
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import DSfloat

from labeling_protocols.geometry import Geometry, Volume

_SOP_CLASS = {"MR": MRImageStorage, "CT": CTImageStorage}
_MAXIMUM_STORED = 2**15 - 1
_UID_LENGTH_MAX = 64  # PS3.5 section 9.1


@dataclass(frozen=True, kw_only=True)
class SeriesIdentity:
    """Who and what a written series says it is; instance UIDs are `<series_uid>.<slice number>`."""

    patient_id: str
    patient_name: str
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    taken: datetime = datetime(2020, 1, 1, 12)
    study_description: str = ""
    series_description: str = ""
    manufacturer: str = "Overread"
    model_name: str = "Phantom"
    body_part: str = "BRAIN"

    def __post_init__(self) -> None:
        longest = _UID_LENGTH_MAX - len(".9999")
        if len(self.series_uid) > longest:
            raise ValueError(
                f"a series UID of {len(self.series_uid)} characters leaves no room for the instances' numbers;"
                f" expected at most {longest}"
            )


def write_series(
    volume: Volume,
    folder: Path,
    identity: SeriesIdentity,
    *,
    modality: str = "MR",
    flipped: bool = False,
    shuffle: int | None = None,
) -> list[Path]:
    """Write one file a slice and return the paths in the volume's z order.

    `flipped` numbers the slices from the far end of the stack; `shuffle` (a seed) gives file names and instance
    numbers in a random order. Neither changes where a voxel lies in the patient.
    """
    slices = series_datasets(volume, identity, modality=modality)
    numbers = list(range(1, len(slices) + 1))
    if flipped:
        numbers.reverse()
    if shuffle is not None:
        random.Random(shuffle).shuffle(numbers)  # noqa: S311  an order, no secret
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, image in zip(numbers, slices, strict=True):
        image.InstanceNumber = number
        path = folder / f"{number:05d}.dcm"
        dcmwrite(path, image, enforce_file_format=True)
        paths.append(path)
    return paths


def series_datasets(volume: Volume, identity: SeriesIdentity, *, modality: str = "MR") -> list[Dataset]:
    """One image a slice, in the volume's z order, with 16-bit pixels and a rescale where the values need one."""
    stored_ZYX, slope, intercept = _as_stored(volume.array_ZYX)
    images = []
    for k in range(volume.geometry.shape_ZYX[0]):
        image = _instance(identity, modality, k)
        _place(image, volume.geometry, k)
        _describe_acquisition(image, modality, volume.geometry)
        _set_pixels(image, stored_ZYX[k])
        if modality == "CT" or (slope, intercept) != (1.0, 0.0):
            image.RescaleSlope, image.RescaleIntercept = DSfloat(slope, True), DSfloat(intercept, True)
            image.RescaleType = "HU" if modality == "CT" else "US"
        images.append(image)
    return images


def _as_stored(array_ZYX: NDArray[np.generic]) -> tuple[NDArray[np.int16], float, float]:
    """Signed 16-bit values with the slope and intercept that give the original ones back (PS3.3 C.11.1.1.2)."""
    low, high = float(array_ZYX.min()), float(array_ZYX.max())
    whole = np.issubdtype(array_ZYX.dtype, np.integer) or bool(np.all(array_ZYX == np.round(array_ZYX.astype(float))))
    if whole and low >= -_MAXIMUM_STORED and high <= _MAXIMUM_STORED:
        return array_ZYX.astype(np.int16), 1.0, 0.0
    # The slope must survive being written with 16 characters (a DS), so it is rounded up to what can be written.
    slope = float(f"{max((high - low) / _MAXIMUM_STORED, 1e-12) * (1 + 1e-8):.9e}")
    intercept = float(f"{low:.8e}")
    stored = np.round((array_ZYX.astype(float) - intercept) / slope)
    return np.clip(stored, -_MAXIMUM_STORED - 1, _MAXIMUM_STORED).astype(np.int16), slope, intercept


def _instance(identity: SeriesIdentity, modality: str, k: int) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = _SOP_CLASS[modality]
    meta.MediaStorageSOPInstanceUID = f"{identity.series_uid}.{k + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.PatientName, image.PatientID = identity.patient_name, identity.patient_id
    image.PatientBirthDate = image.PatientSex = ""
    image.StudyInstanceUID, image.SeriesInstanceUID = identity.study_uid, identity.series_uid
    image.FrameOfReferenceUID, image.PositionReferenceIndicator = identity.frame_of_reference_uid, ""
    date, time = identity.taken.strftime("%Y%m%d"), identity.taken.strftime("%H%M%S")
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = date
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = time
    image.AccessionNumber, image.ReferringPhysicianName, image.StudyID = "", "", "1"
    image.StudyDescription, image.SeriesDescription = identity.study_description, identity.series_description
    image.Modality, image.SeriesNumber, image.InstanceNumber = modality, 1, k + 1
    image.Manufacturer, image.ManufacturerModelName = identity.manufacturer, identity.model_name
    image.ImageType = ["ORIGINAL", "PRIMARY", "OTHER" if modality == "MR" else "AXIAL"]
    image.PatientPosition, image.BodyPartExamined = "HFS", identity.body_part
    return image


def _place(image: Dataset, geometry: Geometry, k: int) -> None:
    direction = np.reshape(geometry.direction_LPS, (3, 3))
    position_mm = np.asarray(geometry.origin_mm_LPS) + k * geometry.spacing_mm_XYZ[2] * direction[:, 2]
    image.ImagePositionPatient = [DSfloat(float(v), True) for v in position_mm]
    image.ImageOrientationPatient = [DSfloat(float(v), True) for v in (*direction[:, 0], *direction[:, 1])]
    x_mm, y_mm, z_mm = geometry.spacing_mm_XYZ
    image.PixelSpacing = [DSfloat(y_mm, True), DSfloat(x_mm, True)]
    image.SliceThickness = DSfloat(z_mm, True)


def _describe_acquisition(image: Dataset, modality: str, geometry: Geometry) -> None:
    """What the MR and CT image modules ask for (PS3.3 C.8.3.1, C.8.2.1); empty where a phantom has no answer."""
    if modality == "CT":
        image.KVP, image.AcquisitionNumber = "", ""
        return
    image.ScanningSequence, image.SequenceVariant, image.ScanOptions = "GR", "NONE", ""
    image.MRAcquisitionType = "3D"
    image.RepetitionTime = image.EchoTime = image.EchoTrainLength = ""
    image.SpacingBetweenSlices = DSfloat(geometry.spacing_mm_XYZ[2], True)


def _set_pixels(image: Dataset, stored_YX: NDArray[np.int16]) -> None:
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = stored_YX.shape
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.PixelData = stored_YX.astype("<i2").tobytes()
