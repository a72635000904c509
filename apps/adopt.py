"""A studies folder of MONAI Label in, left as it is; cases, reads and prelabels out, and a report of what was refused.

The folder is monailabel's `LocalDatastore`: images, `labels/<tag>/` and an index, `datastore_v2.json`. Reasons may be
logged; `where` may hold a patient's name, as the folder's file names do: it is for the operator's screen only.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.console import COMMAND_LINE
from apps.ingest.folder import Refusal, add_volume, patient_units
from apps.ingest.strata_file import read_strata_file
from apps.settings import Site
from apps.studies_folder import ORIGINAL, LabelFile, StudiesImage, read_studies
from labeling_protocols.label import Label, LabelError
from labeling_protocols.label_codec import encode_label
from labeling_protocols.label_files import layers_in_protocol_values, read_label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account, Case, Provenance
from labeling_protocols.seg_nrrd import Segment
from labeling_protocols.store import Store, now
from labeling_protocols.strata import Strata
from labeling_protocols.volumes import read_volume

ADOPTED = "adopted"
Progress = Callable[[int, int], None]


class ByClient:
    """The account that each label's `client_id` names."""

    def __init__(self, find: Callable[[str], Account | None]) -> None:
        self._find = find

    def account(self, client_id: object) -> Account:
        if not isinstance(client_id, str) or not client_id:
            raise LabelError("its label does not say which client saved it; adopt it with --reader. Nothing was taken.")
        account = self._find(client_id)
        if account is None:
            raise LabelError(f"no account is called as its client, {ascii(client_id)[:40]}. Nothing was taken.")
        return account


Readers = Account | ByClient


@dataclass(frozen=True, kw_only=True)
class AdoptReport:
    """How many new cases, revisions and prelabels there are, how many were there already, and what was refused."""

    cases: int
    reads: int
    prelabels: int
    known: int
    refused: tuple[Refusal, ...]


def adopt(
    store: Store,
    site: Site,
    folder: Path,
    *,
    protocol_name: str,
    readers: Readers,
    progress: Progress = lambda done, total: None,
    site_name: str | None = None,
    strata_file: Path | None = None,
) -> AdoptReport:
    """Make every image of the folder a case, its labels reads of `readers`, and what a model proposed a prelabel.

    `site_name` and `strata_file` tell what evaluation is broken down by, as for `apps.ingest.folder.ingest`. Doing it
    again takes only what is new. Raises `StudiesError` for a folder that is none of monailabel's, and `StrataError` or
    `StrataFileError` for a name or file that cannot be used.
    """
    protocol = store.protocol(protocol_name)
    images = read_studies(folder)
    units = patient_units([image.path for image in images])
    known = Strata(site=site_name)
    told = read_strata_file(strata_file, folder, units) if strata_file is not None else {}
    taking = _Taking(store, site, protocol, readers)
    progress(0, len(images))
    for done, image in enumerate(images, start=1):
        taking.take(image, units[image.path], told.get(image.path, known).filled_from(known))
        progress(done, len(images))
    return taking.report()


class _Taking:
    """One take-over and its counts."""

    def __init__(self, store: Store, site: Site, protocol: Protocol, readers: Readers) -> None:
        self._store, self._site, self._protocol, self._readers = store, site, protocol, readers
        self._cases = self._reads = self._prelabels = self._known = 0
        self._refused: list[Refusal] = []

    def take(self, image: StudiesImage, unit: str, strata: Strata) -> None:
        try:
            case_id, is_new = add_volume(self._store, self._site, image.path, unit, self._protocol, strata)
        except (ValueError, OSError) as error:
            self._refused.append(Refusal(where=image.path.name, reason=_reason(error)))
            return
        self._cases += is_new
        self._known += not is_new
        case = self._store.case(case_id)
        earlier: dict[str, Iterator[str]] = {}
        newest: dict[str, str] = {}
        for file in sorted(image.labels, key=lambda file: file.order):
            try:
                self._take_label(case, file, earlier, newest)
            except (ValueError, LookupError, OSError) as error:
                self._refused.append(Refusal(where=f"{file.tag}/{file.path.name}", reason=_reason(error)))

    def report(self) -> AdoptReport:
        return AdoptReport(
            cases=self._cases,
            reads=self._reads,
            prelabels=self._prelabels,
            known=self._known,
            refused=tuple(self._refused),
        )

    def _take_label(
        self, case: Case, file: LabelFile, earlier: dict[str, Iterator[str]], newest: dict[str, str]
    ) -> None:
        """`earlier` walks, for each reader, through the revisions adopted before; `newest` is the last one met."""
        if not file.known:
            raise LabelError(f"its tag is {ascii(file.tag)[:40]}; expected final, original or version_N")
        label = _label(file, self._protocol, case)
        if file.tag == ORIGINAL:
            begun = now()
            kept = self._store.save_prelabel(case.id, ADOPTED, label)
            self._prelabels += kept.created >= begun
            self._known += kept.created < begun
            return
        account = self._account(file)
        digest = hashlib.sha256(encode_label(label).content).hexdigest()
        if newest.get(account.id) == digest:
            return  # `final` is a copy of the last version
        walk = earlier.setdefault(account.id, iter(self._adopted(case, account)))
        newest[account.id] = digest
        if next(walk, None) == digest:
            self._known += 1
            return
        prelabel = self._store.prelabel(case.id)
        # monailabel keeps an `original` only where its model ran for a viewer.
        proposed = ADOPTED if prelabel is not None and prelabel.model == ADOPTED else None
        self._store.save_read(
            case_id=case.id,
            reader=account.id,
            label=label,
            provenance=Provenance(client=ADOPTED, prelabel_model=proposed, prelabel_shown=proposed is not None),
            created=file.created,
            adopted_by=COMMAND_LINE,
        )
        self._reads += 1

    def _account(self, file: LabelFile) -> Account:
        if isinstance(self._readers, Account):
            return self._readers
        return self._readers.account(file.told("client_id"))

    def _adopted(self, case: Case, account: Account) -> list[str]:
        reads = self._store.reads(case.id, account.id)
        return [read.label for read in reads if read.provenance.client == ADOPTED]


# Labels


def _label(file: LabelFile, protocol: Protocol, case: Case) -> Label:
    """The label in the protocol's values, by the names that the file itself, or its client, gave them."""
    from apps.annotation.label_values import in_protocol_values, label_info_of  # imports monailabel: slow

    named = label_info_of({"label_info": file.told("label_info")})
    numbered = file.told("label_names")  # what monailabel's inference says of a model's own label
    if file.path.name.lower().endswith(".seg.nrrd") or not (named or isinstance(numbered, dict)):
        return read_label([file.path], protocol, case.geometry)
    volume = read_volume(file.path)
    if named:
        mapped: Any = in_protocol_values(protocol, volume, named)
        return mapped if isinstance(mapped, Label) else Label.of(mapped)
    label = Label.of(volume)
    segments = [
        Segment(names=(name,), value=value, layer=0)
        for name, value in numbered.items()
        if isinstance(name, str) and isinstance(value, int)
    ]
    return Label(geometry=label.geometry, layers_LZYX=layers_in_protocol_values(label.layers_LZYX, segments, protocol))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"the file system refused: {error.strerror or type(error).__name__}; it was not taken"
    return str(error)
