"""Bytes keep their name in a folder, in memory and in an S3 server, or it is noticed."""

import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from labeling_protocols.blobs import Blobs, DamagedBlobError, FolderBlobs, RemoteBlobs, make_blobs

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URL of a bucket on a server of our own."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "tester")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "known to all")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("reads")
        yield "s3://reads"
    server.stop()


@pytest.fixture(params=["folder", "memory", "file", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    cache = tmp_path / "cache"
    if request.param == "folder":
        return make_blobs(tmp_path / "blobs", cache=cache)
    if request.param == "memory":
        return make_blobs(f"memory://site-{next(_NUMBERS)}/blobs", cache=cache)
    if request.param == "file":
        return RemoteBlobs(f"file://{tmp_path}/blobs", cache=cache)
    return make_blobs(f"{request.getfixturevalue('s3')}/site-{next(_NUMBERS)}", cache=cache)


def test_bytes_come_back_under_their_sha_256(blobs: Blobs) -> None:
    digest = blobs.put(b"a label")
    assert digest == hashlib.sha256(b"a label").hexdigest()
    assert blobs.get(digest) == b"a label"
    assert blobs.path(digest).read_bytes() == b"a label"
    assert digest in blobs


def test_what_was_never_stored_is_not_there(blobs: Blobs) -> None:
    absent = "0" * 64
    assert absent not in blobs
    with pytest.raises(FileNotFoundError):
        blobs.get(absent)
    assert list(blobs) == []


def test_the_same_bytes_are_one_blob(blobs: Blobs) -> None:
    kept = {blobs.put(b"one"), blobs.put(b"two"), blobs.put(b"one")}
    assert sorted(blobs) == sorted(kept)


def test_a_name_that_is_no_digest_is_refused(blobs: Blobs) -> None:
    for name in ("../../etc/passwd", "A" * 64, "", "0" * 64 + "\n"):
        with pytest.raises(ValueError, match="64 lower-case"):
            blobs.get(name)
        with pytest.raises(ValueError, match="64 lower-case"):
            blobs.path(name)


def test_damage_is_noticed_wherever_the_bytes_lie(blobs: Blobs) -> None:
    digest = blobs.put(b"a label")
    if isinstance(blobs, FolderBlobs):
        blobs.path(digest).write_bytes(b"b label")
    else:
        assert isinstance(blobs, RemoteBlobs)
        blobs._files.pipe_file(blobs._key(digest), b"b label")
        with pytest.raises(DamagedBlobError, match=digest):
            blobs.path(digest)
    with pytest.raises(DamagedBlobError, match=digest):
        blobs.get(digest)


def test_a_write_cut_short_is_made_whole_by_the_next(tmp_path: Path) -> None:
    blobs = RemoteBlobs("memory://cut/blobs", cache=tmp_path)
    digest = blobs.put(b"a label")
    blobs._files.pipe_file(blobs._key(digest), b"a la")
    assert blobs.put(b"a label") == digest
    assert blobs.get(digest) == b"a label"


def test_the_cache_forgets_what_was_used_least_lately(tmp_path: Path) -> None:
    blobs = make_blobs("memory://cached/blobs", cache=tmp_path / "cache", cache_bytes=250)
    first, second, third = (blobs.put(bytes([number]) * 100) for number in range(3))
    for moment, digest in enumerate((first, second, first)):
        os.utime(blobs.path(digest), (moment, moment))
    assert blobs.path(third).read_bytes() == b"\x02" * 100
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {first, third}
    assert blobs.path(second).read_bytes() == b"\x01" * 100


def test_what_a_killed_writer_left_is_no_blob(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    digest = blobs.put(b"a label")
    (blobs.path(digest).parent / ".writing-x").write_bytes(b"a la")
    assert list(blobs) == [digest]
