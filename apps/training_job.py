"""Training as a durable job: a request in, a registered version out, however often the worker dies.

`register` declares the workflow in a worker; `start_training` asks for one from any process. Each step keeps what it
made, so a worker that takes the job over goes on where the last one was.
"""

import uuid
from dataclasses import asdict
from typing import Any

from dbos import DBOS

from apps.job_watch import tell, watch
from apps.jobs import TRAINING_QUEUE, Jobs, report_progress
from apps.settings import Site
from apps.training_group import train_in_group
from apps.training_site import workplace
from training.pipeline import assess, release, take_snapshot, train
from training.request import TrainingRequest

WORKFLOW = "train"


def register(site: Site) -> None:
    """Declare the workflow `train(request, requested_by)` for this site in this process.

    Its result is `training.pipeline.Outcome` as a dict; its progress has `stage` (snapshot, preparing, training,
    evaluating, releasing) and, while it trains, `epoch`, `epochs`, `loss`, `fold` where there are several, and now and
    then `figures`.
    """

    @DBOS.step(name="train.snapshot")
    def snapshot_step(request: str, job: str) -> str:
        with workplace(site) as place:
            return take_snapshot(place, TrainingRequest.from_json(request), job)

    @DBOS.step(name="train.fit")
    def fit_step(job: str) -> None:
        processes = site.config.training.processes
        if processes > 1:
            train_in_group(site, job, processes, tell, watch())
            return
        with workplace(site) as place:
            train(place, job, tell=tell, cancelled=watch())

    @DBOS.step(name="train.assess")
    def assess_step(job: str) -> None:
        with workplace(site) as place:
            assess(place, job, tell=tell, cancelled=watch())

    @DBOS.step(name="train.release")
    def release_step(job: str) -> dict[str, Any]:
        with workplace(site) as place:
            return asdict(release(place, job, tell=tell))

    @DBOS.workflow(name=WORKFLOW)
    def workflow(request: str, requested_by: str) -> dict[str, Any]:
        job = str(DBOS.workflow_id)
        protocol = TrainingRequest.from_json(request).protocol
        report_progress({"stage": "snapshot", "protocol": protocol, "requested_by": requested_by})
        snapshot_step(request, job)
        fit_step(job)
        assess_step(job)
        outcome: dict[str, Any] = release_step(job)
        return outcome


def start_training(jobs: Jobs, request: TrainingRequest, requested_by: str) -> str:
    """Ask for a training and return its job's id; while another one runs it waits in the queue.

    `requested_by` is the pseudonym of the account that asked.
    """
    job = f"train-{request.protocol}-{uuid.uuid4().hex[:12]}"
    return jobs.start(WORKFLOW, TRAINING_QUEUE, job, request=request.as_json(), requested_by=requested_by)
