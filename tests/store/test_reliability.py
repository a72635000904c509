"""Reliability against published tables, hand-worked ones, and the packages that define the same."""

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import cohen_kappa_score

from labeling_protocols.reliability import (
    Level,
    bland_altman,
    fleiss_kappa,
    free_marginal_kappa,
    icc,
    krippendorff_alpha,
    observed_agreement,
    table_of,
)

# Fleiss 1971 as worked out again in many textbooks: ten subjects, fourteen raters, five categories; kappa 0.210.
FLEISS = np.array(
    [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
)
# Shrout & Fleiss 1979, table 2: six targets, four judges; ICC(2,1) .29 and ICC(3,1) .71 in their table 4.
SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float
)
# Krippendorff 2011, section C: four observers, twelve units, missing answers; alpha .743 nominal, .815 ordinal,
# .849 interval.
KRIPPENDORFF = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


def krippendorffs_table() -> np.ndarray:
    units = [[answer for answer in unit if answer is not None] for unit in zip(*KRIPPENDORFF, strict=True)]
    return table_of(units, (1, 2, 3, 4, 5))


def test_fleiss_kappa_of_fleiss_own_kind_of_table_is_the_published_one() -> None:
    assert fleiss_kappa(FLEISS) == pytest.approx(0.20993, abs=5e-5)


def test_fleiss_kappa_by_hand() -> None:
    # Three items, two readers: 2:0, 1:1, 0:2. They agree on 2 of 3, both categories are used half: (2/3 - 1/2) / (1/2).
    assert fleiss_kappa(np.array([[2, 0], [1, 1], [0, 2]])) == pytest.approx(1 / 3)


def test_rows_may_say_how_often_they_occur() -> None:
    many = np.repeat(FLEISS, np.arange(1, 11), axis=0)
    assert fleiss_kappa(FLEISS, np.arange(1, 11)) == pytest.approx(fleiss_kappa(many))
    assert krippendorff_alpha(FLEISS, np.arange(1, 11)) == pytest.approx(krippendorff_alpha(many))
    assert free_marginal_kappa(FLEISS, np.arange(1, 11)) == pytest.approx(free_marginal_kappa(many))
    assert fleiss_kappa(FLEISS, [1] * 9 + [0]) == pytest.approx(fleiss_kappa(FLEISS[:9]))


def test_fleiss_kappa_refuses_items_with_different_numbers_of_readers() -> None:
    with pytest.raises(ValueError, match=r"as many readers of every item, found \[2, 3\]"):
        fleiss_kappa(np.array([[2, 0], [2, 1]]))


def test_one_category_leaves_no_chance_to_measure_against_and_is_no_agreement_of_1() -> None:
    one = np.array([[3, 0], [3, 0]])
    assert (fleiss_kappa(one), krippendorff_alpha(one)) == (None, None)
    assert (fleiss_kappa(np.array([[3, 1]]), [0]), krippendorff_alpha(np.zeros((0, 2), int))) == (None, None)
    assert free_marginal_kappa(one) == 1.0
    assert free_marginal_kappa(one[:, :1]) is None


def test_a_single_readers_answers_are_no_agreement() -> None:
    alone = np.array([[1, 0], [0, 1]])
    assert (fleiss_kappa(alone), krippendorff_alpha(alone), free_marginal_kappa(alone)) == (None, None, None)
    assert observed_agreement(alone) is None


@pytest.mark.parametrize(("level", "alpha"), [(Level.NOMINAL, 0.743), (Level.ORDINAL, 0.815), (Level.INTERVAL, 0.849)])
def test_krippendorffs_alpha_is_the_published_one_with_missing_answers(level: Level, alpha: float) -> None:
    assert krippendorff_alpha(krippendorffs_table(), level=level) == pytest.approx(alpha, abs=5e-4)


@settings(max_examples=60, deadline=None)
@given(
    arrays(int, st.tuples(st.integers(2, 5), st.integers(1, 8)), elements=st.integers(-1, 3)), st.sampled_from(Level)
)
def test_krippendorffs_alpha_is_the_krippendorff_packages(answers: np.ndarray, level: Level) -> None:
    table = table_of([[answer for answer in unit if answer >= 0] for unit in answers.T.tolist()], (0, 1, 2, 3))
    ours = krippendorff_alpha(table, level=level)
    pairable = table[table.sum(axis=1) > 1]
    if np.count_nonzero(pairable.sum(axis=0)) < 2:
        assert ours is None
        return
    given_ = np.where(answers < 0, np.nan, answers.astype(float))
    theirs = krippendorff.alpha(given_, level_of_measurement=level.value, value_domain=[0, 1, 2, 3])
    assert ours == pytest.approx(theirs)


def test_interval_categories_may_have_values_of_their_own() -> None:
    table = np.array([[2, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 2]])
    values = {0: 1.0, 1: 1.5, 2: 4.0}
    units = [[0, 0], [0, 1], [1, 2], [2, 2]]
    theirs = krippendorff.alpha(
        np.array([[values[a] for a in unit] for unit in units]).T, level_of_measurement="interval"
    )
    assert krippendorff_alpha(table, level=Level.INTERVAL, values=[1.0, 1.5, 4.0]) == pytest.approx(theirs)


@settings(max_examples=40, deadline=None)
@given(arrays(int, (12, 2), elements=st.integers(0, 2)))
def test_readers_who_use_the_categories_alike_have_cohens_kappa(answers: np.ndarray) -> None:
    both = np.vstack([answers, answers[:, ::-1]])  # each reader's answers are also the other's: equal shares
    table = table_of(both.tolist(), (0, 1, 2))
    if np.count_nonzero(table.sum(axis=0)) < 2:
        assert fleiss_kappa(table) is None
    else:
        assert fleiss_kappa(table) == pytest.approx(cohen_kappa_score(both[:, 0], both[:, 1]))


def test_free_marginal_kappa_by_hand() -> None:
    # Observed 2/3, and 1/2 by chance with two categories, 1/4 with four.
    table = np.array([[2, 0], [1, 1], [0, 2]])
    assert free_marginal_kappa(table) == pytest.approx(1 / 3)
    assert free_marginal_kappa(table, categories=4) == pytest.approx((2 / 3 - 1 / 4) / (3 / 4))
    # Two of three readers agree on one item: one pair of three; the item that one reader answered takes no part.
    assert observed_agreement(np.array([[2, 1], [1, 0]])) == pytest.approx(1 / 3)


def test_icc_and_its_intervals_are_those_of_shrout_and_fleiss() -> None:
    found = icc(SHROUT_FLEISS)
    assert found is not None
    assert (found.items, found.readers) == (6, 4)
    assert (round(found.icc_2_1, 2), round(found.icc_3_1, 2)) == (0.29, 0.71)
    # McGraw & Wong's intervals of this table, as R's psych and irr give them.
    assert found.icc_2_1_interval == pytest.approx((0.019, 0.761), abs=1e-3)
    assert found.icc_3_1_interval == pytest.approx((0.342, 0.946), abs=1e-3)


def test_a_reader_who_always_measures_more_is_consistent_and_does_not_agree() -> None:
    # Items 1, 2, 3 and one more each: between items 2, between readers 1.5, no error: 2 / (2 + 2·1.5/3).
    found = icc(np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]))
    assert found is not None
    assert (found.icc_3_1, found.icc_3_1_interval) == (1.0, (1.0, 1.0))
    assert found.icc_2_1 == pytest.approx(2 / 3)
    assert found.icc_2_1_interval[0] < 2 / 3 < found.icc_2_1_interval[1]


def test_readers_who_measure_the_same_have_an_icc_of_1_and_nothing_that_varies_has_none() -> None:
    same = icc(np.array([[1.0, 1.0], [5.0, 5.0]]))
    assert same is not None
    assert (same.icc_2_1, same.icc_2_1_interval, same.icc_3_1) == (1.0, (1.0, 1.0), 1.0)
    assert icc(np.full((4, 3), 0.1)) is None
    assert icc(np.array([[0.1, 0.3]] * 5)) is None, "the readers differ and the items do not"
    assert icc(SHROUT_FLEISS[:1]) is None
    assert icc(SHROUT_FLEISS[:, :1]) is None


@settings(max_examples=40, deadline=None)
@given(arrays(float, (5, 3), elements=st.floats(0, 100)))
def test_icc_is_found_within_its_interval_whatever_was_measured(measured: np.ndarray) -> None:
    found = icc(measured)
    if found is not None:
        for value, (low, high) in ((found.icc_2_1, found.icc_2_1_interval), (found.icc_3_1, found.icc_3_1_interval)):
            assert low - 1e-9 <= value <= high + 1e-9


def test_bland_altman_by_hand() -> None:
    # Differences -1, 0, 1, 4: mean 1, variance 14/3; t(3) 3.1824.
    found = bland_altman([1.0, 2.0, 3.0, 8.0], [2.0, 2.0, 2.0, 4.0])
    assert found is not None
    deviation = (14 / 3) ** 0.5
    assert (found.items, found.bias) == (4, 1.0)
    assert found.bias_interval == pytest.approx((1 - 3.18245 * deviation / 2, 1 + 3.18245 * deviation / 2), abs=1e-4)
    assert (found.lower, found.upper) == pytest.approx((1 - 1.95996 * deviation, 1 + 1.95996 * deviation), abs=1e-4)
    reach = 3.18245 * deviation * (1 / 4 + 1.95996**2 / 6) ** 0.5
    assert found.upper_interval == pytest.approx((found.upper - reach, found.upper + reach), abs=1e-4)
    assert found.lower_interval == pytest.approx((found.lower - reach, found.lower + reach), abs=1e-4)


def test_one_case_has_no_limits_of_agreement() -> None:
    assert bland_altman([1.0], [2.0]) is None
