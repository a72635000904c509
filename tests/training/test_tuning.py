"""A search finds the better plan, goes on where it was, and gives up nothing to a worker that died."""

import json
import multiprocessing
import os
import signal
import threading
import time
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from tests.training import toy_trials
from tests.training.toy_trials import open_trainer, score, search, train_trial
from tests.training.tracked import PLAN
from training import tuning_pictures
from training.loop import TrainingCancelled
from training.plan import override
from training.tuning import (
    Pruning,
    Search,
    Standing,
    Trial,
    TrialFailed,
    TuningError,
    found,
    number_of,
    open_study,
    standing,
    work,
)
from training.tuning_workers import tune

CONTEXT = multiprocessing.get_context("fork")
LIMIT_S = 60

# Heartbeats have been an experiment of Optuna's since its version 2.8.
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'tuning.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite"))
    return str(request.getfixturevalue("postgres").new_database())


def tried(study: optuna.Study) -> list[dict[str, object]]:
    return [trial.params for trial in study.trials]


def test_the_best_plan_is_found_and_can_be_trained_again(storage: str) -> None:
    asked = search(storage, 12)
    work(asked, train_trial)
    best = found(open_study(asked))
    plan = override(PLAN, json.loads(best.as_json()))
    assert score(plan.learning_rate) == pytest.approx(best.standing.best_score)
    assert score(plan.learning_rate) > 0.9  # within a factor of 2.5 of the best
    assert best.standing.done == 12
    assert best.importances["learning_rate"] > best.importances["batch"]
    study = open_study(asked)
    for picture in (tuning_pictures.history(study), tuning_pictures.importances(best.importances)):
        picture.draw_without_rendering()
        assert picture.axes[0].get_title()


def test_a_search_interrupted_and_gone_on_with_tries_what_an_undisturbed_one_tries(tmp_path: Path) -> None:
    whole = search(f"sqlite:///{tmp_path / 'whole.db'}", 6, pruning=Pruning.NONE)
    work(whole, train_trial)
    halves = [search(f"sqlite:///{tmp_path / 'halves.db'}", trials, pruning=Pruning.NONE) for trials in (3, 6)]
    for half in halves:
        work(half, train_trial)
    assert tried(open_study(halves[1])) == tried(open_study(whole))
    assert len({str(values) for values in tried(open_study(whole))}) == 6
    work(whole, train_trial)
    assert len(open_study(whole).trials) == 6


@pytest.mark.parametrize(("pruning", "least"), [(Pruning.MEDIAN, 1), (Pruning.HYPERBAND, 1), (Pruning.NONE, 0)])
def test_trials_that_do_worse_than_their_peers_are_pruned(sqlite: str, pruning: Pruning, least: int) -> None:
    asked = search(sqlite, 10, pruning=pruning)
    work(asked, train_trial)
    study = open_study(asked)
    pruned = [trial for trial in study.trials if trial.state is TrialState.PRUNED]
    assert len(pruned) >= least
    assert (len(pruned) == 0) == (pruning is Pruning.NONE)
    assert all(len(trial.intermediate_values) < PLAN.epochs for trial in pruned if trial.last_step != PLAN.epochs)
    reached = standing(study)
    assert (reached.finished + reached.pruned, reached.best_number) == (10, study.best_trial.number)


def test_a_plan_that_cannot_be_trained_is_a_trial_that_failed_and_no_more(sqlite: str) -> None:
    def fails_twice(trial: Trial) -> float:
        if trial.number < 2:
            raise TrialFailed("the loss is nan")
        return train_trial(trial)

    asked = search(sqlite, 4)
    work(asked, fails_twice)
    reached = standing(open_study(asked))
    assert (reached.finished, reached.failed, reached.done) == (2, 2, 4)


def test_a_search_of_which_nothing_came_says_why(sqlite: str) -> None:
    def fails(trial: Trial) -> float:
        raise TrialFailed("out of memory")

    asked = search(sqlite, 3)
    work(asked, fails)
    with pytest.raises(TuningError, match=r"none of 3 trial\(s\) was trained to its end: out of memory"):
        found(open_study(asked))


@pytest.mark.parametrize("error", [TrainingCancelled, KeyboardInterrupt, OSError])
def test_a_trial_that_was_interrupted_is_tried_again_as_it_was(sqlite: str, error: type[BaseException]) -> None:
    seen: list[tuple[int, object]] = []

    def interrupted(trial: Trial) -> float:
        seen.append((trial.number, dict(trial.overrides)))
        if len(seen) == 2:
            raise error("stop")
        return train_trial(trial)

    asked = search(sqlite, 3, pruning=Pruning.NONE)
    with pytest.raises(error):
        work(asked, interrupted)
    reached = standing(open_study(asked))
    assert (reached.finished, reached.failed, reached.waiting) == (1, 0, 1)
    work(asked, interrupted)
    assert [number for number, _ in seen] == [0, 1, 1, 3]  # Optuna gave number 2 to the second attempt at 1
    assert seen[1] == seen[2]
    assert standing(open_study(asked)).finished == 3


def test_a_cancelled_search_begins_no_trial(sqlite: str) -> None:
    asked = search(sqlite, 3)
    with pytest.raises(TrainingCancelled):
        work(asked, train_trial, cancelled=lambda: True)
    assert open_study(asked).trials == []


def work_together(asked: Search, barrier: Barrier) -> None:
    barrier.wait(LIMIT_S)
    work(asked, train_trial)


def test_two_processes_share_a_study_and_try_no_trial_too_many(storage: str) -> None:
    asked = search(storage, 5, pruning=Pruning.NONE)
    barrier = CONTEXT.Barrier(2)
    processes = [CONTEXT.Process(target=work_together, args=(asked, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT_S)
    assert [process.exitcode for process in processes] == [0, 0]
    study = open_study(asked)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 5
    assert len({trial.params["learning_rate"] for trial in study.trials}) == 5


def die_over_a_trial(asked: Search) -> None:
    def die(trial: Trial) -> float:
        if trial.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return train_trial(trial)

    work(asked, die)


def test_a_trial_whose_worker_was_killed_is_tried_again_by_another(storage: str) -> None:
    asked = search(storage, 3, heartbeat_s=1, pruning=Pruning.NONE)
    killed = CONTEXT.Process(target=die_over_a_trial, args=(asked,))
    killed.start()
    killed.join(LIMIT_S)
    assert killed.exitcode == -signal.SIGKILL
    assert standing(open_study(asked)).running == 1
    seen: list[int] = []

    def remembered(trial: Trial) -> float:
        seen.append(trial.number)
        return train_trial(trial)

    work(asked, remembered)
    assert sorted(seen)[:1] == [1]
    study = open_study(asked)
    reached = standing(study)
    assert (reached.finished, reached.failed, reached.running) == (3, 0, 0)
    first, again = (trial for trial in study.trials if number_of(trial) == 1)
    assert (first.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert first.params == again.params


def test_a_trial_whose_worker_died_before_its_first_heartbeat_does_not_hold_a_search_up(sqlite: str) -> None:
    asked = search(sqlite, 1, heartbeat_s=1)
    study = open_study(asked)
    study._storage.create_new_trial(study._study_id)
    work(asked, train_trial)
    assert standing(open_study(asked)).finished == 1


@pytest.mark.slow
def test_workers_of_a_tuning_are_replaced_when_they_die(sqlite: str, tmp_path: Path) -> None:
    told: list[Standing] = []
    asked = search(sqlite, 6, heartbeat_s=1, pruning=Pruning.NONE)
    best = tune(asked, partial(open_trainer, tmp_path), workers=2, tell=lambda _, now: told.append(now))
    assert (best.standing.finished, best.standing.failed) == (6, 0)
    assert told[-1].finished == 6
    trained = [line.split() for line in (tmp_path / "trained").read_text().splitlines()]
    assert sorted(number for _, number in trained).count("1") == 2
    assert len(trained) == 7


@pytest.mark.slow
def test_a_worker_that_cannot_go_on_ends_the_tuning_with_its_reason(sqlite: str) -> None:
    with pytest.raises(TuningError, match="the tuning cannot go on: LookupError: no such snapshot"):
        tune(search(sqlite, 3), toy_trials.cannot_open)


@pytest.mark.slow
def test_a_cancelled_tuning_ends_its_workers_and_keeps_what_was_tried(sqlite: str, tmp_path: Path) -> None:
    (tmp_path / "died").touch()
    asked = search(sqlite, 100_000)
    began = threading.Event()

    def tell(_: optuna.Study, now: Standing) -> None:
        if now.done:
            began.set()

    began_s = time.monotonic()
    with pytest.raises(TrainingCancelled):
        tune(asked, partial(open_trainer, tmp_path), workers=1, tell=tell, cancelled=began.is_set)
    assert time.monotonic() - began_s < LIMIT_S
    assert multiprocessing.active_children() == []
    reached = standing(open_study(asked))
    assert reached.done > 0
    assert reached.running == 0


def test_the_toy_is_worth_tuning() -> None:
    assert toy_trials.score(0.003) == 1.0
    assert toy_trials.score(0.0003) == pytest.approx(0.75)
