"""Who reads what next: a reader in, a case with a seat of his own out, claimed in one transaction."""

from datetime import datetime, timedelta

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.records import Case, Seat, SeatState
from labeling_protocols.store import Store, now


def next_case(store: Store, protocol_name: str, reader: str, *, at: datetime | None = None) -> Case | None:
    """The case the reader left unread, else the next one with a free seat; None when nothing is left for him.

    The seat is held until the protocol's lease ends; one whose lease ended is given to whoever asks next.
    """
    at = at or now()
    protocol = store.protocol(protocol_name)
    lease_until = at + timedelta(minutes=protocol.seat_lease_minutes)
    with store.writing() as connection:
        case_id = _left_unread(connection, protocol_name, reader)
        if case_id is not None:
            connection.execute(
                sa.update(schema.seats)
                .where(schema.seats.c.case == case_id, schema.seats.c.reader == reader)
                .values(lease_until=lease_until)
            )
        else:
            _return_lapsed(connection, at)
            case_id = _first_free(connection, protocol_name, reader, protocol.readers_per_case)
            if case_id is None:
                return None
            connection.execute(
                sa.insert(schema.seats).values(
                    case=case_id,
                    place=_free_place(connection, case_id),
                    reader=reader,
                    state=SeatState.CLAIMED,
                    lease_until=lease_until,
                )
            )
    return store.case(case_id)


def seats(store: Store, case_id: str) -> list[Seat]:
    """The taken seats of a case, in the order of their places."""
    table = schema.seats
    with store.engine.connect() as connection:
        rows = connection.execute(sa.select(table).where(table.c.case == case_id).order_by(table.c.place)).all()
    return [
        Seat(case=row.case, reader=row.reader, state=SeatState(row.state), lease_until=row.lease_until) for row in rows
    ]


def _left_unread(connection: sa.Connection, protocol_name: str, reader: str) -> str | None:
    table, cases = schema.seats, schema.cases
    query = (
        sa.select(table.c.case)
        .join(cases, cases.c.id == table.c.case)
        .where(cases.c.protocol == protocol_name, table.c.reader == reader, table.c.state == SeatState.CLAIMED)
        .order_by(table.c.lease_until)
        .limit(1)
    )
    return connection.execute(query).scalar()


def _return_lapsed(connection: sa.Connection, at: datetime) -> None:
    table = schema.seats
    connection.execute(sa.delete(table).where(table.c.state == SeatState.CLAIMED, table.c.lease_until < at))


def _first_free(connection: sa.Connection, protocol_name: str, reader: str, places: int) -> str | None:
    """The first case, in the order of its content-made id, with a free place and no seat of this reader."""
    table, cases = schema.seats, schema.cases
    taken = sa.select(sa.func.count()).where(table.c.case == cases.c.id).scalar_subquery()
    his = sa.exists().where(table.c.case == cases.c.id, table.c.reader == reader)
    query = (
        sa.select(cases.c.id)
        .where(cases.c.protocol == protocol_name, taken < places, ~his)
        .order_by(cases.c.id)
        .limit(1)
    )
    return connection.execute(query).scalar()


def _free_place(connection: sa.Connection, case_id: str) -> int:
    taken = set(connection.execute(sa.select(schema.seats.c.place).where(schema.seats.c.case == case_id)).scalars())
    return next(place for place in range(len(taken) + 1) if place not in taken)
