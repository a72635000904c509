"""Training as a durable job: a protocol in, a registered version out, however often the worker dies.

`register` declares the workflow in a worker; `start_training` asks for one from any process. Each step keeps what it
made, so a worker that takes the job over goes on where the last one was.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from dbos import DBOS, error

from apps.jobs import TRAINING_QUEUE, Jobs, cancelled, report_progress
from apps.settings import Site
from labeling_protocols.store import Store
from training.loop import TrainingCancelled
from training.pipeline import Workplace, assess, release, take_snapshot, train

WORKFLOW = "train"

_CANCEL_POLL_S = 1.0


def register(site: Site) -> None:
    """Declare the workflow `train(protocol, requested_by)` for this site in this process.

    Its result is `training.pipeline.Outcome` as a dict; its progress has `stage` (snapshot, preparing, training,
    evaluating, releasing) and, while it trains, `epoch`, `epochs`, `loss` and now and then `dice` by structure.
    """

    @DBOS.step(name="train.snapshot")
    def snapshot_step(protocol: str, job: str) -> str:
        with _workplace(site) as place:
            return take_snapshot(place, protocol, job)

    @DBOS.step(name="train.fit")
    def fit_step(job: str) -> str:
        with _workplace(site) as place:
            return train(place, job, tell=_tell, cancelled=_cancelled())

    @DBOS.step(name="train.assess")
    def assess_step(job: str) -> None:
        with _workplace(site) as place:
            assess(place, job, tell=_tell, cancelled=_cancelled())

    @DBOS.step(name="train.release")
    def release_step(job: str) -> dict[str, Any]:
        with _workplace(site) as place:
            return asdict(release(place, job, tell=_tell))

    @DBOS.workflow(name=WORKFLOW)
    def workflow(protocol: str, requested_by: str) -> dict[str, Any]:
        job = str(DBOS.workflow_id)
        report_progress({"stage": "snapshot", "protocol": protocol, "requested_by": requested_by})
        snapshot_step(protocol, job)
        fit_step(job)
        assess_step(job)
        outcome: dict[str, Any] = release_step(job)
        return outcome


def start_training(jobs: Jobs, protocol: str, requested_by: str) -> str:
    """Ask for a training and return its job's id; while another one runs it waits in the queue.

    `requested_by` is the pseudonym of the account that asked.
    """
    job = f"train-{protocol}-{uuid.uuid4().hex[:12]}"
    return jobs.start(WORKFLOW, TRAINING_QUEUE, job, protocol=protocol, requested_by=requested_by)


@contextmanager
def _workplace(site: Site) -> Iterator[Workplace]:
    store = Store(site.database_url, site.blobs)
    epochs = site.config.training.max_epochs
    try:
        yield Workplace(
            store=store,
            tracking_uri=site.tracking_uri,
            artifacts=site.folder("mlflow") / "artifacts",
            folder=site.folder("training"),
            bundles=site.folder("bundles"),
            secret=site.secret,
            signing_key=site.signing_key,
            device=site.config.training.device,
            overrides={} if epochs is None else {"epochs": epochs},
        )
    finally:
        store.close()


def _tell(progress: dict[str, Any]) -> None:
    """Report progress; DBOS refuses it from a job that was cancelled, or given to another worker."""
    try:
        report_progress(progress)
    except (error.DBOSWorkflowCancelledError, error.DBOSWorkflowConflictIDError) as refusal:
        if cancelled():
            raise TrainingCancelled("cancelled; nothing was released") from refusal
        raise


def _cancelled() -> Callable[[], bool]:
    """Whether somebody cancelled this job, asked of the job database once in `_CANCEL_POLL_S` at most."""
    asked, answer = -_CANCEL_POLL_S, False

    def poll() -> bool:
        nonlocal asked, answer
        if not answer and time.monotonic() - asked > _CANCEL_POLL_S:
            asked, answer = time.monotonic(), cancelled()
        return answer

    return poll
