"""Segmentation for the training loop: prepared labels in, Dice and cross-entropy loss, and Dice by structure, out."""

from collections.abc import Callable, Sequence

import torch
from monai.inferers import SlidingWindowInferer
from monai.losses import DiceCELoss
from torch import Tensor

from labeling_protocols.channels import Images
from labeling_protocols.label import Label
from training.data import Bank, Example, prepare_example
from training.learner import autocast
from training.networks import build_network
from training.plan import Plan


class SegmentationLearner:
    """Learns the plan's structures, which exclude each other, voxel by voxel."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._criterion = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
        self._window = SlidingWindowInferer(
            plan.patch_RAS, sw_batch_size=1, overlap=plan.window_overlap, mode="gaussian"
        )

    def network(self) -> torch.nn.Module:
        return build_network(self._plan)

    def prepare(self, case: str, image: Images, label: Label) -> Example:
        return prepare_example(self._plan, case, image, label.volume())

    def load(self, examples: Sequence[Example], device: torch.device) -> None:
        self._bank = Bank(self._plan, examples, device)

    def loss(self, network: torch.nn.Module, places: Sequence[int], seeds: Sequence[int]) -> Tensor:
        """Dice loss and cross-entropy; with deep supervision also of the coarser answers, each half as much."""
        image, label = self._bank.patches(places, seeds)
        with autocast(self._plan, image.device):
            scores = network(image.contiguous(memory_format=torch.channels_last_3d))
        return supervised(self._criterion, scores, label)

    @torch.inference_mode()
    def figures(self, network: torch.nn.Module, example: Example) -> dict[str, float]:
        """Dice by structure on the network's own grid; a structure that neither side has agrees."""
        device = next(network.parameters()).device
        with autocast(self._plan, device):
            chosen = self._window(example.image[None].to(device), network).argmax(dim=1)[0].cpu()
        return {
            f"dice/{name}": dice_of(chosen == channel, example.label == channel)
            for channel, name in enumerate(self._plan.targets, start=1)
        }


def supervised(criterion: Callable[[Tensor, Tensor], Tensor], scores: Tensor, label: Tensor) -> Tensor:
    """The loss of the answers at all resolutions, each half as much as the finer one before it."""
    levels = levels_of(scores)
    weights = [0.5**level for level in range(len(levels))]
    losses = [weight * criterion(level, label) for weight, level in zip(weights, levels, strict=True)]
    return torch.stack(losses).sum() / sum(weights)


def levels_of(scores: Tensor) -> Sequence[Tensor]:
    """The answers at all resolutions, the finest first; more than one with deep supervision while training."""
    return scores.float().unbind(dim=1) if scores.ndim == 6 else [scores.float()]


def dice_of(ours: Tensor, theirs: Tensor) -> float:
    """Dice's coefficient of two masks, 1 where both are empty."""
    total = int(ours.sum() + theirs.sum())
    return 2 * int((ours & theirs).sum()) / total if total else 1.0
