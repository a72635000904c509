"""The label store: protocols, cases, reads and prelabels in; the same, unchanged, out. Nothing is overwritten.

Each write first puts its blob durably, then commits one row; a row therefore never points to a missing blob, and what
was acknowledged survives a crash (SQLite in WAL mode with synchronous=FULL).
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import IntegrityError

from labeling_protocols import schema
from labeling_protocols.blobs import Blobs
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label_codec import decode_label, encode_label
from labeling_protocols.protocol import Protocol, ProtocolError
from labeling_protocols.records import Case, Prelabel, Progress, Provenance, Read, SeatState
from labeling_protocols.volumes import read_volume_bytes, volume_bytes

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_S = 30


class LabelError(ValueError):
    """A label that cannot become a read: what was found, what was expected; nothing was stored."""


class UnknownError(LookupError):
    """A protocol, case or read that the store does not have."""


class SeatError(PermissionError):
    """A reader who has no seat on the case he wants to save a read of."""


class Store:
    """One site's database and blobs, shared by any number of processes."""

    def __init__(self, url: str, blobs: Blobs) -> None:
        """Open the store and bring its database up to date."""
        self.blobs = blobs
        self.engine = _engine(url)
        with self.engine.connect() as connection:
            config = Config()
            config.set_main_option("script_location", str(_MIGRATIONS))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One transaction that holds the write lock from its start: what it reads stays true until it commits."""
        with self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    # Protocols

    def add_protocol(self, protocol: Protocol) -> None:
        """Keep a protocol version; raises `ProtocolError` where the same version says something else already."""
        with self.writing() as connection:
            known = connection.execute(
                sa.select(schema.protocols.c.digest).where(
                    schema.protocols.c.name == protocol.name, schema.protocols.c.version == protocol.version
                )
            ).scalar()
            if known == protocol.digest:
                return
            if known is not None:
                raise ProtocolError(
                    f"protocol {protocol.name} version {protocol.version} is in use and says something else;"
                    " give the changed protocol a new version number. Nothing was changed."
                )
            connection.execute(
                sa.insert(schema.protocols).values(
                    name=protocol.name,
                    version=protocol.version,
                    digest=protocol.digest,
                    content=protocol.as_json(),
                    created=now(),
                )
            )

    def protocol(self, name: str, version: int | None = None) -> Protocol:
        """This version of a protocol, or its newest; raises `UnknownError`."""
        table = schema.protocols
        query = sa.select(table.c.content).where(table.c.name == name).order_by(table.c.version.desc()).limit(1)
        if version is not None:
            query = query.where(table.c.version == version)
        with self.engine.connect() as connection:
            content = connection.execute(query).scalar()
        if content is None:
            known = ", ".join(sorted({protocol.name for protocol in self.protocols()})) or "none"
            raise UnknownError(f"unknown protocol; this site has {known}")
        return Protocol.from_json(content)

    def protocols(self) -> list[Protocol]:
        """The newest version of each protocol, by name."""
        table = schema.protocols
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(table.c.name, table.c.content).order_by(table.c.name, table.c.version))
            newest = {name: content for name, content in rows}
        return [Protocol.from_json(content) for content in newest.values()]

    # Cases

    def add_case(
        self, *, protocol: str, patient: str, volume: Volume, modality: str, series: str | None = None
    ) -> tuple[Case, bool]:
        """Keep an image as a case of this protocol; (case, False) where the same image was there already.

        `patient` is the site's pseudonym, `series` a de-identified UID: neither is checked here.
        """
        self.protocol(protocol)
        image = self.blobs.put(volume_bytes(volume, ".nii.gz"))
        case_id = hashlib.sha256(f"{protocol}/{image}".encode()).hexdigest()[:16]
        row = {
            "id": case_id,
            "protocol": protocol,
            "patient": patient,
            "image": image,
            "geometry": volume.geometry.as_json(),
            "modality": modality,
            "series": series,
            "created": now(),
        }
        with self.writing() as connection:
            known = connection.execute(sa.select(schema.cases.c.id).where(schema.cases.c.id == case_id)).scalar()
            if known is None:
                connection.execute(sa.insert(schema.cases).values(row))
        return self.case(case_id), known is None

    def case(self, case_id: str) -> Case:
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(schema.cases).where(schema.cases.c.id == case_id)).first()
        if row is None:
            raise UnknownError("unknown case; nothing was read or written")
        return _case(row)

    def cases(self, protocol: str) -> list[Case]:
        query = sa.select(schema.cases).where(schema.cases.c.protocol == protocol).order_by(schema.cases.c.id)
        with self.engine.connect() as connection:
            return [_case(row) for row in connection.execute(query)]

    def image_path(self, case: Case) -> Path:
        """The blob with the case's image; its content is a .nii.gz file."""
        return self.blobs.path(case.image)

    def image(self, case: Case) -> Volume:
        return read_volume_bytes(self.blobs.get(case.image), ".nii.gz")

    def label(self, digest: str) -> Volume:
        """The label of this digest: uint8 values of the protocol on the image's grid."""
        return decode_label(self.blobs.get(digest))

    # Reads and prelabels

    def save_read(self, *, case_id: str, reader: str, label: Volume, provenance: Provenance = Provenance()) -> Read:
        """Keep a label as the reader's next revision; saving the same label again changes nothing and returns it.

        Raises `UnknownError`, `LabelError` or `SeatError`, having stored nothing.
        """
        case = self.case(case_id)
        protocol = self.protocol(case.protocol)
        checked = _checked_label(protocol, case, label)
        with self.engine.connect() as connection:
            _require_seat(connection, case_id, reader)
        digest = self.blobs.put(encode_label(checked))
        with self.writing() as connection:
            _require_seat(connection, case_id, reader)
            newest = connection.execute(_reads_of(case_id, reader).order_by(schema.reads.c.id.desc()).limit(1)).first()
            if newest is None or (newest.label, newest.protocol_version) != (digest, protocol.version):
                same_version = newest is not None and newest.protocol_version == protocol.version
                connection.execute(
                    sa.insert(schema.reads).values(
                        case=case_id,
                        reader=reader,
                        protocol_version=protocol.version,
                        revision=newest.revision + 1 if newest is not None and same_version else 1,
                        label=digest,
                        voxels=_voxels(protocol, checked),
                        client=provenance.client[:64],
                        prelabel_model=provenance.prelabel_model,
                        created=now(),
                    )
                )
                connection.execute(
                    sa.update(schema.seats)
                    .where(schema.seats.c.case == case_id, schema.seats.c.reader == reader)
                    .values(state=SeatState.READ)
                )
        return self.reads(case_id, reader)[-1]

    def reads(self, case_id: str, reader: str | None = None) -> list[Read]:
        """Every revision of every read of a case, or of one reader's, oldest first."""
        with self.engine.connect() as connection:
            return [_read(row) for row in connection.execute(_reads_of(case_id, reader).order_by(schema.reads.c.id))]

    def latest_reads(self, case_id: str) -> list[Read]:
        """The newest revision of each reader, by reader."""
        newest = {read.reader: read for read in self.reads(case_id)}
        return [newest[reader] for reader in sorted(newest)]

    def save_prelabel(self, case_id: str, model: str, label: Volume) -> Prelabel:
        """Keep what a model proposed for a case; the first proposal of a model version stands."""
        case = self.case(case_id)
        if difference := case.geometry.difference(label.geometry):
            raise LabelError(f"the prelabel does not lie on the image's grid: {difference}")
        digest = self.blobs.put(encode_label(label))
        row = {"case": case_id, "model": model, "label": digest, "created": now()}
        try:
            with self.writing() as connection:
                connection.execute(sa.insert(schema.prelabels).values(row))
        except IntegrityError:
            pass  # another request kept this model's proposal first
        return next(prelabel for prelabel in self._prelabels(case_id) if prelabel.model == model)

    def prelabel(self, case_id: str) -> Prelabel | None:
        """The newest proposal for a case."""
        return next(iter(self._prelabels(case_id)), None)

    def _prelabels(self, case_id: str) -> list[Prelabel]:
        table = schema.prelabels
        query = sa.select(table).where(table.c.case == case_id).order_by(table.c.created.desc())
        with self.engine.connect() as connection:
            return [
                Prelabel(case=row.case, model=row.model, label=row.label, created=row.created)
                for row in connection.execute(query)
            ]

    def progress(self, protocol: str) -> Progress:
        """Counts over a protocol's cases; `reads` counts a reader and case once, however many revisions."""
        cases, reads, verdicts, adjudications = (
            schema.cases,
            schema.reads,
            schema.verdicts,
            schema.adjudications,
        )
        mine = sa.select(cases.c.id).where(cases.c.protocol == protocol)
        with self.engine.connect() as connection:
            by_reader = connection.execute(
                sa.select(reads.c.reader, sa.func.count(reads.c.case.distinct()))
                .where(reads.c.case.in_(mine))
                .group_by(reads.c.reader)
            )
            counts = {reader: count for reader, count in by_reader}
            settled = set(
                connection.execute(sa.select(adjudications.c.case).where(adjudications.c.case.in_(mine))).scalars()
            )
            newest = (
                sa.select(verdicts.c.case, verdicts.c.agreed)
                .where(verdicts.c.case.in_(mine))
                .order_by(verdicts.c.created)
            )
            agreed = {case: value for case, value in connection.execute(newest)}
            total = connection.execute(sa.select(sa.func.count()).select_from(mine.subquery())).scalar_one()
        disputes = {case for case, value in agreed.items() if not value} - settled
        return Progress(
            cases=total,
            reads=sum(counts.values()),
            disputes=len(disputes),
            truths=len(settled | {case for case, value in agreed.items() if value}),
            by_reader=counts,
        )


def now() -> datetime:
    return datetime.now(UTC)


def _checked_label(protocol: Protocol, case: Case, label: Volume) -> Volume:
    """The label as uint8 on exactly the case's grid, or `LabelError`."""
    if difference := case.geometry.difference(label.geometry):
        raise LabelError(f"the label does not lie on the image's grid: {difference}. Nothing was saved.")
    found = {float(value) for value in np.unique(label.array_ZYX)}
    foreign = sorted(found - {0.0, *map(float, protocol.values.values())})
    if foreign:
        shown = ", ".join(f"{value:g}" for value in foreign[:8])
        allowed = ", ".join(f"{value} {name}" for name, value in protocol.values.items())
        raise LabelError(
            f"the label has values the protocol does not: {shown}; expected 0, {allowed}. Nothing was saved."
        )
    if found <= {0.0}:
        raise LabelError("the label is empty: no voxel belongs to any structure of the protocol. Nothing was saved.")
    return Volume(array_ZYX=label.array_ZYX.astype(np.uint8), geometry=case.geometry)


def _voxels(protocol: Protocol, label: Volume) -> dict[str, int]:
    counts = np.bincount(label.array_ZYX.ravel(), minlength=256)
    return {name: int(counts[value]) for name, value in protocol.values.items()}


def _require_seat(connection: sa.Connection, case_id: str, reader: str) -> None:
    seat = sa.select(schema.seats.c.place).where(schema.seats.c.case == case_id, schema.seats.c.reader == reader)
    if connection.execute(seat).first() is None:
        raise SeatError("you have no seat on this case; ask for your next case first. Nothing was saved.")


def _reads_of(case_id: str, reader: str | None) -> sa.Select[Any]:
    query = sa.select(schema.reads).where(schema.reads.c.case == case_id)
    return query if reader is None else query.where(schema.reads.c.reader == reader)


def _case(row: Any) -> Case:
    return Case(**{**row._mapping, "geometry": Geometry.from_json(row.geometry)})


def _read(row: Any) -> Read:
    return Read(
        id=row.id,
        case=row.case,
        reader=row.reader,
        protocol_version=row.protocol_version,
        revision=row.revision,
        label=row.label,
        voxels=row.voxels,
        provenance=Provenance(client=row.client, prelabel_model=row.prelabel_model),
        created=row.created,
    )


def _engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S} if url.startswith("sqlite") else {})
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin in `_begin_sqlite`, not where pysqlite guesses
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
