"""One answer for a whole case, for the training loop: images and answers in, loss and right answers out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from torch import Tensor

from labeling_protocols.geometry import Volume
from labeling_protocols.label import Answer, Label
from training.augmentation import augment
from training.classification_network import classification_network_config
from training.learner import NothingToLearnError, autocast
from training.plan import Plan
from training.preparation import as_tensor, prepare_config

Config = dict[str, Any]

NO, YES = "no", "yes"


class UnansweredError(NothingToLearnError):
    """A case that cannot be learned from: its truth has no answer that the plan knows."""


@dataclass(frozen=True, kw_only=True)
class CaseExample:
    """One prepared case: image (1, X, Y, Z) float32 of the plan's patch, `target` the place of its answer."""

    case: str
    image: Tensor
    target: int


class ClassificationLearner:
    """Learns which of the plan's targets is the answer to its question."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._prepare = ConfigParser({"prepare": whole_volume_config(plan)}).get_parsed_content("prepare")

    def network(self) -> torch.nn.Module:
        config = {"network_def": classification_network_config(self._plan)}
        network: torch.nn.Module = ConfigParser(config).get_parsed_content("network_def")
        return network

    def prepare(self, case: str, image: Volume, label: Label) -> CaseExample:
        """Raises `UnansweredError` where the label has no answer that is one of the targets."""
        target = target_of(self._plan, label.answers)
        if target is None:
            found = label.answers.get(self._plan.question)
            raise UnansweredError(
                f"case {case}: found {found!r} as the answer to {self._plan.question}; expected one of"
                f" {', '.join(self._plan.targets)}. It was not prepared."
            )
        prepared = self._prepare({"image": as_tensor(image)})["image"].as_tensor()
        return CaseExample(case=case, image=prepared.float().contiguous(), target=target)

    def load(self, examples: Sequence[CaseExample], device: torch.device) -> None:
        """Keeps the examples, and how much each answer weighs: rare ones as much, all in all, as frequent ones."""
        self._images = torch.stack([example.image for example in examples]).to(device)
        self._targets = torch.tensor([example.target for example in examples], device=device)
        self._weights = class_weights([example.target for example in examples], len(self._plan.targets)).to(device)

    def loss(self, network: torch.nn.Module, places: Sequence[int], seeds: Sequence[int]) -> Tensor:
        """Cross-entropy, weighted by answer; its mean is over the examples, so that it does not depend on the batch."""
        image = self._images[list(places)]
        nothing = torch.zeros((len(image), 1, 1, 1, 1), device=image.device)
        image, _ = augment(image, nothing, self._plan.spacing_mm_RAS, seeds, self._plan.mirror_axes)
        with autocast(self._plan, image.device):
            scores = network(image.contiguous(memory_format=torch.channels_last_3d))
        targets = self._targets[list(places)]
        return (F.cross_entropy(scores.float(), targets, reduction="none") * self._weights[targets]).mean()

    @torch.inference_mode()
    def figures(self, network: torch.nn.Module, example: CaseExample) -> dict[str, float]:
        """Whether the answer is right, and what probability the right one was given."""
        device = next(network.parameters()).device
        with autocast(self._plan, device):
            scores = network(example.image[None].to(device)).float()
        probabilities = scores.softmax(dim=1)[0]
        return {
            "accuracy": float(int(probabilities.argmax()) == example.target),
            "probability": float(probabilities[example.target]),
        }


def target_of(plan: Plan, answers: Mapping[str, Answer]) -> int | None:
    """The place of the truth's answer among the plan's targets; None where there is none."""
    word = word_of(answers.get(plan.question))
    return plan.targets.index(word) if word in plan.targets else None


def word_of(answer: Answer | None) -> str:
    """How an answer is called among a plan's targets: as it was given, or "yes" or "no"; "" where there is none."""
    if isinstance(answer, bool):
        return YES if answer else NO
    return "" if answer is None else str(answer)


def class_weights(targets: Sequence[int], count: int) -> Tensor:
    """A weight for each of `count` targets, in inverse proportion to how often it occurs; 1 in the mean over examples.

    One that never occurs weighs nothing.
    """
    found = Counter(targets)
    return torch.tensor([len(targets) / (len(found) * found[n]) if found[n] else 0.0 for n in range(count)])


def whole_volume_config(plan: Plan) -> Config:
    """Turn to RAS, resample and normalise as for any task, then cut or pad about the middle to the plan's patch."""
    config = prepare_config(plan)
    fit = {"_target_": "ResizeWithPadOrCropd", "keys": ["image"], "spatial_size": list(plan.patch_RAS)}
    return {**config, "transforms": [*config["transforms"], fit]}
