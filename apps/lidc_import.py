"""XML files of the LIDC-IDRI and the series they are about in; a case each, with a read by each radiologist, out.

A file is taken whole or not at all: all its readings are read, placed on the series' slices and checked before anything
is kept, and an import that was cut short is finished by the next. Reasons may be logged; `where` is a file's name, for
the operator's screen only.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from apps.accounts import AccountError, Accounts
from apps.console import COMMAND_LINE
from apps.dicom_logs import keep_values_out_of_logs
from apps.ingest.folder import Refusal, add_series
from apps.settings import Site
from labeling_protocols.label import Label, LabelError
from labeling_protocols.label_codec import encode_label
from labeling_protocols.label_rules import label_problem
from labeling_protocols.lidc import LidcError, read_lidc
from labeling_protocols.lidc_labels import ReadingLabel, Slices, Tally, label_of, require_nodules
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account, Provenance, Role
from labeling_protocols.series import SeriesFiles, read_series, scan
from labeling_protocols.store import Store, now
from labeling_protocols.strata import Strata

CLIENT = "LIDC XML"
READER = "lidc_reader_{number}"
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ImportedScan:
    """One scan: its case, how many reads are new, and what became of each radiologist's marks."""

    case: str
    is_new: bool
    reads: int
    tallies: tuple[Tally, ...]


@dataclass(frozen=True, kw_only=True)
class LidcReport:
    scans: tuple[ImportedScan, ...]
    refused: tuple[Refusal, ...]


def import_lidc(
    store: Store,
    site: Site,
    files: Sequence[Path],
    folder: Path,
    protocol_name: str,
    progress: Progress = lambda done, total: None,
    *,
    site_name: str | None = None,
) -> LidcReport:
    """Make each file's scan a case and its readings reads, of accounts that nobody signs in to.

    The series are sought below `folder`, by their UIDs; `site_name` says where they were made. Doing it again adds
    nothing. Raises `LidcError` where there is nothing to take from, `StrataError` for a name that cannot be used, and
    `UnknownError` where there is no such protocol.
    """
    keep_values_out_of_logs()
    protocol = store.protocol(protocol_name)
    require_nodules(protocol)
    paths = list(_xml_files(files))
    if not folder.is_dir():
        raise LidcError("the series' folder is none. Nothing was taken.")
    made_at = Strata(site=site_name).site
    taking = _Taking(store, site, protocol, {series.uid: series for series in scan(folder)}, made_at)
    scans: list[ImportedScan] = []
    refused: list[Refusal] = []
    progress(0, len(paths))
    for done, path in enumerate(paths, 1):
        try:
            scans.append(taking.take(path))
        except ValueError as error:
            refused.append(Refusal(where=path.name, reason=str(error)))
        except OSError as error:
            reason = f"the file system refused: {error.strerror or type(error).__name__}"
            refused.append(Refusal(where=path.name, reason=reason))
        progress(done, len(paths))
    return LidcReport(scans=tuple(scans), refused=tuple(refused))


def _xml_files(files: Sequence[Path]) -> Iterator[Path]:
    """The files, and for each folder those below it that are called XML."""
    for path in files:
        found = sorted(path.rglob("*.xml")) if path.is_dir() else [path]
        if not found or not path.exists():
            raise LidcError("there is no such XML file, or none in a folder that was given. Nothing was taken.")
        yield from found


class _Taking:
    """Where files are taken from and to."""

    def __init__(
        self,
        store: Store,
        site: Site,
        protocol: Protocol,
        series: Mapping[str, SeriesFiles],
        site_name: str | None,
    ) -> None:
        self._store, self._site, self._protocol, self._series = store, site, protocol, series
        self._site_name = site_name
        self._accounts = Accounts(store, site)

    def take(self, path: Path) -> ImportedScan:
        lidc = read_lidc(path)
        files = self._series.get(lidc.series_uid)
        if files is None:
            raise LidcError(
                f"it is about a series that is none of the {len(self._series)} in the folder; its images were expected"
            )
        series = read_series(files.files)
        slices = Slices.of(series)
        checked = [self._checked(label_of(reading, slices, self._protocol)) for reading in lidc.readings]
        readers = self._readers(len(lidc.readings))
        case, is_new = add_series(self._store, self._site, files, self._protocol, series, site_name=self._site_name)
        self._require_same(case, readers, [digest for _, digest in checked])
        # Drawn anew one after the other: four labels of a large scan at once would fill a memory.
        reads = sum(
            self._save(case, reader, label_of(reading, slices, self._protocol).label)
            for reader, reading in zip(readers, lidc.readings, strict=True)
        )
        return ImportedScan(case=case, is_new=is_new, reads=reads, tallies=tuple(tally for tally, _ in checked))

    def _checked(self, drawn: ReadingLabel) -> tuple[Tally, str]:
        """What became of the marks and the label's digest; raises `LabelError` where the label can be no read."""
        encoded = encode_label(drawn.label)
        problem = label_problem(self._protocol, drawn.label.geometry, drawn.label, encoded.voxels)
        if problem is not None:
            raise LabelError(f"a reading cannot be a read under protocol {self._protocol.name}: {problem}")
        return drawn.tally, hashlib.sha256(encoded.content).hexdigest()

    def _readers(self, count: int) -> list[Account]:
        """The accounts that stand for the authors of a file's first, second … reading."""
        names = [READER.format(number=number) for number in range(1, count + 1)]
        known = {each.account.name: each for each in self._accounts.details()}
        if taken := [name for name in names if name in known and known[name].signs_in]:
            raise AccountError(
                f"somebody signs in as {', '.join(taken)}; accounts of these names, without a way in, were expected"
            )
        return [
            known[name].account if name in known else self._accounts.add(name, None, frozenset({Role.READER}))
            for name in names
        ]

    def _require_same(self, case: str, readers: Sequence[Account], digests: Sequence[str]) -> None:
        """Refuse a second file about a scan that says something else than the first."""
        known = {read.reader: read for read in self._store.latest_reads(case)}
        for reader, digest in zip(readers, digests, strict=True):
            read = known.get(reader.id)
            if read is not None and read.protocol_version == self._protocol.version and read.label != digest:
                raise LabelError("this scan's readings were imported before and said something else")

    def _save(self, case: str, reader: Account, label: Label) -> bool:
        """Whether this read is new."""
        begun = now()
        kept = self._store.save_read(
            case_id=case,
            reader=reader.id,
            label=label,
            provenance=Provenance(client=CLIENT),
            adopted_by=COMMAND_LINE,
        )
        return kept.created >= begun
