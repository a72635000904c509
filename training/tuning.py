"""The search for a better plan: a space and a way to train one trial in; the best overrides of the plan out.

A study lies in a database, so any number of processes work on it, and it goes on where it was. Trials that do
worse than their peers are pruned; one whose worker died, or that was cancelled, is tried again with the same values.
"""

import json
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import optuna
from optuna import TrialPruned
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.storages._heartbeat import BaseHeartbeat, is_heartbeat_enabled
from optuna.trial import FrozenTrial, TrialState

from labeling_protocols.engine import parse_url
from training.loop import TrainingCancelled
from training.plan import Plan, PlanError, override
from training.search_space import Space
from training.turns import turn

__all__ = ["Found", "Pruning", "Search", "Standing", "TrainTrial", "Trial", "TrialFailed", "TrialPruned", "TuningError"]

HEARTBEAT_S = 30
_RETRIES = 3
_POLL_S = 0.5
_SQLITE_WAIT_S = 60
_WARM_UP = 0.2  # of the epochs, before a trial may be pruned
_FIRST, _BEGUN, _OVERRIDES, _REASON = "first", "begun", "overrides", "reason"  # attributes of a trial

warnings.filterwarnings("ignore", category=ExperimentalWarning)  # Optuna's heartbeats, since its version 2.8
optuna.logging.set_verbosity(optuna.logging.ERROR)


class TuningError(RuntimeError):
    """A search that came to nothing: what was found, what was expected."""


class TrialFailed(RuntimeError):  # noqa: N818  what came of a trial, as TrialPruned is
    """A plan that cannot be trained; the search goes on without it."""


class Pruning(StrEnum):
    MEDIAN = "median"  # what is below the median of its peers at the same epoch
    HYPERBAND = "hyperband"  # Li et al. 2018, JMLR 18:185
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Search:
    """A study by name in a database (SQLAlchemy's URL), which goes on to `trials` in total."""

    name: str
    storage: str
    plan: Plan
    space: Space
    trials: int
    pruning: Pruning = Pruning.MEDIAN
    seed: int = 20
    heartbeat_s: int = HEARTBEAT_S


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One plan to try. `number` stays the same when it is tried again: its run and its checkpoints go by it.

    `report(epoch, score)` raises `TrialPruned` where going on is not worth it; `cancelled()` says whether to stop.
    """

    number: int
    plan: Plan
    overrides: Mapping[str, Any]
    report: Callable[[int, float], None]
    cancelled: Callable[[], bool]


TrainTrial = Callable[[Trial], float]
"""Trains a trial's plan and returns its score, higher is better.

Raises `TrialPruned`, `TrialFailed` where the plan cannot be trained, and `TrainingCancelled`.
"""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a study is; attempts that were tried again are left out."""

    finished: int = 0
    pruned: int = 0
    failed: int = 0
    running: int = 0
    waiting: int = 0
    best_number: int | None = None
    best_score: float | None = None

    @property
    def done(self) -> int:
        return self.finished + self.pruned + self.failed


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to; `overrides` make the plan of the best trial from the one that was searched from."""

    study: str
    standing: Standing
    overrides: Mapping[str, Any]
    importances: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> str:
        """The overrides, as `overread train --set-file` takes them."""
        return json.dumps(self.overrides, indent=1) + "\n"


def open_study(search: Search) -> optuna.Study:
    """The study, made where there is none."""
    storage = RDBStorage(
        parse_url(search.storage).render_as_string(hide_password=False),
        engine_kwargs=_engine(search.storage),
        heartbeat_interval=search.heartbeat_s,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=_RETRIES),
    )
    return optuna.create_study(
        study_name=search.name,
        storage=storage,
        pruner=_pruner(search),
        direction="maximize",
        load_if_exists=True,
    )


def work(search: Search, train_trial: TrainTrial, *, cancelled: Callable[[], bool] = lambda: False) -> None:
    """Try one plan after another until the study has all its trials, those of other workers too.

    Raises `TrainingCancelled`; the trial that was under way is then tried again when the study goes on.
    """
    with turn(search.storage, "study"):  # Optuna makes its tables here the first time
        study = open_study(search)
    while not _complete(study, search.trials):
        if cancelled():
            raise TrainingCancelled("cancelled between two trials; what was tried stays in the study")
        if not _try_one(study, search, train_trial, cancelled):
            time.sleep(_POLL_S)  # others train the last trials; one of them may die


def standing(study: optuna.Study) -> Standing:
    counted = _counted(study)
    number = {state: sum(trial.state is state for trial in counted) for state in TrialState}
    finished = [trial for trial in counted if trial.state is TrialState.COMPLETE]
    best = max(finished, key=lambda trial: trial.value or 0.0, default=None)
    return Standing(
        finished=len(finished),
        pruned=number[TrialState.PRUNED],
        failed=number[TrialState.FAIL],
        running=number[TrialState.RUNNING],
        waiting=number[TrialState.WAITING],
        best_number=None if best is None else number_of(best),
        best_score=None if best is None else best.value,
    )


def found(study: optuna.Study) -> Found:
    """The best of a study's trials; raises `TuningError` where none was trained to its end."""
    reached = standing(study)
    if reached.finished == 0:
        reasons = {
            trial.user_attrs.get(_REASON, "its worker died") for trial in study.trials if trial.state.is_finished()
        }
        raise TuningError(
            f"none of {reached.done} trial(s) was trained to its end: {'; '.join(sorted(reasons)) or 'none began'}"
        )
    best = next(trial for trial in study.trials if number_of(trial) == reached.best_number and trial.value is not None)
    return Found(
        study=study.study_name, standing=reached, overrides=overrides_of(best), importances=_importances(study)
    )


def number_of(trial: FrozenTrial) -> int:
    """A trial's number, that of the first attempt where it was tried again."""
    return int(trial.user_attrs.get(_FIRST, trial.number))


def overrides_of(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial changed in the plan; empty of one that has not begun."""
    found: dict[str, Any] = json.loads(trial.user_attrs.get(_OVERRIDES, "{}"))
    return found


def _try_one(study: optuna.Study, search: Search, train_trial: TrainTrial, cancelled: Callable[[], bool]) -> bool:
    """Take the next trial, where there is one to take, and train it.

    The turn is held from counting trials until Optuna has made the next one, so that there are never too many; a
    trial's sampler is seeded by its number, so that a search that was interrupted goes on as it would have.
    """
    begun: list[optuna.Trial] = []
    with ExitStack() as waiting_turn:
        waiting_turn.enter_context(turn(search.storage, "trial"))
        _retry_the_dead(study, search)
        if (
            all(trial.state is not TrialState.WAITING for trial in study.trials)
            and len(_counted(study)) >= search.trials
        ):
            return False
        study.sampler = TPESampler(seed=search.seed + len(study.trials))

        def objective(trial: optuna.Trial) -> float:
            storage = study._storage  # whose own thread may not have come to the first heartbeat yet
            if isinstance(storage, BaseHeartbeat) and is_heartbeat_enabled(storage):
                storage.record_heartbeat(trial._trial_id)
            trial.set_user_attr(_BEGUN, trial.number)
            begun.append(trial)
            waiting_turn.close()
            return _train(trial, search, train_trial, cancelled)

        try:
            study.optimize(objective, n_trials=1, catch=(TrialFailed,))
        except BaseException:
            for trial in begun:
                _put_back(study, trial.number)
            raise
    return True


def _train(trial: optuna.Trial, search: Search, train_trial: TrainTrial, cancelled: Callable[[], bool]) -> float:
    overrides = search.space.overrides(trial, search.plan)
    number = int(trial.user_attrs.get(_FIRST, trial.number))
    trial.set_user_attr(_FIRST, number)
    trial.set_user_attr(_OVERRIDES, json.dumps(overrides))

    def report(epoch: int, score: float) -> None:
        trial.report(score, epoch)
        if trial.should_prune():
            raise TrialPruned(f"pruned after epoch {epoch}")

    try:
        plan = override(search.plan, overrides)
        return train_trial(Trial(number=number, plan=plan, overrides=overrides, report=report, cancelled=cancelled))
    except (PlanError, TrialFailed) as failure:
        trial.set_user_attr(_REASON, str(failure))
        raise TrialFailed(str(failure)) from failure


def _counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials without those attempts that were, or will be, tried again."""
    trials = study.get_trials(deepcopy=False)
    again = {number for trial in trials for number in trial.system_attrs.get("retry_history", [])}
    return [trial for trial in trials if trial.number not in again]


def _complete(study: optuna.Study, trials: int) -> bool:
    counted = _counted(study)
    return len(counted) >= trials and all(trial.state.is_finished() for trial in counted)


def _retry_the_dead(study: optuna.Study, search: Search) -> None:
    """Trials without a heartbeat; and those whose worker died between their making and the first one."""
    fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        age_s = time.time() - trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        if trial.user_attrs.get(_BEGUN) != trial.number and age_s > 2 * search.heartbeat_s:
            study.tell(trial.number, state=TrialState.FAIL)
            _put_back(study, trial.number)


def _put_back(study: optuna.Study, number: int) -> None:
    """Have a trial that failed for no fault of its plan tried again."""
    trial = study.get_trials(deepcopy=False)[number]
    if trial.state is TrialState.FAIL:
        RetryHeartbeatStaleTrialCallback()(study, trial)


def _pruner(search: Search) -> BasePruner:
    if search.pruning is Pruning.HYPERBAND:
        return HyperbandPruner(min_resource=search.plan.validate_every, max_resource=search.plan.epochs)
    if search.pruning is Pruning.MEDIAN:
        return MedianPruner(n_warmup_steps=int(_WARM_UP * search.plan.epochs))
    return NopPruner()


def _importances(study: optuna.Study) -> dict[str, float]:
    """Each value's share in what makes trials differ; empty where too few are finished to tell."""
    try:
        return {name: float(share) for name, share in optuna.importance.get_param_importances(study).items()}
    except (RuntimeError, ValueError):
        return {}


def _engine(url: str) -> dict[str, Any]:
    sqlite = parse_url(url).get_backend_name() == "sqlite"
    return {"connect_args": {"timeout": _SQLITE_WAIT_S}} if sqlite else {"pool_pre_ping": True}
