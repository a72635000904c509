"""What the archive's folder holds, as QIDO-RS tells it: a folder of de-identified series in, DICOM JSON rows out.

The search methods are those of dicomweb-client's `DICOMClient`. Of each series one header is read and kept until its
folder changes; a series' images are listed when they are asked for. dicomweb-client's own index of a folder reads every
file again at each change, and matches neither lists of UIDs nor Modalities in Study, which OHIF's study list sends.
"""

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from apps.archive_matching import Filters, filters_of, tag_of
from labeling_protocols.store import UnknownError

Json = dict[str, Any]

RESULTS_MAX = 5000
_LISTED_SERIES = 32
_CLOCK_NS = 2 * 10**9  # a folder that changed this lately may change again without its time telling
_UID = re.compile(r"[0-9.]{1,64}")
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
_MODALITY, _MODALITIES = "00080060", "00080061"


def _tags(*keywords: str) -> frozenset[str]:
    return frozenset(tag_of(keyword) for keyword in keywords)


# PS3.18 tables 10.6.3-3 to 10.6.3-5, as far as de-identification leaves them, and what viewers' lists show beside.
_OF_STUDY = _tags(
    *(
        "SpecificCharacterSet",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "ReferringPhysicianName",
        "StudyDescription",
    ),
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID"),
)
_OF_SERIES = _tags(
    *("SeriesDate", "SeriesTime", "Modality", "Manufacturer", "ManufacturerModelName", "SeriesDescription"),
    *("BodyPartExamined", "SeriesInstanceUID", "SeriesNumber"),
)
_OF_INSTANCE = _tags(
    *(
        "ImageType",
        "SOPClassUID",
        "SOPInstanceUID",
        "InstanceNumber",
        "ImagePositionPatient",
        "ImageOrientationPatient",
    ),
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One file of the archive: an image, or its header alone."""

    study: str
    series: str
    instance: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Found:
    """Rows in DICOM JSON; whether there are more than were asked for, and which keys could not be matched."""

    rows: list[Json]
    more: bool
    passed_over: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Series:
    """A series as one of its headers tells of it; `places` are its folder, or its files where it shares one."""

    uid: str
    study: str
    attributes: Json
    count: int
    places: tuple[Path, ...]

    def paths(self) -> Iterator[Path]:
        for place in self.places:
            yield from sorted(place.glob("*.dcm")) if place.is_dir() else (place,)


class Index:
    """The index of one folder. `refresh` follows what changed in it; all else may run beside that."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries: dict[str, tuple[int, tuple[_Series, ...]]] = {}
        self._refreshing = threading.Lock()

    def refresh(self) -> None:
        """Read what is new or changed among the folder's entries, and forget what is gone."""
        with self._refreshing:
            entries: dict[str, tuple[int, tuple[_Series, ...]]] = {}
            for entry in sorted(self._folder.iterdir()):
                if entry.name.startswith("."):
                    continue
                changed = entry.stat().st_mtime_ns
                settled = time.time_ns() - changed > _CLOCK_NS
                known = self._entries.get(entry.name)
                if known is None or known[0] != changed:
                    known = (changed if settled else 0, tuple(_series_in(entry)))
                entries[entry.name] = known
            self._entries = entries

    def slices(self, study: str, series: str | None = None, instance: str | None = None) -> list[Slice]:
        """The files of a study, a series or an instance; raises `UnknownError` where there is none."""
        found = []
        for one in self._within(study, series):
            if instance is not None and (own := _own_file(one, instance)) is not None:
                return [Slice(study=one.study, series=one.uid, instance=instance, path=own)]
            found += [
                Slice(study=one.study, series=one.uid, instance=_value(row, INSTANCE), path=path)
                for path, row in _images(one)
                if instance in (None, _value(row, INSTANCE))
            ]
        if not found:
            raise UnknownError("nothing of this is in the archive")
        return found

    # dicomweb-client's `DICOMClient`

    def search_for_studies(self, **asked: Any) -> list[Json]:
        return self.studies(**asked).rows

    def search_for_series(self, study_instance_uid: str | None = None, **asked: Any) -> list[Json]:
        return self.series(study_instance_uid, **asked).rows

    def search_for_instances(
        self, study_instance_uid: str | None = None, series_instance_uid: str | None = None, **asked: Any
    ) -> list[Json]:
        return self.instances(study_instance_uid, series_instance_uid, **asked).rows

    # The same with what the answer's headers say

    def studies(self, **asked: Any) -> Found:
        by_study: dict[str, list[_Series]] = {}
        for one in self._within():
            by_study.setdefault(one.study, []).append(one)
        rows = ((_study_row(group), next(group[0].paths(), None)) for group in by_study.values())
        return _chosen(rows, _OF_STUDY | {_MODALITIES}, **asked)

    def series(self, study: str | None = None, **asked: Any) -> Found:
        rows = ((_series_row(one), next(one.paths(), None)) for one in self._within(study))
        return _chosen(rows, _OF_STUDY | _OF_SERIES, **asked)

    def instances(self, study: str | None = None, series: str | None = None, **asked: Any) -> Found:
        rows = (({**one.attributes, **row}, path) for one in self._within(study, series) for path, row in _images(one))
        return _chosen(rows, _OF_STUDY | _OF_SERIES | _OF_INSTANCE, **asked)

    def _within(self, study: str | None = None, series: str | None = None) -> Iterator[_Series]:
        for _, found in self._entries.values():
            yield from (one for one in found if study in (None, one.study) and series in (None, one.uid))


def _chosen(
    rows: Iterator[tuple[Json, Path | None]],
    matchable: frozenset[str],
    *,
    fuzzymatching: bool | None = None,
    limit: int | None = None,
    offset: int | None = None,
    fields: Sequence[str] | None = None,
    search_filters: Mapping[str, str] | None = None,
    get_remaining: bool = False,
) -> Found:
    """The rows that match, from `offset` on, with the fields asked for beyond those that are always told."""
    filters = filters_of(search_filters or {}, matchable, fuzzy=bool(fuzzymatching))
    most = RESULTS_MAX if limit is None and not get_remaining else limit
    chosen: list[Json] = []
    for row, path in _matching(rows, filters, offset or 0):
        if most is not None and len(chosen) >= most:
            return Found(rows=chosen, more=True, passed_over=filters.passed_over)
        chosen.append(_with_fields(row, path, fields or ()))
    return Found(rows=chosen, more=False, passed_over=filters.passed_over)


def _matching(
    rows: Iterator[tuple[Json, Path | None]], filters: Filters, offset: int
) -> Iterator[tuple[Json, Path | None]]:
    skipped = 0
    for row, path in rows:
        if filters.match(row):
            skipped += 1
            if skipped > offset:
                yield row, path


def _with_fields(row: Json, path: Path | None, fields: Sequence[str]) -> Json:
    wanted = {tag_of(field) for field in fields if field != "all"}
    if path is None or not ("all" in fields or wanted - row.keys()):
        return row
    header = header_of(path).to_json_dict(suppress_invalid_tags=True)
    return {**{tag: value for tag, value in header.items() if "all" in fields or tag in wanted}, **row}


def header_of(path: Path) -> Dataset:
    """An image's whole header, without its pixels."""
    return dcmread(path, stop_before_pixels=True)


# Rows


def _study_row(group: Sequence[_Series]) -> Json:
    of_study = {tag: value for tag, value in group[0].attributes.items() if tag in _OF_STUDY}
    modalities = sorted({_value(one.attributes, _MODALITY) for one in group} - {""})
    return {
        **of_study,
        _MODALITIES: {"vr": "CS", "Value": modalities},
        "00080056": {"vr": "CS", "Value": ["ONLINE"]},
        "00201206": {"vr": "IS", "Value": [len(group)]},
        "00201208": {"vr": "IS", "Value": [sum(one.count for one in group)]},
    }


def _series_row(one: _Series) -> Json:
    return {
        **one.attributes,
        "00080056": {"vr": "CS", "Value": ["ONLINE"]},
        "00201209": {"vr": "IS", "Value": [one.count]},
    }


def _value(row: Json, tag: str) -> str:
    values = row.get(tag, {}).get("Value") or [""]
    return str(values[0])


# Reading


def _series_in(entry: Path) -> Iterator[_Series]:
    """The series of one entry of the archive. Ingest makes a folder for each, named by its UID: one header tells it."""
    files = sorted(entry.glob("*.dcm")) if entry.is_dir() else [entry]
    first = _read(files[0]) if files else None
    if first is not None and first[SERIES]["Value"] == [entry.name]:
        yield _entry([first], len(files), (entry,))
        return
    by_series: dict[str, list[tuple[Path, Json]]] = {}
    for path in sorted(entry.rglob("*")) if entry.is_dir() else files:
        header = _read(path) if path.is_file() and not path.name.startswith(".") else None
        if header is not None:
            by_series.setdefault(header[SERIES]["Value"][0], []).append((path, header))
    for found in by_series.values():
        yield _entry([header for _, header in found], len(found), tuple(path for path, _ in found))


def _entry(headers: Sequence[Json], count: int, places: tuple[Path, ...]) -> _Series:
    kept = {tag: value for tag, value in headers[0].items() if tag in _OF_STUDY | _OF_SERIES}
    return _Series(uid=_value(kept, SERIES), study=_value(kept, STUDY), attributes=kept, count=count, places=places)


@lru_cache(maxsize=_LISTED_SERIES)
def _images(one: _Series) -> list[tuple[Path, Json]]:
    """Path and row of each image of a series, by its number."""
    found = [(path, row) for path in one.paths() if (row := _read(path)) is not None]
    return sorted(found, key=lambda image: (int(_value(image[1], "00200013") or 0), _value(image[1], INSTANCE)))


def _own_file(one: _Series, instance: str) -> Path | None:
    """Where ingest puts an image: under its UID, in its series' folder."""
    if not _UID.fullmatch(instance):
        return None
    path = one.places[0] / f"{instance}.dcm"
    return path if one.places[0].is_dir() and path.is_file() else None


def _read(path: Path) -> Json | None:
    """What is told of a file in rows, None where it is no DICOM file."""
    tags = [int(tag, 16) for tag in _OF_STUDY | _OF_SERIES | _OF_INSTANCE]
    try:
        row = dcmread(path, stop_before_pixels=True, specific_tags=tags).to_json_dict(suppress_invalid_tags=True)
    except Exception:  # noqa: BLE001  a file that pydicom cannot parse, for whatever reason, is no image
        return None
    return row if all(row.get(tag, {}).get("Value") for tag in (STUDY, SERIES, INSTANCE)) else None
