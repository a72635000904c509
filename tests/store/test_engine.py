"""A database is brought up to date once, holds to its durability, and says plainly why it cannot be used."""

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.engine import UnusableDatabaseError, make_engine, parse_url, snapshot, upgrade
from tests.postgres import Postgres


def _upgrade(url: str, together: object) -> None:
    together.wait()  # type: ignore[attr-defined]
    engine = make_engine(url)
    upgrade(engine)
    engine.dispose()


def test_processes_that_start_together_upgrade_once(database_url: str) -> None:
    context = multiprocessing.get_context("fork")
    together = context.Barrier(6)
    starting = [context.Process(target=_upgrade, args=(database_url, together)) for _ in range(6)]
    for process in starting:
        process.start()
    for process in starting:
        process.join()
    assert [process.exitcode for process in starting] == [0] * 6
    engine = make_engine(database_url)
    with engine.connect() as connection:
        assert connection.execute(sa.text("select count(*) from alembic_version")).scalar() == 1
        assert set(sa.inspect(connection).get_table_names()) >= set(schema.metadata.tables)
    engine.dispose()


def test_a_database_at_the_newest_version_needs_no_alembic(database_url: str) -> None:
    engine = make_engine(database_url)
    upgrade(engine)
    engine.dispose()
    words = (
        "import sys; from labeling_protocols.engine import *; engine = make_engine(sys.argv[1]); upgrade(engine);"
        " assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", words, database_url], check=True)


def test_a_database_of_a_newer_release_is_left_alone(database_url: str) -> None:
    engine = make_engine(database_url)
    upgrade(engine)
    with engine.connect() as connection:
        connection.execute(sa.text("update alembic_version set version_num = '9999'"))
        connection.commit()
    with pytest.raises(UnusableDatabaseError, match="newer release"):
        upgrade(engine)
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://me:secret@host/name", "begins with mysql"),
        ("me:secret", "cannot be read"),
        ("postgresql://me:secret@127.0.0.1:1/name", "cannot use the database"),
        ("sqlite:////no/such/folder/overread.db", "unable to open"),
    ],
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(url: str, words: str) -> None:
    with pytest.raises(UnusableDatabaseError, match=words) as refused:
        upgrade(make_engine(url))
    assert "secret" not in str(refused.value)


def test_postgresql_is_spoken_to_by_psycopg() -> None:
    assert parse_url("postgresql://me@host/name").drivername == "postgresql+psycopg"


def test_a_snapshot_does_not_see_what_is_written_after_it_began(database_url: str) -> None:
    engine = make_engine(database_url)
    upgrade(engine)
    count = sa.select(sa.func.count()).select_from(schema.tallies)
    with snapshot(engine) as reading:
        assert reading.execute(count).scalar() == 0
        with engine.connect().execution_options(writes=True) as writing, writing.begin():
            writing.execute(sa.insert(schema.tallies).values(protocol="p", kind="cases", reader="", total=1))
        assert reading.execute(count).scalar() == 0
    with snapshot(engine) as reading:
        assert reading.execute(count).scalar() == 1
    engine.dispose()


def test_sqlite_writes_through_to_the_disk(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"pragma {name}").scalar() for name in ("journal_mode", "synchronous")
        }
    engine.dispose()
    assert found == {"journal_mode": "wal", "synchronous": 2}


def test_postgresql_is_made_to_wait_for_the_disk(postgres: Postgres) -> None:
    url = postgres.new_database()
    name = parse_url(url).database
    careless = make_engine(url)
    with careless.connect() as connection:
        connection.execute(sa.text(f"alter database {name} set synchronous_commit = off"))
        connection.commit()
    careless.dispose()
    engine = make_engine(url)
    with engine.connect() as connection:
        assert connection.execute(sa.text("show synchronous_commit")).scalar() == "on"
    engine.dispose()
