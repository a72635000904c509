"""The C-STORE provider: series in over DICOM, durable files and one inference job for each complete series out."""

import argparse
import errno
import hashlib
import logging
import signal
import threading
from datetime import timedelta
from pathlib import Path

from pydicom import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom._globals import ALL_TRANSFER_SYNTAXES
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification
from sqlalchemy.exc import OperationalError

from apps.dicom_logs import keep_values_out_of_logs
from apps.endpoint.deliver import send_at_once
from apps.endpoint.inbox import Inbox, UnusableInstanceError
from apps.endpoint.results import has_result
from apps.jobs import INFERENCE_QUEUE, Jobs
from apps.settings import Site
from labeling_protocols.store import Store, now

# pynetdicom's own list of storage classes came to have it only lately.
LABELMAP_SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"

WORKFLOW = "infer_series"

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_POLL_S = 0.25
_MAXIMUM_ASSOCIATIONS = 32
# Rows commit in another order than their moments say; look this far back for what was missed.
_LOOK_BACK = timedelta(seconds=30)

_log = logging.getLogger(__name__)


class ListenError(RuntimeError):
    """An address the endpoint cannot listen on; nothing was started."""


class Receiver:
    """A running storage provider with its watcher; use it as a context."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._store = Store(site.database_url, site.blobs)
        self._inbox = Inbox(self._store, site.folder("inbox"))
        self._jobs = Jobs(site)
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="series watcher", daemon=True)

    def __enter__(self) -> "Receiver":
        config = self._site.config.dicom
        entity = _entity(config.ae_title)
        handlers = [
            (evt.EVT_C_ECHO, lambda _: SUCCESS),
            (evt.EVT_C_STORE, self._handle_store),
            (evt.EVT_CONN_OPEN, send_at_once),
        ]
        try:
            self._server = entity.start_server((config.host, config.port), block=False, evt_handlers=handlers)
        except OSError as error:
            where = f"{config.host}:{config.port}"
            raise ListenError(f"cannot listen on {where} ({error.strerror}); nothing was started") from error
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._watcher.join()
        self._jobs.close()
        self._store.close()

    def _handle_store(self, event: Event) -> Dataset:
        """Acknowledge an instance that is on disk and in the table; otherwise say why it is not."""
        try:
            self._inbox.keep(event.encoded_dataset())
        except UnusableInstanceError as error:
            return _status(CANNOT_UNDERSTAND, str(error))
        except OSError as error:
            if error.errno in _NO_ROOM:
                return _status(OUT_OF_RESOURCES, "no room on disk; nothing was kept")
            _log.error("an instance could not be written: %s", error.strerror)
            return _status(OUT_OF_RESOURCES, "the disk refused; nothing was kept")
        except OperationalError as error:
            _log.error("an instance could not be recorded: %s", error.orig)
            return _status(OUT_OF_RESOURCES, "the database refused; nothing was kept")
        return _status(SUCCESS)

    def _watch(self) -> None:
        """Start a job for each series that has been quiet long enough, from the table alone."""
        pending = self._inbox.series_since(None)
        looked = now()
        while not self._ended.wait(_POLL_S):
            try:
                since, looked = looked - _LOOK_BACK, now()
                pending |= self._inbox.series_since(since)
                pending -= {series for series in pending if self._start_when_quiet(series)}
            except Exception:  # noqa: BLE001  the watcher must outlive a busy database; it looks again at the next turn
                _log.exception("looking for complete series failed; trying again")

    def _start_when_quiet(self, series: str) -> bool:
        """Whether nothing more is to be done for this series until another instance comes."""
        arrived = self._inbox.arrived(series, timedelta(seconds=self._site.config.dicom.quiet_seconds))
        if arrived is None:
            return False
        job_id = job_id_of(series, arrived.instances)
        if not has_result(self._store, series, arrived.instances) and self._jobs.find(job_id) is None:
            self._jobs.start(WORKFLOW, INFERENCE_QUEUE, job_id, series=series, instances=arrived.instances)
        return True


def job_id_of(series: str, instances: str) -> str:
    """One job for one set of instances of a series, whoever asks and however often."""
    return f"infer-{hashlib.sha256(f'{series}/{instances}'.encode()).hexdigest()[:32]}"


def main() -> None:
    """Run the endpoint of a site until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="apps.endpoint", description=__doc__)
    parser.add_argument("--site", type=Path, required=True)
    site = Site(parser.parse_args().site)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    keep_values_out_of_logs()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    config = site.config.dicom
    try:
        with Receiver(site):
            print(f"endpoint: ready, {config.ae_title} on {config.host}:{config.port}", flush=True)
            ended.wait()
    except ListenError as error:
        raise SystemExit(f"endpoint: {error}") from error


def _entity(ae_title: str) -> AE:
    entity = AE(ae_title=ae_title)
    entity.require_called_aet = True
    entity.maximum_associations = _MAXIMUM_ASSOCIATIONS
    storage = {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
    for abstract_syntax in sorted(storage | {LABELMAP_SEGMENTATION_STORAGE}):
        entity.add_supported_context(abstract_syntax, ALL_TRANSFER_SYNTAXES)
    entity.add_supported_context(Verification)
    return entity


def _status(code: int, comment: str = "") -> Dataset:
    status = Dataset()
    status.Status = code
    if comment:
        status.ErrorComment = comment[:64]
    return status
