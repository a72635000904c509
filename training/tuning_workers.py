"""Several processes at one study: a search and a way to open a trainer in; what was found out.

Each worker has its share of the cores. One that is killed is replaced a few times, and its trial tried again; one that
meets an error ends the search, which can be gone on with; when this process dies, its workers end with it.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event

import optuna

from training.loop import TrainingCancelled
from training.tuning import Found, Search, Standing, TrainTrial, TuningError, found, open_study, standing, work
from training.turns import turn

OpenTrainer = Callable[[int], AbstractContextManager[TrainTrial]]
"""Opens what trains trials in the worker of this number; picklable, so a function of a module or a partial of one."""

_CONTEXT = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
_POLL_S = 0.5
_STOP_S = 60.0
_REPLACED_MAX = 3


def tune(
    search: Search,
    open_trainer: OpenTrainer,
    *,
    workers: int = 1,
    tell: Callable[[optuna.Study, Standing], None] = lambda study, standing: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Found:
    """Go on with the study until it has all its trials; `tell` hears whenever it moved.

    Raises `TrainingCancelled`, and `TuningError` where a worker cannot go on, or no trial was trained to its end.
    """
    with turn(search.storage, "study"):
        study = open_study(search)
    crew = _Crew(search, open_trainer, workers)
    told: Standing | None = None
    try:
        while crew.working():
            if cancelled():
                raise TrainingCancelled("the tuning was cancelled; what was tried stays in the study")
            if (now := standing(study)) != told:
                told = now
                tell(study, now)
            wait(crew.sentinels(), _POLL_S)
    finally:
        crew.stop()
    tell(study, standing(study))
    return found(study)


class _Crew:
    """The workers of one `tune`."""

    def __init__(self, search: Search, open_trainer: OpenTrainer, workers: int) -> None:
        self._search, self._open_trainer, self._workers = search, open_trainer, workers
        self._stop = _CONTEXT.Event()
        self._replaced = 0
        self._running = {number: self._start(number) for number in range(workers)}

    def working(self) -> bool:
        """Whether any works on; one that died is replaced here. Raises `TuningError` when too many have."""
        for number, (process, last_words) in list(self._running.items()):
            code = process.exitcode
            if code is None:
                continue
            del self._running[number]
            if code == 0:
                continue
            if code > 0:
                raise TuningError(f"the tuning cannot go on: {_heard(last_words)}")
            self._replaced += 1
            if self._replaced > _REPLACED_MAX:
                raise TuningError(f"{self._replaced} workers of the tuning died, the last of signal {-code}")
            self._running[number] = self._start(number)
        return bool(self._running)

    def sentinels(self) -> list[int]:
        return [process.sentinel for process, _ in self._running.values()]

    def stop(self) -> None:
        """Ask those that work to stop, and end those that do not listen."""
        self._stop.set()
        until_s = time.monotonic() + _STOP_S
        for process, _ in self._running.values():
            process.join(max(0.0, until_s - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()

    def _start(self, number: int) -> tuple[BaseProcess, Connection]:
        ours, its = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(
            target=_worker, args=(self._search, self._open_trainer, number, self._workers, self._stop, its)
        )
        process.start()
        its.close()
        return process, ours


def _worker(
    search: Search, open_trainer: OpenTrainer, number: int, workers: int, stop: Event, last_words: Connection
) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[number::workers] or cores)
    try:
        with open_trainer(number) as train_trial:
            work(search, train_trial, cancelled=stop.is_set)
    except TrainingCancelled:
        return
    except BaseException as error:
        last_words.send(f"{type(error).__name__}: {error}")
        raise


def _heard(last_words: Connection) -> str:
    try:
        return str(last_words.recv())
    except EOFError:
        return "a worker ended before it could say why"


def _end_with_parent() -> None:
    """End at once with whoever started this worker: whoever takes its job over starts workers of its own."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
