"""Who calls and what he may do: an HTTP request in, a `Caller` who holds a permitted role out, or a refusal in words.

Identity comes from a signed token alone, from a browser's cookie that holds such a token, or from a personal address
`/u/<secret>/…`, which middleware takes off the path before anything else sees it. Secrets are never logged.
"""

import hashlib
import hmac
import logging
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote, urlsplit

from fastapi import Depends, HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.accounts import Accounts, TokenError
from labeling_protocols.records import Account, Role

COOKIE = "overread_session"
CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf"

_ADDRESS = "/u/"
_SECRET = "overread.address"  # noqa: S105  a key of the ASGI scope
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

access_log = logging.getLogger("overread.access")


class Means(StrEnum):
    """How a caller showed who he is."""

    TOKEN = "token"  # noqa: S105  a word, no secret
    ADDRESS = "address"
    COOKIE = "cookie"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """An account that called; `csrf` is what his forms must carry, empty unless a cookie says who he is."""

    account: Account
    means: Means
    csrf: str = ""

    def has(self, *roles: Role) -> bool:
        return bool(self.account.roles.intersection(roles))


class Identities:
    """Finds out who calls; one for a server."""

    def __init__(self, accounts: Accounts, secret: bytes) -> None:
        self.accounts = accounts
        self._secret = secret

    def caller(self, request: Request) -> Caller | None:
        """Who calls, or None where nothing says so; raises `TokenError` where what says so is not valid."""
        address: str | None = request.scope.get(_SECRET)
        if address is not None:
            return Caller(account=self.accounts.account_of_address(address), means=Means.ADDRESS)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme:
            if scheme.lower() != "bearer":
                raise TokenError("expected a bearer token; sign in again")
            return Caller(account=self.accounts.account_of(token.strip()), means=Means.TOKEN)
        cookie = request.cookies.get(COOKIE)
        if cookie:
            return Caller(account=self.accounts.account_of(cookie), means=Means.COOKIE, csrf=self.csrf(cookie))
        return None

    def csrf(self, cookie: str) -> str:
        """A value that only pages served to the holder of this cookie know."""
        return hmac.new(self._secret, b"csrf " + cookie.encode(), hashlib.sha256).hexdigest()


class Guard:
    """A route's dependency: the caller, who holds one of `roles` (any account where there are none)."""

    def __init__(self, roles: frozenset[Role], means: frozenset[Means]) -> None:
        self.roles = roles
        self.means = means

    async def __call__(self, request: Request) -> Caller:
        identities: Identities = request.app.state.identities
        try:
            caller = await run_in_threadpool(identities.caller, request)
        except TokenError as error:
            raise _unauthenticated(str(error)) from error
        if caller is None or caller.means not in self.means:
            raise _unauthenticated("sign in first")
        if self.roles and not caller.has(*self.roles):
            needed = " or ".join(sorted(self.roles))
            raise HTTPException(403, f"this needs the role {needed}. Nothing was done.")
        if caller.means is Means.COOKIE and request.method not in _SAFE_METHODS:
            await self._require_own_page(request, caller)
        return caller

    async def _require_own_page(self, request: Request, caller: Caller) -> None:
        """Refuse what another site made this browser send."""
        given = request.headers.get(CSRF_HEADER, "")
        if not given and "form" in request.headers.get("content-type", ""):
            given = str((await request.form()).get(CSRF_FIELD, ""))
        if not same_origin(request) or not hmac.compare_digest(given.encode(), caller.csrf.encode()):
            raise HTTPException(403, "this request did not come from a page of this server. Nothing was done.")


def requires(*roles: Role, means: tuple[Means, ...] = tuple(Means)) -> Any:
    """`Annotated[Caller, requires(Role.READER)]`: the caller, once he is known and permitted."""
    return Depends(Guard(frozenset(roles), frozenset(means)))


def same_origin(request: Request) -> bool:
    """Whether a browser says that a page of this server sent this; programs say nothing and are believed."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    return site in (None, "same-origin", "none") and (
        origin is None or urlsplit(origin).netloc == request.headers.get("host", "")
    )


def at_address(request: Request) -> bool:
    """Whether this came to a personal address."""
    return _SECRET in request.scope


class IdentityMiddleware:
    """Takes `/u/<secret>` off the path, logs each request without secrets, and sets headers every answer carries."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = _without_address(scope)
        began, status = time.monotonic(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            path = quote(scope["path"], safe="/")[:200]
            prefix = "/u/…" if _SECRET in scope else ""
            took_ms = 1000 * (time.monotonic() - began)
            access_log.info("%s %s%s %d %.0f ms", scope["method"], prefix, path, status, took_ms)


_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),  # `no-referrer` would make browsers send forms with Origin: null
]


def _without_address(scope: Scope) -> Scope:
    path: str = scope["path"]
    if not path.startswith(_ADDRESS):
        return scope
    secret, slash, rest = path.removeprefix(_ADDRESS).partition("/")
    raw = f"/{rest}" if slash else "/"
    return {**scope, "path": raw, "raw_path": quote(raw, safe="/").encode(), _SECRET: secret}


def _unauthenticated(words: str) -> HTTPException:
    return HTTPException(401, words, headers={"WWW-Authenticate": "Bearer"})
