"""All that a store's tables say, read in one transaction and put side by side, and what its caches must then be."""

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from labeling_protocols import audit, schema
from labeling_protocols.audit import Action
from labeling_protocols.dispute_states import readers_before_dispute
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Outcome
from labeling_protocols.verdicts import reads_key, reads_of_key

_BLOBS = (
    schema.cases.c.image,
    schema.cases.c.known_truth,
    schema.reads.c.label,
    schema.prelabels.c.label,
    schema.verdicts.c.consensus,
    schema.adjudications.c.label,
    schema.edits.c.label,
    schema.snapshots.c.digest,
)


def referenced_blobs(connection: sa.Connection) -> set[str]:
    """The digest of every blob that a row refers to."""
    found = {
        digest for column in _BLOBS for digest in connection.execute(sa.select(column).distinct()).scalars() if digest
    }
    channels = schema.cases.c.channels
    of_cases = connection.execute(sa.select(channels).where(channels.isnot(None))).scalars()
    return found | {channel["image"] for one in of_cases for channel in one}


class Contents:
    """Rows of one moment; `latest` has, by case and reader, the read that counts."""

    def __init__(self, connection: sa.Connection) -> None:
        reads = schema.reads
        newest = _rows(connection, sa.select(schema.protocols).order_by(schema.protocols.c.version))
        self.protocols = {row.name: Protocol.from_json(row.content) for row in newest}
        self.since_version: dict[str, int] = {row.name: row.since_version for row in newest}
        self.cases = {row.id: row for row in _rows(connection, sa.select(schema.cases))}
        self.seats = _rows(connection, sa.select(schema.seats))
        columns = (reads.c.id, reads.c.case, reads.c.reader, reads.c.protocol_version, reads.c.revision)
        self.reads = _rows(connection, sa.select(*columns, reads.c.label, reads.c.created).order_by(reads.c.id))
        self.withdrawals = _rows(connection, sa.select(schema.withdrawals))
        self.adjudications = _rows(connection, sa.select(schema.adjudications).order_by(schema.adjudications.c.id))
        self.reopenings = _rows(connection, sa.select(schema.reopenings).order_by(schema.reopenings.c.id))
        self.edits = _rows(connection, sa.select(schema.edits).order_by(schema.edits.c.id))
        self.disputes = {row.case: row for row in _rows(connection, sa.select(schema.disputes))}
        self.verdicts = {
            (row.case, row.reads, row.protocol_version): row for row in _rows(connection, sa.select(schema.verdicts))
        }
        self.withdrawn_to = self._withdrawn_to()
        self.latest = self._latest()
        self.settled = self._settled()
        self._of_case: dict[str, list[Any]] = {}
        for read in self.latest.values():
            self._of_case.setdefault(read.case, []).append(read)
        self._places = Counter((seat.case, seat.since_version) for seat in self.seats)

    def reads_that_count(self, case_id: str) -> list[Any]:
        """The newest read of each reader that answers what is asked now and was not withdrawn."""
        return self._of_case.get(case_id, [])

    def places(self, case: Any) -> int:
        """How many seats a case (its row) has under what is asked now."""
        return self._places[case.id, self.since_version[case.protocol]]

    def told(self, connection: sa.Connection) -> tuple[Counter[tuple[Any, ...]], datetime | None]:
        """The reads, withdrawals, decisions, reopenings and edits that the chain tells of, and when it begins."""
        told: Counter[tuple[Any, ...]] = Counter()
        begun: datetime | None = None
        for entry in audit.entries(connection):
            begun = begun or datetime.fromisoformat(entry.at)
            says = json.loads(entry.details)
            if entry.action in (Action.READ_SAVED, Action.READ_ADOPTED):
                version, revision = says["protocol_version"], says["revision"]
                told["read", entry.subject, says["reader"], version, revision, says["label"]] += 1
            elif entry.action == Action.READ_WITHDRAWN:
                told["withdrawal", entry.subject, says["reader"], says["revision"]] += 1
            elif entry.action == Action.ADJUDICATED:
                told["adjudication", entry.subject, says["reads"], says["label"], says["signature"]] += 1
            elif entry.action == Action.DISPUTE_REOPENED:
                told["reopening", entry.subject, says["round"] - 1] += 1
            elif entry.action in (Action.EDIT_BEGUN, Action.EDIT_SAVED):
                told["edit", entry.subject, entry.actor, says["round"], says["revision"], says["label"]] += 1
        return told, begun

    def _withdrawn_to(self) -> dict[tuple[str, str], int]:
        """By case and reader, the last read that a withdrawal took back."""
        withdrawn = {row.read for row in self.withdrawals}
        return {(read.case, read.reader): read.id for read in self.reads if read.id in withdrawn}

    def _counts(self, read: Any) -> bool:
        """Whether a read answers what is asked now and was not withdrawn."""
        case = self.cases.get(read.case)
        asked = self.since_version.get(case.protocol) if case is not None else None
        answers = asked is not None and read.protocol_version >= asked
        return answers and read.id > self.withdrawn_to.get((read.case, read.reader), 0)

    def _latest(self) -> dict[tuple[str, str], Any]:
        return {(read.case, read.reader): read for read in self.reads if self._counts(read)}

    def _settled(self) -> set[str]:
        """The cases whose newest settling decision was not reopened, and all of whose reads count."""
        counting = {read.id for read in self.reads if self._counts(read)}
        reopened: dict[str, int] = {}
        for row in self.reopenings:
            reopened[row.case] = max(row.round, reopened.get(row.case, 0))
        settled = {}
        for row in self.adjudications:
            if row.settles and row.round > reopened.get(row.case, 0):
                settled[row.case] = counting.issuperset(reads_of_key(row.reads))
        return {case_id for case_id, holds in settled.items() if holds}


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a case's caches must be; `judged` where a verdict over its newest reads is kept."""

    reads: int
    outcome: Outcome
    severity: float
    judged: bool = False


def expected(contents: Contents, case: Any) -> Expected:
    """The counts, outcome and severity of a case (its row), from its reads, verdicts and adjudications."""
    reads = contents.reads_that_count(case.id)
    protocol = contents.protocols[case.protocol]
    outcome, severity, verdict = Outcome.OPEN, 0.0, None
    if case.id in contents.settled:
        outcome = Outcome.SETTLED
    elif case.known_truth is None and len(reads) >= protocol.readers_per_case:
        key = reads_key(read.id for read in reads)
        verdict = contents.verdicts.get((case.id, key, protocol.version))
        outcome = Outcome.UNJUDGED
        if verdict is not None and verdict.agreed:
            outcome, severity = Outcome.AGREED, verdict.severity
        elif verdict is not None:
            wanted = readers_before_dispute(protocol)
            if len(reads) >= wanted:
                outcome, severity = Outcome.DISPUTED, verdict.severity
            elif contents.places(case) >= wanted:
                outcome = Outcome.OPEN  # further readers are asked
    return Expected(reads=len(reads), outcome=outcome, severity=severity, judged=verdict is not None)


def _rows(connection: sa.Connection, query: sa.Select[Any]) -> list[Any]:
    return list(connection.execute(query).all())
