"""What happened under a protocol, as rows for figures: a protocol in; times, disputes, counts and volumes out.

Each is one query or two, however many cases there are.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.label import Answer
from labeling_protocols.label_codec import decode_answers
from labeling_protocols.protocol_parts import TextQuestion
from labeling_protocols.records import Outcome, SeatState
from labeling_protocols.store import Store
from labeling_protocols.study_reliability import CaseReads

_cases, _reads, _seats = schema.cases, schema.reads, schema.seats
_MAJORITY = "majority"  # the one consensus that a decision could take before it had parts


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What one reader spent on one case, over all revisions; `saved` is when he saved last."""

    reader: str
    case: str
    seconds: float
    saved: datetime


class Taken(StrEnum):
    """What a decision took."""

    READER = "a reader's outline"
    CONSENSUS = "a consensus"
    EDIT = "the adjudicator's edit"
    NOTHING = "nothing there"
    SEVERAL = "parts of several"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A decision that settled a dispute; `readers` are those whose work it took all or a part of."""

    case: str
    at: datetime
    taken: Taken
    readers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SourceCount:
    """Ordinary cases of one modality that came as DICOM series, or as volume files, by how far they are."""

    modality: str
    dicom: bool
    cases: int
    reads: int
    outcomes: Mapping[Outcome, int]

    @property
    def truths(self) -> int:
        return self.outcomes.get(Outcome.AGREED, 0) + self.outcomes.get(Outcome.SETTLED, 0)


@dataclass(frozen=True, kw_only=True)
class GroupCount:
    """Seats kept for one group of readers; `group` is empty for seats that any reader may take."""

    group: str
    seats: int
    read: int
    claimed: int


@dataclass(frozen=True, kw_only=True)
class ReaderCount:
    """One reader's work; `saved` is when he saved last."""

    reader: str
    read: int
    claimed: int
    saved: datetime | None


@dataclass(frozen=True, kw_only=True)
class CommonVolumes:
    """Cases with the volumes and answers of their newest reads; `unanswered` cases are left out of the answers."""

    cases: tuple[CaseReads, ...]
    unanswered: int


def times(store: Store, protocol_name: str) -> list[Spent]:
    """Seconds by reader and case, where they are known, oldest first."""
    saved = sa.func.max(_reads.c.created).label("saved")
    query = (
        sa.select(_reads.c.reader, _reads.c.case, sa.func.sum(_reads.c.seconds).label("seconds"), saved)
        .join(_cases, _cases.c.id == _reads.c.case)
        .where(_cases.c.protocol == protocol_name, _reads.c.seconds.isnot(None))
        .group_by(_reads.c.reader, _reads.c.case)
        .order_by(saved, _reads.c.reader)
    )
    with store.engine.connect() as connection:
        return [Spent(**row._mapping) for row in connection.execute(query)]


def first_reads(store: Store, protocol_name: str) -> list[datetime]:
    """When each reader first saved each ordinary case, oldest first."""
    saved = sa.func.min(_reads.c.created).label("saved")
    query = (
        sa.select(saved)
        .join(_cases, _cases.c.id == _reads.c.case)
        .where(_cases.c.protocol == protocol_name, _cases.c.known_truth.is_(None))
        .group_by(_reads.c.reader, _reads.c.case)
        .order_by(saved)
    )
    with store.engine.connect() as connection:
        return list(connection.execute(query).scalars())


def raised(store: Store, protocol_name: str) -> list[datetime]:
    """Since when each case that is or was in dispute has been, oldest first."""
    table = schema.disputes
    query = sa.select(table.c.since).where(table.c.protocol == protocol_name).order_by(table.c.since)
    with store.engine.connect() as connection:
        return list(connection.execute(query).scalars())


def decisions(store: Store, protocol_name: str) -> list[Decision]:
    """Every decision that settled a dispute, oldest first; one that was opened again later is still one."""
    table = schema.adjudications
    query = (
        sa.select(table.c.case, table.c.created, table.c.choice, table.c.parts)
        .join(_cases, _cases.c.id == table.c.case)
        .where(_cases.c.protocol == protocol_name, table.c.settles)
        .order_by(table.c.created, table.c.id)
    )
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
    return [_decision(row.case, row.created, row.choice, [part["source"] for part in row.parts or ()]) for row in rows]


def by_source(store: Store, protocol_name: str) -> list[SourceCount]:
    """Ordinary cases by modality and by where they came from: the store has no field for a site."""
    dicom = _cases.c.series.isnot(None).label("dicom")
    query = (
        sa.select(
            _cases.c.modality, dicom, _cases.c.outcome, sa.func.count().label("cases"), sa.func.sum(_cases.c.reads)
        )
        .where(_cases.c.protocol == protocol_name, _cases.c.known_truth.is_(None))
        .group_by(_cases.c.modality, dicom, _cases.c.outcome)
    )
    found: dict[tuple[str, bool], dict[Outcome, tuple[int, int]]] = defaultdict(dict)
    with store.engine.connect() as connection:
        for modality, from_dicom, outcome, cases, reads in connection.execute(query):
            found[modality, bool(from_dicom)][Outcome(outcome)] = (cases, int(reads))
    return [
        SourceCount(
            modality=modality,
            dicom=from_dicom,
            cases=sum(cases for cases, _ in counts.values()),
            reads=sum(reads for _, reads in counts.values()),
            outcomes={outcome: cases for outcome, (cases, _) in counts.items()},
        )
        for (modality, from_dicom), counts in sorted(found.items())
    ]


def by_group(store: Store, protocol_name: str) -> list[GroupCount]:
    """Seats of ordinary cases by the group they are kept for."""
    since_version = store.asked(protocol_name).since_version
    query = (
        sa.select(_seats.c.group, _seats.c.state, sa.func.count())
        .join(_cases, _cases.c.id == _seats.c.case)
        .where(
            _seats.c.protocol == protocol_name,
            _seats.c.since_version == since_version,
            _cases.c.known_truth.is_(None),
        )
        .group_by(_seats.c.group, _seats.c.state)
    )
    found: dict[str, dict[str, int]] = defaultdict(dict)
    with store.engine.connect() as connection:
        for group, state, count in connection.execute(query):
            found[group][state] = count
    return [
        GroupCount(
            group=group,
            seats=sum(counts.values()),
            read=counts.get(SeatState.READ, 0),
            claimed=counts.get(SeatState.CLAIMED, 0),
        )
        for group, counts in sorted(found.items())
    ]


def by_reader(store: Store, protocol_name: str) -> list[ReaderCount]:
    """Cases that each reader read and holds, calibration cases too, by reader."""
    since_version = store.asked(protocol_name).since_version
    seats = (
        sa.select(_seats.c.reader, _seats.c.state, sa.func.count())
        .where(
            _seats.c.protocol == protocol_name,
            _seats.c.since_version == since_version,
            _seats.c.reader.isnot(None),
        )
        .group_by(_seats.c.reader, _seats.c.state)
    )
    last = (
        sa.select(_reads.c.reader, sa.func.max(_reads.c.created))
        .join(_cases, _cases.c.id == _reads.c.case)
        .where(_cases.c.protocol == protocol_name)
        .group_by(_reads.c.reader)
    )
    found: dict[str, dict[str, int]] = defaultdict(dict)
    with store.engine.connect() as connection:
        saved = {reader: moment for reader, moment in connection.execute(last)}
        for reader, state, count in connection.execute(seats):
            found[reader][state] = count
    return [
        ReaderCount(
            reader=reader,
            read=found[reader].get(SeatState.READ, 0),
            claimed=found[reader].get(SeatState.CLAIMED, 0),
            saved=saved.get(reader),
        )
        for reader in sorted({*found, *saved})
    ]


def common_volumes(store: Store, protocol_name: str, *, at_most: int, answers_of: int) -> CommonVolumes:
    """Newest reads that count, of the `at_most` ordinary cases read last by two readers or more, newest first.

    Answers lie in each label's header: those of the `answers_of` newest cases are read.
    """
    asked = store.asked(protocol_name)
    newest = (
        sa.select(sa.func.max(_reads.c.id))
        .join(_cases, _cases.c.id == _reads.c.case)
        .where(
            _cases.c.protocol == protocol_name,
            _cases.c.known_truth.is_(None),
            _cases.c.reads > 1,
            _reads.c.protocol_version >= asked.since_version,
        )
        .group_by(_reads.c.case, _reads.c.reader)
    )
    taken_back = sa.select(schema.withdrawals.c.read)
    query = (
        sa.select(_reads.c.case, _reads.c.reader, _reads.c.label, _reads.c.volumes_ml)
        .where(_reads.c.id.in_(newest), _reads.c.id.not_in(taken_back))
        .order_by(_reads.c.id.desc())
    )
    volumes: dict[str, dict[str, Mapping[str, float]]] = defaultdict(dict)
    labels: dict[str, dict[str, str]] = defaultdict(dict)
    with store.engine.connect() as connection:
        for row in connection.execute(query):
            if len(volumes) == at_most and row.case not in volumes:
                continue
            volumes[row.case][row.reader] = row.volumes_ml
            labels[row.case][row.reader] = row.label
    asks = any(not isinstance(question, TextQuestion) for question in asked.protocol.questions)
    read = list(volumes)[: answers_of if asks else 0]
    answers: dict[str, dict[str, Mapping[str, Answer]]] = {
        case: {reader: decode_answers(store.blobs.get(digest)) for reader, digest in labels[case].items()}
        for case in read
    }
    cases = (CaseReads(case=case, volumes_ml=volumes[case], answers=answers.get(case, {})) for case in volumes)
    return CommonVolumes(cases=tuple(cases), unanswered=len(volumes) - len(read) if asks else 0)


def _decision(case: str, at: datetime, choice: str, sources: list[str]) -> Decision:
    """A decision from its parts, or from the one word it was before there were any."""
    if not sources:
        sources = [f"consensus:{choice}" if choice == _MAJORITY else f"reader:{choice}"]
    kinds = {"reader": Taken.READER, "consensus": Taken.CONSENSUS, "edit": Taken.EDIT, "none": Taken.NOTHING}
    taken = {kinds[source.partition(":")[0]] for source in sources}
    readers = sorted({source.partition(":")[2] for source in sources if source.startswith("reader:")})
    one = len(taken) == 1 and len(readers) < 2
    return Decision(case=case, at=at, taken=taken.pop() if one else Taken.SEVERAL, readers=tuple(readers))
