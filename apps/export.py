"""A protocol's truths or reads in; a folder of label files, of images where asked, and a manifest of them out.

Files are named by ids of ours. The folder appears whole or not at all, together with the audit entry that it was made.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import sqlalchemy as sa

from apps.export_folder import MANIFEST, ExportError, unfinished_folder
from apps.settings import Site
from labeling_protocols import audit, schema
from labeling_protocols.audit import Action
from labeling_protocols.blobs import write_durably
from labeling_protocols.label import Answer, Label
from labeling_protocols.label_files import LabelFormat, write_label, write_markups
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Case, Read, Settled, Truth
from labeling_protocols.settlement import adjudication_of, truths
from labeling_protocols.store import Store

Progress = Callable[[int, int], None]


class Form(StrEnum):
    """What labels are written as."""

    NIFTI = "nifti"
    SEG_NRRD = "seg.nrrd"
    DICOM_SEG = "dicom-seg"


class What(StrEnum):
    """Whose labels are written."""

    TRUTHS = "truths"
    READS = "reads"


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A label that could not be written in this form."""

    case: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """How much was written, and what was not."""

    labels: int
    images: int
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, kw_only=True)
class _Item:
    """One label and where it comes from; `settled` is None for a read, `reader` and `revision` for a truth.

    `people` are those who drew or decided it; there are none of a consensus.
    """

    case: Case
    digest: str
    protocol_version: int
    reads: tuple[Read, ...]
    people: tuple[str, ...] = ()
    reader: str | None = None
    revision: int | None = None
    settled: Settled | None = None

    @property
    def stem(self) -> str:
        return self.case.id if self.reader is None else f"{self.case.id}_{self.reader}_r{self.revision}"

    @property
    def prelabels_shown(self) -> tuple[str, ...]:
        """The model versions whose prelabels the readers had been given."""
        made = (read.provenance for read in self.reads)
        return tuple(sorted({by.prelabel_model for by in made if by.prelabel_shown and by.prelabel_model}))


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One label in the manifest; `files` go by name, with the SHA-256 of each."""

    case: str
    patient: str
    reader: str | None
    revision: int | None
    protocol_version: int
    settled: str | None
    decided_by: str | None
    reads: tuple[int, ...]
    prelabels_shown: tuple[str, ...]
    label: str
    image: str
    answers: dict[str, Answer] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def export(
    store: Store,
    site: Site,
    *,
    protocol: str,
    folder: Path,
    form: Form,
    what: What,
    reader: str | None = None,
    images: bool = False,
    actor: str,
    progress: Progress = lambda done, total: None,
) -> ExportReport:
    """Write the labels of a protocol's cases; `reader`, an account's id, keeps to that reader's reads.

    Raises `ExportError` where the folder holds something already, or there is nothing to write.
    """
    asked = store.protocol(protocol)
    items = list(_items(store, protocol, what, reader))
    if not items:
        raise ExportError(f"protocol {protocol} has no {what} to export. Nothing was written.")
    with unfinished_folder(folder) as unfinished:
        writer = _Writer(store=store, site=site, protocol=asked, folder=unfinished, form=form, images=images)
        for done, item in enumerate(items, start=1):
            writer.write(item)
            progress(done, len(items))
        report = writer.finish(what)
        with store.writing() as connection:
            audit.append(
                connection,
                actor=actor,
                action=Action.LABELS_EXPORTED,
                subject=protocol,
                form=form.value,
                what=what.value,
                reader=reader,
                labels=report.labels,
                images=report.images,
                skipped=len(report.skipped),
            )
            unfinished.replace(folder)
    return report


class _Writer:
    """The files of one export, and what its manifest says of them."""

    def __init__(self, *, store: Store, site: Site, protocol: Protocol, folder: Path, form: Form, images: bool) -> None:
        self._store, self._site, self._protocol = store, site, protocol
        self._folder, self._form, self._images = folder, form, images
        self._entries: list[_Entry] = []
        self._skipped: list[Skipped] = []
        self._image_files: dict[str, dict[str, str]] = {}
        (folder / "labels").mkdir()

    def write(self, item: _Item) -> None:
        label = self._store.label(item.digest)
        try:
            files = self._label_files(item, label)
        except ValueError as error:
            self._skipped.append(Skipped(case=item.case.id, reason=str(error)))
            return
        if self._images and item.case.id not in self._image_files:
            self._image_files[item.case.id] = self._hashed(self._write_images(item.case))
        self._entries.append(
            _Entry(
                case=item.case.id,
                patient=item.case.patient,
                reader=item.reader,
                revision=item.revision,
                protocol_version=item.protocol_version,
                settled=item.settled,
                decided_by=item.people[-1] if item.settled is Settled.ADJUDICATION else None,
                reads=tuple(read.id for read in item.reads),
                prelabels_shown=item.prelabels_shown,
                label=item.digest,
                image=item.case.image,
                answers=dict(label.answers),
                files=self._hashed(files),
            )
        )

    def finish(self, what: What) -> ExportReport:
        """Write the manifest."""
        manifest = {
            "protocol": {
                "name": self._protocol.name,
                "version": self._protocol.version,
                "digest": self._protocol.digest,
                "structures": self._protocol.values,
            },
            "what": what,
            "format": self._form,
            "made": datetime.now(UTC).isoformat(),
            "labels": [asdict(entry) for entry in self._entries],
            "images": self._image_files,
            "skipped": [asdict(skipped) for skipped in self._skipped],
        }
        write_durably(self._folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
        return ExportReport(labels=len(self._entries), images=len(self._image_files), skipped=tuple(self._skipped))

    def _label_files(self, item: _Item, label: Label) -> tuple[Path, ...]:
        folder = self._folder / "labels"
        if self._form is not Form.DICOM_SEG:
            form = LabelFormat.NIFTI if self._form is Form.NIFTI else LabelFormat.SEG_NRRD
            return write_label(label, self._protocol, folder, item.stem, form)
        from apps.export_dicom import Made, write_objects  # imports highdicom: slow

        model = item.prelabels_shown[-1] if item.prelabels_shown else None
        made = Made(digest=item.digest, people=item.people, readers=len(item.reads), prelabel_model=model)
        written = write_objects(self._site, self._protocol, item.case, label, folder, item.stem, made)
        return (*written, *write_markups(label, folder, item.stem))

    def _write_images(self, case: Case) -> tuple[Path, ...]:
        """The case's image, or its de-identified slices beside DICOM segmentations."""
        images = self._folder / "images"
        images.mkdir(exist_ok=True)
        if self._form is not Form.DICOM_SEG:
            further = {f"{case.id}_{name}": of for name, of in zip(case.channels, case.channel_images, strict=True)}
            paths = []
            for name, digest in {case.id: case.image, **further}.items():
                paths.append(images / f"{name}.nii.gz")
                write_durably(paths[-1], self._store.blobs.get(digest))
            return tuple(paths)
        from apps.export_dicom import slices

        folder = images / case.id
        folder.mkdir()
        copies = []
        for series in (case.series, *case.channel_series):
            for slice_ in slices(self._site, replace(case, series=series)):
                copies.append(folder / slice_.name)
                write_durably(copies[-1], slice_.read_bytes())
        return tuple(copies)

    def _hashed(self, files: tuple[Path, ...]) -> dict[str, str]:
        return {
            path.relative_to(self._folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
        }


def _items(store: Store, protocol: str, what: What, reader: str | None) -> Iterator[_Item]:
    if what is What.TRUTHS:
        if reader is not None:
            raise ExportError("a truth is no single reader's; ask for reads with a reader. Nothing was written.")
        yield from (_truth_item(store, truth) for truth in truths(store, protocol))
        return
    for case in store.cases(protocol):
        for read in store.latest_reads(case.id):
            if reader in (None, read.reader):
                yield _Item(
                    case=case,
                    digest=read.label,
                    protocol_version=read.protocol_version,
                    reads=(read,),
                    people=(read.reader,),
                    reader=read.reader,
                    revision=read.revision,
                )


def _truth_item(store: Store, truth: Truth) -> _Item:
    return _Item(
        case=truth.case,
        digest=truth.label,
        protocol_version=truth.protocol_version,
        reads=tuple(read for read in store.reads(truth.case.id) if read.id in truth.reads),
        people=_deciders(store, truth) if truth.settled is Settled.ADJUDICATION else (),
        settled=truth.settled,
    )


def _deciders(store: Store, truth: Truth) -> tuple[str, ...]:
    """The adjudicators who decided so in the round that counts, the one who settled it last."""
    decision = adjudication_of(store, truth.case.id)
    if decision is None:
        return ()
    table = schema.adjudications
    alike = sa.select(table.c.adjudicator).where(
        table.c.case == truth.case.id, table.c.round == decision.round, table.c.label == decision.label
    )
    with store.engine.connect() as connection:
        others = connection.execute(alike.where(table.c.id < decision.id).order_by(table.c.id)).scalars()
        return (*others, decision.adjudicator)
