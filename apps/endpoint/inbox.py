"""What the endpoint acknowledged: encoded instances in, a file and a row of each out, and which series are complete.

The file (named by its SHA-256) is durable before the row, the row is committed before the sender hears success. What
is to be run is read from the rows alone, so a killed receiver forgets nothing.
"""

import contextlib
import hashlib
import os
import re
import struct
import tempfile
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydicom import dcmread
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID

from labeling_protocols import schema
from labeling_protocols.blobs import FolderBlobs
from labeling_protocols.dicom_elements import Elements, NotSteppedError, step
from labeling_protocols.engine import upsert
from labeling_protocols.slice_layout import WANTED, SliceLayout, layout_of
from labeling_protocols.store import Store, now
from labeling_protocols.stored_series import StoredSlice

_UID = re.compile(r"^[0-9]+(\.[0-9]+)*$")  # PS3.5 section 9.1, without its rule on leading zeros
_UID_LENGTH = 64
_LOCKS = 64
_HEAD_MAX = 1 << 18  # bytes of a data set that are kept to find its header in
_INCOMING = ".incoming"
_QUERY_MAX = 500  # UIDs in one query

_UIDS = {"study": 0x0020000D, "series": 0x0020000E, "instance": 0x00080018, "sop_class": 0x00080016}
_KEYWORDS = {
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "instance": "SOPInstanceUID",
    "sop_class": "SOPClassUID",
}
_ELEMENTS = WANTED | frozenset(_UIDS.values())


def is_uid(text: str) -> bool:
    return len(text) <= _UID_LENGTH and _UID.match(text) is not None


class UnusableInstanceError(ValueError):
    """Bytes that are no DICOM instance with valid UIDs; the message fits an Error Comment (64 characters)."""


@dataclass(frozen=True, kw_only=True)
class Announced:
    """What a sender says of an instance before it comes; `sender` is an AE title or an account."""

    sop_class: str
    instance: str
    transfer_syntax: str
    sender: str


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """The instances of a series that count now; `digest` is over their contents, `sender` sent the newest.

    `uids` are their SOP Instance UIDs, in the same order.
    """

    series: str
    study: str
    digest: str
    sender: str
    newest: datetime
    uids: tuple[str, ...]
    instances: tuple[StoredSlice, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(instance.path for instance in self.instances)


class Inbox:
    """The received instances of a site; safe to use from the threads of one receiver and from workers."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._blobs = FolderBlobs(folder)
        self._incoming = folder / _INCOMING
        self._incoming.mkdir(exist_ok=True)
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._rows = _Rows(store)

    def keep(self, announced: Announced, pieces: Iterable[memoryview | bytes]) -> None:
        """Keep one instance whose encoded data set comes in these pieces; the same one again changes nothing.

        When this returns, file and row are durable; when it raises, neither is there. Raises `UnusableInstanceError`,
        or `OSError` and SQLAlchemy's `OperationalError` where there is no room.
        """
        with _IncomingFile(self._incoming, announced) as incoming:
            for piece in pieces:
                incoming.write(piece)
            row = _row_of(incoming, announced)
            with self._locks[int(row["digest"][:8], 16) % _LOCKS]:
                path = self._blobs.path(row["digest"])
                known = path.exists()
                try:
                    incoming.move_to(path)
                    self._rows.commit(row)
                except BaseException:
                    if not known:
                        path.unlink(missing_ok=True)
                    raise

    def newest_since(self, moment: datetime | None) -> dict[str, datetime]:
        """When the newest instance came, of each series that got one at or after a moment, or ever."""
        table = schema.received_instances
        query = sa.select(table.c.series, sa.func.max(table.c.received)).group_by(table.c.series)
        if moment is not None:
            query = query.where(table.c.received >= moment)
        with self._store.engine.connect() as connection:
            return {series: newest for series, newest in connection.execute(query)}

    def held(self, instances: Sequence[str]) -> set[str]:
        """Those of these instances that are kept, and whose files are there."""
        table, found = schema.received_instances, set()
        with self._store.engine.connect() as connection:
            for first in range(0, len(instances), _QUERY_MAX):
                some = instances[first : first + _QUERY_MAX]
                query = sa.select(table.c.instance, table.c.digest).where(table.c.instance.in_(some))
                found |= {row.instance for row in connection.execute(query) if row.digest in self._blobs}
        return found

    def arrived(self, series: str) -> Arrived | None:
        """The instances of a series that count now; None where none came.

        Where an instance came again with other content, the newest content counts.
        """
        table = schema.received_instances
        query = sa.select(table).where(table.c.series == series).order_by(table.c.received, table.c.digest)
        with self._store.engine.connect() as connection:
            rows = connection.execute(query).all()
        if not rows:
            return None
        newest = sorted({row.instance: row for row in rows}.values(), key=lambda row: row.digest)
        return Arrived(
            series=series,
            study=rows[-1].study,
            sender=rows[-1].sender or "",
            newest=rows[-1].received,
            uids=tuple(row.instance for row in newest),
            digest=hashlib.sha256("".join(row.digest for row in newest).encode()).hexdigest(),
            instances=tuple(
                StoredSlice(
                    path=self._blobs.path(row.digest),
                    transfer_syntax=row.transfer_syntax or "",
                    layout=SliceLayout.from_dict(row.layout) if row.layout else None,
                )
                for row in newest
            ),
        )


class _IncomingFile:
    """An instance as it is written: under a name of its own, gone unless it was moved to where it belongs."""

    def __init__(self, folder: Path, announced: Announced) -> None:
        handle, name = tempfile.mkstemp(dir=folder)
        self._handle, self._path = handle, Path(name)
        self._digest = hashlib.sha256()
        self.head = bytearray()
        self.size = 0
        try:
            self.data_set_at = self._put(_file_meta(announced))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "_IncomingFile":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)
        self._path.unlink(missing_ok=True)

    @property
    def path(self) -> Path:
        return self._path

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def write(self, piece: memoryview | bytes) -> None:
        if len(self.head) < _HEAD_MAX:
            self.head += piece
        self.size += self._put(piece)

    def move_to(self, path: Path) -> None:
        """Name and content are durable when this returns."""
        self._path.replace(path)
        os.fsync(self._handle)  # after the renaming: one commit of the file system's journal does for both
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _put(self, piece: memoryview | bytes) -> int:
        self._digest.update(piece)
        written = os.write(self._handle, piece)
        while written < len(piece):
            written += os.write(self._handle, piece[written:])
        return written


class _Rows:
    """Rows of instances that several associations commit together: whoever is first takes the others along."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._waiting: list[_Row] = []

    def commit(self, values: dict[str, Any]) -> None:
        row = _Row(values)
        with self._lock:
            self._waiting.append(row)
        with self._turn:
            if not row.done:
                with self._lock:
                    together, self._waiting = self._waiting, []
                self._insert(together)
        if row.error is not None:
            raise row.error

    def _insert(self, rows: list["_Row"]) -> None:
        table = schema.received_instances
        try:
            with self._store.writing() as connection:
                # The same bytes again: they are the newest of their instance from now on.
                upsert(connection, table, [row.values for row in rows], update=("received",))
        except BaseException as error:  # noqa: BLE001  each association answers for its own
            for row in rows:
                row.error = error
        for row in rows:
            row.done = True


class _Row:
    def __init__(self, values: dict[str, Any]) -> None:
        self.values, self.done = values, False
        self.error: BaseException | None = None


def _row_of(incoming: _IncomingFile, announced: Announced) -> dict[str, Any]:
    """The instance's row; raises `UnusableInstanceError` unless it is what was announced."""
    elements = _elements(incoming, announced.transfer_syntax)
    found = {
        name: elements.values.get(tag, b"").decode("ascii", "replace").rstrip("\0 ") for name, tag in _UIDS.items()
    }
    for name, uid in found.items():
        if not is_uid(uid):
            what = "missing" if not uid else "not a valid UID"
            raise UnusableInstanceError(f"{_KEYWORDS[name]} is {what}; nothing was kept")
    for name, told in (("instance", announced.instance), ("sop_class", announced.sop_class)):
        if found[name] != told:
            raise UnusableInstanceError(f"{_KEYWORDS[name]} is not the one of the request; nothing kept")
    layout = layout_of(elements, incoming.data_set_at)
    return {
        **found,
        "digest": incoming.digest,
        "transfer_syntax": announced.transfer_syntax,
        "bytes": incoming.data_set_at + incoming.size,
        "sender": announced.sender,
        "layout": layout.as_dict() if layout else None,
        "received": now(),
    }


def _elements(incoming: _IncomingFile, transfer_syntax: str) -> Elements:
    whole = incoming.size == len(incoming.head)
    try:
        return step(bytes(incoming.head), transfer_syntax, _ELEMENTS, whole=whole)
    except NotSteppedError:
        return _parsed(incoming.path)


def _parsed(path: Path) -> Elements:
    """The UIDs alone, by pydicom: of data sets in other encodings, or whose header is uncommonly long."""
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=list(_KEYWORDS.values()))
        values = {_UIDS[name]: str(header.get(keyword, "") or "").encode() for name, keyword in _KEYWORDS.items()}
    except Exception as error:  # hostile bytes raise anything; each becomes one status
        raise UnusableInstanceError(f"data set cannot be parsed ({type(error).__name__})"[:64]) from error
    return Elements(values=values, pixels=None, pixels_length=0)


def _file_meta(announced: Announced) -> bytes:
    """Preamble and File Meta Information (PS3.10 section 7.1); nothing in it differs between two senders."""
    for what, uid in (("SOP Class UID", announced.sop_class), ("SOP Instance UID", announced.instance)):
        if not is_uid(uid):
            raise UnusableInstanceError(f"the request's {what} is not a valid UID; nothing was kept")
    elements = b"".join(
        (
            struct.pack("<HH2sxxI", 0x0002, 0x0001, b"OB", 2) + b"\0\1",
            _uid_element(0x0002, announced.sop_class),
            _uid_element(0x0003, announced.instance),
            _uid_element(0x0010, announced.transfer_syntax),
            _uid_element(0x0012, str(PYNETDICOM_IMPLEMENTATION_UID)),
        )
    )
    return b"\0" * 128 + b"DICM" + struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(elements)) + elements


def _uid_element(element: int, uid: str) -> bytes:
    value = uid.encode("ascii") + b"\0" * (len(uid) % 2)
    return struct.pack("<HH2sH", 0x0002, element, b"UI", len(value)) + value


def remove_left_over(folder: Path) -> None:
    """What a killed receiver was writing and never acknowledged; call it before one starts, never beside one."""
    with contextlib.suppress(FileNotFoundError):
        for path in (folder / _INCOMING).iterdir():
            path.unlink(missing_ok=True)
