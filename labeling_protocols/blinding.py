"""When blinding is over for a reader: a reader and a case, or a protocol, in; whether and where it lifted out.

Nothing is judged here: how long that takes would tell a reader that all have read and do not agree.
"""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.protocol_parts import BlindingLifts
from labeling_protocols.records import Outcome
from labeling_protocols.rows import NEWEST_OF_READER
from labeling_protocols.store import Store

FINISHED = (Outcome.AGREED, Outcome.SETTLED)
_cases, _reads, _withdrawals = schema.cases, schema.reads, schema.withdrawals


@dataclass(frozen=True, kw_only=True)
class OwnLifted:
    """A case that is unblinded for its reader; `read` and `saved` are of the reader's own newest revision."""

    case: str
    read: int
    saved: datetime


def lifted(store: Store, reader: str, case_id: str) -> bool:
    """Whether this reader may see what counts for the case: it is settled, and the reader has a read that counts."""
    with store.engine.connect() as connection:
        row = connection.execute(sa.select(_cases.c.protocol, _cases.c.outcome).where(_cases.c.id == case_id)).first()
        if row is None or row.outcome not in FINISHED:
            return False
        asked = store.asked(row.protocol, connection)
        if asked.protocol.blinding.lifts is not BlindingLifts.WHEN_SETTLED:
            return False
        newest = connection.execute(NEWEST_OF_READER, {"of_case": case_id, "of_reader": reader}).first()
    return newest is not None and newest.protocol_version >= asked.since_version and not newest.withdrawn


def own_lifted(
    store: Store, protocol_name: str, reader: str, *, limit: int, before: int | None = None
) -> list[OwnLifted]:
    """The cases unblinded for a reader, whose own newest reads come first; `before` a read's number goes on from it."""
    asked = store.asked(protocol_name)
    if asked.protocol.blinding.lifts is not BlindingLifts.WHEN_SETTLED:
        return []
    newest = sa.func.max(_reads.c.id).label("read")
    own = (
        sa.select(_reads.c.case, newest)
        .join(_cases, _cases.c.id == _reads.c.case)
        .where(
            _reads.c.reader == reader,
            _reads.c.protocol_version >= asked.since_version,
            _cases.c.protocol == protocol_name,
            _cases.c.outcome.in_(FINISHED),
        )
        .group_by(_reads.c.case)
        .subquery()
    )
    counts = ~sa.exists().where(_withdrawals.c.read == own.c.read)
    query = (
        sa.select(own.c.case, own.c.read, _reads.c.created)
        .join(_reads, _reads.c.id == own.c.read)
        .where(counts)
        .order_by(own.c.read.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(own.c.read < before)
    with store.engine.connect() as connection:
        return [OwnLifted(case=row.case, read=row.read, saved=row.created) for row in connection.execute(query)]
