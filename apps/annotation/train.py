"""Training as monailabel's clients see it: a protocol in, the durable job that trains it out, in their words."""

from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from apps.annotation.calling import caller
from apps.jobs import Job, Jobs
from apps.training_job import WORKFLOW, start_training
from labeling_protocols.protocol import Protocol
from training.request import TrainingRequest

# A job that waits is told as running: viewers take any other word for the end of it.
_STATES = {
    "ENQUEUED": "RUNNING",
    "DELAYED": "RUNNING",
    "PENDING": "RUNNING",
    "SUCCESS": "DONE",
    "CANCELLED": "STOPPED",
}


class DurableTraining(TrainTask):
    """Trains one protocol's model from its truths, in a worker."""

    def __init__(self, protocol: Protocol, jobs: Jobs) -> None:
        super().__init__(f"{protocol.title}: train on what is settled, gate, and release if it passes")
        self._protocol = protocol.name
        self._jobs = jobs

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Start the job; while another one runs it waits for that."""
        job_id = start_training(self._jobs, TrainingRequest(protocol=self._protocol), requested_by=caller().id)
        job = self._jobs.find(job_id)
        assert job is not None  # noqa: S101  started above
        return as_task(self._jobs, job)

    def stats(self) -> dict[str, Any]:
        """What a viewer's training bar shows of the job that runs, or of the newest: epochs done and planned, and the
        mean of its figures."""
        mine = [job for job in self._jobs.all(WORKFLOW) if protocol_of(job) == self._protocol]
        if not mine:
            return {}
        shown = next((job for job in mine if job.active), mine[-1])
        said = _progress(self._jobs, shown)
        stats: dict[str, Any] = {"epoch": said.get("epoch", 0), "total_epochs": max(1, said.get("epochs", 1))}
        result = shown.result
        if isinstance(result, dict):
            stats["best_metric"] = result["figures"].get(result["principal"]) or 0.0
        elif isinstance(said.get("figures"), dict) and said["figures"]:
            stats["best_metric"] = sum(said["figures"].values()) / len(said["figures"])
        if not shown.active:
            stats["total_time"] = "ended"
        return stats


def newest_task(jobs: Jobs, *, running_only: bool) -> dict[str, Any] | None:
    """The training that runs, or the newest one, in monailabel's words; None where there is none."""
    found = jobs.active(WORKFLOW) if running_only else jobs.all(WORKFLOW)
    running = next((job for job in found if job.active), None)
    return as_task(jobs, running or found[-1]) if found else None


def cancel_all(jobs: Jobs) -> dict[str, Any] | None:
    """Cancel every training that waits or runs; the newest of them, or None where there was none."""
    running = jobs.active(WORKFLOW)
    for job in running:
        jobs.cancel(job.id)
    cancelled = jobs.find(running[-1].id) if running else None
    return as_task(jobs, cancelled) if cancelled else None


def as_task(jobs: Jobs, job: Job) -> dict[str, Any]:
    """A job in monailabel's words; `details` is never empty, as its clients take the last of them."""
    said = {key: value for key, value in _progress(jobs, job).items() if key != "requested_by"}
    result = job.result if isinstance(job.result, dict) else None
    task: dict[str, Any] = {
        "id": job.id,
        "status": _STATES.get(job.state, "ERROR"),
        "request": {"model": protocol_of(job)},
        "progress": said,
        "details": [str(said.get("stage", "waiting for the worker"))],
    }
    if result is not None:
        outcome = "released" if result.get("promoted") else "kept, not released"
        task["result"] = f"{result.get('model_version')}: {outcome}"
        task["reasons"] = list(result.get("reasons", ()))
        task["details"] = [task["result"], *task["reasons"]]
    elif job.error and not job.active:
        task["result"] = job.error
        task["details"] = [job.error]
    return task


def protocol_of(job: Job) -> str:
    """The protocol a training job is for, from its id `train-<protocol>-<random>`."""
    return job.id.removeprefix("train-").rpartition("-")[0]


def _progress(jobs: Jobs, job: Job) -> dict[str, Any]:
    said = jobs.progress(job.id)
    return said if isinstance(said, dict) else {}
