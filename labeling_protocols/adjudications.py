"""Signed decisions on disputes: what an adjudicator takes from where in, the decision, kept and signed, out."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from labeling_protocols import schema, tallies
from labeling_protocols.composition import CompositionError, compose
from labeling_protocols.consensus import form_consensus
from labeling_protocols.dispute_states import Act, DisputeError, Standing, locked_case, move
from labeling_protocols.disputes import hold
from labeling_protocols.edits import edits, is_saved, newest_edit
from labeling_protocols.judging import Judged, judged
from labeling_protocols.label import Label
from labeling_protocols.label_codec import encode_label
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import ConsensusRule
from labeling_protocols.records import Adjudication, Edit, Outcome, Part
from labeling_protocols.rows import READS_OF_CASE
from labeling_protocols.store import Store, now
from labeling_protocols.verdicts import reads_key, reads_of_key

_READER, _CONSENSUS, _EDIT = "reader:", "consensus:", "edit:"
_PARTS = "parts"
# What a decision from before there were parts had not, and its signature therefore does not cover.
_SINCE_PARTS = ("round", "settles", "parts", "basis")


class AdjudicationError(DisputeError):
    """A decision that cannot stand: what was found, what was expected; nothing was stored."""


@dataclass(frozen=True, kw_only=True)
class _Decision:
    """What is decided, before it is known whether it settles."""

    judged: Judged
    parts: tuple[Part, ...]
    rationale: str
    label: str
    basis: str


def adjudicate(
    store: Store,
    *,
    case_id: str,
    adjudicator: str,
    parts: Sequence[Part],
    rationale: str,
    signing_key: Ed25519PrivateKey,
) -> Adjudication:
    """Decide what a disputed case's label is, and sign that.

    Claims the dispute where nobody has it. Where the protocol asks two adjudicators, the first decision settles
    nothing: the dispute is open again for another. Raises `DisputeError` (`AdjudicationError` where the decision itself
    cannot stand), having kept nothing.
    """
    decision = _prepared(store, case_id, adjudicator, tuple(parts), rationale)
    with store.writing() as connection:
        at, case = now(), locked_case(connection, case_id)
        _require_in_dispute(store, connection, case)
        if reads_key(read.id for read in store.latest_reads(case_id, connection)) != decision.judged.key:
            raise AdjudicationError(
                "a reader saved or withdrew in this moment; look at the case again. Nothing was decided."
            )
        held = hold(store, connection, case, adjudicator, at)
        row = _row(connection, held, adjudicator, decision, at)
        row["signature"] = signing_key.sign(_signed_text(row)).hex()
        inserted = connection.execute(sa.insert(schema.adjudications).values(row)).inserted_primary_key
        if row["settles"]:
            tallies.move_outcome(connection, case, Outcome.SETTLED)
        _move(connection, held, decision.judged.protocol, row, at)
    return adjudication_of_row({**row, "id": inserted[0] if inserted else 0})


def adjudication_of(store: Store, case_id: str, connection: sa.Connection | None = None) -> Adjudication | None:
    """The decision that counts for a case: the newest that settled it, unless it was reopened since.

    One counts no more where a read it was based on was withdrawn, or answers something else than is asked now.
    """
    table, opened = schema.adjudications, schema.reopenings
    reopened = sa.select(sa.func.coalesce(sa.func.max(opened.c.round), 0)).where(opened.c.case == case_id)
    query = sa.select(table).where(
        table.c.case == case_id, table.c.settles.is_(True), table.c.round > reopened.scalar_subquery()
    )
    with contextlib.nullcontext(connection) if connection is not None else store.engine.connect() as reading:
        row = reading.execute(query.order_by(table.c.id.desc()).limit(1)).mappings().first()
        if row is None:
            return None
        since_version = store.asked(store.case(case_id, reading).protocol, reading).since_version
        reads = {read.id: read for read in reading.execute(READS_OF_CASE, {"of_case": case_id})}
    based_on = [reads.get(number) for number in reads_of_key(row["reads"])]
    if any(read is None or read.withdrawn or read.protocol_version < since_version for read in based_on):
        return None
    return adjudication_of_row(dict(row))


def adjudications(store: Store, case_id: str) -> list[Adjudication]:
    """Every decision over a case, oldest first, whether it counts or not."""
    table = schema.adjudications
    with store.engine.connect() as connection:
        rows = connection.execute(sa.select(table).where(table.c.case == case_id).order_by(table.c.id)).mappings().all()
    return [adjudication_of_row(dict(row)) for row in rows]


def adjudication_of_row(row: dict[str, Any]) -> Adjudication:
    parts = tuple(Part(**part) for part in row["parts"])
    return Adjudication(**{**row, "reads": reads_of_key(row["reads"]), "parts": parts})


def reader_taken(decision: Adjudication) -> str | None:
    """The reader whose label was taken for the whole case, if it was one's."""
    if decision.basis is None:  # from before there were parts
        return decision.choice if decision.choice != ConsensusRule.MAJORITY else None
    return _reader_taken(decision.parts)


def signature_holds(adjudication: Adjudication, public_key: Ed25519PublicKey) -> bool:
    """Whether this decision is the one that was signed."""
    row = {**asdict(adjudication), "reads": reads_key(adjudication.reads)}
    try:
        public_key.verify(bytes.fromhex(adjudication.signature), _signed_text(row))
    except (InvalidSignature, ValueError):
        return False
    return True


def _prepared(store: Store, case_id: str, adjudicator: str, parts: tuple[Part, ...], rationale: str) -> _Decision:
    """What is decided, worked out from what there is now."""
    case = store.case(case_id)
    found = judged(store, case)
    with store.engine.connect() as connection:
        row = connection.execute(sa.select(schema.cases).where(schema.cases.c.id == case_id)).one()
        _require_in_dispute(store, connection, row)
    assert found is not None  # noqa: S101  in dispute, so judged
    if store.reads(case_id, adjudicator):
        raise AdjudicationError("an adjudicator cannot settle a case he read himself. Nothing was decided.")
    words, least = rationale.strip(), found.protocol.adjudication.rationale_min_characters
    if len(words) < least:
        expected = "a decision needs a rationale" if least == 1 else f"expected a rationale of {least} characters"
        raise AdjudicationError(f"{expected}; one of {len(words)} characters was found. Nothing was decided.")
    if not parts:
        raise AdjudicationError("a decision takes at least one part; none was found. Nothing was decided.")
    drawn = _edits_taken(store, case_id, adjudicator, parts)
    labels = {read.reader: store.label(read.label) for read in found.reads}
    label = _label(store, found, parts, labels, drawn)
    return _Decision(judged=found, parts=parts, rationale=words, label=label, basis=_basis(found, parts, labels, drawn))


def _require_in_dispute(store: Store, connection: sa.Connection, case: Any) -> None:
    if case.outcome == Outcome.DISPUTED:
        return
    if case.outcome == Outcome.SETTLED and adjudication_of(store, case.id, connection) is not None:
        raise AdjudicationError("this dispute has been settled already. Nothing was changed.")
    raise AdjudicationError("this case is not in dispute. Nothing was decided.")


def _reader_taken(parts: tuple[Part, ...]) -> str | None:
    only = parts[0] if len(parts) == 1 else None
    if only is None or only.structure is not None or only.lesion is not None or not only.source.startswith(_READER):
        return None
    return only.source.removeprefix(_READER)


def _edits_taken(store: Store, case_id: str, adjudicator: str, parts: tuple[Part, ...]) -> dict[str, Edit]:
    """The adjudicator's own edits of this round that parts name, by source."""
    wanted = {part.source for part in parts if part.source.startswith(_EDIT)}
    newest = newest_edit(store, case_id, adjudicator) if wanted else None
    known = {
        f"{_EDIT}{edit.revision}": edit
        for edit in edits(store, case_id, adjudicator)
        if newest is not None and edit.round == newest.round and is_saved(edit)
    }
    if wanted - known.keys():
        raise AdjudicationError("you saved no such edit of this case. Nothing was decided.")
    return {source: known[source] for source in wanted}


def _label(
    store: Store, found: Judged, parts: tuple[Part, ...], labels: dict[str, Label], drawn: dict[str, Edit]
) -> str:
    """The digest of what the parts come to; what is taken whole from a reader is that very label."""
    reader = _reader_taken(parts)
    if taken := [read.label for read in found.reads if read.reader == reader]:
        return taken[0]
    try:
        composed = compose(
            found.protocol, labels, parts, {source: store.label(edit.label) for source, edit in drawn.items()}
        )
    except CompositionError as error:
        raise AdjudicationError(f"{str(error).rstrip('.')}. Nothing was decided.") from error
    return store.blobs.put(encode_label(composed.label).content)


def _basis(found: Judged, parts: tuple[Part, ...], labels: dict[str, Label], drawn: dict[str, Edit]) -> str:
    """SHA-256 of what was shown and taken from: verdict, reads, protocol version, consensus labels and edits."""
    shown = {
        "verdict": asdict(found.verdict),
        "reads": [{"id": read.id, "revision": read.revision, "label": read.label} for read in found.reads],
        "protocol_version": found.protocol.version,
        "consensus": {
            part.source: _digest_of(found.protocol, part.source, labels)
            for part in parts
            if part.source.startswith(_CONSENSUS)
        },
        "edits": {source: edit.label for source, edit in drawn.items()},
    }
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def _digest_of(protocol: Protocol, source: str, labels: dict[str, Label]) -> str:
    rule = ConsensusRule(source.removeprefix(_CONSENSUS))
    return hashlib.sha256(encode_label(form_consensus(protocol, labels, rule).label).content).hexdigest()


def _row(
    connection: sa.Connection, held: Standing, adjudicator: str, decision: _Decision, at: datetime
) -> dict[str, Any]:
    parts = decision.parts
    whole = len(parts) == 1 and parts[0].structure is None
    return {
        "case": held.case,
        "adjudicator": adjudicator,
        "choice": parts[0].source.partition(":")[2] or parts[0].source if whole else _PARTS,
        "rationale": decision.rationale,
        "reads": decision.judged.key,
        "label": decision.label,
        "created": at,
        "round": held.round,
        "settles": _settles(connection, held, decision),
        "parts": [asdict(part) for part in parts],
        "basis": decision.basis,
    }


def _settles(connection: sa.Connection, held: Standing, decision: _Decision) -> bool:
    """One adjudicator settles alone, and so does whoever it was escalated to; else two who decide the same."""
    if decision.judged.protocol.adjudication.adjudicators == 1 or held.group:
        return True
    table = schema.adjudications
    same = sa.select(table.c.id).where(
        table.c.case == held.case, table.c.round == held.round, table.c.label == decision.label
    )
    return connection.execute(same.limit(1)).first() is not None


def _move(connection: sa.Connection, held: Standing, protocol: Protocol, row: dict[str, Any], at: datetime) -> None:
    """Settle the dispute or open it for another adjudicator; where two differ, for those it is escalated to."""
    told = {name: row[name] for name in ("choice", "reads", "label", "parts", "basis", "settles", "signature")}
    act = Act.SETTLE if row["settles"] else Act.DECIDE
    after = move(connection, held, act, actor=row["adjudicator"], at=at, **told)
    group = protocol.adjudication.escalate_to
    if act is Act.DECIDE and group is not None and _decisions(connection, held) > 1:
        reason = "two adjudicators decided differently"
        move(connection, after, Act.ESCALATE, actor="server", at=at, group=group, reason=reason)


def _decisions(connection: sa.Connection, held: Standing) -> int:
    table = schema.adjudications
    of_round = sa.select(sa.func.count()).where(table.c.case == held.case, table.c.round == held.round)
    return connection.execute(of_round).scalar_one()


def _signed_text(row: dict[str, Any]) -> bytes:
    """Canonical JSON of everything that was decided; the row's number is the database's, not the adjudicator's."""
    left_out = ("id", "signature", *(_SINCE_PARTS if row["basis"] is None else ()))
    signed = {name: value for name, value in row.items() if name not in left_out}
    return json.dumps({**signed, "created": row["created"].isoformat()}, sort_keys=True).encode()
