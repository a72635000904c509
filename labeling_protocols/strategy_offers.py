"""The next case of a strategy's order: a reader in, a free seat he may take out; and why, once he has it.

As with the worklist's ranks (`offers.py`), what lies before a reader's place in an order was tried already. All within
the caller's transaction, which holds the worklist's lock.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.saving import Asked
from labeling_protocols.takeable import FREE, REOPENED, takeable

_seats, _scores, _places = schema.seats, schema.case_scores, schema.strategy_places
_BASIS_MAX = 255
_END = 2**31 - 1


def next_of_order(connection: sa.Connection, asked: Asked, reader: str, groups: tuple[str, ...], strategy: str) -> Any:
    """The free seat that comes first in a strategy's order, and the reader's place moved to it; None without one."""
    name = asked.protocol.name
    # Another version of the protocol makes free seats anew, and another group opens others: begin again.
    basis = f"{asked.protocol.version} {' '.join(groups)}"[:_BASIS_MAX]
    mine = sa.and_(_places.c.protocol == name, _places.c.strategy == strategy, _places.c.reader == reader)
    known = connection.execute(sa.select(_places).where(mine)).first()
    start = known.place if known is not None and known.basis == basis else 0
    in_order = _next_place(connection, asked, reader, groups, strategy, start)
    chosen = min(filter(None, (in_order, _reopened(connection, asked, reader, groups, strategy))), default=None)
    moved = {"place": in_order[0] if in_order is not None else _END, "basis": basis}
    if known is None:
        connection.execute(sa.insert(_places).values(protocol=name, strategy=strategy, reader=reader, **moved))
    elif (known.place, known.basis) != (moved["place"], basis):
        connection.execute(sa.update(_places).where(mine).values(**moved))
    if chosen is None:
        return None
    free = sa.select(_seats).where(_seats.c.case == chosen[1], *_free(asked, groups))
    return connection.execute(free.order_by(_seats.c.place).limit(1)).one()


def note_offer(connection: sa.Connection, asked: Asked, reader: str, case_id: str, strategy: str, at: datetime) -> None:
    """Remember why a reader was given a case, by this strategy or, without one, by that which the worklist follows.

    A calibration case has a sentence as any other; one that was never looked at has an empty one.
    """
    standing = schema.worklist_orders
    if not strategy:
        of_protocol = standing.c.protocol == asked.protocol.name
        strategy = connection.execute(sa.select(standing.c.strategy).where(of_protocol)).scalar() or ""
    table = schema.offers
    connection.execute(sa.delete(table).where(table.c.case == case_id, table.c.reader == reader))
    if not strategy:
        return
    score = connection.execute(
        sa.select(_scores.c.model, _scores.c.why).where(
            _scores.c.protocol == asked.protocol.name, _scores.c.strategy == strategy, _scores.c.case == case_id
        )
    ).first()
    said = {"model": score.model, "why": score.why} if score is not None else {"model": "", "why": ""}
    connection.execute(sa.insert(table).values(case=case_id, reader=reader, strategy=strategy, created=at, **said))


def _next_place(
    connection: sa.Connection, asked: Asked, reader: str, groups: tuple[str, ...], strategy: str, start: int
) -> tuple[int, str] | None:
    """The first place from `start` on whose case the reader may take, and the case.

    The order leads, and each case's seats are asked for: a join leaves it to the database to go through all free seats
    first, and SQLite does.
    """
    there = sa.exists().where(_seats.c.case == _scores.c.case, *_free(asked, groups), *takeable(asked, reader))
    in_order = sa.and_(
        _scores.c.protocol == asked.protocol.name, _scores.c.strategy == strategy, _scores.c.place >= start
    )
    query = sa.select(_scores.c.place, _scores.c.case).where(in_order, there).order_by(_scores.c.place).limit(1)
    found = connection.execute(query).first()
    return (found.place, found.case) if found is not None else None


def _reopened(
    connection: sa.Connection, asked: Asked, reader: str, groups: tuple[str, ...], strategy: str
) -> tuple[int, str] | None:
    """The same among the seats that somebody had before: few, and wherever the reader's place is."""
    place = (
        sa.select(_scores.c.place)
        .where(
            _scores.c.protocol == asked.protocol.name,
            _scores.c.strategy == strategy,
            _scores.c.case == _seats.c.case,
        )
        .scalar_subquery()
    )
    query = sa.select(place.label("place"), _seats.c.case).where(
        _seats.c.protocol == asked.protocol.name, *_free(asked, groups), REOPENED, *takeable(asked, reader)
    )
    found = [(row.place, row.case) for row in connection.execute(query) if row.place is not None]
    return min(found, default=None)


def _free(asked: Asked, groups: tuple[str, ...]) -> tuple[sa.ColumnElement[bool], ...]:
    """Without the protocol, which a case has one of: named, it would draw the database to all free seats of it."""
    return _seats.c.since_version == asked.since_version, _seats.c.group.in_(("", *groups)), FREE
