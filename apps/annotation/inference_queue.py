"""Inferences run beside the event loop, so many at once for a device and a model; a bounded number waits its turn.

Work enters with its model and device, its answer leaves. Whoever goes away, or waits too long, is not worked for any
more. The threads that work have a lower priority than the server's own, which so answers at once whatever they do.
"""

import asyncio
import contextlib
import contextvars
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from apps.annotation.calling import caller_or_nobody
from training.stopping import InferenceStopped, Stopped

_LOOK_S = 0.25  # how often a client is looked for
_NICENESS = 15  # of threads that work on whole images
_NICENESS_URGENT = (
    5  # of those somebody waits for with the pen in his hand: nine times the processor's time of the others
)

_Answer = TypeVar("_Answer")


class BusyError(RuntimeError):
    """Too many inferences wait already; nothing was done."""


class TooLongError(TimeoutError):
    """An inference that did not end in its time; nothing was proposed."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a request stands: `position` 0 is being worked on, 1 is next on its device; `waiting` counts all there."""

    model: str
    position: int
    waiting: int


@dataclass(eq=False, kw_only=True)
class _Request:
    model: str
    device: str
    caller: str
    urgent: bool
    work: Callable[[Stopped], Any]
    answer: asyncio.Future[Any]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def lane(self) -> tuple[str, bool]:
        return self.device, self.urgent


class InferenceQueue:
    """The server's inferences; used from one event loop.

    At most `at_once` run on a device and `model_at_once` of a model, in the order in which they came, but none waits
    for another model's limit. Urgent ones have threads of their own, as many again.
    """

    def __init__(
        self, *, at_once: int = 1, model_at_once: int = 1, waiting_max: int = 32, timeout_s: float = 600.0
    ) -> None:
        self._at_once = at_once
        self._model_at_once = model_at_once
        self._waiting_max = waiting_max
        self._timeout_s = timeout_s
        self._waiting: list[_Request] = []
        self._running: list[_Request] = []
        self._threads: dict[tuple[str, bool], ThreadPoolExecutor] = {}
        self._closed = False

    async def run(
        self,
        work: Callable[[Stopped], _Answer],
        *,
        model: str,
        device: str = "cpu",
        gone: Callable[[], Awaitable[bool]] | None = None,
        timeout_s: float | None = None,
        caller: str = "",
        urgent: bool = False,
    ) -> _Answer:
        """Do the work in a thread when its turn comes.

        `work` is given `stopped()`, true once the client went away or the time is over; it is to raise
        `InferenceStopped` then. `gone` says whether the client went away, `timeout_s` is for waiting and work together,
        `caller` the account that is shown the request's place (that of `calling`, where none is given). `urgent` is
        what takes a moment and somebody waits for: it waits for no other work than urgent one. Raises `BusyError` at
        once where too many wait, `TooLongError`, `InferenceStopped`, and whatever `work` raises.
        """
        if len(self._waiting) >= self._waiting_max:
            raise BusyError(f"{len(self._waiting)} inferences wait already; try again in a moment. Nothing was done.")
        account = caller_or_nobody()
        request = _Request(
            model=model,
            device=device,
            caller=caller or (account.id if account else ""),
            urgent=urgent,
            work=work,
            answer=asyncio.get_running_loop().create_future(),
        )
        self._waiting.append(request)
        self._admit()
        try:
            await self._answered(request, gone, self._timeout_s if timeout_s is None else timeout_s)
            answer: _Answer = request.answer.result()
            return answer
        finally:
            request.stop.set()
            request.answer.cancel()
            with contextlib.suppress(ValueError):
                self._waiting.remove(request)

    def places(self, caller: str) -> list[Place]:
        """The caller's own requests, those being worked on first; of others nothing but how many wait."""
        lanes = [self._order(lane) for lane in {request.lane for request in (*self._running, *self._waiting)}]
        found = [
            Place(model=request.model, position=position, waiting=len(order))
            for order in lanes
            for position, request in enumerate(order, start=1)
            if request.caller == caller
        ]
        now = [
            Place(model=request.model, position=0, waiting=len(self._order(request.lane)))
            for request in self._running
            if request.caller == caller
        ]
        return [*now, *sorted(found, key=lambda place: place.position)]

    @property
    def counts(self) -> tuple[int, int]:
        """How many are being worked on, and how many wait."""
        return len(self._running), len(self._waiting)

    def close(self) -> None:
        """Stop what runs and wait for it; nothing is worked on any more."""
        self._closed = True
        for request in (*self._running, *self._waiting):
            request.stop.set()
        for threads in self._threads.values():
            threads.shutdown(wait=True, cancel_futures=True)

    async def _answered(self, request: _Request, gone: Callable[[], Awaitable[bool]] | None, timeout_s: float) -> None:
        """Until there is an answer; raises where nobody waits for it any more."""
        deadline = time.monotonic() + timeout_s
        while not request.answer.done():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TooLongError(
                    f"no answer within {timeout_s:.0f} s, {len(self._waiting)} inferences waited."
                    " Nothing was proposed; try again when fewer do."
                )
            if self._closed and request in self._waiting:
                raise InferenceStopped("the server ends. Nothing was proposed.")
            await asyncio.wait({request.answer}, timeout=min(left_s, _LOOK_S))
            if not request.answer.done() and gone is not None and await gone():
                raise InferenceStopped("the client went away. Nothing was proposed.")

    def _admit(self) -> None:
        """Begin whatever has room, in order."""
        for request in [] if self._closed else list(self._waiting):
            same_lane = sum(running.lane == request.lane for running in self._running)
            same_model = sum(
                running.model == request.model and running.urgent == request.urgent for running in self._running
            )
            if same_lane < self._at_once and same_model < self._model_at_once:
                self._waiting.remove(request)
                self._running.append(request)
                self._begin(request)

    def _begin(self, request: _Request) -> None:
        loop = request.answer.get_loop()

        def ended(work: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the server ended meanwhile
                loop.call_soon_threadsafe(self._end, request, work)

        threads = self._threads_of(request.lane)
        threads.submit(request.context.run, request.work, request.stop.is_set).add_done_callback(ended)

    def _end(self, request: _Request, work: Future[Any]) -> None:
        self._running.remove(request)
        if not request.answer.done():  # somebody still waits
            if work.cancelled():
                request.answer.set_exception(InferenceStopped("the server ends. Nothing was proposed."))
            elif (error := work.exception()) is not None:
                request.answer.set_exception(error)
            else:
                request.answer.set_result(work.result())
        self._admit()

    def _threads_of(self, lane: tuple[str, bool]) -> ThreadPoolExecutor:
        if lane not in self._threads:
            device, urgent = lane
            self._threads[lane] = ThreadPoolExecutor(
                self._at_once,
                thread_name_prefix=f"inference {device}",
                initializer=lower_priority,
                initargs=(_NICENESS_URGENT if urgent else _NICENESS,),
            )
        return self._threads[lane]

    def _order(self, lane: tuple[str, bool]) -> list[_Request]:
        return [request for request in self._waiting if request.lane == lane]


def lower_priority(niceness: int) -> None:
    """Let other threads go first. Linux counts the priority of each thread, and what it starts inherits it."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(niceness, os.getpriority(os.PRIO_PROCESS, thread)))
