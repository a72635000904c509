"""Small volumes with awkward geometry, a store and a site, for every test."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from apps.accounts import Accounts
from apps.settings import Site, make_site
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.records import Account, Role
from labeling_protocols.store import Store

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


@pytest.fixture(scope="session")
def protocol() -> Protocol:
    return load_protocol(SHIPPED / "hippocampus.yaml")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "site")


@pytest.fixture
def store(site: Site, protocol: Protocol) -> Iterator[Store]:
    store = Store(site.database_url, site.blobs)
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
def real_data() -> Path:
    """The folder of real images, or a skip where there is none."""
    folder = Path(os.environ.get("OVERREAD_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no folder of real images: set OVERREAD_TEST_DATA to one")
    return folder
