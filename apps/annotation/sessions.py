"""Images a viewer uploads for one inference: a volume in, a session id out, for its owner and for an hour."""

import json
import re
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from labeling_protocols.geometry import Volume
from labeling_protocols.store import UnknownError
from labeling_protocols.volumes import read_volume, write_volume
from training.prepared_images import image_digest

EXPIRY_S = 3600
_ID = re.compile(r"^[0-9a-f]{32}$")
_IMAGE = "image.nrrd"
_OWNER = "owner.json"


@dataclass(frozen=True, kw_only=True)
class Session:
    """An uploaded image; `created` and `expiry_s` as monailabel's client is told them, `digest` names its content."""

    id: str
    owner: str
    created: int
    expiry_s: int
    folder: Path
    digest: str = ""

    def image(self) -> Volume:
        return read_volume(self.folder / _IMAGE)


class Sessions:
    """A folder of sessions, each in a folder of a name made here."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def create(self, owner: str, image: Volume, expiry_s: int = 0) -> Session:
        """Keep an image for its owner; at most an hour, less where asked."""
        self.remove_expired()
        session = Session(
            id=uuid.uuid4().hex,
            owner=owner,
            created=int(time.time()),
            expiry_s=min(expiry_s, EXPIRY_S) if expiry_s > 0 else EXPIRY_S,
            folder=self._root,
            digest=image_digest(image),
        )
        folder = self._root / session.id
        folder.mkdir()
        write_volume(image, folder / _IMAGE)
        about = {
            "owner": owner,
            "created": session.created,
            "expiry_s": session.expiry_s,
            "digest": session.digest,
        }
        (folder / _OWNER).write_text(json.dumps(about))
        return self.get(session.id, owner)

    def get(self, session_id: str, owner: str) -> Session:
        """Raises `UnknownError` where the owner has no such session any more."""
        session = self._read(session_id) if _ID.match(session_id) else None
        if session is None or session.owner != owner or _expired(session):
            raise UnknownError("unknown or expired session; upload the image again")
        return session

    def remove(self, session_id: str, owner: str) -> Session:
        session = self.get(session_id, owner)
        shutil.rmtree(session.folder, ignore_errors=True)
        return session

    def remove_expired(self) -> None:
        for folder in self._root.iterdir():
            session = self._read(folder.name) if _ID.match(folder.name) else None
            if session is not None and _expired(session):
                shutil.rmtree(folder, ignore_errors=True)

    def _read(self, session_id: str) -> Session | None:
        folder = self._root / session_id
        try:
            about = json.loads((folder / _OWNER).read_text())
        except FileNotFoundError:
            return None
        return Session(id=session_id, folder=folder, **about)


def _expired(session: Session) -> bool:
    return session.created + session.expiry_s < time.time()
