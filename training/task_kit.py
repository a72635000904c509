"""What the pipeline needs to know of a task: its model, how answers are scored, and what is told and shown of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from matplotlib.figure import Figure as Picture
from torch import Tensor

import labeling_protocols.protocol as protocols
from labeling_protocols.channels import ChannelsError, Images
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from labeling_protocols.store import Store
from labeling_protocols.strata import Strata
from training.plan import Plan
from training.report import EvaluationReport, Figure
from training.report import KnownCase as KnownCase  # of every kit
from training.snapshot import SnapshotCase

Config = dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class TestCase:
    """One case that a model has not learned from, with its truth."""

    __test__ = False  # no test, whatever pytest thinks of its name

    case: str
    patient: str
    strata: Strata
    image: Volume
    label: Label
    further: Mapping[str, Volume] = field(default_factory=dict)
    """The channels after the first, by name."""

    @property
    def every(self) -> Images:
        """The image, or all channels."""
        return (self.image, *self.further.values()) if self.further else self.image

    def images(self, plan: Plan) -> Images:
        """What a model of this plan is shown: the image, or it and the further channels that the plan names.

        Raises `ChannelsError` where the case lacks one.
        """
        further = plan.inputs[1:]
        if lacking := [name for name in further if name not in self.further]:
            raise ChannelsError(f"case {self.case} lacks channel {', '.join(lacking)}, which the model is shown")
        return (self.image, *(self.further[name] for name in further)) if further else self.image


class TaskKit(Protocol):
    """One task's side of the pipeline. Scores are JSON texts, which a job keeps."""

    def config(self, plan: Plan, members: int, validated: str = "") -> Config:
        """The bundle's `configs/inference.json` for so many networks that answer together.

        `validated` are the scores of a cross-validation, if there was one: an operating point is chosen on them.
        """

    def model(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device) -> Any:
        """What answers for an image; raises `BundleError` where the weights are not the network's."""

    def score(self, model: Any, cases: Iterable[TestCase], plan: Plan, protocol: protocols.Protocol) -> str:
        """The scores of a model's answers to these cases."""

    def pooled(self, scores: Sequence[str]) -> str:
        """Scores of different cases as one."""

    def report(
        self,
        scores: str,
        cases: Sequence[KnownCase],
        *,
        plan: Plan,
        protocol: protocols.Protocol,
        model: str,
        test_set: str,
        champion: tuple[str, str] | None = None,
        human: Sequence[Figure] = (),
    ) -> EvaluationReport:
        """The report of scores; `champion` is its name and its scores of the same cases."""

    def human(
        self, store: Store, protocol: protocols.Protocol, plan: Plan, cases: Sequence[SnapshotCase]
    ) -> tuple[Figure, ...]:
        """What readers reach among each other on these cases; nothing where the task has no such figure."""

    def pictures(
        self, model: Any, protocol: protocols.Protocol, shown: Iterable[tuple[str, TestCase, float]]
    ) -> Iterator[tuple[str, Picture]]:
        """Pictures by name: of each (rank, case, principal figure) the model's answer beside the truth."""

    def charts(self, scores: str) -> Iterator[tuple[str, Picture]]:
        """Charts by name that only this task has."""
