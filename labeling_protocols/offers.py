"""Which seat a reader is offered next: what is asked, a reader and the time in, the case claimed for them out.

All within the caller's transaction, which holds the worklist's lock.
"""

import hashlib
import sys
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.records import Outcome, Returned
from labeling_protocols.saving import Asked
from labeling_protocols.seats import add_place, claim, groups_of

START = (-sys.float_info.max, "")
_END = (sys.float_info.max, "")
_GROUPS_MAX = 255
_seats, _cases = schema.seats, schema.cases
# A literal, not a parameter: the partial index is used only where the database sees the very condition.
FREE = _seats.c.state == sa.literal_column("'free'")
_REOPENED = _seats.c.reopened == sa.true()


def take_next(connection: sa.Connection, asked: Asked, reader: str, at: datetime, lease: timedelta) -> str | None:
    """Claim the first seat this reader may take, or a calibration case where one is due."""
    name, groups = asked.protocol.name, groups_of(connection, reader)
    known_groups = _short(groups)
    table = schema.worklists
    mine = sa.and_(table.c.protocol == name, table.c.reader == reader)
    place = connection.execute(sa.select(table).where(mine)).first()
    if place is None:
        connection.execute(sa.insert(table).values(protocol=name, reader=reader, groups=known_groups))
    begun = place is not None and place.rank is not None and place.groups == known_groups
    since_calibration = place.since_calibration if place is not None else 0
    every = asked.protocol.calibration.every if asked.protocol.calibration else None
    if every is not None and since_calibration >= every:
        case = _unread_calibration(connection, asked, reader)
        if case is not None:
            add_place(connection, case, asked.since_version, reader, at, lease)
            connection.execute(sa.update(table).where(mine).values(since_calibration=0))
            return str(case.id)
    start = (place.rank, place.case) if place is not None and begun else START
    next_in_order = _first_free(connection, asked, reader, groups, start)
    reopened = _first_free(connection, asked, reader, groups, START, reopened=True)
    seat = min(filter(None, (next_in_order, reopened)), key=_position, default=None)
    rank, case_id = _position(next_in_order) if next_in_order is not None else _END
    moved = {"rank": rank, "case": case_id, "groups": known_groups}
    connection.execute(
        sa.update(table).where(mine).values(since_calibration=since_calibration + (seat is not None), **moved)
    )
    if seat is None:
        return None
    claim(connection, seat, reader, at, lease)
    return str(seat.case)


def _first_free(
    connection: sa.Connection,
    asked: Asked,
    reader: str,
    groups: tuple[str, ...],
    start: tuple[float, str],
    *,
    reopened: bool = False,
) -> Any:
    """The first free seat of a group the reader belongs to, on a case he has no seat on and did not give back.

    `reopened` looks among the seats that somebody had before: few, and not in the order of a worklist's place.

    A finished case can have a free seat: one more read came than was asked for, or it was settled before more were.
    One that has been read and is open again waits for further readers.
    """
    his = schema.seats.alias()
    taken = sa.exists().where(
        his.c.case == _seats.c.case, his.c.since_version == _seats.c.since_version, his.c.reader == reader
    )
    finished = sa.exists().where(
        _cases.c.id == _seats.c.case,
        sa.or_(
            sa.and_(_cases.c.reads >= asked.protocol.readers_per_case, _cases.c.outcome != Outcome.OPEN),
            _cases.c.outcome == Outcome.SETTLED,
        ),
    )
    found: list[Any] = []
    for group in ("", *groups):
        query = (
            sa.select(_seats)
            .where(
                _seats.c.protocol == asked.protocol.name,
                _seats.c.since_version == asked.since_version,
                _seats.c.group == group,
                FREE,
                _REOPENED if reopened else sa.tuple_(_seats.c.rank, _seats.c.case) >= sa.tuple_(*start),
                ~taken,
                ~_declined(reader, _seats.c.case),
                ~finished,
            )
            .order_by(_seats.c.rank, _seats.c.case)
            .limit(1)
        )
        found += connection.execute(query).all()
    return min(found, key=_position, default=None)


def _position(seat: Any) -> tuple[float, str]:
    return seat.rank, seat.case


def _short(groups: tuple[str, ...]) -> str:
    """Groups as their column holds them, to see whether they changed since."""
    text = " ".join(groups)
    return text if len(text) <= _GROUPS_MAX else hashlib.sha256(text.encode()).hexdigest()


def _declined(reader: str, case: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether a person, the reader himself or an administrator, took the case from this reader."""
    returned = schema.returned_seats
    return sa.exists().where(returned.c.case == case, returned.c.reader == reader, returned.c.why != Returned.LAPSED)


def _unread_calibration(connection: sa.Connection, asked: Asked, reader: str) -> Any:
    seat = sa.exists().where(
        _seats.c.case == _cases.c.id, _seats.c.since_version == asked.since_version, _seats.c.reader == reader
    )
    query = sa.select(_cases).where(
        _cases.c.protocol == asked.protocol.name,
        _cases.c.known_truth.isnot(None),
        ~seat,
        ~_declined(reader, _cases.c.id),
    )
    return connection.execute(query.order_by(_cases.c.rank, _cases.c.id).limit(1)).first()
