"""Our own way of preparing an image and restoring an answer gives what MONAI gives for the same configuration."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from labeling_protocols.geometry import Geometry, Volume
from tests.training.drawn import small_plan
from training.fast_preparation import FastPreparation, MonaiPreparation, preparation_of
from training.plan import Normalisation
from training.preparation import prepare_config, restore_config

VALUES = (0, 7, 200)


def turn(degrees: float, axis: int) -> NDArray[np.float64]:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    i, j = (n for n in range(3) if n != axis)
    matrix[i, i], matrix[j, j], matrix[i, j], matrix[j, i] = cos, cos, -sin, sin
    return matrix


SAGITTAL = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
# Shape (z, y, x), spacing (x, y, z) in mm, axes; the plan's spacing is 1.5 mm.
GRIDS: dict[str, tuple[tuple[int, int, int], tuple[float, float, float], NDArray[np.float64]]] = {
    "the network's own": ((18, 20, 22), (1.5, 1.5, 1.5), np.diag([-1.0, -1.0, 1.0])),
    "flipped": ((18, 20, 22), (1.5, 1.5, 1.5), np.diag([1.0, -1.0, -1.0])),
    "left-handed": ((17, 20, 22), (1.5, 1.5, 1.5), np.diag([1.0, 1.0, -1.0])),
    "sagittal": ((17, 21, 22), (1.5, 1.5, 1.5), SAGITTAL),
    "anisotropic": ((9, 31, 24), (0.8, 1.1, 4.0), np.eye(3)),
    "coarse": ((7, 9, 8), (4.0, 3.3, 5.0), np.diag([-1.0, 1.0, -1.0])),
    "oblique": ((16, 20, 21), (1.5, 1.5, 1.5), turn(25, 2) @ turn(-15, 0)),
    "oblique, flipped and anisotropic": ((12, 20, 33), (1.0, 2.0, 1.7), turn(30, 1) @ np.diag([1.0, -1.0, -1.0])),
    "sagittal, oblique and fine": ((40, 21, 35), (0.7, 0.9, 0.6), SAGITTAL @ turn(12, 1)),
    "within a thousandth of the network's own": ((18, 20, 22), (1.5004, 1.4996, 1.5), np.eye(3)),
    "one slice": ((1, 20, 22), (1.2, 1.5, 8.0), np.eye(3)),
    "one slice, flipped": ((1, 20, 22), (1.5, 1.5, 8.0), np.diag([-1.0, -1.0, -1.0])),
    "one column, flipped": ((9, 1, 1), (1.5, 2.3, 2.3), np.diag([1.0, 1.0, -1.0])),
}


def grid(name: str) -> Geometry:
    shape, spacing, axes = GRIDS[name]
    return Geometry(
        shape_ZYX=shape,
        spacing_mm_XYZ=spacing,
        origin_mm_LPS=(10.0, -7.0, 30.0),
        direction_LPS=tuple(float(v) for v in axes.ravel()),
    )


def config(normalisation: Normalisation = Normalisation.ZSCORE) -> dict[str, Any]:
    figures = {"intensity_low": -150.0, "intensity_high": 250.0, "intensity_mean": 40.0, "intensity_std": 90.0}
    plan = small_plan(values=VALUES, normalisation=normalisation, **figures)
    return {
        "prepare": prepare_config(plan),
        "restore": {"_target_": "Compose", "transforms": restore_config(plan)},
    }


def image_on(geometry: Geometry) -> Volume:
    random = np.random.default_rng(7)
    return Volume(array_ZYX=random.normal(50, 120, geometry.shape_ZYX).astype(np.int16), geometry=geometry)


def blobs(shape: tuple[int, ...], seed: int = 0, background: float = 0.5) -> Tensor:
    """Scores (3, *shape) that vary smoothly, so that borders between structures run everywhere."""
    coarse = [max(2, edge // 5) for edge in shape]
    drawn = torch.randn(1, 3, *coarse, generator=torch.Generator().manual_seed(seed))
    scores = F.interpolate(drawn, size=shape, mode="trilinear")[0]
    scores[0] += background
    return scores


@pytest.mark.parametrize("normalisation", Normalisation)
@pytest.mark.parametrize("name", GRIDS)
def test_an_image_is_prepared_as_monai_does(name: str, normalisation: Normalisation) -> None:
    image = image_on(grid(name))
    ours, monais = preparation_of(config(normalisation)), MonaiPreparation(config(normalisation))
    assert isinstance(ours, FastPreparation)
    mine, theirs = ours.prepare([image]), monais.prepare([image])
    assert mine.shape == theirs.shape
    torch.testing.assert_close(mine.as_tensor(), theirs.as_tensor(), rtol=0, atol=1e-5)
    torch.testing.assert_close(mine.affine, theirs.affine, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", GRIDS)
def test_an_answer_comes_back_to_the_image_as_through_monai(name: str) -> None:
    geometry = grid(name)
    ours, monais = preparation_of(config()), MonaiPreparation(config())
    prepared = monais.prepare([image_on(geometry)])
    scores = blobs(prepared.shape[1:])
    expected = monais.label(scores, prepared, geometry)
    label = ours.label(scores, prepared, geometry)
    assert label.shape == geometry.shape_ZYX
    assert label.dtype == np.uint8
    assert set(np.unique(expected)) <= set(VALUES)
    assert (expected != 0).any()
    assert np.count_nonzero(label != expected) <= 1e-4 * label.size  # ties that rounding decides
    torch.testing.assert_close(
        ours.on_image(scores, prepared, geometry), monais.on_image(scores, prepared, geometry), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "corner"), list(itertools.product(["anisotropic", "oblique", "coarse"], [True, False]))
)
def test_a_small_structure_is_restored_whole_in_a_corner_and_inside(name: str, corner: bool) -> None:
    geometry = grid(name)
    ours, monais = preparation_of(config()), MonaiPreparation(config())
    prepared = monais.prepare([image_on(geometry)])
    scores = blobs(prepared.shape[1:], background=50.0)
    place = tuple(slice(0, 2) if corner else slice(edge // 2, edge // 2 + 2) for edge in prepared.shape[1:])
    scores[2][place] += 100
    expected = monais.label(scores, prepared, geometry)
    assert set(np.unique(expected)) == {0, 200}
    np.testing.assert_array_equal(ours.label(scores, prepared, geometry), expected)


def test_the_image_itself_stays_as_it_was_whatever_its_order_in_memory() -> None:
    geometry = grid("the network's own")
    voxels = np.asfortranarray(image_on(geometry).array_ZYX.astype(np.float32))
    before = voxels.copy()
    preparation_of(config()).prepare([Volume(array_ZYX=voxels, geometry=geometry)])
    np.testing.assert_array_equal(voxels, before)


def test_where_nothing_beats_background_the_label_is_empty() -> None:
    geometry = grid("anisotropic")
    ours = preparation_of(config())
    prepared = ours.prepare([image_on(geometry)])
    scores = torch.zeros(3, *prepared.shape[1:])  # equal everywhere: background comes first
    assert not ours.label(scores, prepared, geometry).any()


def test_a_large_answer_is_restored_in_slabs_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = grid("sagittal, oblique and fine")
    ours = preparation_of(config())
    prepared = ours.prepare([image_on(geometry)])
    scores = blobs(prepared.shape[1:], seed=3)
    at_once = ours.label(scores, prepared, geometry)
    monkeypatch.setattr("training.fast_preparation._SLAB_VOXELS", 500)
    np.testing.assert_array_equal(ours.label(scores, prepared, geometry), at_once)


def test_channels_of_a_case_are_each_prepared_alike() -> None:
    geometry = grid("oblique")
    first, second = image_on(geometry), replace(image_on(geometry), array_ZYX=image_on(geometry).array_ZYX[::-1])
    with_channels = config()
    with_channels["prepare"]["transforms"][2]["channel_wise"] = True
    ours = preparation_of(with_channels)
    assert isinstance(ours, FastPreparation)
    both = ours.prepare([first, second])
    torch.testing.assert_close(both[:1].as_tensor(), ours.prepare([first]).as_tensor())
    torch.testing.assert_close(both[1:].as_tensor(), ours.prepare([second]).as_tensor())


FOREIGN = {
    "another orientation": ("prepare", 0, "axcodes", "LPS"),
    "nearest neighbours": ("prepare", 1, "mode", ["nearest"]),
    "an argument more": ("prepare", 1, "padding_mode", "zeros"),
    "intensities that are no zero": ("prepare", 2, "nonzero", True),
    "another transform": ("prepare", 2, "_target_", "ScaleIntensityd"),
    "labels interpolated": ("restore", 0, "nearest_interp", True),
    "a threshold": ("restore", 1, "threshold", 0.5),
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN)
def test_a_configuration_that_is_not_ours_is_left_to_monai(change: tuple[str, int, str, Any]) -> None:
    part, number, key, value = change
    foreign = config()
    foreign[part]["transforms"][number] = {**foreign[part]["transforms"][number], key: value}
    assert preparation_of(config()).__class__ is FastPreparation
    if key == "_target_":
        foreign[part]["transforms"][number] = {"_target_": value, "keys": ["image"]}
    assert preparation_of(foreign).__class__ is MonaiPreparation


def test_a_bundle_without_these_entries_is_left_to_monai() -> None:
    foreign = config()
    foreign["prepare"]["transforms"].append({"_target_": "EnsureTyped", "keys": ["image"]})
    assert isinstance(preparation_of(foreign), MonaiPreparation)
