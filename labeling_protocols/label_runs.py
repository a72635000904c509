"""Voxels in, where their value changes and to what out, as bytes, and back.

A run's bytes are its step from the run before (uint32) and its value; all lowest bytes of the steps come first, then
the next ones, then the values, because so they compress best. Large volumes go through compiled loops: 80 MB of a label
take milliseconds.
"""

import mmap
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.label_run_loops import fill, find_runs

BYTES_A_RUN = 5
VOXELS_A_RUN = 16  # with fewer, on the mean, runs are not worth it
_LARGE_VOXELS = 1 << 20  # from here on the compiler is worth loading

_Voxels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Packed runs: how many, their bytes, and how many voxels have each of the 256 values."""

    count: int
    content: bytes
    voxels: NDArray[np.int64]


def pack_runs(flat: _Voxels) -> Runs | None:
    """The runs of these voxels, or None where their value changes too often for that."""
    return _pack_small(flat) if flat.size < _LARGE_VOXELS else _pack_large(flat)


def fill_runs(content: bytes, size: int) -> _Voxels:
    """The voxels of packed runs; raises `ValueError` where these do not follow one another within `size` voxels."""
    planes = np.frombuffer(content, np.uint8).reshape(BYTES_A_RUN, -1)
    flat = _fill_small(planes, size) if size < _LARGE_VOXELS else _fill_large(planes, size)
    if flat is None:
        raise ValueError("a damaged label: its runs do not follow one another within its voxels")
    return flat


def zeros(size: int) -> _Voxels:
    """Zeros that take no memory until they are written, in large pages where the system has them."""
    if size < _LARGE_VOXELS or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(size, np.uint8)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def _pack_small(flat: _Voxels) -> Runs | None:
    positions = np.flatnonzero(flat != np.append(np.uint8(0), flat)[:-1])
    if positions.size > flat.size // VOXELS_A_RUN:
        return None
    steps, values = np.diff(positions, prepend=0).astype("<u4"), flat[positions]
    content = steps.view(np.uint8).reshape(-1, 4).T.tobytes() + values.tobytes()
    return Runs(count=values.size, content=content, voxels=np.bincount(flat, minlength=256))


def _pack_large(flat: _Voxels) -> Runs | None:
    runs = np.empty((flat.size // VOXELS_A_RUN, BYTES_A_RUN), np.uint8)
    voxels = np.zeros(256, np.int64)
    count = find_runs(flat[: flat.size // 8 * 8].view("<u8"), flat, runs, voxels)
    return None if count < 0 else Runs(count=count, content=runs[:count].T.tobytes(), voxels=voxels)


def _fill_small(planes: _Voxels, size: int) -> _Voxels | None:
    steps = np.ascontiguousarray(planes[:4].T).view("<u4").reshape(-1).astype(np.int64)
    positions = np.cumsum(steps)
    if positions.size and (positions[-1] >= size or not steps[1:].all()):
        return None
    lengths = np.diff(positions, prepend=0, append=size)
    filled: _Voxels = np.repeat(np.append(np.uint8(0), planes[4]), lengths)
    return filled


def _fill_large(planes: _Voxels, size: int) -> _Voxels | None:
    flat = zeros(size)
    return flat if fill(planes, flat) else None
