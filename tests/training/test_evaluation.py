"""Evaluation: misses and inventions are scored and counted, never dropped."""

import numpy as np
import pytest

from labeling_protocols.geometry import Geometry, Volume
from training.evaluation import Evaluation, evaluate, score_case

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
