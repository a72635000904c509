"""A folder (or one file) of NIfTI, NRRD and DICOM in, cases without identifiers out, and a report of what was refused.

One bad item never stops the batch. Reasons carry no identifier and may be logged; `where` is the file's own name, which
may well be a patient's: it is for the operator's screen only.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydicom import dcmread

from apps.dicom_logs import keep_values_out_of_logs
from apps.ingest.deidentify import deidentified_bytes, new_uid, pseudonym_of
from apps.ingest.header_strata import header_strata, volume_strata
from apps.ingest.strata_file import read_strata_file
from apps.settings import Site
from labeling_protocols.blobs import write_durably
from labeling_protocols.protocol import Protocol
from labeling_protocols.pseudonyms import patient_pseudonym
from labeling_protocols.series import Series, SeriesError, SeriesFiles, read_series, scan
from labeling_protocols.store import Store
from labeling_protocols.strata import Strata
from labeling_protocols.volumes import is_volume_file, read_volume, suffix_of

Progress = Callable[[int, int], None]


class IngestError(ValueError):
    """A path that cannot be taken in at all; nothing was read."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One item that did not become a case; `where` is relative to the folder that was given."""

    where: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """Ids of new cases and of those that were there already, and what was refused."""

    added: tuple[str, ...]
    known: tuple[str, ...]
    refused: tuple[Refusal, ...]


@dataclass(frozen=True, kw_only=True)
class _Item:
    """One volume file, or the files of one DICOM series; `add` makes the case and says whether it is new."""

    where: str
    add: Callable[[], tuple[str, bool]]


def ingest(
    store: Store,
    site: Site,
    path: Path,
    protocol_name: str,
    progress: Progress = lambda done, total: None,
    *,
    site_name: str | None = None,
    strata_file: Path | None = None,
) -> IngestReport:
    """Take every volume and every DICOM series below `path` as a case of the protocol.

    What evaluation is broken down by comes from the DICOM headers, for volumes from `strata_file` (`strata_file.py`);
    `site_name` says where images were made whose line there does not. `progress(done, total)` is called before the
    first item and after each. Raises `IngestError` where there is no such path or no image in it, `StrataError` or
    `StrataFileError` for a name or file that cannot be used, and `UnknownError` where there is no such protocol.
    """
    if not path.exists():
        raise IngestError("there is no such file or folder; nothing was read")
    keep_values_out_of_logs()
    protocol = store.protocol(protocol_name)
    items = _items(store, site, path, protocol, Strata(site=site_name), strata_file)
    if not items:
        raise IngestError(f"found no NIfTI, NRRD or DICOM image to label under {protocol.name}; no case was made")
    added: list[str] = []
    known: list[str] = []
    refused: list[Refusal] = []
    progress(0, len(items))
    for done, item in enumerate(items, start=1):
        try:
            case, is_new = item.add()
            (added if is_new else known).append(case)
        except ValueError as error:
            refused.append(Refusal(where=item.where, reason=str(error)))
        except OSError as error:
            reason = f"the file system refused: {error.strerror or type(error).__name__}; no case was made"
            refused.append(Refusal(where=item.where, reason=reason))
        progress(done, len(items))
    return IngestReport(added=tuple(added), known=tuple(known), refused=tuple(refused))


def _items(
    store: Store, site: Site, path: Path, protocol: Protocol, known: Strata, strata_file: Path | None
) -> list[_Item]:
    files = [path] if path.is_file() else _visible_files(path)
    volumes = [file for file in files if is_volume_file(file)]
    units = patient_units(volumes)
    base = path.parent if path.is_file() else path
    told = read_strata_file(strata_file, base, None if path.is_file() else units) if strata_file is not None else {}
    items = []
    for file in volumes:
        strata = told.get(file, known).filled_from(known)
        add = partial(add_volume, store, site, file, units[file], protocol, strata)
        items.append(_Item(where=str(file.relative_to(base)), add=add))
    for series in scan(file for file in files if file not in units):
        where = f"{series.files[0].relative_to(base)} ({series.kind}, {len(series.files)} file(s))"
        add = partial(add_series, store, site, series, protocol, site_name=known.site)
        items.append(_Item(where=where, add=add))
    return items


def _visible_files(folder: Path) -> list[Path]:
    """Files below a folder without hidden ones: archives carry `._name` twins that are no images."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(root) / name for name in sorted(names) if not name.startswith(".")]
    return [path for path in found if path.is_file()]


def patient_units(volumes: Sequence[Path]) -> dict[Path, str]:
    """Who each file is of: `sub-<label>` of BIDS names, else the file's name, with its folder's where names repeat."""
    stems = {path: path.name[: -len(suffix_of(path.name))] for path in volumes}
    repeated = {stem for stem, count in Counter(stems.values()).items() if count > 1}

    def unit(path: Path, stem: str) -> str:
        if stem.startswith("sub-"):
            return stem.split("_", 1)[0]
        return f"{path.parent.name}/{stem}" if stem in repeated else stem

    return {path: unit(path, stem) for path, stem in stems.items()}


def add_volume(
    store: Store, site: Site, path: Path, unit: str, protocol: Protocol, strata: Strata = Strata()
) -> tuple[str, bool]:
    """Make the image in a file a case of the patient `unit` stands for: its id, and whether it is new.

    `strata` is what is known of it; the thickness of its slices is its grid's where nothing is said of that.
    """
    if path.parent.name.lower().startswith("label"):
        raise ValueError("it lies in a folder of labels; only images become cases")
    volume = read_volume(path)
    case, is_new = store.add_case(
        protocol=protocol.name,
        patient=patient_pseudonym(site.secret, f"file {unit}"),
        volume=volume,
        modality=protocol.modality[0],
        strata=volume_strata(volume.geometry, strata),
    )
    return case.id, is_new


def add_series(
    store: Store,
    site: Site,
    files: SeriesFiles,
    protocol: Protocol,
    series: Series | None = None,
    *,
    site_name: str | None = None,
) -> tuple[str, bool]:
    """Make a DICOM series a case: its id, and whether it is new; `series` is what was read of its files already.

    `site_name` says where it was made. Raises `SeriesError`, having kept nothing.
    """
    if files.modality not in protocol.modality:
        raise SeriesError(
            f"{files.kind} of modality {files.modality or 'unknown'};"
            f" protocol {protocol.name} labels {', '.join(protocol.modality)}"
        )
    series = series or read_series(files.files)
    if any(str(source.get("BurnedInAnnotation", "")).upper() == "YES" for source in series.sources):
        raise SeriesError("its pixels are said to hold burned-in text (Burned In Annotation is YES); not taken in")
    _archive(site, files, series)
    case, is_new = store.add_case(
        protocol=protocol.name,
        patient=pseudonym_of(series.sources[0], site.secret),
        volume=series.volume,
        modality=files.modality,
        series=new_uid(site.secret, files.uid),
        strata=header_strata(series.sources[0], series.volume.geometry, site_name=site_name),
    )
    return case.id, is_new


def _archive(site: Site, files: SeriesFiles, series: Series) -> None:
    """Keep the de-identified slices, one file an instance, under their new UIDs; doing it again changes nothing."""
    folder = site.folder("archive") / new_uid(site.secret, files.uid)
    folder.mkdir(exist_ok=True)
    for path in series.files:
        uid, content = deidentified_bytes(dcmread(path, force=True), site.secret)
        target = folder / f"{uid}.dcm"
        if not target.exists():
            write_durably(target, content)
