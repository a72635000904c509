"""The rows under the worklist: places on cases made, claimed, given back, all within the caller's transaction.

A case has as many seats as its protocol asks readers. A calibration case has none until a reader is given one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from labeling_protocols import audit, schema
from labeling_protocols.audit import Action
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Returned, SeatState

_LOCKS = 0x73656174  # the class of PostgreSQL's advisory locks on worklists
_WHY = {
    Returned.LAPSED: Action.SEAT_LAPSED,
    Returned.SKIPPED: Action.SEAT_SKIPPED,
    Returned.REASSIGNED: Action.SEAT_REASSIGNED,
}
_seats = schema.seats
_HELD = sa.select(_seats).where(
    _seats.c.case == sa.bindparam("of_case"),
    _seats.c.since_version == sa.bindparam("of_version"),
    _seats.c.reader == sa.bindparam("of_reader"),
)
_HELD_LOCKED = _HELD.with_for_update()


def lock_worklist(connection: sa.Connection, protocol: str) -> None:
    """Let no other transaction give or take free seats of this protocol; the first lock a transaction takes."""
    if connection.dialect.name == "postgresql":
        connection.execute(
            sa.text("select pg_advisory_xact_lock(:kind, hashtext(:protocol))"), {"kind": _LOCKS, "protocol": protocol}
        )


def make_seats(
    connection: sa.Connection,
    protocol: Protocol,
    since_version: int,
    cases: Iterable[Any],
    taken: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Free seats for cases (rows), as many and of such groups as the protocol asks beyond the seats taken already."""
    rows = []
    for case in cases:
        held = (taken or {}).get(case.id, ())
        wanted = Counter(protocol.seat_groups) - Counter(seat.group for seat in held)
        free = min(len(protocol.seat_groups) - len(held), wanted.total())
        first = max((seat.place for seat in held), default=-1) + 1
        rows += [
            {
                "case": case.id,
                "since_version": since_version,
                "place": first + number,
                "protocol": protocol.name,
                "rank": case.rank,
                "group": group,
                "state": SeatState.FREE,
            }
            for number, group in enumerate(list(wanted.elements())[: max(0, free)])
        ]
    if rows:
        connection.execute(sa.insert(_seats), rows)


def held(connection: sa.Connection, case: str, since_version: int, reader: str, *, lock: bool = False) -> Any:
    """The reader's seat row on a case, or None; `lock` keeps it as it is until the transaction ends."""
    named = {"of_case": case, "of_version": since_version, "of_reader": reader}
    return connection.execute(_HELD_LOCKED if lock else _HELD, named).first()


def claim(
    connection: sa.Connection, seat: Any, reader: str, at: datetime, lease: timedelta, *, actor: str | None = None
) -> None:
    """Give a free seat (its row) to a reader, who asked for it unless somebody else (`actor`) chose them."""
    connection.execute(
        sa.update(_seats)
        .where(_at(seat), _seats.c.state == SeatState.FREE)
        .values(reader=reader, state=SeatState.CLAIMED, opened=at, lease_until=at + lease)
    )
    _audit_claim(connection, seat.case, seat.place, reader, actor)


def add_place(
    connection: sa.Connection,
    case: Any,
    since_version: int,
    reader: str,
    at: datetime,
    lease: timedelta,
    *,
    actor: str | None = None,
) -> None:
    """One more seat on a case (its row), taken by this reader: calibration, or work whose seat was given away."""
    last = connection.execute(
        sa.select(sa.func.max(_seats.c.place)).where(_seats.c.case == case.id, _seats.c.since_version == since_version)
    ).scalar()
    place = 0 if last is None else last + 1
    row = {
        "case": case.id,
        "since_version": since_version,
        "place": place,
        "protocol": case.protocol,
        "rank": case.rank,
        "group": "",
        "reader": reader,
        "state": SeatState.CLAIMED,
        "opened": at,
        "lease_until": at + lease,
    }
    connection.execute(sa.insert(_seats), row)
    _audit_claim(connection, case.id, place, reader, actor)


def add_free(connection: sa.Connection, case: Any, since_version: int, wanted: int) -> None:
    """Free seats for anybody on a case (its row), so that it has as many as wanted; offered also to who is past it."""
    known = sa.select(_seats.c.place).where(_seats.c.case == case.id, _seats.c.since_version == since_version)
    places = connection.execute(known).scalars().all()
    first = max(places, default=-1) + 1
    rows = [
        {
            "case": case.id,
            "since_version": since_version,
            "place": first + number,
            "protocol": case.protocol,
            "rank": case.rank,
            "group": "",
            "state": SeatState.FREE,
            "reopened": True,
        }
        for number in range(wanted - len(places))
    ]
    if rows:
        connection.execute(sa.insert(_seats), rows)


def give_back(connection: sa.Connection, seat: Any, why: Returned, *, reason: str, actor: str, at: datetime) -> None:
    """Free a claimed seat (its row) and remember who had it and why he has it no longer."""
    connection.execute(
        sa.insert(schema.returned_seats).values(
            case=seat.case,
            since_version=seat.since_version,
            reader=seat.reader,
            why=why,
            reason=reason,
            actor=actor,
            created=at,
        )
    )
    calibration = connection.execute(
        sa.select(schema.cases.c.known_truth).where(schema.cases.c.id == seat.case)
    ).scalar()
    if calibration is not None:
        connection.execute(sa.delete(_seats).where(_at(seat)))
    else:
        connection.execute(
            sa.update(_seats)
            .where(_at(seat))
            .values(reader=None, state=SeatState.FREE, opened=None, lease_until=None, reopened=True)
        )
    audit.append(connection, actor=actor, action=_WHY[why], subject=seat.case, reader=seat.reader, reason=reason)


def reopen(connection: sa.Connection, case: str) -> None:
    """Offer a case's free seats anew to readers whose worklists are past them."""
    free = sa.and_(_seats.c.case == case, _seats.c.state == SeatState.FREE)
    connection.execute(sa.update(_seats).where(free).values(reopened=True))


def step_back(connection: sa.Connection, protocol: str, rank: float, case: str) -> None:
    """Make every reader's worklist look again from (rank, case) on."""
    table = schema.worklists
    beyond = sa.or_(table.c.rank > rank, sa.and_(table.c.rank == rank, table.c.case > case))
    connection.execute(sa.update(table).where(table.c.protocol == protocol, beyond).values(rank=rank, case=case))


def groups_of(connection: sa.Connection, reader: str) -> tuple[str, ...]:
    """The groups a reader belongs to, sorted."""
    groups = connection.execute(sa.select(schema.accounts.c.groups).where(schema.accounts.c.id == reader)).scalar()
    return tuple(sorted(groups or ()))


def last_return(connection: sa.Connection, case: str, reader: str) -> Returned | None:
    """Why this reader lost his last seat on a case; None where he never lost one."""
    table = schema.returned_seats
    query = sa.select(table.c.why).where(table.c.case == case, table.c.reader == reader)
    why = connection.execute(query.order_by(table.c.id.desc()).limit(1)).scalar()
    return Returned(why) if why else None


def rebuild(connection: sa.Connection, protocol: Protocol, since_version: int) -> None:
    """Free seats of all the protocol's cases made anew after its readers or their groups changed."""
    cases = schema.cases
    connection.execute(sa.delete(_seats).where(_seats.c.protocol == protocol.name, _seats.c.state == SeatState.FREE))
    taken: dict[str, list[Any]] = {}
    of_version = sa.select(_seats).where(_seats.c.protocol == protocol.name, _seats.c.since_version == since_version)
    for seat in connection.execute(of_version):
        taken.setdefault(seat.case, []).append(seat)
    ordinary = sa.select(cases.c.id, cases.c.rank).where(
        cases.c.protocol == protocol.name, cases.c.known_truth.is_(None)
    )
    make_seats(connection, protocol, since_version, connection.execute(ordinary).all(), taken)
    connection.execute(
        sa.update(schema.worklists).where(schema.worklists.c.protocol == protocol.name).values(rank=None)
    )


def _audit_claim(connection: sa.Connection, case: str, place: int, reader: str, actor: str | None) -> None:
    chosen = {"reader": reader} if actor is not None else {}
    audit.append(connection, actor=actor or reader, action=Action.SEAT_CLAIMED, subject=case, place=place, **chosen)


def _at(seat: Any) -> sa.ColumnElement[bool]:
    return sa.and_(
        _seats.c.case == seat.case, _seats.c.since_version == seat.since_version, _seats.c.place == seat.place
    )
