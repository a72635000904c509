"""Personal server addresses `…/u/<secret>` for viewers that cannot sign in: an account in, a secret shown once out.

Only the secret's SHA-256 is kept (it is 192 random bits, so a plain hash keeps it); its `id` names it on pages and in
the audit. Whoever has an address acts as its account until it expires or is revoked.
"""

import hashlib
import logging
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from apps.tokens import TokenError
from labeling_protocols import audit, schema
from labeling_protocols.audit import Action
from labeling_protocols.store import Store, now

TITLE_MAX = 64
DAYS_MAX = 366
_NOTED_EVERY = timedelta(minutes=5)  # when an address was used last is written no oftener: it costs a commit

log = logging.getLogger("overread.addresses")


class AddressError(ValueError):
    """An address that cannot be made or ended: what was found, what was expected."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """An address as its owner sees it in the list; the secret is not known any more."""

    id: str
    account: str
    title: str
    created: datetime
    expires: datetime
    last_used: datetime | None
    revoked: bool

    @property
    def in_use(self) -> bool:
        return not self.revoked and self.expires > now()


class Addresses:
    """The addresses of one site."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def make(self, account: str, *, actor: str, days: float = 30, title: str = "") -> str:
        """The secret of a new address, shown now and never again."""
        if len(title) > TITLE_MAX or not title.isprintable():
            raise AddressError(f"a title has at most {TITLE_MAX} printable characters. No address was made.")
        if days > DAYS_MAX:
            raise AddressError(f"an address is valid for at most {DAYS_MAX} days, not {days:g}. No address was made.")
        secret, at = secrets.token_urlsafe(24), now()
        row = {
            "secret": _hashed(secret),
            "id": secrets.token_hex(8),
            "account": account,
            "title": title.strip(),
            "created": at,
            "expires": at + timedelta(days=days),
            "revoked": False,
        }
        with self._store.writing() as connection:
            connection.execute(sa.insert(schema.addresses).values(row))
            audit.append(
                connection,
                actor=actor,
                action=Action.ADDRESS_MADE,
                subject=account,
                address=row["id"],
                expires=row["expires"],
            )
        return secret

    def of(self, account: str) -> list[Address]:
        """An account's addresses, newest first, the ended ones too."""
        table = schema.addresses
        query = sa.select(*_SHOWN).where(table.c.account == account).order_by(table.c.created.desc(), table.c.id)
        with self._store.engine.connect() as connection:
            return [Address(**row._mapping) for row in connection.execute(query)]

    def revoke(self, account: str, address: str, *, actor: str) -> None:
        """End one address of this account; raises `AddressError` where the account has no such one in use."""
        if self._revoke(account, actor, schema.addresses.c.id == plain(address)) == 0:
            raise AddressError("this account has no such address in use. Nothing was changed.")

    def revoke_all(self, account: str, *, actor: str) -> int:
        """End every address of this account; how many were in use."""
        return self._revoke(account, actor, sa.true())

    def holder(self, secret: str) -> str:
        """The id of the account an address stands for; raises `TokenError` for one unknown, revoked or expired."""
        table, at = schema.addresses, now()
        query = sa.select(table.c.id, table.c.account, table.c.last_used).where(
            table.c.secret == _hashed(secret), ~table.c.revoked, table.c.expires > at
        )
        with self._store.engine.connect() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise TokenError("this address is not valid, or not any more; ask for a new one")
        if row.last_used is None or at - row.last_used >= _NOTED_EVERY:
            self._note_use(row.id, at)
        return str(row.account)

    def _note_use(self, address: str, at: datetime) -> None:
        """Whoever reads may go on where this cannot be written."""
        table = schema.addresses
        try:
            with self._store.writing() as connection:
                connection.execute(sa.update(table).where(table.c.id == address).values(last_used=at))
        except OperationalError as error:
            log.warning("the use of an address could not be noted: %s", type(error.orig).__name__)

    def _revoke(self, account: str, actor: str, condition: sa.ColumnElement[bool]) -> int:
        with self._store.writing() as connection:
            return end_addresses(connection, account, actor, condition)


def end_addresses(
    connection: sa.Connection, account: str, actor: str, condition: sa.ColumnElement[bool] | None = None
) -> int:
    """Revoke an account's addresses in a transaction under way, as its last deed; how many were in use."""
    table = schema.addresses
    mine = sa.and_(table.c.account == account, ~table.c.revoked, table.c.expires > now())
    chosen = mine if condition is None else sa.and_(mine, condition)
    ended = connection.execute(sa.select(table.c.id).where(chosen).order_by(table.c.id)).scalars().all()
    connection.execute(sa.update(table).where(table.c.id.in_(ended)).values(revoked=True))
    for address in ended:
        audit.append(connection, actor=actor, action=Action.ADDRESS_REVOKED, subject=account, address=address)
    return len(ended)


_SHOWN = [column for column in schema.addresses.c if column.name != "secret"]


def plain(typed: str) -> str:
    """What was typed, or nothing where no name or id could be so: databases refuse some characters in a question."""
    return typed if typed.isprintable() else ""


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
