"""DICOM's upper layer on the accepting side: a peer's connection in, its messages out, answers back (PS3.8 section 9).

pynetdicom's codec negotiates an association; messages are taken from the wire here, because its own provider spends
1.5 ms of a processor on each, which is more than it takes to write an image durably. A data set is handed on in pieces
as they come, so that a message of any size takes a fixed memory, and every answer leaves in one write.
"""

import contextlib
import logging
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pydicom.uid import UID
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor

from apps.endpoint.dimse import Command, CommandError, read_command

_PDU_MAX = 1 << 18  # bytes of a P-DATA-TF that peers may send; dcmtk sends half of it at most
_COMMAND_MAX = 1 << 14  # bytes of a command set
_ASSOCIATE_MAX = 1 << 18  # bytes of an A-ASSOCIATE-RQ
_REQUEST_S = 30.0  # for the A-ASSOCIATE-RQ to come (ARTIM, PS3.8 section 9.1.5)
_IDLE_S = 300.0
_REQUESTS = 64  # different ones that are remembered
_STRANGERS = 64  # connections beside the associations there may be, to turn away in words

_ASSOCIATE_RQ, _ASSOCIATE_RJ, _P_DATA, _RELEASE_RQ, _RELEASE_RP, _ABORT = 0x01, 0x03, 0x04, 0x05, 0x06, 0x07
_PDU = struct.Struct(">BxI")
_SHORT_PDU = struct.Struct(">BxIxBBB")
_LENGTH = struct.Struct(">I")
_PDV = struct.Struct(">IBB")
_COMMAND, _LAST = 0x01, 0x02  # message control header (PS3.8 annex E.2)
_UNEXPECTED, _INVALID = 2, 6  # reasons of an A-ABORT by the provider (PS3.8 table 9-26)
_REFUSALS = {  # result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)
    "the calling AE title is not one of those that may call": (1, 1, 3),
    "the called AE title is another than this entity's": (1, 1, 7),
    "there are as many associations as there may be": (2, 3, 2),
}
_CALLER, _CALLED, _CROWDED = _REFUSALS

_log = logging.getLogger(__name__)


class ProtocolError(Exception):
    """What a peer may not send: the association is aborted, and nothing of the message is kept."""

    def __init__(self, words: str, reason: int = _UNEXPECTED) -> None:
        super().__init__(words)
        self.reason = reason


class PeerGoneError(Exception):
    """The peer released or aborted the association, hung up, or said nothing for too long."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Who is at the other end: the AE title it gives itself, and its address."""

    ae_title: str
    address: str


@dataclass(frozen=True, kw_only=True)
class Message:
    """What is asked, and the pieces of its data set where there is one; each piece is gone with the next."""

    peer: Peer
    abstract_syntax: str
    transfer_syntax: str
    command: Command
    pieces: Iterator[memoryview]


# A message in, the command set of its answer out. Pieces that are not taken are dropped.
Answer = Callable[[Message], bytes]


@dataclass(frozen=True, kw_only=True)
class Entity:
    """An application entity that is called: as whom, for what, and by whom; by anybody where `callers` is empty."""

    ae_title: str
    contexts: Sequence[PresentationContext]
    callers: frozenset[str] = frozenset()
    associations_max: int = 64
    tls: ssl.SSLContext | None = None


class Listener:
    """A listening entity with a thread for each association. Use it as a context; at its end none is left."""

    def __init__(self, entity: Entity, answer: Answer, host: str, port: int) -> None:
        """Raises `OSError` where the address cannot be listened on."""
        self._entity, self._answer = entity, answer
        self._listening = socket.create_server((host, port), backlog=128)
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._ended = False
        # A sender asks the same each time, and reading 128 contexts takes as long as writing ten images.
        self._request = lru_cache(_REQUESTS)(lambda content: _request(content, entity.contexts))

    def __enter__(self) -> "Listener":
        threading.Thread(target=self._accept, name="DICOM listener", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        _shut(self._listening)
        self._listening.close()
        with self._lock:
            left = dict(self._open)
        for thread, connection in left.items():
            _shut(connection)
            thread.join()

    def _accept(self) -> None:
        while not self._ended:
            try:
                connection, address = self._listening.accept()
            except OSError:
                continue  # a peer that was gone before it was accepted, or the end
            with self._lock:
                if len(self._open) >= self._entity.associations_max + _STRANGERS:
                    connection.close()  # not even told: as many connections have not said yet what they want
                    continue
                thread = threading.Thread(target=self._serve, args=(connection, address[0]), daemon=True)
                self._open[thread] = connection
                thread.start()

    def _serve(self, connection: socket.socket, address: str) -> None:
        try:
            with connection, self._secured(connection) as secured:
                self._associate(_Wire(secured), address)
        except (PeerGoneError, OSError):
            pass  # what was acknowledged is kept, and nothing else was promised
        except Exception:  # noqa: BLE001  one association must not end the others, nor leave its place taken
            _log.exception("an association ended by a fault of this server")
        finally:
            with self._lock:
                del self._open[threading.current_thread()]

    def _secured(self, connection: socket.socket) -> socket.socket:
        """The connection, encrypted where that was asked for; its handshake comes with the first read."""
        if self._entity.tls is None:
            return connection
        secured = self._entity.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._open[threading.current_thread()] = secured
        return secured

    def _associate(self, wire: "_Wire", address: str) -> None:
        try:
            request = self._request(_read_request(wire))
            with self._lock:
                crowded = len(self._open) > self._entity.associations_max
            if refusal := _refusal(self._entity, request, crowded=crowded):
                _log.warning("an association was rejected: %s", refusal)
                wire.send(_SHORT_PDU.pack(_ASSOCIATE_RJ, 4, *_REFUSALS[refusal]))
                return
            wire.send(request.accepting)
            wire.wait_at_most(_IDLE_S)
            messages, peer = _Messages(wire), Peer(ae_title=request.calling, address=address)
            while True:
                self._serve_message(wire, messages, peer, request.contexts)
        except ProtocolError as error:
            _log.warning("an association was aborted: %s", error)
            wire.send(_SHORT_PDU.pack(_ABORT, 4, 0, 2, error.reason))

    def _serve_message(
        self, wire: "_Wire", messages: "_Messages", peer: Peer, contexts: Mapping[int, tuple[str, str]]
    ) -> None:
        number, command = messages.command()
        if number not in contexts:
            raise ProtocolError("a message in a presentation context that was not accepted", _INVALID)
        pieces = messages.data_set(number) if command.has_data_set else iter(())
        abstract, transfer = contexts[number]
        answer = self._answer(
            Message(peer=peer, abstract_syntax=abstract, transfer_syntax=transfer, command=command, pieces=pieces)
        )
        for _ in pieces:
            pass
        wire.send(_PDU.pack(_P_DATA, len(answer) + 6) + _PDV.pack(len(answer) + 2, number, _COMMAND | _LAST) + answer)


class _Wire:
    """A connection whose reads are whole; the kernel does the waiting, so that a read is one call where it can be."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._flags = 0 if isinstance(connection, ssl.SSLSocket) else socket.MSG_WAITALL
        self._connection = connection
        self.wait_at_most(_REQUEST_S)

    def wait_at_most(self, seconds: float) -> None:
        """How long a peer may say nothing, or take nothing."""
        moment = struct.pack("ll", int(seconds), 0)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._connection.setsockopt(socket.SOL_SOCKET, option, moment)

    def read_into(self, view: memoryview) -> None:
        got = 0
        while got < len(view):
            try:
                count = self._connection.recv_into(view[got:], 0, self._flags)
            except OSError as error:  # EAGAIN where it said nothing for too long
                raise PeerGoneError("the connection broke, or the peer said nothing for too long") from error
            if not count:
                raise PeerGoneError("the peer hung up")
            got += count

    def read(self, count: int) -> bytearray:
        content = bytearray(count)
        self.read_into(memoryview(content))
        return content

    def send(self, content: bytes) -> None:
        self._connection.sendall(content)


def _read_request(wire: _Wire) -> bytes:
    head = wire.read(_PDU.size)
    kind, length = _PDU.unpack(head)
    if kind != _ASSOCIATE_RQ or length > _ASSOCIATE_MAX:
        raise ProtocolError(f"a PDU of type {kind:#04x} and {length} bytes where an A-ASSOCIATE-RQ was expected")
    return bytes(head + wire.read(length))


class _Messages:
    """The messages of an association, one after the other."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self._buffer = memoryview(bytearray(_PDU_MAX))
        self._left = 0  # bytes of the present P-DATA-TF

    def command(self) -> tuple[int, Command]:
        """The next message's context and command set."""
        whole = b""
        while True:
            number, control, piece = self._fragment()
            if not control & _COMMAND:
                raise ProtocolError("a data set without a command")
            whole += piece
            if len(whole) > _COMMAND_MAX:
                raise ProtocolError("a command set that does not end", _INVALID)
            if control & _LAST:
                return number, _command(whole)

    def data_set(self, number: int) -> Iterator[memoryview]:
        while True:
            context, control, piece = self._fragment()
            if control & _COMMAND or context != number:
                raise ProtocolError("a data set that is interrupted by another message")
            yield piece
            if control & _LAST:
                return

    def _fragment(self) -> tuple[int, int, memoryview]:
        """Context, message control header and bytes of the next presentation data value (PS3.8 section 9.3.5.1)."""
        if self._left:
            (size,) = _LENGTH.unpack(self._wire.read(4))
        else:
            head = self._wire.read(10)  # no PDU is shorter
            kind, length = _PDU.unpack_from(head)
            if kind != _P_DATA:
                self._end(kind)
            if length > _PDU_MAX:
                raise ProtocolError(f"a PDU of {length} bytes, at most {_PDU_MAX} were agreed on", _INVALID)
            self._left = length
            (size,) = _LENGTH.unpack_from(head, 6)
        if not 2 <= size <= self._left - 4:
            raise ProtocolError("a presentation data value that is longer than its PDU, or empty", _INVALID)
        item = self._buffer[:size]
        self._wire.read_into(item)
        self._left -= size + 4
        return item[0], item[1], item[2:]

    def _end(self, kind: int) -> None:
        if kind == _RELEASE_RQ:
            self._wire.send(_SHORT_PDU.pack(_RELEASE_RP, 4, 0, 0, 0))
        if kind not in (_RELEASE_RQ, _ABORT):
            raise ProtocolError(f"a PDU of type {kind:#04x} inside an association")
        raise PeerGoneError("the association was released or aborted")


def _command(content: bytes) -> Command:
    try:
        return read_command(content)
    except CommandError as error:
        raise ProtocolError(str(error), _INVALID) from error


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What an A-ASSOCIATE-RQ asks: as whom, of whom, in which contexts; and the A-ASSOCIATE-AC for it."""

    calling: str
    called: str
    contexts: Mapping[int, tuple[str, str]]
    accepting: bytes


def _request(content: bytes, supported: Sequence[PresentationContext]) -> _Request:
    try:
        request = A_ASSOCIATE_RQ()
        request.decode(content)
        asked = request.to_primitive()
        results, _ = negotiate_as_acceptor(asked.presentation_context_definition_list, list(supported))
        return _Request(
            calling=str(asked.calling_ae_title).strip(),
            called=str(asked.called_ae_title).strip(),
            contexts={
                one.context_id: (str(one.abstract_syntax), str(one.transfer_syntax[0]))
                for one in results
                if one.result == 0
            },
            accepting=_accepting(asked, results),
        )
    except Exception as error:  # hostile bytes raise anything
        raise ProtocolError(f"an A-ASSOCIATE-RQ that cannot be read ({type(error).__name__})", _INVALID) from error


def _refusal(entity: Entity, request: _Request, *, crowded: bool) -> str:
    """Why whoever asks this may not associate; empty where it may."""
    if request.called != entity.ae_title:
        return _CALLED
    if entity.callers and request.calling not in entity.callers:
        return _CALLER
    return _CROWDED if crowded else ""


def _accepting(asked: A_ASSOCIATE, results: list[PresentationContext]) -> bytes:
    """The A-ASSOCIATE-AC."""
    longest, implementation, version = (
        MaximumLengthNotification(),
        ImplementationClassUIDNotification(),
        ImplementationVersionNameNotification(),
    )
    longest.maximum_length_received = _PDU_MAX
    implementation.implementation_class_uid = PYNETDICOM_IMPLEMENTATION_UID
    version.implementation_version_name = PYNETDICOM_IMPLEMENTATION_VERSION
    accepted = A_ASSOCIATE()
    accepted.application_context_name = UID("1.2.840.10008.3.1.1.1")
    accepted.calling_ae_title, accepted.called_ae_title = asked.calling_ae_title, asked.called_ae_title
    accepted.result, accepted.result_source = 0, 1
    accepted.presentation_context_definition_results_list = results
    accepted.user_information = [longest, implementation, version]
    told = A_ASSOCIATE_AC()
    told.from_primitive(accepted)
    encoded: bytes = told.encode()
    return encoded


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
