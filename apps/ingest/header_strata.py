"""A DICOM header, before it is de-identified, and the image's grid in; what evaluation is broken down by out.

Of who was scanned, sex and an age band of ten years are taken; of the scanner, its maker and model. No serial number,
station, institution or date is: a maker or model that repeats one of these, or a name, is left out. The thickness of
slices is the distance between them as the image positions (PS3.3 C.7.6.2.1.1) give it, not Slice Thickness
(0018,0050): that is often missing or wrong (`labeling_protocols/series.py`), and what a network sees is the grid.
"""

import re
from collections.abc import Iterable

from pydicom import Dataset

from apps.ingest.deidentify import repeats_identifier
from labeling_protocols.geometry import Geometry
from labeling_protocols.strata import SEXES, WORDS_MAX, Strata, age_band

# The first words of Manufacturer (0008,0070), in lower case, and whom they mean. Toshiba's scanners are Canon's since
# 2018; Hitachi's became Fujifilm's in 2021 and stay apart, since Fujifilm made others before.
MAKERS = {
    "siemens": "Siemens",
    "ge": "GE",
    "gems": "GE",
    "general electric": "GE",
    "philips": "Philips",
    "canon": "Canon",
    "toshiba": "Canon",
    "hitachi": "Hitachi",
    "fujifilm": "Fujifilm",
    "fuji": "Fujifilm",
    "uih": "United Imaging",
    "united imaging": "United Imaging",
    "shanghai united imaging": "United Imaging",
    "neusoft": "Neusoft",
    "shimadzu": "Shimadzu",
    "hologic": "Hologic",
    "carestream": "Carestream",
    "agfa": "Agfa",
    "samsung": "Samsung",
}
_PLACES = ("DeviceSerialNumber", "StationName", "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName")
_DATES = ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
_NO_NAMES = frozenset({"none", "unknown", "n/a", "na", "null", "removed", "anonymous", "anonymized", "-"})
_SHORTEST = 3  # characters of what is looked for in a model's name
_AGE = re.compile(r"(\d{3})([DWMY])")  # PS3.5 6.2, AS
_PARTS_OF_YEAR = {"Y": 1, "M": 12, "W": 52, "D": 365}
_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})")  # PS3.5 6.2, DA
_DUMMY_AGE, _DUMMY_DATE = "000Y", "19000101"  # what de-identification writes where a value has to be
_OLDEST_YEARS = 130
_THICKNESS_DIGITS = 2  # of a millimetre: positions are written with rounding, and 3.0000001 mm are 3 mm


def header_strata(header: Dataset, geometry: Geometry, *, site_name: str | None = None) -> Strata:
    """The strata of a series, from one of its headers and the grid its slices make."""
    sex = _text(header, "PatientSex").upper()
    years = _age_years(header)
    return Strata(
        maker=_maker(header),
        model=_unless_identifying(header, words_of(_text(header, "ManufacturerModelName"))),
        slice_thickness_mm=_thickness_mm(geometry.spacing_mm_XYZ[2]),
        sex=sex if sex in SEXES else None,
        age_band=age_band(years) if years is not None else None,
        site=site_name,
    )


def volume_strata(geometry: Geometry, known: Strata) -> Strata:
    """The strata of an image without a header: what is known of it, and of its grid the widest distance as thickness.

    A file does not say which axis its slices were stacked along; they are hardly ever closer than their pixels.
    """
    return known.filled_from(Strata(slice_thickness_mm=_thickness_mm(max(geometry.spacing_mm_XYZ))))


def maker_of(text: str) -> str | None:
    """Who made a scanner: by `MAKERS`, else as it stands, in printable words of `WORDS_MAX` characters at most."""
    words = re.findall(r"[^\W_]+", text.lower())
    known = (MAKERS.get(" ".join(words[:count])) for count in (3, 2, 1))
    return next((maker for maker in known if maker is not None), words_of(text))


def words_of(text: str) -> str | None:
    """A text in printable words, cut where it is too long for a name; None where it says nothing."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    words = " ".join(printable.split())[:WORDS_MAX].strip()
    return None if not words or words.lower() in _NO_NAMES else words


def _maker(header: Dataset) -> str | None:
    maker = maker_of(_text(header, "Manufacturer"))
    return maker if maker in MAKERS.values() else _unless_identifying(header, maker)


def _unless_identifying(header: Dataset, words: str | None) -> str | None:
    """The words, unless they repeat what identifies; whole values are looked for, since a cut may halve one."""
    if words is None or repeats_identifier(header, words):
        return None
    told = {_text(header, keyword).lower() for keyword in (*_PLACES, *_DATES)}
    return None if any(_repeats(words.lower(), one) for one in told) else words


def _repeats(words: str, identifier: str) -> bool:
    return len(identifier) >= _SHORTEST and identifier in words


def _age_years(header: Dataset) -> int | None:
    """Patient's Age (0010,1010), else whole years from the birth date to the study's; None where neither is told."""
    told = _text(header, "PatientAge").upper()
    if (found := _AGE.fullmatch(told)) and told != _DUMMY_AGE:
        years = int(found[1]) // _PARTS_OF_YEAR[found[2]]
        return years if years <= _OLDEST_YEARS else None
    born, scanned = (_date(_text(header, keyword)) for keyword in ("PatientBirthDate", "StudyDate"))
    if born is None or scanned is None or born >= scanned:  # one day for both is what anonymizers write
        return None
    years = scanned[0] - born[0] - (scanned[1:] < born[1:])
    return years if years <= _OLDEST_YEARS else None


def _date(text: str) -> tuple[int, int, int] | None:
    found = _DATE.fullmatch(text)
    if found is None or text == _DUMMY_DATE:
        return None
    return int(found[1]), int(found[2]), int(found[3])


def _thickness_mm(spacing_mm: float) -> float | None:
    return round(spacing_mm, _THICKNESS_DIGITS) or None


def _text(header: Dataset, keyword: str) -> str:
    """An element's first value as trimmed text; nothing where it cannot be read as what it says it is."""
    try:
        value = header.get(keyword)
        if isinstance(value, Iterable) and not isinstance(value, str | bytes):
            value = next(iter(value), None)
    except (ValueError, TypeError, KeyError, NotImplementedError, LookupError, AttributeError, OverflowError):
        return ""
    return "" if value is None or isinstance(value, bytes) else str(value).strip()
