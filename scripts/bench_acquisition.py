"""Strategies of active learning beside foreground-aware random, given the same seconds of simulated annotation.

A row is a strategy on a set: `ours` the mean Dice while annotation went on (the area under its learning curve over the
seconds), `peer` that of foreground-aware random, which is hard to beat (nnActive, Lüth et al. 2025, arXiv:2511.19183).
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from measuring import Row
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.acquisition_pictures import learning_curves, learning_table, verdicts
from training.annotation_runs import SIMULATED, Bench, Source, make_runs, worker_processes
from training.annotation_simulation import Settings
from training.drawing import png
from training.learning_curves import FOREGROUND_RANDOM, RANDOM, Run, archives_of, area_of, by_strategy

SEEDS, QUICK_SEEDS = 5, 2
DATA = ("hippocampus", "drawn", "all")
_CONTROLS = (RANDOM, "sequential")  # which are not meant to be better than the peer
_QUICK_STRATEGIES = (RANDOM, FOREGROUND_RANDOM, "hybrid")
_QUICK = Settings(rounds=2, start_cases=3, round_cases=3, start_steps=60, round_steps=30, views=2)


def acquisition_rows(
    folder: Path | None,
    data: str = "all",
    *,
    seeds: int | None = None,
    quick: bool = False,
    resume: Path | None = None,
    out: Path | None = None,
) -> list[Row]:
    """`folder` holds hippocampus cases; without it there is the drawn set only. Runs are kept in `resume`, and taken
    from there where they are; `out` gets the picture, the table and the verdicts."""
    bench = Bench(
        sources=tuple(_sources(folder, data, quick)),
        strategies=_QUICK_STRATEGIES if quick else SIMULATED,
        seeds=seeds or (QUICK_SEEDS if quick else SEEDS),
        settings=_QUICK if quick else Settings(),
    )
    with _kept(resume) as place, worker_processes() as executor, _bar() as bar:
        task, begun = bar.add_task("trainings", total=None), time.monotonic()
        runs = make_runs(bench, place, executor, tell=lambda done, of: bar.update(task, completed=done, total=of))
    cores, seconds = len(os.sched_getaffinity(0)), time.monotonic() - begun
    print(f"{bench.trainings} trainings, with those that were there before, in {seconds:.0f} s on {cores} cores\n")
    told = "\n".join([learning_table(runs), *(f"- {words}" for words in verdicts(runs)), ""])
    print(told)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "acquisition.md").write_text(told, encoding="utf-8")
        (out / "acquisition.png").write_bytes(png(learning_curves(runs)))
    return rows_of(runs)


def rows_of(runs: list[Run]) -> list[Row]:
    """A row a set and strategy; the peer itself has none."""
    return [
        _row(archive, name, area_of(of_strategy), area_of(found[FOREGROUND_RANDOM]))
        for archive in archives_of(runs)
        for found in [by_strategy(runs, archive)]
        for name, of_strategy in found.items()
        if name != FOREGROUND_RANDOM
    ]


def _row(archive: str, strategy: str, ours: float, peer: float) -> Row:
    goal = None if strategy in _CONTROLS else 1
    return Row(name=f"{archive} {strategy}", ours=ours, peer=peer, unit="mean Dice", ratio=ours / peer, goal=goal)


def _sources(folder: Path | None, data: str, quick: bool) -> Iterator[Source]:
    source = Source(pool=24, test=8) if quick else Source()
    if data in ("hippocampus", "all"):
        if folder is None:
            print("hippocampus: there is no folder of its cases; the set is left out, and nothing was measured on it.")
        else:
            yield replace(source, folder=folder)
    if data in ("drawn", "all"):
        yield source


def _kept(resume: Path | None) -> AbstractContextManager[Path]:
    return nullcontext(resume) if resume is not None else _temporary()


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn())
