"""Work done by several forked processes at once: what to do in, what each of them said out."""

import functools
import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

from labeling_protocols.assessment import assess
from labeling_protocols.blobs import Blobs
from labeling_protocols.consensus import consensus
from labeling_protocols.label import Label
from labeling_protocols.protocol import SHIPPED, load_protocol
from labeling_protocols.store import Store
from tests.conftest import label_of

CONTEXT = multiprocessing.get_context("fork")
_LIMIT_S = 300.0


@functools.cache
def load_machine_code() -> None:
    """Load the compiler and what it made here, once, and not in each process that is forked from this one."""
    labels = {f"reader {shift}": Label.of(label_of(shift)) for shift in range(3)}
    protocol = load_protocol(SHIPPED / "hippocampus.yaml")
    assess(protocol, labels)
    consensus(protocol, list(labels.values()))


def together(store: Store, url: str, count: int, work: Callable[[Store, int, Barrier], Any]) -> list[Any]:
    """The answers of `count` processes, each with a store of its own; one that raises fails the test here."""
    load_machine_code()
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
