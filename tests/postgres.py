"""A real PostgreSQL of Debian's package, started for the tests on a socket in a folder of its own.

`conftest.py` gives it to every test that asks for a database:

    @pytest.fixture(scope="session")
    def postgres() -> Iterator[Postgres]:
        with running_postgres() as server:
            yield server

    @pytest.fixture(params=["sqlite", "postgresql"])
    def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
        if request.param == "sqlite":
            return f"sqlite:///{tmp_path / 'overread.db'}"
        return request.getfixturevalue("postgres").new_store_database()

Session fixtures live once in each of pytest-xdist's workers, so each worker has a server of its own.
"""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from labeling_protocols.engine import make_engine, upgrade

_PACKAGE = Path("/usr/lib/postgresql")
_LIMIT_S = 60.0
_CRASHED_PARENT = "INT"  # PostgreSQL's fast stop, should the tests be killed
_SETTINGS = {"listen_addresses": "", "shared_buffers": "64MB", "max_connections": "150", "restart_after_crash": "on"}


class Postgres:
    """One server; it can be killed and started again."""

    def __init__(self, programs: Path, folder: Path, *, fsync: bool) -> None:
        self._programs = programs
        self._folder = folder
        self._settings = {**_SETTINGS, "unix_socket_directories": str(folder), "fsync": "on" if fsync else "off"}
        self._numbers = itertools.count(1)
        self._up_to_date: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(folder / "data"), "-U", "overread", "-A", "trust", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        """Start and wait until it takes connections (after a crash: until its log is replayed)."""
        options = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        command = self._as_owner("postgres", "-D", str(self._folder / "data"), *options)
        log = (self._folder / "log").open("ab")
        self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        until = time.monotonic() + _LIMIT_S
        while True:
            try:
                psycopg.connect(self._dsn("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > until or (self._process is not None and self._process.poll() is not None):
                    raise
                time.sleep(0.02)

    def new_database(self, like: str = "") -> str:
        """The URL of a new, empty database."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"create database {name}{like}")
        return f"postgresql+psycopg://overread@/{name}?host={self._folder}"

    def new_store_database(self) -> str:
        """The URL of a new database that every migration has run on: a copy of one made once."""
        if self._up_to_date is None:
            url = self.new_database()
            engine = make_engine(url)
            upgrade(engine)
            engine.dispose()
            self._up_to_date = url.partition("@/")[2].partition("?")[0]
        return self.new_database(f" template {self._up_to_date}")

    def kill(self) -> None:
        """Kill the whole server at once, as a power cut would."""
        assert self._process is not None
        processes = [self._process.pid, *_children(self._process.pid)]
        for number in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self._process.wait()
        for number in processes:  # shared memory is free when the last is gone
            while Path(f"/proc/{number}").exists() and not _is_zombie(number):
                time.sleep(0.005)

    def kill_a_backend(self) -> bool:
        """Kill one process that serves a client; the server then ends all others and replays its log."""
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            query = "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
            row = connection.execute(f"{query} and datname like 'test_%' order by random() limit 1").fetchone()
        if row is None:
            return False
        os.kill(row[0], signal.SIGKILL)
        return True

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=_LIMIT_S)

    def _dsn(self, database: str) -> str:
        return f"host={self._folder} user=overread dbname={database}"

    def _as_owner(self, program: str, *arguments: str) -> list[str]:
        """The command as the folder's owner: PostgreSQL refuses root."""
        words = ["setpriv", "--pdeathsig", _CRASHED_PARENT]
        if os.geteuid() == 0:
            words += ["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        return [*words, str(self._programs / program), *arguments]

    def _run(self, program: str, *arguments: str) -> None:
        command = self._as_owner(program, *arguments)
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder)


@contextlib.contextmanager
def running_postgres(*, fsync: bool = False) -> Iterator[Postgres]:
    """A server in a new folder, ended with it; a skip where the package is not installed."""
    versions = sorted(_PACKAGE.glob("[0-9]*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not versions or not shutil.which("setpriv"):
        pytest.skip("PostgreSQL is not installed (Debian package postgresql)")
    # Not pytest's own folder: a socket's path holds 107 characters, and root's folders are closed to `postgres`.
    folder = Path(tempfile.mkdtemp(prefix="overread-postgres-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        server = Postgres(versions[-1].parent, folder, fsync=fsync)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _children(parent: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _is_zombie(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
