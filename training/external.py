"""An external test set: a folder of images and labels in, cases checked against the protocol and a digest out.

    folder/images/NAME.nii.gz      one volume a case, NIfTI or NRRD; of several channels NAME_0000, NAME_0001 and on
    folder/labels/NAME.nii.gz      its truth on the same grid, with the protocol's values
    folder/strata.csv              may be missing: file, patient, maker, model, slice_thickness_mm, sex, age_band, site

A name is of the file without its suffix. Names stay here: a case's id is made from its image's voxels.
"""

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from labeling_protocols.channels import Images
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label, LabelError
from labeling_protocols.protocol import Protocol
from labeling_protocols.strata import Strata, StrataError
from labeling_protocols.volumes import UnreadableVolumeError, is_volume_file, read_volume, suffix_of

STRATA_FILE = "strata.csv"
_STRATA = tuple(field.name for field in fields(Strata))
_COLUMNS = ("file", "patient", *_STRATA)


class ExternalTestSetError(ValueError):
    """A folder that is no test set under the protocol: which file, what was found, what was expected."""


@dataclass(frozen=True, kw_only=True)
class ExternalCase:
    """One image with its truth; `image_digest` and `label_digest` are over voxels and grid, not over files."""

    case: str
    patient: str
    strata: Strata
    image: Path
    label: Path
    image_digest: str
    label_digest: str
    further: tuple[Path, ...] = ()
    """The channels after the first, in the protocol's order."""


@dataclass(frozen=True, kw_only=True)
class ExternalTestSet:
    """Cases by id. `digest` is over voxels, grids, strata and which cases are one patient's."""

    cases: tuple[ExternalCase, ...]

    @property
    def digest(self) -> str:
        patients = {name: number for number, name in enumerate(dict.fromkeys(one.patient for one in self.cases))}
        content = [
            [one.image_digest, one.label_digest, patients[one.patient], one.strata.as_json()] for one in self.cases
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def volumes(self) -> Iterator[tuple[str, Images, Volume]]:
        """Each case's id, image or channels, and truth; raises where a file is not what it was any more."""
        for one in self.cases:
            channels, label = _channels((one.image, *one.further)), _volume(one.label)
            if (_digest(*channels), _digest(label)) != (one.image_digest, one.label_digest):
                raise ExternalTestSetError(f"image or label {one.image.name} changed while it was in use")
            yield one.case, channels if one.further else channels[0], label


def open_test_set(folder: Path, protocol: Protocol) -> ExternalTestSet:
    """The test set in a folder, every file of it read once and checked; raises `ExternalTestSetError`."""
    images, labels = _images(folder / "images", protocol), _files(folder / "labels")
    for names, kind in ((set(images) - set(labels), "label"), (set(labels) - set(images), "image")):
        if names:
            raise ExternalTestSetError(f"no {kind} for {', '.join(sorted(names))}; nothing was evaluated")
    if not images:
        raise ExternalTestSetError(f"no volume in {folder / 'images'}; expected NIfTI or NRRD files")
    known = _strata(folder / STRATA_FILE, set(images))
    cases: dict[str, ExternalCase] = {}
    for name in sorted(images):
        patient, strata = known[name]
        one = _case(images[name], labels[name], protocol, patient, strata)
        if one.case in cases:
            raise ExternalTestSetError(f"{one.image.name} and {cases[one.case].image.name} are the same image")
        cases[one.case] = one
    return ExternalTestSet(cases=tuple(cases[case] for case in sorted(cases)))


def _images(folder: Path, protocol: Protocol) -> dict[str, tuple[Path, ...]]:
    """Each case's files by its name: one, or one a channel."""
    files = _files(folder)
    if len(protocol.channels) < 2:
        return {name: (path,) for name, path in files.items()}
    found: dict[str, dict[str, Path]] = {}
    for name, path in files.items():
        stem, _, number = name.rpartition("_")
        found.setdefault(stem, {})[number] = path
    numbers = [f"{number:04d}" for number in range(len(protocol.channels))]
    for stem, of in found.items():
        if sorted(of) != numbers:
            channels = ", ".join(f"_{number} ({name})" for number, name in zip(numbers, protocol.channels, strict=True))
            there = ", ".join(path.name for path in of.values())
            raise ExternalTestSetError(f"{folder.name} holds {there}; expected of {stem or there} {channels}")
    return {stem: tuple(of[number] for number in numbers) for stem, of in found.items()}


def _files(folder: Path) -> dict[str, Path]:
    """Volume files by name without suffix."""
    if not folder.is_dir():
        raise ExternalTestSetError(f"there is no folder {folder}; expected one with a volume a case")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not is_volume_file(path):
            continue
        name = path.name[: -len(suffix_of(path.name))]
        if name in files:
            raise ExternalTestSetError(f"{folder.name} holds {files[name].name} and {path.name}; expected one of them")
        files[name] = path
    return files


def _case(
    image_paths: tuple[Path, ...], label_path: Path, protocol: Protocol, patient: str, strata: Strata
) -> ExternalCase:
    channels, truth = _channels(image_paths), _volume(label_path)
    image = channels[0]
    where = f"label {label_path.name}"
    if difference := image.geometry.difference(truth.geometry):
        raise ExternalTestSetError(f"{where} does not lie on its image's grid: {difference}")
    try:
        label = Label.of(truth)
    except LabelError as error:
        raise ExternalTestSetError(f"{where}: {error}") from error
    found = np.flatnonzero(np.bincount(label.array_ZYX.ravel(), minlength=256)).tolist()
    if foreign := sorted(set(found) - {0, *protocol.values.values()}):
        expected = ", ".join(f"{value} ({name})" for name, value in protocol.values.items())
        raise ExternalTestSetError(
            f"{where} has the value(s) {', '.join(map(str, foreign))}; protocol {protocol.name} has {expected}"
        )
    return ExternalCase(
        case=_voxels_digest(image)[:16],
        patient=patient,
        strata=strata,
        image=image_paths[0],
        label=label_path,
        image_digest=_digest(*channels),
        label_digest=_digest(truth),
        further=image_paths[1:],
    )


def _channels(paths: tuple[Path, ...]) -> tuple[Volume, ...]:
    first, *further = (_volume(path) for path in paths)
    for path, other in zip(paths[1:], further, strict=True):
        if difference := first.geometry.difference(other.geometry):
            raise ExternalTestSetError(f"{path.name} does not lie on the first channel's grid: {difference}")
    return (first, *further)


def _volume(path: Path) -> Volume:
    try:
        return read_volume(path)
    except UnreadableVolumeError as error:
        raise ExternalTestSetError(f"{path.parent.name}/{path.name}: {error}") from error


def _digest(*volumes: Volume) -> str:
    """Of grid and voxels; of several on one grid of them all."""
    grid = json.dumps(volumes[0].geometry.as_json(), sort_keys=True)
    voxels = "".join(_voxels_digest(volume) for volume in volumes)
    return hashlib.sha256(f"{grid}{voxels}".encode()).hexdigest()


def _voxels_digest(volume: Volume) -> str:
    """Of the voxels alone: NIfTI rounds the directions of a grid, and an image is known again in either format."""
    array_ZYX = np.ascontiguousarray(volume.array_ZYX)
    kind = f"{array_ZYX.shape}{array_ZYX.dtype.str}"
    return hashlib.sha256(kind.encode() + array_ZYX.tobytes()).hexdigest()


def _strata(path: Path, names: set[str]) -> dict[str, tuple[str, Strata]]:
    """Patient and strata by name; without the file every case is a patient of whom nothing is known."""
    if not path.exists():
        return {name: (name, Strata()) for name in names}
    found: dict[str, tuple[str, Strata]] = {}
    for number, row in _rows(path):
        file = row["file"].strip()
        name, where = file.removesuffix(suffix_of(file)), f"{path.name}, line {number}"
        if name not in names or name in found:
            raise ExternalTestSetError(f"{where}: expected each file of images/ once, found {name!r}")
        found[name] = (row.get("patient", "").strip() or name, _strata_of(row, where))
    if left_out := sorted(names - set(found)):
        raise ExternalTestSetError(f"{path.name} has no line for {', '.join(left_out)}")
    return found


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of the file with their numbers; what a line leaves out is empty."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as content:
            rows = csv.DictReader(content, restval="", strict=True)
            columns = list(rows.fieldnames or ())
            lines = [(rows.line_num, row) for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ExternalTestSetError(f"{path.name} is no CSV file in UTF-8: {error}") from error
    if "file" not in columns or not set(columns) <= set(_COLUMNS):
        raise ExternalTestSetError(f"{path.name} has the columns {columns}; expected file and any of {_COLUMNS[1:]}")
    if long := next((number for number, row in lines if None in row), None):
        raise ExternalTestSetError(f"{path.name}, line {long}: more values than the {len(columns)} columns")
    return lines


def _strata_of(row: dict[str, str], where: str) -> Strata:
    given = {name: words for name in _STRATA if (words := (row.get(name) or "").strip())}
    thickness = given.pop("slice_thickness_mm", None)
    try:
        return Strata(**given, slice_thickness_mm=None if thickness is None else float(thickness))
    except (StrataError, ValueError) as error:
        raise ExternalTestSetError(f"{where}: {error}") from error
