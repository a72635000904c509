"""The runs of large volumes in compiled loops: voxels in, rows of step and value out, and back (`label_runs.py`).

Voxels are compared eight at a time, whole blocks of one value are passed over, and what stays 0 is not written.
"""

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.compiled import compiled

_BLOCK_WORDS = 512  # looked at together, to pass over what is of one value; then in parts
_PART_WORDS = 8

_Voxels = NDArray[np.uint8]
_EVERY_BYTE = np.uint64(0x0101010101010101)
_LOWEST_BYTE = np.uint64(0xFF)
_EIGHT, _FIFTY_SIX = np.uint64(8), np.uint64(56)


@compiled
def find_runs(words: NDArray[np.uint64], flat: _Voxels, runs: _Voxels, voxels: NDArray[np.int64]) -> int:
    """Write each change into the rows of `runs` and count the voxels of each value; -1 where these have no room.

    Before the first voxel stands 0; a word's lowest byte is its first voxel, and what fills no word comes last.
    """
    count, position, value = 0, 0, np.uint8(0)
    last = np.uint64(0)  # the voxel before, in every byte
    for begin in range(0, words.size, _BLOCK_WORDS):
        block = words[begin : begin + _BLOCK_WORDS]
        if _all_are(block, last):
            continue
        for inner in range(0, block.size, _PART_WORDS):
            part = block[inner : inner + _PART_WORDS]
            if _all_are(part, last):
                continue
            for index in range(part.size):
                word = part[index]
                changed = word ^ ((word << _EIGHT) | (last >> _FIFTY_SIX))
                here = 8 * (begin + inner + index)
                while changed:
                    if changed & _LOWEST_BYTE:
                        if count == len(runs):
                            return -1
                        voxels[value] += here - position
                        value = flat[here]
                        _put(runs[count], here - position, value)
                        count, position = count + 1, here
                    changed >>= _EIGHT
                    here += 1
                last = (word >> _FIFTY_SIX) * _EVERY_BYTE
    for here in range(8 * words.size, flat.size):
        if flat[here] != value:
            if count == len(runs):
                return -1
            voxels[value] += here - position
            value = flat[here]
            _put(runs[count], here - position, value)
            count, position = count + 1, here
    voxels[value] += flat.size - position
    return count


@compiled
def _all_are(words: NDArray[np.uint64], word: np.uint64) -> bool:
    different = np.uint64(0)
    for index in range(words.size):
        different |= words[index] ^ word
    return different == 0


@compiled
def _put(run: _Voxels, step: int, value: np.uint8) -> None:
    run[0] = step & 0xFF
    run[1] = step >> 8 & 0xFF
    run[2] = step >> 16 & 0xFF
    run[3] = step >> 24 & 0xFF
    run[4] = value


@compiled
def fill(planes: _Voxels, flat: _Voxels) -> bool:
    """Write packed runs into voxels that are 0; False where they do not follow one another within these."""
    position, value = np.int64(0), np.uint8(0)
    for run in range(planes.shape[1]):
        low, high = np.int64(planes[0, run]) | np.int64(planes[1, run]) << 8, np.int64(planes[2, run])
        step = low | high << 16 | np.int64(planes[3, run]) << 24
        following = position + step
        if (run and not step) or following >= flat.size:
            return False
        if value:
            flat[position:following] = value
        position, value = following, planes[4, run]
    if value:
        flat[position:] = value
    return True
