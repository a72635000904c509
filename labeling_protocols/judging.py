"""A case's newest reads in, the verdict over them out, kept; the case's outcome, dispute and seats move with it.

A verdict is a cache: it can be made again from the reads it names, and is, where a crash came before it was kept.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from labeling_protocols import dispute_states, schema, seats, tallies
from labeling_protocols.assessment import assess
from labeling_protocols.consensus import consensus
from labeling_protocols.label_codec import encode_label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Case, Outcome, Read, Verdict
from labeling_protocols.rows import verdict_of
from labeling_protocols.saving import Asked
from labeling_protocols.store import Store, now
from labeling_protocols.verdicts import keep_verdict, kept_verdict, reads_key

_SERVER = "server"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A verdict with the reads it was made from, and the digest of what they agree on."""

    key: str
    reads: tuple[Read, ...]
    protocol: Protocol
    verdict: Verdict
    consensus: str | None
    since: datetime


def judged(store: Store, case: Case) -> Judged | None:
    """The verdict over the case's newest reads, made now where it is not kept yet; None while they are too few.

    A calibration case has none.
    """
    if case.known_truth is not None:
        return None
    asked = store.asked(case.protocol)
    protocol = asked.protocol
    reads = tuple(store.latest_reads(case.id))
    if len(reads) < protocol.readers_per_case:
        return None
    key = reads_key(read.id for read in reads)
    row = kept_verdict(store, case.id, key, protocol.version)
    if row is None:
        _make_verdict(store, case, protocol, reads, key)
        row = kept_verdict(store, case.id, key, protocol.version)
    _follow(store, case, asked, key, row)
    return Judged(
        key=key,
        reads=reads,
        protocol=protocol,
        verdict=verdict_of(row.verdict),
        consensus=row.consensus,
        since=row.created,
    )


def _make_verdict(store: Store, case: Case, protocol: Protocol, reads: tuple[Read, ...], key: str) -> None:
    labels = {read.reader: store.label(read.label) for read in reads}
    verdict = assess(protocol, labels)
    label = None
    if verdict.agreed:
        label = store.blobs.put(encode_label(consensus(protocol, list(labels.values()))).content)
    keep_verdict(store, case.id, key, protocol.version, verdict, label)


def _follow(store: Store, case: Case, asked: Asked, key: str, verdict: Any) -> None:
    """Move what follows from a verdict, unless that is done or the case's reads have changed since."""
    with store.engine.connect() as connection:
        outcome = connection.execute(sa.select(schema.cases.c.outcome).where(schema.cases.c.id == case.id)).scalar()
    if outcome != Outcome.UNJUDGED:
        return
    with store.writing() as connection:
        if asked.protocol.adjudication.additional_readers:
            seats.lock_worklist(connection, case.protocol)
        locked = dispute_states.locked_case(connection, case.id)
        same = reads_key(read.id for read in store.latest_reads(case.id, connection)) == key
        if not same or locked.outcome != Outcome.UNJUDGED:
            return
        if verdict.agreed:
            tallies.move_outcome(connection, locked, Outcome.AGREED, verdict.severity)
            _withdraw(connection, case.id, "its reads agree")
        elif locked.reads < dispute_states.readers_before_dispute(asked.protocol):
            _ask_further_readers(connection, locked, asked)
        else:
            tallies.move_outcome(connection, locked, Outcome.DISPUTED, verdict.severity)
            dispute_states.make(connection, locked, actor=_SERVER, at=now(), reads=key)


def _ask_further_readers(connection: sa.Connection, case: Any, asked: Asked) -> None:
    """Free seats for the readers whom the protocol asks before an adjudicator decides."""
    tallies.move_outcome(connection, case, Outcome.OPEN)
    seats.add_free(connection, case, asked.since_version, dispute_states.readers_before_dispute(asked.protocol))
    _withdraw(connection, case.id, "further readers are asked")


def _withdraw(connection: sa.Connection, case_id: str, reason: str) -> None:
    dispute_states.withdraw(connection, case_id, actor=_SERVER, at=now(), reason=reason)
