"""A bundle's model on any grid: the label lies where the structure lies in the patient."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray

from labeling_protocols.agreement import dice
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.volumes import read_volume, write_volume
from tests.training.conftest import KEY
from tests.training.drawn import STRAIGHT, draw, turned
from training.bundle import CONFIG, WEIGHTS, BundleError, open_bundle, write_bundle
from training.inference import Predictor
from training.model_card import Candidate, bundle_parts, inference_config
from training.plan import Normalisation
from training.segmentation_inference import Segmenter


def rotation(degrees: float, axis: int) -> NDArray[np.float64]:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    i, j = (n for n in range(3) if n != axis)
    matrix[i, i], matrix[j, j], matrix[i, j], matrix[j, i] = cos, cos, -sin, sin
    return matrix


GRIDS = {
    "straight": STRAIGHT,
    "flipped": turned(np.diag([-1.0, 1.0, -1.0]), (1.5, 1.5, 1.5)),
    "left-handed": turned(np.diag([1.0, 1.0, -1.0]), (1.5, 1.5, 1.5)),
    "sagittal": turned(np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), (1.5, 1.5, 1.5)),
    "anisotropic": turned(np.eye(3), (1.0, 1.2, 3.0)),
    "oblique": turned(rotation(25, 2) @ rotation(-15, 0), (1.5, 1.5, 1.5)),
    "oblique, flipped and anisotropic": turned(rotation(30, 1) @ np.diag([1.0, -1.0, -1.0]), (1.0, 2.0, 1.5)),
}


@pytest.fixture(scope="module")
def predictor(bundle_path: Path) -> Predictor:
    return Predictor(open_bundle(bundle_path, KEY.public_key()), "cpu")


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_the_label_lies_on_the_structures_in_the_patient(grid: Geometry, predictor: Predictor) -> None:
    image, truth = draw(20, grid)
    label = predictor.predict(image)
    assert label.geometry == image.geometry
    assert label.array_ZYX.dtype == np.uint8
    for value in predictor.values.values():
        assert dice(label.array_ZYX == value, truth.array_ZYX == value) > 0.7
        mirrored = truth.array_ZYX[:, :, ::-1] == value
        assert dice(label.array_ZYX == value, mirrored) < 0.4


def test_a_bundle_says_its_name_and_its_structures(predictor: Predictor) -> None:
    assert predictor.name == "hippocampus-segmentation 1.0.7"
    assert predictor.values == {"anterior": 1, "posterior": 2}


def test_labels_come_back_in_the_values_of_the_protocol(candidate: Candidate) -> None:
    plan = replace(candidate.plan, values=(0, 7, 200))
    image, _ = draw(21)
    found = Segmenter(inference_config(plan), candidate.weights, torch.device("cpu")).predict(image)
    assert set(np.unique(found.array_ZYX)) == {0, 7, 200}


def test_an_image_larger_than_the_patch_is_covered_by_several_windows(candidate: Candidate) -> None:
    config = inference_config(replace(candidate.plan, patch_RAS=(16, 16, 16)))
    image, truth = draw(22)
    label = Segmenter(config, candidate.weights, torch.device("cpu")).predict(image)
    for value in (1, 2):
        assert dice(label.array_ZYX == value, truth.array_ZYX == value) > 0.7


def test_several_threads_get_the_answers_one_would(predictor: Predictor) -> None:
    images = [draw(seed, grid)[0] for seed, grid in enumerate(GRIDS.values())]
    alone = [predictor.predict(image).array_ZYX for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = [label.array_ZYX for label in pool.map(predictor.predict, images)]
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_constant_image_gives_a_label_and_no_error(predictor: Predictor) -> None:
    flat = Volume(array_ZYX=np.full(STRAIGHT.shape_ZYX, 7, dtype=np.int16), geometry=STRAIGHT)
    assert predictor.predict(flat).geometry == STRAIGHT


def test_ct_is_clipped_and_scaled_by_the_plans_figures(candidate: Candidate) -> None:
    figures = {"intensity_low": -100.0, "intensity_high": 300.0, "intensity_mean": 50.0, "intensity_std": 100.0}
    plan = replace(candidate.plan, normalisation=Normalisation.CT, **figures)
    (scale,) = inference_config(plan)["prepare"]["transforms"][2:]
    assert (scale["b_min"], scale["b_max"]) == (-1.5, 2.5)


@pytest.mark.parametrize("lacking", ["a tensor", "all tensors", "a right shape"])
def test_weights_that_do_not_fill_the_network_are_refused(lacking: str, candidate: Candidate, tmp_path: Path) -> None:
    weights = dict(candidate.weights)
    first = sorted(weights)[0]
    if lacking == "a tensor":
        del weights[first]
    elif lacking == "all tensors":
        weights = {}
    else:
        weights[first] = torch.zeros(3)
    parts = {**bundle_parts(candidate), WEIGHTS: safetensors.torch.save(weights)}
    path = write_bundle(parts, name=candidate.name, folder=tmp_path, signing_key=KEY)
    with pytest.raises(BundleError, match="not those of the configured network"):
        Predictor(open_bundle(path, KEY.public_key()), "cpu")


def test_weights_that_are_no_safetensors_are_refused(candidate: Candidate, tmp_path: Path) -> None:
    parts = bundle_parts(candidate)
    parts[WEIGHTS] = parts["models/model.pt"]  # a pickle
    path = write_bundle(parts, name=candidate.name, folder=tmp_path, signing_key=KEY)
    with pytest.raises(BundleError, match="not a safetensors file"):
        Predictor(open_bundle(path, KEY.public_key()), "cpu")


@pytest.mark.slow
def test_monai_alone_runs_the_bundle_and_gives_the_same_label(predictor: Predictor, tmp_path: Path) -> None:
    image, _ = draw(23, GRIDS["oblique"])
    (tmp_path / "in").mkdir()
    write_volume(image, tmp_path / "in" / "drawn.nii.gz")
    folder = predictor.bundle.folder
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "monai.bundle", "run", "--config_file", str(folder / CONFIG)),
            *("--bundle_root", str(folder), "--dataset_dir", str(tmp_path / "in")),
            *("--output_dir", str(tmp_path / "out")),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    (written,) = (tmp_path / "out").rglob("*.nii.gz")
    label = read_volume(written)
    assert image.geometry.difference(label.geometry) is None
    assert np.array_equal(label.array_ZYX, predictor.predict(read_volume(tmp_path / "in" / "drawn.nii.gz")).array_ZYX)
    assert json.loads((folder / "configs" / "metadata.json").read_text())["version"] == "1.0.7"
