"""What routing rules may ask of a series: one of its headers in, a record without identifiers out."""

import math
import re
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from pydicom import Dataset

_AGE = re.compile(r"(\d{3})([DWMY])")  # PS3.5 section 6.2, AS
_IN_YEARS = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
_OBLIQUE_DEGREES = 20.0  # how far a slice's normal may lie from an axis of the patient and still be called by it


class Orientation(StrEnum):
    SAGITTAL = "sagittal"
    CORONAL = "coronal"
    AXIAL = "axial"
    OBLIQUE = "oblique"


@dataclass(frozen=True, kw_only=True)
class SeriesFacts:
    """None, or an empty text, where the header does not say it. `slices` are those that have come."""

    sender: str
    slices: int
    modality: str
    body_part: str
    study_description: str
    series_description: str
    protocol_name: str
    image_type: str
    manufacturer: str
    model: str
    kernel: str
    contrast: bool
    orientation: Orientation | None
    slice_thickness_mm: float | None
    pixel_spacing_mm: float | None
    kvp: float | None
    age_years: float | None
    sex: str


def facts_of(header: Dataset, *, slices: int, sender: str) -> SeriesFacts:
    return SeriesFacts(
        sender=sender,
        slices=slices,
        modality=_text(header, "Modality"),
        body_part=_text(header, "BodyPartExamined"),
        study_description=_text(header, "StudyDescription"),
        series_description=_text(header, "SeriesDescription"),
        protocol_name=_text(header, "ProtocolName"),
        image_type=_text(header, "ImageType"),
        manufacturer=_text(header, "Manufacturer"),
        model=_text(header, "ManufacturerModelName"),
        kernel=_text(header, "ConvolutionKernel"),
        contrast=bool(_text(header, "ContrastBolusAgent")) or "ContrastBolusAgentSequence" in header,
        orientation=_orientation(header),
        slice_thickness_mm=_number(header, "SliceThickness"),
        pixel_spacing_mm=_number(header, "PixelSpacing"),
        kvp=_number(header, "KVP"),
        age_years=_age_years(_text(header, "PatientAge")),
        sex=_text(header, "PatientSex"),
    )


def _text(header: Dataset, keyword: str) -> str:
    """The value in one line; several values with the standard's backslash between."""
    value = header.get(keyword)
    if value is None:
        return ""
    several = value if not isinstance(value, str) and hasattr(value, "__iter__") else [value]
    return "\\".join(str(one).strip() for one in several)


def _number(header: Dataset, keyword: str) -> float | None:
    """The first value, where it is a finite number."""
    try:
        number = float(_text(header, keyword).partition("\\")[0])
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _age_years(text: str) -> float | None:
    found = _AGE.fullmatch(text)
    return int(found[1]) / _IN_YEARS[found[2]] if found else None


def _orientation(header: Dataset) -> Orientation | None:
    try:
        row, column = np.reshape([float(v) for v in header.ImageOrientationPatient], (2, 3))
    except (AttributeError, TypeError, ValueError):
        return None
    normal = np.cross(row, column)
    length = float(np.linalg.norm(normal))
    if not math.isfinite(length) or length == 0:
        return None
    along = np.abs(normal) / length
    if along.max() < math.cos(math.radians(_OBLIQUE_DEGREES)):
        return Orientation.OBLIQUE
    return (Orientation.SAGITTAL, Orientation.CORONAL, Orientation.AXIAL)[int(along.argmax())]
