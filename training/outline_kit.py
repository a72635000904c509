"""The pipeline's side of outlines: segmentation, and the interactive variant, scored without a click."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure as Picture
from torch import Tensor

from labeling_protocols.channels import Images, channels_of
from labeling_protocols.geometry import Volume
from labeling_protocols.protocol import Protocol
from labeling_protocols.store import Store
from training import pictures
from training.curve_pictures import reliability_diagram
from training.evaluation import Evaluation, evaluate, surface_tolerances_mm
from training.human_ceiling import human_ceiling
from training.interactive_inference import Interactor, interactive_config
from training.plan import ModelTask, Plan
from training.report import EvaluationReport, Figure
from training.segmentation_inference import Segmenter, segmentation_config
from training.segmentation_report import segmentation_report
from training.snapshot import SnapshotCase
from training.task_kit import Config, KnownCase, TestCase


@dataclass(frozen=True, kw_only=True)
class OutlineKit:
    """Models whose answer is a label."""

    task: ModelTask

    def config(self, plan: Plan, members: int, validated: str = "") -> Config:
        config_of = interactive_config if self.task is ModelTask.INTERACTIVE else segmentation_config
        return config_of(plan, members)

    def model(
        self, config: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device
    ) -> Segmenter | Interactor:
        kind = Interactor if self.task is ModelTask.INTERACTIVE else Segmenter
        return kind(config, weights, device)

    def score(self, model: Segmenter | Interactor, cases: Iterable[TestCase], plan: Plan, protocol: Protocol) -> str:
        """Dice, surfaces and volumes by structure; of a segmentation also how its probabilities are calibrated."""
        found = evaluate(
            _drawn_by(model),
            ((one.case, one.images(plan), one.label) for one in cases),
            protocol.values,
            tolerance_mm=surface_tolerances_mm(protocol),
            probabilities=(lambda image: model.probabilities(image, list(plan.targets)))
            if isinstance(model, Segmenter)
            else None,
        )
        return found.as_json()

    def pooled(self, scores: Sequence[str]) -> str:
        found = [Evaluation.from_json(text) for text in scores]
        return Evaluation(
            scores=tuple(score for one in found for score in one.scores),
            tolerance_mm=found[0].tolerance_mm,
            calibration={case: sums for one in found for case, sums in one.calibration.items()},
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
        return segmentation_report(
            Evaluation.from_json(scores),
            cases,
            model=model,
            test_set=test_set,
            champion=(champion[0], Evaluation.from_json(champion[1])) if champion else None,
            human=human,
            task=self.task,
        )

    def human(self, store: Store, protocol: Protocol, plan: Plan, cases: Sequence[SnapshotCase]) -> tuple[Figure, ...]:
        return human_ceiling(store, protocol, cases)

    def pictures(
        self, model: Segmenter | Interactor, protocol: Protocol, shown: Iterable[tuple[str, TestCase, float]]
    ) -> Iterator[tuple[str, Picture]]:
        for rank, one, value in shown:
            title = f"{rank} case, mean Dice {value:.3f}"
            truth, predicted = one.label.volume(), _drawn_by(model)(one.every)
            yield rank, pictures.overlay(protocol, title, one.image, truth, predicted)

    def charts(self, scores: str) -> Iterator[tuple[str, Picture]]:
        sums = Evaluation.from_json(scores).reliability()
        if sums:
            yield "reliability", reliability_diagram(sums)


def _drawn_by(model: Segmenter | Interactor) -> Callable[[Images], Volume]:
    """What a model draws; only a segmentation is shown several channels."""
    if isinstance(model, Segmenter):
        return lambda images: model.predict(images)
    return lambda images: model.predict(channels_of(images)[0])
