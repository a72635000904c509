"""One process at a time: a database's URL in, a turn that ends with the block, or with the process, out."""

import fcntl
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from labeling_protocols.engine import parse_url


@contextmanager
def turn(url: str, what: str) -> Iterator[None]:
    """Hold the one turn at `what` among all processes that use this SQLite file or PostgreSQL database."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        with Path(f"{parsed.database}.{what}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    engine = sa.create_engine(parsed, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT", hide_parameters=True)
    with engine.connect() as connection:  # its end gives the turn back
        connection.execute(sa.select(sa.func.pg_advisory_lock(zlib.crc32(f"overread {what}".encode()))))
        yield
