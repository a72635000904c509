"""A detection's configuration with weights: the same findings from one network or several, from us or MONAI alone."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from labeling_protocols.volumes import read_volume, write_volume
from tests.training.drawn_spheres import draw_spheres, sphere_plan
from tests.training.test_inference import GRIDS
from training.bundle import BundleError
from training.detection_inference import Detector, detection_config
from training.detection_network import FOUND_MAX, build_network
from training.stopping import InferenceStopped

CPU = torch.device("cpu")
PLAN = sphere_plan()


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Of an untrained network that is unsure of everything: it finds a lot, all over the image."""
    torch.manual_seed(2)
    weights = build_network(PLAN).state_dict()
    weights["classification_head.cls_logits.bias"].zero_()
    weights["classification_head.cls_logits.weight"].mul_(8)
    return weights


@pytest.fixture(scope="module")
def detector(weights: dict[str, Tensor]) -> Detector:
    return Detector(detection_config(PLAN, operating_point=0.45), weights, CPU)


def test_findings_come_most_certain_first_and_no_more_than_are_evaluated(detector: Detector) -> None:
    image, _ = draw_spheres(1)
    scores = [finding.score for finding in detector.predict(image)]
    assert scores == sorted(scores, reverse=True)
    assert 10 < len(scores) <= FOUND_MAX


def test_what_is_less_certain_than_the_operating_point_is_not_reported(detector: Detector) -> None:
    image, _ = draw_spheres(1)
    everything = detector.predict(image)
    middle = everything[len(everything) // 2].score
    detector = Detector(detection_config(PLAN, operating_point=middle), detector._detector.network.state_dict(), CPU)
    assert detector.report(image) == tuple(finding for finding in everything if finding.score >= middle)


def test_findings_lie_in_the_image(detector: Detector) -> None:
    grid = GRIDS["oblique, flipped and anisotropic"]
    image, _ = draw_spheres(4, grid)
    corners = torch.from_numpy(grid.corners_mm_LPS())
    middle, reach = corners.mean(dim=0), torch.linalg.norm(corners - corners.mean(dim=0), dim=1).max()
    for finding in detector.predict(image):
        assert torch.linalg.norm(torch.tensor(finding.box.centre_mm_LPS) - middle) <= reach
        assert min(finding.box.size_mm_XYZ) > 0


def test_networks_that_agree_find_what_one_of_them_finds(detector: Detector, weights: dict[str, Tensor]) -> None:
    image, _ = draw_spheres(1)
    twice = {f"{member}.{name}": tensor for member in range(2) for name, tensor in weights.items()}
    together = Detector(detection_config(PLAN, members=2, operating_point=0.45), twice, CPU)
    for ours, theirs in zip(together.predict(image), detector.predict(image), strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=1e-6)
        assert ours.box.centre_mm_LPS == pytest.approx(theirs.box.centre_mm_LPS, abs=1e-3)


def test_several_threads_get_the_findings_one_would(detector: Detector, weights: dict[str, Tensor]) -> None:
    images = [draw_spheres(seed)[0] for seed in range(3)]
    alone = [detector.predict(image) for image in images]
    another = Detector(detection_config(PLAN, operating_point=0.45), weights, CPU)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(another.predict, images)) == alone


@pytest.mark.parametrize("members", [1, 2])
def test_nobody_waits_for_findings_for_somebody_who_left(weights: dict[str, Tensor], members: int) -> None:
    all_ = weights if members == 1 else {f"{n}.{name}": tensor for n in range(2) for name, tensor in weights.items()}
    detector = Detector(detection_config(PLAN, members, operating_point=0.45), all_, CPU)
    image, _ = draw_spheres(1)
    with pytest.raises(InferenceStopped):
        detector.predict(image, stopped=lambda: True)
    assert len(detector.predict(image)) > 10


def test_weights_of_another_network_are_refused(weights: dict[str, Tensor]) -> None:
    less = {name: tensor for name, tensor in weights.items() if "regression_head" not in name}
    with pytest.raises(BundleError, match="not those of the configured network"):
        Detector(detection_config(PLAN), less, CPU)


def test_the_configuration_names_nothing_of_ours_and_nothing_of_torchvision() -> None:
    words = json.dumps(detection_config(PLAN, members=2))
    assert not re.search(r"torchvision|labeling_protocols|\btraining\.|(?<!monai\.)\bapps\.", words)


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 2])
def test_monai_alone_runs_the_bundle_and_writes_the_same_findings(
    members: int, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    image, _ = draw_spheres(23, GRIDS["oblique, flipped and anisotropic"])
    flat, _ = draw_spheres(24, GRIDS["sagittal"])
    # No edge is a whole number of these voxels: where one is, rounding decides how many voxels the prepared image has.
    plan = replace(PLAN, spacing_mm_RAS=(0.95, 1.05, 1.13))
    config = detection_config(plan, members, operating_point=0.45)
    own = weights if members == 1 else {f"{n}.{name}": tensor for n in range(2) for name, tensor in weights.items()}
    for folder in ("in", "models", "configs"):
        (tmp_path / folder).mkdir()
    write_volume(image, tmp_path / "in" / "drawn.nii.gz")
    write_volume(flat, tmp_path / "in" / "sagittal.nrrd")
    torch.save(own, tmp_path / "models" / "model.pt")
    (tmp_path / "configs" / "inference.json").write_text(json.dumps(config))
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "monai.bundle", "run", "--config_file", str(tmp_path / "configs/inference.json")),
            *("--bundle_root", str(tmp_path), "--dataset_dir", str(tmp_path / "in")),
            *("--output_dir", str(tmp_path / "out")),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    detector = Detector(config, own, CPU)
    for name in ("drawn.nii.gz", "sagittal.nrrd"):
        written = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert (written["image"], written["operating_point"]) == (name, 0.45)
        expected = detector.report(read_volume(tmp_path / "in" / name))
        assert len(expected) > 3
        for theirs, ours in zip(written["findings"], expected, strict=True):
            assert theirs["structure"] == ours.box.structure
            assert theirs["score"] == pytest.approx(ours.score, abs=1e-5)
            assert theirs["centre_mm_LPS"] == pytest.approx(ours.box.centre_mm_LPS, abs=1e-2)
            assert theirs["size_mm_XYZ"] == pytest.approx(ours.box.size_mm_XYZ, abs=1e-2)
