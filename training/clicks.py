"""Clicks that correct an outline: truth and prediction in, a simulated click out; clicks in, a network's channels out.

Simulated clicks fall inside the largest error, away from its border, as in DeepGrow (Sakinis et al. 2019, arXiv
1903.08205) and DeepEdit (Diaz-Pinto et al. 2022, arXiv 2305.10655). Voxels are indexed XYZ on the network's grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from labeling_protocols.geometry import Geometry

BACKGROUND = "background"
FOREGROUND = "foreground"
SIGMA_VOXELS = 2.0  # of a voxel as large as the grid's, were it a cube
_REACH = 4.0  # deviations; a click shows nothing beyond
_TOUCHING = np.ones((3, 3, 3), dtype=bool)  # voxels of one error touch by a face, an edge or a corner

Voxel = tuple[int, int, int]
PointsByName = Mapping[str, Sequence[tuple[float, float, float]]]


class ClickError(ValueError):
    """A click that no model can use: what was found, what was expected; nothing was outlined."""


@dataclass(frozen=True, kw_only=True)
class Click:
    """A place that somebody says belongs to a channel of the network's answer, 0 for background."""

    channel: int
    voxel_XYZ: Voxel


@dataclass(frozen=True, kw_only=True)
class Guide:
    """How clicks are shown to a network: one channel for each of so many structures, and a last one for background.

    A click is a Gaussian of height 1 about its voxel, round in millimetres and cut off at 4 deviations; where several
    overlap the highest counts. Without clicks all channels are 0.
    """

    structures: int
    spacing_mm: tuple[float, float, float]
    sigma_mm: float

    @property
    def channels(self) -> int:
        return self.structures + 1

    def shown(self, clicks: Sequence[Click], shape: Sequence[int], device: torch.device) -> Tensor:
        """The guidance (channels, X, Y, Z), float32, of clicks on a grid of this shape."""
        guidance = torch.zeros((self.channels, *shape), device=device)
        for click in clicks:
            self._show(click, guidance[(click.channel - 1) % self.channels])
        return guidance

    def join(self, image: Tensor, clicks: Sequence[Sequence[Click]]) -> Tensor:
        """What the network takes: images (B, C, X, Y, Z) with the guidance of each one's clicks behind."""
        guidance = torch.stack([self.shown(of_image, image.shape[2:], image.device) for of_image in clicks])
        return torch.cat([image, guidance], dim=1)

    def _show(self, click: Click, channel: Tensor) -> None:
        heights, box = [], []
        for centre, size, spacing in zip(click.voxel_XYZ, channel.shape, self.spacing_mm, strict=True):
            reach = int(_REACH * self.sigma_mm / spacing)
            start, stop = max(0, centre - reach), min(size, centre + reach + 1)
            away = (torch.arange(start, stop, device=channel.device) - centre) * (spacing / self.sigma_mm)
            heights.append(torch.exp(-0.5 * away**2))
            box.append(slice(start, stop))
        x, y, z = heights
        there = channel[tuple(box)]
        torch.maximum(there, x[:, None, None] * y[None, :, None] * z[None, None, :], out=there)


def sigma_mm(spacing_mm: Sequence[float]) -> float:
    """The deviation of a click on a grid of this spacing: `SIGMA_VOXELS` of its mean (geometric) spacing."""
    return SIGMA_VOXELS * float(np.prod(spacing_mm)) ** (1 / 3)


def error_click(
    truth: Tensor, predicted: Tensor, spacing_mm: Sequence[float], generator: torch.Generator, *, jitter: float = 0.0
) -> Click | None:
    """A click into the largest connected error, saying what it truly is; None where nothing is wrong.

    Both (X, Y, Z) hold network channels. An error is what the prediction missed of one structure, or drew where is
    background. The click falls on its deepest voxel or, with `jitter` up to 1, on any that is at least 1 - `jitter` as
    deep (mm from the error's border), drawn from the generator.
    """
    there, wrong = truth.cpu().numpy(), (truth != predicted).cpu().numpy()
    largest: tuple[int, int, NDArray[np.bool_], Voxel] | None = None
    for channel in np.unique(there[wrong]).tolist():
        size, mask, start = _largest_part(wrong & (there == channel))
        if largest is None or size > largest[0]:
            largest = size, channel, mask, start
    if largest is None:
        return None
    _, channel, mask, start = largest
    return Click(channel=channel, voxel_XYZ=_deep_voxel(mask, start, spacing_mm, generator, jitter))


def first_clicks(
    truth: Tensor, spacing_mm: Sequence[float], generator: torch.Generator, *, jitter: float = 0.0
) -> list[Click]:
    """A click into the largest part of each structure that is there, as made before a model has answered."""
    there, clicks = truth.cpu().numpy(), []
    for channel in np.unique(there[there > 0]).tolist():
        _, mask, start = _largest_part(there == channel)
        clicks.append(Click(channel=channel, voxel_XYZ=_deep_voxel(mask, start, spacing_mm, generator, jitter)))
    return clicks


def box_around(clicks: Sequence[Click], shape: Sequence[int], patch: Sequence[int]) -> tuple[slice, slice, slice]:
    """The part of a grid in which clicks are answered: half a patch around all of them, within the grid."""
    edges = []
    for places, size, edge in zip(zip(*(click.voxel_XYZ for click in clicks), strict=True), shape, patch, strict=True):
        start = max(0, min(min(places) - edge // 2, size - edge))
        stop = min(size, max(max(places) + edge - edge // 2, start + edge))
        edges.append(slice(start, stop))
    x, y, z = edges
    return x, y, z


def parts_around(
    clicks: Sequence[Click], shape: Sequence[int], patch: Sequence[int], corners: Sequence[Click] = ()
) -> list[tuple[tuple[slice, slice, slice], list[Click]]]:
    """The parts of a grid in which clicks are answered, each with its own: clicks far from each other share none.

    All between the `corners` of a box is in one part.
    """
    groups = [*([list(corners)] if corners else []), *([click] for click in clicks)]
    parts = [(box_around(group, shape, patch), group) for group in groups]
    joined = True
    while joined:
        joined = False
        for number, (box, here) in enumerate(parts):
            near = [part for part in parts[number + 1 :] if _meet(box, part[0])]
            if near:
                together = [*here, *(click for _, there in near for click in there)]
                parts = [part for part in parts if part not in near]
                parts[number] = box_around(together, shape, patch), together
                joined = True
                break
    return parts


def _meet(box: Sequence[slice], other: Sequence[slice]) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(box, other, strict=True))


def moved(clicks: Sequence[Click], box: Sequence[slice]) -> list[Click]:
    """The same clicks on the grid of that part alone."""
    starts = [edge.start for edge in box]
    places = [
        (click.channel, [n - start for n, start in zip(click.voxel_XYZ, starts, strict=True)]) for click in clicks
    ]
    return [Click(channel=channel, voxel_XYZ=(x, y, z)) for channel, (x, y, z) in places]


def clicks_of(params: Mapping[str, Any], structures: Sequence[str], geometry: Geometry) -> PointsByName:
    """The clicks in a viewer's request for inference, by structure or `BACKGROUND`, as points in LPS millimetres.

    3D Slicer and OHIF send voxel indices (i, j, k) of the image: of a "deepedit" model under each label's name and
    "background", of a "deepgrow" model under "foreground" and "background" with the structure's name as "label", which
    may be left out where there is only one. Raises `ClickError`.
    """
    sent = {name: _listed(params, name) for name in (*structures, BACKGROUND)}
    if foreground := _listed(params, FOREGROUND):
        label = str(params.get("label") or structures[0]) if len(structures) == 1 else str(params.get("label"))
        if label not in structures:
            raise ClickError(
                f"found foreground clicks for the label {label!r}; expected one of {', '.join(structures)}."
                " Nothing was outlined."
            )
        sent[label] += foreground
    return {name: [_place_mm_LPS(point, name, geometry) for point in points] for name, points in sent.items() if points}


def _listed(params: Mapping[str, Any], name: str) -> list[object]:
    points = params.get(name) or []
    if not isinstance(points, list | tuple):
        raise ClickError(f"found {name}: {points!r}; expected a list of clicks. Nothing was outlined.")
    return list(points)


def _place_mm_LPS(point: object, name: str, geometry: Geometry) -> tuple[float, float, float]:
    numbers = list(point) if isinstance(point, list | tuple) else []
    if len(numbers) != 3 or not all(isinstance(n, int | float) and np.isfinite(n) for n in numbers):
        raise ClickError(
            f"a click for {name} is {point!r}; expected three voxel indices (i, j, k). Nothing was outlined."
        )
    x, y, z, _ = geometry.affine_LPS() @ [*numbers, 1.0]
    return float(x), float(y), float(z)


def _largest_part(mask: NDArray[np.bool_]) -> tuple[int, NDArray[np.bool_], Voxel]:
    """The largest connected part of a mask that is not empty: its voxel count, itself in its box, that box's start."""
    parts, _ = ndimage.label(mask, structure=_TOUCHING)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    part = int(sizes.argmax())
    box = ndimage.find_objects(parts, max_label=part)[part - 1]
    x, y, z = (edge.start for edge in box)
    return int(sizes[part]), parts[box] == part, (x, y, z)


def _deep_voxel(
    mask: NDArray[np.bool_], start: Voxel, spacing_mm: Sequence[float], generator: torch.Generator, jitter: float
) -> Voxel:
    depth_mm = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    deep = np.argwhere(mask & (depth_mm >= (1 - jitter) * depth_mm.max()))
    drawn = torch.randint(len(deep), (), generator=generator)
    x, y, z = (deep[int(drawn)] + start).tolist()
    return x, y, z
