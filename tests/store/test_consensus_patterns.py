"""Patterns of readers' answers against plain numpy: which occur, how often, where, and what is painted from them."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from labeling_protocols.patterns import Patterns, patterns_of


def plain(readers_LZYX: list[np.ndarray], values: list[int]) -> np.ndarray:
    """Each reader's answer at each voxel, (reader, z, y, x)."""
    kept = np.zeros(256, np.uint8)
    kept[values] = values
    return np.stack([np.max(kept[layers_LZYX], axis=0, initial=0) for layers_LZYX in readers_LZYX])


def check(found: Patterns, answers_KZYX: np.ndarray) -> None:
    """The same patterns and counts, and every voxel painted with its own pattern's value."""
    flat_PK = answers_KZYX.reshape(len(answers_KZYX), -1).T
    counted = Counter(map(tuple, flat_PK.tolist()))
    assert found.answers_PK[0].tolist() == [0] * len(answers_KZYX)
    ours = dict(zip(map(tuple, found.answers_PK.tolist()), found.counts_P.tolist(), strict=True))
    assert len(ours) == len(found.counts_P)
    assert {pattern: count for pattern, count in ours.items() if count} == counted
    for reader, answer_ZYX in enumerate(answers_KZYX):
        assert np.array_equal(found.painted(found.answers_PK[:, reader]), answer_ZYX)
    picked_P = found.answers_PK.any(axis=1)
    picked_P[1::2] = False
    places, numbers = found.places(picked_P)
    shown = {tuple(answers): number for number, answers in enumerate(found.answers_PK.tolist())}
    which = np.array([shown[tuple(answers)] for answers in flat_PK.tolist()], int).reshape(answers_KZYX.shape[1:])
    expected = np.argwhere(picked_P[which])
    assert np.array_equal(places, expected)
    assert np.array_equal(numbers, which[tuple(expected.T)])


@st.composite
def labelled(draw: st.DrawFn) -> list[np.ndarray]:
    shape = draw(array_shapes(min_dims=3, max_dims=3, max_side=6))
    layers = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))
    values = st.sampled_from([0, 0, 1, 2, 7, 255])
    return [draw(arrays(np.uint8, (count, *shape), elements=values)) for count in layers]


@settings(max_examples=60, deadline=None)
@given(labelled())
@example([np.zeros((0, 2, 3, 4), np.uint8)] * 2)
@example([np.full((1, 1, 1, 9), 7, np.uint8), np.full((1, 1, 1, 9), 1, np.uint8)])
@example([np.eye(16, dtype=np.uint8).reshape(1, 1, 16, 16) * 255] * 2)
def test_patterns_are_those_that_voxels_show(readers_LZYX: list[np.ndarray]) -> None:
    values = [1, 7, 255]  # 2 is of another group
    check(patterns_of(readers_LZYX, values), plain(readers_LZYX, values))


@pytest.mark.parametrize("shape", [(3, 16, 1024), (1, 17, 509)])
def test_what_begins_and_ends_at_any_place_of_a_block_is_found(shape: tuple[int, int, int]) -> None:
    generator = np.random.default_rng(3)
    readers_LZYX = []
    for _ in range(2):
        flat = np.zeros(np.prod(shape), np.uint8)
        for begin in generator.integers(0, flat.size, 25):
            flat[begin : begin + generator.integers(1, 700)] = generator.integers(0, 3)
        readers_LZYX.append(flat.reshape(1, *shape))
    readers_LZYX[0][0, 0, 0, 0] = readers_LZYX[1][0, -1, -1, -1] = 2
    check(patterns_of(readers_LZYX, [1, 2]), plain(readers_LZYX, [1, 2]))


def test_more_patterns_and_runs_than_there_was_room_for_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labeling_protocols.patterns._FEW_PATTERNS", 4)
    generator = np.random.default_rng(4)
    readers_LZYX = [generator.integers(0, 9, (1, 2, 5, 20), dtype=np.uint8) for _ in range(2)]
    found = patterns_of(readers_LZYX, list(range(1, 9)))
    assert len(found.counts_P) > 8 * 4  # room was made twice
    assert len(found.begins_R) > 8 * (200 // 32 + 4)
    check(found, plain(readers_LZYX, list(range(1, 9))))


def test_readers_may_be_many() -> None:
    generator = np.random.default_rng(5)
    readers_LZYX = [generator.integers(0, 2, (1, 2, 3, 5), dtype=np.uint8) for _ in range(12)]
    check(patterns_of(readers_LZYX, [1]), plain(readers_LZYX, [1]))


def test_volumes_need_not_lie_in_one_piece_of_memory() -> None:
    layers_LZYX = np.zeros((2, 3, 5, 7), np.uint8)
    layers_LZYX[0, 1, 2:4, 3:] = 1
    layers_LZYX[1, 2, 1, 2] = 2
    views = [layers_LZYX[:, :, ::-1, 1:], layers_LZYX[::-1, :, :, :-1]]
    check(patterns_of(views, [1, 2]), plain(views, [1, 2]))


def test_a_grid_without_voxels_has_one_pattern_that_nobody_shows() -> None:
    found = patterns_of([np.zeros((1, 0, 4, 4), np.uint8)] * 3, [1])
    assert found.answers_PK.tolist() == [[0, 0, 0]]
    assert found.counts_P.tolist() == [0]
    assert found.painted(np.zeros(1, np.uint8)).shape == (0, 4, 4)
