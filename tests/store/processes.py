"""Work done by several processes at once: what to do in, what each of them said out.

They come of a process that has one thread. Forked from this one, which may serve a site beside, they would inherit
locks that nobody gives back.
"""

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

import cloudpickle

from labeling_protocols.blobs import Blobs
from labeling_protocols.store import Store

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "tests.store.machine_code"])
_LIMIT_S = 300.0


def together(store: Store, url: str, count: int, work: Callable[[Store, int, Barrier], Any]) -> list[Any]:
    """The answers of `count` processes, each with a store of its own; one that raises fails the test here."""
    barrier = CONTEXT.Barrier(count)
    running = []
    for number in range(count):
        ours, its = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_answer, args=(its, store.blobs, url, number, barrier, _Carried(work)))
        process.start()
        its.close()
        running.append((process, ours))
    answers = []
    for process, ours in running:
        answer = ours.recv() if ours.poll(_LIMIT_S) else "no answer"
        process.join(_LIMIT_S)
        assert isinstance(answer, tuple), answer
        answers.append(answer[0])
    return answers


class _Carried:
    """Work on its way into another process, with the functions and locks that it closes over."""

    def __init__(self, work: Callable[[Store, int, Barrier], Any]) -> None:
        self.work = work

    def __getstate__(self) -> bytes:
        pickled: bytes = cloudpickle.dumps(self.work)
        return pickled

    def __setstate__(self, pickled: bytes) -> None:
        self.work = cloudpickle.loads(pickled)


def _answer(its: Connection, blobs: Blobs, url: str, number: int, barrier: Barrier, work: _Carried) -> None:
    try:
        store = Store(url, blobs)
        its.send((work.work(store, number, barrier),))
        store.close()
    except BaseException:
        barrier.abort()
        its.send(traceback.format_exc())
        raise
