"""What the endpoint acknowledged: encoded instances in, a file and a row of each out, and which series are complete.

The file (named by its SHA-256) is durable before the row, the row is committed before the sender hears success. What
is to be run is read from the rows alone, so a killed receiver forgets nothing.
"""

import hashlib
import re
import threading
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import sqlalchemy as sa
from pydicom import dcmread

from labeling_protocols import schema
from labeling_protocols.blobs import FolderBlobs
from labeling_protocols.store import Store, now

_UID = re.compile(r"^[0-9]+(\.[0-9]+)*$")  # PS3.5 section 9.1, without its rule on leading zeros
_UID_LENGTH = 64
_LOCKS = 64


class UnusableInstanceError(ValueError):
    """Bytes that are no DICOM instance with valid UIDs; the message fits an Error Comment (64 characters)."""


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """The instances of a series that count now; `instances` is the digest over their contents."""

    series: str
    study: str
    instances: str
    files: tuple[Path, ...]


class Inbox:
    """The received instances of a site; safe to use from the threads of one receiver and from workers."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._blobs = FolderBlobs(folder)
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def keep(self, content: bytes) -> bool:
        """Store one encoded instance; False where exactly these bytes were there already.

        When this returns, file and row are durable; when it raises, neither is there. Raises `UnusableInstanceError`,
        or `OSError` and SQLAlchemy's `OperationalError` where there is no room.
        """
        uids = _uids(content)
        digest = hashlib.sha256(content).hexdigest()
        with self._locks[int(digest[:8], 16) % _LOCKS]:
            if self._has(digest):
                return False
            path = self._blobs.path(digest)
            try:
                self._blobs.put(content)
                with self._store.writing() as connection:
                    connection.execute(
                        sa.insert(schema.received_instances).values(digest=digest, received=now(), **uids)
                    )
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        return True

    def series_since(self, moment: object | None) -> set[str]:
        """The series that got an instance at or after a moment, or ever."""
        table = schema.received_instances
        query = sa.select(table.c.series).distinct()
        if moment is not None:
            query = query.where(table.c.received >= moment)
        with self._store.engine.connect() as connection:
            return set(connection.execute(query).scalars())

    def arrived(self, series: str, quiet: timedelta = timedelta()) -> Arrived | None:
        """The instances of a series that count now; None while one came within the quiet period.

        Where an instance came again with other content, the newest content counts.
        """
        table = schema.received_instances
        query = sa.select(table).where(table.c.series == series).order_by(table.c.received, table.c.digest)
        with self._store.engine.connect() as connection:
            rows = connection.execute(query).all()
        if not rows or rows[-1].received.replace(tzinfo=None) > (now() - quiet).replace(tzinfo=None):
            return None
        newest = {row.instance: row.digest for row in rows}
        digests = sorted(newest.values())
        return Arrived(
            series=series,
            study=rows[-1].study,
            instances=hashlib.sha256("".join(digests).encode()).hexdigest(),
            files=tuple(self._blobs.path(digest) for digest in digests),
        )

    def _has(self, digest: str) -> bool:
        table = schema.received_instances
        with self._store.engine.connect() as connection:
            return connection.execute(sa.select(table.c.digest).where(table.c.digest == digest)).first() is not None


def _uids(content: bytes) -> dict[str, str]:
    """The UIDs that place an instance, checked; every one must be there."""
    keywords = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}
    try:
        header = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=[*keywords.values()])
        found = {column: str(header.get(keyword, "") or "") for column, keyword in keywords.items()}
        announced = str(header.file_meta.get("MediaStorageSOPInstanceUID", ""))
    except Exception as error:  # hostile bytes raise anything; each becomes one status
        raise UnusableInstanceError(f"data set cannot be parsed ({type(error).__name__})"[:64]) from error
    for column, uid in found.items():
        if not _UID.match(uid) or len(uid) > _UID_LENGTH:
            what = "missing" if not uid else "not a valid UID"
            raise UnusableInstanceError(f"{keywords[column]} is {what}; nothing was kept")
    if found["instance"] != announced:
        raise UnusableInstanceError("SOPInstanceUID is not the one of the request; nothing kept")
    return found
