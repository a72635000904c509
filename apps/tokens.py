"""Tokens: an account in, a short-lived JWT signed by the site out; a token in, what it truly says out, or `TokenError`.

EdDSA alone, with issuer, audience, times, ids and the kid of the key required. A token says who somebody is, never
what they may do: that is looked up at each use. Lifetime: 3D Slicer keeps the password and fetches a token anew as
soon as `/auth/token/valid` refuses the old one, and a browser's is renewed while it is used, so an hour costs nobody
work; a program of one's own has to ask again.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization

from apps.settings import Site
from apps.signing_keys import TokenKeys
from labeling_protocols import schema
from labeling_protocols.store import now

AUDIENCE = "overread"
ALGORITHM = "EdDSA"
_REQUIRED = ["sub", "iss", "aud", "iat", "exp", "jti", "sid", "began"]


class TokenError(PermissionError):
    """A token or address that does not identify anybody now."""


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What a valid token says; `session` and `began` stay the same while it is renewed."""

    account: str
    session: str
    began: datetime
    issued: datetime
    expires: datetime


class Tokens:
    """Makes, verifies and ends the tokens of one site; `end` works in a transaction under way."""

    def __init__(self, site: Site) -> None:
        self.lifetime = timedelta(minutes=site.config.accounts.token_minutes)
        self._session = timedelta(hours=site.config.accounts.session_hours)
        self.keys = TokenKeys(site.root / "keys" / "tokens", self.lifetime)
        raw = site.public_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.issuer = f"overread:{hashlib.sha256(raw).hexdigest()[:16]}"

    def make(self, account: str, *, minutes: float | None = None) -> str:
        """A token of a new session, for at most the site's `token_minutes`."""
        at = now()
        lifetime = self.lifetime if minutes is None else min(self.lifetime, timedelta(minutes=minutes))
        return self._signed(account, secrets.token_hex(16), at, at, at + lifetime)

    def renewed(self, claims: Claims) -> str | None:
        """A later token of the same session, or None while that is not needed or the session has lasted its time."""
        at, ends = now(), claims.began + self._session
        if at - claims.issued < self.lifetime / 2 or ends <= claims.expires:
            return None
        return self._signed(claims.account, claims.session, claims.began, at, min(at + self.lifetime, ends))

    def read(self, token: str) -> Claims:
        """What a token says; raises `TokenError` where it is not of this site or has expired.

        Whether its session was ended, `Accounts` looks up with the account.
        """
        try:
            key = self.keys.verifying(str(jwt.get_unverified_header(token).get("kid")))
            if key is None:
                raise TokenError("the token's key is not in use any more; sign in again")
            said = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=self.issuer,
                options={"require": _REQUIRED, "strict_aud": True},
            )
            return _claims(said)
        except (jwt.PyJWTError, TypeError, ValueError, OverflowError) as error:
            raise TokenError("the token is not valid here; sign in again") from error

    def end(self, connection: sa.Connection, claims: Claims) -> None:
        """End a session: every token of it, however often renewed; forgets those that have expired by themselves."""
        table = schema.ended_tokens
        connection.execute(sa.delete(table).where(table.c.expires < now()))
        known = connection.execute(sa.select(table.c.id).where(table.c.id == claims.session)).first()
        if known is None:
            row = {"id": claims.session, "expires": claims.began + self._session + self.lifetime}
            connection.execute(sa.insert(table).values(row))

    def _signed(self, account: str, session: str, began: datetime, at: datetime, expires: datetime) -> str:
        kid, key = self.keys.newest()
        claims = {
            "sub": account,
            "iss": self.issuer,
            "aud": AUDIENCE,
            "iat": at.timestamp(),  # to the microsecond: what ends an account's tokens must not end the next one
            "exp": expires.timestamp(),
            "jti": secrets.token_hex(16),
            "sid": session,
            "began": began.timestamp(),
        }
        return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": kid})


def _claims(said: dict[str, Any]) -> Claims:
    return Claims(
        account=str(said["sub"]),
        session=str(said["sid"])[:32],
        began=_moment(said["began"]),
        issued=_moment(said["iat"]),
        expires=_moment(said["exp"]),
    )


def _moment(seconds: Any) -> datetime:
    return datetime.fromtimestamp(float(seconds), UTC)
