"""What a person types does what it says, and what cannot be done ends with code 1 and a sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from apps.settings import Site
from labeling_protocols.store import Store
from labeling_protocols.volumes import write_volume
from tests.conftest import image_of


def overread(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "apps.command", *map(str, words)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "site"
    made = overread("init", root)
    assert made.returncode == 0, made.stderr
    assert "shown this once" in made.stdout
    return root


def test_a_made_site_has_its_protocols_and_an_administrator(root: Path) -> None:
    assert "hippocampus" in overread("protocol", "list", "--site", root).stdout
    assert "administrator" in overread("account", "list", "--site", root).stdout


def test_a_site_is_not_made_twice(root: Path) -> None:
    again = overread("init", root)
    assert again.returncode == 1
    assert "not empty" in again.stderr


def test_ingest_adds_what_it_can_and_tells_what_it_refused(root: Path, tmp_path: Path) -> None:
    write_volume(image_of(1), tmp_path / "good.nii.gz")
    (tmp_path / "corrupt.nii.gz").write_bytes(b"\x1f\x8bnot really")
    done = overread("ingest", tmp_path, "--protocol", "hippocampus", "--site", root)
    assert done.returncode == 1
    assert "1 case(s) added" in done.stdout
    assert "refused corrupt.nii.gz" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ingest", "{tmp}", "--protocol", "liver"), "unknown protocol"),
        (("ingest", "{tmp}/nowhere", "--protocol", "hippocampus"), "no such file or folder"),
        (("protocol", "add", "{tmp}/none.yaml"), "cannot be read"),
        (("account", "add", "admin", "--role", "reader", "--password", "long enough"), "exists"),
        (("account", "address", "nobody"), "no account of this name"),
        (("rollback", "hippocampus"), "no model of protocol hippocampus has passed the gate yet"),
        (("train", "liver"), "unknown protocol"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done_is_told_without_a_traceback(
    root: Path, tmp_path: Path, words: tuple[str, ...], expected: str
) -> None:
    done = overread(*(word.format(tmp=tmp_path) for word in words), "--site", root)
    assert done.returncode == 1
    assert expected in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_no_site_is_told_how_to_make_one(tmp_path: Path) -> None:
    done = overread("status", "--site", tmp_path)
    assert done.returncode == 1
    assert "overread init" in " ".join(done.stderr.split())


def test_a_protocol_that_changed_needs_a_new_version(root: Path, tmp_path: Path) -> None:
    shipped = (root / "protocols" / "hippocampus.yaml").read_text()
    path = tmp_path / "hippocampus.yaml"
    path.write_text(shipped.replace("readers_per_case: 2", "readers_per_case: 3"))
    refused = overread("protocol", "add", path, "--site", root)
    assert refused.returncode == 1
    assert "new version number" in " ".join(refused.stderr.split())
    path.write_text(path.read_text().replace("version: 1", "version: 2"))
    assert overread("protocol", "add", path, "--site", root).returncode == 0
    site = Site(root)
    store = Store(site.database_url, site.blobs)
    assert (store.protocol("hippocampus").version, store.protocol("hippocampus", 1).readers_per_case) == (2, 2)
    store.close()
