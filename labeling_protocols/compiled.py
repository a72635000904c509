"""Plain loops over voxels, compiled to machine code when they are first called and kept for the next process."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., object])


def compiled(function: _Function) -> _Function:
    """The function as machine code, which lets other threads run meanwhile; its arguments are arrays and numbers.

    It may call other compiled functions of its module. The compiler is loaded with the first call, half a second that
    processes without large volumes to look at need not spend.
    """
    return cast(_Function, _Compiled(function))


class _Compiled:
    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function
        self._machine_code: Callable[..., object] | None = None
        self.__doc__ = function.__doc__

    def __call__(self, *arguments: Any) -> Any:
        return self.machine_code()(*arguments)

    def machine_code(self) -> Callable[..., object]:
        """What the compiler made of the function, and in its module of the compiled functions that it calls."""
        if self._machine_code is None:
            from numba import njit

            scope = self._function.__globals__
            for name in self._function.__code__.co_names:
                if isinstance(scope.get(name), _Compiled):
                    scope[name] = scope[name].machine_code()
            try:
                self._machine_code = njit(nogil=True, cache=True)(self._function)
            except RuntimeError:  # nowhere to write: each process compiles for itself
                self._machine_code = njit(nogil=True)(self._function)
        return self._machine_code
