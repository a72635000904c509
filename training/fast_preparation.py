"""What our own bundles do to an image and to the network's answer, done faster than by MONAI, to the same numbers.

A bundle's `prepare` and `restore` configuration enters; what prepares an image and brings the network's answer back to
its grid leaves. Our own configuration turns a volume to RAS and changes its spacing, which is the same along each axis
for itself: three passes of linear interpolation do what MONAI does by sampling every point anew. On the way back only
the part is interpolated in which the network says anything but background. Any other configuration is MONAI's to run.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing
from numpy.typing import NDArray
from torch import Tensor

from labeling_protocols.geometry import Geometry, Volume
from training.preparation import as_tensor

Config = Mapping[str, Any]

_RAS = {"axcodes": "RAS", "labels": [["L", "R"], ["P", "A"], ["I", "S"]]}
_SLAB_VOXELS = 2**21  # interpolated at once, within the processor's cache
_STRAIGHT = 1e-3  # voxels that a grid may lean over its whole length and still count as parallel


class Preparation(Protocol):
    """How an image meets the network, and its answer the image."""

    def prepare(self, images: Sequence[Volume]) -> MetaTensor:
        """The channels of a case on the network's grid, (C, X, Y, Z) with its affine in RAS."""

    def label(self, scores: Tensor, prepared: MetaTensor, geometry: Geometry) -> NDArray[np.uint8]:
        """Each voxel's value on the image's grid (Z, Y, X), of scores (C, X, Y, Z) on the network's grid."""

    def on_image(self, scores: Tensor, prepared: MetaTensor, geometry: Geometry) -> Tensor:
        """The scores on the image's grid, (C, X, Y, Z)."""


def preparation_of(config: Config) -> Preparation:
    """What does as this bundle's `prepare` and `restore` say: ours where they are ours, otherwise MONAI's own."""
    ours = _our_steps(config)
    return FastPreparation(*ours) if ours is not None else MonaiPreparation(config)


class MonaiPreparation:
    """MONAI's transforms, as the bundle configures them."""

    def __init__(self, config: Config) -> None:
        parser = ConfigParser(dict(config))
        self._prepare = parser.get_parsed_content("prepare")
        self._restore = parser.get_parsed_content("restore")
        self._lock = threading.Lock()  # the transforms keep state while they are inverted

    def prepare(self, images: Sequence[Volume]) -> MetaTensor:
        with self._lock:
            prepared: MetaTensor = self._prepare({"image": _channels(images)})["image"]
        return prepared

    def label(self, scores: Tensor, prepared: MetaTensor, geometry: Geometry) -> NDArray[np.uint8]:
        with self._lock:
            restored = self._restore({"image": prepared, "pred": MetaTensor(scores)})["pred"]
        return np.ascontiguousarray(restored.numpy()[0].T.astype(np.uint8))

    def on_image(self, scores: Tensor, prepared: MetaTensor, geometry: Geometry) -> Tensor:
        with self._lock:
            inverted = self._restore.transforms[0]({"image": prepared, "pred": MetaTensor(scores)})["pred"]
        restored: Tensor = inverted.as_tensor()
        return restored


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """One axis of the network's grid: the image's axis that runs along it, and where its voxels lie on that one.

    Voxel j lies at `step` · j + `start` of the image's axis; `step` is negative where the two run against each other.
    """

    image_axis: int
    size: int
    image_size: int
    step: float
    start: float

    @property
    def flipped(self) -> bool:
        return self.step < 0

    @property
    def same(self) -> bool:
        """Whether the voxels are the image's own, in their order or the other way round."""
        first = self.image_size - 1 if self.flipped else 0
        return (
            self.size == self.image_size and abs(abs(self.step) - 1) < 1e-9 and abs(self.start - first) < _STRAIGHT / 10
        )

    def in_image(self) -> Tensor:
        """Where the network's voxels lie on the image's axis once that is turned the network's way, (size,)."""
        at = self.step * torch.arange(self.size, dtype=torch.float64) + self.start
        return self.image_size - 1 - at if self.flipped else at

    def in_network(self) -> Tensor:
        """Where the voxels of the image's axis, so turned, lie on the network's, (image_size,)."""
        at = torch.arange(self.image_size, dtype=torch.float64)
        at = (self.image_size - 1 - at if self.flipped else at).sub(self.start).div(self.step)
        return at.round() if self.same else at


class FastPreparation:
    """Turning, spacing and normalisation of our own bundles; keeps no state, so any number of threads may use it."""

    def __init__(self, spacing_mm_RAS: Sequence[float], normalise: Config, values: Sequence[int]) -> None:
        self._spacing = Spacing(pixdim=list(spacing_mm_RAS), mode="bilinear", lazy=True)
        self._orientation = Orientation(**_RAS, lazy=True)
        self._normalise = normalise
        self._values = values

    def prepare(self, images: Sequence[Volume]) -> MetaTensor:
        affine, axes = self._grid(images[0].geometry)
        channels = [_resampled(_turned(image, axes), [axis.in_image() for axis in axes], axes) for image in images]
        prepared = torch.stack(channels) if len(channels) > 1 else channels[0][None]
        return MetaTensor(_normalised(prepared, self._normalise), affine=affine)

    def label(self, scores: Tensor, prepared: MetaTensor, geometry: Geometry) -> NDArray[np.uint8]:
        """Scores are interpolated before the choice, and only where the choice can be anything but background.

        Between voxels that all say background, any interpolation says background too.
        """
        _, axes = self._grid(geometry)
        label_ZYX = np.full(geometry.shape_ZYX, self._values[0], dtype=np.uint8)
        box = _foreground(scores)
        if box is None:
            return label_ZYX
        turned = label_ZYX.T.transpose([axis.image_axis for axis in axes])
        turned = turned[tuple(slice(None, None, -1 if axis.flipped else 1) for axis in axes)]
        places = [axis.in_network().clamp(0, axis.size - 1) for axis in axes]
        reached = [_reached(at, edge) for at, edge in zip(places, box, strict=True)]
        if all(stop > start for start, stop in reached):
            for slab in _slabs(reached):
                here = [at[part] for at, part in zip(places, slab, strict=True)]
                turned[slab] = _chosen(scores, self._values, here, axes).numpy()
        return label_ZYX

    def on_image(self, scores: Tensor, prepared: MetaTensor, geometry: Geometry) -> Tensor:
        _, axes = self._grid(geometry)
        places = [axis.in_network() for axis in axes]
        channels = torch.stack([_resampled(channel, places, axes) for channel in scores])
        turned = channels.flip([1 + place for place, axis in enumerate(axes) if axis.flipped])
        back = np.argsort([axis.image_axis for axis in axes])
        return turned.permute(0, *(1 + int(place) for place in back))

    def _grid(self, geometry: Geometry) -> tuple[Tensor, list[_Axis]]:
        """The affine of the network's grid and its axes, as MONAI works them out without touching a voxel."""
        shape = geometry.shape_ZYX[::-1]
        image_affine = geometry.affine_RAS()
        empty = MetaTensor(torch.zeros(1).expand(1, *shape), affine=torch.from_numpy(image_affine))
        turned = self._orientation(empty)
        spaced = self._spacing(turned)
        same = spaced.peek_pending_shape() == turned.peek_pending_shape() and torch.allclose(
            spaced.peek_pending_affine(), turned.peek_pending_affine(), atol=1e-3
        )
        planned = turned if same else spaced  # as MONAI, which then resamples nothing
        affine = planned.peek_pending_affine().to(torch.float64)
        to_image = np.linalg.solve(image_affine, affine.numpy())
        return affine, _axes(to_image, shape, planned.peek_pending_shape())


def _channels(images: Sequence[Volume]) -> MetaTensor:
    """The channels of a case, (C, X, Y, Z), on the grid of the first."""
    first = as_tensor(images[0])
    return first if len(images) == 1 else MetaTensor(torch.cat([first, *map(as_tensor, images[1:])]), meta=first.meta)


def _our_steps(config: Config) -> tuple[Sequence[float], Config, Sequence[int]] | None:
    """Spacing, normalisation and values where the configuration is word by word one of ours, otherwise None."""
    try:
        turn, space, normalise = config["prepare"]["transforms"]
        invert, choose, name = config["restore"]["transforms"]
        values = list(name["target_labels"])
        spacing = list(space["pixdim"])
    except (KeyError, TypeError, ValueError):
        return None
    ours = (
        turn == {"_target_": "Orientationd", "keys": ["image"], **_RAS}
        and space == {"_target_": "Spacingd", "keys": ["image"], "pixdim": spacing, "mode": ["bilinear"]}
        and _is_ours(normalise)
        and invert
        == {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@prepare",
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        }
        and choose == {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
        and name
        == {
            "_target_": "MapLabelValued",
            "keys": "pred",
            "orig_labels": list(range(len(values))),
            "target_labels": values,
            "dtype": "$numpy.uint8",
        }
    )
    return (spacing, normalise, values) if ours else None


def _is_ours(normalise: Config) -> bool:
    if normalise.get("_target_") == "NormalizeIntensityd":
        return set(normalise) <= {"_target_", "keys", "channel_wise"} and normalise["keys"] == ["image"]
    names = {"_target_", "keys", "a_min", "a_max", "b_min", "b_max", "clip"}
    return (
        normalise.get("_target_") == "ScaleIntensityRanged"
        and set(normalise) == names
        and normalise["keys"] == ["image"]
        and normalise["clip"] is True
        and normalise["a_max"] > normalise["a_min"]
    )


def _axes(to_image: NDArray[np.float64], shape: Sequence[int], size: Sequence[int]) -> list[_Axis]:
    """The network's axes on the image's, of the matrix that leads from the network's voxels to the image's."""
    axes = []
    for place in range(3):
        along = int(np.argmax(np.abs(to_image[:3, place])))
        leaning = np.delete(to_image[:3, place], along)
        if np.abs(leaning).max() * size[place] > _STRAIGHT:
            raise ValueError(f"axis {place} of the network's grid is parallel to none of the image's")
        axes.append(
            _Axis(
                image_axis=along,
                size=int(size[place]),
                image_size=int(shape[along]),
                step=float(to_image[along, place]),
                start=float(to_image[along, 3]),
            )
        )
    return axes


def _turned(image: Volume, axes: Sequence[_Axis]) -> Tensor:
    """The image's voxels along the network's axes, float32."""
    array_XYZ = image.array_ZYX.T.transpose([axis.image_axis for axis in axes])
    array = array_XYZ[tuple(slice(None, None, -1 if axis.flipped else 1) for axis in axes)]
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C", copy=True))  # what follows works in place


def _resampled(array: Tensor, places: Sequence[Tensor], axes: Sequence[_Axis]) -> Tensor:
    """Linear interpolation (X, Y, Z) at these places along each axis; what lies outside takes the border's value."""
    order = sorted(range(3), key=lambda axis: len(places[axis]) / array.shape[axis])  # fewest voxels first
    for axis in order:
        if not axes[axis].same:
            array = _along(array, axis, places[axis])
    return array


def _along(array: Tensor, axis: int, at: Tensor) -> Tensor:
    """Linear interpolation along one axis."""
    last = array.shape[axis] - 1
    at = at.clamp(0, last)
    low = at.floor().long().clamp_max(max(last - 1, 0))
    share = (at - low).to(array.dtype).view([-1 if place == axis else 1 for place in range(array.ndim)])
    below = array.index_select(axis, low)
    return below.lerp_(array.index_select(axis, (low + 1).clamp_max(last)), share.expand_as(below))


def _normalised(image: Tensor, normalise: Config) -> Tensor:
    """The image (C, X, Y, Z) as MONAI normalises it, in place."""
    if normalise["_target_"] == "NormalizeIntensityd":
        parts = image if normalise.get("channel_wise") else [image]
        for part in parts:
            deviation = float(part.std(unbiased=False))
            part.sub_(float(part.mean())).div_(deviation if deviation else 1.0)
        return image
    low, high = normalise["b_min"], normalise["b_max"]
    image.sub_(normalise["a_min"]).div_(normalise["a_max"] - normalise["a_min"])
    return image.mul_(high - low).add_(low).clamp_(low, high)


def _foreground(scores: Tensor) -> list[tuple[int, int]] | None:
    """First and last voxel along each axis at which any structure beats background; None where none does."""
    beats = scores[1] > scores[0]
    for channel in scores[2:]:
        beats |= channel > scores[0]
    flat = beats.numpy()
    box = []
    for axis in range(3):
        found = np.flatnonzero(flat.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(found):
            return None
        box.append((int(found[0]), int(found[-1])))
    return box


def _reached(at: Tensor, edge: tuple[int, int]) -> tuple[int, int]:
    """Which of the places, ascending, have a neighbour from `edge`."""
    first, last = edge
    near = torch.nonzero((at > first - 1) & (at < last + 1)).flatten()
    return (int(near[0]), int(near[-1]) + 1) if len(near) else (0, 0)


def _slabs(box: Sequence[tuple[int, int]]) -> list[tuple[slice, ...]]:
    """The box in slabs across its first axis."""
    (start, stop), *others = box
    across = int(np.prod([high - low for low, high in others]))
    thick = max(1, _SLAB_VOXELS // across)
    rest = tuple(slice(low, high) for low, high in others)
    return [(slice(at, min(at + thick, stop)), *rest) for at in range(start, stop, thick)]


def _chosen(scores: Tensor, values: Sequence[int], places: Sequence[Tensor], axes: Sequence[_Axis]) -> Tensor:
    """The value of the channel with the highest interpolated score at each of the places, of equals the first's."""
    part = tuple(
        slice(int(at.min().floor()), min(int(at.max().ceil()) + 1, size))
        for at, size in zip(places, scores.shape[1:], strict=True)
    )
    near = [at - edge.start for at, edge in zip(places, part, strict=True)]
    best = _resampled(scores[0][part], near, axes)
    chosen = torch.full(best.shape, values[0], dtype=torch.uint8)
    for channel in range(1, len(scores)):
        score = _resampled(scores[channel][part], near, axes)
        chosen.masked_fill_(score > best, values[channel])
        best = torch.maximum(best, score)
    return chosen
