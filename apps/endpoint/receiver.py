"""The C-STORE provider: series in over DICOM, durable files and one inference job for each complete series out."""

import argparse
import errno
import hashlib
import json
import logging
import signal
import threading
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from pynetdicom import AllStoragePresentationContexts
from pynetdicom._globals import ALL_TRANSFER_SYNTAXES
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification
from sqlalchemy.exc import OperationalError

from apps.dicom_logs import keep_values_out_of_logs
from apps.endpoint import commitment, dimse
from apps.endpoint.encryption import tls_context
from apps.endpoint.inbox import Announced, Inbox, UnusableInstanceError, remove_left_over
from apps.endpoint.results import has_result
from apps.endpoint.router import Router
from apps.endpoint.upper_layer import Entity, Listener, Message
from apps.jobs import INFERENCE_QUEUE, Jobs
from apps.settings import Site, SiteError
from labeling_protocols.store import Store, now

# pynetdicom's own list of storage classes came to have it only lately.
LABELMAP_SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"

WORKFLOW = "infer_series"

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_POLL_S = 0.25
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
        self._router = Router(site, self._store)
        self._ended = threading.Event()
        self._started: dict[str, datetime] = {}  # series whose newest instance of this moment has a job
        self._watcher = threading.Thread(target=self._watch, name="series watcher", daemon=True)

    def __enter__(self) -> "Receiver":
        config = self._site.config.dicom
        entity = Entity(
            ae_title=config.ae_title,
            contexts=_contexts(),
            callers=frozenset(config.callers),
            associations_max=config.associations_max,
        )
        ports = {config.port: entity}
        if config.tls is not None:
            ports[config.tls.port] = replace(entity, tls=tls_context(self._site, config.tls))
        remove_left_over(self._site.folder("inbox"))
        with ExitStack() as listening:
            for port, heard in ports.items():
                listening.enter_context(self._listener(heard, port))
            self._listening = listening.pop_all()
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._listening.close()
        self._watcher.join()
        self._jobs.close()
        self._store.close()

    def _listener(self, entity: Entity, port: int) -> Listener:
        host = self._site.config.dicom.host
        try:
            return Listener(entity, self._answer, host, port)
        except OSError as error:
            raise ListenError(f"cannot listen on {host}:{port} ({error.strerror}); nothing was started") from error

    def _answer(self, message: Message) -> bytes:
        if message.command.field == dimse.C_ECHO_RQ:
            return dimse.response(message.command, dimse.SUCCESS)
        if message.command.field == dimse.C_STORE_RQ:
            return dimse.response(message.command, *self._store_instance(message))
        if message.command.field == dimse.N_ACTION_RQ and message.abstract_syntax == StorageCommitmentPushModel:
            return dimse.response(message.command, *self._commit_storage(message))
        words = "only C-ECHO, C-STORE and Storage Commitment are answered"
        return dimse.response(message.command, dimse.UNRECOGNIZED_OPERATION, words)

    def _commit_storage(self, message: Message) -> tuple[int, str]:
        """Acknowledge a request for storage commitment once its answer is a durable job."""
        encoded = b""
        for piece in message.pieces:
            encoded += piece
            if len(encoded) > commitment.REQUEST_BYTES_MAX:
                return dimse.PROCESSING_FAILURE, "a request of too many instances; nothing was done"
        try:
            commitment.ask(self._site, self._jobs, message.peer.ae_title, encoded, message.transfer_syntax)
        except commitment.CommitmentError as error:
            return dimse.PROCESSING_FAILURE, str(error)
        return dimse.SUCCESS, ""

    def _store_instance(self, message: Message) -> tuple[int, str]:
        """Acknowledge an instance that is on disk and in the table; otherwise say why it is not."""
        announced = Announced(
            sop_class=message.command.sop_class,
            instance=message.command.instance,
            transfer_syntax=message.transfer_syntax,
            sender=message.peer.ae_title,
        )
        try:
            self._inbox.keep(announced, message.pieces)
        except UnusableInstanceError as error:
            return dimse.CANNOT_UNDERSTAND, str(error)
        except OSError as error:
            if error.errno in _NO_ROOM:
                return dimse.OUT_OF_RESOURCES, "no room on disk; nothing was kept"
            _log.error("an instance could not be written: %s", error.strerror)
            return dimse.OUT_OF_RESOURCES, "the disk refused; nothing was kept"
        except OperationalError as error:
            _log.error("an instance could not be recorded: %s", error.orig)
            return dimse.OUT_OF_RESOURCES, "the database refused; nothing was kept"
        return dimse.SUCCESS, ""

    def _watch(self) -> None:
        """Start a job for each series that has been quiet long enough, from the table alone."""
        newest = self._inbox.newest_since(None)
        looked = now()
        quiet = timedelta(seconds=self._site.config.dicom.quiet_seconds)
        while not self._ended.wait(_POLL_S):
            try:
                since, looked = looked - _LOOK_BACK, now()
                newest |= {
                    series: moment
                    for series, moment in self._inbox.newest_since(since).items()
                    if self._started.get(series) != moment
                }
                self._started = {series: moment for series, moment in self._started.items() if moment >= since}
                for series in [series for series, moment in newest.items() if moment <= now() - quiet]:
                    self._start(series)
                    self._started[series] = newest.pop(series)
            except Exception:  # noqa: BLE001  the watcher must outlive a busy database; it looks again at the next turn
                _log.exception("looking for complete series failed; trying again")

    def _start(self, series: str) -> None:
        arrived = self._inbox.arrived(series)
        if arrived is None:
            return
        job_id = job_id_of(series, arrived.digest)
        if not has_result(self._store, series, arrived.digest) and self._jobs.find(job_id) is None:
            route = self._router.route(arrived)
            self._jobs.start(
                WORKFLOW,
                INFERENCE_QUEUE,
                job_id,
                priority=route["priority"],
                series=series,
                instances=arrived.digest,
                route=json.dumps(route),
            )


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
    except (ListenError, SiteError) as error:
        raise SystemExit(f"endpoint: {error}") from error


def _contexts() -> list[PresentationContext]:
    """Every storage class in every transfer syntax, C-ECHO and Storage Commitment."""
    storage = {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
    classes = sorted(storage | {LABELMAP_SEGMENTATION_STORAGE, str(Verification), str(StorageCommitmentPushModel)})
    return [build_context(abstract_syntax, ALL_TRANSFER_SYNTAXES) for abstract_syntax in classes]
