"""Rows of the accounts' table in, accounts as the program and administrators see them out."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from labeling_protocols.protocol_parts import NAME_PATTERN
from labeling_protocols.records import Account, Role
from labeling_protocols.store import now


class AccountError(ValueError):
    """An account that cannot be made or changed so: what was found, what was expected."""


@dataclass(frozen=True, kw_only=True)
class Details:
    """An account as administrators see it; `provider` is the issuer that signs it in, "" for a password of ours."""

    account: Account
    created: datetime
    provider: str
    locked_until: datetime | None
    awaits_own_password: bool
    signs_in: bool  # False for one that stands for somebody elsewhere, whose reads were brought in


def account_of_row(row: sa.Row[Any]) -> Account:
    return Account(
        id=row.id,
        name=row.name,
        roles=frozenset(Role(role) for role in row.roles),
        groups=frozenset(row.groups),
        disabled=row.disabled,
    )


def details_of_row(row: sa.Row[Any]) -> Details:
    return Details(
        account=account_of_row(row),
        created=row.created,
        provider=row.issuer or "",
        locked_until=row.locked_until if row.locked_until is not None and row.locked_until > now() else None,
        awaits_own_password=row.password_until is not None,
        signs_in=row.password is not None or row.issuer is not None,
    )


def require_groups(groups: frozenset[str], undone: str) -> None:
    """Refuse a group that no protocol could name."""
    if not all(re.fullmatch(NAME_PATTERN, group) for group in groups):
        raise AccountError(f"a group's name is lower-case letters, digits and underscores, a letter first. {undone}")
