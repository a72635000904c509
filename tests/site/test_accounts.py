"""Who signs in is who they say, and a guessed, forged, foreign or ended proof is nobody's."""

import stat
import threading
from dataclasses import replace
from datetime import timedelta

import argon2
import jwt
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from apps import passwords
from apps.accounts import AccountError, Accounts, OneTimePasswordError, TokenError
from apps.addresses import AddressError
from apps.door import TooManyTriesError, Tries, place_of
from apps.passwords import lock_of
from apps.settings import AccountSettings, Site
from apps.signing_keys import SigningKeyError
from labeling_protocols import audit, schema
from labeling_protocols.records import Account, Role
from labeling_protocols.store import Store, now

READER = frozenset({Role.READER})


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, sqlite_url: str) -> str:
    """Accounts are for both databases, as the store is."""
    return sqlite_url if request.param == "sqlite" else str(request.getfixturevalue("postgres").new_store_database())


@pytest.fixture
def ann(accounts: Accounts) -> Account:
    return accounts.add("ann", "correct horse", READER, frozenset({"neuro"}))


@pytest.fixture
def root(accounts: Accounts) -> Account:
    return accounts.add("root", "battery staple", frozenset({Role.ADMINISTRATOR}))


def written(store: Store) -> list[tuple[str, str, str]]:
    """The audit: actor, action, subject."""
    with store.engine.connect() as connection:
        assert audit.verify(connection).broken is None
        return [(entry.actor, entry.action, entry.subject) for entry in audit.entries(connection)]


def set_account(store: Store, account: Account, **values: object) -> None:
    with store.writing() as connection:
        connection.execute(sa.update(schema.accounts).where(schema.accounts.c.id == account.id).values(values))


def lock_of_account(store: Store, account: Account) -> tuple[int, bool]:
    with store.engine.connect() as connection:
        row = connection.execute(sa.select(schema.accounts).where(schema.accounts.c.id == account.id)).one()
    return row.failures, row.locked_until is not None and row.locked_until > now()


# Passwords


def test_the_right_password_signs_in_and_a_wrong_one_does_not(accounts: Accounts, ann: Account) -> None:
    assert accounts.sign_in("ann", "correct horse") == ann
    assert accounts.sign_in("ann", "wrong horse") is None
    assert accounts.sign_in("nobody", "correct horse") is None


def test_passwords_are_hashed_with_argon2id_as_rfc_9106_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_HASHER", argon2.PasswordHasher())
    kept = passwords.hashed("correct horse")
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert passwords.matches(kept, "correct horse")


def test_passwords_and_addresses_are_not_in_the_database(site: Site) -> None:
    store = Store(site.database_url, site.blobs)
    kept = Accounts(store, site)
    secret = kept.new_address(kept.add("ann", "correct horse", READER))
    kept.sign_in("ann", "incorrect horse")
    store.close()
    content = b"".join(path.read_bytes() for path in site.root.glob("overread.db*"))
    for never in (b"correct horse", b"incorrect horse", secret.encode()):
        assert never not in content
    assert b"argon2id" in content


def test_a_password_typed_on_another_keyboard_is_the_same(accounts: Accounts) -> None:
    made = accounts.add("zoë", "na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve reader", READER)
    assert accounts.sign_in("zoë", "nai\N{COMBINING DIAERESIS}ve reader") == made


def test_a_hash_of_older_parameters_is_renewed_when_its_owner_signs_in(
    accounts: Accounts, ann: Account, store: Store
) -> None:
    older = argon2.PasswordHasher(time_cost=1, memory_cost=16, parallelism=1).hash("correct horse")
    set_account(store, ann, password=older)
    assert accounts.sign_in("ann", "wrong horse") is None
    assert accounts.sign_in("ann", "correct horse") == ann
    with store.engine.connect() as connection:
        kept = connection.execute(sa.select(schema.accounts.c.password)).scalar_one()
    assert kept != older
    assert accounts.sign_in("ann", "correct horse") == ann


def test_accounts_that_cannot_be_are_refused(accounts: Accounts, ann: Account) -> None:
    for name, password, words in (
        ("ann", "another one", "exists"),
        ("", "long enough", "1 to 64"),
        ("a\nb", "long enough", "printable"),
        ("bo", "short", "at least 8"),
        ("bo", "x" * 1025, "at most 1024"),
        ("bo", "PassWord123", "tried first"),
        ("isabella", "Isabella", "tried first"),
    ):
        with pytest.raises(AccountError, match=words):
            accounts.add(name, password, frozenset())
    with pytest.raises(AccountError, match="group"):
        accounts.add("bo", "long enough", READER, frozenset({"Not A Group"}))
    assert [account.name for account in accounts.all()] == ["ann"]
    accounts.add("bo", "x" * 1024, frozenset())


def test_names_and_ids_that_no_database_takes_are_simply_unknown(accounts: Accounts, ann: Account) -> None:
    for odd in ("\0", "ann\0", "x" * 5000, "\x7f", "'; --"):
        assert accounts.sign_in(odd, "correct horse") is None
        assert accounts.sign_in("ann", odd) is None
        assert accounts.find(odd) is accounts.get(odd) is None
        with pytest.raises(AccountError, match="no such account"):
            accounts.change(odd, actor=ann.id, disabled=True)
        with pytest.raises(AddressError, match="no such"):
            accounts.addresses.revoke(ann.id, odd, actor=ann.id)
        with pytest.raises(TokenError):
            accounts.account_of_address(odd)


# Guessing


def test_an_account_locks_after_wrong_passwords_and_the_right_one_does_not_open_it(
    accounts: Accounts, ann: Account, store: Store
) -> None:
    for _ in range(4):
        accounts.sign_in("ann", "wrong horse")
    assert lock_of_account(store, ann) == (4, False)
    accounts.sign_in("ann", "wrong horse")
    assert lock_of_account(store, ann) == (5, True)
    assert accounts.sign_in("ann", "correct horse") is None
    assert lock_of_account(store, ann) == (5, True), "a try during a lock does not prolong it"
    set_account(store, ann, locked_until=now() - timedelta(seconds=1))
    assert accounts.sign_in("ann", "correct horse") == ann
    assert lock_of_account(store, ann) == (0, False)
    said = [action for _, action, subject in written(store) if subject == ann.id]
    assert said == ["account added", *["sign-in refused"] * 4, "locked out", "sign-in refused", "signed in"]


def test_a_lock_doubles_up_to_its_limit() -> None:
    settings = AccountSettings(wrong_passwords=5, lock_seconds=30, lock_max_seconds=3600)
    seconds = [lock.total_seconds() if (lock := lock_of(n, settings)) else 0 for n in (1, 4, 5, 6, 7, 11, 12, 10_000)]
    assert seconds == [0, 0, 30, 60, 120, 1920, 3600, 3600]


def test_guesses_at_the_same_moment_are_counted_one_by_one(accounts: Accounts, ann: Account, store: Store) -> None:
    """Twenty wrong ones and the right one together: who guesses at once must not get more tries than who waits."""
    for _ in range(4):
        accounts.sign_in("ann", "wrong horse")
    opened: list[Account | None] = []
    start = threading.Barrier(20)

    def guess(number: int) -> None:
        start.wait()
        opened.append(accounts.sign_in("ann", f"wrong horse {number}"))

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == [None] * 20
    assert lock_of_account(store, ann) == (5, True)


def test_a_refusal_tells_nothing_of_its_reason(accounts: Accounts, ann: Account, store: Store) -> None:
    """Unknown, wrong, locked and disabled: the same answer, and the same number of writes behind it."""
    locked = accounts.add("lou", "correct horse", READER)
    set_account(store, locked, failures=5, locked_until=now() + timedelta(hours=1))
    disabled = accounts.add("dan", "correct horse", READER)
    set_account(store, disabled, disabled=True)
    statements: list[str] = []
    sa.event.listen(store.engine, "before_cursor_execute", lambda _c, _r, sql, *_: statements.append(sql.split()[0]))
    seen = []
    for name, password in (
        ("nobody", "correct horse"),
        ("ann", "wrong horse"),
        ("lou", "correct horse"),
        ("lou", "wrong horse"),
        ("dan", "correct horse"),
    ):
        statements.clear()
        assert accounts.sign_in(name, password) is None
        seen.append(tuple(statements))
    assert len(set(seen)) == 1, seen


def test_the_audit_names_accounts_by_their_ids_and_an_unknown_name_not_at_all(
    accounts: Accounts, ann: Account, store: Store
) -> None:
    accounts.sign_in("correct horse", "ann")  # people type one for the other
    assert written(store)[-1] == ("server", "sign-in refused", "unknown name")
    accounts.sign_in("ann", "correct horse")
    assert written(store)[-1] == (ann.id, "signed in", ann.id)


def test_one_computer_has_only_so_many_wrong_tries_whatever_the_names() -> None:
    tries = Tries(3)
    for _ in range(3):
        tries.require_some_left("192.0.2.1")
        tries.refused("192.0.2.1")
    with pytest.raises(TooManyTriesError, match="ten minutes"):
        tries.require_some_left("192.0.2.1")
    tries.require_some_left("192.0.2.2")
    assert place_of("2001:db8:1:2:3:4:5:6") == place_of("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert place_of("192.0.2.1") == "192.0.2.1"
    assert place_of("testclient") == "testclient"


# One-time passwords


def test_a_one_time_password_opens_only_to_be_replaced(accounts: Accounts, ann: Account, root: Account) -> None:
    password = accounts.reset_password(ann.id, actor=root.id)
    assert accounts.sign_in("ann", "correct horse") is None
    with pytest.raises(OneTimePasswordError):
        accounts.sign_in("ann", password)
    with pytest.raises(AccountError, match="at least 8"):
        accounts.sign_in("ann", password, new="short")
    assert accounts.sign_in("ann", password, new="battery horse") == ann
    assert accounts.sign_in("ann", password) is None
    assert accounts.sign_in("ann", "battery horse") == ann


def test_a_one_time_password_does_not_last(accounts: Accounts, ann: Account, root: Account, store: Store) -> None:
    password = accounts.reset_password(ann.id, actor=root.id)
    set_account(store, ann, password_until=now() - timedelta(seconds=1))
    assert accounts.sign_in("ann", password) is None
    assert accounts.sign_in("ann", password, new="battery horse") is None


def test_a_reset_ends_lock_sessions_and_addresses(
    accounts: Accounts, ann: Account, root: Account, store: Store
) -> None:
    token, address = accounts.token(ann), accounts.new_address(ann)
    set_account(store, ann, failures=9, locked_until=now() + timedelta(hours=1))
    password = accounts.reset_password(ann.id, actor=root.id)
    for ended in (lambda: accounts.account_of(token), lambda: accounts.account_of_address(address)):
        with pytest.raises(TokenError):
            ended()
    assert accounts.sign_in("ann", password, new="battery horse") == ann
    actors = [entry for entry in written(store) if entry[1] == "password changed"]
    assert actors == [(root.id, "password changed", ann.id), (ann.id, "password changed", ann.id)]


def test_ones_own_new_password_ends_ones_sessions(accounts: Accounts, ann: Account) -> None:
    token = accounts.token(ann)
    assert accounts.sign_in("ann", "wrong horse", new="battery horse") is None
    assert accounts.account_of(token) == ann
    assert accounts.sign_in("ann", "correct horse", new="battery horse") == ann
    with pytest.raises(TokenError, match="ended"):
        accounts.account_of(token)
    assert accounts.account_of(accounts.token(ann)) == ann


# Tokens


def test_a_token_stands_for_its_account(accounts: Accounts, ann: Account) -> None:
    assert accounts.account_of(accounts.token(ann)) == ann


def test_forged_tokens_are_refused(accounts: Accounts, ann: Account, site: Site) -> None:
    kid, key = accounts.tokens.keys.newest()
    claims = jwt.decode(accounts.token(ann), options={"verify_signature": False})
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    def signed(changes: dict[str, object], without: str = "", signing: object = key, **headers: object) -> str:
        changed = {name: value for name, value in {**claims, **changes}.items() if name != without}
        return jwt.encode(changed, signing, algorithm="EdDSA", headers={"kid": kid, **headers})  # type: ignore[arg-type]

    assert accounts.account_of(signed({})) == ann
    forged = {
        "another key": signed({}, signing=Ed25519PrivateKey.generate()),
        "the key of adjudications": signed({}, signing=site.signing_key),
        "no signature": jwt.encode(claims, None, algorithm="none", headers={"kid": kid}),
        "HS256 with the public key": jwt.encode(claims, raw, algorithm="HS256", headers={"kid": kid}),
        "expired": signed({"exp": now() - timedelta(seconds=1)}),
        "wrong audience": signed({"aud": "elsewhere"}),
        "several audiences": signed({"aud": ["overread", "elsewhere"]}),
        "wrong issuer": signed({"iss": "elsewhere"}),
        "unknown kid": signed({}, kid=f"{kid[:-4]}0000"),
        "no kid": jwt.encode(claims, key, algorithm="EdDSA"),
        "a path as kid": signed({}, kid=f"../tokens/{kid}"),
        "times that are no times": signed({"began": "yesterday"}),
        "rubbish": "rubbish",
        **{f"without {name}": signed({}, without=name) for name in claims},
    }
    for what, token in forged.items():
        with pytest.raises(TokenError):
            pytest.fail(f"{what}: {accounts.account_of(token)}")


def test_signing_out_ends_every_token_of_the_session_and_no_other(
    accounts: Accounts, ann: Account, store: Store
) -> None:
    other = accounts.token(ann)
    claims = accounts.tokens.read(accounts.token(ann))
    half_an_hour_ago = claims.issued - timedelta(minutes=31)
    renewed = accounts.tokens.renewed(replace(claims, issued=half_an_hour_ago, began=half_an_hour_ago))
    assert renewed is not None
    assert accounts.account_of(renewed) == ann
    accounts.sign_out(claims)
    accounts.sign_out(claims)
    with pytest.raises(TokenError, match="signing out"):
        accounts.account_of(renewed)
    assert accounts.account_of(other) == ann
    assert written(store)[-1] == (ann.id, "signed out", ann.id)


def test_a_session_is_renewed_while_it_is_used_and_not_for_ever(accounts: Accounts, ann: Account) -> None:
    fresh = accounts.tokens.read(accounts.token(ann))
    assert accounts.tokens.renewed(fresh) is None
    ago, left = fresh.issued - timedelta(minutes=40), fresh.issued + timedelta(minutes=20)
    used = replace(fresh, issued=ago, expires=left)
    again = accounts.tokens.renewed(used)
    assert again is not None
    assert accounts.tokens.read(again).session == fresh.session
    old = replace(used, began=fresh.began - timedelta(hours=11.5))
    last = accounts.tokens.renewed(old)
    assert last is not None
    assert accounts.tokens.read(last).expires == old.began + timedelta(hours=12)
    over = replace(used, began=fresh.began - timedelta(hours=12))
    assert accounts.tokens.renewed(over) is None


def test_ended_sessions_are_forgotten_once_they_would_have_expired(
    accounts: Accounts, ann: Account, store: Store
) -> None:
    accounts.sign_out(accounts.tokens.read(accounts.token(ann)))
    with store.writing() as connection:
        connection.execute(sa.update(schema.ended_tokens).values(expires=now() - timedelta(seconds=1)))
    accounts.sign_out(accounts.tokens.read(accounts.token(ann)))
    with store.engine.connect() as connection:
        assert len(connection.execute(sa.select(schema.ended_tokens)).all()) == 1


def test_a_disabled_account_is_nobody_at_once_and_what_it_held_stays_ended(
    accounts: Accounts, ann: Account, root: Account
) -> None:
    token, address = accounts.token(ann), accounts.new_address(ann)
    accounts.change(ann.id, actor=root.id, disabled=True)
    assert accounts.sign_in("ann", "correct horse") is None
    for again in (True, False):
        for refused in (lambda: accounts.account_of(token), lambda: accounts.account_of_address(address)):
            with pytest.raises(TokenError):
                refused()
        if again:
            accounts.change(ann.id, actor=root.id, disabled=False)
    assert accounts.sign_in("ann", "correct horse") is not None


def test_other_roles_hold_at_once_and_end_sessions(
    accounts: Accounts, ann: Account, root: Account, store: Store
) -> None:
    token = accounts.token(ann)
    changed = accounts.change(ann.id, actor=root.id, roles=frozenset({Role.VIEWER}))
    assert (changed.roles, changed.groups) == (frozenset({Role.VIEWER}), frozenset({"neuro"}))
    with pytest.raises(TokenError):
        accounts.account_of(token)
    assert written(store)[-1] == (root.id, "account changed", ann.id)
    token = accounts.token(ann)
    accounts.change(ann.id, actor=root.id, groups=frozenset({"chest"}))
    assert accounts.account_of(token).groups == {"chest"}
    before = len(written(store))
    accounts.change(ann.id, actor=root.id, groups=frozenset({"chest"}))
    assert len(written(store)) == before, "nothing was changed, so nothing is written"


def test_the_last_administrator_stays(accounts: Accounts, root: Account) -> None:
    for changes in ({"disabled": True}, {"roles": READER}, {"roles": frozenset()}):
        with pytest.raises(AccountError, match="only administrator"):
            accounts.change(root.id, actor=root.id, **changes)
    accounts.add("second", "battery staple", frozenset({Role.ADMINISTRATOR}))
    assert accounts.change(root.id, actor=root.id, roles=READER).roles == READER


# Keys


def test_a_rotated_key_still_verifies_until_its_tokens_have_expired(
    accounts: Accounts, ann: Account, store: Store, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = accounts.token(ann)
    old = jwt.get_unverified_header(token)["kid"]
    running = Accounts(store, site)  # another process, which does not start anew
    assert running.account_of(token) == ann
    kid = accounts.rotate_keys(actor="command line")
    assert jwt.get_unverified_header(running.token(ann))["kid"] == kid != old
    assert running.account_of(token) == running.account_of(accounts.token(ann)) == ann
    assert written(store)[-1] == ("command line", "key rotated", kid)
    late = now() + timedelta(minutes=61)
    monkeypatch.setattr("apps.signing_keys.now", lambda: late)
    with pytest.raises(TokenError, match="not in use any more"):
        running.account_of(token)
    accounts.rotate_keys(actor="command line")
    kept = {path.stem for path in (site.root / "keys" / "tokens").glob("*.pem")}
    assert old not in kept
    assert kid in kept


def test_keys_rotated_at_once_end_every_session(accounts: Accounts, ann: Account, store: Store, site: Site) -> None:
    token, running = accounts.token(ann), Accounts(store, site)
    assert running.account_of(token) == ann
    accounts.rotate_keys(actor="command line", at_once=True)
    with pytest.raises(TokenError, match="not in use any more"):
        running.account_of(token)
    assert running.account_of(running.token(ann)) == ann


def test_keys_are_the_owners_alone_and_must_be_what_their_names_say(accounts: Accounts, site: Site) -> None:
    folder = site.root / "keys" / "tokens"
    [path] = folder.iterdir()
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(folder.stat().st_mode)) == (0o600, 0o700)
    kid = accounts.rotate_keys(actor="command line")
    (folder / f"{kid}.pem").write_bytes(path.read_bytes())
    with pytest.raises(SigningKeyError, match=kid):
        accounts.tokens.keys.newest()


# Addresses


def test_an_address_ends_when_it_is_revoked_or_expires(accounts: Accounts, ann: Account, root: Account) -> None:
    address, expired = accounts.new_address(ann, title="left"), accounts.new_address(ann, days=-1)
    assert accounts.account_of_address(address) == ann
    for never in (expired, "", "x" * 32):
        with pytest.raises(TokenError):
            accounts.account_of_address(never)
    [listed] = [one for one in accounts.addresses.of(ann.id) if one.title == "left"]
    with pytest.raises(AddressError):
        accounts.addresses.revoke(root.id, listed.id, actor=root.id)
    assert accounts.account_of_address(address) == ann
    accounts.addresses.revoke(ann.id, listed.id, actor=ann.id)
    with pytest.raises(TokenError):
        accounts.account_of_address(address)
    assert [(one.title, one.revoked, one.in_use) for one in accounts.addresses.of(ann.id)] == [
        ("", False, False),
        ("left", True, False),
    ]


def test_an_address_says_when_it_was_used_last(accounts: Accounts, ann: Account) -> None:
    secret = accounts.new_address(ann)
    assert accounts.addresses.of(ann.id)[0].last_used is None
    accounts.account_of_address(secret)
    used = accounts.addresses.of(ann.id)[0].last_used
    assert used is not None
    accounts.account_of_address(secret)
    assert accounts.addresses.of(ann.id)[0].last_used == used, "not each request costs a write"


def test_addresses_that_cannot_be_are_refused(accounts: Accounts, ann: Account, store: Store) -> None:
    for how, words in (({"title": "x" * 65}, "64"), ({"title": "a\nb"}, "printable"), ({"days": 400}, "366")):
        with pytest.raises(AddressError, match=words):
            accounts.new_address(ann, **how)
    accounts.new_address(ann, actor=ann.id)
    accounts.new_address(ann, actor=ann.id)
    assert accounts.revoke_addresses(ann, actor=ann.id) == 2
    assert [action for _, action, _ in written(store)][-4:] == ["address made"] * 2 + ["address revoked"] * 2
