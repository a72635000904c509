"""Who reads what next: a reader in, a case with a seat of his own out, claimed in one transaction.

The order is that of the cases' ranks. What lies before a reader's place in it was tried already and is not looked at
again, so that the next case costs the same among ten cases and among twenty thousand.
"""

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from labeling_protocols import audit, schema
from labeling_protocols.audit import Action
from labeling_protocols.offers import FREE, START, take_next
from labeling_protocols.records import Case, Returned, Role, Seat, SeatState, Work
from labeling_protocols.rows import seat_of
from labeling_protocols.seats import add_place, claim, give_back, groups_of, held, lock_worklist, step_back
from labeling_protocols.store import Asked, SeatError, Store, UnknownError, now

_seats, _cases = schema.seats, schema.cases
# A literal, not a parameter: the partial indexes are used only where the database sees the very condition.
_CLAIMED = _seats.c.state == sa.literal_column("'claimed'")
_RENEW_AFTER = 0.1  # of a lease gone: sooner, renewing it is not worth a write
_SERVER = "server"


class WorklistError(ValueError):
    """A change of seats that cannot be: what was found, what was expected; nothing was changed."""


def next_case(
    store: Store, protocol_name: str, reader: str, *, strategy: str = "", at: datetime | None = None
) -> Case | None:
    """The case the reader left unread, else the next one with a free seat; None when nothing is left for him.

    Next is by the order that `strategy` made (`case_scores.py`), then by the worklist's own, as without a strategy.
    The seat is held until the protocol's lease ends; one whose lease ended is given to whoever asks next. After so many
    ordinary cases as the protocol says comes one of the calibration cases, which look like any other.
    """
    at = at or now()
    asked = store.asked(protocol_name)
    lease = timedelta(minutes=asked.protocol.seat_lease_minutes)
    _return_lapsed(store, protocol_name, reader, at)
    with store.writing() as connection:
        lock_worklist(connection, protocol_name)
        case_id = _left_unread(connection, asked, reader)
        if case_id is not None:
            mine = sa.and_(_seats.c.case == case_id, _seats.c.reader == reader, _CLAIMED)
            connection.execute(sa.update(_seats).where(mine).values(opened=at, lease_until=at + lease))
        else:
            case_id = take_next(connection, asked, reader, at, lease, strategy)
    return store.case(case_id) if case_id is not None else None


def renew(store: Store, case_id: str, reader: str, *, at: datetime | None = None) -> None:
    """The reader works on this case: his lease begins anew; a case he had read is open to him again."""
    at = at or now()
    asked = store.asked(store.case(case_id).protocol)
    lease = timedelta(minutes=asked.protocol.seat_lease_minutes)
    with store.engine.connect() as connection:
        seat = held(connection, case_id, asked.since_version, reader)
    if seat is None or (seat.state == SeatState.CLAIMED and seat.lease_until - at > (1 - _RENEW_AFTER) * lease):
        return
    values = {"lease_until": at + lease} if seat.state == SeatState.CLAIMED else {"opened": at}
    mine = sa.and_(_seats.c.case == case_id, _seats.c.reader == reader, _seats.c.state == seat.state)
    with store.writing() as connection:
        connection.execute(sa.update(_seats).where(mine).values(**values))


def skip(
    store: Store, case_id: str, reader: str, reason: str, *, actor: str | None = None, at: datetime | None = None
) -> None:
    """Give a claimed seat back, with a reason; the case is not offered to this reader again.

    `actor` is who did it, where that is not the reader.
    """
    if not reason.strip():
        raise WorklistError("skipping a case needs a reason; an empty one was found. The case is still yours.")
    asked = store.asked(store.case(case_id).protocol)
    with store.writing() as connection:
        lock_worklist(connection, asked.protocol.name)
        seat = _claimed_seat(connection, case_id, asked, reader)
        give_back(connection, seat, Returned.SKIPPED, reason=reason.strip(), actor=actor or reader, at=at or now())


def reassign(
    store: Store,
    case_id: str,
    *,
    from_reader: str | None,
    to_reader: str | None,
    actor: str,
    reason: str = "",
    at: datetime | None = None,
) -> None:
    """Take an unread seat of a case from a reader, or a free one, and give it to another, or to whoever comes next.

    Raises `SeatError`, `WorklistError` or `UnknownError`, having changed nothing.
    """
    if from_reader is None and to_reader is None:
        raise WorklistError("name the reader who gives up the seat, or the one who gets it. Nothing was changed.")
    at = at or now()
    asked = store.asked(store.case(case_id).protocol)
    with store.writing() as connection:
        lock_worklist(connection, asked.protocol.name)
        if from_reader is not None:
            seat = _claimed_seat(connection, case_id, asked, from_reader)
            give_back(connection, seat, Returned.REASSIGNED, reason=reason.strip(), actor=actor, at=at)
        if to_reader is not None:
            _assign(connection, case_id, asked, to_reader, actor, at)


def order(
    store: Store, protocol_name: str, scores: Mapping[str, float], *, actor: str, strategy: str = "", model: str = ""
) -> None:
    """Put cases in the order of these scores, highest first; cases without one keep their place.

    `strategy` and `model` are whose scores they are, which readers are told with the cases; nobody's where left out.
    """
    if not all(map(math.isfinite, scores.values())):
        raise WorklistError("expected a finite number as every score, found NaN or infinity. Nothing was changed.")
    with store.writing() as connection:
        lock_worklist(connection, protocol_name)
        known = set(connection.execute(sa.select(_cases.c.id).where(_cases.c.protocol == protocol_name)).scalars())
        if missing := sorted(set(scores) - known):
            raise UnknownError(
                f"{len(missing)} of the scores are for cases this protocol has not. Nothing was changed."
            )
        ranks = [{"of": case, "to": -float(score)} for case, score in scores.items()]
        for table, key in ((_cases, _cases.c.id), (_seats, _seats.c.case)):
            if ranks:
                connection.execute(
                    sa.update(table).where(key == sa.bindparam("of")).values(rank=sa.bindparam("to")), ranks
                )
        step_back(connection, protocol_name, *START)
        _follow(connection, protocol_name, strategy, model)
        by = {"strategy": strategy, "model": model} if strategy else {}
        audit.append(connection, actor=actor, action=Action.CASES_RANKED, subject=protocol_name, cases=len(ranks), **by)


def _follow(connection: sa.Connection, protocol_name: str, strategy: str, model: str) -> None:
    """Note whose order the worklist follows from now on."""
    table = schema.worklist_orders
    connection.execute(sa.delete(table).where(table.c.protocol == protocol_name))
    if strategy:
        connection.execute(
            sa.insert(table).values(protocol=protocol_name, strategy=strategy, model=model, created=now())
        )


def seats(store: Store, case_id: str) -> list[Seat]:
    """The seats of a case, free ones too, in the order of their places."""
    asked = store.asked(store.case(case_id).protocol)
    query = sa.select(_seats).where(_seats.c.case == case_id, _seats.c.since_version == asked.since_version)
    with store.engine.connect() as connection:
        rows = connection.execute(query.order_by(_seats.c.place)).all()
    return [seat_of(row) for row in rows]


def own_work(store: Store, protocol_name: str, reader: str, *, limit: int | None = None) -> list[Work]:
    """The cases a reader has or had read, newest save first, those he holds unread before them."""
    asked = store.asked(protocol_name)
    reads = schema.reads
    spent = _spent(asked, reader)
    query = (
        sa.select(
            _seats.c.case,
            _seats.c.state,
            _seats.c.opened,
            _seats.c.lease_until,
            spent.c.seconds,
            reads.c.revision,
            reads.c.created.label("saved"),
        )
        .outerjoin(spent, spent.c.case == _seats.c.case)
        .outerjoin(reads, reads.c.id == spent.c.newest)
        .where(_own_seats(asked, reader))
        .order_by(_seats.c.state == SeatState.READ, reads.c.created.desc().nulls_last(), _seats.c.case)
        .limit(limit)
    )
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
    return [Work(**{**row._mapping, "state": SeatState(row.state)}) for row in rows]


def own_totals(store: Store, protocol_name: str, reader: str, *, since: datetime) -> tuple[float, list[datetime]]:
    """The seconds a reader spent on the cases he has or had read, and when he saved those saved last after `since`."""
    asked = store.asked(protocol_name)
    reads = schema.reads
    spent = _spent(asked, reader)
    of_seats = sa.select(_seats.c.case).where(_own_seats(asked, reader))
    seconds = sa.select(sa.func.coalesce(sa.func.sum(spent.c.seconds), 0.0)).where(spent.c.case.in_(of_seats))
    read = of_seats.where(_seats.c.state == SeatState.READ)
    saved = (
        sa.select(reads.c.created)
        .join(spent, spent.c.newest == reads.c.id)
        .where(reads.c.created > since, reads.c.case.in_(read))
    )
    with store.engine.connect() as connection:
        return float(connection.execute(seconds).scalar_one()), list(connection.execute(saved).scalars())


def _spent(asked: Asked, reader: str) -> sa.Subquery:
    """By case: the reader's newest read that answers what is asked, and the seconds spent on all of them."""
    reads = schema.reads
    columns = (reads.c.case, sa.func.max(reads.c.id).label("newest"), sa.func.sum(reads.c.seconds).label("seconds"))
    mine = sa.and_(reads.c.reader == reader, reads.c.protocol_version >= asked.since_version)
    return sa.select(*columns).where(mine).group_by(reads.c.case).subquery()


def _own_seats(asked: Asked, reader: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        _seats.c.protocol == asked.protocol.name,
        _seats.c.since_version == asked.since_version,
        _seats.c.reader == reader,
    )


def _claimed_seat(connection: sa.Connection, case_id: str, asked: Asked, reader: str) -> Any:
    """The reader's seat row on a case he has not read yet, locked."""
    seat = held(connection, case_id, asked.since_version, reader, lock=True)
    if seat is None:
        raise SeatError("this reader has no seat on this case. Nothing was changed.")
    if seat.state != SeatState.CLAIMED:
        raise WorklistError("this case is read already; a read is withdrawn, not given back. Nothing was changed.")
    return seat


def _assign(connection: sa.Connection, case_id: str, asked: Asked, reader: str, actor: str, at: datetime) -> None:
    """Give a free seat, or a new one of a calibration case, to a reader, whatever the case's place in the order."""
    lease = timedelta(minutes=asked.protocol.seat_lease_minutes)
    _require_reader(connection, reader)
    if held(connection, case_id, asked.since_version, reader) is not None:
        raise WorklistError("the new reader has a seat on this case already. Nothing was changed.")
    case = connection.execute(sa.select(_cases).where(_cases.c.id == case_id)).one()
    if case.known_truth is not None:
        add_place(connection, case, asked.since_version, reader, at, lease, actor=actor)
        return
    free = sa.select(_seats).where(_seats.c.case == case_id, _seats.c.since_version == asked.since_version, FREE)
    may_take = _seats.c.group.in_(("", *groups_of(connection, reader)))
    seat = connection.execute(free.where(may_take).order_by(_seats.c.place).limit(1)).first()
    if seat is None:
        raise WorklistError("this case has no free seat that the new reader may take. Nothing was changed.")
    claim(connection, seat, reader, at, lease, actor=actor)


def _require_reader(connection: sa.Connection, account_id: str) -> None:
    table = schema.accounts
    account = connection.execute(sa.select(table).where(table.c.id == account_id)).first()
    if account is None or account.disabled or Role.READER not in account.roles:
        raise WorklistError("expected an enabled account with the role reader as the new reader. Nothing was changed.")


def _return_lapsed(store: Store, protocol_name: str, reader: str, at: datetime) -> None:
    """Free the seats of others whose lease ended; the asking reader's own is renewed instead."""
    lapsed = sa.select(_seats).where(
        _CLAIMED, _seats.c.lease_until < at, _seats.c.protocol == protocol_name, _seats.c.reader != reader
    )
    with store.engine.connect() as connection:
        if connection.execute(lapsed.limit(1)).first() is None:
            return
    with store.writing() as connection:
        lock_worklist(connection, protocol_name)
        for seat in connection.execute(lapsed.with_for_update(skip_locked=True)).all():
            give_back(connection, seat, Returned.LAPSED, reason="", actor=_SERVER, at=at)


def _left_unread(connection: sa.Connection, asked: Asked, reader: str) -> str | None:
    query = (
        sa.select(_seats.c.case)
        .where(
            _seats.c.reader == reader,
            _seats.c.protocol == asked.protocol.name,
            _seats.c.since_version == asked.since_version,
            _CLAIMED,
        )
        .order_by(_seats.c.opened)
        .limit(1)
    )
    return connection.execute(query).scalar()
