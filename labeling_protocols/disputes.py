"""What people do with disputes: a case and an adjudicator in, the dispute's new standing out, or a refusal in words.

Each act is one transaction that holds the case's row (`dispute_states.py` has the table of states). Roles are checked
where people call; here it is checked that nobody settles a case he read, and who the protocol lets take it.
"""

import json
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from labeling_protocols import schema, seats
from labeling_protocols.audit import Action
from labeling_protocols.dispute_states import (
    LEASE,
    UNSETTLED,
    WAITING,
    Act,
    DisputeError,
    Standing,
    TakenError,
    locked_case,
    move,
    next_state,
    standing,
    standing_of,
)
from labeling_protocols.dispute_states import reopen as reopen_row
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Dispute, DisputeState
from labeling_protocols.store import Store, now

__all__ = [
    "Claimable",
    "DisputeError",
    "Standing",
    "TakenError",
    "claim",
    "claimable",
    "claimables",
    "escalate",
    "escalated_because",
    "hold",
    "move_on",
    "release",
    "reopen",
    "standing_over",
    "unsettled",
]

_RENEW_AFTER = timedelta(minutes=5)  # a claim renewed more lately than this is left as it is
_SERVER = "server"


@dataclass(frozen=True, kw_only=True)
class Claimable:
    """How many adjudicators decided in a dispute's present round, and whether it is somebody's to take.

    `refusal` says why it is not; it is empty where it is, whoever has the dispute at present.
    """

    decided: int
    refusal: str


@dataclass(frozen=True, kw_only=True)
class MovedOn:
    """What time did: claims that lapsed, disputes that were escalated."""

    lapsed: int = 0
    escalated: int = 0


def standing_over(store: Store, case_id: str) -> Standing | None:
    """Where the dispute over a case stands; None where there never was one."""
    with store.engine.connect() as connection:
        return standing(connection, case_id)


def claim(store: Store, case_id: str, adjudicator: str, *, at: datetime | None = None) -> Standing:
    """Give a dispute to an adjudicator for `LEASE`, or renew what he has.

    Raises `TakenError` where somebody else has it, `DisputeError` where it is not his to take.
    """
    with _locked(store, case_id) as (connection, case):
        return hold(store, connection, case, adjudicator, at or now())


def release(store: Store, case_id: str, adjudicator: str) -> Standing:
    """Give a dispute back undecided."""
    with _locked(store, case_id) as (connection, case):
        before, at = _before(connection, case.id), now()
        next_state(before, Act.RELEASE)
        _require_holder(before, adjudicator, at)
        return move(connection, before, Act.RELEASE, actor=adjudicator, at=at)


def escalate(store: Store, case_id: str, adjudicator: str, reason: str) -> Standing:
    """Hand a dispute to the group that the protocol escalates to; somebody else's claim is not taken from him."""
    reason = _required(reason, "an escalation needs a reason")
    with _locked(store, case_id) as (connection, case):
        before, at, protocol = _before(connection, case.id), now(), store.asked(case.protocol, connection).protocol
        group = protocol.adjudication.escalate_to
        next_state(before, Act.ESCALATE)
        if group is None:
            raise DisputeError("this protocol names nobody to escalate to. Nothing was changed.")
        if before.group:
            raise DisputeError("this dispute is escalated already. Nothing was changed.")
        _require_may_take(connection, before, protocol, adjudicator)
        if before.held_at(at):
            _require_holder(before, adjudicator, at)
        return move(connection, before, Act.ESCALATE, actor=adjudicator, at=at, group=group, reason=reason)


def reopen(store: Store, case_id: str, adjudicator: str, reason: str) -> Standing:
    """Open a settled dispute again: its decision counts no more, and its reads are judged anew."""
    reason = _required(reason, "reopening needs a reason")
    with _locked(store, case_id) as (connection, case):
        _require_no_reader(connection, case_id, adjudicator)
        protocol = store.asked(case.protocol, connection).protocol
        return reopen_row(connection, case, protocol, actor=adjudicator, at=now(), reason=reason)


def hold(store: Store, connection: sa.Connection, case: Any, adjudicator: str, at: datetime) -> Standing:
    """Within a transaction that holds the case's row: his claim, made or renewed."""
    before = standing(connection, case.id)
    if before is None:
        raise DisputeError("this case is not in dispute. Nothing was changed.")
    if before.held_at(at) and before.holder == adjudicator:
        renewed = before.held_until is not None and before.held_until - at > LEASE - _RENEW_AFTER
        return before if renewed else move(connection, before, Act.RENEW, actor=adjudicator, at=at)
    if before.held_at(at):
        _require_holder(before, adjudicator, at)
    lapsed = before.state is DisputeState.CLAIMED
    if not lapsed:
        next_state(before, Act.CLAIM)
    _require_may_take(connection, before, store.asked(case.protocol, connection).protocol, adjudicator)
    if lapsed:
        before = move(connection, before, Act.LAPSE, actor=_SERVER, at=at, holder=before.holder)
    return move(connection, before, Act.CLAIM, actor=adjudicator, at=at)


def move_on(store: Store, protocol: Protocol, *, at: datetime | None = None) -> MovedOn:
    """What time does: end claims that are over, and escalate what is open for longer than the protocol allows."""
    at = at or now()
    table, rule = schema.disputes, protocol.adjudication
    days = rule.escalate_after_days
    over = sa.and_(table.c.state == DisputeState.CLAIMED, table.c.held_until <= at)
    due: sa.ColumnElement[bool] = sa.false()
    if days is not None:
        late = table.c.since <= at - timedelta(days=days)
        due = sa.and_(table.c.state.in_(UNSETTLED), table.c.group == "", late)
    query = sa.select(table.c.case).where(table.c.protocol == protocol.name, sa.or_(over, due)).order_by(table.c.case)
    with store.engine.connect() as connection:
        cases = connection.execute(query).scalars().all()
    moved = [_move_one_on(store, case_id, rule.escalate_to, days, at) for case_id in cases]
    return MovedOn(lapsed=sum(one.lapsed for one in moved), escalated=sum(one.escalated for one in moved))


def claimables(store: Store, found: Iterable[Standing | Dispute], adjudicator: str) -> dict[str, Claimable]:
    """By case, whether each of these disputes is an adjudicator's to take; nothing is asked case by case."""
    found = list(found)
    with store.engine.connect() as connection:
        protocols = {name: store.asked(name, connection).protocol for name in {one.protocol for one in found}}
        groups = seats.groups_of(connection, adjudicator)
        decided: dict[str, list[str]] = {}
        for case, who in connection.execute(_of_present_round(found)):
            decided.setdefault(case, []).append(who)
    return {
        one.case: Claimable(
            decided=len(decided.get(one.case, ())),
            refusal=_refusal(one, protocols[one.protocol], groups, own=adjudicator in decided.get(one.case, ())),
        )
        for one in found
    }


def claimable(store: Store, found: Standing, adjudicator: str) -> Claimable:
    """Whether one dispute is an adjudicator's to take."""
    return claimables(store, [found], adjudicator)[found.case]


def escalated_because(store: Store, found: Standing) -> str:
    """Why a dispute was escalated, in the words of who did it; empty where it was not."""
    if not found.group:
        return ""
    table = schema.audit
    query = sa.select(table.c.details).where(
        table.c.subject == found.case, table.c.action == Action.DISPUTE_ESCALATED.value
    )
    with store.engine.connect() as connection:
        details = connection.execute(query.order_by(table.c.id.desc()).limit(1)).scalar()
    return str(json.loads(details)["reason"]) if details is not None else ""


def _move_one_on(store: Store, case_id: str, group: str | None, days: int | None, at: datetime) -> MovedOn:
    lapsed = escalated = 0
    with _locked(store, case_id) as (connection, case):
        before = _before(connection, case.id)
        if before.state is DisputeState.CLAIMED and not before.held_at(at):
            before = move(connection, before, Act.LAPSE, actor=_SERVER, at=at, holder=before.holder)
            lapsed = 1
        late = days is not None and before.since <= at - timedelta(days=days)
        if late and group is not None and before.state in WAITING and not before.group:
            reason = f"open for more than {days} days"
            move(connection, before, Act.ESCALATE, actor=_SERVER, at=at, group=group, reason=reason)
            escalated = 1
    return MovedOn(lapsed=lapsed, escalated=escalated)


def unsettled(store: Store, protocol_name: str) -> list[Standing]:
    """Where each dispute of a protocol stands that nobody settled."""
    table = schema.disputes
    query = sa.select(table).where(table.c.protocol == protocol_name, table.c.state.in_(UNSETTLED))
    with store.engine.connect() as connection:
        return [standing_of(row) for row in connection.execute(query.order_by(table.c.case))]


@contextmanager
def _locked(store: Store, case_id: str) -> Iterator[tuple[sa.Connection, Any]]:
    """A transaction that holds a case's row; raises `UnknownError` where there is no such case."""
    store.case(case_id)
    with store.writing() as connection:
        yield connection, locked_case(connection, case_id)


def _before(connection: sa.Connection, case_id: str) -> Standing:
    found = standing(connection, case_id)
    if found is None:
        raise DisputeError("this case is not in dispute. Nothing was changed.")
    return found


def _required(reason: str, words: str) -> str:
    if not reason.strip():
        raise DisputeError(f"{words}; an empty one was found. Nothing was changed.")
    return reason.strip()


def _require_holder(before: Standing, adjudicator: str, at: datetime) -> None:
    if before.holder == adjudicator:
        return
    if before.held_at(at) and before.holder is not None and before.held_since is not None:
        raise TakenError(before.holder, before.held_since)
    raise DisputeError("you do not have this dispute. Nothing was changed.")


def _require_no_reader(connection: sa.Connection, case_id: str, adjudicator: str) -> None:
    table = schema.reads
    mine = sa.select(table.c.id).where(table.c.case == case_id, table.c.reader == adjudicator)
    if connection.execute(mine.limit(1)).first() is not None:
        raise DisputeError("an adjudicator cannot settle a case he read himself. Nothing was changed.")


def _require_may_take(connection: sa.Connection, before: Standing, protocol: Protocol, adjudicator: str) -> None:
    """Nobody who read the case, only the group that is asked, and nobody who decided in this round already."""
    _require_no_reader(connection, before.case, adjudicator)
    table = schema.adjudications
    own = sa.select(table.c.id).where(
        table.c.case == before.case, table.c.round == before.round, table.c.adjudicator == adjudicator
    )
    decided = connection.execute(own.limit(1)).first() is not None
    refusal = _refusal(before, protocol, seats.groups_of(connection, adjudicator), own=decided)
    if refusal:
        raise DisputeError(f"{refusal}. Nothing was changed.")


def _refusal(before: Standing | Dispute, protocol: Protocol, groups: Container[str], *, own: bool) -> str:
    """Why a dispute is not for an adjudicator of these groups, who decided in its round already or not (`own`)."""
    group = before.group or protocol.adjudication.group
    if group is not None and group not in groups:
        return f"this dispute is for adjudicators of the group {group}"
    return "you decided already; another adjudicator decides next" if own else ""


def _of_present_round(found: Sequence[Standing | Dispute]) -> sa.Select[Any]:
    """Who decided over which case in the round its dispute is in, of disputes that stand as these do."""
    table, rows = schema.adjudications, schema.disputes
    present = sa.and_(table.c.case == rows.c.case, table.c.round == rows.c.round)
    alike = (
        rows.c.protocol.in_({one.protocol for one in found}),
        rows.c.state.in_({one.state for one in found}),
    )
    return sa.select(table.c.case, table.c.adjudicator).join(rows, present).where(*alike)
