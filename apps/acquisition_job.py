"""Scoring as a durable job: a protocol in, its waiting cases looked at by the champion and put in order, out.

`register` declares the workflow in a worker; `acquisition_start.py` asks for one. What the champion said of a case is
kept as soon as it said it, so that a job which is taken over goes on with the cases that are left.
"""

import json
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dbos import DBOS

from apps.acquisition_ordering import NO_MODEL, find_cases, order_cases, seed_of
from apps.acquisition_start import WORKFLOW, ScoringRequest
from apps.job_watch import tell, watch
from apps.settings import Site
from apps.training_site import registry_of
from labeling_protocols.case_scores import keep_summary, lacking_summary
from labeling_protocols.channels import ChannelsError
from labeling_protocols.label import LabelError
from labeling_protocols.records import Case
from labeling_protocols.store import Store, UnknownError
from labeling_protocols.volumes import UnreadableVolumeError
from training.acquisition import CaseSummary
from training.acquisition_diversity import image_features
from training.acquisition_evidence import summary_of
from training.bundle import PLAN
from training.inference import Predictor
from training.model_versions import ModelVersion
from training.plan import Plan
from training.stopping import InferenceStopped

_Look = Callable[[Case], CaseSummary]


class ScoringCancelledError(RuntimeError):
    """Somebody cancelled the job; what was said of cases is kept, the worklist's order is as it was."""


def register(site: Site) -> None:
    """Declare the workflow `score(request, requested_by)` for this site in this process.

    Its progress has `stage` (scoring, ordering), `model`, and while it scores `case` of `cases` and how many `failed`;
    its result is `acquisition_ordering.Ordered` as a dict, with `protocol`, `asked`, `model`, `scored` and `failed`.
    """

    @DBOS.step(name="score.cases")
    def score_step(request: str) -> dict[str, Any]:
        with Scoring(site, ScoringRequest.from_json(request)) as scoring:
            return scoring.look_at_cases(tell, watch())

    @DBOS.step(name="score.order")
    def order_step(request: str, model: str, actor: str) -> dict[str, Any]:
        asked = ScoringRequest.from_json(request)
        tell({"stage": "ordering", "model": model, "protocol": asked.protocol})
        store = Store(site.database_url, site.blobs)
        try:
            ordered = order_cases(store, asked.protocol, model, asked.strategy, actor=actor, budget_s=asked.budget_s)
        finally:
            store.close()
        return asdict(ordered)

    @DBOS.workflow(name=WORKFLOW)
    def workflow(request: str, requested_by: str) -> dict[str, Any]:
        scored = score_step(request)
        ordered = order_step(request, scored["model"], str(DBOS.workflow_id))
        asked = json.loads(request)
        return {"protocol": asked["protocol"], "asked": asked["strategy"], **scored, **ordered}


class Scoring:
    """One job's work: the store, and the champion of the moment it began."""

    def __init__(self, site: Site, request: ScoringRequest) -> None:
        self._site, self._request = site, request
        self._store = Store(site.database_url, site.blobs)
        self._registry = registry_of(site)

    def __enter__(self) -> "Scoring":
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()

    def look_at_cases(self, say: Callable[[dict[str, Any]], None], stopped: Callable[[], bool]) -> dict[str, Any]:
        """Have the champion look at every case it has not looked at; `failed` says why some could not be shown.

        Raises `ScoringCancelledError` between two cases.
        """
        champion = self._registry.champion_or_none(self._request.protocol)
        model = champion.name if champion else NO_MODEL
        cases = find_cases(self._store, self._request.protocol)
        left = lacking_summary(self._store, cases.to_look_at, model)
        said = {"stage": "scoring", "protocol": self._request.protocol, "model": model, "cases": len(left)}
        look = self._look(champion, stopped) if left else None
        failed: dict[str, str] = {}
        for number, case_id in enumerate(left):
            say({**said, "case": number, "failed": len(failed)})
            if stopped():
                raise ScoringCancelledError("cancelled; the worklist's order is as it was")
            if look is not None and (reason := self._keep(case_id, model, look)):
                failed[case_id] = reason
        return {"model": model, "scored": len(left) - len(failed), "failed": failed}

    def _keep(self, case_id: str, model: str, look: _Look) -> str:
        """Empty once what was said of the case is kept, else why it could not be shown."""
        try:
            found = look(self._store.case(case_id))
        except InferenceStopped as error:
            raise ScoringCancelledError("cancelled; the worklist's order is as it was") from error
        except (LabelError, UnreadableVolumeError, UnknownError, ChannelsError) as error:
            return str(error.args[0]) if error.args else type(error).__name__
        except Exception as error:  # noqa: BLE001  one case must not end the others; foreign errors' texts may hold identifiers
            last = traceback.extract_tb(error.__traceback__)[-1]
            return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
        keep_summary(self._store, case_id, model, found.as_json())
        return ""

    def _look(self, champion: ModelVersion | None, stopped: Callable[[], bool]) -> _Look:
        """How to look at a case: with the champion's networks, or without any."""
        if champion is None:
            return self._glance
        bundle = self._registry.bundle(champion)
        plan = Plan.from_json(bundle.read(PLAN).decode())
        segmenter = Predictor(bundle, self._site.config.training.device).segmenter
        views, seed = self._site.config.acquisition.views, seed_of(self._request.protocol)

        def look(case: Case) -> CaseSummary:
            return summary_of(
                segmenter,
                self._store.channels(case),
                plan.targets,
                case=case.id,
                views=views,
                seed=seed,
                mirror_axes=plan.mirror_axes,
                digest=case.digest,
                stopped=stopped,
            )

        return look

    def _glance(self, case: Case) -> CaseSummary:
        features = image_features(self._store.image(case))
        return CaseSummary(case=case.id, features=tuple(float(f"{value:.5g}") for value in features))
