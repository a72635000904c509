"""From reads to truth: verdicts kept as reads arrive, disputes listed, adjudications signed, truths computed.

A verdict is a cache: it can be made again from the reads it names, and is, where a crash came before it was kept.
"""

import contextlib
import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy.exc import IntegrityError

from labeling_protocols import audit, schema, tallies
from labeling_protocols.agreement import assess
from labeling_protocols.audit import Action
from labeling_protocols.consensus import consensus
from labeling_protocols.label import Label
from labeling_protocols.label_codec import encode_label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import (
    Adjudication,
    Case,
    Dispute,
    Outcome,
    Read,
    Settled,
    Truth,
    Verdict,
)
from labeling_protocols.rows import CASE_LOCKED, verdict_of
from labeling_protocols.store import Store, now
from labeling_protocols.verdicts import keep_verdict, kept_verdict

MAJORITY = "majority"


class AdjudicationError(ValueError):
    """A decision that cannot stand: what was found, what was expected; nothing was stored."""


def settle(store: Store, case_id: str) -> Verdict | None:
    """Judge a case's newest reads and keep the verdict; None while seats are still unread."""
    kept = _kept_verdict(store, store.case(case_id))
    return kept.verdict if kept else None


def judge(store: Store, protocol_name: str) -> int:
    """Make the verdicts that are due: how many."""
    due = store.cases(protocol_name, (Outcome.UNJUDGED,))
    for case in due:
        _kept_verdict(store, case)
    return len(due)


def disputes(store: Store, protocol_name: str) -> list[Dispute]:
    """The open disputes of a protocol, worst first."""
    judge(store, protocol_name)
    open_disputes = []
    for case in store.cases(protocol_name, (Outcome.DISPUTED,)):
        kept = _kept_verdict(store, case)
        if kept is not None and not kept.verdict.agreed:
            open_disputes.append(
                Dispute(
                    case=case.id,
                    protocol=case.protocol,
                    reads=kept.reads,
                    verdict=kept.verdict,
                    since=kept.since,
                )
            )
    return sorted(open_disputes, key=lambda dispute: (-dispute.verdict.severity, dispute.case))


def adjudicate(
    store: Store,
    *,
    case_id: str,
    adjudicator: str,
    choice: str,
    rationale: str,
    signing_key: Ed25519PrivateKey,
) -> Adjudication:
    """Settle a dispute by a signed decision: `choice` is a reader of the case, or 'majority'.

    Raises `AdjudicationError` where the case is no open dispute, the adjudicator read it himself, the choice is none of
    its readers, or no rationale is given. The dissenting reads stay as they are.
    """
    case = store.case(case_id)
    kept = _kept_verdict(store, case)
    if kept is None or kept.verdict.agreed:
        raise AdjudicationError("this case is not in dispute. Nothing was decided.")
    readers = {read.reader: read for read in kept.reads}
    if adjudicator in readers:
        raise AdjudicationError("an adjudicator cannot settle a case he read himself. Nothing was decided.")
    if not rationale.strip():
        raise AdjudicationError("a decision needs a rationale; an empty one was found. Nothing was decided.")
    if choice == MAJORITY:
        label = store.blobs.put(encode_label(_consensus(store, case, kept.reads)).content)
    elif choice in readers:
        label = readers[choice].label
    else:
        raise AdjudicationError("expected one of the case's readers or 'majority' as the choice. Nothing was decided.")
    row = {
        "case": case_id,
        "adjudicator": adjudicator,
        "choice": choice,
        "rationale": rationale.strip(),
        "reads": kept.key,
        "label": label,
        "created": now(),
    }
    row["signature"] = signing_key.sign(_signed_text(row)).hex()
    try:
        with store.writing() as connection:
            locked = _lock(connection, case_id)
            if adjudication_of(store, case_id, connection) is not None:
                raise AdjudicationError("this dispute has been settled already. Nothing was changed.")
            if _key(tuple(read.id for read in store.latest_reads(case_id, connection))) != kept.key:
                raise AdjudicationError(
                    "a reader saved or withdrew in this moment; look at the case again. Nothing was decided."
                )
            connection.execute(sa.insert(schema.adjudications).values(row))
            tallies.move_outcome(connection, locked, Outcome.SETTLED)
            signed = {name: row[name] for name in ("choice", "reads", "label", "signature")}
            audit.append(connection, actor=adjudicator, action=Action.ADJUDICATED, subject=case_id, **signed)
    except IntegrityError as error:
        raise AdjudicationError("this dispute has been settled already. Nothing was changed.") from error
    decision = adjudication_of(store, case_id)
    assert decision is not None  # noqa: S101  committed just above
    return decision


def adjudication_of(store: Store, case_id: str, connection: sa.Connection | None = None) -> Adjudication | None:
    """The newest adjudication of a case, if it decided between reads that answer what is asked now."""
    table, reads = schema.adjudications, schema.reads
    query = sa.select(table).where(table.c.case == case_id).order_by(table.c.id.desc()).limit(1)
    with contextlib.nullcontext(connection) if connection is not None else store.engine.connect() as reading:
        since_version = store.asked(store.case(case_id, reading).protocol, reading).since_version
        row = reading.execute(query).first()
        if row is None:
            return None
        version = reading.execute(sa.select(reads.c.protocol_version).where(reads.c.id == _ids(row.reads)[0])).scalar()
    if version is None or version < since_version:
        return None
    return Adjudication(**{**row._mapping, "reads": _ids(row.reads)})


def signature_holds(adjudication: Adjudication, public_key: Ed25519PublicKey) -> bool:
    """Whether this decision is the one that was signed."""
    row = {**asdict(adjudication), "reads": _key(adjudication.reads)}
    try:
        public_key.verify(bytes.fromhex(adjudication.signature), _signed_text(row))
    except (InvalidSignature, ValueError):
        return False
    return True


def truth(store: Store, case_id: str) -> Truth | None:
    """What counts for a case: its adjudication, else the consensus of its newest reads, else nothing yet."""
    case = store.case(case_id)
    decision = adjudication_of(store, case_id)
    if decision is not None:
        version = next(read.protocol_version for read in store.reads(case_id) if read.id in decision.reads)
        return Truth(
            case=case,
            protocol_version=version,
            settled=Settled.ADJUDICATION,
            label=decision.label,
            reads=decision.reads,
            adjudication=decision.id,
        )
    kept = _kept_verdict(store, case)
    if kept is None or kept.consensus is None:
        return None
    return Truth(
        case=case,
        protocol_version=kept.protocol_version,
        settled=Settled.CONSENSUS,
        label=kept.consensus,
        reads=_ids(kept.key),
    )


def truths(store: Store, protocol_name: str) -> list[Truth]:
    """The truths of a protocol, by case."""
    judge(store, protocol_name)
    found = (truth(store, case.id) for case in store.cases(protocol_name, (Outcome.AGREED, Outcome.SETTLED)))
    return [known for known in found if known is not None]


class _Kept:
    """A verdict with the reads it was made from."""

    def __init__(self, row: Any, reads: tuple[Read, ...]) -> None:
        self.key: str = row.reads
        self.reads = reads
        self.protocol_version: int = row.protocol_version
        self.consensus: str | None = row.consensus
        self.since: datetime = row.created
        self.verdict = verdict_of(row.verdict)


def _kept_verdict(store: Store, case: Case) -> _Kept | None:
    """The verdict over the case's newest reads, made now where it is not kept yet; none of a calibration case."""
    if case.known_truth is not None:
        return None
    protocol = store.protocol(case.protocol)
    reads = tuple(store.latest_reads(case.id))
    if len(reads) < protocol.readers_per_case:
        return None
    key = _key(tuple(read.id for read in reads))
    row = kept_verdict(store, case.id, key, protocol.version)
    with store.engine.connect() as connection:
        outcome = connection.execute(sa.select(schema.cases.c.outcome).where(schema.cases.c.id == case.id)).scalar()
    if row is None or outcome == Outcome.UNJUDGED:
        _keep_verdict(store, case, protocol, reads, key, row)
        row = kept_verdict(store, case.id, key, protocol.version)
    return _Kept(row, reads)


def _keep_verdict(store: Store, case: Case, protocol: Protocol, reads: tuple[Read, ...], key: str, known: Any) -> None:
    """Keep a verdict, made now where it is not known, and move the case's outcome unless its reads changed."""
    if known is None:
        labels = {read.reader: store.label(read.label) for read in reads}
        verdict = assess(protocol, labels)
        label = (
            store.blobs.put(encode_label(consensus(protocol, list(labels.values()))).content)
            if verdict.agreed
            else None
        )
        keep_verdict(store, case.id, key, protocol.version, verdict, label)
        agreed, severity = verdict.agreed, verdict.severity
    else:
        agreed, severity = known.agreed, known.severity
    with store.writing() as connection:
        locked = _lock(connection, case.id)
        same = _key(tuple(read.id for read in store.latest_reads(case.id, connection))) == key
        if same and locked.outcome == Outcome.UNJUDGED:
            outcome = Outcome.AGREED if agreed else Outcome.DISPUTED
            tallies.move_outcome(connection, locked, outcome, severity)


def _consensus(store: Store, case: Case, reads: tuple[Read, ...]) -> Label:
    protocol = store.protocol(case.protocol, reads[0].protocol_version)
    return consensus(protocol, [store.label(read.label) for read in reads])


def _lock(connection: sa.Connection, case_id: str) -> Any:
    """The case's row, as it stays until the transaction ends."""
    return connection.execute(CASE_LOCKED, {"of_case": case_id}).one()


def _signed_text(row: dict[str, Any]) -> bytes:
    """Canonical JSON of everything that was decided; the row's number is the database's, not the adjudicator's."""
    signed = {name: value for name, value in row.items() if name not in ("id", "signature")}
    return json.dumps({**signed, "created": row["created"].isoformat()}, sort_keys=True).encode()


def _key(ids: tuple[int, ...]) -> str:
    return ",".join(str(number) for number in sorted(ids))


def _ids(key: str) -> tuple[int, ...]:
    return tuple(int(number) for number in key.split(","))
