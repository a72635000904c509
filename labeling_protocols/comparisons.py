"""Reads of settled cases against their truths: a protocol in, each read's agreement with what came to count out.

A comparison is a function of the read, the truth and the protocol; it is worked out once and kept as a verdict over
that one read and that truth. A handful of queries serve any number of cases.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.assessment import assess
from labeling_protocols.blinding import FINISHED
from labeling_protocols.records import Outcome, PairAgreement, Settled
from labeling_protocols.store import Store
from labeling_protocols.verdicts import keep_verdict, reads_key

TRUTH = "truth"
_IN_ONE_QUERY = 500  # case ids; SQLite takes 32,766 parameters, a statement of half a thousand is read quickly
_cases, _reads, _verdicts = schema.cases, schema.reads, schema.verdicts
_adjudications, _withdrawals = schema.adjudications, schema.withdrawals


@dataclass(frozen=True, kw_only=True)
class SettledRead:
    """A read that counts, of a case that is settled.

    `truth` is the digest of the label that counts, `at` when it came to count: the adjudication's time, else that of
    the last read that the consensus was formed of.
    """

    case: str
    reader: str
    read: int
    truth: str
    settled: Settled
    at: datetime

    @property
    def key(self) -> str:
        """What the comparison is kept under; no verdict over reads alone is."""
        return f"{self.read}:{self.truth}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A read against the truth of its case; in `pairs` the reader comes first and `TRUTH` second."""

    of: SettledRead
    pairs: tuple[PairAgreement, ...]


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """Comparisons by date of settlement; `waiting` reads are not compared yet."""

    found: tuple[Comparison, ...]
    waiting: int


def comparisons(
    store: Store, protocol_name: str, *, cases: Sequence[str] | None = None, reader: str | None = None, at_most: int = 0
) -> Comparisons:
    """Every settled read of a protocol against its truth, or of these cases, or one reader's.

    Of those not known yet, `at_most` so many are worked out now, the newest first.
    """
    version = store.protocol(protocol_name).version
    settled = [one for one in settled_reads(store, protocol_name, cases) if reader in (None, one.reader)]
    kept = _kept(store, protocol_name, version, cases)
    due = [one for one in settled if (one.case, one.key) not in kept]
    due.sort(key=lambda one: (one.at, one.read), reverse=True)
    for one in due[:at_most]:
        kept[one.case, one.key] = _compare(store, one)
    found = [Comparison(of=one, pairs=pairs) for one in settled if (pairs := kept.get((one.case, one.key))) is not None]
    found.sort(key=lambda one: (one.of.at, one.of.read))
    return Comparisons(found=tuple(found), waiting=max(0, len(due) - at_most))


def settled_reads(store: Store, protocol_name: str, cases: Sequence[str] | None = None) -> list[SettledRead]:
    """The reads that count of the settled cases of a protocol, or of these of them."""
    with store.engine.connect() as connection:
        asked = store.asked(protocol_name, connection)
        reads = _counting(connection, protocol_name, asked.since_version, cases)
        decided = _decided(connection, protocol_name, cases)
        agreed = _agreed(connection, protocol_name, asked.protocol.version, cases)
    found = []
    for case, of_case in reads.items():
        key = reads_key(row.read for row in of_case)
        if of_case[0].outcome == Outcome.SETTLED:
            truth, at = decided.get(case, (None, None))
            settled = Settled.ADJUDICATION
        else:
            truth, at = agreed.get((case, key)), max(row.saved for row in of_case)
            settled = Settled.CONSENSUS
        if truth is not None and at is not None:
            found += [
                SettledRead(case=case, reader=row.reader, read=row.read, truth=truth, settled=settled, at=at)
                for row in of_case
            ]
    return found


def standing(store: Store, protocol_name: str) -> tuple[int, ...]:
    """Numbers that stay as long as the comparisons do: of reads, decisions and judgements, and last of what is kept."""
    newest = [sa.select(sa.func.max(table.c.id)).scalar_subquery() for table in (_reads, _adjudications, _withdrawals)]
    reopened = sa.select(sa.func.max(schema.reopenings.c.id)).scalar_subquery()
    with store.engine.connect() as connection:
        row = connection.execute(sa.select(*newest, reopened)).one()
        kept = connection.execute(sa.select(sa.func.count()).select_from(_verdicts)).scalar_one()
    counts, version = store.progress(protocol_name), store.protocol(protocol_name).version
    return (*(number or 0 for number in row), counts.truths, counts.disputes, version, kept)


class CatchingUp:
    """Compares what is not compared yet, so many reads at a time; rests where nothing was left and nothing changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rested: dict[str, tuple[int, ...]] = {}

    def step(self, protocol_name: str, at_most: int) -> int:
        """How many reads are still waiting."""
        if self._rested.get(protocol_name) == (stands := standing(self._store, protocol_name)):
            return 0
        waiting = comparisons(self._store, protocol_name, at_most=at_most).waiting
        if not waiting:
            self._rested[protocol_name] = stands
        return waiting


def _counting(
    connection: sa.Connection, protocol_name: str, since_version: int, cases: Sequence[str] | None
) -> dict[str, list[Any]]:
    """By settled case, each reader's newest read unless it was withdrawn."""
    query = (
        sa.select(
            _reads.c.case,
            _reads.c.reader,
            _cases.c.outcome,
            sa.func.max(_reads.c.id).label("read"),
            sa.func.max(_reads.c.created).label("saved"),
        )
        .join(_cases, _cases.c.id == _reads.c.case)
        .where(
            _cases.c.protocol == protocol_name,
            _cases.c.outcome.in_(FINISHED),
            _reads.c.protocol_version >= since_version,
        )
        .group_by(_reads.c.case, _reads.c.reader, _cases.c.outcome)
    )
    withdrawn = set(connection.execute(sa.select(_withdrawals.c.read)).scalars())
    by_case: dict[str, list[Any]] = defaultdict(list)
    for row in _each(connection, query, _reads.c.case, cases):
        if row.read not in withdrawn:
            by_case[row.case].append(row)
    return by_case


def _decided(
    connection: sa.Connection, protocol_name: str, cases: Sequence[str] | None
) -> dict[str, tuple[str, datetime]]:
    """By case that is settled by adjudication, the decision's label and time."""
    query = (
        sa.select(_adjudications.c.case, _adjudications.c.label, _adjudications.c.created)
        .join(_cases, _cases.c.id == _adjudications.c.case)
        .where(_cases.c.protocol == protocol_name, _cases.c.outcome == Outcome.SETTLED, _adjudications.c.settles)
        .order_by(_adjudications.c.id)
    )
    return {row.case: (row.label, row.created) for row in _each(connection, query, _adjudications.c.case, cases)}


def _agreed(
    connection: sa.Connection, protocol_name: str, version: int, cases: Sequence[str] | None
) -> dict[tuple[str, str], str]:
    """By case and reads, the consensus they came to."""
    query = (
        sa.select(_verdicts.c.case, _verdicts.c.reads, _verdicts.c.consensus)
        .join(_cases, _cases.c.id == _verdicts.c.case)
        .where(
            _cases.c.protocol == protocol_name,
            _verdicts.c.protocol_version == version,
            _verdicts.c.consensus.isnot(None),
        )
    )
    return {(row.case, row.reads): row.consensus for row in _each(connection, query, _verdicts.c.case, cases)}


def _kept(
    store: Store, protocol_name: str, version: int, cases: Sequence[str] | None
) -> dict[tuple[str, str], tuple[PairAgreement, ...]]:
    query = (
        sa.select(_verdicts.c.case, _verdicts.c.reads, _verdicts.c.verdict)
        .join(_cases, _cases.c.id == _verdicts.c.case)
        .where(
            _cases.c.protocol == protocol_name,
            _verdicts.c.protocol_version == version,
            _verdicts.c.reads.contains(":", autoescape=True),
        )
    )
    with store.engine.connect() as connection:
        rows = _each(connection, query, _verdicts.c.case, cases)
        return {(row.case, row.reads): tuple(PairAgreement(**pair) for pair in row.verdict["pairs"]) for row in rows}


def _each(
    connection: sa.Connection, query: sa.Select[Any], column: sa.Column[Any], cases: Sequence[str] | None
) -> Iterable[Any]:
    """The rows of a query, or those of these cases."""
    if cases is None:
        yield from connection.execute(query)
        return
    for start in range(0, len(cases), _IN_ONE_QUERY):
        yield from connection.execute(query.where(column.in_(cases[start : start + _IN_ONE_QUERY])))


def _compare(store: Store, one: SettledRead) -> tuple[PairAgreement, ...]:
    protocol = store.protocol(store.case(one.case).protocol)
    with store.engine.connect() as connection:
        digest = connection.execute(sa.select(_reads.c.label).where(_reads.c.id == one.read)).scalar_one()
    verdict = assess(protocol, {one.reader: store.label(digest), TRUTH: store.label(one.truth)})
    # Kept without what a comparison with a truth has no use for; a large study has tens of thousands of them.
    kept = replace(verdict, pairs=tuple(map(_reader_first, verdict.pairs)), lesions=(), structures=())
    keep_verdict(store, one.case, one.key, protocol.version, kept)
    return kept.pairs


def _reader_first(pair: PairAgreement) -> PairAgreement:
    if pair.reader_b == TRUTH:
        return pair
    difference = pair.volume_difference_ml
    return replace(
        pair,
        reader_a=pair.reader_b,
        reader_b=pair.reader_a,
        volume_difference_ml=None if difference is None else -difference,
        findings_a=pair.findings_b,
        findings_b=pair.findings_a,
    )
