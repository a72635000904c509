"""Voxels in, where their value changes and to what out, and back; and both of these as bytes.

A run's bytes are its step from the run before (uint32) and its value; all lowest bytes of the steps come first, then
the next ones, then the values, because so they compress best. Voxels are compared eight at a time, what is empty is
passed over, and on the way back memory that stays 0 is not written: 80 MB of a label take milliseconds.
"""

import mmap
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BYTES_A_RUN = 5
VOXELS_A_RUN = 16  # with fewer, on the mean, runs are not worth it
_FAR_WORDS = 512  # nothing for this long (4 KB): its memory is left untouched
_BLOCK_WORDS = 1 << 12  # looked at together, to pass over what is empty
_CHUNK_WORDS = 1 << 19  # compared at once, so that what is found of them is still in the cache
_RUNS_AT_ONCE = 1 << 14  # so few that their arrays stay there too, and in memory the process has already
_LARGE_BYTES = 1 << 22

_Voxels = NDArray[np.uint8]
_Words = NDArray[np.uint64]
_Positions = NDArray[np.int64]

_EVERY_BYTE = np.uint64(0x0101010101010101)
_LOWEST_BYTE = np.uint64(0xFF)
_NOWHERE: _Positions = np.zeros(0, np.int64)
_EIGHT, _FIFTY_SIX = np.uint64(8), np.uint64(56)


def find_runs(flat: _Voxels) -> tuple[_Positions, _Voxels] | None:
    """Where the value changes (0 stands before the first voxel) and to what, or None where it does so too often."""
    left = flat.size // VOXELS_A_RUN
    words: _Words = flat[: flat.size // 8 * 8].view("<u8")
    positions, values = [_NOWHERE], [flat[:0]]
    before = np.uint64(0)
    for starts, found, end in _word_runs(words):
        mixed = found != (found & _LOWEST_BYTE) * _EVERY_BYTE
        # A word whose bytes differ, and which repeats, changes value within each repetition.
        uneven = np.flatnonzero(mixed)
        lengths = np.append(starts[1:], end).take(uneven) - starts.take(uneven)
        again = lengths > 1
        left -= starts.size + int((lengths[again] - 1).sum())
        if left < 0:
            return None
        if again.any():
            repeats = np.ones(starts.size, np.int64)
            repeats[uneven[again]] = lengths[again]
            first = np.cumsum(repeats) - repeats
            starts = np.repeat(starts - first, repeats) + np.arange(int(repeats.sum()))
            found, mixed = np.repeat(found, repeats), np.repeat(mixed, repeats)
        at, to = _changes(starts, found, mixed, before)
        positions.append(at)
        values.append(to)
        before = found[-1]
    rest = flat[words.size * 8 - 1 :] if words.size else np.append(np.uint8(0), flat)
    ends = np.flatnonzero(rest[1:] != rest[:-1])
    positions.append(ends + words.size * 8)
    values.append(rest[1:].take(ends))
    known = np.concatenate(positions)
    return (known, np.concatenate(values)) if known.size <= flat.size // VOXELS_A_RUN else None


def _word_runs(words: _Words) -> Iterator[tuple[_Positions, _Words, int]]:
    """Runs of equal words, many at once: where each begins, with which word, and where the last of them ends."""
    starts, found, held = [np.zeros(1, np.int64)], [words[:1]], 1
    different = np.empty(_CHUNK_WORDS, np.bool_)
    for span, stop in _drawn(words):
        for begin in range(max(span, 1), stop, _CHUNK_WORDS):
            end = min(begin + _CHUNK_WORDS, stop)
            here = np.not_equal(words[begin:end], words[begin - 1 : end - 1], out=different[: end - begin])
            at = np.flatnonzero(here)
            found.append(words[begin:end].take(at))
            at += begin
            starts.append(at)
            held += at.size
            if held > _RUNS_AT_ONCE:
                all_starts, all_found = np.concatenate(starts), np.concatenate(found)
                yield all_starts[:-1], all_found[:-1], int(all_starts[-1])
                starts, found, held = [all_starts[-1:]], [all_found[-1:]], 1
    if words.size:
        yield np.concatenate(starts), np.concatenate(found), words.size


def _drawn(words: _Words) -> list[tuple[int, int]]:
    """The spans of words with anything but zeros, in whole blocks and one word more, where they end."""
    blocks = words.size // _BLOCK_WORDS
    drawn = np.zeros(blocks + 3, np.bool_)
    in_blocks = words[: blocks * _BLOCK_WORDS].reshape(blocks, _BLOCK_WORDS)
    drawn[1 : blocks + 1] = in_blocks.max(axis=1) != 0
    drawn[blocks + 1] = True  # what is left over
    edges = np.flatnonzero(drawn[1:] != drawn[:-1]) * _BLOCK_WORDS
    return list(zip(edges[0::2].tolist(), np.minimum(edges[1::2] + 1, words.size).tolist(), strict=True))


def _changes(
    starts: _Positions, words: _Words, mixed: NDArray[np.bool_], before: np.uint64
) -> tuple[_Positions, _Voxels]:
    """The bytes in these words that differ from the byte before them; a word's lowest byte comes first.

    Only `mixed` words have bytes that differ from one another; others can change where they begin.
    """
    entering = np.empty_like(words)
    entering[0] = before
    entering[1:] = words[:-1]
    entering >>= _FIFTY_SIX
    some = np.flatnonzero(mixed | (entering != (words & _LOWEST_BYTE)))
    words = words.take(some)
    changed = entering.take(some)
    changed |= words << _EIGHT
    changed ^= words
    at = np.flatnonzero(changed.view(np.uint8) != 0)
    return (starts.take(some) << 3).take(at >> 3) + (at & 7), words.view(np.uint8).take(at)


def pack_runs(positions: _Positions, values: _Voxels) -> bytes:
    """The runs as `BYTES_A_RUN` bytes each."""
    steps = np.diff(positions, prepend=np.int64(0)).astype(np.uint32)
    planes = [(steps >> np.uint32(shift)).astype(np.uint8) for shift in (0, 8, 16, 24)]
    return b"".join(plane.tobytes() for plane in (*planes, values))


def fill_runs(content: bytes, size: int) -> _Voxels:
    """The voxels of packed runs; raises `ValueError` where these do not follow one another within `size` voxels.

    Each word's change against the word before is put in its place; the words are the running XOR of that.
    """
    words = _zeros(size // 8 + 2)  # the last one's end, and one to carry what ends there
    planes = np.frombuffer(content, np.uint8).reshape(BYTES_A_RUN, -1)
    position, opened, last, value = -1, 0, 0, np.uint64(0)
    for first in range(0, planes.shape[1], _RUNS_AT_ONCE):
        part = planes[:, first : first + _RUNS_AT_ONCE]
        positions = _positions(part, position)
        if positions[-1] >= size or np.any(positions[1:] <= positions[:-1]) or positions[0] <= position:
            raise ValueError("a damaged label: its runs do not follow one another within its voxels")
        where, leaving = _put(words, positions, part[4], value)
        empty_before = np.append(value, leaving[:-1]) == 0
        for cut in np.flatnonzero(empty_before & (np.diff(where, prepend=last) > _FAR_WORDS)).tolist():
            _accumulate(words, opened, (int(where[cut - 1]) if cut else last) + 2)
            opened = int(where[cut])
        position, last, value = int(positions[-1]), int(where[-1]), leaving[-1]
    _accumulate(words, opened, words.size if value else last + 2)
    voxels: _Voxels = words.view(np.uint8)[:size]
    return voxels


def _positions(planes: _Voxels, before: int) -> _Positions:
    steps = planes[0].astype(np.uint32)
    for plane, shift in zip(planes[1:4], (8, 16, 24), strict=True):
        steps |= plane.astype(np.uint32) << np.uint32(shift)
    positions = np.cumsum(steps, dtype=np.int64)
    return positions + max(before, 0)


def _put(words: _Words, positions: _Positions, values: _Voxels, value: np.uint64) -> tuple[_Positions, _Words]:
    """XOR the changes into the words they lie in and the words after: which those are, and what goes on after each.

    `value` goes on from before the first, in every byte of a word.
    """
    where = positions >> 3
    first = np.ones(where.size, np.bool_)  # of the changes within one word
    np.not_equal(where[1:], where[:-1], out=first[1:])
    before = np.append(value.astype(np.uint8), values[:-1])
    entry = before[first] * _EVERY_BYTE
    leaving = np.append(entry[1:], values[-1] * _EVERY_BYTE)
    changes = np.zeros(entry.size, "<u8")
    changes.view(np.uint8)[((np.cumsum(first) - 1) << 3) + (positions & 7)] = values ^ before
    for shift in (8, 16, 32):
        changes ^= changes << np.uint64(shift)
    where = where[first]
    words[where] ^= changes
    words[where + 1] ^= changes ^ entry ^ leaving
    return where, leaving


def _accumulate(words: _Words, begin: int, stop: int) -> None:
    part = words[begin:stop]
    np.bitwise_xor.accumulate(part, out=part)


def _zeros(words: int) -> _Words:
    """Zeros that take no memory until they are written, in large pages where the system has them."""
    if words * 8 < _LARGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(words, "<u8")
    memory = mmap.mmap(-1, words * 8, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, "<u8")
