"""Every test of the store runs on SQLite and on PostgreSQL."""

import pytest

from apps.settings import Site


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, site: Site) -> str:
    if request.param == "sqlite":
        return site.database_url
    return str(request.getfixturevalue("postgres").new_database())
