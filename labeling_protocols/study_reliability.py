"""How reliably readers read over many cases: volumes and answers in, numbers by structure and question out.

Pure functions of what the store keeps beside each read; no label is read again.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from labeling_protocols.label import Answer
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import ChoiceQuestion, IntegerQuestion, Question, TextQuestion
from labeling_protocols.records import Verdict
from labeling_protocols.reliability import (
    BlandAltman,
    Icc,
    Level,
    bland_altman,
    fleiss_kappa,
    free_marginal_kappa,
    icc,
    krippendorff_alpha,
    observed_agreement,
    table_of,
)


@dataclass(frozen=True, kw_only=True)
class CaseReads:
    """What is kept of a case's newest reads: by reader, millilitres by structure and answers by question.

    `verdict` is the one over these reads, where it is known.
    """

    case: str
    volumes_ml: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    answers: Mapping[str, Mapping[str, Answer]] = field(default_factory=dict)
    verdict: Verdict | None = None


@dataclass(frozen=True, kw_only=True)
class PairReliability:
    """Volumes of one structure by two readers, over the cases that both read; differences are a's less b's, in ml."""

    reader_a: str
    reader_b: str
    cases: int
    icc: Icc | None
    bland_altman: BlandAltman | None


@dataclass(frozen=True, kw_only=True)
class VolumeReliability:
    """Volumes of one structure.

    `icc` is over `cases`, those that the same `readers` read: the readers who have the most cases in common, because
    ICC(2,1) and ICC(3,1) ask every reader to measure every case. `pairs` take each case that two readers share.
    """

    structure: str
    readers: tuple[str, ...]
    cases: int
    icc: Icc | None
    pairs: tuple[PairReliability, ...]


@dataclass(frozen=True, kw_only=True)
class AnswerReliability:
    """Answers to one question over the cases that at least two readers answered; a question left open is missing.

    `fleiss_kappa` needs as many answers of every case, and is over the cases with the number that occurs most.
    """

    question: str
    cases: int
    answers: int
    agreement: float | None
    krippendorff_alpha: float | None
    fleiss_kappa: float | None
    free_marginal_kappa: float | None


@dataclass(frozen=True, kw_only=True)
class LesionReliability:
    """The lesions of one structure over the cases with a verdict: `lesions` in all, and those `found_by_all` readers.

    `free_marginal_kappa` is of whether each lesion that anybody found is there. `f1` pools all pairs of readers: twice
    the lesions that two have in common, among all of theirs; None where nobody found any.
    """

    structure: str
    cases: int
    lesions: int
    found_by_all: int
    free_marginal_kappa: float | None
    f1: float | None


@dataclass(frozen=True, kw_only=True)
class StudyReliability:
    """All structures, those with volumes apart, and all questions but remarks, in the protocol's order."""

    volumes: tuple[VolumeReliability, ...]
    answers: tuple[AnswerReliability, ...]
    lesions: tuple[LesionReliability, ...]


def study_reliability(protocol: Protocol, cases: Sequence[CaseReads]) -> StudyReliability:
    """How reliably these cases were read; their order and that of the readers do not matter."""
    ordered = sorted(cases, key=lambda reads: reads.case)
    return StudyReliability(
        volumes=tuple(_volumes(structure.name, ordered) for structure in protocol.outlined),
        answers=tuple(
            _answers(question, ordered) for question in protocol.questions if not isinstance(question, TextQuestion)
        ),
        lesions=tuple(_lesions(structure.name, ordered) for structure in protocol.structures),
    )


def _volumes(structure: str, cases: Sequence[CaseReads]) -> VolumeReliability:
    by_case = [
        {reader: volumes[structure] for reader, volumes in reads.volumes_ml.items() if structure in volumes}
        for reads in cases
    ]
    readers = _crossed(by_case)
    rows = [[of_case[reader] for reader in readers] for of_case in by_case if readers and {*readers} <= {*of_case}]
    everyone = sorted({reader for of_case in by_case for reader in of_case})
    pairs = (_pair(by_case, a, b) for a, b in combinations(everyone, 2))
    return VolumeReliability(
        structure=structure,
        readers=readers,
        cases=len(rows),
        icc=icc(np.array(rows)) if rows else None,
        pairs=tuple(pair for pair in pairs if pair.cases),
    )


def _lesions(structure: str, cases: Sequence[CaseReads]) -> LesionReliability:
    found, readers = [], []  # of each lesion: how many found it, of how many
    verdicts = [reads.verdict for reads in cases if reads.verdict is not None]
    for verdict in verdicts:
        everyone = {reader for pair in verdict.pairs for reader in (pair.reader_a, pair.reader_b)}
        shown = [len(lesion.found_by) for lesion in verdict.lesions if lesion.structure == structure]
        found += shown
        readers += [len(everyone)] * len(shown)
    table = np.array([found, np.subtract(readers, found)], np.int64).T
    in_pairs = sum(by * (of - 1) for by, of in zip(found, readers, strict=True))
    return LesionReliability(
        structure=structure,
        cases=len(verdicts),
        lesions=len(found),
        found_by_all=sum(by == of for by, of in zip(found, readers, strict=True)),
        free_marginal_kappa=free_marginal_kappa(table),
        f1=sum(by * (by - 1) for by in found) / in_pairs if in_pairs else None,
    )


def _crossed(by_case: Sequence[Mapping[str, float]]) -> tuple[str, ...]:
    """The readers of one case who together have the most readings of cases that all of them read."""
    sets = sorted({tuple(sorted(of_case)) for of_case in by_case if len(of_case) > 1})
    measured = {readers: len(readers) * sum({*readers} <= {*of_case} for of_case in by_case) for readers in sets}
    return max(sets, key=lambda readers: (measured[readers], len(readers)), default=())


def _pair(by_case: Sequence[Mapping[str, float]], a: str, b: str) -> PairReliability:
    both = np.array([(of_case[a], of_case[b]) for of_case in by_case if a in of_case and b in of_case]).reshape(-1, 2)
    return PairReliability(
        reader_a=a, reader_b=b, cases=len(both), icc=icc(both), bland_altman=bland_altman(both[:, 0], both[:, 1])
    )


def _answers(question: Question, cases: Sequence[CaseReads]) -> AnswerReliability:
    given = [
        [answers[question.name] for answers in reads.answers.values() if question.name in answers] for reads in cases
    ]
    given = [answers for answers in given if len(answers) > 1]
    by_number: dict[int, list[list[Answer]]] = defaultdict(list)
    for answers in given:
        by_number[len(answers)].append(answers)
    commonest = max(by_number, key=lambda number: (len(by_number[number]), number), default=0)
    categories = sorted({answer for answers in given for answer in answers})
    table = table_of(given, categories)
    level = Level.ORDINAL if isinstance(question, IntegerQuestion) else Level.NOMINAL
    return AnswerReliability(
        question=question.name,
        cases=len(given),
        answers=sum(map(len, given)),
        agreement=observed_agreement(table),
        krippendorff_alpha=krippendorff_alpha(table, level=level),
        fleiss_kappa=fleiss_kappa(table_of(by_number[commonest], categories)) if commonest else None,
        free_marginal_kappa=free_marginal_kappa(table, categories=_choices(question)),
    )


def _choices(question: Question) -> int:
    """How many answers there are to choose from."""
    if isinstance(question, IntegerQuestion):
        return question.max - question.min + 1
    return len(question.options) if isinstance(question, ChoiceQuestion) else 2
