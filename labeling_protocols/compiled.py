"""Plain loops over voxels, compiled to machine code when they are first called and kept for the next process."""

from collections.abc import Callable
from typing import TypeVar

from numba import njit

_Function = TypeVar("_Function", bound=Callable[..., object])


def compiled(function: _Function) -> _Function:
    """The function as machine code, which lets other threads run meanwhile; its arguments are arrays and numbers."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # nowhere to write: each process compiles for itself
        return njit(nogil=True)(function)
