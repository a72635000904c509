"""A database's URL in, an engine whose transactions are durable out: SQLite or PostgreSQL, brought up to date.

SQLite runs in WAL mode with synchronous=FULL and takes its write lock where a transaction of `writes=True` begins;
PostgreSQL runs READ COMMITTED and never acknowledges a commit that is not on disk.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x75706772  # PostgreSQL's advisory lock on upgrades, held to the end of the upgrade's transaction
_WAIT_S = 30  # for another writer, a free connection of the pool, a dead peer
_IDLE_S = 600  # a transaction that does nothing for so long belongs to a process that hangs; its locks are taken away
_POOL = {"pool_size": 10, "max_overflow": 40, "pool_timeout": _WAIT_S}

log = logging.getLogger(__name__)


class UnusableDatabaseError(RuntimeError):
    """A database that cannot be opened: what was found, what was expected; nothing was written."""


def make_engine(url: str) -> sa.Engine:
    """An engine of `sqlite:///PATH` or `postgresql+psycopg://…`; nothing is connected yet."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = sa.create_engine(parsed, connect_args={"timeout": _WAIT_S}, hide_parameters=True, **_POOL)
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    arguments = {"connect_timeout": 10, "application_name": "overread", "keepalives_idle": _WAIT_S}
    arguments["tcp_user_timeout"] = _WAIT_S * 1000
    given = {name: value for name, value in arguments.items() if name not in parsed.query}
    engine = sa.create_engine(
        parsed, connect_args=given, isolation_level="READ COMMITTED", pool_pre_ping=True, hide_parameters=True, **_POOL
    )
    sa.event.listen(engine, "connect", _prepare_postgresql)
    return engine


def upgrade(engine: sa.Engine) -> None:
    """Bring the database to the newest migration, once, however many processes start together.

    Raises `UnusableDatabaseError` where it cannot be reached or was written by a newer release.
    """
    try:
        with engine.connect() as connection:
            if _at_head(connection):
                return
        _migrate(engine)
    except OperationalError as error:
        where = engine.url.render_as_string(hide_password=True)
        raise UnusableDatabaseError(f"cannot use the database {where}: {_first_line(error)}") from error


@contextmanager
def snapshot(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One read-only transaction that sees the database as it is now, whatever is written meanwhile."""
    options: dict[str, Any] = {}
    if engine.dialect.name == "postgresql":
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with engine.connect().execution_options(**options) as connection, connection.begin():
        yield connection


def upsert(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]], *, update: Sequence[str]
) -> None:
    """Insert rows; of those whose key is there already these columns become theirs."""
    connection.execute(_upsert(connection.dialect.name, table, tuple(update)), list(rows))


@lru_cache
def _upsert(dialect: str, table: sa.Table, update: tuple[str, ...]) -> sa.Insert:
    """The statement, which takes longer to put together than to execute."""
    statement = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    changed = {name: statement.excluded[name] for name in update}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=changed)


def parse_url(url: str) -> sa.URL:
    """The parts of a database's URL; raises `UnusableDatabaseError` where it is none of ours."""
    expected = "expected sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME"
    try:
        parsed = sa.make_url(url)
    except ArgumentError as error:  # its message holds the URL, and that a password
        raise UnusableDatabaseError(f"the database's URL cannot be read; {expected}") from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise UnusableDatabaseError(f"the database's URL begins with {parsed.drivername}; {expected}")
    return parsed


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin in `_begin_sqlite`, not where pysqlite guesses
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_postgresql(connection: Any, _record: object) -> None:
    was = connection.autocommit
    connection.autocommit = True  # what a transaction sets, its rollback takes back
    settings = "select current_setting('synchronous_commit'), current_setting('fsync')"
    synchronous_commit, fsync = connection.execute(settings).fetchone()
    if synchronous_commit == "off":  # `local`, `remote_write` and `remote_apply` are on disk too
        connection.execute("set synchronous_commit = on")
    if fsync == "off":
        log.warning("PostgreSQL runs with fsync=off: what it acknowledges does not survive a power cut")
    connection.execute("set timezone = 'UTC'")
    connection.execute(f"set lock_timeout = '{_WAIT_S}s'")
    connection.execute(f"set idle_in_transaction_session_timeout = '{_IDLE_S}s'")
    connection.autocommit = was


def _at_head(connection: sa.Connection) -> bool:
    """Whether the newest migration has run; asked without Alembic, whose import takes longer than all else here."""
    known = sorted(path.stem.split("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*_*.py"))
    if not sa.inspect(connection).has_table("alembic_version"):
        return False
    found = connection.execute(sa.text("select version_num from alembic_version")).scalar()
    if found is not None and found not in known:
        where = connection.engine.url.render_as_string(hide_password=True)
        raise UnusableDatabaseError(
            f"the database {where} is at version {found}; this release knows up to {known[-1]}."
            " It was written by a newer release: install that one. Nothing was changed."
        )
    return bool(found == known[-1])


def _migrate(engine: sa.Engine) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    opened = engine.connect().execution_options(writes=True)
    with opened as connection, _tables_may_be_rebuilt(connection), connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        if not _at_head(connection):  # another process may have been first
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            _check_references(connection)


@contextmanager
def _tables_may_be_rebuilt(connection: sa.Connection) -> Iterator[None]:
    """SQLite changes a table by making it anew, which its foreign keys forbid; no transaction can turn them off."""
    sqlite = connection.connection.dbapi_connection if connection.dialect.name == "sqlite" else None
    if sqlite is None:
        yield
        return
    sqlite.cursor().execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        sqlite.cursor().execute("PRAGMA foreign_keys=ON")


def _check_references(connection: sa.Connection) -> None:
    if connection.dialect.name != "sqlite":
        return
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if broken is not None:
        raise UnusableDatabaseError(
            f"row {broken[1]} of {broken[0]} refers to a row of {broken[2]} that is not there. Nothing was upgraded."
        )


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0]
