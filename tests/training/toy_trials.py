"""Trials without a training: the nearer the learning rate is to 0.003, the better, as every epoch shows."""

import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.training.tracked import PLAN
from training.search_space import read_space
from training.tuning import Search, TrainTrial, Trial

SPACE = "learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}\nbatch: {low: 1, high: 4}\n"


def search(storage: str, trials: int, **others: object) -> Search:
    return Search(
        name="toy",
        storage=storage,
        plan=PLAN,
        space=read_space(PLAN, SPACE),
        trials=trials,
        **others,  # type: ignore[arg-type]
    )


def score(learning_rate: float) -> float:
    return 1.0 - abs(math.log10(learning_rate / 0.003)) / 4


def train_trial(trial: Trial) -> float:
    best = score(trial.plan.learning_rate)
    for epoch in range(1, trial.plan.epochs + 1):
        trial.report(epoch, best * epoch / trial.plan.epochs)
    return best


@contextmanager
def open_trainer(folder: Path, worker: int) -> Iterator[TrainTrial]:
    """A trainer that keeps who trained what, and dies over trial 1 the first time."""

    def train(trial: Trial) -> float:
        with (folder / "trained").open("a") as file:
            file.write(f"{worker} {trial.number}\n")
        if trial.number == 1 and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return train_trial(trial)

    yield train


@contextmanager
def cannot_open(worker: int) -> Iterator[TrainTrial]:
    raise LookupError("no such snapshot")
    yield train_trial
