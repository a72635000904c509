"""Training examples in memory: prepared images and labels in, augmented batches of patches out.

Every example is prepared once and kept as a tensor; patches are cut and augmented a batch at a time in torch, which on
few cores is faster than loader workers and their transforms one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from labeling_protocols.channels import Images
from labeling_protocols.geometry import Volume
from training.augmentation import augment
from training.plan import Plan
from training.preparation import as_tensor, preparation

_FOREGROUND_SHARE = 0.5  # of patches cut from volumes larger than a patch
_MARGIN = 0.1  # of the patch's edge, empty, on either side: where in its patch a volume lies is to mean nothing


@dataclass(frozen=True, kw_only=True)
class Example:
    """One prepared case: image (C, X, Y, Z) float32, label (X, Y, Z) uint8 holding network channels."""

    case: str
    image: Tensor
    label: Tensor


def prepare_example(plan: Plan, case: str, image: Images, label: Volume) -> Example:
    """Turn, resample and normalise a case, an image or its channels, and name its structures by network channel."""
    prepared = preparation(plan)({"image": as_tensor(image), "label": as_tensor(label)})
    values = prepared["label"].as_tensor()[0]
    channels = torch.zeros(values.shape, dtype=torch.uint8)
    for channel, value in enumerate(plan.values):
        channels[values == value] = channel
    return Example(case=case, image=prepared["image"].as_tensor().float().contiguous(), label=channels)


class Bank:
    """The training examples, ready to be cut into patches."""

    def __init__(self, plan: Plan, examples: Sequence[Example], device: torch.device) -> None:
        self._plan = plan
        self._margin = [round(_MARGIN * edge) for edge in plan.patch_RAS]
        room = [edge + 2 * margin for edge, margin in zip(plan.patch_RAS, self._margin, strict=True)]
        self._images = [padded(example.image, room).to(device) for example in examples]
        self._labels = [padded(example.label[None], room).to(device) for example in examples]
        self._foreground = [label[0].nonzero() for label in self._labels]

    def patches(self, places: Sequence[int], seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """One augmented patch of each of these examples: images (B, C, X, Y, Z), structures (B, 1, X, Y, Z) int64.

        What comes is a function of places and seeds alone, so a step that was interrupted can be had again.
        """
        cuts = [self._cut(place, seed) for place, seed in zip(places, seeds, strict=True)]
        image = torch.stack([image for image, _ in cuts])
        label = torch.stack([label for _, label in cuts])
        return augment(image, label, self._plan.spacing_mm_RAS, seeds, self._plan.mirror_axes)

    def _cut(self, index: int, seed: int) -> tuple[Tensor, Tensor]:
        """One patch; from a larger volume half of them are centred on a structure, so that small ones are seen."""
        image, label, patch = self._images[index], self._labels[index], self._plan.patch_RAS
        room = [size - edge for size, edge in zip(label.shape[1:], patch, strict=True)]
        draw = torch.rand(5, generator=torch.Generator().manual_seed(seed ^ 0xC07)).tolist()
        start = [round(share * free) for share, free in zip(draw[:3], room, strict=True)]
        foreground = self._foreground[index]
        if draw[3] < _FOREGROUND_SHARE and len(foreground):
            centre = foreground[int(draw[4] * len(foreground))].tolist()
            start = [
                min(max(c - e // 2, 0), free) if free > 2 * margin else s
                for c, e, free, margin, s in zip(centre, patch, room, self._margin, start, strict=True)
            ]
        box = (slice(None), *(slice(s, s + e) for s, e in zip(start, patch, strict=True)))
        return image[box], label[box]


def padded(volume: Tensor, patch: Sequence[int]) -> Tensor:
    """(C, X, Y, Z) with every axis at least as long as the patch, the volume in the middle."""
    pads: list[int] = []
    for size, edge in reversed(list(zip(volume.shape[1:], patch, strict=True))):
        missing = max(0, edge - size)
        pads += [missing // 2, missing - missing // 2]
    return F.pad(volume, pads)
