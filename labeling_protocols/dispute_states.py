"""Where disputes stand: one table of states and acts; a case's row, locked, and an act in, its new standing out.

Everything here happens within the caller's transaction, which holds the case's row; an act's audit entry is written
with it, after all else that the transaction changes.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from labeling_protocols import audit, schema, tallies
from labeling_protocols.audit import Action
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import DisputeState, Outcome
from labeling_protocols.rows import CASE_LOCKED

LEASE = timedelta(minutes=60)  # how long an adjudicator has a dispute after the last thing he did with it


class Act(StrEnum):
    """What can be done with a dispute."""

    DISPUTE = "dispute"  # its reads were judged and are in dispute
    CLAIM = "claim"
    RENEW = "renew"  # whoever has it goes on
    RELEASE = "release"
    LAPSE = "lapse"  # whoever had it did nothing for too long
    DECIDE = "decide"  # a first of two decisions, or one that differs from those before
    SETTLE = "settle"
    ESCALATE = "escalate"
    REOPEN = "reopen"
    WITHDRAW = "withdraw"  # its reads agree now, or are too few


_OPEN, _CLAIMED, _ESCALATED = DisputeState.OPEN, DisputeState.CLAIMED, DisputeState.ESCALATED
_SETTLED, _REOPENED, _WITHDRAWN = DisputeState.SETTLED, DisputeState.REOPENED, DisputeState.WITHDRAWN

# What is not here is refused. An escalated dispute is ESCALATED wherever the table says OPEN for a claimed one.
TRANSITIONS: dict[tuple[DisputeState, Act], DisputeState] = {
    (_OPEN, Act.DISPUTE): _OPEN,
    (_OPEN, Act.CLAIM): _CLAIMED,
    (_OPEN, Act.ESCALATE): _ESCALATED,
    (_OPEN, Act.WITHDRAW): _WITHDRAWN,
    (_REOPENED, Act.DISPUTE): _REOPENED,
    (_REOPENED, Act.CLAIM): _CLAIMED,
    (_REOPENED, Act.ESCALATE): _ESCALATED,
    (_REOPENED, Act.WITHDRAW): _WITHDRAWN,
    (_ESCALATED, Act.DISPUTE): _ESCALATED,
    (_ESCALATED, Act.CLAIM): _CLAIMED,
    (_ESCALATED, Act.WITHDRAW): _WITHDRAWN,
    (_CLAIMED, Act.DISPUTE): _CLAIMED,
    (_CLAIMED, Act.RENEW): _CLAIMED,
    (_CLAIMED, Act.RELEASE): _OPEN,
    (_CLAIMED, Act.LAPSE): _OPEN,
    (_CLAIMED, Act.DECIDE): _OPEN,
    (_CLAIMED, Act.SETTLE): _SETTLED,
    (_CLAIMED, Act.ESCALATE): _ESCALATED,
    (_CLAIMED, Act.WITHDRAW): _WITHDRAWN,
    (_SETTLED, Act.REOPEN): _REOPENED,
    (_SETTLED, Act.WITHDRAW): _WITHDRAWN,
    (_WITHDRAWN, Act.DISPUTE): _OPEN,
}
WAITING = (_OPEN, _REOPENED, _ESCALATED)
UNSETTLED = (*WAITING, _CLAIMED)

_ACTIONS = {
    Act.DISPUTE: Action.DISPUTE_MADE,
    Act.CLAIM: Action.DISPUTE_CLAIMED,
    Act.RENEW: Action.DISPUTE_CLAIMED,
    Act.RELEASE: Action.DISPUTE_RELEASED,
    Act.LAPSE: Action.DISPUTE_LAPSED,
    Act.DECIDE: Action.ADJUDICATED,
    Act.SETTLE: Action.ADJUDICATED,
    Act.ESCALATE: Action.DISPUTE_ESCALATED,
    Act.REOPEN: Action.DISPUTE_REOPENED,
    Act.WITHDRAW: Action.DISPUTE_WITHDRAWN,
}
_NOT_NOW = {
    _OPEN: "nobody has this dispute; claim it first",
    _REOPENED: "nobody has this dispute, which was reopened; claim it first",
    _ESCALATED: "nobody has this dispute, which was escalated; claim it first",
    _CLAIMED: "an adjudicator has this dispute",
    _SETTLED: "this dispute is settled already",
    _WITHDRAWN: "this case is not in dispute",
}
_REFUSED = {
    Act.DISPUTE: "its decision counts until it is reopened",
    Act.REOPEN: "only what is settled can be reopened",
}


class DisputeError(ValueError):
    """An act that a dispute does not allow now: what was found; nothing was changed."""


class TakenError(DisputeError):
    """A dispute that somebody else has: who (an account id, for those who may know), and since when."""

    def __init__(self, holder: str, since: datetime) -> None:
        super().__init__(taken_words("another adjudicator", since))
        self.holder = holder
        self.since = since


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a dispute stands, without its reads; `group` is empty until it is escalated."""

    case: str
    protocol: str
    state: DisputeState
    round: int
    group: str
    since: datetime
    holder: str | None
    held_since: datetime | None
    held_until: datetime | None

    def held_at(self, at: datetime) -> bool:
        """Whether somebody has it whose time is not over."""
        return self.state == _CLAIMED and self.held_until is not None and self.held_until > at


def taken_words(name: str, since: datetime) -> str:
    return f"{name} has this dispute since {since:%H:%M} UTC. Nothing was changed."


def standing(connection: sa.Connection, case_id: str) -> Standing | None:
    """Where the dispute over a case stands; None where there never was one."""
    row = connection.execute(_STANDING, {"of_case": case_id}).first()
    return None if row is None else standing_of(row)


def standing_of(row: Any) -> Standing:
    return Standing(**{**row._mapping, "state": DisputeState(row.state)})


def locked_case(connection: sa.Connection, case_id: str) -> Any:
    """The case's row, as it and its dispute stay until the transaction ends."""
    return connection.execute(CASE_LOCKED, {"of_case": case_id}).one()


def next_state(before: Standing, act: Act) -> DisputeState:
    """The table's answer; raises `DisputeError` in words where it has none."""
    after = TRANSITIONS.get((before.state, act))
    if after is None:
        words = _REFUSED.get(act) if act is Act.REOPEN or before.state is _SETTLED else None
        raise DisputeError(f"{_NOT_NOW[before.state]}{f'; {words}' if words else ''}. Nothing was changed.")
    return _ESCALATED if after is _OPEN and before.state is _CLAIMED and before.group else after


def move(
    connection: sa.Connection,
    before: Standing,
    act: Act,
    *,
    actor: str,
    at: datetime,
    group: str | None = None,
    **details: Any,
) -> Standing:
    """Do one act and write it down; `group` is whom it is escalated to.

    Raises `DisputeError`, having changed nothing.
    """
    state = next_state(before, act)
    values: dict[str, Any] = {"state": state}
    if act is Act.CLAIM:
        values |= {"holder": actor, "held_since": at, "held_until": at + LEASE}
    elif act is Act.RENEW:
        values |= {"held_until": at + LEASE}
    elif state is not _CLAIMED:
        values |= {"holder": None, "held_since": None, "held_until": None}
    if group is not None:
        values["group"] = group
    if act is Act.REOPEN or (act is Act.DISPUTE and before.state is _WITHDRAWN):
        values |= {"since": at, "group": ""}
    if act is Act.REOPEN or (act is Act.DISPUTE and _decided(connection, before, but_over="")):
        values["round"] = before.round + 1
    table = schema.disputes
    connection.execute(sa.update(table).where(table.c.case == before.case).values(values))
    after = standing(connection, before.case)
    assert after is not None  # noqa: S101  its row was there and nobody deletes one
    details = {"round": after.round, "state": str(state), **details}
    audit.append(connection, actor=actor, action=_ACTIONS[act], subject=before.case, **details)
    return after


def make(connection: sa.Connection, case: Any, *, actor: str, at: datetime, reads: str) -> None:
    """These reads of a case (its row, locked) are in dispute; whoever has the dispute goes on having it.

    What was decided over other reads is no first of two decisions any more: a new round begins.
    """
    before = standing(connection, case.id)
    if before is not None:
        next_state(before, Act.DISPUTE)
        if before.state is _WITHDRAWN or _decided(connection, before, but_over=reads):
            move(connection, before, Act.DISPUTE, actor=actor, at=at, reads=reads)
        return
    number = _rounds_decided(connection, case.id) + 1
    values = {"case": case.id, "protocol": case.protocol, "state": _OPEN, "round": number, "since": at}
    connection.execute(sa.insert(schema.disputes).values(values))
    details = {"round": number, "state": str(_OPEN), "reads": reads}
    audit.append(connection, actor=actor, action=Action.DISPUTE_MADE, subject=case.id, **details)


def withdraw(connection: sa.Connection, case_id: str, *, actor: str, at: datetime, reason: str) -> None:
    """There is no dispute over a case any more."""
    before = standing(connection, case_id)
    if before is not None and before.state is not _WITHDRAWN:
        move(connection, before, Act.WITHDRAW, actor=actor, at=at, reason=reason)


def reopen(
    connection: sa.Connection, case: Any, protocol: Protocol, *, actor: str, at: datetime, reason: str
) -> Standing:
    """Take the decision over a case (its row, locked) back: its reads are judged anew, where they are enough.

    Raises `DisputeError` where nothing is settled.
    """
    before = standing(connection, case.id)
    if before is None:
        raise DisputeError(f"{_NOT_NOW[_WITHDRAWN]}; {_REFUSED[Act.REOPEN]}. Nothing was changed.")
    next_state(before, Act.REOPEN)
    full = case.reads >= protocol.readers_per_case
    tallies.move_outcome(connection, case, Outcome.UNJUDGED if full else Outcome.OPEN)
    row = {"case": case.id, "round": before.round, "actor": actor, "reason": reason, "created": at}
    connection.execute(sa.insert(schema.reopenings).values(row))
    after = move(connection, before, Act.REOPEN, actor=actor, at=at, reason=reason)
    if not full:
        after = move(connection, after, Act.WITHDRAW, actor=actor, at=at, reason="its reads are too few")
    return after


def after_withdrawal(
    connection: sa.Connection, case_id: str, protocol: Protocol, reader: str, *, actor: str, at: datetime, reason: str
) -> None:
    """A reader's reads of a case count no more: a decision based on one is taken back, a dispute may be over."""
    case = locked_case(connection, case_id)
    if case.outcome == Outcome.SETTLED:
        if reader in _readers_decided_on(connection, case_id):
            reopen(connection, case, protocol, actor=actor, at=at, reason=f"a read was withdrawn: {reason}")
    elif case.reads < protocol.readers_per_case:
        withdraw(connection, case_id, actor=actor, at=at, reason="its reads are too few")


def follow_version(connection: sa.Connection, protocol: str, *, actor: str, at: datetime) -> None:
    """Withdraw the disputes over those of a protocol's cases that a new version asks to be read again."""
    table, cases = schema.disputes, schema.cases
    unread = sa.select(table.c.case).join(cases, cases.c.id == table.c.case)
    unread = unread.where(table.c.protocol == protocol, table.c.state != _WITHDRAWN, cases.c.outcome == Outcome.OPEN)
    for case_id in connection.execute(unread.order_by(table.c.case)).scalars().all():
        withdraw(connection, case_id, actor=actor, at=at, reason="a new protocol version asks for more reads")


def readers_before_dispute(protocol: Protocol) -> int:
    """How many must have read a case in dispute before an adjudicator decides."""
    return protocol.readers_per_case + protocol.adjudication.additional_readers


def fits(outcome: Outcome, state: DisputeState | None) -> bool:
    """Whether a dispute can stand so (None: there is none) where its case is so far."""
    if outcome is Outcome.SETTLED:
        return state is _SETTLED
    if outcome is Outcome.DISPUTED:
        return state in UNSETTLED
    return state in (None, _WITHDRAWN) or (outcome is Outcome.UNJUDGED and state in UNSETTLED)


def mend(connection: sa.Connection, case: Any, outcome: Outcome, at: datetime) -> None:
    """Put a dispute that does not fit its case (the row, locked) where the case's reads and decisions put it."""
    table, before = schema.disputes, standing(connection, case.id)
    if fits(outcome, before.state if before is not None else None):
        return
    state = {Outcome.SETTLED: _SETTLED, Outcome.DISPUTED: _OPEN}.get(outcome, _WITHDRAWN)
    values: dict[str, Any] = {"state": state, "holder": None, "held_since": None, "held_until": None}
    if before is not None:
        connection.execute(sa.update(table).where(table.c.case == case.id).values(values))
        return
    number = _rounds_decided(connection, case.id) + (state is not _SETTLED)
    values |= {"case": case.id, "protocol": case.protocol, "round": number, "since": at}
    connection.execute(sa.insert(table).values(values))


def _rounds_decided(connection: sa.Connection, case_id: str) -> int:
    table = schema.adjudications
    return connection.execute(sa.select(sa.func.max(table.c.round)).where(table.c.case == case_id)).scalar() or 0


def _decided(connection: sa.Connection, before: Standing, *, but_over: str) -> bool:
    """Whether somebody decided in this round already over other reads than these."""
    table = schema.adjudications
    of_round = sa.select(table.c.id).where(
        table.c.case == before.case, table.c.round == before.round, table.c.reads != but_over
    )
    return connection.execute(of_round.limit(1)).first() is not None


def _readers_decided_on(connection: sa.Connection, case_id: str) -> set[str]:
    """Whose reads the newest settling decision was based on."""
    table, reads = schema.adjudications, schema.reads
    newest = sa.select(table.c.reads).where(table.c.case == case_id, table.c.settles.is_(True))
    key = connection.execute(newest.order_by(table.c.id.desc()).limit(1)).scalar()
    ids = [int(number) for number in (key or "").split(",") if number]
    return set(connection.execute(sa.select(reads.c.reader).where(reads.c.id.in_(ids))).scalars())


_STANDING = sa.select(schema.disputes).where(schema.disputes.c.case == sa.bindparam("of_case"))
