"""What a training task brings to the loop: a plan in, its network, examples, loss and validation figures out.

The loop (`training/loop.py`) owns steps, seeds, gradients, checkpoints and cancelling, and is the same for every task.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from labeling_protocols.label import Label
from training.plan import Plan, Precision


class NothingToLearnError(ValueError):
    """A case whose truth says nothing that the plan's task asks for."""


class Learner(Protocol):
    """One task's half of a training."""

    def network(self) -> torch.nn.Module:
        """The untrained network, with the random weights of torch's current seed."""

    def prepare(self, case: str, image: Any, label: Label) -> Any:
        """One example of this task, tensors on the CPU, its case's id in `.case`; raises `NothingToLearnError`.

        `image` is a `Volume`, or for a segmentation the channels of a case.
        """

    def load(self, examples: Sequence[Any], device: torch.device) -> None:
        """Keep the training examples on the device."""

    def loss(self, network: torch.nn.Module, places: Sequence[int], seeds: Sequence[int]) -> Tensor:
        """Mean loss over one patch of each of these loaded examples.

        Everything random is drawn from generators of the examples' own seeds, so that it depends neither on threads nor
        on how many processes train together. Several threads may ask at once.
        """

    def figures(self, network: torch.nn.Module, example: Any) -> dict[str, float]:
        """What one validation example shows, by name; higher is better. The network is in evaluation mode."""


def autocast(plan: Plan, device: torch.device) -> torch.autocast:
    """The plan's precision; without the cache of converted weights on a CPU, which all threads would share."""
    return torch.autocast(
        device.type, torch.bfloat16, enabled=plan.precision is Precision.BF16, cache_enabled=device.type != "cpu"
    )
