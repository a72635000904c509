"""The pipeline's side of a classification: answers scored against the truth's, readers among each other, and charts."""

import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from matplotlib.figure import Figure as Picture
from torch import Tensor

from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import IntegerQuestion
from labeling_protocols.store import Store
from training import classification_pictures
from training.classification import target_of, word_of
from training.classification_evaluation import Answers, classification_report
from training.classification_inference import Classifier, classification_config
from training.human_ceiling import READERS_MIN, ReadersAgreement, ceiling_of
from training.plan import Plan
from training.report import EvaluationReport, Figure
from training.snapshot import SnapshotCase
from training.task_kit import Config, KnownCase, TestCase


class ClassificationKit:
    """Models whose answer is a probability of each option."""

    def config(self, plan: Plan, members: int, validated: str = "") -> Config:
        return classification_config(plan, members)

    def model(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device) -> Classifier:
        return Classifier(config, weights, device)

    def score(self, model: Classifier, cases: Iterable[TestCase], plan: Plan, protocol: Protocol) -> str:
        """The probabilities beside the truth; cases whose truth has no answer are left out and counted."""
        answers, unanswered = {}, 0
        for one in cases:
            target = target_of(plan, one.label.answers)
            if target is None:
                unanswered += 1
            else:
                answers[one.case] = (plan.targets[target], model.predict(one.image))
        return Answers(question=plan.question, options=plan.targets, of=answers, unanswered=unanswered).as_json()

    def pooled(self, scores: Sequence[str]) -> str:
        found = [Answers.from_json(text) for text in scores]
        return replace(
            found[0],
            of={case: answer for one in found for case, answer in one.of.items()},
            unanswered=sum(one.unanswered for one in found),
        ).as_json()

    def report(
        self,
        scores: str,
        cases: Sequence[KnownCase],
        *,
        plan: Plan,
        protocol: Protocol,
        model: str,
        test_set: str,
        champion: tuple[str, str] | None = None,
        human: Sequence[Figure] = (),
    ) -> EvaluationReport:
        return classification_report(
            Answers.from_json(scores),
            cases,
            ordinal=any(q.name == plan.question and isinstance(q, IntegerQuestion) for q in protocol.questions),
            model=model,
            test_set=test_set,
            champion=(champion[0], Answers.from_json(champion[1])) if champion else None,
            human=human,
        )

    def human(self, store: Store, protocol: Protocol, plan: Plan, cases: Sequence[SnapshotCase]) -> tuple[Figure, ...]:
        """How often two readers of a case answer alike ("accuracy")."""
        return readers_accuracy(store, plan.question, cases)

    def pictures(
        self, model: Classifier, protocol: Protocol, shown: Iterable[tuple[str, TestCase, float]]
    ) -> Iterator[tuple[str, Picture]]:
        for rank, one, _ in shown:
            truth = word_of(one.label.answers.get(model.question))
            yield (
                rank,
                classification_pictures.answered(one.image, f"{rank} case", truth, model.predict(one.image)),
            )

    def charts(self, scores: str) -> Iterator[tuple[str, Picture]]:
        yield from classification_pictures.charts(Answers.from_json(scores))


def readers_accuracy(store: Store, question: str, cases: Iterable[SnapshotCase]) -> tuple[Figure, ...]:
    """The mean share of pairs of a case's readers who gave the same answer; nothing where no case has two answers."""
    found = []
    for one in cases:
        labels = [store.label(read.label) for read in store.reads(one.case) if read.id in one.reads]
        given = [label.answers[question] for label in labels if question in label.answers]
        if len(given) >= READERS_MIN:
            alike = statistics.fmean(a == b for a, b in itertools.combinations(given, 2))
            found.append(
                ReadersAgreement(
                    case=one.case,
                    patient=one.patient,
                    strata=one.strata,
                    readers=len(given),
                    values={"accuracy": alike},
                )
            )
    return ceiling_of(found)
