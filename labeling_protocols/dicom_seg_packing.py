"""The bits of large segmentations in compiled loops: voxels in, which values a slice has and one bit a voxel out.

Voxels are looked at eight at a time; words of background, and words like the one before, are passed over.
"""

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.compiled import compiled

_EVERY_BYTE = np.uint64(0x0101010101010101)
_LOWEST_BYTE = np.uint64(0xFF)
_EIGHT = np.uint64(8)


@compiled
def find_present(words_ZW: NDArray[np.uint64], present_ZV: NDArray[np.bool_]) -> None:
    """Note for each slice which of the 256 values stand in it; a word's lowest byte is its first voxel."""
    for z in range(words_ZW.shape[0]):
        last = np.uint64(0)
        for index in range(words_ZW.shape[1]):
            word = words_ZW[z, index]
            if word == last:
                continue
            last = word
            while word:
                present_ZV[z, word & _LOWEST_BYTE] = True
                word >>= _EIGHT
    present_ZV[:, 0] = False


@compiled
def pack_frames(
    words_ZW: NDArray[np.uint64], frame_ZV: NDArray[np.int64], frame_pixels: int, packed: NDArray[np.uint8]
) -> None:
    """Set the bit of each voxel in the frame of its slice and value; the frame is -1 where a value has none.

    Frames follow one another without a gap, the first pixel is a byte's lowest bit (PS3.5 8.1.1 and 8.2).
    """
    for z in range(words_ZW.shape[0]):
        for index in range(words_ZW.shape[1]):
            word = words_ZW[z, index]
            if word == 0:
                continue
            value = word & _LOWEST_BYTE
            bit = frame_ZV[z, value] * frame_pixels + 8 * index
            if value and frame_ZV[z, value] >= 0 and bit % 8 == 0 and word == value * _EVERY_BYTE:
                packed[bit >> 3] = 0xFF
                continue
            pixel = 8 * index
            while word:
                frame = frame_ZV[z, word & _LOWEST_BYTE]
                if word & _LOWEST_BYTE and frame >= 0:
                    bit = frame * frame_pixels + pixel
                    packed[bit >> 3] |= 1 << (bit & 7)
                word >>= _EIGHT
                pixel += 1
