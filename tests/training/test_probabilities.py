"""Calibration by hand, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from tests.training.scored import Scored
from training.intervals import draw_patients, figures_of
from training.probabilities import Calibration, Reliability, reliability, voxel_reliability


def test_the_error_is_the_distance_between_probability_and_share_bin_by_bin() -> None:
    """Two bins: 0.2 and 0.4 of which one was so (0.3 given, 0.5 true), and 0.9 and 0.7 that both were (0.8, 1)."""
    found = reliability([0.2, 0.4, 0.9, 0.7], [False, True, True, True], bins=2)
    assert found.calibration_error == pytest.approx((2 * 0.2 + 2 * 0.2) / 4)
    assert found.brier_score == pytest.approx((0.04 + 0.36 + 0.01 + 0.09) / 4)
    assert [(point.probability, point.share, point.n) for point in found.curve()] == [
        (pytest.approx(0.3), 0.5, 2),
        (pytest.approx(0.8), 1.0, 2),
    ]


def test_curve_and_scores_are_scikit_learns() -> None:
    random = np.random.default_rng(2)
    given = random.beta(0.5, 0.5, 5000)
    given[:20] = np.linspace(0, 1, 20)
    given[20:36] = np.linspace(0, 1, 16)  # the edges of fifteen bins
    true = random.uniform(size=5000) < given**1.5
    found = reliability(given, true)
    shares, means = calibration_curve(true, given, n_bins=15)
    np.testing.assert_allclose([point.share for point in found.curve()], shares)
    np.testing.assert_allclose([point.probability for point in found.curve()], means)
    counts = [point.n for point in found.curve()]
    assert found.calibration_error == pytest.approx(np.average(np.abs(shares - means), weights=counts))
    assert found.brier_score == pytest.approx(brier_score_loss(true, given))


def test_sums_of_two_cases_are_those_of_all_their_voxels() -> None:
    random = np.random.default_rng(4)
    given, true = random.uniform(size=200), random.uniform(size=200) < 0.3
    together = reliability(given[:50], true[:50]) + reliability(given[50:], true[50:])
    whole = reliability(given, true)
    assert (together.counts, together.positives) == (whole.counts, whole.positives)
    assert together.calibration_error == pytest.approx(whole.calibration_error)
    assert together.brier_score == pytest.approx(whole.brier_score)


def test_nothing_given_has_no_error() -> None:
    nothing = reliability([], [])
    assert (nothing.n, nothing.calibration_error, nothing.brier_score, nothing.curve()) == (0, None, None, ())


def test_what_a_network_gives_before_its_softmax_is_refused() -> None:
    with pytest.raises(ValueError, match=r"run from -3.1 to 7; expected 0 to 1"):
        reliability([-3.1, 7.0], [False, True])
    with pytest.raises(ValueError, match="run from nan to nan"):
        reliability([0.5, float("nan")], [False, True])
    with pytest.raises(ValueError, match="2 probabilities of 1 outcomes"):
        reliability([0.5, 0.5], [True])


def test_what_bfloat16_rounds_above_one_counts_as_one() -> None:
    assert reliability([1.0039], [True]).brier_score == 0.0


def test_only_voxels_near_truth_or_prediction_count() -> None:
    """One voxel of truth: within two steps along the axes there are 1 + 6 + 18 voxels."""
    truth_ZYX = np.zeros((9, 9, 9), dtype=bool)
    truth_ZYX[4, 4, 4] = True
    nothing_ZYX = np.zeros_like(truth_ZYX)
    probability_ZYX = np.full(truth_ZYX.shape, 0.5, dtype=np.float32)
    assert voxel_reliability(probability_ZYX, truth_ZYX, nothing_ZYX).n == 25
    assert voxel_reliability(probability_ZYX, nothing_ZYX, truth_ZYX).n == 25
    assert voxel_reliability(probability_ZYX, nothing_ZYX, nothing_ZYX).n == 0


def test_voxels_at_the_edge_of_the_volume_count_as_far_as_there_are_any() -> None:
    truth_ZYX = np.zeros((4, 5, 6), dtype=bool)
    truth_ZYX[0, 0, 0] = True
    probability_ZYX = np.full(truth_ZYX.shape, 0.5)
    # Within two steps of a corner: itself, three beside it, and six after those.
    assert voxel_reliability(probability_ZYX, truth_ZYX, truth_ZYX).n == 10


def test_probabilities_of_another_grid_are_refused() -> None:
    mask_ZYX = np.zeros((2, 3, 4), dtype=bool)
    with pytest.raises(ValueError, match=r"probabilities of \(2, 3, 5\) voxels"):
        voxel_reliability(np.zeros((2, 3, 5)), mask_ZYX, mask_ZYX)


def test_the_figure_of_all_cases_weighs_them_by_their_voxels() -> None:
    """Three voxels given 0.9 that were so, and one given 0.4 that was not: (3 · 0.1 + 0.4) / 4."""
    sums: dict[str, dict[str, Reliability]] = {
        "a": {"liver": reliability([0.9, 0.9, 0.9], [True, True, True])},
        "b": {"liver": reliability([0.4], [False]), "spleen": reliability([0.3], [False])},
    }
    statistic: Calibration[Scored] = Calibration(lambda one: sums[one.case])
    cases = [Scored(case=case, patient=case) for case in sums]
    found = {figure.name: figure for figure in figures_of(statistic, cases, draw_patients(["a", "b"], 400))}
    assert found["calibration_error/liver"].value == pytest.approx((3 * 0.1 + 0.4) / 4)
    assert found["calibration_error/spleen"].value == pytest.approx(0.3)
    assert found["calibration_error"].value == pytest.approx((0.175 + 0.3) / 2)
    assert found["brier_score/liver"].value == pytest.approx((3 * 0.01 + 0.16) / 4)
    interval = found["calibration_error/liver"].interval
    assert interval is not None
    assert (interval.low, interval.high) == (pytest.approx(0.1), pytest.approx(0.4))  # either case alone
    assert found["calibration_error/spleen"].interval is None  # a quarter of the draws do not have it


def test_a_structure_that_is_nowhere_takes_no_part_in_the_mean() -> None:
    sums = {"liver": reliability([0.9], [True]), "tumour": reliability([], [])}
    statistic: Calibration[Scored] = Calibration(lambda one: sums)
    found = statistic([Scored(case="a", patient="a")])
    assert found["calibration_error"] == found["calibration_error/liver"] == pytest.approx(0.1)
    assert found["calibration_error/tumour"] is None


def test_without_probabilities_there_is_no_figure() -> None:
    statistic: Calibration[Scored] = Calibration(lambda one: {})
    assert statistic([Scored(case="a", patient="a")]) == {}
