"""One running server for all tests of annotation; each test brings its own accounts, protocol and cases."""

from collections.abc import Iterator

import pytest

from tests.annotation.served import Served, serving


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served") / "site") as server:
        yield server
