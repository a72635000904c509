"""Inferences run beside the event loop, one at a time for a device; a bounded number waits, more are turned away."""

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

_Answer = TypeVar("_Answer")


class BusyError(RuntimeError):
    """Too many inferences wait already; nothing was done."""


class InferenceQueue:
    """The server's inferences, in the order in which they came."""

    def __init__(self, *, at_once: int = 1, waiting_max: int = 32) -> None:
        self._limiter = anyio.CapacityLimiter(at_once)
        self._most = at_once + waiting_max
        self._count = 0

    async def run(self, work: Callable[[], _Answer]) -> _Answer:
        """Do the work in a thread when its turn comes; raises `BusyError` at once where too many wait."""
        if self._count >= self._most:
            raise BusyError(f"{self._count} inferences wait already; try again in a moment. Nothing was done.")
        self._count += 1
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self._count -= 1
