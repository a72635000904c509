"""Whether a store is whole: everything it holds in, what is wrong with it out, in words; its caches made anew.

All rows are read in one snapshot, so that a site may go on writing; blobs are never changed and are hashed afterwards.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from labeling_protocols import audit, dispute_states, schema, tallies
from labeling_protocols.adjudications import adjudication_of_row, reader_taken, signature_holds
from labeling_protocols.audit import ChainReport
from labeling_protocols.blobs import Blobs, DamagedBlobError
from labeling_protocols.contents import Contents, Expected, expected, referenced_blobs
from labeling_protocols.engine import snapshot
from labeling_protocols.records import DisputeState, Outcome, SeatState
from labeling_protocols.seats import lock_worklist
from labeling_protocols.store import Store, now
from labeling_protocols.strata import Strata, StrataError

Progress = Callable[[int, int], None]

_A = {kind: f"a {kind}" for kind in ("read", "withdrawal", "reopening")}
_A |= {kind: f"an {kind}" for kind in ("adjudication", "edit")}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong; `cache` where `repair` puts it right, since it can be counted anew."""

    words: str
    cache: bool = False


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found; `leftovers` are blobs no row refers to, as a crash leaves them."""

    findings: tuple[Finding, ...]
    rows: int
    blobs: int
    leftovers: int
    chain: ChainReport


def verify(store: Store, public_key: Ed25519PublicKey, progress: Progress = lambda done, total: None) -> Verification:
    """Check every row against the others and re-hash every blob that a row refers to."""
    with snapshot(store.engine) as connection:
        contents = Contents(connection)
        chain = audit.verify(connection)
        referenced = referenced_blobs(connection)
        rows = sum(_count(connection, table) for table in schema.metadata.sorted_tables)
        findings = [
            *_references(connection),
            *_revisions(contents),
            *_seats(contents),
            *_strata(contents),
            *_counts(contents),
            *_tallies(connection, contents),
            *_disputes(contents),
            *_adjudications(contents, public_key),
            *_edits(contents),
            *_entries(connection, contents),
        ]
    if chain.broken is not None:
        findings.append(Finding(words=f"the audit chain is broken: {chain.reason}"))
    findings += _damage(store.blobs, referenced, progress)
    leftovers = sum(digest not in referenced for digest in store.blobs)
    return Verification(findings=tuple(findings), rows=rows, blobs=len(referenced), leftovers=leftovers, chain=chain)


def repair(store: Store) -> None:
    """Count every case's reads, outcome and severity, its seats' ranks, and the tallies anew; no read is touched.

    A dispute that does not fit its case is put where the case's reads and decisions put it.
    """
    for protocol in store.protocols():
        with store.writing() as connection:
            lock_worklist(connection, protocol.name)
            cases, seats = schema.cases, schema.seats
            rank = sa.select(cases.c.rank).where(cases.c.id == seats.c.case).scalar_subquery()
            drifted = sa.and_(seats.c.protocol == protocol.name, seats.c.rank != rank)
            connection.execute(sa.update(seats).where(drifted).values(rank=rank))
            # Seats before cases, as a save locks them: each may wait for the other, never both.
            mine = cases.c.protocol == protocol.name
            connection.execute(sa.select(cases.c.id).where(mine).order_by(cases.c.id).with_for_update(key_share=True))
            contents = Contents(connection)
            for case in contents.cases.values():
                if case.protocol == protocol.name:
                    _repair_case(connection, contents, case)
            tallies.recount(connection, protocol.name, contents.since_version[protocol.name])


def _repair_case(connection: sa.Connection, contents: Contents, case: Any) -> None:
    table, should = schema.cases, expected(contents, case)
    outcome, severity = should.outcome, should.severity
    if _awaits(case, should):
        outcome, severity = Outcome.UNJUDGED, case.severity
    if (case.reads, case.outcome, case.severity) != (should.reads, outcome, severity):
        values = {"reads": should.reads, "outcome": outcome, "severity": severity}
        connection.execute(sa.update(table).where(table.c.id == case.id).values(values))
    dispute_states.mend(connection, case, outcome, now())


def _awaits(case: Any, should: Expected) -> bool:
    """Whether a case's verdict is kept and what follows from it is not yet moved, as a crash leaves it."""
    return bool(case.outcome == Outcome.UNJUDGED and should.outcome is not Outcome.SETTLED and should.judged)


def _count(connection: sa.Connection, table: sa.Table) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def _references(connection: sa.Connection) -> Iterator[Finding]:
    """Every foreign key, also of a database that was filled while they were off."""
    for table in schema.metadata.sorted_tables:
        for key in table.foreign_keys:
            there = sa.exists().where(key.column == key.parent)
            query = sa.select(sa.func.count()).select_from(table).where(key.parent.isnot(None), ~there)
            if missing := connection.execute(query).scalar_one():
                words = f"{missing} row(s) of {table.name} name in {key.parent.name} what {key.column.table.name} lacks"
                yield Finding(words=words)


def _revisions(contents: Contents) -> Iterator[Finding]:
    revisions: dict[tuple[str, str, int], list[int]] = {}
    for read in contents.reads:
        revisions.setdefault((read.case, read.reader, read.protocol_version), []).append(read.revision)
    for (case, reader, version), found in revisions.items():
        if found != list(range(1, len(found) + 1)):
            shown = ", ".join(map(str, found[:8]))
            words = f"case {case}: the revisions of reader {reader} under version {version} are {shown}, not 1 and on"
            yield Finding(words=words)


def _seats(contents: Contents) -> Iterator[Finding]:
    """A seat is free, claimed by a reader with a lease, or read by whoever has a read that counts."""
    for seat in contents.seats:
        where = f"case {seat.case}, seat {seat.place}"
        case = contents.cases.get(seat.case)
        if case is None:
            continue  # a reference that is told of already
        if (seat.state == SeatState.FREE) != (seat.reader is None):
            yield Finding(words=f"{where}: {seat.state}, and its reader is {seat.reader}")
        if seat.state == SeatState.CLAIMED and seat.lease_until is None:
            yield Finding(words=f"{where}: claimed without an end of its lease")
        if seat.protocol != case.protocol:
            yield Finding(words=f"{where}: of protocol {seat.protocol}, its case of {case.protocol}")
        if seat.rank != case.rank:
            yield Finding(words=f"{where}: rank {seat.rank:g}, its case's is {case.rank:g}", cache=True)
        if seat.since_version == contents.since_version.get(case.protocol):
            counts = (seat.case, seat.reader) in contents.latest
            if (seat.state == SeatState.READ) != counts:
                known = "has a read that counts" if counts else "has no read that counts"
                yield Finding(words=f"{where}: {seat.state}, but reader {seat.reader} {known}")
    seated = {(seat.case, seat.reader) for seat in contents.seats}
    for case_id, reader in sorted(contents.latest.keys() - seated):
        yield Finding(words=f"case {case_id}: reader {reader} has a read that counts and no seat")


def _strata(contents: Contents) -> Iterator[Finding]:
    for case in contents.cases.values():
        try:
            Strata.from_json(case.strata)
        except StrataError as error:
            yield Finding(words=f"case {case.id}: {error}")


def _counts(contents: Contents) -> Iterator[Finding]:
    for case in contents.cases.values():
        if case.protocol not in contents.protocols:
            yield Finding(words=f"case {case.id}: its protocol {case.protocol} is not there")
            continue
        should = expected(contents, case)
        if case.reads != should.reads:
            yield Finding(words=f"case {case.id}: counts {case.reads} read(s), has {should.reads}", cache=True)
        awaits = _awaits(case, should)
        if case.outcome != should.outcome and not awaits:
            yield Finding(words=f"case {case.id}: said to be {case.outcome}, is {should.outcome}", cache=True)
        elif case.severity != should.severity and not awaits:
            words = f"case {case.id}: severity {case.severity:g}, its verdict's is {should.severity:g}"
            yield Finding(words=words, cache=True)


def _tallies(connection: sa.Connection, contents: Contents) -> Iterator[Finding]:
    table = schema.tallies
    for name, since_version in contents.since_version.items():
        rows = connection.execute(sa.select(table).where(table.c.protocol == name, table.c.total != 0))
        kept = {(row.kind, row.reader): row.total for row in rows}
        counted = tallies.counted(connection, name, since_version)
        for kind, reader in sorted(kept.keys() | counted.keys(), key=str):
            found, should = kept.get((kind, reader), 0), counted.get((kind, reader), 0)
            if found != should:
                of = f" of reader {reader}" if reader else ""
                yield Finding(words=f"{name}: the tally of {kind}{of} is {found}, counted {should}", cache=True)


def _disputes(contents: Contents) -> Iterator[Finding]:
    """A dispute stands as its case's reads and decisions put it, in a round no decision is beyond."""
    rounds: dict[str, int] = {}
    for row in contents.adjudications:
        rounds[row.case] = max(row.round, rounds.get(row.case, 0))
    for case in contents.cases.values():
        if case.protocol not in contents.protocols:
            continue  # told of already
        row, should = contents.disputes.get(case.id), expected(contents, case)
        outcome = Outcome.UNJUDGED if _awaits(case, should) else should.outcome
        state = DisputeState(row.state) if row is not None else None
        if not dispute_states.fits(outcome, state):
            yield Finding(words=f"case {case.id}: {outcome}, and its dispute is {state or 'missing'}", cache=True)
        if row is not None and (state is DisputeState.CLAIMED) != (row.holder is not None):
            yield Finding(words=f"case {case.id}: its dispute is {state}, and its holder is {row.holder}")
        if row is not None and row.round < rounds.get(case.id, 0):
            words = f"case {case.id}: its dispute is in round {row.round}, decided in round {rounds[case.id]}"
            yield Finding(words=words)


def _adjudications(contents: Contents, public_key: Ed25519PublicKey) -> Iterator[Finding]:
    known = {read.id: read for read in contents.reads}
    for row in contents.adjudications:
        where = f"adjudication {row.id} of case {row.case}"
        decision = adjudication_of_row(dict(row._mapping))
        if not signature_holds(decision, public_key):
            yield Finding(words=f"{where}: the signature is not over what stands there, or by another key")
        reads = [known[number] for number in decision.reads if number in known]
        if len(reads) < len(decision.reads) or any(read.case != row.case for read in reads):
            yield Finding(words=f"{where}: decides between reads that are not there or of another case")
            continue
        reader = reader_taken(decision)
        if reader is not None and row.label not in {read.label for read in reads if read.reader == reader}:
            yield Finding(words=f"{where}: its label is not that of the reader it chose")


def _edits(contents: Contents) -> Iterator[Finding]:
    revisions: dict[tuple[str, str, int], list[int]] = {}
    for edit in contents.edits:
        revisions.setdefault((edit.case, edit.adjudicator, edit.round), []).append(edit.revision)
    for (case, adjudicator, _), found in revisions.items():
        if found != list(range(len(found))):
            shown = ", ".join(map(str, found[:8]))
            yield Finding(words=f"case {case}: the edits of adjudicator {adjudicator} are {shown}, not 0 and on")


def _entries(connection: sa.Connection, contents: Contents) -> Iterator[Finding]:
    """Each read, withdrawal, decision, reopening and edit has its entry in the chain, which tells of no other."""
    told, begun = contents.told(connection)
    by_id = {read.id: read for read in contents.reads}
    done: Counter[tuple[Any, ...]] = Counter()
    older: set[tuple[Any, ...]] = set()
    for read in contents.reads:
        key = ("read", read.case, read.reader, read.protocol_version, read.revision, read.label)
        done[key] += 1
        if begun is None or read.created < begun:  # saved before there was a chain, or adopted with its own date
            older.add(key)
    for row in contents.withdrawals:
        read = by_id.get(row.read)
        if read is not None:
            done["withdrawal", read.case, read.reader, read.revision] += 1
    for row in contents.adjudications:
        done["adjudication", row.case, row.reads, row.label, row.signature] += 1
        if begun is None or row.created < begun:
            older.add(("adjudication", row.case, row.reads, row.label, row.signature))
    for row in contents.reopenings:
        done["reopening", row.case, row.round] += 1
    for row in contents.edits:
        done["edit", row.case, row.adjudicator, row.round, row.revision, row.label] += 1
    for key in sorted((done - told).keys() - older, key=str):
        yield Finding(words=f"{key[0]} of case {key[1]} ({_shown(key)}) has no entry in the audit chain")
    for key in sorted((told - done).keys(), key=str):
        yield Finding(words=f"the audit chain tells of {_A[key[0]]} of case {key[1]} ({_shown(key)}) that is not there")


def _shown(key: tuple[Any, ...]) -> str:
    return ", ".join(str(part)[:12] for part in key[2:])


def _damage(blobs: Blobs, digests: Iterable[str], progress: Progress) -> Iterator[Finding]:
    ordered = sorted(digests)
    for number, digest in enumerate(ordered):
        try:
            blobs.get(digest)
        except FileNotFoundError:
            yield Finding(words=f"blob {digest} is missing; restore it from a backup")
        except DamagedBlobError as error:
            yield Finding(words=str(error))
        progress(number + 1, len(ordered))
