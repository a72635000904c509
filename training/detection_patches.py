"""Prepared images with their boxes in, augmented patches with the boxes in them out.

What is cut and how it is changed is a function of the example's own seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.augmentation import Draws, vary_intensity
from training.cutting import cut, widened, within_reach
from training.plan import Plan

_BOX_SHARE = 0.5  # of patches cut around a box; the others are from anywhere, with a box or without
_ZOOM = 0.2  # at most 2**0.2 times as large or small, all axes alike
_SHIFT = 0.05  # of the patch's edge
_CUT = 0xC07  # sets the draws of where to cut apart from those of the augmentation


@dataclass(frozen=True, kw_only=True)
class Example:
    """One prepared case: image (1, X, Y, Z) float32, boxes (n, 6) in its voxels, and the place of each one's structure
    among the plan's targets, (n,) int64."""

    case: str
    image: Tensor
    boxes: Tensor
    classes: Tensor


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """What lies in one patch: boxes (n, 6) in its voxels and their classes (n,)."""

    boxes: Tensor
    classes: Tensor


class BoxBank:
    """The training examples, ready to be cut into patches."""

    def __init__(self, plan: Plan, examples: Sequence[Example], device: torch.device) -> None:
        self._plan = plan
        self._device = device
        self._images = within_reach([example.image for example in examples], device)
        self._boxes = [example.boxes for example in examples]
        self._classes = [example.classes for example in examples]

    def patches(self, places: Sequence[int], seeds: Sequence[int]) -> tuple[Tensor, list[Boxes]]:
        """One augmented patch of each of these examples: images (B, 1, X, Y, Z) and what lies in each."""
        cuts = [self._cut(place, seed) for place, seed in zip(places, seeds, strict=True)]
        images = torch.stack([image for image, _ in cuts]).to(self._device)
        draws = Draws(seeds, images.device)
        images, boxes = _move(images, [boxes for _, boxes in cuts], draws, self._plan.mirror_axes)
        found = [
            _inside(moved.to(images.device), self._classes[place].to(images.device), images.shape[2:])
            for moved, place in zip(boxes, places, strict=True)
        ]
        return vary_intensity(images, draws), found

    def _cut(self, place: int, seed: int) -> tuple[Tensor, Tensor]:
        """A patch of one example, and all its boxes in the patch's voxels."""
        image, boxes, patch = self._images[place], self._boxes[place], self._plan.patch_RAS
        draw = torch.rand(5, generator=torch.Generator().manual_seed(seed ^ _CUT)).tolist()
        sizes, before = widened(image.shape[1:], patch)
        boxes = boxes + torch.tensor([*before, *before], dtype=boxes.dtype)
        last = [size - edge for size, edge in zip(sizes, patch, strict=True)]
        start = [int(share * (room + 1)) for share, room in zip(draw[:3], last, strict=True)]
        if draw[3] < _BOX_SHARE and len(boxes):
            box = boxes[int(draw[4] * len(boxes))].tolist()
            start = [
                _start_around(low, high, share, edge, room)
                for low, high, share, edge, room in zip(box[:3], box[3:], draw[:3], patch, last, strict=True)
            ]
        first = [s - b for s, b in zip(start, before, strict=True)]
        return cut(image, first, patch), boxes - torch.tensor([*start, *start], dtype=boxes.dtype)


def _start_around(low: float, high: float, share: float, edge: int, room: int) -> int:
    """Where along one axis a patch begins that holds the box from `low` to `high`, or its middle where it is longer."""
    first, last = sorted((high - edge, low))
    if high - low > edge:
        first = last = (low + high - edge) / 2
    return min(max(round(first + share * (last - first)), 0), room)


def _move(
    images: Tensor, boxes: Sequence[Tensor], draws: Draws, mirror_axes: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """Zoom, shift and mirror images and boxes together. Nothing is turned: boxes would no longer hug what they hold."""
    size = torch.tensor(images.shape[2:], dtype=torch.float32)
    zooms = torch.exp2(draws.uniform(1, limit=_ZOOM)).cpu().expand(-1, 3)
    mirrored = (draws.share(3) < 0.5).cpu() & torch.tensor([axis in mirror_axes for axis in range(3)])
    scales = torch.where(mirrored, -zooms, zooms)
    shifts = draws.uniform(3, limit=_SHIFT).cpu()
    theta = torch.diag_embed(scales.flip(1))  # a place in the new patch, from -1 to 1, to one in the old; (z, y, x)
    theta = torch.cat([theta, 2 * shifts.flip(1)[:, :, None]], dim=2).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved, [
        _moved(old, scale, shift * size, size) for old, scale, shift in zip(boxes, scales, shifts, strict=True)
    ]


def _moved(boxes: Tensor, scale: Tensor, shift_voxels: Tensor, size: Tensor) -> Tensor:
    """Where boxes come to lie as each place p of the new patch shows place centre + scale (p - centre) + shift."""
    corners = (boxes.view(-1, 2, 3) - size / 2 - shift_voxels) / scale + size / 2
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


def _inside(boxes: Tensor, classes: Tensor, shape: Sequence[int]) -> Boxes:
    """The boxes whose middle lies in the patch, as far as they lie in it."""
    size = torch.tensor([*shape], dtype=boxes.dtype, device=boxes.device)
    middles = (boxes[:, :3] + boxes[:, 3:]) / 2
    kept = ((middles > 0) & (middles < size)).all(dim=1)
    clipped = torch.minimum(boxes[kept].clamp_min(0), size.repeat(2))
    return Boxes(boxes=clipped, classes=classes[kept])
