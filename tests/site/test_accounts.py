"""Who signs in is who he says, and a forged, foreign or ended token is nobody."""

from datetime import timedelta

import jwt
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from apps.accounts import AccountError, Accounts, TokenError
from apps.settings import Site
from labeling_protocols import schema
from labeling_protocols.records import Account, Role
from labeling_protocols.store import Store, now


@pytest.fixture
def ann(accounts: Accounts) -> Account:
    return accounts.add("ann", "correct horse", frozenset({Role.READER}))


def test_the_right_password_signs_in_and_a_wrong_one_does_not(accounts: Accounts, ann: Account) -> None:
    assert accounts.sign_in("ann", "correct horse") == ann
    assert accounts.sign_in("ann", "wrong horse") is None
    assert accounts.sign_in("nobody", "correct horse") is None


def test_passwords_and_addresses_are_not_in_the_database(
    accounts: Accounts, ann: Account, store: Store, site: Site
) -> None:
    secret = accounts.new_address(ann)
    store.close()
    content = b"".join(path.read_bytes() for path in site.root.glob("overread.db*"))
    assert b"correct horse" not in content
    assert secret.encode() not in content
    assert b"argon2id" in content


def test_a_token_stands_for_its_account(accounts: Accounts, ann: Account) -> None:
    assert accounts.account_of(accounts.token(ann)) == ann


def test_forged_tokens_are_refused(accounts: Accounts, ann: Account, site: Site) -> None:
    claims = jwt.decode(accounts.token(ann), options={"verify_signature": False})
    raw = site.public_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    forged = {
        "another key": jwt.encode(claims, Ed25519PrivateKey.generate(), algorithm="EdDSA"),
        "no signature": jwt.encode(claims, None, algorithm="none"),
        "HS256 with the public key": jwt.encode(claims, raw, algorithm="HS256"),
        "expired": jwt.encode({**claims, "exp": now() - timedelta(1)}, site.signing_key, algorithm="EdDSA"),
        "wrong audience": jwt.encode({**claims, "aud": "elsewhere"}, site.signing_key, algorithm="EdDSA"),
        "wrong issuer": jwt.encode({**claims, "iss": "elsewhere"}, site.signing_key, algorithm="EdDSA"),
        "no subject": jwt.encode({k: v for k, v in claims.items() if k != "sub"}, site.signing_key, algorithm="EdDSA"),
        "rubbish": "rubbish",
    }
    for token in forged.values():
        with pytest.raises(TokenError):
            accounts.account_of(token)


def test_a_disabled_account_is_nobody_at_once(accounts: Accounts, ann: Account, store: Store) -> None:
    token, address = accounts.token(ann), accounts.new_address(ann)
    with store.writing() as connection:
        connection.execute(sa.update(schema.accounts).values(disabled=True))
    assert accounts.sign_in("ann", "correct horse") is None
    for refused in (lambda: accounts.account_of(token), lambda: accounts.account_of_address(address)):
        with pytest.raises(TokenError):
            refused()


def test_an_address_ends_when_it_is_revoked_or_expires(accounts: Accounts, ann: Account) -> None:
    address, expired = accounts.new_address(ann), accounts.new_address(ann, days=-1)
    assert accounts.account_of_address(address) == ann
    with pytest.raises(TokenError):
        accounts.account_of_address(expired)
    assert accounts.revoke_addresses(ann) == 2
    with pytest.raises(TokenError):
        accounts.account_of_address(address)


def test_accounts_that_cannot_be_are_refused(accounts: Accounts, ann: Account) -> None:
    for name, password, words in (
        ("ann", "another one", "exists"),
        ("", "long enough", "1 to 64"),
        ("bo", "short", "8"),
    ):
        with pytest.raises(AccountError, match=words):
            accounts.add(name, password, frozenset())
