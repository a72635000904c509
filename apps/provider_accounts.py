"""Accounts of people whom an identity provider vouches for: what it says of somebody in, their `Account` out.

An account is one pair of issuer and subject, made at the first sign-in; a name alone never leads to one, so nobody
becomes somebody else by being called the same there.
"""

import secrets
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from apps.account_rows import account_of_row
from apps.password_sign_in import SERVER, UNKNOWN
from apps.tokens import TokenError
from labeling_protocols import audit, schema
from labeling_protocols.audit import Action
from labeling_protocols.records import Account, Role
from labeling_protocols.store import Store, now

_NAME_MAX = 64
_NAMESAKES = 1000
_TRIES = 20


class NoRoleError(PermissionError):
    """Somebody the provider knows and who has no role at this site."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """Who a provider says somebody is; `groups` is None where groups are given at this site."""

    issuer: str
    subject: str
    name: str
    roles: frozenset[Role]
    groups: frozenset[str] | None


class ProviderAccounts:
    """The accounts of one site that an identity provider signs in."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def sign_in(self, person: Person, *, through: str) -> Account:
        """The person's account with the roles the provider gives now; raises `NoRoleError` or `TokenError`."""
        try:
            account = self._brought_up_to_date(person, ends_sessions=True)
        except (NoRoleError, TokenError):
            self._write_refusal_down(person, through)
            raise
        with self._store.writing() as connection:
            audit.append(connection, actor=account.id, action=Action.SIGNED_IN, subject=account.id, through=through)
        return account

    def recognise(self, person: Person) -> Account:
        """The account of a program's token; it is not a sign-in, and ends none."""
        return self._brought_up_to_date(person, ends_sessions=False)

    def _write_refusal_down(self, person: Person, through: str) -> None:
        with self._store.writing() as connection:
            row = _row(connection, person)
            subject = UNKNOWN if row is None else row.id
            audit.append(connection, actor=SERVER, action=Action.SIGN_IN_REFUSED, subject=subject, through=through)

    def _brought_up_to_date(self, person: Person, *, ends_sessions: bool) -> Account:
        if not person.roles:
            raise NoRoleError(
                "you are known to your organisation's sign-in, and have no role at this site."
                " Ask an administrator for one. No account was made."
            )
        for last in (*[False] * _TRIES, True):
            try:
                return self._taken_over(person, ends_sessions)
            except IntegrityError:  # the same person came twice at once, or somebody of the same name did
                if last:
                    raise
        raise AssertionError("the last try returns or raises")

    def _taken_over(self, person: Person, ends_sessions: bool) -> Account:
        with self._store.writing() as connection:
            row = _row(connection, person)
            if row is None:
                return _make(connection, person)
            if row.disabled:
                raise TokenError("this account is disabled")
            return _update(connection, row, person, ends_sessions)


def _make(connection: sa.Connection, person: Person) -> Account:
    row: dict[str, Any] = {
        "id": secrets.token_hex(8),
        "name": _free_name(connection, person.name),
        "password": None,
        "roles": sorted(person.roles),
        "groups": sorted(person.groups or ()),
        "disabled": False,
        "created": now(),
        "issuer": person.issuer,
        "subject": person.subject,
    }
    connection.execute(sa.insert(schema.accounts).values(row))
    audit.append(
        connection,
        actor=SERVER,
        action=Action.ACCOUNT_ADDED,
        subject=row["id"],
        roles=row["roles"],
        groups=row["groups"],
        provider=True,
    )
    made = _row(connection, person)
    assert made is not None  # noqa: S101  inserted above
    return account_of_row(made)


def _update(connection: sa.Connection, row: sa.Row[Any], person: Person, ends_sessions: bool) -> Account:
    """Take over roles and groups that differ; other roles end what was signed in under the old ones."""
    given: dict[str, Any] = {"roles": sorted(person.roles)}
    if person.groups is not None:
        given["groups"] = sorted(person.groups)
    changed = {key: value for key, value in given.items() if value != getattr(row, key)}
    if not changed:
        return account_of_row(row)
    values = {**changed, **({"tokens_since": now()} if ends_sessions and "roles" in changed else {})}
    connection.execute(sa.update(schema.accounts).where(schema.accounts.c.id == row.id).values(values))
    audit.append(connection, actor=SERVER, action=Action.ACCOUNT_CHANGED, subject=row.id, provider=True, **changed)
    fresh = _row(connection, person)
    assert fresh is not None  # noqa: S101  updated above
    return account_of_row(fresh)


def _row(connection: sa.Connection, person: Person) -> sa.Row[Any] | None:
    table = schema.accounts
    query = sa.select(table).where(table.c.issuer == person.issuer, table.c.subject == person.subject)
    return connection.execute(query).first()


def _free_name(connection: sa.Connection, wanted: str) -> str:
    """The name, or the first of `name 2`, `name 3` … that nobody has."""
    base = "".join(character for character in wanted if character.isprintable()).strip()[: _NAME_MAX - 5] or "somebody"
    for number in range(1, _NAMESAKES):
        name = base if number == 1 else f"{base} {number}"
        if connection.execute(sa.select(schema.accounts.c.id).where(schema.accounts.c.name == name)).first() is None:
            return name
    raise NoRoleError("too many accounts have this name. No account was made.")
