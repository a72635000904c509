"""A reader's own read beside the truth: a reader and an unblinded case in, what came to count and why out.

Nobody else's read is in it, nor who decided, nor when.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.blinding import lifted
from labeling_protocols.comparisons import comparisons
from labeling_protocols.label import Answer, Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Case, PairAgreement, Read, Settled
from labeling_protocols.settlement import truth
from labeling_protocols.store import Store


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """`pairs` compare the read (first) with the truth (second), a structure each.

    `rationales` are the adjudicators', none for a consensus; `decided_over` are the account ids of the readers whose
    reads the decision was over, and `saved_since` whether the reader saved anew after it.
    """

    case: Case
    protocol: Protocol
    read: Read
    mine: Label
    truth: Label
    settled: Settled
    pairs: tuple[PairAgreement, ...]
    rationales: tuple[str, ...]
    decided_over: tuple[str, ...]
    saved_since: bool

    @property
    def answers(self) -> list[tuple[str, Answer | None, Answer | None]]:
        """Each question that either answered: its title, the reader's answer, the truth's."""
        return [
            (question.title, self.mine.answers.get(question.name), self.truth.answers.get(question.name))
            for question in self.protocol.questions
            if question.name in self.mine.answers or question.name in self.truth.answers
        ]


def feedback(store: Store, reader: str, case_id: str) -> Feedback | None:
    """None where the case is not unblinded for this reader, or is none: whoever asks is told the same."""
    if not lifted(store, reader, case_id):
        return None
    found = truth(store, case_id)
    compared = comparisons(store, store.case(case_id).protocol, cases=[case_id], reader=reader, at_most=1).found
    if found is None or not compared:
        return None  # opened again, or saved anew, in this moment
    read = next(read for read in store.reads(case_id, reader) if read.id == compared[0].of.read)
    rationales, decided_over = _decision(store, found.adjudication)
    return Feedback(
        case=found.case,
        protocol=store.protocol(found.case.protocol),
        read=read,
        mine=store.label(read.label),
        truth=store.label(compared[0].of.truth),
        settled=found.settled,
        pairs=compared[0].pairs,
        rationales=rationales,
        decided_over=decided_over,
        saved_since=found.adjudication is not None and read.id not in found.reads,
    )


def _decision(store: Store, adjudication: int | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The rationales of all who decided in the same round, and the readers it was over."""
    if adjudication is None:
        return (), ()
    table, reads = schema.adjudications, schema.reads
    with store.engine.connect() as connection:
        settling = connection.execute(sa.select(table).where(table.c.id == adjudication)).one()
        same_round = (table.c.case == settling.case, table.c.round == settling.round)
        rationales = connection.execute(sa.select(table.c.rationale).where(*same_round).order_by(table.c.id)).scalars()
        ids = [int(number) for number in settling.reads.split(",")]
        readers = connection.execute(sa.select(reads.c.reader).where(reads.c.id.in_(ids))).scalars()
        return tuple(rationales), tuple(sorted(set(readers)))
