"""From a result back to the readers of what its model learned from, and from a model version to what it read."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from apps.accounts import Accounts
from apps.command import app
from apps.endpoint.results import Result, ResultState, record
from apps.endpoint.trace import trace
from apps.settings import Site, make_site
from apps.training_site import registry_of
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Role
from labeling_protocols.store import Store
from tests.training.drawn import anything_passes, settle_cases
from tests.training.registered import Registered
from training.model_versions import ModelVersion
from training.snapshot_index import take

PROTOCOL = "hippocampus"
STUDY, SERIES, OBJECT = "1.2.3", "1.2.3.4", "1.2.3.4.5"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "site")


@pytest.fixture
def store(site: Site) -> Iterator[Store]:
    opened = Store(site.database_url, site.blobs)
    yield opened
    opened.close()


@pytest.fixture
def readers(site: Site, store: Store, protocol: Protocol) -> list[str]:
    """Two readers who read six cases alike."""
    lenient = anything_passes(protocol)
    store.add_protocol(lenient)
    accounts = Accounts(store, site)
    people = [accounts.add(name, f"{name}-password", frozenset({Role.READER})) for name in ("ann", "ben")]
    settle_cases(store, lenient, people, range(6))
    return [one.id for one in people]


@pytest.fixture
def version(site: Site, store: Store, readers: list[str]) -> ModelVersion:
    taken = take(store, PROTOCOL, secret=site.secret, actor="tests")
    place = Registered(site.tracking_uri, site.folder("mlflow") / "artifacts", site.folder("bundles"), site.signing_key)
    return place.add(snapshot=taken.snapshot)


@pytest.fixture
def result(store: Store, version: ModelVersion) -> int:
    made = Result(
        series=SERIES,
        study=STUDY,
        instances="0" * 64,
        state=ResultState.DONE,
        protocol=PROTOCOL,
        model=version.name,
        bundle=version.bundle_sha256,
        seg=f"{OBJECT}.dcm",
    )
    return record(store, made, ("PACS",))


def overread(site: Site, *words: str) -> str:
    told = CliRunner().invoke(app, [*words, "--site", str(site.root)])
    return told.output + str(told.exception or "")


@pytest.mark.parametrize("uid", [STUDY, SERIES, OBJECT], ids=["study", "series", "object"])
def test_every_uid_of_a_result_leads_to_the_readers(
    site: Site, store: Store, readers: list[str], version: ModelVersion, result: int, uid: str
) -> None:
    [found] = trace(store, registry_of(site), uid)
    assert (found.result.id, found.version, found.gate, found.wanting) == (result, version, "passed", ())
    assert [one.destination for one in found.deliveries] == ["PACS"]
    assert found.learned is not None
    assert found.learned.readers == dict.fromkeys(readers, 6)
    assert (found.learned.cases, found.learned.reads, found.learned.settled) == (6, 12, {"consensus": 6})


def test_the_command_prints_the_chain_and_programs_get_it_as_json(
    site: Site, readers: list[str], version: ModelVersion, result: int
) -> None:
    said = overread(site, "trace", OBJECT)
    for words in (version.name, version.run_id, version.snapshot[:12], version.bundle_sha256[:12], "gate passed"):
        assert words in said
    assert all(f"{reader} (6)" in said for reader in readers)
    [told] = json.loads(overread(site, "trace", STUDY, "--json"))
    assert told["learned"]["snapshot"] == version.snapshot
    assert told["result"]["model"] == version.name


def test_a_version_is_followed_to_every_study_it_read(site: Site, version: ModelVersion, result: int) -> None:
    said = overread(site, "trace", "--model", version.name)
    assert SERIES in said
    assert "1 studies, 1 series." in said
    assert json.loads(overread(site, "trace", "--model", "hippocampus-segmentation 9.9.9", "--json")) == []


def test_a_link_that_is_missing_or_does_not_hold_is_said_and_the_rest_is_told(
    site: Site, store: Store, version: ModelVersion, result: int
) -> None:
    bundle = site.folder("bundles") / f"{version.bundle_sha256}.zip"
    content = bundle.read_bytes()
    bundle.write_bytes(content[:-200] + bytes(200))
    store.blobs.path(version.snapshot).unlink()
    [found] = trace(store, registry_of(site), STUDY)
    assert found.version == version
    assert found.gate == "passed"
    assert found.learned is None
    about_bundle, about_snapshot = found.wanting
    assert about_bundle.startswith(f"bundle {version.bundle_sha256[:12]}: ")
    assert about_snapshot.startswith(f"snapshot {version.snapshot[:12]} cannot be opened")
    assert "wanting:" in overread(site, "trace", STUDY)


def test_a_site_restored_from_its_copy_tells_the_same(
    site: Site, store: Store, version: ModelVersion, result: int, tmp_path: Path
) -> None:
    before = json.loads(overread(site, "trace", STUDY, "--json"))
    store.close()
    again = Path(shutil.copytree(site.root, tmp_path / "years later"))
    shutil.rmtree(site.root)
    again.rename(site.root)
    assert json.loads(overread(Site(site.root), "trace", STUDY, "--json")) == before


def test_nothing_to_follow_is_said(site: Site, store: Store) -> None:
    assert "has no result of this UID" in overread(site, "trace", "9.9")
    assert "give a UID, or a model version" in overread(site, "trace")
    assert "give a UID, or a model version" in overread(site, "trace", "1.2", "--model", "x 1")
