"""Training examples: prepared images and labels in, augmented batches of patches out.

Every example is prepared once and kept as a tensor; patches are cut and augmented a batch at a time in torch, which on
few cores is faster than loader workers and their transforms one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labeling_protocols.channels import Images
from labeling_protocols.geometry import Volume
from training.augmentation import augment
from training.cutting import cut, widened, within_reach
from training.plan import Plan
from training.preparation import as_tensor, preparation

_FOREGROUND_SHARE = 0.5  # of patches cut from volumes larger than a patch
_FOREGROUND_MAX = 10_000  # voxels of an example that a patch may be centred on, evenly spread
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
        self._device = device
        self._margin = [round(_MARGIN * edge) for edge in plan.patch_RAS]
        self._least = [edge + 2 * margin for edge, margin in zip(plan.patch_RAS, self._margin, strict=True)]
        self._images = within_reach([example.image for example in examples], device)
        self._labels = within_reach([example.label[None] for example in examples], device)
        self._foreground = [_spread(example.label.nonzero()) for example in examples]

    def patches(self, places: Sequence[int], seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """One augmented patch of each of these examples: images (B, C, X, Y, Z), structures (B, 1, X, Y, Z) int64.

        What comes is a function of places and seeds alone, so a step that was interrupted can be had again.
        """
        cuts = [self._cut(place, seed) for place, seed in zip(places, seeds, strict=True)]
        image = torch.stack([image for image, _ in cuts]).to(self._device)
        label = torch.stack([label for _, label in cuts]).to(self._device)
        return augment(image, label, self._plan.spacing_mm_RAS, seeds, self._plan.mirror_axes)

    def _cut(self, index: int, seed: int) -> tuple[Tensor, Tensor]:
        """One patch; from a larger volume half of them are centred on a structure, so that small ones are seen."""
        image, label, patch = self._images[index], self._labels[index], self._plan.patch_RAS
        sizes, before = widened(label.shape[1:], self._least)
        room = [size - edge for size, edge in zip(sizes, patch, strict=True)]
        draw = torch.rand(5, generator=torch.Generator().manual_seed(seed ^ 0xC07)).tolist()
        start = [round(share * free) for share, free in zip(draw[:3], room, strict=True)]
        foreground = self._foreground[index]
        if draw[3] < _FOREGROUND_SHARE and len(foreground):
            centre = foreground[int(draw[4] * len(foreground))].tolist()
            start = [
                min(max(c + b - e // 2, 0), free) if free > 2 * margin else s
                for c, b, e, free, margin, s in zip(centre, before, patch, room, self._margin, start, strict=True)
            ]
        first = [s - b for s, b in zip(start, before, strict=True)]
        return cut(image, first, patch), cut(label, first, patch)


def _spread(voxels: Tensor) -> Tensor:
    """At most so many of them, evenly spread."""
    return voxels[:: -(-len(voxels) // _FOREGROUND_MAX) or 1].clone()
