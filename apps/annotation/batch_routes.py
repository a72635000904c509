"""`/batch/infer`: a protocol's champion started on its worklist, watched and stopped, in monailabel's words.

The work is the durable job of `overread prelabel`. What monailabel lets a client say about devices and processes is
the worker's own business here and is not listened to.
"""

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Body

from apps.annotation.dependencies import Engineer, Overread
from apps.jobs import Job, Jobs
from apps.prelabel_job import (
    WORKFLOW,
    PrelabellingError,
    PrelabelRequest,
    Which,
    cancel,
    outcome_of,
    protocol_of,
    start_prelabelling,
    words_of,
)
from labeling_protocols.store import UnknownError
from training.registry import NoChampionError

router = APIRouter()

_STATES = {"waiting": "RUNNING", "running": "RUNNING", "done": "DONE", "paused": "STOPPED", "cancelled": "STOPPED"}


class Images(StrEnum):
    """monailabel's words for the cases to run on."""

    ALL = "all"
    LABELED = "labeled"
    UNLABELED = "unlabeled"


@router.post("/batch/infer/{model}")
def start_batch(
    model: str,
    caller: Engineer,
    overread: Overread,
    params: Annotated[dict[str, Any] | None, Body()] = None,
    images: Images = Images.ALL,
    run_sync: bool = False,
) -> dict[str, Any]:
    """Start proposing for all cases, or for those that wait for readers; `max_batch_size` is how many at most."""
    if model not in {protocol.name for protocol in overread.store.protocols()}:
        raise UnknownError("unknown model to run on a worklist; expected a protocol's name, for its champion")
    if images is Images.LABELED:
        raise PrelabellingError("prelabels are for cases before they are read; expected images=all or unlabeled.")
    if run_sync:
        raise PrelabellingError("a worklist is not waited for; leave run_sync out and ask GET /batch/infer.")
    if not overread.champions.exists(model):
        raise NoChampionError("no model of this protocol has passed the gate yet, so there is none to propose with")
    request = PrelabelRequest(
        protocol=model,
        cases=Which.OPEN if images is Images.UNLABELED else Which.ALL,
        limit=_limit((params or {}).get("max_batch_size")),
    )
    return _told(overread.jobs, start_prelabelling(overread.jobs, request, requested_by=caller.account.id))


@router.get("/batch/infer")
@router.get("/batch/infer/")
def batch_status(
    caller: Engineer, overread: Overread, all: bool = False, check_if_running: bool = False
) -> dict[str, Any] | list[dict[str, Any]]:
    """The one that runs, or the newest, or 404; `all` asks for every one, `check_if_running` for one not ended."""
    jobs = overread.jobs
    found = jobs.active(WORKFLOW) if check_if_running else jobs.all(WORKFLOW)
    if not found:
        raise UnknownError("no prelabelling is running" if check_if_running else "nothing was prelabelled yet")
    if all:
        return [as_task(jobs, job) for job in found]
    return as_task(jobs, next((job for job in found if job.active), found[-1]))


@router.delete("/batch/infer")
@router.delete("/batch/infer/")
def stop_batch(caller: Engineer, overread: Overread) -> dict[str, Any] | None:
    """Cancel what waits or runs; the newest of it, or null. What was proposed stays."""
    running = overread.jobs.active(WORKFLOW)
    for job in running:
        cancel(overread.jobs, job.id)
    return _told(overread.jobs, running[-1].id) if running else None


def as_task(jobs: Jobs, job: Job) -> dict[str, Any]:
    """A job in monailabel's words; `details` is never empty, as its clients take the last of them."""
    said = {key: value for key, value in outcome_of(jobs, job).items() if key != "requested_by"}
    state = words_of(job)
    task = {
        "id": job.id,
        "status": _STATES.get(state, "ERROR"),
        "request": {"model": protocol_of(job)},
        "progress": said,
        "details": [f"{said['done']} of {said['cases']} cases, {state}" if said else state],
    }
    if job.error and not job.active:
        task["details"] = [job.error]
    return task


def _told(jobs: Jobs, job_id: str) -> dict[str, Any]:
    job = jobs.find(job_id)
    assert job is not None  # noqa: S101  started, or met, just now
    return as_task(jobs, job)


def _limit(told: Any) -> int | None:
    """monailabel's `max_batch_size`: 0, or nothing, for no limit."""
    if told in (None, 0):
        return None
    if isinstance(told, bool) or not isinstance(told, int) or told < 0:
        raise PrelabellingError("max_batch_size: expected a whole number of cases, 0 for all. Nothing was started.")
    return told
