"""Sign-in through a real identity provider: who it vouches for is somebody, and nothing else that looks like it is."""

import base64
import contextlib
import hashlib
import hmac
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
import requests
import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from playwright.sync_api import Browser

from apps.accounts import AccountError, TokenError
from apps.identity import COOKIE
from apps.provider_accounts import Person, ProviderAccounts
from apps.provider_keys import ProviderKeys, _Kept
from apps.settings import Site, SiteError
from labeling_protocols import audit, schema
from labeling_protocols.records import Role
from labeling_protocols.store import Store, now
from tests.annotation.served import Served, serving
from tests.ports import free_ports
from tests.postgres import Postgres
from tests.site.identity_provider import AUDIENCE, SECRET, IdentityProvider, identity_provider, through

PEOPLE = {
    "ann": {"roles": ["radiologist", "employee"], "groups": ["neuro", "Staff of Building 7"]},
    "root": {"roles": ["radiologist"], "preferred_username": "local"},
    "stranger": {"roles": ["employee"]},
    "nobody": {},
    "robot": {"roles": ["scientist"], "groups": ["research"]},
    "rita": {"roles": ["scientist"]},
}
SETTINGS = """
[oidc]
issuer = "{issuer}"
client_id = "overread"
client_secret_file = "{secret}"
title = "Sign in with Hospital ID"
groups_claim = "groups"
audience = "{audience}"
[oidc.roles]
radiologist = "reader"
scientist = "engineer"
"""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A site and the provider it trusts."""

    served: Served
    provider: IdentityProvider

    @property
    def back(self) -> str:
        return f"{self.served.url}/sign-in/provider/back"

    def get(self, token: str, path: str = "/auth/token/valid") -> requests.Response:
        return requests.get(f"{self.served.url}{path}", headers={"Authorization": f"Bearer {token}"}, timeout=30)

    def arrival(self, browser: requests.Session, name: str, then: str = "/") -> str:
        """The address the provider sends this browser back to, once this person signed in there."""
        left = browser.get(f"{self.served.url}/sign-in/provider?next={then}", allow_redirects=False, timeout=30)
        return through(browser, left, name, self.back).headers["location"]

    def sign_in(self, browser: requests.Session, name: str, then: str = "/") -> requests.Response:
        return browser.get(self.arrival(browser, name, then), allow_redirects=False, timeout=30)

    def accounts_of(self, subject: str) -> list[sa.Row[tuple[object, ...]]]:
        table = schema.accounts
        with self.served.store.engine.connect() as connection:
            return list(connection.execute(sa.select(table).where(table.c.subject == subject)))

    def keys(self) -> ProviderKeys:
        keys: ProviderKeys = self.served.app.state.identities.provider._provider.keys
        return keys

    def forget(self) -> None:
        """What the provider said, as if a day had passed since."""
        self.keys()._kept = _Kept()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    ours, theirs = free_ports(2)
    folder = tmp_path_factory.mktemp("trusting")
    (folder / "secret").write_text(f"{SECRET}\n")
    with identity_provider(theirs, f"http://127.0.0.1:{ours}/sign-in/provider/back", PEOPLE) as provider:
        settings = SETTINGS.format(issuer=provider.issuer, audience=AUDIENCE, secret=folder / "secret")
        with serving(folder / "site", settings, ours) as served:
            yield Place(served=served, provider=provider)


@pytest.fixture
def place(shared: Place) -> Place:
    """The provider runs, and the site has not asked it anything yet."""
    if shared.provider.process is None:
        shared.provider.start("one")
    shared.forget()
    return shared


def test_a_browser_signs_in_through_the_provider(place: Place) -> None:
    browser = requests.Session()
    page = browser.get(f"{place.served.url}/sign-in?next=/account", timeout=30)
    assert 'href="/sign-in/provider?next=/account"' in page.text
    assert "Sign in with Hospital ID" in page.text
    left = browser.get(f"{place.served.url}/sign-in/provider?next=/account", allow_redirects=False, timeout=30)
    asked = {name: value for name, [value] in parse_qs(urlsplit(left.headers["location"]).query).items()}
    assert asked["code_challenge_method"] == "S256"
    assert asked.keys() >= {"state", "nonce", "code_challenge"}
    pending = left.headers["set-cookie"]
    assert asked["state"] not in pending
    for said in ("HttpOnly", "SameSite=lax", "Path=/sign-in/provider/back", "Max-Age=600"):
        assert said in pending
    came = browser.get(through(browser, left, "ann", place.back).headers["location"], timeout=30)
    assert '<meta http-equiv="refresh" content="0;url=/account">' in came.text
    cookie = next(c for c in came.headers["set-cookie"].split(", ") if c.startswith(COOKIE))
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    said = browser.get(f"{place.served.url}/auth/token/valid", timeout=30).json()
    assert (said["name"], said["roles"]) == ("ann", ["monailabel-annotator", "monailabel-user"])


def test_an_account_is_one_issuer_and_subject_however_often_it_signs_in(place: Place) -> None:
    for _ in range(2):
        assert place.sign_in(requests.Session(), "ann").status_code == 200
    [row] = place.accounts_of("ann")
    assert (row.issuer, row.password, row.roles, row.groups) == (place.provider.issuer, None, ["reader"], ["neuro"])
    with place.served.store.engine.connect() as connection:
        said = [(one.actor, one.action) for one in audit.entries(connection) if one.subject == row.id]
    assert said[0] == ("server", "account added")
    assert said[-1] == (row.id, "signed in")
    assert place.served.accounts.sign_in("ann", "any password") is None


def test_a_person_who_comes_several_times_at_once_is_one_account(postgres: Postgres, site: Site) -> None:
    store = Store(postgres.new_database(), site.blobs)
    people = ProviderAccounts(store)
    groups = frozenset({"neuro"})
    person = Person(issuer="https://x.example", subject="1", name="ann", roles=frozenset({Role.READER}), groups=groups)
    namesake = replace(person, subject="2")
    made: list[tuple[str, str]] = []
    start = threading.Barrier(8)

    def come(who: Person) -> None:
        start.wait()
        made.append((who.subject, people.sign_in(who, through="provider").id))

    threads = [threading.Thread(target=come, args=(who,)) for who in (person, namesake) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert len(made) == 8
    assert sorted(subject for subject, _ in set(made)) == ["1", "2"]


def test_being_called_like_a_local_account_opens_nothing(place: Place) -> None:
    local = place.served.account(Role.ADMINISTRATOR, name="local")
    assert place.sign_in(requests.Session(), "root").status_code == 200
    [row] = place.accounts_of("root")
    assert (row.name, row.roles) == ("local 2", ["reader"])
    assert place.served.accounts.find("local") == local


def test_roles_taken_away_at_the_provider_are_gone_at_the_next_sign_in(place: Place) -> None:
    browser = requests.Session()
    place.sign_in(browser, "rita")
    [row] = place.accounts_of("rita")
    assert row.roles == ["engineer"]
    place.provider.stop()
    place.provider.people = {**PEOPLE, "rita": {"roles": ["radiologist"]}}
    place.provider.start("one")
    place.sign_in(requests.Session(), "rita")
    [row] = place.accounts_of("rita")
    assert row.roles == ["reader"]
    assert browser.get(f"{place.served.url}/auth/token/valid", timeout=30).status_code == 401
    place.provider.stop()
    place.provider.people = PEOPLE


@pytest.mark.parametrize("name", ["stranger", "nobody"])
def test_who_has_no_role_here_is_refused_in_words_and_gets_no_account(place: Place, name: str) -> None:
    browser = requests.Session()
    answer = place.sign_in(browser, name)
    assert answer.status_code == 403
    assert "no role at this site" in answer.text
    assert COOKIE not in browser.cookies
    assert place.accounts_of(name) == []
    with place.served.store.engine.connect() as connection:
        *_, last = audit.entries(connection)
    assert (last.actor, last.action, last.subject) == ("server", "sign-in refused", "unknown name")


def test_an_answer_that_was_not_asked_for_signs_nobody_in(place: Place) -> None:
    mine = requests.Session()
    address = place.arrival(mine, "ann")
    theirs = requests.Session()
    other = place.arrival(theirs, "root")
    state = parse_qs(urlsplit(address).query)["state"][0]
    for what, browser, tried in (
        ("a browser that asked nothing", requests.Session(), address),
        ("another's answer", mine, other),
        ("no state", mine, re.sub(r"state=[^&]*", "state=", address)),
        ("another provider's answer", mine, re.sub(r"iss=[^&]*", "iss=https%3A%2F%2Felsewhere.example", address)),
        ("no provider's answer", mine, re.sub(r"iss=[^&]*", "", address)),
        ("a code made up", mine, re.sub(r"code=[^&]*", "code=made-up", address)),
        ("a refusal", mine, f"{place.back}?error=access_denied&state={state}&iss={place.provider.issuer}"),
    ):
        kept = requests.cookies.RequestsCookieJar()
        kept.update(browser.cookies)
        answer = requests.get(tried, cookies=kept, allow_redirects=False, timeout=30)
        assert answer.status_code == 401, what
        assert COOKIE not in answer.cookies, what
        assert 'role="alert"' in answer.text, what
    assert mine.get(address, timeout=30).status_code == 200, "each was refused for what was changed in it"


def test_a_code_is_good_for_one_time(place: Place) -> None:
    browser = requests.Session()
    address = place.arrival(browser, "ann")
    kept = requests.cookies.RequestsCookieJar()
    kept.update(browser.cookies)
    assert requests.get(address, cookies=kept, timeout=30).status_code == 200
    assert requests.get(address, cookies=kept, timeout=30).status_code == 401


def test_a_program_brings_the_providers_token(place: Place) -> None:
    token = place.provider.access_token()
    answer = place.get(token)
    assert answer.status_code == 200
    assert answer.json()["name"] == "robot"
    [row] = place.accounts_of("robot")
    assert (row.roles, row.groups) == (["engineer"], ["research"])
    assert place.get(token, "/review/api/progress").status_code == 200
    assert place.get(token, "/review/api/disputes").status_code == 403
    promoted = place.provider.signed(token, "one", roles=["radiologist"], jti="2")
    assert place.get(promoted).json()["roles"] == ["monailabel-annotator", "monailabel-user"]
    strange = place.provider.signed(token, "one", roles=["employee"], jti="3")
    assert place.get(strange).status_code == 403
    assert place.get(place.provider.signed(token, "one", sub="new", roles=[])).status_code == 403
    assert place.accounts_of("new") == []


def test_a_token_that_only_looks_like_the_providers_is_refused(place: Place) -> None:
    good, provider = place.provider.access_token(), place.provider
    claims = jwt.decode(good, options={"verify_signature": False})
    public = provider.keys["one"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    header, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "HS256", "kid": "one"}, claims)
    )
    mac = base64.urlsafe_b64encode(hmac.new(pem, f"{header}.{body}".encode(), hashlib.sha256).digest()).rstrip(b"=")
    foreign = generate_private_key(public_exponent=65537, key_size=2048)
    forged = {
        "expired": provider.signed(good, "one", exp=now() - timedelta(minutes=2)),
        "wrong audience": provider.signed(good, "one", aud="urn:elsewhere"),
        "for the client, not this server": provider.signed(good, "one", aud="overread"),
        "an ID token": provider.signed(good, "one", nonce="x"),
        "not yet": provider.signed(good, "one", nbf=now() + timedelta(hours=1)),
        "no expiry": provider.signed(good, "one", exp=None),
        "another key under its kid": jwt.encode(claims, foreign, algorithm="RS256", headers={"kid": "one"}),
        "an unknown kid": jwt.encode(claims, foreign, algorithm="RS256", headers={"kid": "nine"}),
        "an algorithm not allowed": jwt.encode(claims, provider.keys["one"], algorithm="RS512", headers={"kid": "one"}),
        "no signature": jwt.encode(claims, None, algorithm="none", headers={"kid": "one"}),
        "HS256 with the public key": f"{header}.{body}.{mac.decode()}",
    }
    assert place.get(good).status_code == 200
    for what, token in forged.items():
        assert place.get(token).status_code == 401, what


def test_a_disabled_or_signed_out_account_is_refused_whatever_the_provider_says(place: Place) -> None:
    token = place.provider.access_token()
    assert place.get(token).status_code == 200
    [row] = place.accounts_of("robot")
    place.served.accounts.change(row.id, actor="command line", disabled=True)
    assert place.get(token).status_code == 401
    assert place.get(place.provider.signed(token, "one", jti="2")).status_code == 401
    place.served.accounts.change(row.id, actor="command line", disabled=False)
    assert place.get(token).status_code == 401, "a token from before stays ended"
    later = place.provider.signed(token, "one", iat=now() + timedelta(seconds=1))
    assert place.get(later).status_code == 200


def test_a_new_key_of_the_provider_is_asked_for_and_a_made_up_one_only_now_and_then(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    get = requests.get
    monkeypatch.setattr("apps.provider_keys.requests.get", lambda url, **how: asked.append(url) or get(url, **how))
    old = place.provider.access_token()
    place.keys().read(old, audience=AUDIENCE)
    assert len(asked) == 2
    place.provider.stop()
    place.provider.start("two")
    new = place.provider.access_token()
    for token in (new, place.provider.signed(new, "one"), new):
        with pytest.raises(TokenError) if token == new else contextlib.nullcontext():
            place.keys().read(token, audience=AUDIENCE)
    assert len(asked) == 2, "it was asked less than half a minute ago"
    place.keys()._kept.asked -= 31
    assert place.keys().read(new, audience=AUDIENCE)["sub"] == "robot"
    with pytest.raises(TokenError, match="not one of the provider's"):
        place.keys().read(old, audience=AUDIENCE)
    assert len(asked) == 4
    place.provider.stop()


def test_while_the_provider_is_down_local_accounts_sign_in_and_the_rest_is_told(place: Place) -> None:
    local = place.served.account()
    # The account's tokens may have been ended within this very second.
    token = place.provider.signed(place.provider.access_token(), "one", iat=now() + timedelta(seconds=1))
    assert place.get(token).status_code == 200
    browser = requests.Session()
    address = place.arrival(browser, "ann")
    place.provider.stop()
    assert place.get(token).status_code == 200, "its keys are known"
    assert place.get(place.served.accounts.token(local)).status_code == 200
    came = browser.get(address, timeout=30)
    assert came.status_code == 503
    assert "does not answer now" in came.text
    place.forget()
    refused = place.get(token)
    assert refused.status_code == 503
    assert "accounts of this server can sign in" in refused.json()["detail"]
    page = requests.get(f"{place.served.url}/sign-in/provider?next=/account", timeout=30)
    assert page.status_code == 503
    assert 'value="/account"' in page.text
    form = {"name": local.name, "password": f"{local.name}-password"}
    signed_in = requests.post(f"{place.served.url}/sign-in", data=form, allow_redirects=False, timeout=30)
    assert signed_in.status_code == 303
    assert COOKIE in signed_in.cookies


def test_an_administrator_changes_no_roles_that_the_provider_gives(place: Place) -> None:
    place.sign_in(requests.Session(), "ann")
    [row] = place.accounts_of("ann")
    for change in (
        lambda: place.served.accounts.change(row.id, actor="command line", roles=frozenset({Role.ADMINISTRATOR})),
        lambda: place.served.accounts.reset_password(row.id, actor="command line"),
    ):
        with pytest.raises(AccountError, match="identity provider"):
            change()


def test_a_real_browser_comes_back_signed_in(place: Place, browser: Browser) -> None:
    """Strict cookies are not sent in a redirect from another site; the page in between makes it ours again."""
    page = browser.new_page(base_url=place.served.url)
    page.goto("/account")
    page.get_by_role("link", name="Sign in with Hospital ID").click()
    page.fill("[name=login]", "ann")
    page.fill("[name=password]", "any")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Continue").click()
    page.wait_for_url("**/account")
    assert page.get_by_role("heading", level=1).inner_text() == "ann"
    assert page.get_by_label("Present password").count() == 0
    page.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('issuer = "http://elsewhere.example"\nclient_id = "x"', "oidc.issuer"),
        ('issuer = "https://x.example"', "oidc.client_id"),
        ('issuer = "https://x.example"\nclient_id = "x"\nalgorithms = ["HS256"]', "oidc.algorithms"),
        ('issuer = "https://x.example"\nclient_id = "x"\n[oidc.roles]\nx = "king"', "oidc.roles.x"),
    ],
)
def test_settings_that_would_not_be_safe_are_named(site: Site, settings: str, words: str) -> None:
    (site.root / "config.toml").write_text(f"[oidc]\n{settings}\n")
    with pytest.raises(SiteError, match=words):
        Site(site.root)
