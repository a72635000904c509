"""A RetinaNet that learned drawn spheres finds those of unseen patients, wherever and however their images lie."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Label
from labeling_protocols.strata import Strata
from tests.training.drawn_spheres import VALUES, draw_spheres, sphere_plan
from tests.training.test_inference import GRIDS
from training.detection import DetectionLearner
from training.detection_evaluation import (
    DetectedCase,
    DetectionScores,
    DetectionStatistic,
    choose_operating_point,
    score_findings,
)
from training.detection_inference import Detector, detection_config
from training.froc import Hit
from training.loop import fit, native_precision

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
UNSEEN = range(1000, 1024)
HITS = {"nodule": Hit(iou_min=0.2)}


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    plan = sphere_plan(epochs=14, precision=native_precision(CPU))
    learner = DetectionLearner(plan)
    weights = fit(
        plan,
        learner,
        [learner.prepare(f"c{seed}", *draw_spheres(seed)) for seed in range(24)],
        [],
        folder=tmp_path_factory.mktemp("trained"),
        device=CPU,
        tell=lambda epoch: None,
    )
    return Detector(detection_config(plan), weights, CPU)


def score(detector: Detector, cases: Sequence[tuple[Volume, Label]]) -> DetectionScores:
    return DetectionScores(
        cases={
            f"v{place}": score_findings(
                detector.predict(image), label, VALUES, HITS, operating_point=detector.operating_point
            )
            for place, (image, label) in enumerate(cases)
        }
    )


def figures(scores: DetectionScores) -> dict[str, float | None]:
    return DetectionStatistic()(
        [
            DetectedCase(case=case, patient=case, strata=Strata(), structures=structures)
            for case, structures in scores.cases.items()
        ]
    )


def test_nine_spheres_of_ten_are_found_at_half_a_false_positive_a_volume(detector: Detector) -> None:
    """0 to 3 spheres a volume, so that some of these have none."""
    scores = score(detector, [draw_spheres(seed) for seed in UNSEEN])
    truths = [of_case["nodule"].truths for of_case in scores.cases.values()]
    assert 0 in truths
    found = figures(scores)
    assert found["sensitivity_at_0.5_fp"] is not None
    assert found["sensitivity_at_0.5_fp"] >= 0.9, found
    assert found["map"] is not None
    assert found["map"] >= 0.7, found
    assert 0 < choose_operating_point(scores, 0.1) < 1


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_boxes_lie_on_the_spheres_in_the_patient(grid: Geometry, detector: Detector) -> None:
    image, label = draw_spheres(40, grid, count=2)
    certain = sorted(detector.predict(image)[:2], key=lambda finding: finding.box.centre_mm_LPS)
    for finding, true in zip(certain, sorted(label.boxes, key=lambda box: box.centre_mm_LPS), strict=True):
        assert np.linalg.norm(np.subtract(finding.box.centre_mm_LPS, true.centre_mm_LPS)) < 2.0
        assert np.allclose(finding.box.size_mm_XYZ, true.size_mm_XYZ, atol=3.5)


def test_an_image_larger_than_the_patch_is_searched_by_several_windows(detector: Detector) -> None:
    """Edges that are no multiples of the network's strides, one shorter than the patch; a sphere seen in several
    windows is one finding."""
    large = Geometry(
        shape_ZYX=(27, 70, 53),
        spacing_mm_XYZ=(1.0, 1.0, 1.0),
        origin_mm_LPS=(-300.0, 40.0, 7.0),
        direction_LPS=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
    )
    scores = score(detector, [draw_spheres(60, large, count=8), draw_spheres(61, large, count=8)])
    found = figures(scores)
    assert found["sensitivity_at_1_fp"] is not None
    assert found["sensitivity_at_1_fp"] >= 0.8, found
