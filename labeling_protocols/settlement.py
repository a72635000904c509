"""From reads to truth: verdicts made as reads arrive, disputes listed, truths computed."""

import logging
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.adjudications import AdjudicationError, adjudicate, adjudication_of, signature_holds
from labeling_protocols.blobs import DamagedBlobError
from labeling_protocols.dispute_states import UNSETTLED, standing_of
from labeling_protocols.judging import judged
from labeling_protocols.records import (
    Adjudication,
    Case,
    Dispute,
    DisputeState,
    Outcome,
    Read,
    Settled,
    Truth,
    Verdict,
)
from labeling_protocols.rows import read_of, reads_of_cases, verdict_of
from labeling_protocols.store import Store
from labeling_protocols.verdicts import reads_key

__all__ = [
    "AdjudicationError",
    "adjudicate",
    "adjudication_of",
    "counts",
    "disputes",
    "judge",
    "settle",
    "signature_holds",
    "truth",
    "truths",
]

_NOT_KEPT = Verdict(pairs=(), reasons=(), severity=0.0)

log = logging.getLogger(__name__)


def settle(store: Store, case_id: str) -> Verdict | None:
    """Judge a case's newest reads and keep the verdict; None while seats are still unread."""
    found = judged(store, store.case(case_id))
    return found.verdict if found else None


def judge(store: Store, protocol_name: str) -> int:
    """Make the verdicts that are due: how many. A case whose labels cannot be read is named in the log and passed."""
    made = 0
    for case in store.cases(protocol_name, (Outcome.UNJUDGED,)):
        try:
            judged(store, case)
            made += 1
        except (DamagedBlobError, FileNotFoundError, ValueError) as error:
            log.error("case %s was not judged: %s; see overread store verify", case.id, type(error).__name__)
    return made


def disputes(store: Store, protocol_name: str, states: Iterable[DisputeState] = UNSETTLED) -> list[Dispute]:
    """The disputes of a protocol that stand so, worst first; without `states` those that nobody settled.

    Of one that is settled or withdrawn the verdict is empty where none over its newest reads is kept.
    """
    judge(store, protocol_name)
    wanted = tuple(states)
    table, cases = schema.disputes, schema.cases
    query = sa.select(table).where(table.c.protocol == protocol_name, table.c.state.in_(wanted))
    query = query.join(cases, cases.c.id == table.c.case)
    unsettled = table.c.state.in_(UNSETTLED)
    query = query.where(sa.or_(~unsettled, cases.c.outcome == Outcome.DISPUTED))  # others await their verdict
    with store.engine.connect() as connection:
        asked = store.asked(protocol_name, connection)
        rows = {row.case: row for row in connection.execute(query)}
        reads = _reads_that_count(connection, query, asked.since_version)
        verdicts = _verdicts(connection, query, asked.protocol.version)
    found = []
    for case_id, row in rows.items():
        of_case = tuple(reads.get(case_id, {}).values())
        verdict = verdicts.get((case_id, reads_key(read.id for read in of_case)), _NOT_KEPT)
        found.append(Dispute(reads=of_case, verdict=verdict, **vars(standing_of(row))))
    return sorted(found, key=lambda dispute: (-dispute.verdict.severity, dispute.case))


def counts(store: Store, protocol_names: Iterable[str]) -> dict[DisputeState, int]:
    """How many disputes of these protocols stand how."""
    table = schema.disputes
    query = sa.select(table.c.state, sa.func.count()).where(table.c.protocol.in_(list(protocol_names)))
    with store.engine.connect() as connection:
        known = {state: count for state, count in connection.execute(query.group_by(table.c.state))}
    return {state: known.get(state, 0) for state in DisputeState}


def truth(store: Store, case_id: str) -> Truth | None:
    """What counts for a case: its adjudication, else the consensus of its newest reads, else nothing yet."""
    case = store.case(case_id)
    decision = adjudication_of(store, case_id)
    return _adjudicated(store, case, decision) if decision is not None else _agreed(store, case)


def truths(store: Store, protocol_name: str) -> list[Truth]:
    """The truths of a protocol, by case."""
    judge(store, protocol_name)
    found = (truth(store, case.id) for case in store.cases(protocol_name, (Outcome.AGREED, Outcome.SETTLED)))
    return [known for known in found if known is not None]


def _adjudicated(store: Store, case: Case, decision: Adjudication) -> Truth:
    return Truth(
        case=case,
        protocol_version=next(read.protocol_version for read in store.reads(case.id) if read.id in decision.reads),
        settled=Settled.ADJUDICATION,
        label=decision.label,
        reads=decision.reads,
        adjudication=decision.id,
    )


def _agreed(store: Store, case: Case) -> Truth | None:
    found = judged(store, case)
    if found is None or found.consensus is None:
        return None
    return Truth(
        case=case,
        protocol_version=found.protocol.version,
        settled=Settled.CONSENSUS,
        label=found.consensus,
        reads=tuple(sorted(read.id for read in found.reads)),
    )


def _reads_that_count(
    connection: sa.Connection, of_disputes: sa.Select[Any], since_version: int
) -> dict[str, dict[str, Read]]:
    """By case and reader, in the readers' order, as `Store.latest_reads` has them."""
    cases = of_disputes.with_only_columns(schema.disputes.c.case)
    newest: dict[str, dict[str, Read]] = {}
    for row in connection.execute(reads_of_cases(cases)):
        if row.protocol_version >= since_version and not row.withdrawn:
            newest.setdefault(row.case, {})[row.reader] = read_of(row)
    return {case: dict(sorted(reads.items())) for case, reads in newest.items()}


def _verdicts(connection: sa.Connection, of_disputes: sa.Select[Any], version: int) -> dict[tuple[str, str], Verdict]:
    """The verdicts of this version that are kept, by case and reads."""
    table = schema.verdicts
    cases = of_disputes.with_only_columns(schema.disputes.c.case)
    query = sa.select(table.c.case, table.c.reads, table.c.verdict).where(
        table.c.case.in_(cases), table.c.protocol_version == version
    )
    return {(row.case, row.reads): verdict_of(row.verdict) for row in connection.execute(query)}
