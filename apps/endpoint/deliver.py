"""Result files and a destination in, C-STOREs over one association out; an answer other than success is an error."""

import socket
import threading
from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE, evt
from pynetdicom.events import Event

from apps.settings import Destination

_CONNECT_S = 10.0
_ANSWER_S = 60.0

# pynetdicom's client was seen to lose associations with several threads at once: one delivery a process at a time.
_ONE_AT_A_TIME = threading.Lock()


class DeliveryError(RuntimeError):
    """A destination that did not take every object: which, what it answered."""


class AwayError(DeliveryError):
    """A destination that cannot be talked to now, whatever the object."""


def deliver(files: Sequence[Path], destination: Destination, own_ae_title: str) -> None:
    """Send every file to a destination; sending the same objects again is harmless. Raises `DeliveryError`."""
    entity = AE(ae_title=own_ae_title)
    entity.connection_timeout = _CONNECT_S
    entity.acse_timeout = entity.dimse_timeout = _ANSWER_S
    for path in files:
        meta = dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta
        entity.add_requested_context(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
    with _ONE_AT_A_TIME:
        association = entity.associate(
            destination.host,
            destination.port,
            ae_title=destination.ae_title,
            evt_handlers=[(evt.EVT_CONN_OPEN, send_at_once)],
        )
        if not association.is_established:
            raise AwayError(f"{destination.ae_title} at {destination.host}:{destination.port} took no association")
        try:
            for path in files:
                _store(association, path, destination)
        finally:
            association.release()


def send_at_once(event: Event) -> None:
    """Turn Nagle's algorithm off: a DIMSE message leaves in several small writes, each of which would wait 40 ms."""
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _store(association: object, path: Path, destination: Destination) -> None:
    try:
        status = association.send_c_store(dcmread(path))  # type: ignore[attr-defined]
    except (RuntimeError, ValueError) as error:
        raise DeliveryError(f"{destination.ae_title} does not accept this kind of object") from error
    code = status.get("Status")
    # 0x0000 success, 0xBxxx stored with a warning (PS3.4 table B.2-1)
    if code != 0x0000 and (code is None or code >> 12 != 0xB):
        answer = "no answer" if code is None else f"status 0x{code:04X}"
        raise DeliveryError(f"{destination.ae_title} at {destination.host}:{destination.port}: {answer} to a C-STORE")
