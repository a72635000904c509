"""Durable jobs: their queues, how a process starts, watches and cancels one, and how a worker runs them.

A job is a DBOS workflow on the site's job database. Any process enqueues with `Jobs`; only a worker (`apps/worker.py`)
runs them. A job's id says what it is for, so that asking twice starts one job.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions

from apps.locks import locked
from apps.settings import Site

# One queue for what needs the accelerator for long, one for studies that people wait for.
TRAINING_QUEUE = "training"
INFERENCE_QUEUE = "inference"
# Long as well, and in nobody's way: a worklist that is prelabelled must hold up neither a training nor a study.
PRELABELLING_QUEUE = "prelabelling"
COMMITMENT_QUEUE = "commitment"  # reports of what is held, to those who sent it
SCORING_QUEUE = "scoring"  # of the cases that wait for readers

_STUDY_POLL_S = 0.2  # as often as somebody looks whether a study waits; DBOS looks every second

_ACTIVE = ["ENQUEUED", "PENDING", "DELAYED"]
_PAUSED = "paused"  # the attribute that tells a job that waits to be resumed from one that was cancelled
# Jobs outlive releases: recovery is by name and arguments, so a new release takes over what an old one left.
_APPLICATION_VERSION = "overread-1"


@dataclass(frozen=True, kw_only=True)
class Job:
    """`state` is DBOS's: ENQUEUED, PENDING, SUCCESS, ERROR, CANCELLED, …; a paused job is CANCELLED and `paused`."""

    id: str
    name: str
    state: str
    error: str | None
    result: Any
    paused: bool = False

    @property
    def active(self) -> bool:
        return self.state in _ACTIVE


class Jobs:
    """What every process may do with jobs."""

    def __init__(self, site: Site) -> None:
        with locked(site.root / "jobs.lock"):
            DBOS.migrate(site.jobs_url)
        self._client = DBOSClient(system_database_url=site.jobs_url)

    def close(self) -> None:
        self._client.destroy()

    def start(self, workflow: str, queue: str, job_id: str, *, priority: int | None = None, **arguments: str) -> str:
        """Enqueue a workflow by its registered name; an id that is known already starts nothing new.

        Of the jobs that wait in a queue, those of the smallest `priority` from 1 on run first.
        """
        options: EnqueueOptions = {
            "workflow_name": workflow,
            "queue_name": queue,
            "workflow_id": job_id,
            "app_version": _APPLICATION_VERSION,
        }
        if priority is not None:
            options["priority"] = priority
        self._client.enqueue(options, **arguments)
        return job_id

    def find(self, job_id: str) -> Job | None:
        return next(iter(self._list(workflow_ids=[job_id])), None)

    def active(self, workflow: str) -> list[Job]:
        """The jobs of this workflow that wait or run, oldest first."""
        return self._list(name=workflow, status=_ACTIVE)

    def all(self, workflow: str) -> list[Job]:
        return self._list(name=workflow)

    def cancel(self, job_id: str) -> None:
        self._client.cancel_workflow(job_id)

    def pause(self, job_id: str) -> None:
        """Stop a job before its next step; `resume` goes on with that step."""
        self._client.update_workflow_attributes(job_id, {_PAUSED: True})
        self._client.cancel_workflow(job_id)

    def resume(self, job_id: str, queue: str) -> None:
        """Put a paused job back into its queue."""
        self._client.update_workflow_attributes(job_id, None)
        self._client.resume_workflow(job_id, queue_name=queue)

    def end_paused(self, job_id: str) -> None:
        """Make a paused job a cancelled one."""
        self._client.update_workflow_attributes(job_id, None)

    def progress(self, job_id: str) -> Any:
        """What the job last said with `report_progress`, or None."""
        return self._client.get_event(job_id, "progress", timeout_seconds=0)

    def _list(self, **filters: Any) -> list[Job]:
        return [
            Job(
                id=w.workflow_id,
                name=w.name,
                state=w.status,
                error=str(w.error) if w.error else None,
                result=w.output,
                paused=w.status == "CANCELLED" and bool((w.attributes or {}).get(_PAUSED)),
            )
            for w in self._client.list_workflows(**filters)
        ]


def launch_worker(site: Site, register: Callable[[Site], None]) -> None:
    """Take over the site's jobs in this process: interrupted ones first, then the queues.

    `register` declares the workflows; it runs after DBOS knows its database and before anything is recovered.
    """
    config: DBOSConfig = {
        "name": "overread",
        "system_database_url": site.jobs_url,
        "application_version": _APPLICATION_VERSION,
        "executor_id": os.environ.get("OVERREAD_WORKER", "worker"),
        "log_level": "WARNING",
    }
    DBOS(config=config)
    logging.getLogger("dbos").addFilter(_is_no_cancellation)
    register(site)
    DBOS.launch()
    DBOS.register_queue(TRAINING_QUEUE, worker_concurrency=1)
    DBOS.register_queue(INFERENCE_QUEUE, worker_concurrency=1, polling_interval_sec=_STUDY_POLL_S)
    DBOS.register_queue(PRELABELLING_QUEUE, worker_concurrency=1)
    DBOS.register_queue(SCORING_QUEUE, worker_concurrency=1)
    DBOS.register_queue(COMMITMENT_QUEUE, worker_concurrency=1)


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """A job that somebody cancelled ends with an exception, which DBOS logs with its traceback; nothing went wrong.

    Told by name, as the classes belong to the kinds of job, which this module does not load.
    """
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not kind.__name__.removesuffix("Error").endswith("Cancelled")


@contextlib.contextmanager
def sole_worker(site: Site) -> Iterator[bool]:
    """Whether this process is the site's one worker while the block runs; two would run the same jobs twice."""
    with (site.root / "worker.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def report_progress(value: dict[str, Any]) -> None:
    """Tell whoever watches this job how far it is; called from inside a workflow or one of its steps."""
    DBOS.set_event("progress", value)


def cancelled() -> bool:
    """Whether somebody cancelled the job that runs here."""
    status = DBOS.get_workflow_status(str(DBOS.workflow_id))
    return status is not None and status.status == "CANCELLED"
