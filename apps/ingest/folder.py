"""A folder (or one file) of NIfTI, NRRD and DICOM in, cases without identifiers out, and a report of what was refused.

One bad item never stops the batch. Reasons carry no identifier and may be logged; `where` is the file's own name, which
may well be a patient's: it is for the operator's screen only.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydicom import dcmread

from apps.dicom_logs import keep_values_out_of_logs
from apps.ingest.channels import (
    ChannelRules,
    SeriesGroup,
    VolumeGroup,
    further_channels,
    group_series,
    group_volumes,
    read_group,
    read_rules,
)
from apps.ingest.deidentify import deidentified_bytes, new_uid, pseudonym_of
from apps.ingest.header_strata import header_strata, volume_strata
from apps.ingest.strata_file import read_strata_file
from apps.settings import Site
from labeling_protocols.blobs import write_durably
from labeling_protocols.channels import ChannelsError
from labeling_protocols.protocol import Protocol
from labeling_protocols.pseudonyms import patient_pseudonym
from labeling_protocols.series import Series, SeriesError, SeriesFiles, read_series, scan
from labeling_protocols.store import Store
from labeling_protocols.strata import Strata
from labeling_protocols.volumes import is_volume_file, read_volume, suffix_of

Progress = Callable[[int, int], None]
Keep = Callable[[Site, SeriesFiles, Series], None]


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
    channels: Sequence[str] = (),
) -> IngestReport:
    """Take every volume and every DICOM series below `path` as a case of the protocol.

    Where the protocol has several channels, `channels` are the rules that tell them apart (`channels.read_rules`).

    What evaluation is broken down by comes from the DICOM headers, for volumes from `strata_file` (`strata_file.py`);
    `site_name` says where images were made whose line there does not. `progress(done, total)` is called before the
    first item and after each. Raises `IngestError` where there is no such path or no image in it, `StrataError`,
    `StrataFileError` or `ChannelRuleError` for a name, file or rule that cannot be used, and `UnknownError` where there
    is no such protocol.
    """
    if not path.exists():
        raise IngestError("there is no such file or folder; nothing was read")
    keep_values_out_of_logs()
    protocol = store.protocol(protocol_name)
    taking = _Taking(store, site, protocol, Strata(site=site_name), read_rules(channels, protocol))
    items = taking.items(path, strata_file)
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


class _Taking:
    """What is taken in for one protocol, by the rules and with what is known of all of it."""

    def __init__(self, store: Store, site: Site, protocol: Protocol, known: Strata, rules: ChannelRules) -> None:
        self._store, self._site, self._protocol, self._known, self._rules = store, site, protocol, known, rules

    def items(self, path: Path, strata_file: Path | None) -> list[_Item]:
        """One item a case: a volume or its channels' files, a series or a study's."""
        files = [path] if path.is_file() else _visible_files(path)
        volumes = [file for file in files if is_volume_file(file)]
        base = path.parent if path.is_file() else path
        named = [group.first for group in self._groups(volumes)]
        told = {}
        if strata_file is not None:
            told = read_strata_file(strata_file, base, None if path.is_file() else named)
        series = scan(file for file in files if file not in set(volumes))
        return [*self._volumes(volumes, base, told), *self._series(series, base)]

    def _groups(self, volumes: Sequence[Path]) -> list[VolumeGroup]:
        if len(self._protocol.channels) > 1:
            return group_volumes(volumes, self._protocol, self._rules)
        return [VolumeGroup(path=path, files={"": path}) for path in volumes]

    def _volumes(self, volumes: Sequence[Path], base: Path, told: Mapping[Path, Strata]) -> Iterator[_Item]:
        groups = self._groups(volumes)
        units = patient_units([group.path for group in groups])
        for group in groups:
            strata = told.get(group.first, self._known).filled_from(self._known)
            add = partial(
                add_volume, self._store, self._site, group.first, units[group.path], self._protocol, strata, group
            )
            yield _Item(where=str(group.first.relative_to(base)), add=add)

    def _series(self, found: Sequence[SeriesFiles], base: Path) -> Iterator[_Item]:
        if len(self._protocol.channels) < 2:
            for one in found:
                add = partial(add_series, self._store, self._site, one, self._protocol, site_name=self._known.site)
                yield _Item(where=_where(one, base), add=add)
            return
        for group in group_series(found, self._protocol, self._rules):
            study = partial(add_study, self._store, self._site, group, self._protocol, site_name=self._known.site)
            yield _Item(where=", ".join(_where(one, base) for one in group.all), add=study)


def _where(series: SeriesFiles, base: Path) -> str:
    return f"{series.files[0].relative_to(base)} ({series.kind}, {len(series.files)} file(s))"


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
    store: Store,
    site: Site,
    path: Path,
    unit: str,
    protocol: Protocol,
    strata: Strata = Strata(),
    group: VolumeGroup | None = None,
) -> tuple[str, bool]:
    """Make the image in a file a case of the patient `unit` stands for: its id, and whether it is new.

    `strata` is what is known of it; the thickness of its slices is its grid's where nothing is said of that. `group`
    are the files of all its channels, where the protocol has several and they are not in this one file.
    """
    if path.parent.name.lower().startswith("label"):
        raise ValueError("it lies in a folder of labels; only images become cases")
    if len(protocol.channels) > 1:
        volume, channels = read_group(group or VolumeGroup(path=path, files={"": path}), protocol)
    else:
        volume, channels = read_volume(path), []
    case, is_new = store.add_case(
        protocol=protocol.name,
        patient=patient_pseudonym(site.secret, f"file {unit}"),
        volume=volume,
        modality=protocol.modality[0],
        strata=volume_strata(volume.geometry, strata),
        channels=channels,
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
    keep: Keep | None = None,
    actor: str = "server",
) -> tuple[str, bool]:
    """Make a DICOM series a case: its id, and whether it is new; `series` is what was read of its files already.

    `site_name` says where it was made, `keep` what the archive keeps of it, its de-identified slices if not said, and
    `actor` who did it. Raises `SeriesError`, having kept nothing.
    """
    _refuse_modality(files, protocol)
    series = series or read_series(files.files)
    _refuse_burned_in(series)
    (keep or _archive)(site, files, series)
    case, is_new = store.add_case(
        protocol=protocol.name,
        patient=pseudonym_of(series.sources[0], site.secret),
        volume=series.volume,
        modality=files.modality,
        series=new_uid(site.secret, files.uid),
        strata=header_strata(series.sources[0], series.volume.geometry, site_name=site_name),
        actor=actor,
    )
    return case.id, is_new


def add_study(
    store: Store, site: Site, group: SeriesGroup, protocol: Protocol, *, site_name: str | None = None
) -> tuple[str, bool]:
    """Make registered series of one study, a channel each, a case: its id, and whether it is new.

    Raises `ChannelsError` where they are not what the protocol asks for, `SeriesError` where one cannot be read, having
    kept nothing.
    """
    if group.refusal:
        raise ChannelsError(group.refusal)
    files = {name: found[0] for name, found in group.series.items()}
    for one in files.values():
        _refuse_modality(one, protocol)
    series = {name: read_series(one.files) for name, one in files.items()}
    for read in series.values():
        _refuse_burned_in(read)
    channels = further_channels(series, site, protocol)
    for name, read in series.items():
        _archive(site, files[name], read)
    first = series[protocol.channels[0]]
    case, is_new = store.add_case(
        protocol=protocol.name,
        patient=pseudonym_of(first.sources[0], site.secret),
        volume=first.volume,
        modality=files[protocol.channels[0]].modality,
        series=new_uid(site.secret, files[protocol.channels[0]].uid),
        strata=header_strata(first.sources[0], first.volume.geometry, site_name=site_name),
        channels=channels,
    )
    return case.id, is_new


def _refuse_modality(files: SeriesFiles, protocol: Protocol) -> None:
    if files.modality not in protocol.modality:
        raise SeriesError(
            f"{files.kind} of modality {files.modality or 'unknown'};"
            f" protocol {protocol.name} labels {', '.join(protocol.modality)}"
        )


def _refuse_burned_in(series: Series) -> None:
    if any(str(source.get("BurnedInAnnotation", "")).upper() == "YES" for source in series.sources):
        raise SeriesError("its pixels are said to hold burned-in text (Burned In Annotation is YES); not taken in")


def _archive(site: Site, files: SeriesFiles, series: Series) -> None:
    """Keep the de-identified slices, one file an instance, under their new UIDs; doing it again changes nothing."""
    folder = site.folder("archive") / new_uid(site.secret, files.uid)
    folder.mkdir(exist_ok=True)
    for path in series.files:
        uid, content = deidentified_bytes(dcmread(path, force=True), site.secret)
        target = folder / f"{uid}.dcm"
        if not target.exists():
            write_durably(target, content)
