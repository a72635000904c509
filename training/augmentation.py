"""Patches and a seed each in; the patches turned, bent, mirrored and varied in intensity, a batch at a time, out.

What happens to a patch is a function of its own seed: it comes out the same in any batch, thread and process.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# An image that is bent is blurred as well, and one that is served is neither: so half are shown as they are.
_BENT_SHARE = 0.5  # of the patches
_VARIED_SHARE = 0.25  # of the patches, for each way in which intensities vary
_TURN_MAX = math.radians(20)
_ZOOM = 0.2  # at most 20 % larger or smaller along each axis
_SHIFT = 0.05  # of the patch's edge
_BEND = 0.06  # elastic displacement's deviation, of half the patch's edge
_BEND_POINTS = 5
_NOISE_MAX = 0.15  # in deviations of the image, as it is normalised
_CONTRAST = 0.3
_BRIGHTNESS = 0.2
_GAMMA = 0.3


class Draws:
    """Random numbers for each patch of a batch, from a generator of its own."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._seeds = seeds
        self.device = device

    def uniform(self, *shape: int, limit: float = 1.0) -> Tensor:
        """Numbers in [-limit, limit), (B, *shape)."""
        drawn = torch.stack([torch.rand(shape, generator=generator) for generator in self._generators])
        return ((drawn * 2 - 1) * limit).to(self.device)

    def share(self, *shape: int) -> Tensor:
        """Numbers in [0, 1), (B, *shape)."""
        return torch.stack([torch.rand(shape, generator=g) for g in self._generators]).to(self.device)

    def normal(self, *shape: int) -> Tensor:
        """Normally distributed numbers, (B, *shape)."""
        return torch.stack([torch.randn(shape, generator=g) for g in self._generators]).to(self.device)

    def noise(self, shape: Sequence[int]) -> Tensor:
        """As many as an image has voxels, (B, *shape), drawn on the device."""
        generators = [torch.Generator(self.device).manual_seed(seed ^ 0x5EED) for seed in self._seeds]
        return torch.stack([torch.randn(tuple(shape), generator=g, device=self.device) for g in generators])


def augment(
    image: Tensor, label: Tensor, spacing_mm: Sequence[float], seeds: Sequence[int], mirror_axes: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """Turn, zoom, shift and bend some images (B, C, X, Y, Z) with labels (B, 1, X, Y, Z); mirror and vary images.

    Mirrored are only the axes that are named: left and right are different structures to many protocols.
    """
    draws = Draws(seeds, image.device)
    bent = (draws.share(1) < _BENT_SHARE).float()
    grid = _affine_grid(image.shape, spacing_mm, draws, mirror_axes, bent) + _bend(image.shape, draws, bent)
    image = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    label = F.grid_sample(label.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False).long()
    return vary_intensity(image, draws), label


def vary_intensity(image: Tensor, draws: Draws) -> Tensor:
    """The images (B, C, X, Y, Z), some of them with another gamma, contrast or brightness, or with noise.

    Each channel by itself: scanners vary in one sequence and not in the other.
    """
    axes = tuple(range(2, image.ndim))
    low, high = image.amin(dim=axes, keepdim=True), image.amax(dim=axes, keepdim=True)
    span = (high - low).clamp_min(1e-6)
    each = (image.shape[1], 4)
    amounts = draws.uniform(*each) * (draws.share(*each) < _VARIED_SHARE)
    gamma, contrast, brightness, deviation = amounts[..., None, None, None].unbind(dim=2)
    image = ((image - low) / span).clamp_min_(0).pow_(torch.exp(gamma * _GAMMA)).mul_(span).add_(low)
    image.mul_(torch.exp(contrast * _CONTRAST)).add_(brightness * _BRIGHTNESS)
    return image.addcmul_(draws.noise(image.shape[1:]), deviation.abs() * _NOISE_MAX)


def _affine_grid(
    shape: torch.Size, spacing_mm: Sequence[float], draws: Draws, mirror_axes: Sequence[int], bent: Tensor
) -> Tensor:
    """Sampling positions (B, X, Y, Z, 3) of random turns about the patch's centre, in mm so that nothing shears.

    Where `bent` (B, 1) is 0 patches are mirrored at most.
    """
    half_mm = torch.tensor([n * s / 2 for n, s in zip(shape[2:], spacing_mm, strict=True)], device=draws.device)
    matrix = _turns(draws.uniform(3, limit=_TURN_MAX) * bent)
    matrix = matrix * torch.exp2(draws.uniform(3, limit=_ZOOM) * bent)[:, None, :]
    matrix = matrix * half_mm[None, None, :] / half_mm[None, :, None]
    mirrored = draws.share(3) < 0.5
    for axis in range(3):
        if axis in mirror_axes:
            matrix[:, :, axis] = torch.where(mirrored[:, axis, None], -matrix[:, :, axis], matrix[:, :, axis])
    shift = draws.uniform(3, 1, limit=2 * _SHIFT) * bent[:, :, None]
    theta = torch.cat([matrix, shift], dim=2).flip(1)
    theta = torch.cat([theta[:, :, :3].flip(2), theta[:, :, 3:]], dim=2)  # grid_sample speaks of (z, y, x)
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


def _bend(shape: torch.Size, draws: Draws, bent: Tensor) -> Tensor:
    """A smooth random displacement (B, X, Y, Z, 3), known at a few points and interpolated between them."""
    points = draws.normal(3, *[_BEND_POINTS] * 3) * _BEND * draws.share(1, 1, 1, 1) * bent[:, :, None, None, None]
    field = F.interpolate(points, size=shape[2:], mode="trilinear", align_corners=True)
    return field.permute(0, 2, 3, 4, 1)
