"""What an identity provider publishes of itself: its issuer in; its endpoints, and what its tokens say, out.

The discovery document and the keys (JWKS) are kept for an hour and asked for again when a token names a kid that is not
among them, at most twice a minute, so that nobody can make this server hammer the provider. While the provider does
not answer, keys that are less than a day old still verify.
"""

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import jwt
import requests

from apps.settings import ProviderSettings
from apps.tokens import TokenError

_FRESH_S = 3600.0
_STALE_S = 24 * 3600.0
_PAUSE_S = 30.0
_TIMEOUT_S = 5.0
_LEEWAY_S = 30.0  # two machines' clocks
_KINDS = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}

log = logging.getLogger("overread.oidc")


class ProviderUnreachableError(RuntimeError):
    """The identity provider does not answer, or not as one."""

    def __init__(self) -> None:
        super().__init__(
            "your organisation's sign-in does not answer now. Try again later; accounts of this server can sign in."
            " Nothing was done."
        )


@dataclass
class _Kept:
    """What the provider said, and when (on the monotonic clock) it was asked and answered last."""

    document: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, jwt.PyJWK] = field(default_factory=dict)
    asked: float = -_STALE_S
    answered: float = -_STALE_S


class ProviderKeys:
    """A provider's endpoints and keys, asked for when they are needed first."""

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._kept = _Kept()
        self._lock = threading.Lock()

    def endpoint(self, name: str, *, required: bool = True) -> str:
        """An address of the discovery document; raises `ProviderUnreachableError`."""
        value = self._fresh().document.get(name, "")
        if not isinstance(value, str) or not _secure(value, self._settings.issuer):
            if not required:
                return ""
            refused(f"its discovery document has no usable {name}")
            raise ProviderUnreachableError
        return value

    def authentication(self, has_secret: bool) -> str:
        """How this client shows who it is at the token endpoint."""
        offered = self._fresh().document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if not has_secret:
            return "none"
        return "client_secret_basic" if "client_secret_basic" in offered else "client_secret_post"

    def answers_with_issuer(self) -> bool:
        """Whether what a browser brings back from this provider always names it."""
        return self._fresh().document.get("authorization_response_iss_parameter_supported") is True

    def read(self, token: str, *, audience: str) -> dict[str, Any]:
        """A token's claims; raises `TokenError` where it is not this provider's, for this audience, now."""
        try:
            header = jwt.get_unverified_header(token)
            key = self._key(str(header.get("kid", "")))
            if _KINDS.get(str(header.get("alg"))) != key.key_type:
                raise TokenError("the token's algorithm is not one of its key")
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=list(self._settings.algorithms),
                audience=audience,
                issuer=self._settings.issuer,
                leeway=_LEEWAY_S,
                options={"require": ["iss", "sub", "aud", "exp", "iat"]},
            )
        except (jwt.PyJWTError, TypeError, ValueError) as error:
            raise TokenError("the provider's token is not valid here; sign in again") from error
        return claims

    def _key(self, kid: str) -> jwt.PyJWK:
        key = self._fresh().keys.get(kid)
        if key is None:
            key = self._fresh(anew=True).keys.get(kid)
        if key is None:
            raise TokenError("the token's key is not one of the provider's")
        return key

    def _fresh(self, *, anew: bool = False) -> _Kept:
        """What the provider says; asked for where that is old, or is wanted `anew`, and was not just asked for."""
        with self._lock:
            at = time.monotonic()
            if (anew or at - self._kept.answered > _FRESH_S) and at - self._kept.asked >= _PAUSE_S:
                self._kept.asked = at
                self._ask(at)
            if at - self._kept.answered > _STALE_S:
                raise ProviderUnreachableError
            return self._kept

    def _ask(self, at: float) -> None:
        issuer = self._settings.issuer
        try:
            document = _json(issuer.rstrip("/") + "/.well-known/openid-configuration")
            if document.get("issuer") != issuer:
                raise ValueError("its discovery document names another issuer")
            address = str(document.get("jwks_uri", ""))
            if not _secure(address, issuer):
                raise ValueError("its discovery document has no usable jwks_uri")
            keys = _signing_keys(_json(address))
        except (requests.RequestException, ValueError, jwt.PyJWTError) as error:
            refused("it did not say what its keys are", error)
            return
        self._kept = _Kept(document=document, keys=keys, asked=at, answered=at)


def refused(what: str, error: Exception | None = None) -> None:
    """Say in the log why the provider was no help; never what it sent, which may hold secrets."""
    log.warning("the identity provider was no help: %s%s", what, f" ({type(error).__name__})" if error else "")


def _json(address: str) -> dict[str, Any]:
    answer = requests.get(address, timeout=_TIMEOUT_S, allow_redirects=False)
    answer.raise_for_status()
    said = answer.json()
    if answer.status_code != 200 or not isinstance(said, dict):
        raise ValueError("expected a JSON object")
    return said


def _signing_keys(said: dict[str, Any]) -> dict[str, jwt.PyJWK]:
    """The published keys that sign, by kid; those this server cannot use are left out."""
    keys = {}
    for one in said.get("keys", []):
        if isinstance(one, dict) and one.get("use", "sig") == "sig" and one.get("kty") in _KINDS.values():
            try:
                keys[str(one.get("kid", ""))] = jwt.PyJWK(one)
            except jwt.PyJWTError as error:
                refused("it publishes a key of an unknown kind", error)
    return keys


def _secure(address: str, issuer: str) -> bool:
    """Secrets go over TLS, except to a provider on this very machine."""
    return address.startswith("https://") or (issuer.startswith("http://") and address.startswith("http://"))
