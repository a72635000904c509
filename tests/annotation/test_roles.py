"""Every route × every role × every way to be nobody: a route that is not in the table fails until it is classified."""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import jwt
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from httpx import Response

from apps.accounts import Accounts
from apps.identity import COOKIE, Guard, Means
from apps.settings import make_site
from apps.signing_keys import TokenKeys
from apps.web import create_app
from labeling_protocols import schema
from labeling_protocols.protocol import SHIPPED, load_protocol
from labeling_protocols.records import Account, Role
from labeling_protocols.store import Store, now

EVERYBODY: frozenset[Role] = frozenset()  # no account at all is needed
ANYONE = frozenset(Role)
READER = frozenset({Role.READER})
WORKER = ANYONE - {Role.VIEWER}
ENGINEER = frozenset({Role.ENGINEER, Role.ADMINISTRATOR})
ADMINISTRATOR = frozenset({Role.ADMINISTRATOR})
ADJUDICATOR = frozenset({Role.ADJUDICATOR, Role.ADMINISTRATOR})
DRAWER = READER | ADJUDICATOR  # an adjudicator draws what he edits for a decision
LEAD = ADJUDICATOR | ENGINEER

STUDY = "/studies/{study}"
SERIES = f"{STUDY}/series/{{series}}"
INSTANCE = f"{SERIES}/instances/{{instance}}"

ROUTES: dict[str, frozenset[Role]] = {
    **dict.fromkeys(
        (
            "GET /",
            "GET /sign-in",
            "POST /sign-in",
            "GET /healthz",
            "GET /openapi.json",
            "GET /auth/",
            "POST /auth/token",
        ),
        EVERYBODY,
    ),
    **dict.fromkeys(("GET /sign-in/provider", "GET /sign-in/provider/back"), EVERYBODY),
    **dict.fromkeys(("GET /account", "POST /account/password", "POST /account/sign-out-everywhere"), ANYONE),
    **dict.fromkeys(("POST /account/addresses", "POST /account/addresses/{address}/revoke"), ANYONE),
    **dict.fromkeys(("GET /accounts", "POST /accounts", "POST /accounts/{account}"), ADMINISTRATOR),
    "POST /accounts/{account}/{act}": ADMINISTRATOR,
    "GET /review/static/{name}": EVERYBODY,
    **dict.fromkeys(("POST /sign-out", "GET /auth/token/valid", "GET /info/", "GET /train/"), ANYONE),
    **dict.fromkeys(("GET /datastore/", "GET /datastore/image", "HEAD /datastore/image"), ANYONE),
    **dict.fromkeys(("GET /datastore/label", "HEAD /datastore/label"), ANYONE),
    **dict.fromkeys(("GET /datastore/image/info", "GET /datastore/label/info"), ANYONE),
    **dict.fromkeys(("POST /activelearning/{strategy}", "PUT /datastore/label"), DRAWER),
    **dict.fromkeys(("GET /worklist/", "POST /worklist/skip"), READER),
    **dict.fromkeys((f"GET /work/feedback{rest}" for rest in ("", "/{case}", "/{case}/slices.png")), READER),
    **dict.fromkeys(("GET /work", "GET /work/", "POST /work/{case}/skip", "POST /work/{case}/withdraw"), READER),
    **dict.fromkeys(("GET /review/seats", "GET /review/seats/", "GET /review/seats/returned"), ADJUDICATOR),
    **dict.fromkeys(
        ("GET /review/seats/calibration", "GET /review/seats/audit", "GET /review/seats/cases/{case}"), ADMINISTRATOR
    ),
    **dict.fromkeys((f"POST /review/seats/cases/{{case}}/{act}" for act in ("reassign", "withdraw")), ADMINISTRATOR),
    **dict.fromkeys(("PUT /datastore/updatelabelinfo", "PUT /datastore/label/info"), ADJUDICATOR),
    **dict.fromkeys(("POST /infer/{model}", "GET /infer/queue", "PUT /session/"), WORKER),
    **dict.fromkeys(("GET /session/{session_id}", "DELETE /session/{session_id}"), WORKER),
    **dict.fromkeys(("POST /train/", "POST /train/{model}", "DELETE /train/"), ENGINEER),
    **dict.fromkeys((f"{method} /batch/infer{end}" for method in ("GET", "DELETE") for end in ("", "/")), ENGINEER),
    "POST /batch/infer/{model}": ENGINEER,
    **dict.fromkeys(
        ("GET /review", "GET /review/", "GET /review/disputes/{case}", "POST /review/disputes/{case}"), ADJUDICATOR
    ),
    **dict.fromkeys(
        (f"GET /review/disputes/{{case}}/{file}" for file in ("image.nii", "image.nii.gz", "outlines-{name}.nii")),
        ADJUDICATOR,
    ),
    **dict.fromkeys(("GET /review/disputes/{case}/{source}.nii.gz", "GET /review/disputes/{case}/edit"), ADJUDICATOR),
    **dict.fromkeys(
        (f"POST /review/disputes/{{case}}/{act}" for act in ("claim", "release", "escalate", "reopen", "edit")),
        ADJUDICATOR,
    ),
    **dict.fromkeys(
        ("GET /review/api/disputes", "GET /review/api/disputes/{case}", "POST /review/api/disputes/{case}"), ADJUDICATOR
    ),
    **dict.fromkeys(
        (f"POST /review/api/disputes/{{case}}/{act}" for act in ("claim", "release", "escalate", "reopen", "edit")),
        ADJUDICATOR,
    ),
    **dict.fromkeys(("GET /review/progress", "GET /review/api/progress"), LEAD),
    **dict.fromkeys(("GET /review/figures/{topic}", "GET /review/charts/{chart}.{form}"), LEAD),
    **dict.fromkeys(("GET /ohif", "GET /ohif/{path:path}", "GET /ohif/cases", "GET /ohif/cases/{case}"), ANYONE),
    **dict.fromkeys(("GET /ohif/next", "PUT /ohif/cases/{case}/label"), DRAWER),
    **dict.fromkeys(
        (
            f"GET /dicomweb{rest}"
            for rest in (
                *("/studies", "/series", "/instances", f"{STUDY}/series", f"{STUDY}/instances", f"{SERIES}/instances"),
                *(f"{level}{what}" for level in (STUDY, SERIES, INSTANCE) for what in ("", "/metadata", "/thumbnail")),
                *(f"{INSTANCE}/{what}" for what in ("rendered", "bulkdata/{tag}", "frames/{numbers}")),
                *(f"{INSTANCE}/frames/{{numbers}}/{what}" for what in ("rendered", "thumbnail")),
            )
        ),
        ANYONE,
    ),
    **dict.fromkeys(("POST /dicomweb/studies", f"POST /dicomweb{STUDY}"), WORKER),
    # Refused to everybody, in words (`apps/annotation/refusals.py`).
    **dict.fromkeys(
        ("PUT /datastore/", "DELETE /datastore/", "PUT /datastore/image", "DELETE /datastore/image"), ANYONE
    ),
    **dict.fromkeys(("PUT /datastore/image/info", "DELETE /datastore/label"), ANYONE),
    "GET /datastore/dataset": ANYONE,
    **dict.fromkeys((f"{method} /model/{{model}}" for method in ("GET", "PUT", "DELETE")), ANYONE),
    **dict.fromkeys(("GET /model/info/{model}", "POST /infer/wsi/{model}", "GET /logs/", "GET /logs/gpu"), ANYONE),
    **dict.fromkeys((f"{method} /scoring/" for method in ("GET", "POST", "DELETE")), ANYONE),
    "POST /scoring/{method}": ANYONE,
}
# What only a browser that is signed in may do; the rest of the review pages takes tokens too, and no personal address.
BROWSER_ONLY = re.compile(r"\w+ /(sign-out|accounts?|work|review/seats/(audit|calibration|cases))(/|$)")
NO_ADDRESS = re.compile(r"\w+ /(sign-out|accounts?|work|review)(/|$)")


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


@dataclass(frozen=True, kw_only=True)
class Place:
    """A server without a network, and an account of each role; `wrong` are proofs that prove nothing, by their kind."""

    client: TestClient
    app: FastAPI
    accounts: Accounts
    people: dict[Role, Account]
    addresses: dict[Role, str]
    wrong_tokens: dict[str, str]
    wrong_addresses: dict[str, str]

    def ask(self, name: str, *, token: str = "", cookie: str = "", address: str = "", csrf: str = "") -> Response:
        """Call the route of this name, its parameters made up."""
        method, path = name.split(" ", 1)
        headers = {"X-CSRF-Token": csrf} if csrf else {}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if cookie:
            headers["Cookie"] = f"{COOKIE}={cookie}"
        path = (f"/u/{address}" if address else "") + re.sub(r"\{[^}]+\}", "x", path)
        return self.client.request(method, path, headers=headers, follow_redirects=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    site = make_site(tmp_path_factory.mktemp("roles") / "site")
    app = create_app(site)
    store: Store = app.state.store
    store.add_protocol(load_protocol(SHIPPED / "hippocampus.yaml"))
    accounts: Accounts = app.state.identities.accounts
    people = {role: account_without_password(store, role.value, role) for role in Role}
    with TestClient(app, raise_server_exceptions=False) as client:
        yield Place(
            client=client,
            app=app,
            accounts=accounts,
            people=people,
            addresses={role: accounts.new_address(account) for role, account in people.items()},
            wrong_tokens=wrong_tokens(store, accounts),
            wrong_addresses=wrong_addresses(store, accounts),
        )


def account_without_password(store: Store, name: str, *roles: Role) -> Account:
    """Hashing is for who signs in with a password; nobody does here, though everybody could."""
    row = {"id": name[:32], "name": name, "roles": sorted(roles), "groups": [], "disabled": False, "created": now()}
    row["password"] = "no hash of any password"
    with store.writing() as connection:
        connection.execute(sa.insert(schema.accounts).values(row))
    return Account(id=name[:32], name=name, roles=frozenset(roles), disabled=False)


def wrong_tokens(store: Store, accounts: Accounts) -> dict[str, str]:
    """Tokens that look right, of an account that may do everything, and are not."""
    account = account_without_password(store, "everything", *Role)
    keys: TokenKeys = accounts.tokens.keys
    kid, key = keys.newest()
    claims = jwt.decode(accounts.token(account), options={"verify_signature": False})
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    kinds: dict[str, Callable[[], str]] = {
        "expired": lambda: jwt.encode({**claims, "exp": now() - timedelta(seconds=1)}, key, "EdDSA", {"kid": kid}),
        "wrong audience": lambda: jwt.encode({**claims, "aud": "another"}, key, "EdDSA", {"kid": kid}),
        "wrong issuer": lambda: jwt.encode({**claims, "iss": "another"}, key, "EdDSA", {"kid": kid}),
        "unknown account": lambda: jwt.encode({**claims, "sub": "nobody"}, key, "EdDSA", {"kid": kid}),
        "unknown kid": lambda: jwt.encode(claims, key, "EdDSA", {"kid": kid[:-4] + "0000"}),
        "no kid": lambda: jwt.encode(claims, key, "EdDSA"),
        "another key": lambda: jwt.encode(claims, Ed25519PrivateKey.generate(), "EdDSA", {"kid": kid}),
        "no signature": lambda: jwt.encode(claims, None, "none", {"kid": kid}),
        "HS256 with the public key": lambda: signed_with_the_public_key(claims, public, kid),
        "signed out": lambda: signed_out(accounts, account),
        "all sessions ended": lambda: all_sessions_ended(store, accounts),
        "disabled account": lambda: of_a_disabled_account(store, accounts),
        "retired key": lambda: of_a_retired_key(accounts, account),
        "an address's secret": lambda: accounts.new_address(account),
        "garbage": lambda: "a.b.c",
    }
    return {kind: make() for kind, make in kinds.items()}


def signed_with_the_public_key(claims: dict[str, object], public: bytes, kid: str) -> str:
    """What a library that takes the algorithm from the token would take for the server's own."""
    header, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "typ": "JWT", "kid": kid}, claims)
    )
    mac = hmac.new(public, header + b"." + body, hashlib.sha256).digest()
    return b".".join((header, body, base64.urlsafe_b64encode(mac).rstrip(b"="))).decode()


def signed_out(accounts: Accounts, account: Account) -> str:
    token = accounts.token(account)
    accounts.sign_out(accounts.tokens.read(token))
    return token


def all_sessions_ended(store: Store, accounts: Accounts) -> str:
    account = account_without_password(store, "ended", *Role)
    token = accounts.token(account)
    accounts.end_sessions(account.id, actor=account.id)
    return token


def of_a_disabled_account(store: Store, accounts: Accounts) -> str:
    account = account_without_password(store, "disabled", *Role)
    token = accounts.token(account)
    accounts.change(account.id, actor="command line", disabled=True)
    return token


def of_a_retired_key(accounts: Accounts, account: Account) -> str:
    """A genuine token of a key that was followed by another a day ago: whatever it signed in its time has expired."""
    claims = jwt.decode(accounts.token(account), options={"verify_signature": False})
    old, following = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    accounts.tokens.keys.keep(following, made=now() - timedelta(days=1))
    return jwt.encode(claims, old, "EdDSA", {"kid": accounts.tokens.keys.keep(old, made=now() - timedelta(days=2))})


def wrong_addresses(store: Store, accounts: Accounts) -> dict[str, str]:
    holder, disabled = (account_without_password(store, name, *Role) for name in ("holder", "disabled holder"))
    revoked, expired = accounts.new_address(holder), accounts.new_address(holder, days=-1)
    accounts.revoke_addresses(holder)
    of_disabled = accounts.new_address(disabled)
    with store.writing() as connection:
        connection.execute(sa.update(schema.accounts).where(schema.accounts.c.id == disabled.id).values(disabled=True))
    return {
        "unknown": "x" * 32,
        "revoked": revoked,
        "expired": expired,
        "of a disabled account": of_disabled,
        "a token": accounts.token(holder),
    }


def all_of(dependant: Dependant) -> Iterator[Dependant]:
    for needed in dependant.dependencies:
        yield needed
        yield from all_of(needed)


GUARDED = sorted(name for name, roles in ROUTES.items() if roles)


def test_every_route_is_in_the_table_and_every_entry_is_a_route(place: Place) -> None:
    found = {f"{method} {route.path}" for route in routes(place.app) for method in route.methods or ()}
    assert found == set(ROUTES)


def test_every_route_that_is_not_for_everybody_has_one_guard(place: Place) -> None:
    for route in routes(place.app):
        guards = [needed.call for needed in all_of(route.dependant) if isinstance(needed.call, Guard)]
        for method in route.methods or ():
            name = f"{method} {route.path}"
            assert bool(guards) == (ROUTES[name] != EVERYBODY), name
            for guard in guards:
                assert (Means.ADDRESS not in guard.means) == bool(NO_ADDRESS.match(name)), name
                assert (guard.means == {Means.COOKIE}) == bool(BROWSER_ONLY.match(name)), name


@pytest.mark.parametrize("name", GUARDED)
def test_a_route_serves_its_roles_and_no_other(place: Place, name: str) -> None:
    for role, account in place.people.items():
        token = place.accounts.token(account)
        csrf = place.app.state.identities.csrf(place.accounts.tokens.read(token))
        ways = {
            Means.COOKIE: place.ask(name, cookie=token, csrf=csrf),
            # A fresh one for each: a route may be the one that ends what it was called with.
            Means.TOKEN: place.ask(name, token=place.accounts.token(account)),
            Means.ADDRESS: place.ask(name, address=place.addresses[role]),
        }
        shut = {Means.TOKEN: BROWSER_ONLY, Means.ADDRESS: NO_ADDRESS}
        for means, answer in ways.items():
            if means in shut and shut[means].match(name):
                assert answer.status_code == 401, (role, means)
            elif role in ROUTES[name]:
                assert "needs the role" not in answer.text, (role, means)
                assert answer.status_code not in (401, 500), (role, means, answer.text)
            else:
                assert answer.status_code == 403, (role, means)
                assert name.startswith("HEAD") or "needs the role" in answer.text


@pytest.mark.parametrize("name", GUARDED)
def test_a_route_refuses_whoever_proves_nothing(place: Place, name: str) -> None:
    assert place.ask(name).status_code == 401, "anonymous"
    for kind, token in place.wrong_tokens.items():
        as_it_would_come = {"cookie" if BROWSER_ONLY.match(name) else "token": token}
        assert place.ask(name, **as_it_would_come).status_code == 401, f"token: {kind}"
    for kind, secret in place.wrong_addresses.items():
        assert place.ask(name, address=secret).status_code == 401, f"address: {kind}"


@pytest.mark.parametrize("name", [name for name in GUARDED if not name.startswith(("GET", "HEAD"))])
def test_a_cookie_alone_changes_nothing(place: Place, name: str) -> None:
    """Another site can make a browser send its cookie, never the value that this server's pages carry."""
    account = place.people[next(iter(sorted(ROUTES[name])))]
    token, other = place.accounts.token(account), place.accounts.token(account)
    for csrf in ("", "x", place.app.state.identities.csrf(place.accounts.tokens.read(other))):
        answer = place.ask(name, cookie=token, csrf=csrf)
        assert answer.status_code == 403
        assert "did not come from a page of this server" in answer.text


def test_a_page_of_another_site_is_refused_even_with_the_right_value(place: Place) -> None:
    token = place.accounts.token(place.people[Role.ENGINEER])
    csrf = place.app.state.identities.csrf(place.accounts.tokens.read(token))
    good = {"Cookie": f"{COOKIE}={token}", "X-CSRF-Token": csrf}
    assert place.client.delete("/train/", headers=good).status_code == 200
    for foreign in ({"Origin": "https://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        assert place.client.delete("/train/", headers={**good, **foreign}).status_code == 403


def test_a_refusal_says_so_and_nothing_more(place: Place) -> None:
    for kind, token in place.wrong_tokens.items():
        assert place.ask("GET /info/", cookie=token).status_code == 401, kind
        answer = place.ask("GET /info/", token=token)
        assert set(answer.json()) == {"detail"}, kind
        assert answer.headers["www-authenticate"] == "Bearer"
    assert place.client.get("/info/", auth=("administrator", "x")).status_code == 401


def test_monailabels_four_roles_are_told_to_viewers(place: Place) -> None:
    told = {
        role: place.ask("GET /auth/token/valid", token=place.accounts.token(account)).json()["roles"]
        for role, account in place.people.items()
    }
    assert told == {
        Role.ADMINISTRATOR: ["monailabel-admin", "monailabel-user"],
        Role.ADJUDICATOR: ["monailabel-reviewer", "monailabel-user"],
        Role.READER: ["monailabel-annotator", "monailabel-user"],
        Role.ENGINEER: ["monailabel-user"],
        Role.VIEWER: ["monailabel-user"],
    }


def test_a_token_about_to_expire_is_called_invalid_so_that_viewers_fetch_another_in_time(place: Place) -> None:
    """3D Slicer asks before each request, and an upload may take a while; the token itself is honoured to its end."""
    account = place.people[Role.READER]
    soon, later = place.accounts.token(account, minutes=1.5), place.accounts.token(account, minutes=2.5)
    assert place.ask("GET /auth/token/valid", token=soon).status_code == 401
    assert place.ask("GET /datastore/", token=soon).status_code == 200
    assert place.ask("GET /auth/token/valid", token=later).status_code == 200
