"""Tuning as a durable job: what is asked for in, the best overrides of the plan out, however often the worker dies.

`register` declares the workflow in a worker; `start_tuning` asks for one from any process. The study lies in a database
of its own, named by the snapshot, the plan and the space: the same asked for again goes on with it.
"""

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import optuna
import torch
from dbos import DBOS
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from apps import compat, job_watch
from apps.jobs import TRAINING_QUEUE, Jobs, report_progress
from apps.settings import Site
from apps.training_site import workplace
from labeling_protocols.blobs import write_durably
from labeling_protocols.engine import parse_url
from training import tuning_page
from training.group import choose_device
from training.pipeline import take_snapshot
from training.plan import Plan
from training.request import TrainingRequest
from training.search_space import Space, read_space
from training.trials import base_plan, train_trial
from training.tuning import Found, Pruning, Search, Standing, TrainTrial, TuningError, open_study
from training.tuning_workers import tune
from training.workplace import TrainingJob, Workplace

WORKFLOW = "tune"


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class TuningRequest:
    """One search for a better plan of a training.

    `trials` are those of the study in total, `workers` processes of this machine. `space` is YAML as
    `training/search_space.py` reads it, `changes` further lines of it. `storage` is the URL of Optuna's database, which
    must be none of the site's others; the site's own file where it is empty.
    """

    training: TrainingRequest
    trials: Annotated[int, Field(ge=1, le=10_000)] = 30
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    pruning: Pruning = Pruning.MEDIAN
    space: str = ""
    changes: tuple[str, ...] = ()
    storage: str = ""

    def as_json(self) -> str:
        return _ADAPTER.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> "TuningRequest":
        """Raises `TuningError` naming what cannot be."""
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'request'}: {e['msg']}" for e in error.errors())
            raise TuningError(f"this cannot be tuned: {found}. Nothing was tuned.") from error


_ADAPTER: TypeAdapter[TuningRequest] = TypeAdapter(TuningRequest)


def register(site: Site) -> None:
    """Declare the workflow `tune(request, requested_by)` for this site in this process.

    Its result has `protocol`, `study`, `run_id`, `score`, `trial`, `overrides`, `file` (with them) and how many trials
    were `finished`, `pruned` and `failed`; its progress has `stage` (snapshot, preparing, tuning) and, while it tunes,
    `trial`, `trials`, `pruned`, `failed` and `best`.
    """

    @DBOS.step(name="tune.snapshot")
    def snapshot_step(request: str, job: str) -> str:
        with workplace(site) as place:
            return take_snapshot(place, TuningRequest.from_json(request).training, job)

    @DBOS.step(name="tune.search")
    def search_step(request: str, job: str) -> dict[str, Any]:
        with workplace(site) as place:
            return _search(site, place, TuningRequest.from_json(request), job)

    @DBOS.workflow(name=WORKFLOW)
    def workflow(request: str, requested_by: str) -> dict[str, Any]:
        job = str(DBOS.workflow_id)
        protocol = TuningRequest.from_json(request).training.protocol
        report_progress({"stage": "snapshot", "protocol": protocol, "requested_by": requested_by})
        snapshot_step(request, job)
        outcome: dict[str, Any] = search_step(request, job)
        return outcome


def start_tuning(jobs: Jobs, request: TuningRequest, requested_by: str) -> str:
    """Ask for a tuning and return its job's id; it waits in the queue of trainings."""
    job = f"tune-{request.training.protocol}-{uuid.uuid4().hex[:12]}"
    return jobs.start(WORKFLOW, TRAINING_QUEUE, job, request=request.as_json(), requested_by=requested_by)


def storage_url(site: Site, storage: str) -> str:
    """Where the studies are; raises `TuningError` for a database with other tables, or with a password in its URL."""
    if not storage:
        return f"sqlite:///{site.root / 'tuning.db'}"
    parsed = parse_url(storage)
    if parsed.password is not None:
        raise TuningError("the tuning's database is given with a password; give that in PGPASSWORD or ~/.pgpass")
    if parsed in (parse_url(url) for url in (site.database_url, site.jobs_url, site.tracking_uri)):
        raise TuningError(
            "the tuning's database is one of the site's others; Optuna needs one, or a schema, of its own"
        )
    return storage


def _search(site: Site, place: Workplace, request: TuningRequest, job: str) -> dict[str, Any]:
    work = TrainingJob(place, job)
    with work.running() as run:
        job_watch.tell({"stage": "preparing", "cases": len(work.snapshot.cases)})
        plan = base_plan(place, job)
        space = read_space(plan, request.space, request.changes)
        search = Search(
            name=_study_name(work, plan, space),
            storage=storage_url(site, request.storage),
            plan=plan,
            space=space,
            trials=request.trials,
            pruning=request.pruning,
        )
        place.tracking.describe(run, work.snapshot, plan, {"job": job, "study": search.name})
        run.text("space.json", space.as_json())

        def moved(study: optuna.Study, now: Standing) -> None:
            tuning_page.tell_standing(run, search, study, now)
            job_watch.tell(_spoken(search, now))

        found = tune(
            search,
            partial(_open_trainer, site.root, job),
            workers=request.workers,
            tell=moved,
            cancelled=job_watch.watch(),
        )
        tuning_page.tell_found(run, search, open_study(search), found)
        run.close("FINISHED")
    best = work.folder / tuning_page.BEST
    write_durably(best, found.as_json().encode())
    return {"protocol": work.protocol.name, **_outcome(found, run.id, best)}


@contextmanager
def _open_trainer(root: Path, job: str, worker: int) -> Iterator[TrainTrial]:
    """What trains the job's trials in this process; each worker takes one of the machine's GPUs, in turn."""
    compat.mend()
    with workplace(Site(root)) as place:
        device = choose_device(place.device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", worker % torch.cuda.device_count())
        yield partial(train_trial, place, job, device)


def _study_name(work: TrainingJob, plan: Plan, space: Space) -> str:
    """The same for the same question."""
    asked = "\n".join((work.snapshot.digest, plan.as_json(), space.as_json()))
    return f"{work.protocol.name}-{plan.task}-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"


def _spoken(search: Search, now: Standing) -> dict[str, Any]:
    said = {"stage": "tuning", "trial": now.done, "trials": search.trials, "pruned": now.pruned, "failed": now.failed}
    return {**said, "best": now.best_score}


def _outcome(found: Found, run_id: str, file: Path) -> dict[str, Any]:
    return {
        "study": found.study,
        "run_id": run_id,
        "trial": found.standing.best_number,
        "score": found.standing.best_score,
        "finished": found.standing.finished,
        "pruned": found.standing.pruned,
        "failed": found.standing.failed,
        "overrides": dict(found.overrides),
        "file": str(file),
    }
