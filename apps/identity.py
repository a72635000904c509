"""Who calls and what they may do: a request in, a `Caller` who holds a permitted role out, or a refusal in words.

Identity comes from a signed token alone, from a browser's cookie that holds such a token, or from a personal address
`/u/<secret>/…`, which middleware takes off the path before anything else sees it. The access log names the route that
answered, never what was typed: there is no form of a secret, or of a patient's number, that could slip into it.
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
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.accounts import Accounts, TokenError
from apps.provider_sign_in import ProviderSignIn
from apps.tokens import Claims
from labeling_protocols.records import Account, Role

COOKIE = "overread_session"
CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf"

_ADDRESS = "/u/"
_SECRET = "overread.address"  # noqa: S105  a key of the ASGI scope
_SET_COOKIES = "overread.cookies"  # likewise: what the answer's Set-Cookie headers will be
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

access_log = logging.getLogger("overread.access")


class Means(StrEnum):
    """How callers show who they are."""

    TOKEN = "token"  # noqa: S105  a word, no secret
    ADDRESS = "address"
    COOKIE = "cookie"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """An account that called.

    `claims` are those of the site's own token, None where there is none; `csrf` is what forms must carry, empty unless
    a cookie says who calls.
    """

    account: Account
    means: Means
    csrf: str = ""
    claims: Claims | None = None

    def has(self, *roles: Role) -> bool:
        return bool(self.account.roles.intersection(roles))


class Identities:
    """Finds out who calls; one for a server."""

    def __init__(self, accounts: Accounts, secret: bytes, provider: ProviderSignIn | None = None) -> None:
        self.accounts = accounts
        self.provider = provider
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
            return self._bearer(token.strip())
        cookie = request.cookies.get(COOKIE)
        if cookie:
            account, claims = self.accounts.holder(cookie)
            return Caller(account=account, means=Means.COOKIE, csrf=self.csrf(claims), claims=claims)
        return None

    def csrf(self, claims: Claims) -> str:
        """A value that only pages served to this session know; it outlives the renewal of the session's token."""
        return hmac.new(self._secret, b"csrf " + claims.session.encode(), hashlib.sha256).hexdigest()

    def set_cookie(self, answer: Response, request: Request, token: str) -> None:
        """Sign a browser in: scripts cannot read the cookie, and other sites cannot make it be sent."""
        answer.set_cookie(
            COOKIE,
            token,
            max_age=round(self.accounts.tokens.lifetime.total_seconds()),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )

    def renew(self, request: Request, caller: Caller) -> None:
        """Give a browser that is used a later token before its present one expires."""
        token = self.accounts.tokens.renewed(caller.claims) if caller.claims else None
        if token is not None:
            carrier = Response()
            self.set_cookie(carrier, request, token)
            request.scope[_SET_COOKIES].append((b"set-cookie", carrier.headers["set-cookie"].encode()))

    def _bearer(self, token: str) -> Caller:
        if self.provider is not None and self.provider.issued(token):
            return Caller(account=self.provider.account_of(token), means=Means.TOKEN)
        account, claims = self.accounts.holder(token)
        return Caller(account=account, means=Means.TOKEN, claims=claims)


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
        if caller.means is Means.COOKIE:
            identities.renew(request, caller)
        return caller

    async def _require_own_page(self, request: Request, caller: Caller) -> None:
        """Refuse what another site made this browser send."""
        given = request.headers.get(CSRF_HEADER, "")
        if not given and "form" in request.headers.get("content-type", ""):
            given = str((await request.form()).get(CSRF_FIELD, ""))
        if not same_origin(request) or not hmac.compare_digest(given.encode(), caller.csrf.encode()):
            raise HTTPException(403, "this request did not come from a page of this server. Nothing was done.")


def requires(*roles: Role, means: tuple[Means, ...] = tuple(Means)) -> Any:
    """`Annotated[Caller, requires(Role.READER)]`: the caller, once known and permitted."""
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
    """Takes `/u/<secret>` off the path, logs each request's route, and sets headers every answer carries."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = {**_without_address(scope), _SET_COOKIES: []}
        began, status = time.monotonic(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_HEADERS, *scope[_SET_COOKIES]]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", "no such route")
            prefix = "/u/…" if _SECRET in scope else ""
            took_ms = 1000 * (time.monotonic() - began)
            access_log.info("%s %s%s %d %.0f ms", scope["method"], prefix, route, status, took_ms)


_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),  # `no-referrer` would make browsers send forms with Origin: null
]


def _without_address(scope: Scope) -> Scope:
    """Several slashes count as one here: who types one too many is not to see the secret in an error's address."""
    path: str = "/" + scope["path"].lstrip("/")
    if not path.startswith(_ADDRESS):
        return scope
    secret, slash, rest = path.removeprefix(_ADDRESS).partition("/")
    raw = f"/{rest.lstrip('/')}" if slash else "/"
    return {**scope, "path": raw, "raw_path": quote(raw, safe="/").encode(), _SECRET: secret}


def _unauthenticated(words: str) -> HTTPException:
    return HTTPException(401, words, headers={"WWW-Authenticate": "Bearer"})
