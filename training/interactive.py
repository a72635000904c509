"""Segmentation that clicks correct, for the training loop: labels in; loss and Dice, without and after clicks, out.

Half of the patches are shown without a click, so that one model answers by itself too (DeepEdit, Diaz-Pinto et al.
2022, arXiv 2305.10655). On the others clicks are simulated one after the other, each from what the network, as it then
is, still gets wrong, and the last answer is learned from (Sofiiuk et al. 2022, arXiv 2102.06583).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from monai.losses import DiceCELoss
from torch import Tensor

from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from training.clicks import Click, Guide, box_around, error_click, first_clicks, moved, sigma_mm
from training.data import Bank, Example, prepare_example
from training.learner import autocast
from training.networks import network_config
from training.plan import Plan
from training.segmentation import dice_of, levels_of, supervised

ERROR_CLICKS_MAX = 5  # simulated on one patch, after those that may have been made at once
CLICKS_LOOKED_AT = (0, 1, 5)
_CLICKED_SHARE = 0.5  # of patches
_FIRST_CLICKS_SHARE = 0.5  # of the clicked ones, on which every structure is clicked before the network answers
_JITTER = 0.6  # nobody clicks the very middle
_OWN_DRAWS = 0xC11C  # away from the seeds of cuts and augmentation


@dataclass(frozen=True, kw_only=True)
class Habit:
    """How one patch is clicked: every structure at first or not, then so many errors, drawn from its own generator."""

    first: bool
    errors: int
    generator: torch.Generator


class InteractiveLearner:
    """Learns the plan's structures, which exclude each other, from the image and from clicks."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._guide = guide_of(plan)
        self._criterion = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
        self._window = SlidingWindowInferer(
            plan.patch_RAS, sw_batch_size=1, overlap=plan.window_overlap, mode="gaussian"
        )

    def network(self) -> torch.nn.Module:
        config = {"network_def": interactive_network_config(self._plan)}
        network: torch.nn.Module = ConfigParser(config).get_parsed_content("network_def")
        return network

    def prepare(self, case: str, image: Volume, label: Label) -> Example:
        return prepare_example(self._plan, case, image, label.volume())

    def load(self, examples: Sequence[Example], device: torch.device) -> None:
        self._bank = Bank(self._plan, examples, device)

    def loss(self, network: torch.nn.Module, places: Sequence[int], seeds: Sequence[int]) -> Tensor:
        """Dice loss and cross-entropy of the answer to all clicks; with deep supervision of the coarser ones too."""
        image, label = self._bank.patches(places, seeds)
        clicks = self._simulate(network, image, label[:, 0], seeds)
        with autocast(self._plan, image.device):
            scores = network(self._guide.join(image, clicks).contiguous(memory_format=torch.channels_last_3d))
        return supervised(self._criterion, scores, label)

    @torch.inference_mode()
    def figures(self, network: torch.nn.Module, example: Example) -> dict[str, float]:
        """Dice by structure, without clicks and after 1 and 5 clicks into the largest error of the moment."""
        device = next(network.parameters()).device
        generator = torch.Generator().manual_seed(self._plan.seed)
        image = example.image[None].to(device)
        clicks: list[Click] = []
        found: dict[str, float] = {}
        automatic = chosen = self._chosen(network, image, [])
        for count in range(max(CLICKS_LOOKED_AT) + 1):
            if count in CLICKS_LOOKED_AT:
                found |= self._dice(chosen, example.label, count)
            click = error_click(example.label, chosen, self._plan.spacing_mm_RAS, generator)
            if click is not None and count < max(CLICKS_LOOKED_AT):
                clicks.append(click)
                box = box_around(clicks, chosen.shape, self._plan.patch_RAS)
                chosen = automatic.clone()
                chosen[box] = self._chosen(network, image[:, :, *box], moved(clicks, box))
        return found

    def _simulate(
        self, network: torch.nn.Module, image: Tensor, truth: Tensor, seeds: Sequence[int]
    ) -> list[list[Click]]:
        """The clicks of each patch, images (B, 1, X, Y, Z) and channels (B, X, Y, Z), in the order they were made."""
        habits = [habit_of(seed) for seed in seeds]
        spacing_mm = self._plan.spacing_mm_RAS
        clicks = [
            first_clicks(of_one, spacing_mm, habit.generator, jitter=_JITTER) if habit.first else []
            for of_one, habit in zip(truth, habits, strict=True)
        ]
        for turn in range(max(habit.errors for habit in habits)):
            clicked = [n for n, habit in enumerate(habits) if habit.errors > turn]
            shown = self._guide.join(image[clicked], [clicks[n] for n in clicked])
            with torch.no_grad(), autocast(self._plan, image.device):
                answers = levels_of(network(shown.contiguous(memory_format=torch.channels_last_3d)))[0].argmax(dim=1)
            for n, answer in zip(clicked, answers, strict=True):
                click = error_click(truth[n], answer, spacing_mm, habits[n].generator, jitter=_JITTER)
                clicks[n] += [click] if click is not None else []
        return clicks

    def _chosen(self, network: torch.nn.Module, image: Tensor, clicks: Sequence[Click]) -> Tensor:
        """The channel of each voxel (X, Y, Z), on the CPU, of an image (1, 1, X, Y, Z)."""
        with autocast(self._plan, image.device):
            chosen: Tensor = self._window(self._guide.join(image, [clicks]), network).argmax(dim=1)[0].cpu()
        return chosen

    def _dice(self, chosen: Tensor, truth: Tensor, count: int) -> dict[str, float]:
        of_structure = {
            name: dice_of(chosen == channel, truth == channel)
            for channel, name in enumerate(self._plan.targets, start=1)
        }
        name = f"dice_{count}_clicks"
        mean = sum(of_structure.values()) / len(of_structure)
        return {name: mean, **{f"{name}/{structure}": dice for structure, dice in of_structure.items()}}


def guide_of(plan: Plan) -> Guide:
    """How clicks are shown to this plan's network."""
    spacing_mm = plan.spacing_mm_RAS
    return Guide(structures=len(plan.targets), spacing_mm=spacing_mm, sigma_mm=sigma_mm(spacing_mm))


def interactive_network_config(plan: Plan) -> dict[str, Any]:
    """The plan's network, taking the guidance channels beside the image."""
    return {**network_config(plan), "in_channels": plan.channels_in + guide_of(plan).channels}


def habit_of(seed: int) -> Habit:
    """How the patch of this seed is clicked."""
    generator = torch.Generator().manual_seed(seed ^ _OWN_DRAWS)
    clicked, first, errors = torch.rand(3, generator=generator).tolist()
    if clicked >= _CLICKED_SHARE:
        return Habit(first=False, errors=0, generator=generator)
    before = first < _FIRST_CLICKS_SHARE
    few = 0 if before else 1  # whoever clicks at all clicks once
    return Habit(first=before, errors=few + int(errors * (ERROR_CLICKS_MAX + 1 - few)), generator=generator)
