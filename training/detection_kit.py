"""The pipeline's side of a detection: findings scored against the truth's boxes, readers among each other, charts."""

import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure as Picture
from torch import Tensor

from labeling_protocols.findings import compared, sameness
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol, Task
from labeling_protocols.store import Store
from training import detection_pictures
from training.detection_boxes import true_boxes
from training.detection_evaluation import (
    DetectionScores,
    choose_operating_point,
    detection_report,
    hit_of,
    score_findings,
)
from training.detection_inference import Detector, detection_config
from training.detection_network import OPERATING_POINT
from training.human_ceiling import READERS_MIN, ReadersAgreement, ceiling_of
from training.plan import Plan
from training.report import EvaluationReport, Figure
from training.snapshot import SnapshotCase
from training.task_kit import Config, KnownCase, TestCase


class DetectionKit:
    """Models whose answer are boxes with scores."""

    def config(self, plan: Plan, members: int, validated: str = "") -> Config:
        """At one false positive a study where a cross-validation tells which score that is."""
        point = choose_operating_point(DetectionScores.from_json(validated)) if validated else OPERATING_POINT
        return detection_config(plan, members, point)

    def model(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device) -> Detector:
        return Detector(config, weights, device)

    def score(self, model: Detector, cases: Iterable[TestCase], plan: Plan, protocol: Protocol) -> str:
        """What is found of the plan's targets; what is the same finding is as the protocol says."""
        values = dict(zip(plan.targets, plan.values, strict=True))
        hits = {name: hit_of(protocol.agreement[name]) for name in plan.targets}
        found = {
            one.case: score_findings(
                model.predict(one.image), one.label, values, hits, operating_point=model.operating_point
            )
            for one in cases
        }
        return DetectionScores(cases=found).as_json()

    def pooled(self, scores: Sequence[str]) -> str:
        found = [DetectionScores.from_json(text) for text in scores]
        return DetectionScores(cases={case: of for one in found for case, of in one.cases.items()}).as_json()

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
        return detection_report(
            DetectionScores.from_json(scores),
            cases,
            model=model,
            test_set=test_set,
            champion=(champion[0], DetectionScores.from_json(champion[1])) if champion else None,
            human=human,
            notes=[f"{name}: {_words(protocol, name)}" for name in plan.targets],
        )

    def human(self, store: Store, protocol: Protocol, plan: Plan, cases: Sequence[SnapshotCase]) -> tuple[Figure, ...]:
        """How many of a reader's findings another reader of the case has ("sensitivity"), over pairs of readers."""
        return readers_sensitivity(store, protocol, cases)

    def pictures(
        self, model: Detector, protocol: Protocol, shown: Iterable[tuple[str, TestCase, float]]
    ) -> Iterator[tuple[str, Picture]]:
        values = {structure.name: structure.value for structure in protocol.structures}
        for rank, one, value in shown:
            title = f"{rank} case, FROC score {value:.3f}"
            true = true_boxes(one.label, {name: values[name] for name in model.structures})
            yield rank, detection_pictures.boxed(one.image, title, true, model.report(one.image))

    def charts(self, scores: str) -> Iterator[tuple[str, Picture]]:
        yield from detection_pictures.charts(DetectionScores.from_json(scores))


def readers_sensitivity(store: Store, protocol: Protocol, cases: Iterable[SnapshotCase]) -> tuple[Figure, ...]:
    """The mean share of one reader's findings that another has, both ways, over pairs of a case's readers.

    Nothing where no case of two readers or more has a finding, or the protocol boxes nothing.
    """
    found = []
    for one in cases:
        labels = [store.label(read.label) for read in store.reads(one.case) if read.id in one.reads]
        pairs = itertools.permutations(labels, 2)
        shares = [share for a, b in pairs if (share := _share_found(protocol, a, b)) is not None]
        if len(labels) >= READERS_MIN and shares:
            found.append(
                ReadersAgreement(
                    case=one.case,
                    patient=one.patient,
                    strata=one.strata,
                    readers=len(labels),
                    values={"sensitivity": statistics.fmean(shares)},
                )
            )
    return ceiling_of(found)


def _share_found(protocol: Protocol, a: Label, b: Label) -> float | None:
    """The share of one reader's findings, of all boxed structures, that another reader has; None where he has none."""
    total, matched = 0, 0
    for structure in protocol.structures:
        if Task.BOXES in structure.tasks:
            same = sameness(protocol.agreement[structure.name], a.geometry)
            ours, theirs = (true_boxes(label, {structure.name: structure.value}) for label in (a, b))
            agreed = compared(ours, theirs, same)
            total, matched = total + agreed.a, matched + agreed.matched
    return matched / total if total else None


def _words(protocol: Protocol, structure: str) -> str:
    hit = hit_of(protocol.agreement[structure])
    if hit.iou_min is not None:
        return f"found where boxes share {hit.iou_min:g} of their union (IoU) or more"
    if hit.mm_max is not None:
        return f"found where centres lie {hit.mm_max:g} mm apart or less"
    return "found where the centre lies in the true box"
