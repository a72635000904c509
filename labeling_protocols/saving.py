"""One save of a read, step by step within its transaction: seat, revision, counts and audit entry move together."""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from labeling_protocols import audit, schema, seats, tallies
from labeling_protocols.audit import Action
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Case, Outcome, Provenance, Read, Returned, SeatState
from labeling_protocols.rows import (
    CASE_LOCKED,
    NEWEST_OF_READER,
    NEWEST_PRELABEL,
    READ_COLUMNS,
    SHOWN_PRELABEL,
    by_structure,
)

_CLIENT_MAX = 64


class SeatError(PermissionError):
    """A reader who has no seat on the case he wants to save a read of."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of readers now: a protocol's newest version, and the oldest one whose reads still answer it."""

    protocol: Protocol
    since_version: int


@dataclass(frozen=True, kw_only=True)
class Saving:
    """One reader's save, or withdrawal, of one case."""

    case: Case
    asked: Asked
    reader: str
    created: datetime
    adopted_by: str | None = None

    @property
    def lease(self) -> timedelta:
        return timedelta(minutes=self.asked.protocol.seat_lease_minutes)

    def require_seat(self, connection: sa.Connection) -> None:
        """Raise `SeatError` for a reader who has no seat, never had one, or gave it up."""
        if self.adopted_by is not None:
            return
        seat = seats.held(connection, self.case.id, self.asked.since_version, self.reader)
        if seat is None and not self._had_seat(connection):
            raise SeatError("you have no seat on this case; ask for your next case first. Nothing was saved.")

    def seat(self, connection: sa.Connection) -> Any:
        """The reader's seat row, locked. Whose seat lapsed while he worked gets another: work is never turned away."""
        seat = seats.held(connection, self.case.id, self.asked.since_version, self.reader, lock=True)
        if seat is not None:
            return seat
        seats.lock_worklist(connection, self.case.protocol)
        self.require_seat(connection)
        table = schema.seats
        free = sa.select(table).where(
            table.c.case == self.case.id,
            table.c.since_version == self.asked.since_version,
            table.c.state == SeatState.FREE,
            table.c.group.in_(("", *seats.groups_of(connection, self.reader))),
        )
        seat = connection.execute(free.order_by(table.c.place).limit(1)).first()
        if seat is not None:
            seats.claim(connection, seat, self.reader, self.created, self.lease)
        else:
            row = connection.execute(sa.select(schema.cases).where(schema.cases.c.id == self.case.id)).one()
            seats.add_place(connection, row, self.asked.since_version, self.reader, self.created, self.lease)
        return seats.held(connection, self.case.id, self.asked.since_version, self.reader, lock=True)

    def newest(self, connection: sa.Connection) -> Any:
        return connection.execute(NEWEST_OF_READER, {"of_case": self.case.id, "of_reader": self.reader}).first()

    def keep(
        self,
        connection: sa.Connection,
        seat: Any,
        newest: Any,
        digest: str,
        voxels: dict[int, int],
        provenance: Provenance,
    ) -> Read:
        """Insert the next revision and move seat, counts and chain with it."""
        protocol = self.asked.protocol
        counts = by_structure(protocol, voxels)
        same_version = newest is not None and newest.protocol_version == protocol.version
        read = Read(
            id=0,
            case=self.case.id,
            reader=self.reader,
            protocol_version=protocol.version,
            revision=newest.revision + 1 if same_version else 1,
            label=digest,
            voxels=counts,
            volumes_ml={name: count * self.case.geometry.voxel_ml for name, count in counts.items()},
            provenance=self._provenance(connection, seat, newest, provenance),
            created=self.created.astimezone(UTC),
        )
        stored = {name: getattr(read, name) for name in READ_COLUMNS} | asdict(read.provenance)
        inserted = connection.execute(sa.insert(schema.reads).values(stored)).inserted_primary_key
        first = seat.state != SeatState.READ
        if first:
            self.give_seat(connection, SeatState.READ)
        self.count(connection, 1 if first else 0)
        audit.append(
            connection,
            actor=self.adopted_by or self.reader,
            action=Action.READ_SAVED if self.adopted_by is None else Action.READ_ADOPTED,
            subject=self.case.id,
            reader=self.reader,
            protocol_version=protocol.version,
            revision=read.revision,
            label=digest,
        )
        return replace(read, id=inserted[0] if inserted else 0)

    def give_seat(self, connection: sa.Connection, state: SeatState, **values: Any) -> None:
        table = schema.seats
        mine = sa.and_(
            table.c.case == self.case.id,
            table.c.since_version == self.asked.since_version,
            table.c.reader == self.reader,
        )
        connection.execute(sa.update(table).where(mine).values(state=state, **values))

    def count(self, connection: sa.Connection, reads: int) -> None:
        """Count so many more reads of the case; what its reads say together is unknown until they are judged."""
        table = schema.cases
        # Not FOR UPDATE, which waits for whoever has just added a read: two of them would wait for each other.
        case = connection.execute(CASE_LOCKED, {"of_case": self.case.id}).one()
        if reads:
            connection.execute(sa.update(table).where(table.c.id == case.id).values(reads=case.reads + reads))
            tallies.add(connection, case.protocol, tallies.READS, reads, self.reader)
        if case.known_truth is None and case.outcome != Outcome.SETTLED:
            full = case.reads + reads >= self.asked.protocol.readers_per_case
            tallies.move_outcome(connection, case, Outcome.UNJUDGED if full else Outcome.OPEN)

    def _had_seat(self, connection: sa.Connection) -> bool:
        """Whether the reader worked on this case and lost his seat to time, or to a new version, not to a person."""
        table = schema.seats
        older = sa.select(table.c.place).where(table.c.case == self.case.id, table.c.reader == self.reader)
        if connection.execute(older.limit(1)).first() is not None:
            return True
        return seats.last_return(connection, self.case.id, self.reader) in (Returned.LAPSED, Returned.SKIPPED)

    def _provenance(self, connection: sa.Connection, seat: Any, newest: Any, told: Provenance) -> Provenance:
        """What is known of how this revision was made; of one made elsewhere, what is told."""
        told = replace(told, client=told.client[:_CLIENT_MAX])
        if self.adopted_by is not None:
            return told
        seconds = told.seconds
        if seconds is None:
            begun = [at for at in (seat.opened, newest.created if newest is not None else None) if at is not None]
            seconds = max(0.0, (self.created - max(begun)).total_seconds()) if begun else None
        named = {"of_case": self.case.id, "of_reader": self.reader}
        shown = connection.execute(SHOWN_PRELABEL, named).scalar()
        model = shown or connection.execute(NEWEST_PRELABEL, {"of_case": self.case.id}).scalar()
        return replace(told, seconds=seconds, prelabel_model=model, prelabel_shown=shown is not None)
