"""Small volumes with awkward geometry, a store and a site, for every test."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import argon2
import numpy as np
import pytest
from playwright.sync_api import Browser, sync_playwright

from apps import passwords
from apps.accounts import Accounts
from apps.assets import assets_folder
from apps.settings import Site, make_site
from labeling_protocols.engine import make_engine, upgrade
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.records import Account, Role
from labeling_protocols.store import Store
from tests.postgres import Postgres, running_postgres

SWIFTSHADER = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]

OBLIQUE = Geometry(
    shape_ZYX=(6, 10, 8),
    spacing_mm_XYZ=(0.8, 1.1, 2.5),
    origin_mm_LPS=(-31.0, 12.5, 7.25),
    # 30° about Z, then the slice axis turned round: oblique and flipped.
    direction_LPS=(0.866025403784, -0.5, 0.0, 0.5, 0.866025403784, 0.0, 0.0, 0.0, -1.0),
)


def image_of(seed: int, geometry: Geometry = OBLIQUE) -> Volume:
    """Noise that differs from seed to seed."""
    noise = np.random.default_rng(seed).integers(0, 1000, geometry.shape_ZYX, dtype=np.int16)
    return Volume(array_ZYX=noise, geometry=geometry)


def label_of(shift: int = 0, geometry: Geometry = OBLIQUE) -> Volume:
    """Two touching boxes, anterior (1) and posterior (2); `shift` moves both along x."""
    array = np.zeros(geometry.shape_ZYX, dtype=np.uint8)
    array[1:5, 1:5, 1 + shift : 5 + shift] = 1
    array[1:5, 5:9, 1 + shift : 5 + shift] = 2
    return Volume(array_ZYX=array, geometry=geometry)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: the process that takes one last would keep the others waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def protocol() -> Protocol:
    return load_protocol(SHIPPED / "hippocampus.yaml")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "site")


@pytest.fixture(scope="session", autouse=True)
def _hashing_costs_little() -> Iterator[None]:
    """Argon2id with least parameters; what the real ones are has its own test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_HASHER", argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        passwords._nobodys.cache_clear()
        yield
        passwords._nobodys.cache_clear()


@pytest.fixture(scope="session")
def up_to_date(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite database that every migration has run on; tests get copies."""
    path = tmp_path_factory.mktemp("up-to-date") / "overread.db"
    engine = make_engine(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    return path


@pytest.fixture
def sqlite_url(site: Site, up_to_date: Path) -> str:
    """The site's own database, up to date."""
    shutil.copy(up_to_date, site.root / "overread.db")
    return site.database_url


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Where the store's tables lie; folders whose tests are for both databases say otherwise."""
    return sqlite_url


@pytest.fixture
def store(site: Site, database_url: str, protocol: Protocol) -> Iterator[Store]:
    store = Store(database_url, site.blobs)
    store.add_protocol(protocol)
    yield store
    store.close()


@pytest.fixture
def accounts(store: Store, site: Site) -> Accounts:
    return Accounts(store, site)


@pytest.fixture
def readers(accounts: Accounts) -> tuple[Account, Account]:
    return tuple(accounts.add(name, f"{name}-password", frozenset({Role.READER})) for name in ("ann", "ben"))  # type: ignore[return-value]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None or not (assets_folder() / "niivue").is_dir():
        pytest.skip("no browser to look with: install Debian's chromium and run scripts/setup")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=SWIFTSHADER)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, or a skip where there is none."""
    folder = Path(os.environ.get("OVERREAD_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no folder of real images: set OVERREAD_TEST_DATA to one")
    return folder
