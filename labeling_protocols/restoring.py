"""A backup in, the site it was made of out, in an empty folder and an empty database of either kind."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from labeling_protocols import audit, schema
from labeling_protocols.audit import Action
from labeling_protocols.backup import Backup, BackupError, File, copy_rows, files_of
from labeling_protocols.blobs import make_blobs, write_durably
from labeling_protocols.engine import make_engine, snapshot, upgrade

CONFIG = "config.toml"

Progress = Callable[[int, int], None]


def content(folder: Path, backup: Backup, path: str) -> bytes:
    """One of the site's files, out of a backup."""
    return files_of(folder).get(backup.files[path].digest)


def restore(
    folder: Path,
    backup: Backup,
    to: Path,
    *,
    database: str,
    blobs: str | Path,
    config: bytes,
    actor: str,
    progress: Progress = lambda done, total: None,
) -> None:
    """Make the site again in an empty folder and an empty database; its settings, `config`, come last.

    `database` is a URL, `blobs` a folder or an fsspec URL. Raises `BackupError` where something is there already, or
    not as many rows arrive as were copied.
    """
    if to.exists() and any(to.iterdir()):
        raise BackupError(f"{to} is not empty; a site is restored into a new or an empty folder. Nothing was restored.")
    kept = files_of(folder)
    to.mkdir(parents=True, exist_ok=True)
    engine = make_engine(database)
    upgrade(engine)
    _refuse_rows(engine)
    new = make_blobs(blobs, cache=to / "cache")
    for number, digest in enumerate(backup.blobs):
        new.put(kept.get(digest))
        progress(number + 1, len(backup.blobs))
    for path, file in backup.files.items():
        if path != CONFIG:
            _write_file(to / path, kept.path(file.digest), file)
    with tempfile.TemporaryDirectory(dir=to, prefix=".writing-") as temporary:
        copy = Path(temporary) / "rows.db"
        shutil.copyfile(kept.path(backup.database), copy)
        _fill_database(copy, engine, backup.name, actor)
    engine.dispose()
    write_durably(to / CONFIG, config)


def _fill_database(path: Path, engine: sa.Engine, name: str, actor: str) -> None:
    """Copy the rows of a backup, of this release or an older one, into an empty database."""
    copy = make_engine(f"sqlite:///{path}")
    upgrade(copy)
    with snapshot(copy) as source, engine.connect().execution_options(writes=True) as target, target.begin():
        copied = copy_rows(source, target)
        for table in schema.metadata.sorted_tables:
            arrived = target.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            if arrived != copied[table.name]:
                raise BackupError(f"of {copied[table.name]} rows {arrived} arrived in {table.name}. None was kept.")
        if engine.dialect.name == "postgresql":
            _move_sequences(target)
        audit.append(target, actor=actor, action=Action.SITE_RESTORED, subject=name)
    copy.dispose()


def _move_sequences(connection: sa.Connection) -> None:
    """Rows came with their numbers; the next row's must lie beyond them."""
    for table in schema.metadata.sorted_tables:
        column = table.autoincrement_column
        if column is not None:
            sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
            newest = sa.select(sa.func.coalesce(sa.func.max(column), 1)).scalar_subquery()
            used = sa.select(sa.func.count() > 0).select_from(table).scalar_subquery()
            connection.execute(sa.select(sa.func.setval(sequence, newest, used)))


def _refuse_rows(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        for table in schema.metadata.sorted_tables:
            if connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None:
                where = engine.url.render_as_string(hide_password=True)
                raise BackupError(f"the database {where} is in use: {table.name} has rows. Nothing was restored.")


def _write_file(path: Path, source: Path, file: File) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parts[-2] == "keys":
        path.parent.chmod(0o700)
    with source.open("rb") as read, os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        shutil.copyfileobj(read, out)
        out.flush()
        os.fsync(out.fileno())
    path.chmod(file.mode)
    os.utime(path, ns=(file.mtime_ns, file.mtime_ns))
