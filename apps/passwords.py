"""Passwords: one in; its argon2id hash, whether it is the one that was hashed, or why it cannot be one, out.

The rules are those of NIST SP 800-63B: a least length, every printable character, no rules of composition, and none
that everybody tries first.
"""

import functools
import secrets
import unicodedata
from datetime import timedelta
from pathlib import Path

import argon2

from apps.settings import AccountSettings

LENGTH_MAX = 1024
_COMMON = Path(__file__).parent / "common_passwords.txt"
_HASHER = argon2.PasswordHasher()  # argon2id with the parameters of RFC 9106, chosen for 64 MiB
_OURS = ("overread", "radiology", "monailabel")


def hashed(password: str) -> str:
    return _HASHER.hash(_prepared(password))


def matches(kept: str | None, password: str) -> bool:
    """Whether `kept` is the hash of this password; takes as long where there is none to compare with."""
    try:
        _HASHER.verify(kept or _nobodys(), _prepared(password[: LENGTH_MAX + 1]))
    except argon2.exceptions.VerifyMismatchError:
        return False
    return kept is not None


def outdated(kept: str) -> bool:
    """Whether a hash was made with other parameters than new ones are."""
    return _HASHER.check_needs_rehash(kept)


def problem_with(password: str, name: str, settings: AccountSettings) -> str:
    """Why this cannot be the password of the account of this name, or nothing."""
    least = settings.password_min_characters
    if len(_prepared(password)) < least:
        return f"a password has at least {least} characters"
    if len(password) > LENGTH_MAX:
        return f"a password has at most {LENGTH_MAX} characters"
    if password.casefold() in {name.casefold(), *_OURS, *_common()}:
        return "this password is among those that are tried first"
    return ""


def made_up() -> str:
    """A password for a start: 96 random bits that can be read out and typed."""
    return "-".join(secrets.token_hex(3) for _ in range(4))


def lock_of(failures: int, settings: AccountSettings) -> timedelta | None:
    """How long an account is locked after so many wrong passwords in a row: twice as long each time, up to a limit."""
    beyond = failures - settings.wrong_passwords
    if beyond < 0:
        return None
    return timedelta(seconds=min(settings.lock_seconds * 2.0 ** min(beyond, 30), settings.lock_max_seconds))


def _prepared(password: str) -> str:
    """One form for one text, however a keyboard composes it."""
    return unicodedata.normalize("NFKC", password)


@functools.cache
def _nobodys() -> str:
    return _HASHER.hash(secrets.token_hex(16))


@functools.cache
def _common() -> frozenset[str]:
    return frozenset(line.strip() for line in _COMMON.read_text().splitlines() if not line.startswith("#"))
