"""Where a series of the archive has its pixels: its UIDs in a DICOMweb server in, sealed beside its headers, and out.

A series' folder in the archive holds either whole de-identified images, or their de-identified headers and a link. The
original UIDs lead back to a patient, so the link is encrypted with the site's key, as everything de-identified rests
on that key.
"""

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from labeling_protocols.blobs import write_durably
from labeling_protocols.pseudonyms import keyed_digest

FILE = "pixels.link"


class LinkError(RuntimeError):
    """A link that this site's key does not open; the series' pixels cannot be found."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """What the server calls a study, a series and, by the UIDs they have here, its images."""

    study: str
    series: str
    images: Mapping[str, str]


def write_link(folder: Path, secret: bytes, link: Link) -> None:
    """Keep a series' link, durably."""
    write_durably(folder / FILE, _seal(secret).encrypt(json.dumps(asdict(link)).encode()))


def read_link(folder: Path, secret: bytes) -> Link | None:
    """A series' link, None where its images are whole; raises `LinkError`."""
    try:
        content = (folder / FILE).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return Link(**json.loads(_seal(secret).decrypt(content)))
    except InvalidToken:
        raise LinkError(
            "the link to a series' pixels was made with another site's key. Its images cannot be shown."
        ) from None


def _seal(secret: bytes) -> Fernet:
    return Fernet(urlsafe_b64encode(bytes.fromhex(keyed_digest(secret, "seal of links to an archive server"))))
