"""Plans: derived from the fingerprint, overridable by value, refused where impossible."""

import numpy as np
import pytest
import torch

from labeling_protocols.geometry import Geometry, Volume
from tests.training.drawn import draw, small_plan, turned
from training.networks import NETWORKS, build_network
from training.plan import (
    CPU_BUDGET,
    Fingerprint,
    Normalisation,
    Plan,
    PlanError,
    Precision,
    canonical_grid,
    make_plan,
    override,
    take_fingerprint,
)


def fingerprint(
    shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), cases: int = 40
) -> Fingerprint:
    return Fingerprint(
        cases=cases,
        spacing_mm_RAS=spacing,
        shape_RAS=shape,
        shape_max_RAS=shape,
        intensity_mean=40.0,
        intensity_std=20.0,
        intensity_low=-100.0,
        intensity_high=200.0,
    )


def plan_of(seen: Fingerprint, modality: str = "MR") -> Plan:
    return make_plan(seen, values={"one": 1, "two": 2}, modality=modality, precision=Precision.FP32)


def test_a_small_volume_is_taken_whole() -> None:
    plan = plan_of(fingerprint((43, 59, 47)))
    assert plan.patch_RAS == (48, 64, 48)
    assert plan.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert len(plan.channels) == 4


def test_a_large_volume_is_cut_to_the_memory_limit_with_edges_the_strides_divide() -> None:
    plan = plan_of(fingerprint((512, 512, 300), (0.7, 0.7, 1.0)))
    assert 0.4 * CPU_BUDGET.patch_voxels < np.prod(plan.patch_RAS) <= CPU_BUDGET.patch_voxels
    factor = np.prod(plan.strides, axis=0)
    assert all(edge % by == 0 for edge, by in zip(plan.patch_RAS, factor, strict=True))


def test_thick_slices_are_not_pooled_before_pixels_have_become_as_coarse() -> None:
    plan = plan_of(fingerprint((128, 128, 12), (0.9, 0.9, 5.0)))
    assert plan.strides[1] == (2, 2, 1)
    assert plan.strides[2] == (2, 2, 1)


def test_fewer_cases_are_shown_more_often() -> None:
    assert plan_of(fingerprint((40, 40, 40), cases=20)).epochs > plan_of(fingerprint((40, 40, 40), cases=200)).epochs


def test_ct_is_scaled_by_its_units_and_mr_by_each_image() -> None:
    assert plan_of(fingerprint((40, 40, 40)), "MR").normalisation is Normalisation.ZSCORE
    assert plan_of(fingerprint((40, 40, 40)), "CT").normalisation is Normalisation.CT


def test_the_fingerprint_looks_at_axes_in_the_patient_not_in_the_file() -> None:
    # The file's first axis runs head to foot, its second to the right, its third forwards.
    sagittal = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]])
    grid = turned(sagittal, (3.0, 1.5, 1.0))
    assert canonical_grid(grid) == ((20, 30, 10), (1.5, 1.0, 3.0))
    image, label = draw(0, grid)
    seen = take_fingerprint([(image, label)], {"ball": 1})
    assert seen.spacing_mm_RAS == (1.5, 1.0, 3.0)
    assert seen.shape_max_RAS == (20, 30, 10)
    assert seen.share == {"ball": np.count_nonzero(label.array_ZYX == 1) / label.array_ZYX.size}


def test_the_fingerprint_takes_the_median_spacing_and_the_median_and_largest_shape_at_it() -> None:
    volumes = [
        Volume(
            array_ZYX=np.ones((10, 10, size), dtype=np.float32),
            geometry=Geometry(
                shape_ZYX=(10, 10, size),
                spacing_mm_XYZ=(spacing, 1.0, 1.0),
                origin_mm_LPS=(0.0, 0.0, 0.0),
                direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
            ),
        )
        for size, spacing in ((10, 1.0), (20, 2.0), (30, 4.0))
    ]
    seen = take_fingerprint(zip(volumes, volumes, strict=True))
    assert seen.spacing_mm_RAS == (2.0, 1.0, 1.0)
    assert seen.shape_RAS == (20, 10, 10)
    assert seen.shape_max_RAS == (60, 10, 10)  # 30 voxels of 4 mm


def test_an_override_replaces_one_value_and_the_plan_survives_its_file() -> None:
    plan = override(small_plan(), {"epochs": 7, "network": "DynUNet"})
    assert (plan.epochs, plan.network, plan.batch) == (7, "DynUNet", small_plan().batch)
    assert Plan.from_json(plan.as_json()) == plan


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epoch": 3}, "no value 'epoch'"),
        ({"epochs": 0}, "epochs.*found 0"),
        ({"patch_RAS": (8, 8)}, "patch_RAS"),
    ],
)
def test_an_impossible_override_is_refused_by_name(values: dict[str, object], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        override(small_plan(), values)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_answers_each_voxel_with_a_score_for_each_value(name: str) -> None:
    plan = small_plan(network=name, channels=(8, 8, 8), values=(0, 1, 7), patch_RAS=(32, 32, 32))
    scores = build_network(plan).eval()(torch.zeros(1, 1, 32, 32, 64))
    assert scores.shape == (1, 3, 32, 32, 64)


def test_an_unknown_network_is_refused_by_name() -> None:
    with pytest.raises(PlanError, match=r"unknown network 'ResUNet'.*DynUNet, UNet, SegResNet, SwinUNETR"):
        build_network(small_plan(network="ResUNet"))
