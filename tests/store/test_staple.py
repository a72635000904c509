"""STAPLE against SimpleITK's filters, and against the paper's two steps worked out voxel by voxel."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from labeling_protocols.consensus import Formed, form_consensus
from labeling_protocols.label import Label
from labeling_protocols.patterns import patterns_of
from labeling_protocols.protocol import SHIPPED, Protocol, Ties, load_protocol
from labeling_protocols.protocol_parts import ConsensusRule
from labeling_protocols.staple import Estimate, Performance, label_staple, staple
from tests.store.drawn_labels import label

NODULE, ABDOMEN, HIPPOCAMPUS = (
    load_protocol(SHIPPED / f"{name}.yaml") for name in ("lung_nodule", "abdomen_ct", "hippocampus")
)
LETTERS = "abcdefgh"


def simpleitk(readers_ZYX: Sequence[np.ndarray]) -> tuple[np.ndarray, list[tuple[float, float]], int]:
    """Probabilities, each reader's sensitivity and specificity, and how many rounds were done."""
    staple_filter = sitk.STAPLEImageFilter()
    weights = staple_filter.Execute([sitk.GetImageFromArray(reader_ZYX) for reader_ZYX in readers_ZYX])
    performance = list(zip(staple_filter.GetSensitivity(), staple_filter.GetSpecificity(), strict=True))
    return sitk.GetArrayFromImage(weights), performance, staple_filter.GetElapsedIterations() + 1


def ours(readers_ZYX: Sequence[np.ndarray]) -> tuple[np.ndarray, Estimate]:
    """Probabilities by voxel, and the estimate."""
    patterns = patterns_of([reader_ZYX[np.newaxis] for reader_ZYX in readers_ZYX], [1])
    estimate = staple(patterns.answers_PK == 1, patterns.counts_P)
    numbers = np.zeros(readers_ZYX[0].shape, int)
    places, shown = patterns.places(np.ones(len(patterns.counts_P), bool))
    numbers[tuple(places.T)] = shown
    return estimate.weights_PV[:, 1][numbers], estimate


def noisy(seed: int, readers: int, values: int = 1, shape: tuple[int, int, int] = (5, 9, 13)) -> list[np.ndarray]:
    """Readers who each miss and invent other voxels of one truth, some more than others."""
    generator = np.random.default_rng(seed)
    truth_ZYX = np.zeros(shape, np.uint8)
    for value in range(1, values + 1):
        corner = [generator.integers(0, length - 2) for length in shape]
        truth_ZYX[tuple(slice(start, start + generator.integers(2, 7)) for start in corner)] = value
    drawn = []
    for _ in range(readers):
        wrong_ZYX = generator.random(shape) < generator.uniform(0, 0.2)
        drawn.append(np.where(wrong_ZYX, generator.integers(0, values + 1, shape), truth_ZYX).astype(np.uint8))
    return drawn


@pytest.mark.parametrize("seed", range(25))
def test_weights_sensitivities_and_specificities_are_simpleitks(seed: int) -> None:
    readers_ZYX = noisy(seed, readers=1 + seed % 6)
    weights_ZYX, performance, rounds = simpleitk(readers_ZYX)
    our_weights_ZYX, estimate = ours(readers_ZYX)
    assert estimate.settled
    assert estimate.rounds == rounds
    assert our_weights_ZYX == pytest.approx(weights_ZYX, abs=1e-6)
    assert np.array_equal(our_weights_ZYX > 0.5, weights_ZYX > 0.5)
    found = [(one.sensitivity, one.specificity) for one in estimate.performance_VK[1]]
    assert np.array(found) == pytest.approx(np.array(performance), abs=1e-6)


def test_one_voxel_and_readers_without_anything_are_weighed_as_simpleitk_does() -> None:
    one_ZYX = np.zeros((3, 4, 5), np.uint8)
    one_ZYX[1, 2, 3] = 1
    for readers_ZYX in ([one_ZYX, one_ZYX, one_ZYX * 0], [one_ZYX, one_ZYX * 0, one_ZYX * 0]):
        weights_ZYX, _, _ = simpleitk(readers_ZYX)
        assert ours(readers_ZYX)[0] == pytest.approx(weights_ZYX, abs=1e-6)


def test_the_paper_worked_out_for_one_round() -> None:
    # Two readers, 8 voxels: both draw 2, the first one another, the second none more; 5 are background to both.
    drawn_PK = np.array([[False, False], [True, True], [True, False]])
    counts_P = np.array([5, 2, 1])
    # Start: W is 0, 1 and 1/2, and the prior (2 + 1/2) / 8. After one round p = (1, 4/5) and q = (10/11, 1): whatever
    # comes later, the first reader has no voxel outside the estimate's truth that the estimate doubts.
    estimate = staple(drawn_PK, counts_P)
    assert estimate.weights_PV[:2, 1] == pytest.approx([0.0, 1.0], abs=1e-6)
    assert estimate.weights_PV.sum(axis=1) == pytest.approx(1.0)
    prior, p, q = 2.5 / 8, (1.0, 4 / 5), (10 / 11, 1.0)
    alpha, beta = prior * p[0] * (1 - p[1]), (1 - prior) * (1 - q[0]) * q[1]
    before = None
    for _ in range(estimate.rounds - 1):  # the same two steps for the one pattern that is in doubt
        weight = alpha / (alpha + beta)
        p = (1.0, 2 / (2 + weight))
        q = (5 / (5 + 1 - weight), 1.0)
        alpha, beta = prior * p[0] * (1 - p[1]), (1 - prior) * (1 - q[0]) * q[1]
        before = weight
    assert before is not None
    assert estimate.weights_PV[2, 1] == pytest.approx(alpha / (alpha + beta), abs=1e-9)


def simpleitk_labels(readers_ZYX: Sequence[np.ndarray], undecided: int) -> np.ndarray:
    return sitk.GetArrayFromImage(
        sitk.MultiLabelSTAPLE([sitk.GetImageFromArray(reader_ZYX) for reader_ZYX in readers_ZYX], undecided)
    )


def our_labels(readers_ZYX: Sequence[np.ndarray], values: Sequence[int], undecided: int) -> np.ndarray:
    patterns = patterns_of([reader_ZYX[np.newaxis] for reader_ZYX in readers_ZYX], values)
    values_V = np.array([0, *values], np.uint8)
    given_VPK = patterns.answers_PK[np.newaxis] == values_V[:, np.newaxis, np.newaxis]
    leading_VP = label_staple(given_VPK, patterns.counts_P).leading_VP
    return patterns.painted(
        np.where(leading_VP.sum(axis=0) == 1, values_V[leading_VP.argmax(axis=0)], undecided).astype(np.uint8)
    )


def voting_tied(readers_ZYX: Sequence[np.ndarray]) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.LabelVoting([sitk.GetImageFromArray(one) for one in readers_ZYX], 99)) == 99


@pytest.mark.parametrize("seed", range(25))
def test_several_labels_are_decided_as_simpleitk_decides_them(seed: int) -> None:
    # SimpleITK starts from a vote and writes its ties into a neighbouring cell of its table: none of them here.
    readers_ZYX = noisy(seed, readers=3 + seed % 3, values=2 + seed % 4)
    first_ZYX = readers_ZYX[0]
    tied_ZYX = voting_tied(readers_ZYX)
    readers_ZYX = [np.where(tied_ZYX, first_ZYX, reader_ZYX) for reader_ZYX in readers_ZYX]
    expected_ZYX = simpleitk_labels(readers_ZYX, 99)
    assert np.array_equal(our_labels(readers_ZYX, [1, 2, 3, 4, 5], 99), expected_ZYX)


def voxel_by_voxel(readers_ZYX: Sequence[np.ndarray], labels: int) -> np.ndarray:
    """The probability of each label at each voxel, (label, voxel); ties of the first vote are left out of the start."""
    given = [reader_ZYX.ravel() for reader_ZYX in readers_ZYX]
    votes = np.stack([np.sum([one == label for one in given], axis=0) for label in range(labels)])
    decided = (votes == votes.max(axis=0)).sum(axis=0) == 1
    prior = votes.sum(axis=1) / votes.sum()
    tables = []
    for one in given:
        table = np.zeros((labels, labels))
        np.add.at(table, (one[decided], votes.argmax(axis=0)[decided]), 1.0)
        tables.append(table / np.maximum(table.sum(axis=1, keepdims=True), 1.0))
    while True:
        weights = prior[:, np.newaxis] * np.prod(
            [table[one].T for table, one in zip(tables, given, strict=True)], axis=0
        )
        weights = np.divide(weights, weights.sum(axis=0), out=np.zeros_like(weights), where=weights.sum(axis=0) > 0)
        moved = 0.0
        for number, one in enumerate(given):
            table = np.stack([weights[:, one == label].sum(axis=1) for label in range(labels)])
            total = table.sum(axis=0)
            table = np.divide(table, total, out=np.zeros_like(table), where=total > 0)
            moved = max(moved, float(np.abs(table - tables[number]).max()))
            tables[number] = table
        if moved < 1e-5:
            weights = prior[:, np.newaxis] * np.prod(
                [table[one].T for table, one in zip(tables, given, strict=True)], axis=0
            )
            return np.divide(weights, weights.sum(axis=0), out=np.zeros_like(weights), where=weights.sum(axis=0) > 0)


@pytest.mark.parametrize("seed", range(8))
def test_several_labels_by_pattern_are_those_worked_out_voxel_by_voxel(seed: int) -> None:
    readers_ZYX = noisy(seed, readers=4, values=3)
    patterns = patterns_of([reader_ZYX[np.newaxis] for reader_ZYX in readers_ZYX], [1, 2, 3])
    given_VPK = patterns.answers_PK[np.newaxis] == np.arange(4)[:, np.newaxis, np.newaxis]
    estimate = label_staple(given_VPK, patterns.counts_P)
    expected = voxel_by_voxel(readers_ZYX, 4)
    flat = np.stack([reader_ZYX.ravel() for reader_ZYX in readers_ZYX], axis=1)
    for answers, weights in zip(patterns.answers_PK, estimate.weights_PV, strict=True):
        shown = (flat == answers).all(axis=1)
        if shown.any():
            np.testing.assert_allclose(expected[:, shown], np.tile(weights[:, np.newaxis], shown.sum()), atol=1e-9)
    one = estimate.performance_VK[2][1]  # the second reader on label 2, against the weights
    mine, weight = readers_ZYX[1].ravel() == 2, expected[2]
    other = expected.sum(axis=0) - weight
    assert one.sensitivity == pytest.approx(weight[mine].sum() / weight.sum())
    assert one.specificity == pytest.approx(other[~mine].sum() / other.sum())


def formed(protocol: Protocol, readers: Sequence[Label | np.ndarray], ties: Ties = Ties.BACKGROUND) -> Formed:
    protocol = replace(protocol, consensus=replace(protocol.consensus, ties=ties))
    labels = [one if isinstance(one, Label) else label(array_ZYX=one) for one in readers]
    return form_consensus(protocol, dict(zip(LETTERS, labels, strict=False)), ConsensusRule.STAPLE)


@pytest.mark.parametrize("seed", range(6))
def test_a_structure_of_its_own_is_decided_by_simpleitks_staple(seed: int) -> None:
    readers_ZYX = noisy(seed, readers=3)
    found = formed(NODULE, readers_ZYX)
    weights_ZYX, performance, _ = simpleitk(readers_ZYX)
    assert np.array_equal(found.label.array_ZYX, weights_ZYX > 0.5)
    assert found.performance is not None
    for letter, (sensitivity, specificity) in zip(LETTERS, performance, strict=False):
        assert found.performance[letter]["nodule"].sensitivity == pytest.approx(sensitivity, abs=1e-6)
        assert found.performance[letter]["nodule"].specificity == pytest.approx(specificity, abs=1e-6)
    assert found.undefined == ()


def test_structures_that_overlap_are_weighed_apart_from_each_other() -> None:
    tumours_ZYX = [one * np.uint8(6) for one in noisy(11, readers=3)]
    livers_ZYX = noisy(12, readers=3)
    labels = [label(array_ZYX=one) for one in livers_ZYX]
    labels = [
        replace(one, layers_LZYX=np.stack([liver, tumour]))
        for one, liver, tumour in zip(labels, livers_ZYX, tumours_ZYX, strict=True)
    ]
    found = formed(ABDOMEN, labels)
    weights_ZYX, _, _ = simpleitk([one // 6 for one in tumours_ZYX])
    assert np.array_equal(found.label.mask_ZYX(6), weights_ZYX > 0.5)
    assert np.array_equal(found.label.mask_ZYX(1), simpleitk_labels(livers_ZYX, 99) == 1)
    assert found.undefined == tuple(
        f"{name}: no reader outlined it, so STAPLE has nothing to estimate"
        for name in ("spleen", "right_kidney", "left_kidney", "pancreas")
    )


def test_what_no_reader_outlined_is_named_and_stays_empty() -> None:
    found = formed(NODULE, [label(), label(), label()])
    assert found.undefined == ("nodule: no reader outlined it, so STAPLE has nothing to estimate",)
    assert not found.label.array_ZYX.any()
    assert found.performance is not None
    assert found.performance["a"]["nodule"] == Performance(sensitivity=None, specificity=1.0)


def test_a_structure_that_fills_the_volume_for_everybody_does_for_staple() -> None:
    full_ZYX = np.ones((2, 3, 4), np.uint8)
    found = formed(NODULE, [full_ZYX, full_ZYX])
    assert found.label.array_ZYX.all()
    assert found.performance is not None
    assert found.performance["b"]["nodule"] == Performance(sensitivity=1.0, specificity=None)


def halves() -> list[np.ndarray]:
    """Two readers, each with the half of the volume that the other has not: nothing speaks for either."""
    left_ZYX = np.zeros((2, 2, 8), np.uint8)
    left_ZYX[..., :4] = 1
    return [left_ZYX, 1 - left_ZYX]


def test_even_weights_are_a_tie_that_is_named_and_goes_where_the_protocol_says() -> None:
    # Each pattern has weight 1/2 from the start, and both readers' sensitivity and specificity stay 1/2.
    found = formed(NODULE, halves())
    assert found.tied_voxels == {"nodule": 32}
    assert not found.label.array_ZYX.any()
    # By distance, the boundary in the middle is as deep inside for one reader as outside for the other: background.
    assert not formed(NODULE, halves(), Ties.NEAREST_BOUNDARY).label.array_ZYX.any()


def test_answers_that_no_truth_explains_are_ties_of_those_that_were_given() -> None:
    # Only one of two readers ever draws posterior, so the vote that STAPLE starts from has none: all weights are 0.
    readers = [label([(1, 1, 4), (2, 5, 8)]), label([(1, 1, 4)])]
    found = formed(HIPPOCAMPUS, readers)
    assert found.tied_voxels == {"posterior": 27}
    assert np.array_equal(found.label.array_ZYX, label([(1, 1, 4)]).array_ZYX)


def test_an_estimate_that_never_comes_to_rest_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labeling_protocols.staple._ROUNDS_MAX", 1)
    found = formed(NODULE, noisy(3, readers=3))
    assert found.undefined == ("nodule: STAPLE still moved after 1 rounds; the last estimate stands",)
    many = formed(HIPPOCAMPUS, noisy(3, readers=3, values=2))
    assert many.undefined[-1].startswith("anterior, posterior: STAPLE still moved")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(arrays(np.uint8, (2, 3, 4), elements=st.integers(0, 1)), min_size=1, max_size=4).filter(
        lambda readers: any(one.any() for one in readers)
    )
)
def test_whatever_the_readers_drew_the_mask_is_simpleitks_where_it_has_one(readers_ZYX: list[np.ndarray]) -> None:
    weights_ZYX, _, rounds = simpleitk(readers_ZYX)
    our_weights_ZYX, estimate = ours(readers_ZYX)
    clear_ZYX = ~np.isnan(weights_ZYX) & (np.abs(weights_ZYX - 0.5) > 1e-4)
    if rounds < 2000 and estimate.settled:
        assert np.array_equal(our_weights_ZYX[clear_ZYX] > 0.5, weights_ZYX[clear_ZYX] > 0.5)


def test_every_reader_and_structure_has_a_performance() -> None:
    found = formed(HIPPOCAMPUS, noisy(5, readers=3, values=2))
    names = [structure.name for structure in HIPPOCAMPUS.structures]
    assert found.performance is not None
    assert {reader: list(of_reader) for reader, of_reader in found.performance.items()} == {one: names for one in "abc"}
