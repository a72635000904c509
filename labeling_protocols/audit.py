"""What was done, by whom: an entry in, appended to a chain of hashes; the chain in, the first broken entry out.

An entry is written in the transaction that does what it tells, as that transaction's last statement: neither can be
there without the other. Subjects and details are ids and numbers, never names of patients, secrets or voxels.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from labeling_protocols import schema

_NOTHING = "0" * 64
_LOCK = 0x6F766572  # PostgreSQL's advisory lock on the chain's end, held to the end of the transaction
_BATCH = 1000


class Action(StrEnum):
    """What can be done."""

    SITE_MADE = "site made"
    SITE_BACKED_UP = "site backed up"
    SITE_RESTORED = "site restored"
    PROTOCOL_ADDED = "protocol added"
    CASE_ADDED = "case added"
    STRATA_LEARNED = "strata learned"
    CHANNELS_ADDED = "channels added"
    CASES_RANKED = "cases ranked"
    CALIBRATION_SET = "calibration set"
    SEAT_CLAIMED = "seat claimed"
    SEAT_LAPSED = "seat lapsed"
    SEAT_SKIPPED = "seat skipped"
    SEAT_REASSIGNED = "seat reassigned"
    READ_SAVED = "read saved"
    READ_WITHDRAWN = "read withdrawn"
    READ_ADOPTED = "read adopted"
    READ_REVIEWED = "read reviewed"
    PRELABEL_KEPT = "prelabel kept"
    PRELABEL_SHOWN = "prelabel shown"
    DISPUTE_MADE = "dispute made"
    DISPUTE_CLAIMED = "dispute claimed"
    DISPUTE_RELEASED = "dispute released"
    DISPUTE_LAPSED = "dispute lapsed"
    DISPUTE_ESCALATED = "dispute escalated"
    DISPUTE_REOPENED = "dispute reopened"
    DISPUTE_WITHDRAWN = "dispute withdrawn"
    EDIT_BEGUN = "edit begun"
    EDIT_SAVED = "edit saved"
    ADJUDICATED = "adjudicated"
    LABELS_EXPORTED = "labels exported"
    ACCOUNT_ADDED = "account added"
    ACCOUNT_CHANGED = "account changed"
    PASSWORD_CHANGED = "password changed"  # noqa: S105  a word, no secret
    SIGNED_IN = "signed in"
    SIGN_IN_REFUSED = "sign-in refused"
    SIGNED_OUT = "signed out"
    LOCKED_OUT = "locked out"
    ADDRESS_MADE = "address made"
    ADDRESS_REVOKED = "address revoked"
    KEY_ROTATED = "key rotated"
    SNAPSHOT_TAKEN = "snapshot taken"
    TRAINING_ASKED = "training asked"
    MODEL_RELEASED = "model released"
    MODEL_TRIED = "model tried"  # as a canary or a shadow, or no more
    GATE_OVERRIDDEN = "gate overridden"
    RESULT_SENT = "result sent"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that was done; `at` is ISO 8601 in UTC."""

    id: int
    at: str
    actor: str
    action: str
    subject: str
    details: str
    hash: str

    def hash_after(self, previous: str) -> str:
        """What the hash must be after the entry of hash `previous`."""
        content = [self.id, self.at, self.actor, self.action, self.subject, self.details]
        return hashlib.sha256(previous.encode() + json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ChainReport:
    """`broken` is the id of the first entry that is not what was written, or None; `head` the last hash."""

    entries: int
    head: str
    broken: int | None
    reason: str


def append(connection: sa.Connection, *, actor: str, action: Action, subject: str, **details: Any) -> None:
    """Add an entry at the chain's end; no other transaction can add one before this one ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(_TAKE_END, {"lock": _LOCK})
    last = connection.execute(_END).first()
    entry = Entry(
        id=last.id + 1 if last else 1,
        at=datetime.now(UTC).isoformat(),
        actor=actor,
        action=action.value,
        subject=subject,
        details=json.dumps(details, sort_keys=True, default=str),
        hash="",
    )
    values = {**entry.__dict__, "hash": entry.hash_after(last.hash if last else _NOTHING)}
    connection.execute(_INSERT, values)


def entries(connection: sa.Connection, *, after: int = 0) -> Iterator[Entry]:
    """The chain from its entry `after` on, in order, read in pieces."""
    table = schema.audit
    while True:
        query = sa.select(table).where(table.c.id > after).order_by(table.c.id).limit(_BATCH)
        rows = connection.execute(query).all()
        for row in rows:
            yield Entry(**row._mapping)
        if len(rows) < _BATCH:
            return
        after = rows[-1].id


def verify(connection: sa.Connection, *, head: str | None = None) -> ChainReport:
    """Recompute every hash; `head`, a hash noted earlier, must be one of the chain's: it shows a chain cut short."""
    previous, count, seen = _NOTHING, 0, head is None
    for entry in entries(connection):
        count += 1
        if entry.id != count:
            return ChainReport(
                entries=count, head=previous, broken=count, reason=f"entry {count} is missing; {entry.id} stands there"
            )
        if entry.hash != entry.hash_after(previous):
            reason = f"entry {entry.id} is not what was written, or the one before it was changed"
            return ChainReport(entries=count, head=previous, broken=entry.id, reason=reason)
        previous = entry.hash
        seen = seen or previous == head
    if not seen:
        reason = f"no entry has the hash {head}: entries after {count} are missing"
        return ChainReport(entries=count, head=previous, broken=count + 1, reason=reason)
    return ChainReport(entries=count, head=previous, broken=None, reason="")


_END = sa.select(schema.audit.c.id, schema.audit.c.hash).order_by(schema.audit.c.id.desc()).limit(1)
_INSERT = sa.insert(schema.audit)
_TAKE_END = sa.text("select pg_advisory_xact_lock(:lock)")
