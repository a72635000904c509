"""Hostile bundles: whatever was done to one, it is refused before anything of it is parsed, and leaves no trace."""

import io
import json
import os
import pickle
import stat
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from monai.bundle import ConfigParser

from training import bundle as bundle_module
from training.bundle import (
    BUNDLE_BYTES_MAX,
    CONFIG,
    MANIFEST,
    METADATA,
    REQUIRED,
    SIGNATURE,
    WEIGHTS,
    BundleError,
    open_bundle,
    verify_bundle,
    write_bundle,
)
from training.inference import Predictor

KEY, STRANGER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
NAME = "hippocampus-segmentation"
PARTS = {
    **{name: name.encode() for name in REQUIRED},
    METADATA: json.dumps({"name": NAME, "version": "1.0.0", "overread": {"values": {}}}).encode(),
    CONFIG: b'{"network_def": {"_target_": "torch.nn.Identity"}}',
}
REFUSED = pytest.mark.parametrize("opening", [open_bundle, verify_bundle], ids=["opened", "verified"])
Opening = Callable[..., object]


class Touch:
    """What leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """What every hostile part below would make if it came to be parsed."""
    return tmp_path / "trace"


@pytest.fixture(autouse=True)
def _no_trace(trace: Path, tmp_path: Path) -> Iterator[None]:
    yield
    assert not trace.exists()
    assert not (tmp_path / "unpacked").exists()


class Memory:
    """What Python's objects took since the test began, at most."""

    def peak(self) -> int:
        return tracemalloc.get_traced_memory()[1]


@pytest.fixture
def memory() -> Iterator[Memory]:
    tracemalloc.start()
    yield Memory()
    tracemalloc.stop()


def hostile(what: str, trace: Path) -> Mapping[str, bytes]:
    """The parts of a bundle of which one does harm when it is parsed."""
    if what == "config runs a command":
        config = {"network_def": {"_target_": "os.system", "command": f"mkdir {trace}"}}
        return {**PARTS, CONFIG: json.dumps(config).encode()}
    if what == "config evaluates an expression":
        config = {"network_def": f"$__import__('os').mkdir('{trace}')"}
        return {**PARTS, CONFIG: json.dumps(config).encode()}
    if what == "pickle as model.pt":
        return {**PARTS, "models/model.pt": pickle.dumps(Touch(trace))}
    return {**PARTS, WEIGHTS: pickle.dumps(Touch(trace))}


HOSTILE = pytest.mark.parametrize(
    "what",
    ["config runs a command", "config evaluates an expression", "pickle as model.pt", "pickle as safetensors"],
)


def written(parts: Mapping[str, bytes], folder: Path, key: Ed25519PrivateKey = KEY) -> Path:
    folder.mkdir(exist_ok=True)
    return write_bundle(parts, name=NAME, folder=folder, signing_key=key)


def put_in(bundle: Path, parts: Mapping[str, bytes], target: Path) -> Path:
    """A zip as ours is, its signature untouched, with these parts in the place of its own."""
    with zipfile.ZipFile(bundle) as archive:
        files = {name.removeprefix(f"{NAME}/"): archive.read(name) for name in archive.namelist()}
    target.write_bytes(bundle_module._zip(NAME, {**files, **parts}))
    return target


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return written(PARTS, tmp_path / "good")


def test_the_bundle_all_others_are_made_from_opens(good: Path) -> None:
    assert open_bundle(good, KEY.public_key()).digests == verify_bundle(good, KEY.public_key()).digests


@HOSTILE
def test_each_hostile_part_would_leave_its_trace_if_it_were_parsed(what: str, trace: Path) -> None:
    parts = hostile(what, trace)
    if what.startswith("config"):
        ConfigParser(json.loads(parts[CONFIG])).get_parsed_content("network_def")
    elif what == "pickle as model.pt":
        with pytest.raises(RuntimeError, match="Invalid magic number"):  # once it is unpickled
            torch.load(io.BytesIO(parts["models/model.pt"]), weights_only=False)
    else:
        pickle.loads(parts[WEIGHTS])
    assert trace.is_dir()
    trace.rmdir()


@REFUSED
@HOSTILE
def test_a_hostile_part_put_into_a_signed_bundle_is_refused(
    what: str, opening: Opening, good: Path, trace: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="was changed after the bundle was signed"):
        opening(put_in(good, hostile(what, trace), tmp_path / "b.zip"), KEY.public_key())


@REFUSED
@HOSTILE
def test_a_hostile_bundle_signed_by_a_stranger_is_refused(
    what: str, opening: Opening, trace: Path, tmp_path: Path
) -> None:
    path = written(hostile(what, trace), tmp_path, STRANGER)
    with pytest.raises(BundleError, match="signed with another key"):
        opening(path, KEY.public_key())


@REFUSED
def test_a_bundle_whose_manifest_was_made_anew_to_fit_is_refused(
    opening: Opening, good: Path, trace: Path, tmp_path: Path
) -> None:
    """The digests fit the hostile parts, and the signature is the good bundle's."""
    path = written(hostile("config runs a command", trace), tmp_path / "theirs", STRANGER)
    with zipfile.ZipFile(good) as archive:
        signature = archive.read(f"{NAME}/{SIGNATURE}")
    with pytest.raises(BundleError, match="signature does not hold"):
        opening(put_in(path, {SIGNATURE: signature}, tmp_path / "b.zip"), KEY.public_key())


def test_a_pickle_in_place_of_safetensors_is_not_loaded_though_it_is_signed(trace: Path, tmp_path: Path) -> None:
    path = written(hostile("pickle as safetensors", trace), tmp_path / "signed")
    with pytest.raises(BundleError, match="not a safetensors file"):
        Predictor(open_bundle(path, KEY.public_key()), "cpu")


def test_any_byte_flipped_is_refused(good: Path, tmp_path: Path) -> None:
    whole, path = good.read_bytes(), tmp_path / "b.zip"
    assert 1000 < len(whole) < 10_000
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(BundleError):
            verify_bundle(path, KEY.public_key())


@REFUSED
@pytest.mark.parametrize(
    "name", ["../outside", f"{NAME}/../../outside", "/etc/outside", f"{NAME}/models/..\\outside", "C:/outside"]
)
def test_an_entry_that_leaves_the_folder_is_refused(name: str, opening: Opening, good: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(good, "a") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(BundleError, match="unsafe entry"):
        opening(good, KEY.public_key())


@REFUSED
@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR])
def test_an_entry_that_is_no_file_is_refused(kind: int, opening: Opening, good: Path) -> None:
    entry = zipfile.ZipInfo(f"{NAME}/docs/link")
    entry.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(good, "a") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(BundleError, match="unsafe entry"):
        opening(good, KEY.public_key())


@REFUSED
def test_an_entry_that_stands_twice_is_refused(opening: Opening, good: Path) -> None:
    with zipfile.ZipFile(good, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(f"{NAME}/{CONFIG}", b"{}")
    with pytest.raises(BundleError, match="twice"):
        opening(good, KEY.public_key())


@REFUSED
def test_a_bomb_is_refused_before_it_is_inflated(opening: Opening, tmp_path: Path, memory: Memory) -> None:
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(f"{NAME}/{WEIGHTS}", bytes(64 << 20))
    assert path.stat().st_size < 100_000
    tracemalloc.reset_peak()
    with pytest.raises(BundleError, match="compressed"):
        opening(path, KEY.public_key())
    assert memory.peak() < 4 << 20


@REFUSED
def test_a_bomb_of_entries_over_the_same_bytes_is_refused(opening: Opening, tmp_path: Path) -> None:
    """A thousand entries of the list point at one file of 64 KiB (Fifield 2019, "A better zip bomb")."""
    content, path = io.BytesIO(), tmp_path / "b.zip"
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(f"{NAME}/{WEIGHTS}", bytes(1 << 16))
        first = archive.infolist()[0]
        for number in range(1000):
            entry = zipfile.ZipInfo(f"{NAME}/models/{number}")
            for of_entry in ("CRC", "file_size", "compress_size", "header_offset", "external_attr"):
                setattr(entry, of_entry, getattr(first, of_entry))
            archive.filelist.append(entry)
        archive._didModify = True  # type: ignore[attr-defined]  # so that it writes our list
    path.write_bytes(content.getvalue())
    with pytest.raises(BundleError, match="larger than the zip itself"):
        opening(path, KEY.public_key())


@REFUSED
@pytest.mark.parametrize("of_64", [False, True])
def test_a_list_of_files_that_claims_to_be_huge_is_refused(of_64: bool, opening: Opening, tmp_path: Path) -> None:
    path, size = tmp_path / "b.zip", 2 << 20
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, size, 0) + b"PK\6\7" + bytes(16)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 0 if of_64 else size, 0, 0)
    path.write_bytes(bytes(100) + (end64 if of_64 else b"") + end)
    with pytest.raises(BundleError, match="lists its files in 2097152 bytes"):
        opening(path, KEY.public_key())


@REFUSED
def test_a_file_larger_than_a_bundle_is_refused_unread(opening: Opening, tmp_path: Path, memory: Memory) -> None:
    path = tmp_path / "b.zip"
    path.touch()
    os.truncate(path, BUNDLE_BYTES_MAX + 1)  # sparse: it takes no room
    with pytest.raises(BundleError, match="over 4 GiB"):
        opening(path, KEY.public_key())
    assert memory.peak() < 1 << 20


@REFUSED
def test_what_is_no_file_is_refused_without_waiting_for_it(opening: Opening, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(BundleError, match="is not a file"):
            opening(path, KEY.public_key())


@REFUSED
@pytest.mark.parametrize("manifest", [b"[]", b'{"LICENSE": 1}', b"no JSON", b'"' * 3])
def test_a_signed_manifest_that_is_no_list_of_digests_is_refused(
    manifest: bytes, opening: Opening, good: Path, tmp_path: Path
) -> None:
    path = put_in(good, {MANIFEST: manifest, SIGNATURE: KEY.sign(manifest)}, tmp_path / "b.zip")
    with pytest.raises(BundleError, match=r"manifest.json is signed but is no"):
        opening(path, KEY.public_key())


def test_hostile_bundles_never_reach_the_unpacking(
    good: Path, tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a file was unpacked before the bundle was verified")

    monkeypatch.setattr(bundle_module, "_unpack", refuse)
    with pytest.raises(BundleError):
        open_bundle(put_in(good, hostile("config runs a command", trace), tmp_path / "b.zip"), KEY.public_key())
