"""How to train: a snapshot's fingerprint in, a `Plan` out; each value can be overridden and is kept with the run.

The rules follow nnU-Net (Isensee et al., Nature Methods 2021): the median spacing, a patch as near to the median volume
as memory allows, and as many downsamplings as the patch bears. Axes are those of the volume turned to RAS.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from labeling_protocols.channels import Images, channels_of
from labeling_protocols.geometry import Geometry, Volume

_STRICT = ConfigDict(extra="forbid")
_Positive = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=1)]
_Spacing = tuple[_Positive, _Positive, _Positive]
_Size = tuple[_Count, _Count, _Count]
Intensity = tuple[float, float, float, float]
"""Mean, standard deviation, and the 0.5 and 99.5 % points of one channel's values."""

_DOWNSAMPLINGS_MAX = 5
_EDGE_MIN = 4  # voxels that the coarsest feature map keeps along each axis
_EPOCHS = (40, 500)
_AVERAGE = 0.99  # decay of the weights' moving average, a step


class PlanError(ValueError):
    """An override that names no value of a plan, or gives it an impossible one."""


class Normalisation(StrEnum):
    """What makes intensities comparable."""

    ZSCORE = "zscore"  # each image by its own mean and deviation: MR has no unit
    CT = "ct"  # clipped to, and scaled by, what the training images' structures show: Hounsfield units are absolute


class Precision(StrEnum):
    FP32 = "fp32"
    BF16 = "bf16"


class ModelTask(StrEnum):
    """What a model answers, and so what it is trained with."""

    SEGMENTATION = "segmentation"
    INTERACTIVE = "interactive"  # segmentation that clicks correct
    DETECTION = "detection"  # boxes with scores
    CLASSIFICATION = "classification"  # one of the answers to a question about the case


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a device bears: voxels of a patch, channels of a network's stages, patches that a training shows."""

    patch_voxels: int
    channels: tuple[int, ...]
    patches: int


# A step within seconds on two cores and within 2 GB; for volumes of 50³ about a quarter of an hour in all.
CPU_BUDGET = Budget(patch_voxels=64**3, channels=(16, 32, 64, 128, 192, 256), patches=6000)
# nnU-Net's widths; within 12 GB at a batch of two in bfloat16.
GPU_BUDGET = Budget(patch_voxels=128**3, channels=(32, 64, 128, 256, 320, 320), patches=100_000)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Fingerprint:
    """What a plan depends on, over the training cases: medians of spacing and shape, intensities inside structures."""

    cases: _Count
    spacing_mm_RAS: _Spacing
    shape_RAS: _Size
    shape_max_RAS: _Size
    intensity_mean: float
    intensity_std: float
    intensity_low: float
    intensity_high: float
    share: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Mean share of the voxels that each structure has."""
    further_intensities: tuple[Intensity, ...] = ()
    """Of each channel after the first."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Plan:
    """Everything that decides a training besides its data.

    `targets` names what is learned: the structures by network channel after background, the boxed structures, or the
    options of `question`. `values` are voxel values by network channel, background first; of a detection those of the
    boxed structures, of a classification none. `strides` are those of each stage, the first of 1. `patience` is how
    many looks at the validation cases without a better score end the training, which then keeps its best weights;
    without it all epochs are trained and the last weights kept. `average` is the decay of the weights' moving average,
    which is what is validated and kept; 0 for none. `mirror_axes` (of R, A, S) are those along which patches are
    mirrored. `anchors_mm` are the edges of the boxes that a detection starts from. `inputs` names the channels of the
    image in their order, none where there is one image; intensities are those of the first, `further_intensities` of
    the others.
    """

    task: ModelTask = ModelTask.SEGMENTATION
    targets: tuple[str, ...]
    question: str = ""
    values: tuple[int, ...]
    spacing_mm_RAS: _Spacing
    patch_RAS: _Size
    normalisation: Normalisation
    intensity_mean: float
    intensity_std: _Positive
    intensity_low: float
    intensity_high: float
    network: str
    channels: Annotated[tuple[_Count, ...], Field(min_length=3)]
    strides: Annotated[tuple[_Size, ...], Field(min_length=3)]
    batch: _Count
    epochs: _Count
    learning_rate: _Positive
    weight_decay: Annotated[float, Field(ge=0)]
    validate_every: _Count
    patience: _Count | None = None
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    deep_supervision: bool = False
    mirror_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()
    anchors_mm: tuple[_Spacing, ...] = ()
    precision: Precision
    window_overlap: Annotated[float, Field(ge=0, lt=1)]
    seed: int
    inputs: tuple[str, ...] = ()
    further_intensities: tuple[Intensity, ...] = ()

    @property
    def channels_in(self) -> int:
        """How many images of one grid the network is shown together."""
        return max(1, len(self.inputs))

    @property
    def channels_out(self) -> int:
        """How many scores a voxel gets: background and the structures."""
        return len(self.targets) + 1

    def as_json(self) -> str:
        left_out = None if self.inputs else {"inputs", "further_intensities"}  # as plans were before there were several
        return _ADAPTER.dump_json(self, indent=2, exclude=left_out).decode() + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        return _ADAPTER.validate_json(text)


_ADAPTER: TypeAdapter[Plan] = TypeAdapter(Plan)


def take_fingerprint(
    cases: Iterable[tuple[Images, Volume]], values: Mapping[str, int] = MappingProxyType({})
) -> Fingerprint:
    """The fingerprint of training cases, each an image, or its channels, with its label, one after the other.

    `values` are the structures' by name. Intensities are those inside structures, or of a whole image where nothing is
    outlined.
    """
    grids, inside, shares = [], [], []
    for images, label in cases:
        channels = channels_of(images)
        grids.append(canonical_grid(channels[0].geometry))
        inside.append([_inside(channel, label) for channel in channels])
        shares.append([np.count_nonzero(label.array_ZYX == value) / label.array_ZYX.size for value in values.values()])
    spacing_mm = np.median([spacing for _, spacing in grids], axis=0)
    shapes = [np.ceil(np.multiply(shape, spacing) / spacing_mm) for shape, spacing in grids]
    (mean, std, low, high), *further = (_intensity(np.concatenate(of)) for of in zip(*inside, strict=True))
    return Fingerprint(
        cases=len(grids),
        spacing_mm_RAS=_three(spacing_mm),
        shape_RAS=_sizes(np.ceil(np.median(shapes, axis=0))),
        shape_max_RAS=_sizes(np.max(shapes, axis=0)),
        intensity_mean=mean,
        intensity_std=std,
        intensity_low=low,
        intensity_high=high,
        share=dict(zip(values, np.mean(shares, axis=0).tolist(), strict=True)),
        further_intensities=tuple(further),
    )


def make_plan(
    fingerprint: Fingerprint,
    *,
    values: Mapping[str, int],
    modality: str,
    precision: Precision,
    task: ModelTask = ModelTask.SEGMENTATION,
    question: str = "",
    mirror_axes: tuple[int, ...] = (),
    budget: Budget = CPU_BUDGET,
    inputs: tuple[str, ...] = (),
) -> Plan:
    """The plan for this fingerprint; `values` are the voxel values of what is learned, by name."""
    patch, strides = _patch_and_strides(fingerprint.shape_RAS, fingerprint.spacing_mm_RAS, budget.patch_voxels)
    low, high = _EPOCHS
    of_channels = {ModelTask.DETECTION: tuple(values.values()), ModelTask.CLASSIFICATION: ()}
    return Plan(
        task=task,
        question=question,
        targets=tuple(values),
        values=of_channels.get(task, (0, *values.values())),
        mirror_axes=mirror_axes,
        spacing_mm_RAS=fingerprint.spacing_mm_RAS,
        patch_RAS=patch,
        normalisation=Normalisation.CT if modality == "CT" else Normalisation.ZSCORE,
        intensity_mean=fingerprint.intensity_mean,
        intensity_std=fingerprint.intensity_std or 1.0,
        intensity_low=fingerprint.intensity_low,
        intensity_high=fingerprint.intensity_high,
        network="DynUNet",
        channels=budget.channels[: len(strides)],
        strides=strides,
        batch=2,
        epochs=min(max(budget.patches // fingerprint.cases, low), high),
        learning_rate=2e-3,
        weight_decay=1e-2,
        validate_every=10,
        average=_AVERAGE,
        precision=precision,
        window_overlap=0.5,
        seed=20,
        inputs=inputs,
        further_intensities=tuple((m, s or 1.0, low, high) for m, s, low, high in fingerprint.further_intensities),
    )


def override(plan: Plan, values: Mapping[str, Any]) -> Plan:
    """The plan with these values instead of its own; raises `PlanError` naming what cannot be."""
    known = [field.name for field in dataclasses.fields(plan)]
    for name in values:
        if name not in known:
            raise PlanError(f"a plan has no value {name!r}; it has {', '.join(known)}. Nothing was trained.")
    try:
        return _ADAPTER.validate_python({**_ADAPTER.dump_python(plan), **values})
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, found {e['input']!r}" for e in error.errors())
        raise PlanError(f"the plan's overrides cannot be: {found}. Nothing was trained.") from error


def canonical_grid(geometry: Geometry) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Shape and spacing (mm) along R, A and S of a grid turned to RAS."""
    to_RAS = nib.orientations.io_orientation(geometry.affine_RAS())[:, 0].astype(int)
    order = np.argsort(to_RAS)
    shape = np.asarray(geometry.shape_ZYX[::-1])[order]
    spacing_mm = np.asarray(geometry.spacing_mm_XYZ)[order]
    return tuple(int(n) for n in shape), tuple(float(s) for s in spacing_mm)


def _inside(image: Volume, label: Volume) -> NDArray[np.float64]:
    """Intensities of at most 10,000 voxels inside structures, evenly spread."""
    voxels = image.array_ZYX[label.array_ZYX != 0]
    voxels = voxels if voxels.size else image.array_ZYX.ravel()
    return voxels[:: max(1, voxels.size // 10_000)].astype(np.float64)


def _intensity(voxels: NDArray[np.float64]) -> Intensity:
    low, high = np.percentile(voxels, (0.5, 99.5))
    return float(voxels.mean()), float(voxels.std()), float(low), float(high)


def _patch_and_strides(shape: _Size, spacing_mm: _Spacing, voxels_max: int) -> tuple[_Size, tuple[_Size, ...]]:
    """The largest patch within the voxel limit, its longest axis cut first, and how each stage divides it.

    An axis is left alone while its spacing is more than twice the finest one: 5 mm slices are not pooled like pixels.
    """
    patch = np.asarray(shape, dtype=int)
    while True:
        strides = _strides(patch, np.asarray(spacing_mm))
        factor = np.prod(strides, axis=0)
        padded = np.maximum(np.ceil(patch / factor).astype(int) * factor, factor)
        if padded.prod() <= voxels_max:
            return _sizes(padded), tuple(_sizes(stride) for stride in strides)
        longest = int(np.argmax(padded * np.asarray(spacing_mm)))
        patch = np.minimum(patch, padded)
        patch[longest] = max(patch[longest] - factor[longest], 1)


def _strides(patch: NDArray[Any], spacing_mm: NDArray[Any]) -> list[NDArray[Any]]:
    size, spacing, strides = patch.astype(float), spacing_mm.copy(), [np.ones(3, dtype=int)]
    while len(strides) <= _DOWNSAMPLINGS_MAX:
        halve = (size / 2 >= _EDGE_MIN) & (spacing <= 2 * spacing.min())
        if not halve.any():
            break
        stride = np.where(halve, 2, 1)
        size, spacing = size / stride, spacing * stride
        strides.append(stride)
    return strides


def _sizes(values: NDArray[Any]) -> _Size:
    x, y, z = (int(n) for n in values)
    return (x, y, z)


def _three(values: NDArray[Any]) -> _Spacing:
    x, y, z = (round(float(v), 4) for v in values)
    return (x, y, z)
