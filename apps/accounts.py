"""Who is calling: a name and password, a token or a reader address in, an `Account` out, or a bare refusal."""

import hashlib
import secrets
from datetime import timedelta
from typing import Any

import argon2
import jwt
import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization

from apps.settings import Site
from labeling_protocols import schema
from labeling_protocols.records import Account, Role
from labeling_protocols.store import Store, now

_ALGORITHM = "EdDSA"
_AUDIENCE = "overread"
_NAME_MAX = 64
_PASSWORD_MIN = 8


class TokenError(PermissionError):
    """A token or address that does not identify anybody now."""


class AccountError(ValueError):
    """An account that cannot be made: what was found, what was expected."""


class Accounts:
    """The site's accounts; argon2id passwords, Ed25519-signed tokens, hashed reader addresses."""

    def __init__(self, store: Store, site: Site) -> None:
        self._store = store
        self._key = site.signing_key
        raw = self._key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self._issuer = f"overread:{hashlib.sha256(raw).hexdigest()[:16]}"
        self._hasher = argon2.PasswordHasher()
        # Verified against when the name is unknown, so that an answer takes as long as for a known one.
        self._nobody = self._hasher.hash(secrets.token_hex(16))

    def add(self, name: str, password: str, roles: frozenset[Role]) -> Account:
        """Make an account; its id is random and stands for the person in everything that is kept."""
        if not name.strip() or len(name) > _NAME_MAX or not name.isprintable():
            raise AccountError(f"an account name has 1 to {_NAME_MAX} printable characters. No account was made.")
        if len(password) < _PASSWORD_MIN:
            raise AccountError(f"a password has at least {_PASSWORD_MIN} characters. No account was made.")
        row = {
            "id": secrets.token_hex(8),
            "name": name,
            "password": self._hasher.hash(password),
            "roles": sorted(roles),
            "disabled": False,
            "created": now(),
        }
        try:
            with self._store.writing() as connection:
                connection.execute(sa.insert(schema.accounts).values(row))
        except sa.exc.IntegrityError as error:
            raise AccountError("an account of this name exists already. No account was made.") from error
        return _account(row)

    def find(self, name: str) -> Account | None:
        return self._one(schema.accounts.c.name == name)

    def all(self) -> list[Account]:
        with self._store.engine.connect() as connection:
            rows = connection.execute(sa.select(schema.accounts).order_by(schema.accounts.c.name)).all()
        return [_account(row._mapping) for row in rows]

    def set_password(self, name: str, password: str) -> None:
        """Replace a password, or raise `AccountError`."""
        if len(password) < _PASSWORD_MIN:
            raise AccountError(f"a password has at least {_PASSWORD_MIN} characters. Nothing was changed.")
        table = schema.accounts
        with self._store.writing() as connection:
            change = sa.update(table).where(table.c.name == name).values(password=self._hasher.hash(password))
            if connection.execute(change).rowcount == 0:
                raise AccountError("no account of this name. Nothing was changed.")

    def sign_in(self, name: str, password: str) -> Account | None:
        """The account whose password this is, if it is not disabled."""
        query = sa.select(schema.accounts).where(schema.accounts.c.name == name)
        with self._store.engine.connect() as connection:
            row = connection.execute(query).first()
        try:
            self._hasher.verify(row.password if row is not None else self._nobody, password)
        except argon2.exceptions.VerifyMismatchError:
            return None
        return _account(row._mapping) if row is not None and not row.disabled else None

    def token(self, account: Account, *, minutes: int = 720) -> str:
        """A JWT that names the account; who he is and what he may do is looked up afresh at each use."""
        at = now()
        claims = {
            "sub": account.id,
            "iss": self._issuer,
            "aud": _AUDIENCE,
            "iat": at,
            "exp": at + timedelta(minutes=minutes),
        }
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM)

    def account_of(self, token: str) -> Account:
        """Raises `TokenError` for a token that is not this site's, has expired, or whose account is disabled."""
        try:
            claims = jwt.decode(
                token,
                self._key.public_key(),
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                issuer=self._issuer,
                options={"require": ["sub", "iss", "aud", "exp"]},
            )
        except jwt.PyJWTError as error:
            raise TokenError("the token is not valid here; sign in again") from error
        return self._enabled(schema.accounts.c.id == claims["sub"])

    def new_address(self, account: Account, *, days: int = 30) -> str:
        """The secret of a server address `…/u/<secret>` that stands for this account; shown now and never again."""
        secret = secrets.token_urlsafe(24)
        at = now()
        row = {
            "secret": _hashed(secret),
            "account": account.id,
            "created": at,
            "expires": at + timedelta(days=days),
            "revoked": False,
        }
        with self._store.writing() as connection:
            connection.execute(sa.insert(schema.addresses).values(row))
        return secret

    def revoke_addresses(self, account: Account) -> int:
        """End every address of this account; how many were in use."""
        table = schema.addresses
        change = sa.update(table).where(table.c.account == account.id, ~table.c.revoked).values(revoked=True)
        with self._store.writing() as connection:
            return connection.execute(change).rowcount

    def account_of_address(self, secret: str) -> Account:
        """Raises `TokenError` for an address that is unknown, revoked or expired, or whose account is disabled."""
        table = schema.addresses
        query = sa.select(table.c.account).where(
            table.c.secret == _hashed(secret), ~table.c.revoked, table.c.expires > now()
        )
        with self._store.engine.connect() as connection:
            account_id = connection.execute(query).scalar()
        if account_id is None:
            raise TokenError("this address is not valid, or not any more; ask for a new one")
        return self._enabled(schema.accounts.c.id == account_id)

    def _enabled(self, condition: sa.ColumnElement[bool]) -> Account:
        account = self._one(condition)
        if account is None or account.disabled:
            raise TokenError("this account is disabled")
        return account

    def _one(self, condition: sa.ColumnElement[bool]) -> Account | None:
        with self._store.engine.connect() as connection:
            row = connection.execute(sa.select(schema.accounts).where(condition)).first()
        return None if row is None else _account(row._mapping)


def _account(row: Any) -> Account:
    return Account(
        id=row["id"],
        name=row["name"],
        roles=frozenset(Role(role) for role in row["roles"]),
        disabled=row["disabled"],
    )


def _hashed(secret: str) -> str:
    """The secret is 192 random bits, so a plain hash keeps it."""
    return hashlib.sha256(secret.encode()).hexdigest()
