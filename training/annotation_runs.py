"""Many simulated runs: sets, strategies and seeds in; every run out, made by a process a core and kept in a folder.

What is in the folder is not made again, so that a benchmark that was killed goes on where it was: at most the runs that
were being made are lost, a minute each.
"""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch

from labeling_protocols.blobs import write_durably
from training.acquisition import STRATEGIES
from training.annotation_sets import AnnotationSet, hippocampus
from training.annotation_simulation import NOT_SIMULATED, Settings, Simulation, Start
from training.drawn_archive import drawn_archive
from training.learning_curves import Run, Standing

SIMULATED = tuple(name for name in STRATEGIES if name not in NOT_SIMULATED)
DRAWN = "drawn"
_SETTINGS = "settings.json"

_Made = TypeVar("_Made")


class OtherSettingsError(ValueError):
    """A folder that holds runs of another benchmark."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a set comes from: `folder` has images/ and labels/; without one it is drawn. So many cases at most."""

    folder: Path | None = None
    pool: int = 120
    test: int = 60

    def archive(self) -> AnnotationSet:
        if self.folder is None:
            return drawn_archive(pool=self.pool, test=self.test)
        found = hippocampus(self.folder)
        return replace(found, pool=found.pool[: self.pool], test=found.test[: self.test])


@dataclass(frozen=True, kw_only=True)
class Bench:
    """All that decides the runs."""

    sources: tuple[Source, ...]
    strategies: tuple[str, ...] = SIMULATED
    seeds: int = 5
    settings: Settings = field(default_factory=Settings)

    @property
    def trainings(self) -> int:
        """The start is trained once a seed and shared."""
        return len(self.sources) * self.seeds * (1 + self.settings.rounds * len(self.strategies))


def make_runs(
    bench: Bench, folder: Path, executor: Executor, *, tell: Callable[[int, int], None] = lambda done, of: None
) -> list[Run]:
    """Every run of the benchmark; `tell` hears how many trainings of all are done.

    Raises `OtherSettingsError` where the folder holds runs that were made with other settings.
    """
    _claim(folder, bench)
    places = [(source, seed) for source in bench.sources for seed in range(bench.seeds)]
    starts = [executor.submit(_start, folder, bench.settings, *place) for place in places]
    done = 0
    for _ in _as_they_come(starts):
        done += 1
        tell(done, bench.trainings)
    runs = [
        executor.submit(_run, folder, bench.settings, *place, strategy)
        for place in places
        for strategy in bench.strategies
    ]
    for _ in _as_they_come(runs):
        done += bench.settings.rounds
        tell(done, bench.trainings)
    return [future.result() for future in runs]


@contextmanager
def worker_processes(count: int | None = None) -> Iterator[Executor]:
    """A process a core, of one thread each; what has not begun when the benchmark is stopped is not begun."""
    executor = ProcessPoolExecutor(
        count or len(os.sched_getaffinity(0)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    )
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _start(folder: Path, settings: Settings, source: Source, seed: int) -> None:
    """Train where all strategies of this seed begin, unless that was done."""
    standing, weights = _files(folder, source, seed, "start")
    if standing.exists():
        return
    start = _simulation(source, settings).start(seed)
    write_durably(weights, safetensors.torch.save(dict(start.weights)))
    write_durably(standing, json.dumps(asdict(start.standing)).encode())


def _run(folder: Path, settings: Settings, source: Source, seed: int, strategy: str) -> Run:
    """One strategy's run, made unless it was; its start is there."""
    kept, _ = _files(folder, source, seed, strategy)
    if kept.exists():
        return _read_run(kept.read_bytes())
    standing, weights = _files(folder, source, seed, "start")
    start = Start(
        seed=seed,
        standing=_standing(json.loads(standing.read_bytes())),
        weights=safetensors.torch.load(weights.read_bytes()),
    )
    run = _simulation(source, settings).run(strategy, start)
    write_durably(kept, json.dumps(asdict(run)).encode())
    return run


@cache
def _simulation(source: Source, settings: Settings) -> Simulation:
    """Made once a process: reading and preparing a set takes seconds."""
    return Simulation(source.archive(), settings)


def _files(folder: Path, source: Source, seed: int, what: str) -> tuple[Path, Path]:
    name = f"{DRAWN if source.folder is None else 'hippocampus'}-{seed:02d}-{what}"
    return folder / f"{name}.json", folder / f"{name}.safetensors"


def _read_run(content: bytes) -> Run:
    stored = json.loads(content)
    return Run(**{**stored, "standings": tuple(_standing(one) for one in stored["standings"])})


def _standing(stored: dict[str, object]) -> Standing:
    return Standing(**{**stored, "cases": tuple(stored["cases"])})  # type: ignore[arg-type]  # as asdict wrote them


def _claim(folder: Path, bench: Bench) -> None:
    """The folder is for these settings; more seeds, strategies and sets may be added to what it holds."""
    sizes = sorted({(source.pool, source.test) for source in bench.sources})
    wanted = json.dumps({"settings": asdict(bench.settings), "cases": sizes})
    path = folder / _SETTINGS
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_durably(path, wanted.encode())
    elif (found := path.read_text()) != wanted:
        raise OtherSettingsError(
            f"{path.name} in the folder to resume says {found}; expected {wanted}. Nothing was run; an empty folder"
            " takes other settings."
        )


def _as_they_come(futures: Sequence[Future[_Made]]) -> Iterator[_Made]:
    """Raises what a worker raised, as soon as it did."""
    for future in as_completed(futures):
        yield future.result()
