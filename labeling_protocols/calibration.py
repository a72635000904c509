"""How readers read cases whose truth is known: a protocol in, each reader's result on each calibration case out.

A result is a function of the read, the known truth and the protocol; it is worked out once and kept as a verdict over
that one read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.assessment import assess
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Case, Read, Verdict
from labeling_protocols.rows import case_of, verdict_of
from labeling_protocols.store import Store
from labeling_protocols.verdicts import keep_verdict, kept_verdict

KNOWN_TRUTH = "known truth"  # stands for a reader in a result's verdict


@dataclass(frozen=True, kw_only=True)
class Result:
    """One reader's newest read of one calibration case; the verdict's pairs are of the reader and the known truth."""

    case: str
    read: Read
    verdict: Verdict

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is beyond the limits, in words that name nobody."""
        names = {self.read.reader: "the reader", KNOWN_TRUTH: "the known truth"}
        return tuple(reason.said(names) for reason in self.verdict.reasons)


@dataclass(frozen=True, kw_only=True)
class Results:
    """Results by reader and case; `waiting` reads are not compared yet."""

    results: tuple[Result, ...]
    waiting: int


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One reader's results on one structure: `score` is the mean Dice, or F1 of boxes and points, and None without any.

    A structure that was left out or invented scores 0 and counts in `missed`.
    """

    structure: str
    score: float | None
    missed: int


def results(store: Store, protocol_name: str, reader: str | None = None, *, at_most: int | None = None) -> Results:
    """Every reader's results, or one's; of those not known yet, `at_most` so many are worked out now."""
    protocol = _with_limits(store.protocol(protocol_name))
    found, waiting = [], 0
    for case, read in list(_calibration_reads(store, protocol_name, reader)):
        verdict = _kept(store, protocol, read)
        if verdict is None and at_most != 0:
            verdict = _compare(store, protocol, case, read)
            at_most = None if at_most is None else at_most - 1
        if verdict is None:
            waiting += 1
        else:
            found.append(Result(case=case.id, read=read, verdict=verdict))
    found.sort(key=lambda result: (result.read.reader, result.case))
    return Results(results=tuple(found), waiting=waiting)


def standings(protocol: Protocol, found: tuple[Result, ...]) -> tuple[Standing, ...]:
    """One reader's results, structure by structure."""
    by_structure = []
    for structure in protocol.structures:
        pairs = [pair for result in found for pair in result.verdict.pairs if pair.structure == structure.name]
        scores = [score for pair in pairs if (score := pair.dice if pair.dice is not None else pair.f1) is not None]
        missed = sum(pair.missed for pair in pairs)
        mean = sum(scores) / len(scores) if scores else None
        by_structure.append(Standing(structure=structure.name, score=mean, missed=missed))
    return tuple(by_structure)


def _with_limits(protocol: Protocol) -> Protocol:
    """The protocol with what its calibration asks in place of what two readers' agreement asks."""
    limits = protocol.calibration.limits if protocol.calibration else None
    return protocol if limits is None else replace(protocol, agreement=limits)


def _calibration_reads(store: Store, protocol_name: str, reader: str | None) -> Iterator[tuple[Case, Read]]:
    table = schema.cases
    query = sa.select(table).where(table.c.protocol == protocol_name, table.c.known_truth.isnot(None))
    with store.engine.connect() as connection:
        cases = [case_of(row) for row in connection.execute(query)]
    for case in cases:
        for read in store.latest_reads(case.id):
            if reader in (None, read.reader):
                yield case, read


def _kept(store: Store, protocol: Protocol, read: Read) -> Verdict | None:
    row = kept_verdict(store, read.case, str(read.id), protocol.version)
    return None if row is None else verdict_of(row.verdict)


def _compare(store: Store, protocol: Protocol, case: Case, read: Read) -> Verdict:
    assert case.known_truth is not None  # noqa: S101  calibration cases alone come here
    verdict = assess(protocol, {read.reader: store.label(read.label), KNOWN_TRUTH: store.label(case.known_truth)})
    keep_verdict(store, case.id, str(read.id), protocol.version, verdict)
    return verdict
