"""Several readers' volumes in; which patterns of answers their voxels show, how often and where, out.

A pattern is what each reader answered at one voxel. K readers show only few of them, and along a row of voxels they
seldom change: one pass finds the runs of equal patterns. Eight voxels are compared at once and whole blocks without a
change are passed over; what a rule decides for each pattern is then painted run by run. Nothing is cropped, so that
every pattern is counted over the whole volume.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.compiled import compiled
from labeling_protocols.label_runs import zeros

_BLOCK_WORDS = 512  # looked at together, to pass over where nothing changes; then in parts
_PART_WORDS = 16
_FEW_PATTERNS = 1 << 10
_KEY_VOLUMES_MAX = 8  # whose bytes at a voxel fill a word; the last number of each such word is kept at hand
_VOXELS_A_RUN = 32  # room for runs is made for this many voxels each, and for more where that was too little
_NO_ROOM = -1

_Array = NDArray[np.uint8]
_Words = NDArray[np.uint64]
_EVERY_BYTE = np.uint64(0x0101010101010101)
_LOWEST_BYTE = np.uint64(0xFF)
_ZERO, _EIGHT, _THIRTY_TWO, _FIFTY_SIX = np.uint64(0), np.uint64(8), np.uint64(32), np.uint64(56)
_MIXING = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4)


@dataclass(frozen=True, kw_only=True, eq=False)
class Patterns:
    """The patterns that occur: what each of K readers answered (P, K), and how many voxels show it (P).

    The first pattern is "nobody drew anything", however often it occurs. Run r begins at voxel `begins_R[r]`, counted
    in the order of the memory, and shows pattern `numbers_R[r]` until the next one begins.
    """

    answers_PK: _Array
    counts_P: NDArray[np.int64]
    shape_ZYX: tuple[int, int, int]
    begins_R: NDArray[np.int64]
    numbers_R: NDArray[np.int32]

    def painted(self, values_P: _Array) -> _Array:
        """A volume (z, y, x) in which each voxel has its pattern's value."""
        size = int(np.prod(self.shape_ZYX))
        flat = zeros(size)
        _paint(self.begins_R, self.numbers_R, values_P, flat)
        return flat.reshape(self.shape_ZYX)

    def places(self, picked_P: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The voxels that show one of these patterns: their indices (n, 3) as z, y, x, and which pattern each shows."""
        ends_R = np.append(self.begins_R[1:], np.prod(self.shape_ZYX))
        picked_R = np.flatnonzero(picked_P[self.numbers_R])
        lengths = (ends_R - self.begins_R)[picked_R]
        steps = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
        flat = np.repeat(self.begins_R[picked_R], lengths) + steps
        places = np.stack(np.unravel_index(flat, self.shape_ZYX), axis=1)
        return places, np.repeat(self.numbers_R[picked_R], lengths).astype(np.intp)


def patterns_of(readers_LZYX: Sequence[_Array], values: Sequence[int]) -> Patterns:
    """What each reader, given as layers of one grid, answered at each voxel: one of these values, or 0.

    The values exclude each other; of two in different layers of one reader the larger counts. A reader may have no
    layer, and so have drawn nothing.
    """
    _, depth, height, width = readers_LZYX[0].shape
    shape_ZYX = (depth, height, width)
    size = int(np.prod(shape_ZYX))
    owners = np.array([reader for reader, layers in enumerate(readers_LZYX) for _ in layers], np.intp)
    kept = np.zeros(256, np.uint8)
    kept[list(values)] = values
    if not (owners.size and size):
        return Patterns(
            answers_PK=np.zeros((1, len(readers_LZYX)), np.uint8),
            counts_P=np.array([size], np.int64),
            shape_ZYX=shape_ZYX,
            begins_R=np.zeros(1, np.int64),
            numbers_R=np.zeros(1, np.int32),
        )
    volumes = tuple(_words(layer_ZYX) for layers_LZYX in readers_LZYX for layer_ZYX in layers_LZYX)
    room_P, room_R = _FEW_PATTERNS, size // _VOXELS_A_RUN + _FEW_PATTERNS
    while True:
        answers_PK = np.zeros((room_P, len(readers_LZYX)), np.uint8)
        table = np.zeros(4 * room_P, np.int32)
        begins_R, numbers_R = np.empty(room_R, np.int64), np.empty(room_R, np.int32)
        found_P, found_R = _trace(volumes, owners, kept, answers_PK, table, begins_R, numbers_R)
        if found_P != _NO_ROOM and found_R != _NO_ROOM:
            break
        room_P = room_P * 8 if found_P == _NO_ROOM else room_P
        room_R = room_R * 8 if found_R == _NO_ROOM else room_R
    begins_R, numbers_R = begins_R[:found_R], numbers_R[:found_R]
    lengths = np.diff(np.minimum(np.append(begins_R, size), size))
    return Patterns(
        answers_PK=answers_PK[:found_P],
        counts_P=np.bincount(numbers_R, weights=lengths, minlength=found_P).astype(np.int64),
        shape_ZYX=shape_ZYX,
        begins_R=begins_R,
        numbers_R=numbers_R,
    )


def _words(volume_ZYX: _Array) -> _Words:
    """The voxels, eight to a word; those that fill no word are followed by zeros. Read-only: all are of one type."""
    flat = np.ascontiguousarray(volume_ZYX).ravel()
    if flat.size % 8:
        flat = np.concatenate([flat, np.zeros(-flat.size % 8, np.uint8)])
    words: _Words = np.require(flat.view("<u8"), requirements=["A"]).view()
    words.flags.writeable = False
    return words


@compiled
def _trace(
    volumes: tuple[_Words, ...],
    owners: NDArray[np.intp],
    kept: _Array,
    answers_PK: _Array,
    table: NDArray[np.int32],
    begins_R: NDArray[np.int64],
    numbers_R: NDArray[np.int32],
) -> tuple[int, int]:
    """Write the patterns and the runs; returns how many of each there are, -1 for that which has no room.

    `owners` says which reader each volume is of. A word's lowest byte is its first voxel.
    """
    last = np.zeros(len(volumes), np.uint64)  # each volume's voxel before, in every byte
    answers = np.zeros(answers_PK.shape[1], np.uint8)
    known_keys, known_numbers = np.zeros(256, np.uint64), np.zeros(256, np.int32)  # 0: nobody drew anything
    begins_R[0], numbers_R[0] = 0, 0
    patterns, runs, current = 1, 1, 0
    for begin in range(0, volumes[0].size, _BLOCK_WORDS):
        stop = min(begin + _BLOCK_WORDS, volumes[0].size)
        if _unchanged(volumes, begin, stop, last):
            continue
        for inner in range(begin, stop, _PART_WORDS):
            end = min(inner + _PART_WORDS, stop)
            if _unchanged(volumes, inner, end, last):
                continue
            for index in range(inner, end):
                changed = _changes(volumes, index, last)
                here = 8 * index
                shift = _ZERO
                while changed:
                    if changed & _LOWEST_BYTE:
                        key = _key(volumes, index, shift)
                        place = int(key * _MIXING >> _FIFTY_SIX)
                        number = int(known_numbers[place])
                        if len(volumes) > _KEY_VOLUMES_MAX or known_keys[place] != key:
                            _gather(volumes, owners, kept, index, shift, answers)
                            number = _number(answers, answers_PK, table, patterns)
                            if number == _NO_ROOM:
                                return _NO_ROOM, runs
                            patterns = max(patterns, number + 1)
                            known_keys[place], known_numbers[place] = key, number
                        if number != current:
                            if runs == len(begins_R):
                                return patterns, _NO_ROOM
                            begins_R[runs], numbers_R[runs] = here, number
                            runs, current = runs + 1, number
                    changed >>= _EIGHT
                    shift += _EIGHT
                    here += 1
    return patterns, runs


@compiled
def _unchanged(volumes: tuple[_Words, ...], begin: int, stop: int, last: _Words) -> bool:
    """Whether each volume has its last value in all of these words."""
    for volume in range(len(volumes)):
        words, word = volumes[volume][begin:stop], last[volume]
        different = _ZERO
        for index in range(words.size):
            different |= words[index] ^ word
        if different != _ZERO:
            return False
    return True


@compiled
def _changes(volumes: tuple[_Words, ...], index: int, last: _Words) -> np.uint64:
    """A word whose bytes are not 0 where any volume changes from one voxel to the next; `last` moves on."""
    changed = _ZERO
    for volume in range(len(volumes)):
        word = volumes[volume][index]
        changed |= word ^ ((word << _EIGHT) | (last[volume] >> _FIFTY_SIX))
        last[volume] = (word >> _FIFTY_SIX) * _EVERY_BYTE
    return changed


@compiled
def _key(volumes: tuple[_Words, ...], index: int, shift: np.uint64) -> np.uint64:
    """The bytes of all volumes at one voxel, side by side; of more than eight volumes the last eight."""
    key = _ZERO
    for volume in range(len(volumes)):
        key = key << _EIGHT | (volumes[volume][index] >> shift & _LOWEST_BYTE)
    return key


@compiled
def _gather(
    volumes: tuple[_Words, ...], owners: NDArray[np.intp], kept: _Array, index: int, shift: np.uint64, answers: _Array
) -> None:
    """Each reader's answer at one voxel: the largest kept value of his volumes."""
    answers[:] = 0
    for volume in range(len(volumes)):
        value = kept[np.intp(volumes[volume][index] >> shift & _LOWEST_BYTE)]
        answers[owners[volume]] = max(answers[owners[volume]], value)


@compiled
def _number(answers: _Array, answers_PK: _Array, table: NDArray[np.int32], patterns: int) -> int:
    """The number of this pattern, a new one where it is new; -1 where there is no room for one.

    `table` finds a pattern by a hash of its answers, trying one place after the other; 0 is the first pattern, which
    is not in it, or no pattern.
    """
    hashed = _ZERO
    for answer in answers:
        hashed = (hashed ^ np.uint64(answer)) * _MIXING
    if hashed == _ZERO and not answers.any():
        return 0
    last_place = len(table) - 1  # its length is a power of two
    place = np.intp(hashed >> _THIRTY_TWO) & last_place
    while table[place]:
        number = table[place]
        same = True
        for reader in range(len(answers)):
            same &= answers_PK[number, reader] == answers[reader]
        if same:
            return int(number)
        place = (place + 1) & last_place
    if patterns == len(answers_PK):
        return _NO_ROOM
    answers_PK[patterns] = answers
    table[place] = patterns
    return patterns


@compiled
def _paint(begins_R: NDArray[np.int64], numbers_R: NDArray[np.int32], values_P: _Array, flat: _Array) -> None:
    """Write each run's value into voxels that are 0."""
    for run in range(len(begins_R)):
        value = values_P[numbers_R[run]]
        if value:
            stop = begins_R[run + 1] if run + 1 < len(begins_R) else flat.size
            flat[begins_R[run] : stop] = value
