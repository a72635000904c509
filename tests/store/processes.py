"""Work done by several forked processes at once: what to do in, what each of them said out."""

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

from labeling_protocols.blobs import Blobs
from labeling_protocols.store import Store

CONTEXT = multiprocessing.get_context("fork")
_LIMIT_S = 300.0


def together(store: Store, url: str, count: int, work: Callable[[Store, int, Barrier], Any]) -> list[Any]:
    """The answers of `count` processes, each with a store of its own; one that raises fails the test here."""
    store.engine.dispose()  # SQLite's locks do not survive a fork
    barrier = CONTEXT.Barrier(count)
    running = []
    for number in range(count):
        ours, its = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_answer, args=(its, store.blobs, url, number, barrier, work))
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


def _answer(
    its: Connection, blobs: Blobs, url: str, number: int, barrier: Barrier, work: Callable[[Store, int, Barrier], Any]
) -> None:
    try:
        store = Store(url, blobs)
        its.send((work(store, number, barrier),))
        store.close()
    except BaseException:
        barrier.abort()
        its.send(traceback.format_exc())
        raise
