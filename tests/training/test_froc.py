"""FROC curves and average precision: numbers worked out by hand, and those of other implementations."""

import logging

import numpy as np
import pytest
from monai.apps.detection.metrics.coco import COCOMetric
from monai.apps.detection.metrics.matching import matching_batch
from monai.data.box_utils import box_iou as monai_iou
from monai.metrics.froc import compute_froc_curve_data, compute_froc_score
from numpy.typing import NDArray

from training.froc import (
    FROC_RATES,
    Hit,
    Ranked,
    average_precisions,
    box_iou,
    froc_curve,
    hits_of,
    ranked,
    score_limit,
    sensitivities,
)

Floats = NDArray[np.float64]
CENTRE = Hit()


def cube(x: float, y: float, z: float, edge: float = 4.0) -> list[float]:
    """A cube around a place."""
    return [x - edge / 2, y - edge / 2, z - edge / 2, x + edge / 2, y + edge / 2, z + edge / 2]


def boxes(*of: list[float]) -> Floats:
    return np.array(of, dtype=np.float64).reshape(-1, 6)


def studies(*found: tuple[list[float], list[bool]]) -> Ranked:
    return ranked([np.array(scores) for scores, _ in found], [np.array(hits, dtype=np.bool_) for _, hits in found])


# Two studies with three true boxes. By falling score: hit, false, hit, false, hit.
FOUND = studies(([0.9, 0.8], [True, False]), ([0.7, 0.6, 0.5], [True, False, True]))
TRUTHS = np.array([1, 2])
ONCE = np.ones((1, 2), dtype=np.int64)


def test_a_curve_has_a_point_for_each_score() -> None:
    rates, sensitivity = froc_curve(FOUND, truths=3, studies=2)
    assert rates.tolist() == [0, 0, 0.5, 0.5, 1, 1]
    assert sensitivity.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])


def test_sensitivity_at_a_rate_is_the_best_with_so_many_false_positives() -> None:
    (found,) = sensitivities(FOUND, TRUTHS, ONCE, FROC_RATES)
    assert found.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 1, 1, 1, 1])


def test_a_hit_and_a_false_positive_of_one_score_lie_on_a_slope() -> None:
    tied = studies(([0.9, 0.9], [True, False]))
    (found,) = sensitivities(tied, np.array([1]), np.ones((1, 1), dtype=np.int64), (0.25, 1.0))
    assert found.tolist() == pytest.approx([0.25, 1.0])


def test_what_was_never_found_keeps_sensitivity_below_one() -> None:
    (found,) = sensitivities(FOUND, np.array([3, 3]), ONCE, (8.0,))
    assert found.tolist() == pytest.approx([0.5])


def test_where_nothing_is_to_be_found_nothing_is_defined() -> None:
    none = np.array([0, 0])
    assert np.isnan(sensitivities(FOUND, none, ONCE, FROC_RATES)).all()
    assert np.isnan(average_precisions(FOUND, none, ONCE)).all()


def test_a_model_that_finds_nothing_has_sensitivity_and_precision_0() -> None:
    silent = studies(([], []), ([], []))
    assert sensitivities(silent, TRUTHS, ONCE, FROC_RATES).tolist() == [[0.0] * 7]
    assert average_precisions(silent, TRUTHS, ONCE).tolist() == [0.0]


def test_average_precision_of_a_hit_a_false_positive_and_a_hit() -> None:
    """Precision is 1 up to a recall of one half (51 recalls of 101) and 2/3 from there on (50)."""
    found = studies(([0.9, 0.8, 0.7], [True, False, True]))
    (precision,) = average_precisions(found, np.array([2]), np.ones((1, 1), dtype=np.int64))
    assert precision == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_draw_counts_a_study_as_often_as_it_was_drawn() -> None:
    """Twice the first study, without the second: two true boxes, both found before the two false ones."""
    twice = np.array([[2, 0]])
    assert sensitivities(FOUND, TRUTHS, twice, (0.5, 1.0)).tolist() == [[1.0, 1.0]]
    assert average_precisions(FOUND, TRUTHS, twice).tolist() == [1.0]


def test_a_lesion_found_twice_is_one_hit_and_one_false_positive() -> None:
    true = boxes(cube(10, 10, 10))
    found = boxes(cube(10, 10, 11), cube(10, 10, 10))
    assert hits_of(found, true, CENTRE).tolist() == [True, False]


def test_a_finding_between_two_lesions_hits_the_nearer_and_leaves_the_other() -> None:
    true = boxes(cube(10, 0, 0, 8), cube(13, 0, 0, 8))
    found = boxes(cube(12, 0, 0), cube(12, 0, 0))
    assert hits_of(found, true, CENTRE).tolist() == [True, True]
    assert hits_of(found[:1], true[1:], CENTRE).tolist() == [True]


@pytest.mark.parametrize(
    ("hit", "expected"),
    [
        (Hit(), [True, False]),  # centres 1.9 and 2.1 mm off the middle of a box 4 mm wide
        (Hit(mm_max=2.05), [True, False]),
        (Hit(mm_max=2.2), [True, True]),
        (Hit(iou_min=0.35), [True, False]),  # 2.1 of 4 shared: 2.1 / (8 - 2.1) = 0.356, and 1.9 / 6.1 = 0.311
        (Hit(iou_min=0.36), [False, False]),
    ],
)
def test_a_protocol_says_what_counts_as_found(hit: Hit, expected: list[bool]) -> None:
    near, far = cube(1.9, 0, 0), cube(2.1, 0, 0)
    true = boxes(cube(0, 0, 0))
    assert [bool(hits_of(boxes(found), true, hit)[0]) for found in (near, far)] == expected


def test_the_score_limit_lies_between_what_is_kept_and_what_would_be_too_much() -> None:
    assert score_limit(FOUND, studies=2, rate=0.5) == pytest.approx(0.65)  # keeps 0.9, 0.8 and 0.7
    assert score_limit(FOUND, studies=2, rate=0.0) == pytest.approx(0.85)
    assert score_limit(FOUND, studies=2, rate=1.0) is None


def drawn_studies(seed: int, count: int, truths: int) -> list[tuple[Floats, Floats, Floats]]:
    """True boxes, found boxes and scores: some near true ones, some twice, some anywhere."""
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        corner = random.uniform(0, 60, (truths, 3))
        true = np.concatenate([corner, corner + random.uniform(3, 9, (truths, 3))], axis=1)
        near = np.concatenate([true, true[: truths // 2]])
        near = (near + random.normal(0, 1.0, near.shape))[random.random(len(near)) < 0.8]
        corner = random.uniform(0, 60, (random.integers(0, 6), 3))
        found = np.concatenate([near, np.concatenate([corner, corner + random.uniform(3, 9, corner.shape)], axis=1)])
        drawn.append((true, found, random.random(len(found))))
    return drawn


def greedy(true: Floats, found: Floats, near: Hit) -> list[bool]:
    """One to one, one box at a time: as a person would tick them off a list."""
    left, hits = list(range(len(true))), []
    for box in found:
        ranks = [(near.nearness(box[None], true[place, None])[0, 0], -place) for place in left]
        best = max(ranks, default=(-np.inf, 0))
        hits.append(bool(best[0] > -np.inf))
        if hits[-1]:
            left.remove(-best[1])
    return hits


@pytest.mark.parametrize("hit", [Hit(), Hit(mm_max=3.0), Hit(iou_min=0.2)], ids=["centre", "mm", "iou"])
def test_froc_agrees_with_monais(hit: Hit) -> None:
    """MONAI's takes the scores of hits, 0 for what was missed, and those of false positives."""
    drawn = drawn_studies(7, count=12, truths=4)
    order = [np.argsort(-scores) for _, _, scores in drawn]
    hits = [np.array(greedy(true, found[by], hit)) for (true, found, _), by in zip(drawn, order, strict=True)]
    scores = [scores[by] for (_, _, scores), by in zip(drawn, order, strict=True)]
    false = np.concatenate([of[~hit_] for of, hit_ in zip(scores, hits, strict=True)])
    true = np.concatenate([of[hit_] for of, hit_ in zip(scores, hits, strict=True)])
    missed = np.zeros(12 * 4 - len(true))
    assert len(missed) > 0
    rates, sensitivity = compute_froc_curve_data(false, np.concatenate([true, missed]), 12 * 4, 12)

    ours = [hits_of(found[by], true, hit) for (true, found, _), by in zip(drawn, order, strict=True)]
    together = ranked(scores, ours)
    curve = froc_curve(together, truths=12 * 4, studies=12)
    assert curve[0].tolist() == pytest.approx(rates[::-1].tolist())
    assert curve[1].tolist() == pytest.approx(sensitivity[::-1].tolist())
    once = np.ones((1, 12), dtype=np.int64)
    (found,) = sensitivities(together, np.full(12, 4), once, FROC_RATES)
    assert found.mean() == pytest.approx(compute_froc_score(rates, sensitivity, FROC_RATES))


def test_average_precision_agrees_with_monais_coco_metric(caplog: pytest.LogCaptureFixture) -> None:
    """With 64 true boxes every recall is exact in float32, in which MONAI's counts."""
    caplog.set_level(logging.ERROR)
    drawn = drawn_studies(11, count=16, truths=4)
    metric = COCOMetric(classes=["nodule"], iou_list=[0.1, 0.5], max_detection=[100], verbose=False)
    kinds = [np.zeros(len(found), dtype=int) for _, found, _ in drawn]
    matches = matching_batch(
        iou_fn=monai_iou,
        iou_thresholds=metric.iou_thresholds,
        pred_boxes=[found for _, found, _ in drawn],
        pred_classes=kinds,
        pred_scores=[scores for _, _, scores in drawn],
        gt_boxes=[true for true, _, _ in drawn],
        gt_classes=[np.zeros(len(true), dtype=int) for true, _, _ in drawn],
    )
    expected, _ = metric(matches)

    order = [np.argsort(-scores) for _, _, scores in drawn]
    scores = [scores[by] for (_, _, scores), by in zip(drawn, order, strict=True)]

    def precision(iou: float) -> float:
        hits = [hits_of(f[by], true, Hit(iou_min=iou)) for (true, f, _), by in zip(drawn, order, strict=True)]
        (found,) = average_precisions(ranked(scores, hits), np.full(16, 4), np.ones((1, 16), dtype=np.int64))
        return float(found)

    assert precision(0.1) == pytest.approx(expected["AP_IoU_0.10_MaxDet_100"], abs=1e-6)
    assert precision(0.5) == pytest.approx(expected["AP_IoU_0.50_MaxDet_100"], abs=1e-6)
    mean = np.mean([precision(iou) for iou in np.linspace(0.1, 0.5, 9)])
    assert mean == pytest.approx(expected["mAP_IoU_0.10_0.50_0.05_MaxDet_100"], abs=1e-6)
    assert 0.1 < mean < 0.9


def test_iou_agrees_with_monais() -> None:
    true, found, _ = drawn_studies(3, count=1, truths=8)[0]
    assert np.allclose(box_iou(found, true), monai_iou(found, true))


def test_a_sample_drawn_with_replacement_has_the_figures_of_its_copies() -> None:
    drawn = drawn_studies(5, count=6, truths=3)
    times = np.random.default_rng(0).multinomial(6, [1 / 6] * 6, size=5)

    def together(places: list[int]) -> Ranked:
        order = [np.argsort(-drawn[place][2]) for place in places]
        hits = [hits_of(drawn[p][1][by], drawn[p][0], CENTRE) for p, by in zip(places, order, strict=True)]
        return ranked([drawn[p][2][by] for p, by in zip(places, order, strict=True)], hits)

    whole, truths = together(list(range(6))), np.full(6, 3)
    rates, precisions = sensitivities(whole, truths, times, FROC_RATES), average_precisions(whole, truths, times)
    for row, expected_rates, expected in zip(times, rates, precisions, strict=True):
        copies = together(np.repeat(np.arange(6), row).tolist())
        once = np.ones((1, 6), dtype=np.int64)
        assert sensitivities(copies, truths, once, FROC_RATES)[0].tolist() == pytest.approx(expected_rates.tolist())
        assert average_precisions(copies, truths, once).tolist() == pytest.approx([expected])
