"""Scorings asked for: a protocol and a strategy in, the id of the job that scores out (`acquisition_job.py`).

By a person at the command line, and by itself where there is a new champion or there are new cases (`ScoringWatch`).
"""

import json
import time
from dataclasses import asdict, dataclass
from functools import cached_property

from apps.acquisition_ordering import NO_MODEL, strategy_of
from apps.jobs import SCORING_QUEUE, Job, Jobs
from apps.settings import Site
from apps.training_site import registry_of
from labeling_protocols.case_scores import open_cases, standing_order
from labeling_protocols.store import Store
from training.acquisition import STRATEGIES, AcquisitionError
from training.registry import Registry

WORKFLOW = "score"
WATCH_EVERY_S = 15.0


@dataclass(frozen=True, kw_only=True)
class ScoringRequest:
    """What to score: `budget_s` is how many seconds of readers' time the first batch may take."""

    protocol: str
    strategy: str
    budget_s: float | None = None

    def as_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ScoringRequest":
        return cls(**json.loads(text))


def start_scoring(jobs: Jobs, store: Store, registry: Registry, request: ScoringRequest, requested_by: str) -> str:
    """Ask for a scoring and return its job's id; one of the same that waits or runs already is the one.

    `requested_by` is the pseudonym of the account that asked. Raises `UnknownError` or `AcquisitionError`.
    """
    newest, following = _attempts(jobs, _job_id(store, registry, request))
    job_id = newest.id if newest is not None and newest.active else following
    return jobs.start(WORKFLOW, SCORING_QUEUE, job_id, request=request.as_json(), requested_by=requested_by)


class ScoringWatch:
    """Starts a scoring wherever there is a champion whose order the worklist does not follow, or there are new cases.

    A job that failed or was cancelled is not started again by itself, and an order that a person gave is left alone.
    """

    def __init__(self, site: Site, store: Store) -> None:
        self._site = site
        self._store = store
        self._jobs: Jobs | None = None
        self._looked_s = time.monotonic()  # not at once: a worker has more urgent things to do when it starts

    def step(self) -> None:
        """Look, unless that was less than `WATCH_EVERY_S` ago."""
        if time.monotonic() - self._looked_s < WATCH_EVERY_S:
            return
        self._looked_s = time.monotonic()
        for protocol in self._store.protocols():
            self.start(protocol.name)

    @cached_property
    def _registry(self) -> Registry:
        return registry_of(self._site)

    def start(self, protocol_name: str) -> str | None:
        """The job that was started; None where nothing is to be done."""
        champion = self._registry.champion_or_none(protocol_name)
        if champion is None or not open_cases(self._store, protocol_name):
            return None
        self._jobs = self._jobs or Jobs(self._site)
        if any(protocol_of(job.id) == protocol_name for job in self._jobs.active(WORKFLOW)):
            return None  # it looks at what there is when it begins; what came later is seen next time
        strategy = strategy_of(self._store.protocol(protocol_name), self._site)
        request = ScoringRequest(protocol=protocol_name, strategy=strategy)
        newest, following = _attempts(self._jobs, _job_id(self._store, self._registry, request))
        if newest is not None and (
            newest.state != "SUCCESS" or not self._follows_another(protocol_name, champion.name)
        ):
            return None
        return self._jobs.start(WORKFLOW, SCORING_QUEUE, following, request=request.as_json(), requested_by="server")

    def _follows_another(self, protocol_name: str, model: str) -> bool:
        """Whether the worklist follows what another model said: this one was champion before, and is again."""
        with self._store.engine.connect() as connection:
            standing = standing_order(connection, protocol_name)
        return standing is not None and standing.model not in (NO_MODEL, model)

    def close(self) -> None:
        if self._jobs is not None:
            self._jobs.close()


def champion_moved(site: Site, store: Store, protocol_name: str) -> str | None:
    """The job that has the new champion look at the waiting cases; None where there is one or nothing waits."""
    watching = ScoringWatch(site, store)
    try:
        return watching.start(protocol_name)
    finally:
        watching.close()


def protocol_of(job_id: str) -> str:
    """The protocol a job is for, from its id `score-<protocol>-<strategy>-…`: no name has a hyphen."""
    return job_id.removeprefix(f"{WORKFLOW}-").partition("-")[0]


def _attempts(jobs: Jobs, first: str) -> tuple[Job | None, str]:
    """The newest job of this id, and the id of the next: the same, then `<id>-2` and so on."""
    newest, following, number = None, first, 1
    while (job := jobs.find(following)) is not None:
        newest, number = job, number + 1
        following = f"{first}-{number}"
    return newest, following


def _job_id(store: Store, registry: Registry, request: ScoringRequest) -> str:
    """What is scored, so that asking twice starts one job: protocol, strategy, champion, number of cases, budget."""
    store.protocol(request.protocol)
    if request.strategy not in STRATEGIES:
        raise AcquisitionError(f"unknown strategy; expected one of {', '.join(STRATEGIES)}. Nothing was started.")
    champion = registry.champion_or_none(request.protocol)
    counts = store.progress(request.protocol)
    parts = [WORKFLOW, request.protocol, request.strategy, f"v{champion.number}" if champion else "no_model"]
    parts.append(str(counts.cases + counts.calibration_cases))
    return "-".join([*parts, *([f"{request.budget_s:g}s"] if request.budget_s is not None else [])])
