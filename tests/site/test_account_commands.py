"""What `overread account …` does to accounts, their addresses and the keys of tokens."""

import re
from collections.abc import Callable

import pytest
from click.testing import Result
from typer.testing import CliRunner

from apps.account_commands import account_app
from apps.accounts import AccountError, Accounts, OneTimePasswordError, TokenError
from apps.settings import Site
from labeling_protocols import audit
from labeling_protocols.records import Role
from labeling_protocols.store import Store

Typed = Callable[..., str]


@pytest.fixture
def typed(site: Site, accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Type `overread account` with these words; `accounts` is the running server's view of the same site."""
    monkeypatch.setenv("COLUMNS", "200")
    accounts.add("root", "battery staple", frozenset({Role.ADMINISTRATOR}))

    def run(*words: str) -> str:
        done: Result = CliRunner().invoke(account_app, [*words, "--site", str(site.root)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    return run


def test_a_printed_password_opens_at_once(typed: Typed, accounts: Accounts) -> None:
    for words in (("add", "ben", "--role", "reader"), ("password", "ben")):
        password = re.search(r"password ([0-9a-f-]{27})", typed(*words))
        assert password is not None
        assert accounts.sign_in("ben", password[1]) is not None


def test_an_account_is_made_changed_listed_and_disabled(typed: Typed, accounts: Accounts, store: Store) -> None:
    said = typed("add", "ann", "--role", "reader", "--group", "neuro", "--one-time")
    password = re.search(r"one-time password ([0-9a-f-]{27})", said)
    assert password is not None
    with pytest.raises(OneTimePasswordError):
        accounts.sign_in("ann", password[1])
    typed("roles", "ann", "--role", "reader", "--role", "adjudicator")
    typed("groups", "ann", "--group", "chest", "--group", "senior")
    ann = accounts.find("ann")
    assert ann is not None
    assert (ann.roles, ann.groups) == ({Role.READER, Role.ADJUDICATOR}, {"chest", "senior"})
    typed("groups", "ann")
    typed("disable", "ann")
    assert re.search(rf"ann .*adjudicator, reader .*{ann.id}.*one-time password.*disabled", typed("list"))
    typed("enable", "ann")
    again = re.search(r"ann: one-time password ([0-9a-f-]{27})", typed("password", "ann", "--one-time"))
    assert again is not None
    assert accounts.sign_in("ann", again[1], new="a horse of my own") is not None
    for _ in range(5):
        accounts.sign_in("ann", "wrong horse")
    assert "locked until" in typed("list")
    typed("unlock", "ann")
    assert accounts.sign_in("ann", "a horse of my own") is not None
    with store.engine.connect() as connection:
        done = [entry.action for entry in audit.entries(connection) if entry.actor == "command line"]
    assert done.count("account changed") == 6
    assert done.count("password changed") == 1


def test_an_address_is_made_listed_and_ended_by_its_id_or_all_at_once(typed: Typed, accounts: Accounts) -> None:
    first, second = (typed("address", "root", "--title", title, "--days", "7").strip() for title in ("left", "right"))
    secret = first.rpartition("/u/")[2]
    assert accounts.account_of_address(secret).name == "root"
    listed = typed("addresses", "root")
    assert secret not in listed
    [address] = re.findall(r"([0-9a-f]{16}) .* left ", listed)
    typed("revoke", "root", address)
    with pytest.raises(TokenError):
        accounts.account_of_address(secret)
    assert accounts.account_of_address(second.rpartition("/u/")[2]).name == "root"
    assert "1 address(es) of root ended" in typed("address", "root", "--revoke")
    assert typed("addresses", "root").count("revoked") == 2


def test_keys_are_rotated_gently_or_at_once(typed: Typed, accounts: Accounts) -> None:
    root = accounts.find("root")
    assert root is not None
    token = accounts.token(root)
    assert "Nobody has to sign in again" in typed("rotate-keys")
    assert accounts.account_of(token) == root
    assert "Everybody has to sign in again" in typed("rotate-keys", "--at-once")
    with pytest.raises(TokenError):
        accounts.account_of(token)


def test_what_cannot_be_done_is_said(typed: Typed) -> None:
    for words, expected in (
        (("roles", "nobody", "--role", "reader"), "no account of this name"),
        (("disable", "root"), "only administrator"),
        (("groups", "root", "--group", "No Group"), "group's name"),
    ):
        with pytest.raises(AccountError, match=expected):
            typed(*words)
