"""What people do with their own account, and administrators with everybody's, in a browser."""

import re
from datetime import timedelta

import jwt
import pytest
import requests
from monailabel.client.client import MONAILabelClient, MONAILabelClientException
from playwright.sync_api import Browser, Page

from apps.identity import COOKIE
from labeling_protocols.records import Account, Role
from labeling_protocols.store import now
from tests.annotation.served import Served
from tests.review.conftest import sign_in


@pytest.fixture
def reader(served: Served) -> Account:
    return served.account(Role.READER)


@pytest.fixture
def administrator(served: Served) -> Account:
    return served.account(Role.ADMINISTRATOR)


def form_sign_in(served: Served, account: Account, **form: str) -> requests.Response:
    return requests.post(
        f"{served.url}/sign-in",
        data={"name": account.name, "password": f"{account.name}-password", **form},
        allow_redirects=False,
        timeout=30,
    )


def test_a_reader_makes_uses_and_revokes_a_personal_address(served: Served, reader: Account, page: Page) -> None:
    sign_in(page, reader, "/account")
    page.get_by_label("For", exact=True).fill("Reading room")
    page.get_by_role("button", name="Make an address").click()
    address = page.get_by_label("Your new address, shown this once").input_value()
    assert address.startswith(f"{served.url}/u/")
    assert MONAILabelClient(address).info()["name"]
    page.goto("/account")
    assert address.rpartition("/")[2] not in page.content()
    row = page.locator("tr", has_text="Reading room")
    assert now().strftime("%Y-%m-%d") in row.inner_text()
    assert "never" not in row.inner_text()
    row.get_by_role("button", name="Revoke").click()
    page.wait_for_url("**/account?done=address")
    assert "revoked" in row.inner_text()
    with pytest.raises(MONAILabelClientException, match="401"):
        MONAILabelClient(address).info()


def test_a_new_password_ends_other_sessions_and_not_this_one(served: Served, reader: Account, page: Page) -> None:
    elsewhere = served.session(reader)
    sign_in(page, reader, "/account")
    for present, new, again, words in (
        ("wrong", "a better one", "a better one", "not your present password"),
        (f"{reader.name}-password", "a better one", "another one", "differ"),
        (f"{reader.name}-password", "short", "short", "at least 8"),
    ):
        page.get_by_label("Present password").fill(present)
        page.get_by_label("New password", exact=True).fill(new)
        page.get_by_label("New password again").fill(again)
        page.get_by_role("button", name="Change password").click()
        page.get_by_role("alert").wait_for()
        assert words in page.get_by_role("alert").inner_text()
    assert elsewhere.get(f"{served.url}/info/").status_code == 200
    page.get_by_label("Present password").fill(f"{reader.name}-password")
    page.get_by_label("New password", exact=True).fill("a better one")
    page.get_by_label("New password again").fill("a better one")
    page.get_by_role("button", name="Change password").click()
    page.wait_for_url("**/account?done=password")
    page.reload()
    assert page.get_by_role("heading", level=1).inner_text() == reader.name
    assert elsewhere.get(f"{served.url}/info/").status_code == 401
    assert served.accounts.sign_in(reader.name, "a better one") == reader


def test_signing_out_ends_the_session_and_not_only_the_cookie(served: Served, reader: Account, page: Page) -> None:
    sign_in(page, reader, "/account")
    [cookie] = [one for one in page.context.cookies() if one["name"] == COOKIE]
    copied = {COOKIE: cookie["value"]}
    assert requests.get(f"{served.url}/info/", cookies=copied, timeout=30).status_code == 200
    page.get_by_role("button", name="Sign out", exact=True).click()
    page.wait_for_url("**/sign-in")
    assert requests.get(f"{served.url}/info/", cookies=copied, timeout=30).status_code == 401
    other = served.session(reader)
    sign_in(page, reader, "/account")
    page.get_by_role("button", name="Sign out everywhere").click()
    page.wait_for_url("**/sign-in")
    assert other.get(f"{served.url}/info/").status_code == 401


def test_slicers_login_box_renews_its_token_by_itself(served: Served, reader: Account) -> None:
    """The steps of MONAILabelLogic._client in 3D Slicer's module, which keeps name and password while it runs."""
    client = MONAILabelClient(served.url)
    assert client.auth_enabled()
    assert not client.auth_valid_token()
    client.update_auth({"token_type": "bearer", "access_token": served.accounts.token(reader, minutes=1)})
    assert not client.auth_valid_token()
    assert client.info()["name"], "until it ends, the old one still counts"
    client.update_auth(client.auth_token(reader.name, f"{reader.name}-password"))
    assert client.auth_valid_token()
    assert client.info()["name"]


def test_an_administrator_makes_an_account_whose_owner_chooses_the_password(
    served: Served, administrator: Account, browser: Browser, page: Page
) -> None:
    sign_in(page, administrator, "/accounts")
    new = page.locator("form", has=page.get_by_role("heading", name="New account"))
    new.get_by_label("Name").fill("Zoë Newcomer")
    new.get_by_label("Groups").fill("neuro, senior")
    new.get_by_label("reader", exact=True).check()
    new.get_by_role("button", name="Make the account").click()
    once = page.get_by_label("One-time password of Zoë Newcomer").input_value()
    made = served.accounts.find("Zoë Newcomer")
    assert made is not None
    assert (made.roles, made.groups) == (frozenset({Role.READER}), frozenset({"neuro", "senior"}))
    with pytest.raises(MONAILabelClientException, match="in a browser and choose your own"):
        MONAILabelClient(served.url).auth_token(made.name, once)
    context = browser.new_context(base_url=served.url)
    theirs = context.new_page()
    theirs.goto("/account")
    theirs.fill("#name", made.name)
    theirs.fill("#password", once)
    theirs.keyboard.press("Enter")
    theirs.get_by_role("heading", name="Choose your password").wait_for()
    theirs.fill("#password", once)
    theirs.fill("#new", "a horse of my own")
    theirs.keyboard.press("Enter")
    theirs.wait_for_url("**/account")
    context.close()
    assert MONAILabelClient(served.url).auth_token(made.name, "a horse of my own")["token_type"] == "bearer"


def test_an_administrator_changes_disables_and_resets_accounts(
    served: Served, administrator: Account, reader: Account, page: Page
) -> None:
    sign_in(page, administrator, "/accounts")
    card = page.locator("li", has_text=reader.id)
    card.get_by_label("adjudicator").check()
    card.get_by_label("Groups").fill("chest")
    card.get_by_role("button", name="Save").click()
    page.wait_for_url("**/accounts?done=account")
    changed = served.accounts.get(reader.id)
    assert changed is not None
    assert (changed.roles, changed.groups) == ({Role.READER, Role.ADJUDICATOR}, {"chest"})
    card.get_by_role("button", name="Disable").click()
    card.get_by_text("disabled", exact=True).wait_for()
    assert form_sign_in(served, reader).status_code == 401
    card.get_by_role("button", name="Enable").click()
    card.get_by_role("button", name="Disable").wait_for()
    assert form_sign_in(served, reader).status_code == 303
    for _ in range(5):
        assert form_sign_in(served, reader, password="wrong").status_code == 401
    assert form_sign_in(served, reader).status_code == 401
    page.reload()
    card.get_by_role("button", name="Unlock").click()
    card.get_by_role("button", name="Unlock").wait_for(state="detached")
    assert form_sign_in(served, reader).status_code == 303
    card.get_by_role("button", name="Reset password").click()
    page.get_by_label(f"One-time password of {reader.name}").wait_for()
    assert form_sign_in(served, reader).status_code == 401


def test_what_an_administrator_cannot_do_is_said_on_the_page(
    served: Served, administrator: Account, page: Page
) -> None:
    sign_in(page, administrator, "/accounts")
    new = page.locator("form", has=page.get_by_role("heading", name="New account"))
    new.get_by_label("Name").fill(administrator.name)
    new.get_by_role("button", name="Make the account").click()
    assert "exists already" in page.get_by_role("alert").inner_text()
    new.get_by_label("Name").fill("Somebody")
    new.get_by_label("Groups").fill("Not/A/Group")
    new.get_by_role("button", name="Make the account").click()
    assert "group's name" in page.get_by_role("alert").inner_text()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (640, 400)])
def test_the_account_pages_fit_the_window_also_at_200_percent(
    served: Served, administrator: Account, page: Page, width: int, height: int
) -> None:
    page.set_viewport_size({"width": width, "height": height})
    sign_in(page, administrator, "/account")
    for path in ("/account", "/accounts"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_the_cookie_is_for_this_server_alone(served: Served, reader: Account) -> None:
    plain = form_sign_in(served, reader).headers["set-cookie"]
    assert "HttpOnly" in plain
    assert "SameSite=strict" in plain
    assert "Max-Age=3600" in plain
    assert "Secure" not in plain
    assert "Domain" not in plain
    over_tls = requests.post(
        f"{served.url}/sign-in",
        data={"name": reader.name, "password": f"{reader.name}-password"},
        headers={"X-Forwarded-Proto": "https"},
        allow_redirects=False,
        timeout=30,
    )
    assert "Secure" in over_tls.headers["set-cookie"]


@pytest.mark.parametrize(
    "address",
    [
        "https://elsewhere.example/",
        "//elsewhere.example",
        "/\\elsewhere.example",
        "\\\\elsewhere.example",
        "/\t/elsewhere.example",
        "/\n/elsewhere.example",
        "javascript:alert(1)",
        "elsewhere",
        "",
    ],
)
def test_signing_in_leads_to_no_other_server(served: Served, reader: Account, address: str) -> None:
    assert form_sign_in(served, reader, next=address).headers["location"] == "/"


def test_signing_in_leads_back_to_what_was_asked_for(served: Served, reader: Account) -> None:
    assert form_sign_in(served, reader, next="/review/?settled=x").headers["location"] == "/review/?settled=x"


def test_a_sign_in_that_another_site_sends_is_refused(served: Served, reader: Account) -> None:
    for headers in ({"Origin": "https://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = requests.post(
            f"{served.url}/sign-in",
            data={"name": reader.name, "password": f"{reader.name}-password"},
            headers=headers,
            allow_redirects=False,
            timeout=30,
        )
        assert answer.status_code == 403
        assert COOKIE not in answer.cookies


def test_unknown_wrong_and_locked_read_the_same(served: Served, reader: Account) -> None:
    unknown = form_sign_in(served, reader, name="nobody of this name")
    answers = [form_sign_in(served, reader, password="wrong") for _ in range(6)]
    locked = form_sign_in(served, reader)
    texts = {re.sub(r'value="[^"]*"', "", answer.text) for answer in (unknown, *answers, locked)}
    assert len(texts) == 1
    assert {answer.status_code for answer in (unknown, *answers, locked)} == {401}
    grants = [
        requests.post(f"{served.url}/auth/token", data={"username": name, "password": "x", **_GRANT}, timeout=30)
        for name in ("nobody", reader.name)
    ]
    assert grants[0].json() == grants[1].json()


def test_a_browser_in_use_stays_signed_in_and_its_open_pages_stay_good(served: Served, reader: Account) -> None:
    tokens = served.app.state.identities.accounts.tokens
    at = now() - timedelta(minutes=40)
    aged = tokens._signed(reader.id, "5" * 32, at, at, at + timedelta(hours=1))
    csrf = served.app.state.identities.csrf(tokens.read(aged))
    answer = requests.get(f"{served.url}/account", cookies={COOKIE: aged}, timeout=30)
    assert f'value="{csrf}"' in answer.text
    renewed = answer.cookies[COOKIE]
    before, after = (jwt.decode(token, options={"verify_signature": False}) for token in (aged, renewed))
    assert after["exp"] > before["exp"]
    assert (after["sid"], after["began"]) == (before["sid"], before["began"])
    posted = requests.post(
        f"{served.url}/account/addresses", cookies={COOKIE: renewed}, data={"csrf": csrf}, timeout=30
    )
    assert posted.status_code == 200
    fresh = served.accounts.token(reader)
    assert COOKIE not in requests.get(f"{served.url}/account", cookies={COOKIE: fresh}, timeout=30).cookies


def test_every_form_of_the_account_pages_carries_the_sessions_value(served: Served, administrator: Account) -> None:
    token = served.accounts.token(administrator)
    csrf = served.app.state.identities.csrf(served.accounts.tokens.read(token))
    for path in ("/account", "/accounts"):
        text = requests.get(f"{served.url}{path}", cookies={COOKIE: token}, timeout=30).text
        forms = re.findall(r"<form.*?</form>", text, re.DOTALL)
        assert forms
        assert all(f'name="csrf" value="{csrf}"' in form for form in forms), path


_GRANT = {"grant_type": "password"}
