"""Bundles: the same parts give the same bytes, and nothing that was touched is opened."""

import json
import os
import pickle
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.training.conftest import KEY
from training import bundle as bundle_module
from training.bundle import MANIFEST, REQUIRED, SIGNATURE, WEIGHTS, BundleError, open_bundle, write_bundle
from training.model_card import Candidate, bundle_parts

Files = dict[str, bytes]
FOLDER = "hippocampus-segmentation"


def contents(path: Path) -> Files:
    with zipfile.ZipFile(path) as archive:
        return {name.removeprefix(f"{FOLDER}/"): archive.read(name) for name in archive.namelist()}


def zipped(path: Path, files: Files, *, compression: int = zipfile.ZIP_STORED) -> Path:
    """A zip of these files as a stranger would write it; names that begin with '!' are taken as they stand."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(name[1:] if name.startswith("!") else f"{FOLDER}/{name}", content)
    return path


@pytest.fixture
def nothing_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test when anything of the bundle but the signed list of digests is parsed, or anything unpacked."""

    def refuse(*_: object) -> None:
        pytest.fail("a file was unpacked before the bundle was verified")

    def loads(text: bytes) -> object:
        parsed = json.loads(text)
        assert all(len(digest) == 64 for digest in parsed.values()), "something else than digests was parsed"
        return parsed

    monkeypatch.setattr(bundle_module, "_unpack", refuse)
    monkeypatch.setattr(bundle_module, "json", SimpleNamespace(loads=loads))


def test_a_bundle_opens_and_carries_what_monai_asks_for(bundle_path: Path) -> None:
    bundle = open_bundle(bundle_path, KEY.public_key())
    assert bundle.name == "hippocampus-segmentation 1.0.7"
    assert bundle.sha256 == bundle_path.stem
    assert set(REQUIRED) <= set(bundle.digests)
    assert all((bundle.folder / name).is_file() for name in [*bundle.digests, MANIFEST, SIGNATURE])
    mandatory = {
        *("version", "changelog", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"),
        *("task", "description", "authors", "copyright", "network_data_format", "name", "intended_use", "data_source"),
    }
    assert mandatory <= set(bundle.metadata)
    assert set(bundle.metadata["network_data_format"]["outputs"]["pred"]["channel_def"]) == {"0", "1", "2"}


def test_the_same_parts_give_the_same_bytes(candidate: Candidate, bundle_path: Path, tmp_path: Path) -> None:
    again = write_bundle(bundle_parts(candidate), name=candidate.name, folder=tmp_path, signing_key=KEY)
    assert again.read_bytes() == bundle_path.read_bytes()


REBUILD = """
import pickle, sys, time
from pathlib import Path
time.time = lambda: 4e9  # the year 2096
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from training.bundle import write_bundle
from training.model_card import bundle_parts
candidate = pickle.loads(Path(sys.argv[1]).read_bytes())
key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(sys.argv[3]))
print(write_bundle(bundle_parts(candidate), name=candidate.name, folder=Path(sys.argv[2]), signing_key=key).name)
"""


@pytest.mark.slow
def test_another_process_at_another_time_in_another_place_makes_the_same_bytes(
    candidate: Candidate, bundle_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "candidate").write_bytes(pickle.dumps(candidate))
    made = subprocess.run(
        [sys.executable, "-c", REBUILD, str(tmp_path / "candidate"), str(tmp_path), KEY.private_bytes_raw().hex()],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Pacific/Kiritimati", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    assert made.stdout.strip() == bundle_path.name
    assert (tmp_path / bundle_path.name).read_bytes() == bundle_path.read_bytes()


def test_weights_in_another_order_give_the_same_bytes(candidate: Candidate) -> None:
    shuffled = dict(reversed(list(candidate.weights.items())))
    assert bundle_parts(type(candidate)(**{**vars(candidate), "weights": shuffled})) == bundle_parts(candidate)


def test_a_bundle_without_weights_is_not_written(candidate: Candidate, tmp_path: Path) -> None:
    parts = bundle_parts(candidate)
    del parts[WEIGHTS]
    with pytest.raises(BundleError, match=r"needs models/model.safetensors.*No bundle was written"):
        write_bundle(parts, name=candidate.name, folder=tmp_path, signing_key=KEY)
    assert not list(tmp_path.iterdir())


def test_a_signed_bundle_without_weights_is_not_opened(
    bundle_path: Path, tmp_path: Path, nothing_is_parsed: None
) -> None:
    files = contents(bundle_path)
    manifest = json.loads(files[MANIFEST])
    del files[WEIGHTS], manifest[WEIGHTS]
    files[MANIFEST] = json.dumps(manifest).encode()
    files[SIGNATURE] = KEY.sign(files[MANIFEST])
    with pytest.raises(BundleError, match=r"has no models/model.safetensors"):
        open_bundle(zipped(tmp_path / "b.zip", files), KEY.public_key())


def test_a_bundle_signed_with_another_key_is_refused(bundle_path: Path, nothing_is_parsed: None) -> None:
    with pytest.raises(BundleError, match="signed with another key"):
        open_bundle(bundle_path, Ed25519PrivateKey.generate().public_key())


@pytest.mark.parametrize("name", [*REQUIRED, "configs/plan.json", MANIFEST, SIGNATURE])
def test_a_change_in_any_file_is_refused(name: str, bundle_path: Path, tmp_path: Path, nothing_is_parsed: None) -> None:
    files = contents(bundle_path)
    changed = bytearray(files[name])
    changed[len(changed) // 2] ^= 1
    with pytest.raises(BundleError, match=r"changed"):
        open_bundle(zipped(tmp_path / "b.zip", {**files, name: bytes(changed)}), KEY.public_key())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), data=st.data())
def test_a_change_in_any_byte_of_the_zip_is_refused(
    place: float, flip: int, data: st.DataObject, bundle_path: Path, tmp_path: Path, nothing_is_parsed: None
) -> None:
    content = bytearray(bundle_path.read_bytes())
    if data.draw(st.booleans(), label="in the zip's own records"):  # they are small beside the weights
        content[-1 - int(place * 1200)] ^= flip
    else:
        content[int(place * len(content))] ^= flip
    changed = tmp_path / "b.zip"
    changed.write_bytes(content)
    with pytest.raises(BundleError):
        open_bundle(changed, KEY.public_key())


def test_a_truncated_or_lengthened_zip_is_refused(bundle_path: Path, tmp_path: Path, nothing_is_parsed: None) -> None:
    whole = bundle_path.read_bytes()
    for content in (b"", b"PK", whole[:-1], whole[: len(whole) // 2], whole + b"\0", b"#!/bin/sh\n" + whole):
        (tmp_path / "b.zip").write_bytes(content)
        with pytest.raises(BundleError):
            open_bundle(tmp_path / "b.zip", KEY.public_key())


@pytest.mark.parametrize(
    "name",
    [
        "!../outside.txt",
        f"!{FOLDER}/../../outside.txt",
        "!/etc/outside.txt",
        f"!{FOLDER}/models/..\\outside.txt",
        f"!{FOLDER}//outside.txt",
        f"!{FOLDER}/",
        "!outside.txt",
        f"!{FOLDER}/.hidden",
    ],
)
def test_an_entry_that_leaves_the_folder_is_refused(
    name: str, bundle_path: Path, tmp_path: Path, nothing_is_parsed: None
) -> None:
    with pytest.raises(BundleError, match="unsafe entry"):
        open_bundle(zipped(tmp_path / "b.zip", {**contents(bundle_path), name: b"x"}), KEY.public_key())


def test_a_link_in_the_zip_is_refused(bundle_path: Path, tmp_path: Path, nothing_is_parsed: None) -> None:
    path = zipped(tmp_path / "b.zip", contents(bundle_path))
    link = zipfile.ZipInfo(f"{FOLDER}/docs/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BundleError, match="unsafe entry"):
        open_bundle(path, KEY.public_key())


def test_an_extra_a_missing_and_a_doubled_file_are_refused(
    bundle_path: Path, tmp_path: Path, nothing_is_parsed: None
) -> None:
    files = contents(bundle_path)
    with pytest.raises(BundleError, match=r"differ: models/extra.pt"):
        open_bundle(zipped(tmp_path / "extra.zip", {**files, "models/extra.pt": b"x"}), KEY.public_key())
    missing = {name: content for name, content in files.items() if name != "configs/plan.json"}
    with pytest.raises(BundleError, match=r"differ: configs/plan.json"):
        open_bundle(zipped(tmp_path / "missing.zip", missing), KEY.public_key())
    doubled = zipped(tmp_path / "doubled.zip", files)
    with zipfile.ZipFile(doubled, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(f"{FOLDER}/{WEIGHTS}", b"other weights")
    with pytest.raises(BundleError, match="twice"):
        open_bundle(doubled, KEY.public_key())
    with pytest.raises(BundleError, match="one folder, found 2"):
        open_bundle(zipped(tmp_path / "two.zip", {**files, "!other/file.txt": b"x"}), KEY.public_key())


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE])
def test_an_unsigned_bundle_is_refused(name: str, bundle_path: Path, tmp_path: Path, nothing_is_parsed: None) -> None:
    files = contents(bundle_path)
    del files[name]
    with pytest.raises(BundleError, match="not signed"):
        open_bundle(zipped(tmp_path / "b.zip", files), KEY.public_key())


def test_a_compressed_bundle_is_refused_before_it_is_inflated(
    bundle_path: Path, tmp_path: Path, nothing_is_parsed: None
) -> None:
    bomb = zipped(tmp_path / "b.zip", contents(bundle_path), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleError, match="compressed or encrypted"):
        open_bundle(bomb, KEY.public_key())


def test_a_bundle_that_is_not_there_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"b.zip cannot be read \(No such file"):
        open_bundle(tmp_path / "b.zip", KEY.public_key())


def test_a_file_changed_after_unpacking_is_not_read(bundle_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / bundle_path.name
    copy.write_bytes(bundle_path.read_bytes())
    bundle = open_bundle(copy, KEY.public_key())
    (bundle.folder / WEIGHTS).write_bytes(b"other weights")
    with pytest.raises(BundleError, match="changed after its bundle was unpacked"):
        open_bundle(copy, KEY.public_key()).read(WEIGHTS)
    (bundle.folder / WEIGHTS).unlink()
    with pytest.raises(BundleError, match=r"cannot be read \(No such file"):
        bundle.read(WEIGHTS)
