"""Who sits where: a protocol and what to look for in, a page of its cases with their seats out; what was given back.

Pages go by case id and by number, so that one costs the same among ten cases and among twenty thousand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.records import Outcome, Returned, Seat, SeatState
from labeling_protocols.rows import seat_of
from labeling_protocols.store import Store, now

PAGE = 50
_cases, _seats, _returned = schema.cases, schema.seats, schema.returned_seats


class Show(StrEnum):
    """Which cases are looked for."""

    ALL = "all"
    FREE = "with a free seat"
    CLAIMED = "being read"
    LAPSED = "with a lapsed lease"
    OPEN = "open"
    UNJUDGED = "not judged yet"
    AGREED = "agreed"
    DISPUTED = "disputed"
    SETTLED = "settled"
    CALIBRATION = "calibration"


@dataclass(frozen=True, kw_only=True)
class Occupied:
    """A case with its seats, free ones too, in the order of their places."""

    case: str
    outcome: Outcome
    calibration: bool
    seats: tuple[Seat, ...]


@dataclass(frozen=True, kw_only=True)
class OccupiedPage:
    """Cases by id; `after` continues the list where more follow, else it is empty."""

    cases: tuple[Occupied, ...]
    after: str


@dataclass(frozen=True, kw_only=True)
class GivenBack:
    """How a reader lost a seat; `actor` is an account, the server or the command line."""

    id: int
    case: str
    reader: str
    why: Returned
    reason: str
    actor: str
    created: datetime


@dataclass(frozen=True, kw_only=True)
class GivenBackPage:
    """What was given back, newest first; `before` continues the list where more follow, else it is 0."""

    entries: tuple[GivenBack, ...]
    before: int


def occupied(
    store: Store,
    protocol_name: str,
    *,
    show: Show = Show.ALL,
    reader: str = "",
    case: str = "",
    after: str = "",
    at: datetime | None = None,
) -> OccupiedPage:
    """Cases of a protocol after the case `after`; `reader` has a seat on them, `case` is how their ids begin."""
    since_version = store.asked(protocol_name).since_version
    conditions = [_cases.c.protocol == protocol_name, _cases.c.id > after, *_shown(show, since_version, at or now())]
    if reader:
        conditions.append(_has_seat(since_version, _seats.c.reader == reader))
    if case:
        conditions.append(_cases.c.id.startswith(case, autoescape=True))
    query = sa.select(_cases.c.id, _cases.c.outcome, _cases.c.known_truth.isnot(None).label("calibration"))
    query = query.where(*conditions).order_by(_cases.c.id).limit(PAGE + 1)
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
        found = _seats_of(connection, [row.id for row in rows[:PAGE]], since_version)
    return OccupiedPage(cases=tuple(_occupied(row, found) for row in rows[:PAGE]), after=_rest(rows, "id", ""))


def given_back(
    store: Store, protocol_name: str, *, why: Returned | None = None, case: str = "", before: int = 0
) -> GivenBackPage:
    """The seats of a protocol's cases that readers lost, newest first, from the entry before `before` on."""
    query = sa.select(_returned).join(_cases, _cases.c.id == _returned.c.case)
    query = query.where(_cases.c.protocol == protocol_name)
    if why is not None:
        query = query.where(_returned.c.why == why)
    if case:
        query = query.where(_returned.c.case == case)
    if before:
        query = query.where(_returned.c.id < before)
    with store.engine.connect() as connection:
        rows = connection.execute(query.order_by(_returned.c.id.desc()).limit(PAGE + 1)).all()
    entries = tuple(
        GivenBack(
            id=row.id,
            case=row.case,
            reader=row.reader,
            why=Returned(row.why),
            reason=row.reason,
            actor=row.actor,
            created=row.created,
        )
        for row in rows[:PAGE]
    )
    return GivenBackPage(entries=entries, before=_rest(rows, "id", 0))


def held_now(store: Store, protocol_name: str, *, at: datetime | None = None) -> tuple[int, int]:
    """How many seats are claimed and unread now, and how many of those have a lapsed lease."""
    since_version = store.asked(protocol_name).since_version
    lapsed = sa.func.sum(sa.case((_seats.c.lease_until < (at or now()), 1), else_=0))
    query = sa.select(sa.func.count(), lapsed).where(
        _CLAIMED, _seats.c.protocol == protocol_name, _seats.c.since_version == since_version
    )
    with store.engine.connect() as connection:
        claimed, late = connection.execute(query).one()
    return claimed, late or 0


# A literal, not a parameter: the partial indexes are used only where the database sees the very condition.
_CLAIMED = _seats.c.state == sa.literal_column("'claimed'")


def _shown(show: Show, since_version: int, at: datetime) -> list[sa.ColumnElement[bool]]:
    calibration = _cases.c.known_truth.isnot(None)
    match show:
        case Show.ALL:
            return []
        case Show.FREE:
            return [_has_seat(since_version, _seats.c.state == SeatState.FREE)]
        case Show.CLAIMED:
            return [_cases.c.id.in_(sa.select(_seats.c.case).where(_CLAIMED, _seats.c.since_version == since_version))]
        case Show.LAPSED:
            lapsed = sa.select(_seats.c.case).where(
                _CLAIMED, _seats.c.lease_until < at, _seats.c.since_version == since_version
            )
            return [_cases.c.id.in_(lapsed)]
        case Show.CALIBRATION:
            return [calibration]
        case _:
            return [_cases.c.outcome == Outcome[show.name], ~calibration]


def _has_seat(since_version: int, condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.exists().where(_seats.c.case == _cases.c.id, _seats.c.since_version == since_version, condition)


def _seats_of(connection: sa.Connection, cases: Sequence[str], since_version: int) -> dict[str, list[Seat]]:
    query = sa.select(_seats).where(_seats.c.case.in_(cases), _seats.c.since_version == since_version)
    found: dict[str, list[Seat]] = {}
    for row in connection.execute(query.order_by(_seats.c.case, _seats.c.place)):
        found.setdefault(row.case, []).append(seat_of(row))
    return found


def _occupied(row: Any, found: dict[str, list[Seat]]) -> Occupied:
    seats = tuple(found.get(row.id, ()))
    return Occupied(case=row.id, outcome=Outcome(row.outcome), calibration=bool(row.calibration), seats=seats)


def _rest(rows: Sequence[Any], column: str, none: Any) -> Any:
    """Where the next page begins: at this page's last row, if one more was found."""
    return getattr(rows[PAGE - 1], column) if len(rows) > PAGE else none
