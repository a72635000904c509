"""Names that only the site's key can make: a secret and some text in, a pseudonym or a DICOM UID out.

The same key and text always give the same name, at any time and on any host, and without the key nobody can test a
guess against it (an unkeyed hash of a patient id is undone by trying all ids).
"""

import hashlib
import hmac
from collections.abc import Iterable


def keyed_digest(secret: bytes, purpose: str, *parts: str) -> str:
    """64 hexadecimal digits; different purposes give unrelated names for the same parts."""
    message = b"".join(len(part.encode()).to_bytes(8, "big") + part.encode() for part in (purpose, *parts))
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


def patient_pseudonym(secret: bytes, identifier: str) -> str:
    """The site's name for a patient, made from a patient id or a file's name."""
    return f"P{keyed_digest(secret, 'patient', identifier)[:20].upper()}"


def keyed_order(secret: bytes, case: str, readers: Iterable[str]) -> list[str]:
    """The readers of a case in an order that says nothing of them and is another one in each case."""
    return sorted(readers, key=lambda reader: keyed_digest(secret, "order of readers", case, reader))


def keyed_uid(secret: bytes, purpose: str, *parts: str) -> str:
    """A DICOM UID under 2.25 with 122 random-looking bits, laid out as a UUID (PS3.5 annex B.2)."""
    bits = int(keyed_digest(secret, purpose, *parts)[:32], 16)
    version_4 = (bits & ~(0xF << 76)) | (4 << 76)
    return f"2.25.{(version_4 & ~(0x3 << 62)) | (0x2 << 62)}"
