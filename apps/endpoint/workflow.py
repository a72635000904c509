"""The durable job of the endpoint: a complete series and its route in, a result of each version that reads it out.

Each step can be repeated: the versions are chosen once and remembered by the job, UIDs are keyed by series, instances
and model, files are whole or absent, and a result is recorded once, together with where it is to go.
"""

import json
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dbos import DBOS, StepOptions
from pydicom import Dataset, dcmread

from apps.dicom_logs import keep_values_out_of_logs
from apps.endpoint.inbox import Arrived, Inbox
from apps.endpoint.results import Result, ResultState, predecessor, record
from apps.settings import Site
from apps.training_site import registry_of
from labeling_protocols.blobs import replacing
from labeling_protocols.dicom_seg import Algorithm, ObjectIdentity, SegError, seg_from_label
from labeling_protocols.dicom_sr import sr_from_label
from labeling_protocols.protocol import Protocol
from labeling_protocols.pseudonyms import keyed_uid
from labeling_protocols.series import SeriesError, read_headers, scan
from labeling_protocols.store import Store, UnknownError, now
from labeling_protocols.stored_series import read_stored
from training.bundle import BundleError
from training.inference import Predictor
from training.registry import ModelVersion, NoChampionError
from training.release_stage import Stage
from training.release_stages import released

WORKFLOW = "infer_series"

_SEG_SERIES_NUMBER, _SR_SERIES_NUMBER = 9001, 9002
_MODELS_KEPT = 4  # loaded at the same time

_Outcome = dict[str, Any]


class _Refused(Exception):  # noqa: N818  not a fault: a series this endpoint does not read, in words
    """A series that is kept and not run; the message says why."""


def register(site: Site) -> None:
    """Declare the workflow to DBOS; called once in the worker before it launches."""
    keep_values_out_of_logs()
    endpoint = _Endpoint(site)

    @DBOS.workflow(name=WORKFLOW)
    def infer_series(series: str, instances: str, route: str = "") -> _Outcome:
        return endpoint.run(series, instances, json.loads(route) if route else {})


class _Endpoint:
    """What the worker keeps between series: the store, the registry and the models that were loaded last."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._store = Store(site.database_url, site.blobs)
        self._inbox = Inbox(self._store, site.folder("inbox"))
        self._registry = registry_of(site)
        self._loaded: dict[str, Predictor] = {}
        self._loading = threading.Lock()

    def run(self, series: str, instances: str, route: Mapping[str, Any]) -> _Outcome:
        """The workflow: choose, then infer and record for each version; whatever goes wrong becomes a result."""
        chosen: _Outcome = DBOS.run_step({"name": "choose"}, self._guarded, self._choose, series, instances, route)
        if chosen["state"]:
            DBOS.run_step({"name": "record"}, self._record, series, instances, route, chosen)
            return {"results": [chosen]}
        made = []
        for run in chosen["runs"]:
            step = StepOptions(name=f"infer {run['model']}")
            outcome = {**run, **DBOS.run_step(step, self._guarded, self._infer, series, instances, run)}
            DBOS.run_step({"name": f"record {run['model']}"}, self._record, series, instances, route, outcome)
            made.append(outcome)
        return {"results": made}

    def _guarded(self, step: Callable[..., _Outcome], *arguments: Any) -> _Outcome:
        """A step whose failures are values: state and reason, in words that carry no identifier."""
        try:
            return step(*arguments)
        except (_Refused, SeriesError, SegError, NoChampionError, UnknownError) as error:
            return {"state": ResultState.REFUSED.value, "reason": _words(error)}
        except BundleError as error:
            return {"state": ResultState.FAILED.value, "reason": _words(error)}
        except Exception as error:  # noqa: BLE001  becomes the result's state; the text of foreign errors may hold identifiers
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            return {"state": ResultState.FAILED.value, "reason": f"{type(error).__name__} at {where}; nothing was sent"}

    def _choose(self, series: str, instances: str, route: Mapping[str, Any]) -> _Outcome:
        """Which model versions read this series; remembered by the job, so that a repeat uses the same ones."""
        if error := route.get("error"):
            return {"state": ResultState.FAILED.value, "reason": f"{error} Kept, not run."}
        arrived = self._arrived(series, instances)
        self._refuse_own(arrived)
        names = route.get("models", [self._site.config.dicom.protocol])
        if not names:
            raise _Refused(f"{'; '.join(route['reasons'])}. Kept, not run.")
        runs = []
        for protocol in map(self._store.protocol, names):
            _require_readable(protocol, arrived)
            readers = released(self._registry, protocol.name).readers_of(arrived.study)
            if not readers:
                self._registry.champion(protocol.name)  # says in words that there is none
            runs += [
                {
                    "protocol": protocol.name,
                    "number": version.number,
                    "model": version.name,
                    "bundle": version.bundle_sha256,
                    "stage": stage.value,
                }
                for stage, version in readers
            ]
        return {"state": "", "reason": "", "runs": runs}

    def _infer(self, series: str, instances: str, run: Mapping[str, Any]) -> _Outcome:
        began = time.monotonic()
        protocol = self._store.protocol(run["protocol"])
        version = self._registry.version(protocol.name, run["number"])
        arrived = self._arrived(series, instances)
        waited_s = (now() - arrived.newest).total_seconds()
        stack = read_stored(arrived.instances)
        read = time.monotonic()
        predictor = self._predictor(version)
        loaded = time.monotonic()
        label = predictor.predict(stack.volume)
        predicted = time.monotonic()
        sources = read_headers(stack.files)
        key = (series, instances, version.name, version.bundle_sha256)

        def identity(kind: str, number: int) -> ObjectIdentity:
            return ObjectIdentity(
                series_uid=keyed_uid(self._site.secret, f"{kind} series", *key),
                instance_uid=keyed_uid(self._site.secret, f"{kind} instance", *key),
                series_number=number,
            )

        name, release = version.name.rsplit(" ", 1)
        device_uid = keyed_uid(self._site.secret, "device", version.name, version.bundle_sha256)
        algorithm = Algorithm(name=name, version=release, device_uid=device_uid)
        seg = None
        if label.array_ZYX.any():
            seg = seg_from_label(label, sources, protocol, identity("seg", _SEG_SERIES_NUMBER), algorithm=algorithm)
        report = sr_from_label(
            label,
            seg,
            sources,
            protocol,
            identity("sr", _SR_SERIES_NUMBER),
            algorithm,
            previous=self._previous(series, instances, protocol.name),
        )
        kept = {"seg": self._keep(seg) if seg is not None else None, "sr": self._keep(report)}
        seconds = {
            "waited": waited_s,
            "reading": read - began,
            "loading": loaded - read,
            "network": predicted - loaded,
            "writing": time.monotonic() - predicted,
        }
        return {"state": ResultState.DONE.value, **kept, "seconds": {k: round(v, 4) for k, v in seconds.items()}}

    def _arrived(self, series: str, instances: str) -> Arrived:
        """The instances this job is for; refuses a set that has changed since."""
        arrived = self._inbox.arrived(series)
        if arrived is None or arrived.digest != instances:
            raise _Refused("further instances of the series arrived; the newer set is run instead")
        return arrived

    def _refuse_own(self, arrived: Arrived) -> None:
        """Nothing that this endpoint made comes in again as something to be read."""
        results = self._site.folder("results")
        if any((results / f"{uid}.dcm").exists() for uid in arrived.uids):
            raise _Refused("a result of this endpoint that came back; kept, not run")

    def _previous(self, series: str, instances: str, protocol: str) -> Dataset | None:
        """The report on an earlier set of the same series, where there is one."""
        found = predecessor(self._store, series, instances, protocol)
        path = self._site.folder("results") / str(found.sr) if found is not None else None
        return dcmread(path) if path is not None and path.exists() else None

    def _predictor(self, version: ModelVersion) -> Predictor:
        """The version's network, loaded once from its verified bundle while it is among the last ones used."""
        with self._loading:
            predictor = self._loaded.pop(version.bundle_sha256, None)
            if predictor is None:
                predictor = Predictor(self._registry.bundle(version), self._site.config.training.device)
            self._loaded[version.bundle_sha256] = predictor
            while len(self._loaded) > _MODELS_KEPT:
                del self._loaded[next(iter(self._loaded))]
            return predictor

    def _keep(self, instance: Dataset) -> str:
        """Write an object into the results folder, whole or not at all; its name is its (keyed) UID."""
        name = f"{instance.SOPInstanceUID}.dcm"
        path = self._site.folder("results") / name
        if not path.exists():
            with replacing(path) as temporary:
                instance.save_as(temporary, enforce_file_format=True)
        return name

    def _record(self, series: str, instances: str, route: Mapping[str, Any], outcome: _Outcome) -> None:
        arrived = self._inbox.arrived(series)
        stage = Stage(outcome.get("stage", Stage.LIVE))
        destinations = [one.ae_title for one in self._site.config.dicom.destinations] if stage != Stage.SHADOW else []
        record(
            self._store,
            Result(
                series=series,
                study=arrived.study if arrived else "",
                instances=instances,
                state=ResultState(outcome["state"]),
                reason=outcome.get("reason", ""),
                protocol=outcome.get("protocol", ""),
                model=outcome.get("model", ""),
                bundle=outcome.get("bundle", ""),
                stage=stage,
                rule=route.get("rule", ""),
                priority=route.get("priority", Result.priority),
                seg=outcome.get("seg"),
                sr=outcome.get("sr"),
                seconds=outcome.get("seconds", {}),
            ),
            destinations,
        )


def _require_readable(protocol: Protocol, arrived: Arrived) -> None:
    """Refuse what a protocol's models cannot read, whatever a rule says."""
    if len(protocol.channels) > 1:
        raise _Refused(
            f"protocol {protocol.name} reads the channels {', '.join(protocol.channels)} together, and series are"
            " run one by one here; kept, not run"
        )
    for found in scan(arrived.files[:1]):  # Modality is the series' (PS3.3 C.7.3.1)
        if found.modality not in protocol.modality:
            raise _Refused(
                f"{found.kind} of modality {found.modality or 'unknown'}: protocol {protocol.name} reads"
                f" {', '.join(protocol.modality)}; kept, not run"
            )


def _words(error: BaseException) -> str:
    return str(error.args[0]) if error.args else type(error).__name__
