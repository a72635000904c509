"""Content-addressed files: bytes in, their SHA-256 out; durable before `put` returns, never overwritten."""

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

_DIGEST = re.compile(r"^[0-9a-f]{64}$")


class DamagedBlobError(RuntimeError):
    """A stored file whose bytes no longer give its name."""


class Blobs:
    """A folder of files named by their SHA-256."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the blob of this digest lies (whether or not it exists)."""
        if not _DIGEST.match(digest):
            raise ValueError("a blob is named by 64 lower-case hexadecimal digits")
        return self.root / digest[:2] / digest

    def put(self, content: bytes) -> str:
        """Store bytes durably and return their digest; storing the same bytes again does nothing."""
        digest = hashlib.sha256(content).hexdigest()
        path = self.path(digest)
        if not path.exists():
            if not path.parent.exists():
                path.parent.mkdir(exist_ok=True)
                _fsync(self.root)
            write_durably(path, content)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes of this digest, re-hashed; raises `DamagedBlobError` where they changed."""
        content = self.path(digest).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise DamagedBlobError(f"blob {digest} holds other bytes than its name says; restore it from a backup")
        return content


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


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
