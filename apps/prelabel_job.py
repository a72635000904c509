"""Prelabels for a whole worklist as a durable job: a protocol in, its champion's proposal for each case out.

`register` declares the workflow in a worker; `start_prelabelling` asks for one from any process. Each case is a step of
its own: a worker that takes the job over goes on with the next one, and a pause takes effect between two.
"""

import threading
import traceback
import uuid
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from dbos import DBOS
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from sqlalchemy.exc import OperationalError

from apps.jobs import PRELABELLING_QUEUE, Job, Jobs, report_progress
from apps.settings import Site
from apps.training_site import registry_of
from labeling_protocols.channels import ChannelsError
from labeling_protocols.label import Label, LabelError
from labeling_protocols.prelabelling import unproposed
from labeling_protocols.store import Store, UnknownError
from labeling_protocols.volumes import UnreadableVolumeError
from training.bundle import BundleError
from training.inference import Predictor

WORKFLOW = "prelabel"

_RETRY_S, _ATTEMPTS = 1.0, 6  # of a database that is busy or restarts: after 1, 2, 4, 8 and 16 s


class PrelabellingError(ValueError):
    """What cannot be prelabelled, or a job that cannot be changed so: what was found; nothing was changed."""


class Which(StrEnum):
    """The cases to propose for."""

    OPEN = "open"  # those that wait for readers, calibration cases left out
    ALL = "all"


class Proposed(StrEnum):
    """What became of one case."""

    MADE = "made"
    KNOWN = "known"  # somebody opened it in the meantime, and has the same model's proposal
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class PrelabelRequest:
    """`limit` is how many cases at most, the next ones to be read first."""

    protocol: str
    cases: Which = Which.OPEN
    limit: Annotated[int, Field(ge=1)] | None = None

    def as_json(self) -> str:
        return _ADAPTER.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> "PrelabelRequest":
        """Raises `PrelabellingError` naming what cannot be."""
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'request'}: {e['msg']}" for e in error.errors())
            raise PrelabellingError(f"this cannot be prelabelled: {found}. Nothing was started.") from error


_ADAPTER: TypeAdapter[PrelabelRequest] = TypeAdapter(PrelabelRequest)


def register(site: Site) -> None:
    """Declare the workflow `prelabel(request, requested_by)` for this site in this process.

    Its result and its progress have `protocol`, `model`, `cases` (to propose for), `done` of them, how many were
    `made`, how many there were already (`known`), and `failed`: case ids with the reason for each.
    """
    proposing = _Proposing(site)

    @DBOS.step(name="prelabel.choose")
    def choose(request: str) -> dict[str, Any]:
        return proposing.choose(request)

    @DBOS.step(
        name="prelabel.case",
        retries_allowed=True,
        interval_seconds=_RETRY_S,
        max_attempts=_ATTEMPTS,
        backoff_rate=2.0,
    )
    def propose(protocol: str, number: int, case_id: str) -> tuple[str, str]:
        return proposing.propose(protocol, number, case_id)

    @DBOS.workflow(name=WORKFLOW)
    def workflow(request: str, requested_by: str) -> dict[str, Any]:
        chosen = choose(request)
        failed: dict[str, str] = {}
        said = {name: chosen[name] for name in ("protocol", "model", "known")}
        said |= {"cases": len(chosen["cases"]), "done": 0, "made": 0, "failed": failed, "requested_by": requested_by}
        report_progress(said)
        for case_id in chosen["cases"]:
            outcome, reason = propose(chosen["protocol"], chosen["number"], case_id)
            if outcome == Proposed.FAILED:
                failed[case_id] = reason
            else:
                said[outcome] += 1
            said["done"] += 1
            report_progress(said)
        return said


def start_prelabelling(jobs: Jobs, request: PrelabelRequest, requested_by: str) -> str:
    """Ask for prelabels and return the job's id; while another prelabelling runs it waits in the queue.

    `requested_by` is the pseudonym of the account that asked. Whether there is a champion shows when the job begins.
    """
    job = f"{WORKFLOW}-{request.protocol}-{uuid.uuid4().hex[:12]}"
    return jobs.start(WORKFLOW, PRELABELLING_QUEUE, job, request=request.as_json(), requested_by=requested_by)


def pause(jobs: Jobs, job_id: str) -> None:
    """Stop a prelabelling after the case it is at; raises `PrelabellingError` where it neither waits nor runs."""
    job = _known(jobs, job_id)
    if not job.active:
        raise PrelabellingError(f"job {job_id} neither waits nor runs: it is {words_of(job)}. Nothing was changed.")
    jobs.pause(job_id)


def resume(jobs: Jobs, job_id: str) -> None:
    """Go on with a paused prelabelling; raises `PrelabellingError` where it is not paused."""
    job = _known(jobs, job_id)
    if not job.paused:
        raise PrelabellingError(f"job {job_id} is not paused: it is {words_of(job)}. Nothing was changed.")
    jobs.resume(job_id, PRELABELLING_QUEUE)


def cancel(jobs: Jobs, job_id: str) -> None:
    """End a prelabelling after the case it is at, and keep what was made; raises `PrelabellingError` if it ended."""
    job = _known(jobs, job_id)
    if not (job.active or job.paused):
        raise PrelabellingError(f"job {job_id} has ended: it is {words_of(job)}. Nothing was changed.")
    if job.paused:
        jobs.end_paused(job_id)
    else:
        jobs.cancel(job_id)


def words_of(job: Job) -> str:
    """A job's state in one word."""
    return "paused" if job.paused else _STATES.get(job.state, "failed")


def protocol_of(job: Job) -> str:
    """The protocol a job is for, from its id `prelabel-<protocol>-<random>`."""
    return job.id.removeprefix(f"{WORKFLOW}-").rpartition("-")[0]


def outcome_of(jobs: Jobs, job: Job) -> Mapping[str, Any]:
    """What the job said last, as `register` has it; nothing before it began."""
    said = job.result if job.result is not None else jobs.progress(job.id)
    return said if isinstance(said, dict) else {}


_STATES = {
    "ENQUEUED": "waiting",
    "DELAYED": "waiting",
    "PENDING": "running",
    "SUCCESS": "done",
    "CANCELLED": "cancelled",
}


def _known(jobs: Jobs, job_id: str) -> Job:
    job = jobs.find(job_id)
    if job is None or job.name != WORKFLOW:
        raise PrelabellingError("there is no such prelabelling; `overread prelabel --list` names them")
    return job


class _Proposing:
    """What the worker keeps between cases: the store, the registry and the model that was loaded last."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._store = Store(site.database_url, site.blobs)
        self._registry = registry_of(site)
        self._loaded: tuple[tuple[str, int], Predictor] | None = None
        # A job that is paused and resumed while it is at a case meets itself: the second waits, and finds it done.
        self._one_at_a_time = threading.Lock()

    def choose(self, request: str) -> dict[str, Any]:
        """The champion and the cases without its prelabel, remembered by the job; raises `NoChampionError`."""
        asked = PrelabelRequest.from_json(request)
        champion = self._registry.champion(asked.protocol)
        left = unproposed(
            self._store, asked.protocol, champion.name, open_only=asked.cases is Which.OPEN, limit=asked.limit
        )
        return {
            "protocol": asked.protocol,
            "number": champion.number,
            "model": champion.name,
            "cases": list(left.cases),
            "known": left.known,
        }

    def propose(self, protocol: str, number: int, case_id: str) -> tuple[str, str]:
        """Propose for one case and keep it; a case that cannot be proposed for becomes a value with its reason."""
        try:
            with self._one_at_a_time:
                return self._propose(protocol, number, case_id), ""
        except OperationalError:
            raise  # the database is busy or restarts: it is no case's fault, and the step is tried again
        except (LabelError, UnreadableVolumeError, UnknownError, BundleError, ChannelsError) as error:
            return Proposed.FAILED, str(error.args[0]) if error.args else type(error).__name__
        except Exception as error:  # noqa: BLE001  one case must not end the others; foreign errors' texts may hold identifiers
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            return Proposed.FAILED, f"{type(error).__name__} at {where}; nothing was proposed"

    def _propose(self, protocol: str, number: int, case_id: str) -> Proposed:
        predictor = self._predictor(protocol, number)
        if self._store.prelabel(case_id, predictor.name) is not None:
            return Proposed.KNOWN
        images = self._store.channels(self._store.case(case_id))
        self._store.save_prelabel(case_id, predictor.name, Label.of(predictor.predict(images)))
        return Proposed.MADE

    def _predictor(self, protocol: str, number: int) -> Predictor:
        """The version's networks, loaded once from its verified bundle."""
        if self._loaded is None or self._loaded[0] != (protocol, number):
            bundle = self._registry.bundle(self._registry.version(protocol, number))
            self._loaded = ((protocol, number), Predictor(bundle, self._site.config.training.device))
        return self._loaded[1]
