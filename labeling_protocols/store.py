"""The label store: protocols, cases, reads and prelabels in; the same, unchanged, out. Nothing is overwritten.

Each write first puts its blob durably, then commits its rows and its audit entry together; a row therefore never points
to a missing blob, and what was acknowledged survives a crash. SQLite and PostgreSQL alike (`engine.py`).
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from labeling_protocols import audit, dispute_states, schema, seats, tallies
from labeling_protocols.audit import Action
from labeling_protocols.blobs import Blobs
from labeling_protocols.channels import Channel, ChannelsError, require_channels, require_one_grid
from labeling_protocols.engine import make_engine, upgrade
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label, LabelError
from labeling_protocols.label_codec import decode_label, encode_label
from labeling_protocols.label_rules import check_label
from labeling_protocols.protocol import Protocol, ProtocolError
from labeling_protocols.protocol_diff import diff
from labeling_protocols.records import Case, Outcome, Prelabel, Progress, Provenance, Read, SeatState
from labeling_protocols.rows import (
    CASE,
    NEWEST_PROTOCOL,
    READS_OF_CASE,
    READS_OF_READER,
    by_structure,
    case_of,
    read_of,
)
from labeling_protocols.saving import Asked, Saving, SeatError
from labeling_protocols.strata import Strata
from labeling_protocols.volumes import read_volume_bytes, volume_bytes

__all__ = ["Asked", "ChannelsError", "LabelError", "SeatError", "Store", "UnknownError", "WithdrawalError", "now"]

_SERVER = "server"


class UnknownError(LookupError):
    """A protocol, case or read that the store does not have."""


class WithdrawalError(ValueError):
    """A read that cannot be withdrawn: what was found, what was expected; nothing was changed."""


class Store:
    """One site's database and blobs, shared by any number of processes."""

    def __init__(self, url: str, blobs: Blobs) -> None:
        """Open the store and bring its database up to date."""
        self.blobs = blobs
        self.engine = make_engine(url)
        self._parsed: dict[str, Protocol] = {}
        upgrade(self.engine)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One transaction for a write. On SQLite it holds the write lock from its start."""
        with self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    def _reading(self, connection: sa.Connection | None) -> AbstractContextManager[sa.Connection]:
        """A transaction to read in: this one, or one of its own."""
        return self.engine.connect() if connection is None else nullcontext(connection)

    # Protocols

    def add_protocol(self, protocol: Protocol, *, actor: str = _SERVER) -> None:
        """Keep a protocol version, and seats, outcomes and tallies as it asks; the same content again does nothing.

        Raises `ProtocolError` where this version says something else already, or a newer one is in use.
        """
        table = schema.protocols
        versions = sa.select(table).where(table.c.name == protocol.name).order_by(table.c.version)
        with self.writing() as connection:
            seats.lock_worklist(connection, protocol.name)
            known = connection.execute(versions).all()
            same = next((row for row in known if row.version == protocol.version), None)
            if same is not None and same.digest == protocol.digest:
                return
            _refuse_version(protocol, same, known)
            newest = known[-1] if known else None
            since_version = protocol.version
            if newest is not None and diff(self._parse(newest), protocol).reads_count_on:
                since_version = newest.since_version
            connection.execute(
                sa.insert(table).values(
                    name=protocol.name,
                    version=protocol.version,
                    since_version=since_version,
                    digest=protocol.digest,
                    content=protocol.as_json(),
                    created=now(),
                )
            )
            if newest is not None:
                _follow_version(connection, protocol, since_version, begins_anew=since_version == protocol.version)
            audit.append(
                connection,
                actor=actor,
                action=Action.PROTOCOL_ADDED,
                subject=f"{protocol.name} {protocol.version}",
                digest=protocol.digest,
                since_version=since_version,
            )

    def asked(self, name: str, connection: sa.Connection | None = None) -> Asked:
        """What the newest version of a protocol asks; raises `UnknownError`."""
        row = self._protocol_row(name, None, connection)
        return Asked(protocol=self._parse(row), since_version=row.since_version)

    def protocol(self, name: str, version: int | None = None) -> Protocol:
        """This version of a protocol, or its newest; raises `UnknownError`."""
        return self._parse(self._protocol_row(name, version))

    def protocols(self) -> list[Protocol]:
        """The newest version of each protocol, by name."""
        table = schema.protocols
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(table).order_by(table.c.name, table.c.version)).all()
        return [self._parse(row) for row in {row.name: row for row in rows}.values()]

    def _protocol_row(self, name: str, version: int | None, connection: sa.Connection | None = None) -> Any:
        query = NEWEST_PROTOCOL if version is None else NEWEST_PROTOCOL.where(schema.protocols.c.version == version)
        with self._reading(connection) as reading:
            row = reading.execute(query, {"of_protocol": name}).first()
        if row is None:
            known = ", ".join(sorted({protocol.name for protocol in self.protocols()})) or "none"
            raise UnknownError(f"unknown protocol; this site has {known}")
        return row

    def _parse(self, row: Any) -> Protocol:
        """A version never changes, so each is parsed once."""
        if row.digest not in self._parsed:
            self._parsed[row.digest] = Protocol.from_json(row.content)
        return self._parsed[row.digest]

    # Cases

    def add_case(
        self,
        *,
        protocol: str,
        patient: str,
        volume: Volume,
        modality: str,
        series: str | None = None,
        strata: Strata = Strata(),
        channels: Sequence[Channel] = (),
        actor: str = _SERVER,
    ) -> tuple[Case, bool]:
        """Keep an image as a case of this protocol; (case, False) where the same image was there already.

        `patient` is the site's pseudonym, `series` a de-identified UID: neither is checked here. `channels` are its
        further images, on the same grid: those that the protocol asks for. Of a case that was there, `strata` and
        `channels` fill in what was not known; what was known stays. Raises `ChannelsError`, having kept nothing.
        """
        asked = self.asked(protocol)
        further = asked.protocol.channels[1:]
        require_channels(further, [channel.name for channel in channels])
        require_one_grid(volume.geometry, channels)
        image = self.blobs.put(volume_bytes(volume, ".nii.gz"))
        kept = self._keep_channels(sorted(channels, key=lambda channel: further.index(channel.name)))
        case_id = hashlib.sha256(f"{protocol}/{image}".encode()).hexdigest()[:16]
        table = schema.cases
        row = {
            "id": case_id,
            "protocol": protocol,
            "patient": patient,
            "image": image,
            "geometry": volume.geometry.as_json(),
            "modality": modality,
            "series": series,
            "created": now(),
            "strata": strata.as_json() if strata.known else None,
            "channels": kept or None,
        }
        with self.writing() as connection:
            seats.lock_worklist(connection, protocol)
            known = connection.execute(sa.select(table).where(table.c.id == case_id)).first()
            if known is not None:
                _learn_channels(connection, known, kept, actor)
                _learn_strata(connection, case_of(known), strata, actor)
            else:
                connection.execute(sa.insert(table).values(row))
                added = connection.execute(sa.select(table).where(table.c.id == case_id)).one()
                seats.make_seats(connection, asked.protocol, asked.since_version, [added])
                seats.step_back(connection, protocol, added.rank, case_id)
                tallies.add(connection, protocol, tallies.CASES, 1)
                told = {"channels": kept} if kept else {}
                audit.append(connection, actor=actor, action=Action.CASE_ADDED, subject=case_id, image=image, **told)
        return self.case(case_id), known is None

    def set_calibration(self, case_id: str, known_truth: Label, *, actor: str = _SERVER) -> Case:
        """Make a case that nobody has a seat on a calibration case, its truth known beforehand.

        Raises `LabelError` where the truth does not fit the protocol or somebody reads the case already.
        """
        case = self.case(case_id)
        asked = self.asked(case.protocol)
        encoded = encode_label(known_truth)
        check_label(asked.protocol, case, known_truth, encoded.voxels)
        digest = self.blobs.put(encoded.content)
        places = schema.seats
        with self.writing() as connection:
            seats.lock_worklist(connection, case.protocol)
            of_case = sa.select(places.c.place).where(places.c.case == case_id, places.c.reader.isnot(None))
            if case.known_truth is not None or connection.execute(of_case.limit(1)).first() is not None:
                raise LabelError("this case is read already, or a calibration case. Nothing was changed.")
            connection.execute(sa.delete(places).where(places.c.case == case_id))
            connection.execute(sa.update(schema.cases).where(schema.cases.c.id == case_id).values(known_truth=digest))
            tallies.add(connection, case.protocol, tallies.CASES, -1)
            tallies.add(connection, case.protocol, tallies.CALIBRATION, 1)
            audit.append(connection, actor=actor, action=Action.CALIBRATION_SET, subject=case_id, known_truth=digest)
        return self.case(case_id)

    def case(self, case_id: str, connection: sa.Connection | None = None) -> Case:
        with self._reading(connection) as reading:
            row = reading.execute(CASE, {"of_case": case_id}).first()
        if row is None:
            raise UnknownError("unknown case; nothing was read or written")
        return case_of(row)

    def cases(self, protocol: str, outcomes: Iterable[Outcome] | None = None) -> list[Case]:
        """The cases of a protocol, by id; `outcomes` keeps to ordinary cases that are so far."""
        table = schema.cases
        query = sa.select(table).where(table.c.protocol == protocol)
        if outcomes is not None:
            query = query.where(table.c.outcome.in_(list(outcomes)))
        with self.engine.connect() as connection:
            rows = connection.execute(query).all()
        return sorted((case_of(row) for row in rows), key=lambda case: case.id)

    def image_path(self, case: Case, channel: str = "") -> Path:
        """A file with the case's image (.nii.gz, whatever its name), or with a further channel's; `UnknownError`."""
        return self.blobs.path(self._image_of(case, channel))

    def image(self, case: Case) -> Volume:
        """The first channel, or the only image."""
        return read_volume_bytes(self.blobs.get(case.image), ".nii.gz")

    def channels(self, case: Case) -> tuple[Volume, ...]:
        """All channels in the protocol's order, the first first, on one grid."""
        first, *further = (read_volume_bytes(self.blobs.get(digest), ".nii.gz") for digest in case.images)
        # NIfTI rounds directions as it keeps them: one grid is said of all.
        return (first, *(Volume(array_ZYX=one.array_ZYX, geometry=first.geometry) for one in further))

    def _image_of(self, case: Case, channel: str) -> str:
        first = self.protocol(case.protocol).channels[:1]
        named = {"": case.image, **dict.fromkeys(first, case.image)}
        named |= dict(zip(case.channels, case.channel_images, strict=True))
        if channel not in named:
            known = ", ".join((*first, *case.channels)) or "one image, without a name"
            raise UnknownError(f"this case has no such channel; it has {known}")
        return named[channel]

    def _keep_channels(self, channels: Sequence[Channel]) -> list[dict[str, Any]]:
        return [
            {
                "name": channel.name,
                "image": self.blobs.put(volume_bytes(channel.volume, ".nii.gz")),
                "series": channel.series,
                "resampled": channel.resampled,
            }
            for channel in channels
        ]

    def label(self, digest: str) -> Label:
        """The label of this digest, on the image's grid."""
        return decode_label(self.blobs.get(digest))

    # Reads

    def save_read(
        self,
        *,
        case_id: str,
        reader: str,
        label: Label,
        provenance: Provenance = Provenance(),
        created: datetime | None = None,
        adopted_by: str | None = None,
    ) -> Read:
        """Keep a label as the reader's next revision; saving the same label again changes nothing and returns it.

        Seconds are counted from when the reader was given the case, or saved last, where his client does not tell them;
        what prelabel there was, and whether he was shown it, is known here. A label made elsewhere and `adopted_by`
        somebody needs no seat, and its provenance is what is told. Raises `UnknownError`, `LabelError` or `SeatError`,
        having stored nothing.
        """
        with self.engine.connect() as connection:
            case = self.case(case_id, connection)
            asked = self.asked(case.protocol, connection)
            saving = Saving(case=case, asked=asked, reader=reader, created=created or now(), adopted_by=adopted_by)
            saving.require_seat(connection)
        encoded = encode_label(label)
        check_label(asked.protocol, case, label, encoded.voxels)
        digest = self.blobs.put(encoded.content)
        with self.writing() as connection:
            seat = saving.seat(connection)
            newest = saving.newest(connection)
            if newest is not None and not newest.withdrawn and _same(newest, digest, asked.protocol.version):
                return read_of(newest)
            kept = saving.keep(connection, seat, newest, digest, encoded.voxels, provenance)
        return kept

    def withdraw(self, *, case_id: str, reader: str, actor: str, reason: str) -> Read:
        """Take back a reader's read of a case, all its revisions; the seat is his again to read anew.

        The rows stay. Raises `WithdrawalError` where there is nothing to withdraw or no reason is given.
        """
        if not reason.strip():
            raise WithdrawalError("a withdrawal needs a reason; an empty one was found. Nothing was changed.")
        case = self.case(case_id)
        asked = self.asked(case.protocol)
        at = now()
        saving = Saving(case=case, asked=asked, reader=reader, created=at)
        with self.writing() as connection:
            seats.lock_worklist(connection, case.protocol)
            seat = seats.held(connection, case_id, asked.since_version, reader, lock=True)
            newest = saving.newest(connection)
            if seat is None or seat.state != SeatState.READ or newest is None:
                raise WithdrawalError("this reader has no read of this case that counts. Nothing was changed.")
            connection.execute(
                sa.insert(schema.withdrawals).values(read=newest.id, actor=actor, reason=reason.strip(), created=at)
            )
            saving.give_seat(connection, SeatState.CLAIMED, opened=at, lease_until=at + saving.lease)
            seats.reopen(connection, case_id)
            saving.count(connection, -1)
            dispute_states.after_withdrawal(
                connection, case_id, asked.protocol, reader, actor=actor, at=at, reason=reason.strip()
            )
            audit.append(
                connection,
                actor=actor,
                action=Action.READ_WITHDRAWN,
                subject=case_id,
                reader=reader,
                revision=newest.revision,
                reason=reason.strip(),
            )
        return replace(read_of(newest), withdrawn=True)

    def reads(self, case_id: str, reader: str | None = None) -> list[Read]:
        """Every revision of every read of a case, or of one reader's, oldest first; withdrawn ones say so."""
        with self.engine.connect() as connection:
            if reader is None:
                rows = connection.execute(READS_OF_CASE, {"of_case": case_id}).all()
            else:
                rows = connection.execute(READS_OF_READER, {"of_case": case_id, "of_reader": reader}).all()
        return [read_of(row) for row in rows]

    def latest_reads(self, case_id: str, connection: sa.Connection | None = None) -> list[Read]:
        """The reads that count: the newest revision of each reader that answers what is asked now, by reader."""
        with self._reading(connection) as reading:
            since_version = self.asked(self.case(case_id, reading).protocol, reading).since_version
            rows = reading.execute(READS_OF_CASE, {"of_case": case_id}).all()
        counting = (row for row in rows if row.protocol_version >= since_version and not row.withdrawn)
        newest = {row.reader: read_of(row) for row in counting}
        return [newest[reader] for reader in sorted(newest)]

    # Prelabels

    def save_prelabel(self, case_id: str, model: str, label: Label) -> Prelabel:
        """Keep what a model proposed for a case; the first proposal of a model version stands."""
        case = self.case(case_id)
        if difference := case.geometry.difference(label.geometry):
            raise LabelError(f"the prelabel does not lie on the image's grid: {difference}")
        encoded = encode_label(label)
        voxels = by_structure(self.protocol(case.protocol), encoded.voxels)
        digest = self.blobs.put(encoded.content)
        row = {"case": case_id, "model": model, "label": digest, "voxels": voxels, "created": now()}
        try:
            with self.writing() as connection:
                connection.execute(sa.insert(schema.prelabels).values(row))
                audit.append(
                    connection, actor=_SERVER, action=Action.PRELABEL_KEPT, subject=case_id, model=model, label=digest
                )
        except IntegrityError:
            pass  # another request kept this model's proposal first
        return next(prelabel for prelabel in self._prelabels(case_id) if prelabel.model == model)

    def prelabel(self, case_id: str, model: str | None = None) -> Prelabel | None:
        """The newest proposal for a case, or this model's."""
        return next((one for one in self._prelabels(case_id) if model in (None, one.model)), None)

    def prelabel_shown(self, case_id: str, reader: str, model: str) -> None:
        """Remember that a reader is given this model's proposal for a case: reads saved later say so."""
        table = schema.shown_prelabels
        key = {"case": case_id, "reader": reader, "model": model}
        known = sa.select(table.c.created).where(*(table.c[name] == value for name, value in key.items()))
        with self.engine.connect() as connection:
            if connection.execute(known).first() is not None:
                return
        try:
            with self.writing() as connection:
                connection.execute(sa.insert(table).values(**key, created=now()))
                audit.append(connection, actor=reader, action=Action.PRELABEL_SHOWN, subject=case_id, model=model)
        except IntegrityError:
            pass  # another request of the same reader was first

    def _prelabels(self, case_id: str) -> list[Prelabel]:
        table = schema.prelabels
        query = sa.select(table).where(table.c.case == case_id).order_by(table.c.created.desc())
        with self.engine.connect() as connection:
            return [Prelabel(**row._mapping) for row in connection.execute(query)]

    def progress(self, protocol: str) -> Progress:
        """Counts over a protocol's cases; `reads` counts a reader and case once, however many revisions."""
        with self.engine.connect() as connection:
            return tallies.progress(connection, protocol)


def now() -> datetime:
    return datetime.now(UTC)


def _learn_strata(connection: sa.Connection, case: Case, strata: Strata, actor: str) -> None:
    """Fill in what was not known of a case, so that bringing old images in again tells what evaluation asks."""
    filled = case.strata.filled_from(strata)
    if filled != case.strata:
        connection.execute(sa.update(schema.cases).where(schema.cases.c.id == case.id).values(strata=filled.as_json()))
        audit.append(connection, actor=actor, action=Action.STRATA_LEARNED, subject=case.id, **filled.as_json())


def _learn_channels(connection: sa.Connection, known: Any, kept: list[dict[str, Any]], actor: str) -> None:
    """Give a case of one image the channels that its protocol asks for since; other ones than it has are refused."""
    before = {channel["name"]: channel["image"] for channel in known.channels or ()}
    if not kept or before == {channel["name"]: channel["image"] for channel in kept}:
        return
    if changed := [one["name"] for one in kept if before.get(one["name"], one["image"]) != one["image"]]:
        raise ChannelsError(
            f"its first channel is a case already, with another image as {', '.join(changed)}. Nothing was changed."
        )
    table = schema.cases
    connection.execute(sa.update(table).where(table.c.id == known.id).values(channels=kept))
    audit.append(connection, actor=actor, action=Action.CHANNELS_ADDED, subject=known.id, channels=kept)


def _refuse_version(protocol: Protocol, same: Any, known: Any) -> None:
    if same is not None:
        raise ProtocolError(
            f"protocol {protocol.name} version {protocol.version} is in use and says something else;"
            " give the changed protocol a new version number. Nothing was changed."
        )
    if known and known[-1].version > protocol.version:
        raise ProtocolError(
            f"protocol {protocol.name} is at version {known[-1].version}; version {protocol.version} would come"
            " after it with a lower number. Nothing was changed."
        )


def _follow_version(connection: sa.Connection, protocol: Protocol, since_version: int, *, begins_anew: bool) -> None:
    """Seats, outcomes and tallies as a new version of a protocol asks; all that was judged is judged again."""
    table = schema.cases
    of_protocol = table.c.protocol == protocol.name
    if begins_anew:
        connection.execute(sa.update(table).where(of_protocol).values(reads=0, outcome=Outcome.OPEN, severity=0.0))
    full = sa.case((table.c.reads >= protocol.readers_per_case, Outcome.UNJUDGED), else_=Outcome.OPEN)
    judged_again = sa.and_(of_protocol, table.c.known_truth.is_(None), table.c.outcome != Outcome.SETTLED)
    connection.execute(sa.update(table).where(judged_again).values(outcome=full, severity=0.0))
    seats.rebuild(connection, protocol, since_version)
    tallies.recount(connection, protocol.name, since_version)
    dispute_states.follow_version(connection, protocol.name, actor=_SERVER, at=now())


def _same(read: Any, label: str, protocol_version: int) -> bool:
    return (read.label, read.protocol_version) == (label, protocol_version)
