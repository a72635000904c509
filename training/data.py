"""Training examples in memory: prepared images and labels in, augmented batches out.

Every example is prepared once and kept as a tensor; patches are cut and augmented a batch at a time in torch, which on
few cores is faster than loader workers and their transforms one by one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from labeling_protocols.geometry import Volume
from training.plan import Plan
from training.preparation import as_tensor, preparation

_FOREGROUND_SHARE = 0.5  # of patches cut from volumes larger than a patch
_TURN_MAX = math.radians(20)
_ZOOM = 0.2  # at most 20 % larger or smaller along each axis
_SHIFT = 0.05  # of the patch's edge
_BEND = 0.06  # elastic displacement's deviation, of half the patch's edge
_BEND_POINTS = 5
_NOISE_MAX = 0.15  # in deviations of the image, as it is normalised
_CONTRAST = 0.3
_BRIGHTNESS = 0.2
_GAMMA = 0.3


@dataclass(frozen=True, kw_only=True)
class Example:
    """One prepared case: image (1, X, Y, Z) float32, label (X, Y, Z) uint8 holding network channels."""

    case: str
    image: Tensor
    label: Tensor


def prepare_example(plan: Plan, case: str, image: Volume, label: Volume) -> Example:
    """Turn, resample and normalise a case, and name its structures by network channel."""
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
        self._images = [_padded(example.image, plan.patch_RAS).to(device) for example in examples]
        self._labels = [_padded(example.label[None], plan.patch_RAS).to(device) for example in examples]
        self._foreground = [label[0].nonzero() for label in self._labels]

    def batches(self, seed: int) -> list[list[int]]:
        """One pass over all examples: their places in random order, a batch at a time."""
        order = torch.randperm(len(self._images), generator=torch.Generator().manual_seed(seed)).tolist()
        return [order[start : start + self._plan.batch] for start in range(0, len(order), self._plan.batch)]

    def patches(self, places: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
        """One augmented patch of each of these examples: images (B, 1, X, Y, Z), channels (B, 1, X, Y, Z) int64.

        What comes is a function of places and seed alone, so a step that was interrupted can be had again.
        """
        generator = torch.Generator(self._device).manual_seed(seed)
        cuts = [self._cut(place, generator) for place in places]
        image = torch.stack([image for image, _ in cuts])
        label = torch.stack([label for _, label in cuts])
        return augment(image, label, self._plan.spacing_mm_RAS, generator)

    def _cut(self, index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One patch; from a larger volume half of them are centred on a structure, so that small ones are seen."""
        image, label, patch = self._images[index], self._labels[index], self._plan.patch_RAS
        room = [size - edge for size, edge in zip(label.shape[1:], patch, strict=True)]
        draw = torch.rand(5, generator=generator, device=self._device).tolist()
        start = [round(share * free) for share, free in zip(draw[:3], room, strict=True)]
        foreground = self._foreground[index]
        if draw[3] < _FOREGROUND_SHARE and len(foreground):
            centre = foreground[int(draw[4] * len(foreground))].tolist()
            start = [min(max(c - e // 2, 0), free) for c, e, free in zip(centre, patch, room, strict=True)]
        box = (slice(None), *(slice(s, s + e) for s, e in zip(start, patch, strict=True)))
        return image[box], label[box]


def augment(
    image: Tensor, label: Tensor, spacing_mm: Sequence[float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Turn, zoom, shift and bend image and label together; vary the image's contrast, brightness, gamma and noise.

    No mirroring: left and right are different structures to many protocols, and a plan cannot know to which.
    """
    grid = _affine_grid(image.shape, spacing_mm, generator, image.device) + _bend(image.shape, generator, image.device)
    image = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    label = F.grid_sample(label.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False).long()
    return _vary_intensity(image, generator), label


def _affine_grid(
    shape: torch.Size, spacing_mm: Sequence[float], generator: torch.Generator, device: torch.device
) -> Tensor:
    """Sampling positions (B, X, Y, Z, 3) of random turns about the patch's centre, in mm so that nothing shears."""
    batch = shape[0]
    angles = _uniform((batch, 3), _TURN_MAX, generator, device)
    zooms = torch.exp2(_uniform((batch, 3), _ZOOM, generator, device))
    half_mm = torch.tensor([n * s / 2 for n, s in zip(shape[2:], spacing_mm, strict=True)], device=device)
    matrix = _turns(angles) * zooms[:, None, :]
    matrix = matrix * half_mm[None, None, :] / half_mm[None, :, None]
    shift = _uniform((batch, 3, 1), 2 * _SHIFT, generator, device)
    theta = torch.cat([matrix, shift], dim=2).flip(1)  # grid_sample speaks of (z, y, x) for axes (X, Y, Z)
    theta = torch.cat([theta[:, :, :3].flip(2), theta[:, :, 3:]], dim=2)
    return F.affine_grid(theta, list(shape), align_corners=False)


def _turns(angles: Tensor) -> Tensor:
    """Rotation matrices (B, 3, 3) of turns about the three axes, one after the other."""
    total = torch.eye(3, device=angles.device).expand(len(angles), 3, 3)
    for axis in range(3):
        cos, sin = angles[:, axis].cos(), angles[:, axis].sin()
        i, j = (n for n in range(3) if n != axis)
        turn = torch.eye(3, device=angles.device).repeat(len(angles), 1, 1)
        turn[:, i, i], turn[:, j, j], turn[:, i, j], turn[:, j, i] = cos, cos, -sin, sin
        total = total @ turn
    return total


def _bend(shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
    """A smooth random displacement (B, X, Y, Z, 3), known at a few points and interpolated between them."""
    points = torch.randn((shape[0], 3, *[_BEND_POINTS] * 3), generator=generator, device=device) * _BEND
    strength = torch.rand((shape[0], 1, 1, 1, 1), generator=generator, device=device)
    field = F.interpolate(points * strength, size=shape[2:], mode="trilinear", align_corners=True)
    return field.permute(0, 2, 3, 4, 1)


def _vary_intensity(image: Tensor, generator: torch.Generator) -> Tensor:
    each = (len(image), 1, 1, 1, 1)
    low, high = image.amin(dim=(1, 2, 3, 4), keepdim=True), image.amax(dim=(1, 2, 3, 4), keepdim=True)
    span = (high - low).clamp_min(1e-6)
    gamma = torch.exp(_uniform(each, _GAMMA, generator, image.device))
    image = ((image - low) / span).clamp_min(0) ** gamma * span + low
    image = image * torch.exp(_uniform(each, _CONTRAST, generator, image.device))
    image = image + _uniform(each, _BRIGHTNESS, generator, image.device)
    deviation = torch.rand(each, generator=generator, device=image.device) * _NOISE_MAX
    return image + torch.randn(image.shape, generator=generator, device=image.device) * deviation


def _uniform(shape: Sequence[int], limit: float, generator: torch.Generator, device: torch.device) -> Tensor:
    return (torch.rand(tuple(shape), generator=generator, device=device) * 2 - 1) * limit


def _padded(volume: Tensor, patch: Sequence[int]) -> Tensor:
    """(C, X, Y, Z) with every axis at least as long as the patch, the volume in the middle."""
    pads: list[int] = []
    for size, edge in reversed(list(zip(volume.shape[1:], patch, strict=True))):
        missing = max(0, edge - size)
        pads += [missing // 2, missing - missing // 2]
    return F.pad(volume, pads)
