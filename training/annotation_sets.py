"""Labelled cases to simulate annotation with: a folder of images and labels in; a pool and a test set out.

The pool's labels play the readers: whoever "reads" a case is given its label. The test set is the same for everybody
and nobody chooses from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from labeling_protocols.geometry import Volume
from labeling_protocols.volumes import read_volume

HIPPOCAMPUS_VALUES = {"anterior": 1, "posterior": 2}
_HIPPOCAMPUS_MM = 2.0  # half the resolution it comes in: a training within seconds, and both structures are kept
_TEST_SHARE = 0.25
_SPLIT_SEED = 11


@dataclass(frozen=True, kw_only=True)
class LabelledCase:
    """An image with what a reader would draw on it, on the same grid."""

    case: str
    image: Volume
    label: Volume


@dataclass(frozen=True, kw_only=True)
class AnnotationSet:
    """`values` are the structures' voxel values by name; `counted` are those whose every lesion costs time of its own.

    `spacing_mm_RAS` and `patch_RAS` suit a network that is trained within seconds.
    """

    name: str
    values: Mapping[str, int]
    counted: frozenset[str]
    spacing_mm_RAS: tuple[float, float, float]
    patch_RAS: tuple[int, int, int]
    pool: Sequence[LabelledCase]
    test: Sequence[LabelledCase]


def hippocampus(folder: Path) -> AnnotationSet:
    """The cases of `folder`/images and /labels at 2 mm; a quarter of them, drawn once and for all, are the test set."""
    names = sorted(path.name for path in (folder / "images").iterdir())
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(names)).tolist()
    cases = [_coarse(folder, names[place], f"{number:03d}") for number, place in enumerate(order)]
    held_out = round(len(cases) * _TEST_SHARE)
    return AnnotationSet(
        name="hippocampus",
        values=HIPPOCAMPUS_VALUES,
        counted=frozenset(),
        spacing_mm_RAS=(_HIPPOCAMPUS_MM,) * 3,
        patch_RAS=(20, 28, 20),
        pool=tuple(cases[held_out:]),
        test=tuple(cases[:held_out]),
    )


def _coarse(folder: Path, name: str, case: str) -> LabelledCase:
    image, label = (read_volume(folder / kind / name) for kind in ("images", "labels"))
    smooth = sitk.SmoothingRecursiveGaussian(sitk.Cast(image.to_sitk(), sitk.sitkFloat32), _HIPPOCAMPUS_MM / 2)
    drawn = sitk.Cast(label.to_sitk(), sitk.sitkUInt8)
    return LabelledCase(
        case=case,
        image=_resampled(smooth, sitk.sitkLinear),
        label=_resampled(drawn, sitk.sitkNearestNeighbor),
    )


def _resampled(image: sitk.Image, interpolation: int) -> Volume:
    """On a grid with the same first corner that covers as much."""
    size = [
        max(1, round(n * spacing / _HIPPOCAMPUS_MM))
        for n, spacing in zip(image.GetSize(), image.GetSpacing(), strict=True)
    ]
    shift = [(_HIPPOCAMPUS_MM - spacing) / 2 for spacing in image.GetSpacing()]
    direction = np.reshape(image.GetDirection(), (3, 3))
    origin = np.asarray(image.GetOrigin()) + direction @ shift
    return Volume.from_sitk(
        sitk.Resample(
            image,
            size,
            sitk.Transform(),
            interpolation,
            origin.tolist(),
            [_HIPPOCAMPUS_MM] * 3,
            image.GetDirection(),
            0.0,
            image.GetPixelID(),
        )
    )
