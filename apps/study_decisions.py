"""Disputes, decisions, edits and the audit chain of a protocol's cases in; rows of a study's tables out."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from apps.study_files import Row
from labeling_protocols import audit, schema, settlement
from labeling_protocols.adjudications import adjudication_of_row
from labeling_protocols.records import Adjudication
from labeling_protocols.store import Store

Rows = list[Row]

_START = "0" * 64  # the hash that stands before the chain's first entry


@dataclass(frozen=True, kw_only=True)
class AuditHead:
    """The last entry of the whole chain; `broken` is the first entry that is not what was written, or None."""

    entries: int
    hash: str
    broken: int | None


def decision_tables(store: Store, protocol_name: str, key: Ed25519PublicKey) -> dict[str, Rows]:
    """Disputes, adjudications, reopenings and edits, by table; `key` is the site's, which signs decisions."""
    decisions = [
        adjudication_of_row(dict(row._mapping)) for row in _of_protocol(store, schema.adjudications, protocol_name)
    ]
    counting = {case: settlement.adjudication_of(store, case) for case in {decision.case for decision in decisions}}
    in_force = {decision.id for decision in counting.values() if decision is not None}
    return {
        "disputes": [
            {"case": row.case, "state": row.state, "round": row.round, "group": row.group, "since": row.since}
            for row in _of_protocol(store, schema.disputes, protocol_name, by="case")
        ],
        "adjudications": [_decided(one, one.id in in_force, settlement.signature_holds(one, key)) for one in decisions],
        "adjudication_parts": [
            {"adjudication": one.id, "number": number, **vars(part)}
            for one in decisions
            for number, part in enumerate(one.parts, start=1)
        ],
        "adjudication_reads": [{"adjudication": one.id, "read": read} for one in decisions for read in one.reads],
        "reopenings": [
            {
                "case": row.case,
                "round": row.round,
                "reopened_by": row.actor,
                "reason": row.reason,
                "at": row.created,
            }
            for row in _of_protocol(store, schema.reopenings, protocol_name)
        ],
        "edits": [_edit(row) for row in _of_protocol(store, schema.edits, protocol_name)],
    }


def audit_excerpt(store: Store, subjects: Collection[str]) -> tuple[Rows, AuditHead]:
    """The entries on these subjects, each with the hash of the entry before it, and the head of the whole chain."""
    rows: Rows = []
    previous, count, broken = _START, 0, None
    with store.engine.connect() as connection:
        for entry in audit.entries(connection):
            count += 1
            if broken is None and (entry.id != count or entry.hash != entry.hash_after(previous)):
                broken = entry.id
            if entry.subject in subjects:
                content = {name: value for name, value in vars(entry).items() if name != "id"}
                rows.append({"entry": entry.id, **content, "previous_hash": previous})
            previous = entry.hash
    return rows, AuditHead(entries=count, hash=previous, broken=broken)


def _of_protocol(store: Store, table: sa.Table, protocol_name: str, by: str = "id") -> list[Any]:
    """The rows on a protocol's cases, in the order of a column."""
    cases = schema.cases
    query = sa.select(table).join(cases, cases.c.id == table.c.case).where(cases.c.protocol == protocol_name)
    with store.engine.connect() as connection:
        return list(connection.execute(query.order_by(table.c[by])).all())


def _decided(decision: Adjudication, counts: bool, holds: bool) -> Row:
    return {
        "adjudication": decision.id,
        "case": decision.case,
        "round": decision.round,
        "adjudicator": decision.adjudicator,
        "choice": decision.choice,
        "rationale": decision.rationale,
        "settles": decision.settles,
        "counts": counts,
        "decided": decision.created,
        "label_sha256": decision.label,
        "basis_sha256": decision.basis,
        "signature": decision.signature,
        "signature_holds": holds,
    }


def _edit(row: Any) -> Row:
    return {
        "edit": row.id,
        "case": row.case,
        "adjudicator": row.adjudicator,
        "round": row.round,
        "revision": row.revision,
        "source": row.source,
        "label_sha256": row.label,
        "saved": row.created,
    }
