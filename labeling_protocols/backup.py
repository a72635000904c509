"""A running site in, a folder out from which `restoring.py` makes it again, on SQLite or PostgreSQL.

The rows are copied in one snapshot into an SQLite file, whatever database the site has, and the blobs and the other
files of the site's folder after them: what a row refers to is there. Everything lies under its SHA-256, so that a later
backup into the same folder adds only what is new and leaves the earlier ones whole. The manifest comes last: without it
there is no backup.
"""

import contextlib
import json
import os
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from labeling_protocols import audit, schema
from labeling_protocols.audit import Action
from labeling_protocols.blobs import Blobs, DamagedBlobError, FolderBlobs, write_durably
from labeling_protocols.contents import referenced_blobs
from labeling_protocols.engine import make_engine, snapshot, upgrade
from labeling_protocols.store import Store

_FORMAT = 1
_MADE_AGAIN = frozenset({"cache", "incoming", "logs", "sessions"})  # folders of a site that need no backup
_SQLITE = b"SQLite format 3\0"
_BATCH = 1000  # rows

Progress = Callable[[int, int], None]


class BackupError(RuntimeError):
    """A backup that cannot be restored: what was found, what was expected, what was left undone."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the site's folder, as it was."""

    digest: str
    size: int
    mtime_ns: int
    mode: int


@dataclass(frozen=True, kw_only=True)
class Backup:
    """What one backup holds; `missing` are blobs that rows refer to and that were gone or damaged when it was made."""

    name: str
    root: str
    database: str
    rows: dict[str, int]
    blobs: tuple[str, ...]
    missing: tuple[str, ...]
    files: dict[str, File]


def back_up(
    store: Store, root: Path, folder: Path, *, actor: str, progress: Progress = lambda done, total: None
) -> Backup:
    """Copy a site, `root` and its store, into a folder that nobody else may read, and say so in its audit chain."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    kept = files_of(folder)
    before = backups(folder)
    name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
        rows, referenced = _copy_database(store.engine, Path(temporary) / "rows.db")
        database = kept.put_file(Path(temporary) / "rows.db")
        blobs, missing = _copy_blobs(store.blobs, kept, referenced, progress)
        known = _open(folder, before[-1]).files if before else {}
        files = dict(_copy_files(store, root, folder, kept, known, Path(temporary)))
    made = Backup(name=name, root=str(root), database=database, rows=rows, blobs=blobs, missing=missing, files=files)
    write_durably(_manifest(folder, name), json.dumps({"format": _FORMAT, **asdict(made)}, indent=1).encode())
    with store.writing() as connection:
        audit.append(connection, actor=actor, action=Action.SITE_BACKED_UP, subject=name, blobs=len(blobs))
    return made


def files_of(folder: Path) -> FolderBlobs:
    """All that a folder's backups hold, by digest."""
    return FolderBlobs(folder / "files")


def backups(folder: Path) -> list[str]:
    """The names of a folder's backups, oldest first."""
    return sorted(path.stem.removeprefix("backup-") for path in folder.glob("backup-*.json"))


def opened(folder: Path, name: str | None = None, progress: Progress = lambda done, total: None) -> Backup:
    """A backup of this name, or the newest, all its files re-hashed; raises `BackupError` where one is not whole."""
    known = backups(folder)
    if not known or (name is not None and name not in known):
        found = ", ".join(known) or "none, so no backup was finished here"
        raise BackupError(f"{folder} has no manifest of a backup{f' {name}' if name else ''}; found {found}.")
    backup = _open(folder, name or known[-1])
    kept = files_of(folder)
    digests = sorted({backup.database, *backup.blobs, *(file.digest for file in backup.files.values())})
    wrong = []
    for number, digest in enumerate(digests):
        try:
            kept.get(digest)
        except (FileNotFoundError, DamagedBlobError):
            wrong.append(digest)
        progress(number + 1, len(digests))
    if wrong:
        raise BackupError(
            f"{len(wrong)} file(s) of backup {backup.name} are missing or changed, the first is {wrong[0]}."
            " Nothing was restored."
        )
    return backup


def copy_rows(source: sa.Connection, target: sa.Connection) -> dict[str, int]:
    """Copy every row of every table: how many each had."""
    copied = {}
    for table in schema.metadata.sorted_tables:
        copied[table.name] = 0
        for part in source.execute(sa.select(table).execution_options(yield_per=_BATCH)).mappings().partitions():
            target.execute(sa.insert(table), [dict(row) for row in part])
            copied[table.name] += len(part)
    return copied


def _manifest(folder: Path, name: str) -> Path:
    return folder / f"backup-{name}.json"


def _open(folder: Path, name: str) -> Backup:
    path = _manifest(folder, name)
    try:
        says = json.loads(path.read_text(encoding="utf-8"))
        if says.pop("format") != _FORMAT:
            raise BackupError(f"{path} was written by a newer release; install that one. Nothing was restored.")
        files = {where: File(**file) for where, file in says.pop("files").items()}
        blobs, missing = tuple(says.pop("blobs")), tuple(says.pop("missing"))
        return Backup(**says, blobs=blobs, missing=missing, files=files)
    except (ValueError, KeyError, TypeError) as error:
        raise BackupError(f"{path} is no manifest of a backup: {error}. Nothing was restored.") from error


def _copy_database(engine: sa.Engine, path: Path) -> tuple[dict[str, int], set[str]]:
    """All rows of one moment in an SQLite file: how many a table, and the blobs they refer to."""
    copy = make_engine(f"sqlite:///{path}")
    upgrade(copy)
    with snapshot(engine) as source, copy.connect().execution_options(writes=True) as target, target.begin():
        rows = copy_rows(source, target)
        referenced = referenced_blobs(source)
    copy.dispose()
    return rows, referenced


def _copy_blobs(
    blobs: Blobs, kept: FolderBlobs, referenced: set[str], progress: Progress
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Copy what is not there yet: the digests now there, and those that are gone or damaged."""
    wanted = sorted(referenced | set(blobs))
    missing = []
    for number, digest in enumerate(wanted):
        if digest not in kept:
            try:
                kept.put(blobs.get(digest))
            except (FileNotFoundError, DamagedBlobError):
                missing.append(digest)
        progress(number + 1, len(wanted))
    gone = set(missing)
    return tuple(digest for digest in wanted if digest not in gone), tuple(missing)


def _copy_files(
    store: Store, root: Path, folder: Path, kept: FolderBlobs, known: dict[str, File], temporary: Path
) -> Iterator[tuple[str, File]]:
    """The files of a site but for those that lie elsewhere in the backup or are made again."""
    elsewhere = {folder.resolve(), *(root / name for name in _MADE_AGAIN)}
    if isinstance(store.blobs, FolderBlobs):
        elsewhere.add(store.blobs.root.resolve())
    if store.engine.dialect.name == "sqlite" and store.engine.url.database:
        elsewhere.add(Path(store.engine.url.database).resolve())
    for path in _files(root, elsewhere):
        name = str(path.relative_to(root))
        with contextlib.suppress(FileNotFoundError):  # what is gone meanwhile was on its way out
            state = path.stat()
            as_it_is: dict[str, Any] = {"mtime_ns": state.st_mtime_ns, "mode": stat.S_IMODE(state.st_mode)}
            before = known.get(name)
            if _is_sqlite(path):
                copy = temporary / "copy.db"
                _copy_sqlite(path, copy)
                yield name, File(digest=kept.put_file(copy), size=copy.stat().st_size, **as_it_is)
            elif before is not None and (before.size, before.mtime_ns) == (state.st_size, state.st_mtime_ns):
                yield name, before
            else:
                yield name, File(digest=kept.put_file(path), size=state.st_size, **as_it_is)


def _files(root: Path, elsewhere: set[Path]) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if Path(folder, name).resolve() not in elsewhere)
        for name in sorted(names):
            path = Path(folder, name)
            half = name.startswith(".writing-") or name.endswith((".lock", "-wal", "-shm", "-journal"))
            if not half and path.is_file() and not path.is_symlink() and path.resolve() not in elsewhere:
                yield path


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _copy_sqlite(path: Path, copy: Path) -> None:
    """SQLite's own online backup: whole, whatever is being written."""
    copy.unlink(missing_ok=True)
    opened_source = contextlib.closing(sqlite3.connect(path, timeout=30))
    with opened_source as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)
