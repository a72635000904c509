"""Signed MONAI bundles: parts of a model in, one zip out; a zip in, a verified `Bundle` or a `BundleError` out.

A bundle is code (its configuration names classes to build), so nothing of it is parsed before the Ed25519 signature
over the manifest holds, every file has the manifest's digest, and the zip is byte for byte what this module writes; and
nothing is read before its size is known to be one a bundle may have. Zips are deterministic: the same parts give the
same bytes.
"""

import hashlib
import io
import json
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from labeling_protocols.blobs import write_durably

METADATA = "configs/metadata.json"
PLAN = "configs/plan.json"
CONFIG = "configs/inference.json"
WEIGHTS = "models/model.safetensors"
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
REQUIRED = ("LICENSE", METADATA, CONFIG, "models/model.pt", WEIGHTS, "docs/README.md")

BUNDLE_BYTES_MAX = 4 << 30
_DIRECTORY_BYTES_MAX = 1 << 20  # of the zip's list of files, which is read as a whole: some ten thousand names
_END_BYTES, _LOCATOR_BYTES, _END64_BYTES = 22, 20, 56  # of the zip's closing records (APPNOTE.TXT 4.3.14 to 4.3.16)
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*$")
_MOMENT = (1980, 1, 1, 0, 0, 0)  # the zip format's earliest; a real one would change the bytes


class BundleError(RuntimeError):
    """A bundle that cannot be trusted or used; nothing of it was loaded."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified bundle: `folder` holds its files, `digests` their SHA-256 by name within it."""

    path: Path
    sha256: str
    folder: Path
    digests: Mapping[str, str]
    metadata: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Model and version, as results and prelabels carry it: 'hippocampus-segmentation 1.0.3'."""
        return f"{self.metadata['name']} {self.metadata['version']}"

    def read(self, name: str) -> bytes:
        """The bytes of one file, checked against the signed manifest once more as they are read."""
        try:
            content = (self.folder / name).read_bytes()
        except OSError as error:
            raise BundleError(
                f"{name} of the unpacked bundle cannot be read ({error.strerror}). It was not loaded."
            ) from error
        if hashlib.sha256(content).hexdigest() != self.digests.get(name):
            raise BundleError(f"{name} was changed after its bundle was unpacked. It was not loaded.")
        return content


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a bundle that holds says of itself."""

    sha256: str
    digests: Mapping[str, str]
    metadata: Mapping[str, Any]


def write_bundle(parts: Mapping[str, bytes], *, name: str, folder: Path, signing_key: Ed25519PrivateKey) -> Path:
    """Sign the parts (file name to content) and write `folder/<sha256>.zip`; the zip unpacks into the folder `name`."""
    for required in REQUIRED:
        if required not in parts:
            raise BundleError(f"a bundle needs {required}, which was not given. No bundle was written.")
    manifest = json.dumps({n: hashlib.sha256(parts[n]).hexdigest() for n in sorted(parts)}, indent=1).encode()
    content = _zip(name, {**parts, MANIFEST: manifest, SIGNATURE: signing_key.sign(manifest)})
    path = folder / f"{hashlib.sha256(content).hexdigest()}.zip"
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != path.stem:
        write_durably(path, content)
    return path


def open_bundle(path: Path, public_key: Ed25519PublicKey) -> Bundle:
    """Verify a bundle and unpack it beside itself, under `unpacked/<sha256>/`.

    Raises `BundleError` where it is unsigned, signed by another key, or differs in any byte from what was signed.
    """
    content = _content(path)
    name, files = _files(content)
    digests = _verified_digests(name, files, content, public_key)
    sha256 = hashlib.sha256(content).hexdigest()
    metadata = _metadata(files)
    folder = _unpack(files, path.parent / "unpacked" / sha256, name)
    return Bundle(path=path, sha256=sha256, folder=folder, digests=digests, metadata=metadata)


def open_bundle_folder(folder: Path, public_key: Ed25519PublicKey) -> Bundle:
    """Verify a bundle that lies unpacked, and use it where it is; raises `BundleError` as `open_bundle` does.

    Its digest is that of the zip it would be. What changes after this is met by `Bundle.read`.
    """
    files = _folder_files(folder)
    content = _zip(folder.name, files)
    digests = _verified_digests(folder.name, files, content, public_key)
    sha256 = hashlib.sha256(content).hexdigest()
    return Bundle(path=folder, sha256=sha256, folder=folder, digests=digests, metadata=_metadata(files))


def verify_bundle(path: Path, public_key: Ed25519PublicKey) -> Verified:
    """Verify a bundle, wherever it lies, and unpack nothing; raises `BundleError` as `open_bundle` does."""
    content = _content(path)
    name, files = _files(content)
    digests = _verified_digests(name, files, content, public_key)
    return Verified(sha256=hashlib.sha256(content).hexdigest(), digests=digests, metadata=_metadata(files))


def _content(path: Path) -> bytes:
    """The bytes of the file, no more of them than a bundle may have."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise BundleError(f"bundle {path.name} is not a file. Nothing was loaded.")
        if found.st_size > BUNDLE_BYTES_MAX:
            raise BundleError(
                f"bundle {path.name} has over {BUNDLE_BYTES_MAX >> 30} GiB, too many. Nothing was loaded."
            )
        with path.open("rb") as file:
            return file.read(found.st_size)
    except OSError as error:
        raise BundleError(f"bundle {path.name} cannot be read ({error.strerror}). Nothing was loaded.") from error


def _folder_files(folder: Path) -> dict[str, bytes]:
    """The files of an unpacked bundle by name, no more bytes of them than a bundle may have."""
    try:
        paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
        if any(path.is_symlink() or not path.is_file() for path in paths):
            raise BundleError(f"bundle {folder.name} has a link, or something that is no file. Nothing was loaded.")
        if sum(path.stat().st_size for path in paths) > BUNDLE_BYTES_MAX:
            raise BundleError(
                f"bundle {folder.name} has over {BUNDLE_BYTES_MAX >> 30} GiB, too many. Nothing was loaded."
            )
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    except OSError as error:
        raise BundleError(f"bundle {folder.name} cannot be read ({error.strerror}). Nothing was loaded.") from error


def _metadata(files: Mapping[str, bytes]) -> Mapping[str, Any]:
    try:
        metadata: Mapping[str, Any] = json.loads(files[METADATA])
    except ValueError as error:
        raise BundleError(f"{METADATA} is signed but is not JSON: {error}. Nothing was loaded.") from error
    return metadata


def _files(content: bytes) -> tuple[str, dict[str, bytes]]:
    """The zip's folder name and its files, every entry's name checked before one is read."""
    if (directory := _directory_bytes(content)) > _DIRECTORY_BYTES_MAX:
        raise BundleError(f"the zip lists its files in {directory} bytes, too many for a bundle. Nothing was unpacked.")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            names = [_safe_name(entry) for entry in entries]
            if sum(entry.file_size for entry in entries) > len(content):
                raise BundleError("the zip's files are larger than the zip itself. Nothing was unpacked.")
            roots = {name.parts[0] for name in names}
            if len(roots) != 1:
                raise BundleError(f"a bundle unpacks into one folder, found {len(roots)}. Nothing was unpacked.")
            files = {"/".join(name.parts[1:]): archive.read(entry) for name, entry in zip(names, entries, strict=True)}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OverflowError) as error:
        raise BundleError(f"not a zip file that can be read: {error}. Nothing was loaded.") from error
    if len(files) != len(names):
        raise BundleError("a file stands in the bundle twice. Nothing was unpacked.")
    return roots.pop(), files


def _directory_bytes(content: bytes) -> int:
    """How long the zip says its list of files is, in either of the records that say so."""
    end64_at = -_END_BYTES - _LOCATOR_BYTES - _END64_BYTES
    locator, end = content[-_END_BYTES - _LOCATOR_BYTES : -_END_BYTES], content[-_END_BYTES:]
    if len(end) < _END_BYTES or not end.startswith(b"PK\x05\x06"):
        raise BundleError("not a zip file as bundles are: it does not end as one. Nothing was loaded.")
    sizes = [int.from_bytes(end[12:16], "little")]
    if locator.startswith(b"PK\x06\x07"):
        sizes.append(int.from_bytes(content[end64_at + 40 : end64_at + 48], "little"))
    return max(sizes)


def _safe_name(entry: zipfile.ZipInfo) -> PurePosixPath:
    name = PurePosixPath(entry.filename)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if not _NAME.match(entry.filename) or ".." in name.parts or len(name.parts) < 2 or kind not in (0, stat.S_IFREG):
        raise BundleError(f"unsafe entry {entry.filename[:80]!r} in the bundle. Nothing was unpacked.")
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 0x1:
        raise BundleError(
            f"entry {entry.filename[:80]!r} is compressed or encrypted; bundles store. Nothing was unpacked."
        )
    return name


def _verified_digests(
    name: str, files: Mapping[str, bytes], content: bytes, public_key: Ed25519PublicKey
) -> dict[str, str]:
    """The signed manifest's digests; raises unless they are exactly those of the files and the zip is what we write."""
    for required in (MANIFEST, SIGNATURE):
        if required not in files:
            raise BundleError(f"the bundle is not signed: it has no {required}. Nothing was loaded.")
    try:
        public_key.verify(files[SIGNATURE], files[MANIFEST])
    except InvalidSignature as error:
        raise BundleError(
            "the bundle's signature does not hold: it was changed, or signed with another key. Nothing was loaded."
        ) from error
    digests = _manifest(files[MANIFEST])
    found = set(files) - {MANIFEST, SIGNATURE}
    if found != set(digests):
        differing = ", ".join(sorted(found ^ set(digests)))
        raise BundleError(f"files of the bundle and of its manifest differ: {differing}. Nothing was loaded.")
    for file, digest in digests.items():
        if hashlib.sha256(files[file]).hexdigest() != digest:
            raise BundleError(f"{file} was changed after the bundle was signed. Nothing was loaded.")
    for required in REQUIRED:
        if required not in digests:
            raise BundleError(f"the bundle has no {required}. Nothing was loaded.")
    if _zip(name, files) != content:
        raise BundleError("the zip holds bytes that were not signed. Nothing was loaded.")
    return digests


def _manifest(text: bytes) -> dict[str, str]:
    """The list that the signature is over: file names and their digests."""
    try:
        digests = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{MANIFEST} is signed but is not JSON: {error}. Nothing was loaded.") from error
    if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
        raise BundleError(f"{MANIFEST} is signed but is no list of digests. Nothing was loaded.")
    return digests


def _zip(name: str, files: Mapping[str, bytes]) -> bytes:
    """Stored, sorted, undated and with fixed attributes: a function of the names and contents alone."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(files):
            entry = zipfile.ZipInfo(f"{name}/{file}", date_time=_MOMENT)
            entry.create_system = 3  # Unix, wherever it is written
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, files[file])
    return content.getvalue()


def _unpack(files: Mapping[str, bytes], target: Path, name: str) -> Path:
    """Write the verified files under `target/name`, whole or not at all; done already where it is there."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".unpacking-"))
        try:
            for file, content in files.items():
                (temporary / name / file).parent.mkdir(parents=True, exist_ok=True)
                write_durably(temporary / name / file, content)
            temporary.rename(target)  # fails where another process was first, and left the same files
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            if not target.exists():
                raise
    return target / name
