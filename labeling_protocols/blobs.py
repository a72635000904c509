"""Content-addressed bytes: bytes in, their SHA-256 out; durable before `put` returns, never overwritten.

`FolderBlobs` keeps them as files of one folder, the default; `RemoteBlobs` in any store of fsspec whose objects appear
whole or not at all, as S3's and its like do.
"""

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

CACHE_BYTES = 8 << 30
_PIECE = 1 << 20  # bytes

_FOLDERS = [f"{number:02x}" for number in range(256)]
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class DamagedBlobError(RuntimeError):
    """A stored file whose bytes no longer give its name."""


class Blobs(Protocol):
    """Bytes named by their SHA-256, shared by any number of processes."""

    def put(self, content: bytes) -> str:
        """Store bytes durably and return their digest; storing the same bytes again does nothing."""

    def get(self, digest: str) -> bytes:
        """The bytes of this digest, re-hashed; raises `DamagedBlobError`, or `FileNotFoundError`."""

    def path(self, digest: str) -> Path:
        """A file of this machine with the bytes of this digest, to be read at once and never written."""

    def __contains__(self, digest: str) -> bool:
        """Whether there is a blob of this digest; its bytes are not read."""

    def __iter__(self) -> Iterator[str]:
        """The digests of all blobs, in no order that means anything."""


def make_blobs(place: str | Path, *, cache: Path, cache_bytes: int = CACHE_BYTES) -> Blobs:
    """The blobs at a folder's path, or at an fsspec URL such as `s3://bucket/blobs`.

    `cache` is the folder where `path` puts files of a remote store, of `cache_bytes` at most.
    """
    if isinstance(place, Path) or "://" not in place:
        return FolderBlobs(Path(place))
    if place.startswith("file://"):
        return FolderBlobs(Path(place.removeprefix("file://")))
    return RemoteBlobs(place, cache=cache, cache_bytes=cache_bytes)


class FolderBlobs:
    """A folder of files named by their SHA-256."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        if not (root / _FOLDERS[-1]).exists():  # all at once: making one in a save would cost it an fsync more
            for name in _FOLDERS:
                (root / name).mkdir(exist_ok=True)
            _fsync(root)

    def path(self, digest: str) -> Path:
        """Where the blob of this digest lies (whether or not it exists)."""
        return self.root / _checked(digest)[:2] / digest

    def put(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        path = self.path(digest)
        if path.exists():
            _fsync(path.parent)  # whoever renamed it to there may not have come so far yet
        else:
            write_durably(path, content)
        return digest

    def put_file(self, source: Path) -> str:
        """Store a file's bytes, of whatever size, durably and return their digest."""
        handle, name = tempfile.mkstemp(dir=self.root, prefix=".writing-")
        temporary = Path(name)
        try:
            with source.open("rb") as read, os.fdopen(handle, "wb") as written:
                digest = hashlib.sha256()
                while piece := read.read(_PIECE):
                    digest.update(piece)
                    written.write(piece)
                written.flush()
                os.fsync(handle)
            path = self.path(digest.hexdigest())
            temporary.replace(path)
            _fsync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return digest.hexdigest()

    def get(self, digest: str) -> bytes:
        return _verified(digest, self.path(digest).read_bytes())

    def __contains__(self, digest: str) -> bool:
        return self.path(digest).exists()

    def __iter__(self) -> Iterator[str]:
        for path in self.root.glob("[0-9a-f][0-9a-f]/*"):
            if _DIGEST.match(path.name):  # else what a killed process was writing
                yield path.name


class RemoteBlobs:
    """Objects of an fsspec store, named by their SHA-256."""

    def __init__(self, url: str, *, cache: Path, cache_bytes: int = CACHE_BYTES) -> None:
        import fsspec

        self._files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self._root = str(root).rstrip("/")
        self._cache = cache
        self._cache_bytes = cache_bytes

    def put(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        key = self._key(digest)
        if self._size(key) != len(content):  # absent, or what a store that is not atomic kept of a killed writer
            self._files.makedirs(key.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(key, content)
            _verified(digest, self._files.cat_file(key))
        return digest

    def get(self, digest: str) -> bytes:
        return _verified(digest, self._files.cat_file(self._key(digest)))

    def path(self, digest: str) -> Path:
        """The blob in the cache folder, fetched and verified where it is not there yet."""
        path = self._cache / _checked(digest)
        try:
            os.utime(path)  # the least lately used leave first
        except FileNotFoundError:
            self._cache.mkdir(parents=True, exist_ok=True)
            write_durably(path, self.get(digest))
            self._shrink_cache(path)
        return path

    def __contains__(self, digest: str) -> bool:
        return self._size(self._key(digest)) is not None

    def __iter__(self) -> Iterator[str]:
        for key in self._files.find(self._root):
            name = str(key).rpartition("/")[2]
            if _DIGEST.match(name):
                yield name

    def _key(self, digest: str) -> str:
        return f"{self._root}/{_checked(digest)[:2]}/{digest}"

    def _size(self, key: str) -> int | None:
        try:
            return int(self._files.info(key)["size"])
        except FileNotFoundError:
            return None

    def _shrink_cache(self, newest: Path) -> None:
        known: list[tuple[float, int, Path]] = []
        for path in self._cache.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process shrinks it too
                state = path.stat()
                known.append((state.st_mtime, state.st_size, path))
        held = sum(size for _, size, _ in known)
        for _, size, path in sorted(known):
            if held <= self._cache_bytes:
                break
            if path != newest:
                path.unlink(missing_ok=True)
                held -= size


def write_durably(path: Path, content: bytes) -> None:
    """Put a whole file at `path` or nothing: temporary file, fsync, rename, fsync of the folder."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that is fsynced and renamed to it when the block ends without an error."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-", suffix="".join(path.suffixes[-2:]))
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


def _checked(digest: str) -> str:
    if not _DIGEST.match(digest):
        raise ValueError("a blob is named by 64 lower-case hexadecimal digits")
    return digest


def _verified(digest: str, content: bytes) -> bytes:
    if hashlib.sha256(content).hexdigest() != digest:
        raise DamagedBlobError(f"blob {digest} holds other bytes than its name says; restore it from a backup")
    return content


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
