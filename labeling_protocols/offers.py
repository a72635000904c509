"""Which seat a reader is offered next: what is asked, a reader and the time in, the case claimed for them out.

All within the caller's transaction, which holds the worklist's lock.
"""

import hashlib
import sys
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.saving import Asked
from labeling_protocols.seats import add_place, claim, groups_of
from labeling_protocols.strategy_offers import next_of_order, note_offer
from labeling_protocols.takeable import FREE, REOPENED, declined, takeable

__all__ = ["FREE", "START", "take_next"]

START = (-sys.float_info.max, "")
_END = (sys.float_info.max, "")
_GROUPS_MAX = 255
_seats, _cases = schema.seats, schema.cases


def take_next(
    connection: sa.Connection, asked: Asked, reader: str, at: datetime, lease: timedelta, strategy: str = ""
) -> str | None:
    """Claim the first seat this reader may take, or a calibration case where one is due.

    First is what comes first in a strategy's order; in the worklist's own without one, and after a strategy's end.
    """
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
            note_offer(connection, asked, reader, case.id, strategy, at)
            add_place(connection, case, asked.since_version, reader, at, lease)
            connection.execute(sa.update(table).where(mine).values(since_calibration=0))
            return str(case.id)
    chosen = next_of_order(connection, asked, reader, groups, strategy) if strategy else None
    if chosen is not None:
        connection.execute(sa.update(table).where(mine).values(since_calibration=since_calibration + 1))
        note_offer(connection, asked, reader, chosen.case, strategy, at)
        claim(connection, chosen, reader, at, lease)
        return str(chosen.case)
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
    note_offer(connection, asked, reader, seat.case, "", at)
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
    """
    found: list[Any] = []
    for group in ("", *groups):
        query = (
            sa.select(_seats)
            .where(
                _seats.c.protocol == asked.protocol.name,
                _seats.c.since_version == asked.since_version,
                _seats.c.group == group,
                FREE,
                REOPENED if reopened else sa.tuple_(_seats.c.rank, _seats.c.case) >= sa.tuple_(*start),
                *takeable(asked, reader),
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


def _unread_calibration(connection: sa.Connection, asked: Asked, reader: str) -> Any:
    seat = sa.exists().where(
        _seats.c.case == _cases.c.id, _seats.c.since_version == asked.since_version, _seats.c.reader == reader
    )
    query = sa.select(_cases).where(
        _cases.c.protocol == asked.protocol.name,
        _cases.c.known_truth.isnot(None),
        ~seat,
        ~declined(reader, _cases.c.id),
    )
    return connection.execute(query.order_by(_cases.c.rank, _cases.c.id).limit(1)).first()
