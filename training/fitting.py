"""The training step of a job: a snapshot and a request in; a plan, and weights of one network or of one a fold, out."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from training import pictures
from training.checkpoint import Epoch
from training.group import ALONE, Group
from training.inference import bundle_weights
from training.loop import fit, native_precision
from training.planning import plan_for
from training.tasks import learner_of
from training.tracking import RunLog
from training.workplace import Cancelled, Part, Tell, TrainingJob, Workplace, keep_weights

_SILENT: Tell = lambda said: None  # noqa: E731  the twin that tells nobody


def train(
    place: Workplace,
    job: str,
    *,
    tell: Tell = _SILENT,
    cancelled: Cancelled = lambda: False,
    group: Group = ALONE,
    device: torch.device | None = None,
) -> None:
    """Plan and train on the job's snapshot in one MLflow run, folds in runs within it; goes on where it was.

    Of the processes of a group rank 0 plans, tells and logs; all of them train.
    """
    work = TrainingJob(place, job)
    device = device or work.device
    with _run(work, group) as run:
        if not group.share(work.trained):
            _say(tell, group, {"stage": "preparing", "cases": len(work.snapshot.cases)})
            if group.leads and not work.plan_file.exists():
                work.keep_plan(plan_for(work, native_precision(device), device))
            group.share(None)  # the others wait for the plan
            if run is not None:
                settings = {"device": str(device), "job": job, "processes": str(group.size)}
                place.tracking.describe(run, work.snapshot, work.plan(), settings)
                run.watch_system()
            for part in work.parts(work.plan()):
                if not group.share(part.weights_file.exists()):
                    with work.running_part(run, part) if run is not None else nullcontext() as own:
                        _train_part(work, part, own, tell, cancelled, group, device)


def _train_part(
    work: TrainingJob,
    part: Part,
    run: RunLog | None,
    tell: Tell,
    cancelled: Cancelled,
    group: Group,
    device: torch.device,
) -> None:
    plan = work.plan()
    learner = learner_of(plan)
    history: list[Epoch] = []

    def epoch_done(epoch: Epoch) -> None:
        history.append(epoch)
        if run is not None:
            run.epoch(epoch)
            _say(tell, group, {"stage": "training", **({"fold": part.fold} if part.fold else {}), **_spoken(epoch)})

    weights = fit(
        plan,
        learner,
        work.examples(learner, part.training),
        work.examples(learner, part.validation),
        folder=part.folder / "checkpoints",
        device=device,
        tell=epoch_done,
        cancelled=cancelled,
        group=group,
        start=_start(work),
    )
    if run is not None:
        run.picture("pictures/curves.png", pictures.curves(history))
        keep_weights(part, weights)
        if part.fold:
            run.close("FINISHED")


def _start(work: TrainingJob) -> Mapping[str, Tensor] | None:
    """The champion's weights where the request is to begin from them; of an ensemble those of its first network."""
    champion = work.champion_bundle() if work.request.warm_start else None
    if champion is None:
        return None
    weights = bundle_weights(champion)
    first = {name.removeprefix("0."): tensor for name, tensor in weights.items() if name.startswith("0.")}
    return first or weights


def _run(work: TrainingJob, group: Group) -> AbstractContextManager[RunLog | None]:
    return work.running() if group.leads else nullcontext()


def _say(tell: Tell, group: Group, said: dict[str, Any]) -> None:
    if group.leads:
        tell(said)


def _spoken(epoch: Epoch) -> dict[str, Any]:
    said: dict[str, Any] = {"epoch": epoch.number, "epochs": epoch.epochs, "loss": epoch.loss}
    return said | ({"figures": epoch.figures} if epoch.figures else {})
