"""The durable job of the endpoint: a complete series in, a segmentation, a report, their delivery and one result out.

Each step can be repeated: the model is chosen once and remembered by the job, UIDs are keyed by series, instances and
model, files are whole or absent, and sending an object twice changes nothing at the destination.
"""

import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbos import DBOS, StepOptions
from dbos import error as dbos_error
from pydicom import Dataset

from apps.dicom_logs import keep_values_out_of_logs
from apps.endpoint.deliver import deliver
from apps.endpoint.inbox import Arrived, Inbox
from apps.endpoint.receiver import WORKFLOW
from apps.endpoint.results import Result, ResultState, record
from apps.settings import Site
from apps.training_site import registry_of
from labeling_protocols.blobs import replacing
from labeling_protocols.dicom_seg import Algorithm, ObjectIdentity, SegError, seg_from_label
from labeling_protocols.dicom_sr import sr_from_label
from labeling_protocols.protocol import Protocol
from labeling_protocols.pseudonyms import keyed_uid
from labeling_protocols.series import SeriesError, read_headers, scan
from labeling_protocols.store import Store, UnknownError
from labeling_protocols.stored_series import read_stored
from training.bundle import BundleError
from training.inference import Predictor
from training.registry import ModelVersion, NoChampionError

_SEG_SERIES_NUMBER, _SR_SERIES_NUMBER = 9001, 9002
_DELIVERY_ATTEMPTS = 6  # after 1, 2, 4, 8 and 16 times the interval
_DELIVERY_INTERVAL_S = 1.0


class _Refused(Exception):  # noqa: N818  not a fault: a series this endpoint does not read, in words
    """A series that is kept and not run; the message says why."""


def register(site: Site) -> None:
    """Declare the workflow to DBOS; called once in the worker before it launches."""
    keep_values_out_of_logs()
    endpoint = _Endpoint(site)

    @DBOS.workflow(name=WORKFLOW)
    def infer_series(series: str, instances: str) -> dict[str, Any]:
        return endpoint.run(series, instances)


class _Endpoint:
    """What the worker keeps between series: the store, the registry and the champion that was loaded last."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._store = Store(site.database_url, site.blobs)
        self._inbox = Inbox(self._store, site.folder("inbox"))
        self._registry = registry_of(site)
        self._loaded: tuple[str, Predictor] | None = None
        self._loading = threading.Lock()

    def run(self, series: str, instances: str) -> dict[str, Any]:
        """The workflow: choose, infer, deliver, record; whatever goes wrong becomes a result that says so."""
        chosen: dict[str, Any] = DBOS.run_step({"name": "choose"}, self._guarded, self._choose, series, instances)
        made = chosen
        if not chosen["state"]:
            made = DBOS.run_step({"name": "infer"}, self._guarded, self._infer, series, instances, chosen["number"])
        outcome = {**chosen, **made}
        if outcome["state"] == ResultState.DONE:
            outcome.update(self._delivered([name for name in (outcome["seg"], outcome["sr"]) if name]))
        DBOS.run_step({"name": "record"}, self._record, series, instances, outcome)
        return outcome

    def _guarded(self, step: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
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

    def _choose(self, series: str, instances: str) -> dict[str, Any]:
        """Which model version reads this series; remembered by the job, so that a repeat uses the same one."""
        protocol = self._store.protocol(self._site.config.dicom.protocol)
        if len(protocol.channels) > 1:
            raise _Refused(
                f"protocol {protocol.name} reads the channels {', '.join(protocol.channels)} together, and series are"
                " run one by one here; kept, not run"
            )
        self._arrived(series, instances, protocol)
        champion = self._registry.champion(protocol.name)
        return {
            "state": "",
            "reason": "",
            "number": champion.number,
            "model": champion.name,
            "bundle": champion.bundle_sha256,
        }

    def _infer(self, series: str, instances: str, number: int) -> dict[str, Any]:
        protocol = self._store.protocol(self._site.config.dicom.protocol)
        version = next(version for version in self._registry.versions(protocol.name) if version.number == number)
        arrived = self._arrived(series, instances, protocol)
        stack = read_stored(arrived.instances)
        label = self._predictor(version).predict(stack.volume)
        sources = read_headers(stack.files)

        def identity(kind: str, number: int) -> ObjectIdentity:
            key = (series, instances, version.name, version.bundle_sha256)
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
        sr = sr_from_label(label, seg, sources, protocol, identity("sr", _SR_SERIES_NUMBER), algorithm)
        return {
            "state": ResultState.DONE.value,
            "seg": self._keep(seg) if seg is not None else None,
            "sr": self._keep(sr),
        }

    def _arrived(self, series: str, instances: str, protocol: Protocol) -> Arrived:
        """The instances this job is for; refuses a set that has changed since, and what the protocol does not read."""
        arrived = self._inbox.arrived(series)
        if arrived is None or arrived.digest != instances:
            raise _Refused("further instances of the series arrived; the newer set is run instead")
        for found in scan(arrived.files):
            if found.modality not in protocol.modality:
                raise _Refused(
                    f"{found.kind} of modality {found.modality or 'unknown'}: protocol {protocol.name} reads"
                    f" {', '.join(protocol.modality)}; kept, not run"
                )
        return arrived

    def _predictor(self, version: ModelVersion) -> Predictor:
        """The version's network, loaded once from its verified bundle."""
        with self._loading:
            if self._loaded is None or self._loaded[0] != version.bundle_sha256:
                bundle = self._registry.bundle(version)
                device = self._site.config.training.device
                self._loaded = (version.bundle_sha256, Predictor(bundle, device))
            return self._loaded[1]

    def _keep(self, instance: Dataset) -> str:
        """Write an object into the results folder, whole or not at all; its name is its (keyed) UID."""
        name = f"{instance.SOPInstanceUID}.dcm"
        path = self._site.folder("results") / name
        if not path.exists():
            with replacing(path) as temporary:
                instance.save_as(temporary, enforce_file_format=True)
        return name

    def _delivered(self, names: list[str]) -> dict[str, Any]:
        """Send the objects to every destination in turn; one that stays away does not keep them from the others."""
        files = [self._site.folder("results") / name for name in names]
        refusals = []
        for destination in self._site.config.dicom.destinations:
            options = StepOptions(
                name=f"deliver to {destination.ae_title}",
                retries_allowed=True,
                interval_seconds=_DELIVERY_INTERVAL_S,
                max_attempts=_DELIVERY_ATTEMPTS,
                backoff_rate=2.0,
            )
            try:
                DBOS.run_step(options, deliver, files, destination, self._site.config.dicom.ae_title)
            except dbos_error.DBOSMaxStepRetriesExceeded as error:
                refusals.append(str(error.errors[-1]))
        if not refusals:
            return {"state": ResultState.DONE.value, "reason": ""}
        reason = f"made and kept, not delivered: {'; '.join(refusals)}"
        return {"state": ResultState.FAILED.value, "reason": reason}

    def _record(self, series: str, instances: str, outcome: dict[str, Any]) -> None:
        arrived = self._inbox.arrived(series)
        record(
            self._store,
            Result(
                series=series,
                study=arrived.study if arrived else "",
                instances=instances,
                state=ResultState(outcome["state"]),
                reason=outcome.get("reason", ""),
                model=outcome.get("model", ""),
                bundle=outcome.get("bundle", ""),
                seg=outcome.get("seg"),
                sr=outcome.get("sr"),
            ),
        )


def _words(error: BaseException) -> str:
    return str(error.args[0]) if error.args else type(error).__name__
