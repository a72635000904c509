"""A tuning's trials: a job's snapshot and a plan in; the score on one fold, and a run nested in the job's, out.

Trials learn from the snapshot's training cases but one fold, and are scored on that: held-out cases stay unseen.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from training import pictures
from training.checkpoint import Epoch, TrainingError
from training.loop import TrainingCancelled, fit, native_precision
from training.plan import Plan
from training.planning import plan_for
from training.snapshot import Fold, Snapshot, SnapshotError, folds
from training.tasks import learner_of
from training.tracking import RunLog
from training.tuning import Trial, TrialFailed, TrialPruned
from training.workplace import TrainingJob, Workplace

_FOLDS = (5, 4, 3, 2)  # as many as leave none without a patient; a trial is scored on the first


def base_plan(place: Workplace, job: str) -> Plan:
    """The plan that a tuning searches from: what a training of the job's request would have; kept with the job.

    Raises `SnapshotError` where the snapshot has too few patients for a fold to score on.
    """
    work = TrainingJob(place, job)
    _fold(work.snapshot)
    if not work.plan_file.exists():
        work.keep_plan(plan_for(work, native_precision(work.device), work.device))
    return work.plan()


def train_trial(place: Workplace, job: str, device: torch.device, trial: Trial) -> float:
    """The trial's score: that of its weights' best look at the fold where the plan has patience, else of the last."""
    work = TrainingJob(place, job)
    folder = work.folder / "trials" / f"{trial.number:03d}"
    folder.mkdir(parents=True, exist_ok=True)
    with place.tracking.part(place.tracking.run(job, work.protocol.name), f"trial-{trial.number:03d}") as run:
        run.plan(trial.plan)
        try:
            history = _fit(work, trial, folder, device, run)
        except TrainingCancelled:
            run.close("KILLED")  # its checkpoint stays: it is tried again
            raise
        except TrialPruned as pruned:
            _end(run, folder, "FINISHED", f"Pruned: {pruned}")
            raise
        except (TrainingError, torch.OutOfMemoryError) as error:
            _end(run, folder, "FAILED", f"Failed: {error}")
            raise TrialFailed(str(error)) from error
        scores = [score for epoch in history if (score := epoch.score) is not None]
        score = max(scores) if trial.plan.patience is not None else scores[-1]
        run.figures({"trial/score": score}, step=trial.number)
        run.picture("pictures/curves.png", pictures.curves(history))
        _end(run, folder, "FINISHED", f"Trained to its end: score {score:.3f}")
    return score


def _fit(work: TrainingJob, trial: Trial, folder: Path, device: torch.device, run: RunLog) -> Sequence[Epoch]:
    learner = learner_of(trial.plan)
    fold = _fold(work.snapshot)
    history: list[Epoch] = []

    def epoch_done(epoch: Epoch) -> None:
        history.append(epoch)
        run.epoch(epoch)
        if epoch.score is not None:
            trial.report(epoch.number, epoch.score)

    fit(
        trial.plan,
        learner,
        work.examples(learner, fold.training),
        work.examples(learner, fold.validation),
        folder=folder,
        device=device,
        tell=epoch_done,
        cancelled=trial.cancelled,
    )
    return history


def _fold(snapshot: Snapshot) -> Fold:
    for count in _FOLDS[:-1]:
        with suppress(SnapshotError):
            return folds(snapshot, count)[0]
    return folds(snapshot, _FOLDS[-1])[0]


def _end(run: RunLog, folder: Path, status: str, words: str) -> None:
    """Close the run of a trial that is over; its weights go, since the best plan is trained anew on all cases."""
    run.note(f"### {words}")
    run.tag({"overread.trial": words.partition(":")[0].lower()})
    run.close(status)
    shutil.rmtree(folder)
