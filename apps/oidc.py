"""Sign-in through an OpenID Connect provider: a browser sent there and what it comes back with in, a `Person` out.

Authorization code with PKCE, state and nonce. What has to be remembered meanwhile travels encrypted in a cookie of the
browser that asked. A program may bring the provider's own access token, where the site names an audience for it.
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from cryptography.fernet import Fernet, InvalidToken

from apps.provider_accounts import Person
from apps.provider_keys import ProviderKeys, ProviderUnreachableError, refused
from apps.settings import ProviderSettings, Site, SiteError
from apps.tokens import TokenError
from labeling_protocols.protocol_parts import NAME_PATTERN
from labeling_protocols.records import Role

PENDING_S = 600  # how long somebody may take at the provider
_TIMEOUT_S = 10
_SUBJECT_MAX = 255  # OpenID Connect Core 1.0, section 2


class ProviderRefusalError(PermissionError):
    """The provider did not sign somebody in, or what came back is not an answer to what was asked."""


@dataclass(frozen=True, kw_only=True)
class Departure:
    """Where a browser is sent, and what it keeps in a cookie until it comes back."""

    address: str
    pending: str


class Provider:
    """The provider of one site."""

    def __init__(self, site: Site, settings: ProviderSettings) -> None:
        self.settings = settings
        self.keys = ProviderKeys(settings)
        self._secret = _client_secret(site, settings)
        key = hmac.new(site.secret, b"pending sign-ins", hashlib.sha256).digest()
        self._sealing = Fernet(base64.urlsafe_b64encode(key))

    def depart(self, redirect_uri: str, then: str) -> Departure:
        """Send a browser to the provider; `then` is where it goes once it is signed in."""
        verifier, nonce = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
        with self._session(redirect_uri) as session:
            address, state = session.create_authorization_url(
                self.keys.endpoint("authorization_endpoint"), nonce=nonce, code_verifier=verifier
            )
        kept = {"state": state, "nonce": nonce, "verifier": verifier, "redirect_uri": redirect_uri, "then": then}
        return Departure(address=address, pending=self._sealing.encrypt(json.dumps(kept).encode()).decode())

    def arrive(self, pending: str, answer: dict[str, str]) -> tuple[Person, str]:
        """Who came back with this answer (the query of the redirect), and where they go then.

        Raises `ProviderRefusalError`, or `ProviderUnreachableError` where the provider does not answer.
        """
        try:
            kept = json.loads(self._sealing.decrypt(pending.encode(), ttl=PENDING_S))
        except (InvalidToken, ValueError) as error:
            raise ProviderRefusalError("this sign-in took too long or began in another browser; start again") from error
        state = answer.get("state", "")
        if not hmac.compare_digest(state.encode(), kept["state"].encode()):
            raise ProviderRefusalError("this answer belongs to another sign-in; start again")
        # RFC 9207: a provider that says it names itself in its answers must do so.
        silent = "" if self.keys.answers_with_issuer() else self.settings.issuer
        if answer.get("iss", silent) != self.settings.issuer:
            raise ProviderRefusalError("this answer comes from another provider; start again")
        if "code" not in answer:
            raise ProviderRefusalError("your organisation's sign-in did not let you in")
        return self._person_of_code(answer["code"], kept), kept["then"]

    def person_of(self, token: str) -> tuple[Person, dict[str, Any]]:
        """Who the provider's access token stands for, and its claims; raises `TokenError`."""
        if not self.settings.audience:
            raise TokenError("this site accepts no tokens of the identity provider; sign in here")
        claims = self.keys.read(token, audience=self.settings.audience)
        # An ID token tells a program who came to it; it is not a key to others, and often has the same audience.
        if "nonce" in claims or "at_hash" in claims:
            raise TokenError("this is an ID token; expected an access token")
        return self._person(claims), claims

    def _person_of_code(self, code: str, kept: dict[str, str]) -> Person:
        try:
            with self._session(kept["redirect_uri"]) as session:
                answer = session.fetch_token(
                    self.keys.endpoint("token_endpoint"), code=code, code_verifier=kept["verifier"], timeout=_TIMEOUT_S
                )
                claims = self._id_claims(str(answer.get("id_token", "")), kept["nonce"])
                if self._claim(claims, self.settings.roles_claim) is None:
                    claims = {**self._userinfo(session, claims["sub"]), **claims}
            return self._person(claims)
        except requests.RequestException as error:
            raise ProviderUnreachableError from error
        except AuthlibBaseError as error:
            refused("the code was not accepted", error)
            raise ProviderRefusalError("your organisation's sign-in did not confirm who you are; try again") from error
        except TokenError as error:
            raise ProviderRefusalError("your organisation's sign-in gave an answer that is not valid") from error

    def _id_claims(self, token: str, nonce: str) -> dict[str, Any]:
        claims = self.keys.read(token, audience=self.settings.client_id)
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise TokenError("the ID token answers another sign-in")
        audiences = claims["aud"]
        if isinstance(audiences, list) and len(audiences) > 1 and claims.get("azp") != self.settings.client_id:
            raise TokenError("the ID token was made for another client")
        return claims

    def _userinfo(self, session: OAuth2Session, subject: str) -> dict[str, Any]:
        """What the provider tells beyond the ID token: many keep claims of a scope for here."""
        endpoint = self.keys.endpoint("userinfo_endpoint", required=False)
        if not endpoint:
            return {}
        answer = session.get(endpoint, timeout=_TIMEOUT_S)
        answer.raise_for_status()
        said = answer.json()
        if not isinstance(said, dict) or said.get("sub") != subject:
            raise TokenError("the provider's userinfo is of somebody else")
        return said

    def _person(self, claims: dict[str, Any]) -> Person:
        settings = self.settings
        words = _words(self._claim(claims, settings.roles_claim))
        ours = settings.roles or {role.value: role for role in Role}
        subject = str(claims["sub"])
        if not subject.isprintable() or len(subject) > _SUBJECT_MAX:
            raise TokenError("the provider's name for this person is not one that can be kept")
        groups = _words(self._claim(claims, settings.groups_claim)) if settings.groups_claim else None
        return Person(
            issuer=settings.issuer,
            subject=subject,
            name=str(self._claim(claims, settings.name_claim) or claims["sub"]),
            roles=frozenset(ours[word] for word in words if word in ours),
            groups=None if groups is None else frozenset(g for g in groups if re.fullmatch(NAME_PATTERN, g)),
        )

    @staticmethod
    def _claim(claims: dict[str, Any], name: str) -> Any:
        """A claim by its name, or `a.b` for b within a where no claim is called so."""
        if name in claims:
            return claims[name]
        value: Any = claims
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def _session(self, redirect_uri: str) -> OAuth2Session:
        return OAuth2Session(
            self.settings.client_id,
            self._secret,
            token_endpoint_auth_method=self.keys.authentication(self._secret is not None),
            scope=" ".join(self.settings.scopes),
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
        )


def _client_secret(site: Site, settings: ProviderSettings) -> str | None:
    if not settings.client_secret_file:
        return None
    path = site.root / settings.client_secret_file
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SiteError(f"oidc.client_secret_file: {path} cannot be read: {error.strerror}") from error


def _words(claim: Any) -> list[str]:
    """A claim of several words: a list, or one text with spaces between."""
    if isinstance(claim, str):
        return claim.split()
    return [word for word in claim if isinstance(word, str)] if isinstance(claim, list) else []
