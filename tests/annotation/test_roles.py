"""Every route × every role: a route that is not in the table here fails until somebody decides who may call it."""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator
from datetime import timedelta

import jwt
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from apps.accounts import Accounts
from apps.identity import COOKIE, Guard
from labeling_protocols.records import Account, Role
from labeling_protocols.store import now
from tests.annotation.served import Served

EVERYBODY: frozenset[Role] = frozenset()  # no account at all is needed
ANYONE = frozenset(Role)
READER = frozenset({Role.READER})
WORKER = ANYONE - {Role.VIEWER}
ENGINEER = frozenset({Role.ENGINEER, Role.ADMINISTRATOR})
ADJUDICATOR = frozenset({Role.ADJUDICATOR, Role.ADMINISTRATOR})
LEAD = ADJUDICATOR | ENGINEER

ROUTES: dict[str, frozenset[Role]] = {
    **dict.fromkeys(
        ("GET /", "GET /sign-in", "POST /sign-in", "GET /healthz", "GET /auth/", "POST /auth/token"), EVERYBODY
    ),
    "GET /review/static/{name}": EVERYBODY,
    **dict.fromkeys(("POST /sign-out", "GET /auth/token/valid", "GET /info/", "GET /train/"), ANYONE),
    **dict.fromkeys(("GET /datastore/", "GET /datastore/image", "HEAD /datastore/image"), ANYONE),
    **dict.fromkeys(("GET /datastore/label", "HEAD /datastore/label"), ANYONE),
    **dict.fromkeys(("GET /datastore/image/info", "GET /datastore/label/info"), ANYONE),
    **dict.fromkeys(("POST /activelearning/{strategy}", "PUT /datastore/label"), READER),
    **dict.fromkeys(("POST /infer/{model}", "PUT /session/"), WORKER),
    **dict.fromkeys(("GET /session/{session_id}", "DELETE /session/{session_id}"), WORKER),
    **dict.fromkeys(("POST /train/", "POST /train/{model}", "DELETE /train/"), ENGINEER),
    **dict.fromkeys(
        ("GET /review", "GET /review/", "GET /review/disputes/{case}", "POST /review/disputes/{case}"), ADJUDICATOR
    ),
    **dict.fromkeys(
        (f"GET /review/disputes/{{case}}/{name}.nii.gz" for name in ("image", "reader-{letter}", "majority")),
        ADJUDICATOR,
    ),
    **dict.fromkeys(
        ("GET /review/api/disputes", "GET /review/api/disputes/{case}", "POST /review/api/disputes/{case}"), ADJUDICATOR
    ),
    **dict.fromkeys(("GET /review/progress", "GET /review/api/progress"), LEAD),
    **dict.fromkeys(("GET /ohif", "GET /ohif/{path:path}"), ANYONE),
    **dict.fromkeys(
        (
            "GET /dicomweb/studies" + rest
            for rest in (
                "",
                "/{study}/series",
                "/{study}/metadata",
                "/{study}/series/{series}/instances",
                "/{study}/series/{series}/metadata",
                "/{study}/series/{series}/instances/{instance}",
                "/{study}/series/{series}/instances/{instance}/metadata",
                "/{study}/series/{series}/instances/{instance}/frames/{numbers}",
            )
        ),
        ANYONE,
    ),
    # Refused to everybody, in words (`apps/annotation/refusals.py`).
    **dict.fromkeys(
        ("PUT /datastore/", "DELETE /datastore/", "PUT /datastore/image", "DELETE /datastore/image"), ANYONE
    ),
    **dict.fromkeys(("PUT /datastore/image/info", "DELETE /datastore/label", "PUT /datastore/label/info"), ANYONE),
    **dict.fromkeys(("PUT /datastore/updatelabelinfo", "GET /datastore/dataset"), ANYONE),
    **dict.fromkeys((f"{method} /model/{{model}}" for method in ("GET", "PUT", "DELETE")), ANYONE),
    **dict.fromkeys(("GET /model/info/{model}", "POST /infer/wsi/{model}", "GET /logs/", "GET /logs/gpu"), ANYONE),
    **dict.fromkeys(("GET /batch/infer", "DELETE /batch/infer", "POST /batch/infer/{model}"), ANYONE),
    **dict.fromkeys((f"{method} /scoring/" for method in ("GET", "POST", "DELETE")), ANYONE),
    "POST /scoring/{method}": ANYONE,
}
NEEDS_A_COOKIE = {"POST /sign-out"}


def routes(app: FastAPI) -> Iterator[APIRoute]:
    """Every route, through included routers; anything that is no `APIRoute` would escape the table."""

    def below(found: list[object]) -> Iterator[APIRoute]:
        for route in found:
            if isinstance(route, APIRoute):
                yield route
            else:
                inner = getattr(route, "original_router", None) or getattr(route, "app", None)
                assert inner is not None, f"{route} is not classified"
                yield from below(inner.routes)

    yield from below(list(app.routes))


def address_of(served: Served, name: str) -> tuple[str, str]:
    method, path = name.split(" ", 1)
    return method, served.url + re.sub(r"\{[^}]+\}", "x", path)


@pytest.fixture(scope="module")
def people(served: Served) -> dict[Role, requests.Session]:
    return {role: served.session(served.account(role)) for role in Role}


def test_every_route_is_in_the_table_and_every_entry_is_a_route(served: Served) -> None:
    found = {f"{method} {route.path}" for route in routes(served.app) for method in route.methods or ()}
    assert found == set(ROUTES)


def test_every_route_that_is_not_for_everybody_has_a_guard(served: Served) -> None:
    for route in routes(served.app):
        guarded = any(isinstance(needed.call, Guard) for needed in all_of(route.dependant))
        for method in route.methods or ():
            assert guarded == (ROUTES[f"{method} {route.path}"] != EVERYBODY), route.path


def all_of(dependant: Dependant) -> Iterator[Dependant]:
    for needed in dependant.dependencies:
        yield needed
        yield from all_of(needed)


@pytest.mark.parametrize("name", sorted(name for name, roles in ROUTES.items() if roles))
def test_a_route_refuses_strangers_and_other_roles(
    served: Served, people: dict[Role, requests.Session], name: str
) -> None:
    method, address = address_of(served, name)
    assert requests.request(method, address, timeout=10, allow_redirects=False).status_code == 401
    for role, session in people.items():
        answer = session.request(method, address, allow_redirects=False)
        if name in NEEDS_A_COOKIE:
            assert answer.status_code == 401
        elif role in ROUTES[name]:
            assert "needs the role" not in answer.text, (role, answer.text)
            assert answer.status_code != 401, role
        else:
            assert answer.status_code == 403, role
            assert method == "HEAD" or "needs the role" in answer.json()["detail"]


def forged(served: Served, accounts: Accounts, account: Account) -> dict[str, str]:
    """Tokens that look right and are not."""
    key = served.site.signing_key
    genuine = jwt.decode(accounts.token(account), options={"verify_signature": False})
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    no_signature = jwt.encode(genuine, "", algorithm="none")
    header, body, _ = jwt.encode(genuine, "x" * 32, algorithm="HS256").split(".")
    mac = hmac.new(public, f"{header}.{body}".encode(), hashlib.sha256).digest()
    return {
        "expired": jwt.encode({**genuine, "exp": now() - timedelta(seconds=1)}, key, algorithm="EdDSA"),
        "wrong audience": jwt.encode({**genuine, "aud": "another"}, key, algorithm="EdDSA"),
        "wrong issuer": jwt.encode({**genuine, "iss": "another"}, key, algorithm="EdDSA"),
        "unknown account": jwt.encode({**genuine, "sub": "nobody"}, key, algorithm="EdDSA"),
        "another key": jwt.encode(genuine, Ed25519PrivateKey.generate(), algorithm="EdDSA"),
        "no signature": no_signature,
        "signed with the public key": f"{header}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}",
        "no token": "",
        "garbage": "a.b.c",
    }


def test_a_forged_or_stale_token_identifies_nobody(served: Served) -> None:
    account = served.account(*Role)
    for what, token in forged(served, served.accounts, account).items():
        for headers in ({"Authorization": f"Bearer {token}"}, {"Cookie": f"{COOKIE}={token}"}):
            answer = requests.get(f"{served.url}/info/", headers=headers, timeout=10)
            assert answer.status_code == 401, what
            assert set(answer.json()) == {"detail"}
    assert requests.get(f"{served.url}/info/", auth=(account.name, "x"), timeout=10).status_code == 401
    assert requests.get(f"{served.url}/u/{'x' * 32}/info/", timeout=10).status_code == 401


def test_a_personal_address_opens_the_viewers_routes_only(served: Served) -> None:
    account = served.account(*Role)
    at = f"{served.url}/u/{served.accounts.new_address(account)}"
    assert requests.get(f"{at}/info/", timeout=10).status_code == 200
    for path in ("/review/", "/review/progress", "/review/api/disputes", "/review/api/progress"):
        assert requests.get(at + path, timeout=10).status_code == 401, path


def test_a_cookie_alone_changes_nothing(served: Served) -> None:
    """Another site can make a browser send its cookie, never the value that this server's pages carry."""
    token = served.accounts.token(served.account(Role.ENGINEER))
    cookie = {"Cookie": f"{COOKIE}={token}"}
    assert requests.get(f"{served.url}/info/", headers=cookie, timeout=10).status_code == 200
    for headers in ({}, {"X-CSRF-Token": "x"}):
        answer = requests.delete(f"{served.url}/train/", headers={**cookie, **headers}, timeout=10)
        assert answer.status_code == 403
    csrf = served.app.state.identities.csrf(token)
    good = {**cookie, "X-CSRF-Token": csrf}
    assert requests.delete(f"{served.url}/train/", headers=good, timeout=10).status_code == 200
    foreign = {**good, "Origin": "https://elsewhere.example"}
    assert requests.delete(f"{served.url}/train/", headers=foreign, timeout=10).status_code == 403
