"""Verdicts as they are kept: which reads were judged, and what was found, in; the row out. A cache over the reads."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from labeling_protocols import schema
from labeling_protocols.records import Verdict
from labeling_protocols.store import Store, now


def kept_verdict(store: Store, case: str, reads: str, protocol_version: int) -> Any:
    """The row of the verdict over these reads (their ids), or None."""
    table = schema.verdicts
    query = sa.select(table).where(
        table.c.case == case, table.c.reads == reads, table.c.protocol_version == protocol_version
    )
    with store.engine.connect() as connection:
        return connection.execute(query).first()


def keep_verdict(
    store: Store, case: str, reads: str, protocol_version: int, verdict: Verdict, consensus: str | None = None
) -> None:
    """Keep a verdict over these reads, and the digest of the label they agree on."""
    row = {
        "case": case,
        "reads": reads,
        "protocol_version": protocol_version,
        "verdict": asdict(verdict),
        "agreed": verdict.agreed,
        "severity": verdict.severity,
        "consensus": consensus,
        "created": now(),
    }
    try:
        with store.writing() as connection:
            connection.execute(sa.insert(schema.verdicts).values(row))
    except IntegrityError:
        pass  # another process judged the same reads first; the verdict is a function of them


def reads_key(ids: Iterable[int]) -> str:
    """The name of a set of reads, as verdicts and adjudications have it."""
    return ",".join(str(number) for number in sorted(ids))


def reads_of_key(key: str) -> tuple[int, ...]:
    return tuple(int(number) for number in key.split(","))
