"""Whether a password opens its account: the account's row and a try in, the opened row or None out, with its audit.

What is known, wrong, locked and right is decided within one write transaction, so that a hundred tries at once count
as a hundred. A refusal does the same work whatever its reason, so that nothing can be learnt from it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from apps.passwords import lock_of
from apps.settings import AccountSettings
from labeling_protocols import audit, schema
from labeling_protocols.audit import Action
from labeling_protocols.store import now

SERVER = "server"  # the actor where nobody is known
UNKNOWN = "unknown name"  # what was typed is not kept: people type passwords there


class OneTimePasswordError(PermissionError):
    """The right password, which opens only to be replaced by one of the account's own."""

    def __init__(self) -> None:
        super().__init__(
            "this password is for one time: open this server's page /sign-in in a browser and choose your own"
        )


@dataclass(frozen=True, kw_only=True)
class Try:
    """A password that was typed; `hash` replaces the one kept where it opens, as its `own` where its owner chose it."""

    right: bool
    through: str
    hash: str | None
    own: bool


def judged(
    connection: sa.Connection, seen: sa.Row[Any] | None, tried: Try, settings: AccountSettings
) -> sa.Row[Any] | None:
    """The account's row if this opens it; `seen` is the row that the password was compared with."""
    table, at = schema.accounts, now()
    mine = table.c.id == ("" if seen is None else seen.id)
    row = connection.execute(sa.select(table).where(mine).with_for_update(key_share=True)).first()
    locked = row is not None and row.locked_until is not None and row.locked_until > at
    opens = row is not None and tried.right and not locked and _may_open(row, seen, at)
    if opens and row is not None and row.password_until is not None and not tried.own:
        raise OneTimePasswordError
    values = _opened(tried, at) if opens else _refused(row, locked, at, settings)
    connection.execute(sa.update(table).where(mine).values(values))
    _write_down(connection, row, tried, opens, locks=values["locked_until"] is not None and not locked)
    return row if opens else None


def _may_open(row: sa.Row[Any], seen: sa.Row[Any] | None, at: datetime) -> bool:
    lapsed = row.password_until is not None and row.password_until <= at
    return not row.disabled and not lapsed and seen is not None and row.password == seen.password


def _opened(tried: Try, at: datetime) -> dict[str, Any]:
    values: dict[str, Any] = {"failures": 0, "locked_until": None}
    if tried.hash is not None:
        values["password"] = tried.hash
    if tried.own:
        values |= {"password_until": None, "tokens_since": at}
    return values


def _refused(row: sa.Row[Any] | None, locked: bool, at: datetime, settings: AccountSettings) -> dict[str, Any]:
    """A try during a lock does not count: it could not have opened."""
    if row is not None and locked:
        return {"failures": row.failures, "locked_until": row.locked_until}
    failures = 1 if row is None else row.failures + 1
    lock = lock_of(failures, settings)
    return {"failures": failures, "locked_until": None if lock is None else at + lock}


def _write_down(connection: sa.Connection, row: sa.Row[Any] | None, tried: Try, opens: bool, locks: bool) -> None:
    subject = UNKNOWN if row is None else row.id
    if not opens:
        action = Action.LOCKED_OUT if locks else Action.SIGN_IN_REFUSED
        audit.append(connection, actor=SERVER, action=action, subject=subject, through=tried.through)
        return
    if tried.own:
        audit.append(connection, actor=subject, action=Action.PASSWORD_CHANGED, subject=subject, reset=False)
    audit.append(connection, actor=subject, action=Action.SIGNED_IN, subject=subject, through=tried.through)
