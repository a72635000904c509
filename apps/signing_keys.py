"""The keys that sign the site's tokens: its folder `keys/tokens` in; the key to sign with and those to verify with out.

Each key is a file `<kid>.pem`. A kid begins with the moment its key was made, so the newest one signs; one that was
followed by another still verifies until the last token it signed has expired, and is refused from then on.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from labeling_protocols.blobs import write_durably
from labeling_protocols.store import now

_MADE = "%Y%m%dT%H%M%S%fZ"
_KID = re.compile(r"^(\d{8}T\d{12}Z)-[0-9a-f]{16}$")


class SigningKeyError(RuntimeError):
    """A key file that is not what its name says; no token is signed or believed meanwhile."""


class TokenKeys:
    """The keys of one site; a key another process adds or removes counts from the next use on."""

    def __init__(self, folder: Path, lifetime: timedelta) -> None:
        """`lifetime` is how long a token lives."""
        self._folder = folder
        self._lifetime = lifetime
        self._loaded: dict[str, Ed25519PrivateKey] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not list(self._names()):
            self.keep(Ed25519PrivateKey.generate(), now())

    def newest(self) -> tuple[str, Ed25519PrivateKey]:
        """The kid and key that sign."""
        kid = max(self._names())
        return kid, self._key(kid)

    def verifying(self, kid: str) -> Ed25519PublicKey | None:
        """The key of this kid, or None where there is none or it is retired."""
        return self._key(kid).public_key() if kid in self._valid() else None

    def rotate(self, *, at_once: bool = False) -> str:
        """Make the key that signs from now on; `at_once` ends every token signed before. Returns the new kid."""
        kid = self.keep(Ed25519PrivateKey.generate(), now())
        kept = {kid} if at_once else self._valid()
        for old in list(self._names()):
            if old not in kept:
                self._path(old).unlink(missing_ok=True)
        return kid

    def _valid(self) -> set[str]:
        kids = sorted(self._names())
        followed = {kid: _made(after) for kid, after in itertools.pairwise(kids)}
        return {kid for kid in kids if kid not in followed or followed[kid] + self._lifetime > now()}

    def _names(self) -> Iterator[str]:
        return (path.stem for path in self._folder.glob("*.pem") if _KID.match(path.stem))

    def keep(self, key: Ed25519PrivateKey, made: datetime) -> str:
        """Put a key among the others, durably; returns its kid."""
        kid = f"{made.strftime(_MADE)}-{_fingerprint(key)}"
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_durably(self._path(kid), pem)  # readable by the owner alone, as every temporary file is
        return kid

    def _key(self, kid: str) -> Ed25519PrivateKey:
        if kid not in self._loaded:
            key = serialization.load_pem_private_key(self._path(kid).read_bytes(), password=None)
            if not isinstance(key, Ed25519PrivateKey) or not kid.endswith(_fingerprint(key)):
                raise SigningKeyError(f"keys/tokens/{kid}.pem does not hold the key of that name")
            self._loaded[kid] = key
        return self._loaded[kid]

    def _path(self, kid: str) -> Path:
        return self._folder / f"{kid}.pem"


def _made(kid: str) -> datetime:
    return datetime.strptime(kid.partition("-")[0], _MADE).replace(tzinfo=UTC)


def _fingerprint(key: Ed25519PrivateKey) -> str:
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]
