"""Evaluation: misses and inventions are scored and counted, never dropped."""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from numpy.typing import NDArray

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from training.evaluation import (
    SURFACE_TOLERANCE_MM,
    Evaluation,
    evaluate,
    score_case,
    surface_tolerances_mm,
)

GRID = Geometry(
    shape_ZYX=(6, 6, 6),
    spacing_mm_XYZ=(1.0, 1.0, 2.0),
    origin_mm_LPS=(0.0, 0.0, 0.0),
    direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
)
VALUES = {"anterior": 1, "posterior": 2}


def label(**boxes: tuple[slice, slice, slice]) -> Volume:
    array = np.zeros(GRID.shape_ZYX, dtype=np.uint8)
    for name, box in boxes.items():
        array[box] = VALUES[name]
    return Volume(array_ZYX=array, geometry=GRID)


FRONT = (slice(0, 2), slice(0, 4), slice(0, 4))
HALF_OF_FRONT = (slice(0, 1), slice(0, 4), slice(0, 4))
BACK = (slice(4, 6), slice(0, 4), slice(0, 4))


def test_dice_and_distance_are_those_worked_out_by_hand() -> None:
    front, back = score_case(
        "c", label(anterior=FRONT, posterior=BACK), label(anterior=HALF_OF_FRONT, posterior=BACK), VALUES
    )
    assert front.dice == pytest.approx(2 * 16 / (32 + 16))
    assert front.hd95_mm == 2.0  # one slice of 2 mm
    assert (back.dice, back.hd95_mm) == (1.0, 0.0)


def test_a_missed_structure_scores_zero_and_is_counted() -> None:
    scores = score_case("a", label(anterior=FRONT, posterior=BACK), label(anterior=FRONT), VALUES)
    scores += score_case("b", label(anterior=FRONT, posterior=BACK), label(anterior=FRONT, posterior=BACK), VALUES)
    evaluation = Evaluation(scores=tuple(scores))
    assert evaluation.missed == 1
    assert evaluation.dice == {"anterior": 1.0, "posterior": 0.5}
    assert evaluation.dice_mean == 0.75
    assert evaluation.hd95_median_mm["posterior"] == 0.0
    assert list(evaluation.case_dice()) == ["a", "b"]


def test_an_invented_structure_scores_zero_and_is_counted() -> None:
    evaluation = Evaluation(
        scores=tuple(score_case("a", label(anterior=FRONT), label(anterior=FRONT, posterior=BACK), VALUES))
    )
    assert (evaluation.invented, evaluation.missed) == (1, 0)
    assert evaluation.dice["posterior"] == 0.0
    assert evaluation.hd95_median_mm["posterior"] is None


def test_a_structure_that_neither_has_is_agreement() -> None:
    (_, posterior) = score_case("a", label(anterior=FRONT), label(anterior=FRONT), VALUES)
    assert (posterior.dice, posterior.missed, posterior.invented) == (1.0, False, False)


def test_every_case_is_predicted_and_shown() -> None:
    truth = label(anterior=FRONT, posterior=BACK)
    seen: list[str] = []
    evaluation = evaluate(
        lambda image: truth,
        [(name, truth, truth) for name in ("a", "b")],
        VALUES,
        lambda case, image, shown, predicted: seen.append(case),
    )
    assert seen == ["a", "b"]
    assert evaluation.cases == {"a", "b"}
    assert evaluation.dice_mean == 1.0
    assert Evaluation.from_json(evaluation.as_json()) == evaluation


def test_a_prediction_on_another_grid_is_refused() -> None:
    moved = Geometry(
        shape_ZYX=GRID.shape_ZYX,
        spacing_mm_XYZ=GRID.spacing_mm_XYZ,
        origin_mm_LPS=(5.0, 0.0, 0.0),
        direction_LPS=GRID.direction_LPS,
    )
    truth = label(anterior=FRONT)
    with pytest.raises(ValueError, match=r"does not lie on its truth's grid.*5.00 mm"):
        score_case("a", truth, Volume(array_ZYX=truth.array_ZYX, geometry=moved), VALUES)


def test_nothing_scored_is_no_good_score() -> None:
    assert Evaluation(scores=()).dice_mean == 0.0


def test_surfaces_within_the_tolerance_count_and_volumes_are_compared() -> None:
    """The prediction lacks one slice of two, 2 mm away: 16 voxels of 2 mm³ too few, half of the truth."""
    truth, half = label(anterior=FRONT), label(anterior=HALF_OF_FRONT)
    (near, _) = score_case("c", truth, half, VALUES, {"anterior": 2.0})
    (far, _) = score_case("c", truth, half, VALUES, {"anterior": 1.9})
    assert near.surface_dice == 1.0
    # Of 32 truth voxels all are surface and 16 lie in the slice that both have, as do all 16 of the prediction.
    assert far.surface_dice == pytest.approx((16 + 16) / (32 + 16))
    assert near.average_surface_distance_mm == pytest.approx(16 * 2.0 / (32 + 16))
    assert near.volume_error == -0.5
    assert near.volume_difference_ml == pytest.approx(-16 * 2.0 / 1000)


def test_a_miss_has_no_distance_and_a_volume_error_of_the_whole_structure() -> None:
    missed, invented = score_case("c", label(anterior=FRONT), label(posterior=BACK), VALUES)
    assert (missed.surface_dice, missed.hd95_mm, missed.average_surface_distance_mm) == (0.0, None, None)
    assert (missed.volume_error, missed.volume_difference_ml) == (-1.0, pytest.approx(-0.064))
    assert (invented.surface_dice, invented.volume_error) == (0.0, None)


def test_without_a_tolerance_surfaces_two_millimetres_apart_are_the_same() -> None:
    (score, _) = score_case("c", label(anterior=FRONT), label(anterior=HALF_OF_FRONT), VALUES)
    assert score.surface_dice == 1.0


def test_the_protocol_says_what_tolerance_there_is(protocol: Protocol) -> None:
    limits = dict(protocol.agreement)
    limits["anterior"] = replace(limits["anterior"], surface_dice_min=0.9, surface_tolerance_mm=0.5)
    assert surface_tolerances_mm(replace(protocol, agreement=limits)) == {
        "anterior": 0.5,
        "posterior": SURFACE_TOLERANCE_MM,
    }


def test_scores_are_monais() -> None:
    """Two balls that overlap in part, on voxels of 1 × 1 × 2 mm."""
    grid = replace(GRID, shape_ZYX=(12, 24, 24))
    z, y, x = np.indices(grid.shape_ZYX)

    def ball(centre_x: float, radius: float) -> Volume:
        inside = (2.0 * (z - 5)) ** 2 + (y - 11.0) ** 2 + (x - centre_x) ** 2 < radius**2
        return Volume(array_ZYX=inside.astype(np.uint8), geometry=grid)

    truth, predicted = ball(11.0, 8.0), ball(13.5, 7.0)
    (score, _) = score_case("c", truth, predicted, VALUES, {"anterior": 1.5})
    a, b = (torch.tensor(one.array_ZYX)[None, None] for one in (predicted, truth))
    spacing = list(grid.spacing_mm_ZYX)
    assert score.dice == pytest.approx(float(compute_dice(a, b)))
    assert score.hd95_mm == pytest.approx(
        float(compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)), abs=1e-4
    )
    assert score.surface_dice == pytest.approx(
        float(compute_surface_dice(a, b, class_thresholds=[1.5], include_background=True, spacing=spacing)), abs=1e-4
    )


def test_structures_that_overlap_are_scored_each_by_itself() -> None:
    """The truth's anterior lies under its posterior, in another layer; a prediction of one layer has half of it."""
    layers = np.stack([label(anterior=FRONT).array_ZYX, label(posterior=HALF_OF_FRONT).array_ZYX]).astype(np.uint8)
    truth = Label(geometry=GRID, layers_LZYX=layers)
    front, back = score_case("c", truth, truth.volume(), VALUES)
    assert (front.truth_voxels, front.predicted_voxels, back.truth_voxels) == (32, 16, 16)
    assert front.dice == pytest.approx(2 * 16 / (32 + 16))
    assert back.dice == 1.0


def test_probabilities_are_held_against_the_truth_where_it_is_drawn_and_around() -> None:
    """Where truth and prediction have 32 voxels, 0.8 is given to all of them and 0.1 to everything else."""
    truth = label(anterior=FRONT)

    def probabilities(image: Volume) -> Iterator[tuple[str, NDArray[np.float32]]]:
        for name, value in VALUES.items():
            yield name, np.where(truth.array_ZYX == value, np.float32(0.8), np.float32(0.1))

    evaluation = evaluate(lambda image: truth, [("a", truth, truth)], VALUES, probabilities=probabilities)
    anterior, posterior = evaluation.reliability()["anterior"], evaluation.reliability()["posterior"]
    assert sum(anterior.positives) == 32
    assert 32 < anterior.n < 216  # not the whole volume
    assert anterior.calibration_error == pytest.approx((32 * 0.2 + (anterior.n - 32) * 0.1) / anterior.n)
    assert (posterior.n, posterior.calibration_error) == (0, None)
    assert Evaluation.from_json(evaluation.as_json()) == evaluation


def test_an_evaluation_stored_before_surfaces_were_scored_is_read() -> None:
    score = {
        "case": "a",
        "structure": "anterior",
        "dice": 0.5,
        "hd95_mm": 1.0,
        "truth_voxels": 2,
        "predicted_voxels": 2,
    }
    evaluation = Evaluation.from_json(json.dumps({"summary": {}, "scores": [score]}))
    assert (evaluation.dice_mean, evaluation.scores[0].surface_dice) == (0.5, None)
