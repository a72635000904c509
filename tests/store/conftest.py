"""Every test of the store runs on SQLite and on PostgreSQL; adjudicators for those about disputes."""

import pytest

from apps.accounts import Accounts
from labeling_protocols.records import Account, Role


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    return str(request.getfixturevalue("postgres").new_store_database())


@pytest.fixture
def judges(accounts: Accounts) -> tuple[Account, Account, Account]:
    """Two adjudicators, of whom the second reads cases too, and a third of the group `chiefs`."""
    role = frozenset({Role.ADJUDICATOR})
    return (
        accounts.add("judge", "judge-password", role),
        accounts.add("other-judge", "judge-password", role | {Role.READER}),
        accounts.add("chief", "chief-password", role, frozenset({"chiefs"})),
    )
