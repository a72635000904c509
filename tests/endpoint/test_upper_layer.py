"""The upper layer takes messages from the wire as PS3.8 has it, and outlives peers that do not."""

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pynetdicom import AE, build_context
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, Verification

from apps.endpoint import dimse
from apps.endpoint.upper_layer import Entity, Listener, Message
from tests.endpoint.peers import free_port

LIMIT_S = 20
ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RP, ABORT = 2, 3, 4, 6, 7
CONTEXTS = [build_context(Verification), build_context(CTImageStorage)]


@dataclass
class Heard:
    """A listener that keeps what it hears."""

    port: int
    messages: list[tuple[Message, bytes]] = field(default_factory=list)

    def answer(self, message: Message) -> bytes:
        content = b"".join(bytes(piece) for piece in message.pieces)
        self.messages.append((message, content))
        return dimse.response(message.command, dimse.SUCCESS)


@contextlib.contextmanager
def listening(**entity: object) -> Iterator[Heard]:
    heard = Heard(port=free_port())
    asked = Entity(ae_title="HERE", contexts=CONTEXTS, **entity)  # type: ignore[arg-type]
    with Listener(asked, heard.answer, "127.0.0.1", heard.port):
        yield heard


@pytest.fixture(scope="module")
def heard() -> Iterator[Heard]:
    with listening() as one:
        yield one


def request_pdu(called: str = "HERE", calling: str = "THERE") -> bytes:
    """An A-ASSOCIATE-RQ for C-ECHO (context 1), CT images (3) and MR images (5), which are not taken here."""
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received, implementation.implementation_class_uid = 16384, "1.2.3"
    asked = A_ASSOCIATE()
    asked.application_context_name = "1.2.840.10008.3.1.1.1"
    asked.called_ae_title, asked.calling_ae_title = called, calling
    contexts = [build_context(abstract) for abstract in (Verification, CTImageStorage, MRImageStorage)]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    asked.presentation_context_definition_list = contexts
    asked.user_information = [length, implementation]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(asked)
    encoded: bytes = pdu.encode()
    return encoded


def element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, number, len(value)) + value


def command(field: int, number: int, *, data_set: bool, sop_class: str = CTImageStorage) -> bytes:
    body = b"".join(
        (
            element(0x0002, sop_class.encode() + b"\0" * (len(sop_class) % 2)),
            element(0x0100, struct.pack("<H", field)),
            element(0x0110, struct.pack("<H", number)),
            element(0x0800, struct.pack("<H", 0 if data_set else 0x0101)),
            element(0x1000, b"1.2.3\0"),
        )
    )
    return element(0, struct.pack("<I", len(body))) + body


def value(context: int, control: int, content: bytes) -> bytes:
    return struct.pack(">IBB", len(content) + 2, context, control) + content


def pdu(*values: bytes) -> bytes:
    content = b"".join(values)
    return struct.pack(">BxI", P_DATA, len(content)) + content


STORE = command(dimse.C_STORE_RQ, 7, data_set=True)
ECHO = command(dimse.C_ECHO_RQ, 8, data_set=False, sop_class=Verification)
RELEASE = struct.pack(">BxIxxxx", 5, 4)


class Caller:
    """A peer that writes bytes of its own choice."""

    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), LIMIT_S)

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(self, content: bytes) -> None:
        self._connection.sendall(content)

    def end(self) -> None:
        self._connection.shutdown(socket.SHUT_WR)

    def answer(self) -> tuple[int, bytes]:
        """The next PDU's type and content; type 0 where the connection has ended."""
        head = self._read(6)
        if len(head) < 6:
            return 0, b""
        kind, length = struct.unpack(">BxI", head)
        return kind, self._read(length)

    def _read(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            piece = self._connection.recv(count - len(content))
            if not piece:
                break
            content += piece
        return content


@contextlib.contextmanager
def associated(port: int) -> Iterator[Caller]:
    with Caller(port) as caller:
        caller.send(request_pdu())
        assert caller.answer()[0] == ASSOCIATE_AC
        yield caller


def is_answered(port: int) -> bool:
    entity = AE(ae_title="THERE")
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", port, ae_title="HERE")
    try:
        return bool(association.is_established and association.send_c_echo().Status == 0)
    finally:
        association.release()


def status_of(answer: tuple[int, bytes]) -> int:
    kind, content = answer
    assert kind == P_DATA
    at = content.index(struct.pack("<HHI", 0, 0x0900, 2)) + 8
    return int.from_bytes(content[at : at + 2], "little")


def test_a_message_may_come_in_any_fragments(heard: Heard) -> None:
    data = bytes(range(256)) * 5
    with associated(heard.port) as caller:
        caller.send(pdu(value(3, 1, STORE[:9])) + pdu(value(3, 3, STORE[9:]), value(3, 0, data[:2])))
        caller.send(pdu(value(3, 0, data[2:700]), value(3, 0, b"")) + pdu(value(3, 2, data[700:])))
        assert status_of(caller.answer()) == 0
        caller.send(pdu(value(1, 3, ECHO)))
        assert status_of(caller.answer()) == 0
        caller.send(RELEASE)
        assert caller.answer()[0] == RELEASE_RP
        assert caller.answer() == (0, b"")
    (stored, content), (echoed, _) = heard.messages[-2:]
    assert content == data
    assert (stored.peer.ae_title, stored.peer.address) == ("THERE", "127.0.0.1")
    assert (stored.abstract_syntax, stored.command.instance, stored.command.message) == (CTImageStorage, "1.2.3", 7)
    assert echoed.command.field == dimse.C_ECHO_RQ


WRONG = {
    "no DICOM": b"GET / HTTP/1.1\r\n\r\n",
    "a request without end": struct.pack(">BxI", 1, 1 << 30),
    "a request of noise": struct.pack(">BxI", 1, 80) + b"\xff" * 80,
}
WRONG_LATER = {
    "a PDU longer than agreed": struct.pack(">BxI", P_DATA, 1 << 31) + b"\0" * 6,
    "a value longer than its PDU": struct.pack(">BxIIBB", P_DATA, 8, 1000, 3, 3) + b"\0" * 8,
    "an empty value": struct.pack(">BxIIBB", P_DATA, 6, 0, 3, 3),
    "a data set without a command": pdu(value(3, 2, b"data")),
    "a command within a data set": pdu(value(3, 3, STORE)) + pdu(value(3, 0, b"data")) + pdu(value(3, 3, STORE)),
    "a data set in another context": pdu(value(3, 3, STORE)) + pdu(value(1, 2, b"data")),
    "a context that was not accepted": pdu(value(5, 3, ECHO)),
    "a context that was not proposed": pdu(value(9, 3, ECHO)),
    "a command of noise": pdu(value(3, 3, b"\xff" * 40)),
    "a command without a message id": pdu(value(3, 3, element(0x0100, b"\1\0"))),
    "a command that does not end": pdu(value(3, 1, b"\0" * 9000)) * 3,
    "another request": request_pdu(),
    "an unknown PDU": struct.pack(">BxIxxxx", 99, 4),
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG.keys())
def test_whoever_does_not_speak_dicom_is_told_and_left(content: bytes, heard: Heard) -> None:
    with Caller(heard.port) as caller:
        caller.send(content)
        assert caller.answer()[0] == ABORT
    assert is_answered(heard.port)


@pytest.mark.parametrize("content", WRONG_LATER.values(), ids=WRONG_LATER.keys())
def test_what_may_not_come_within_an_association_aborts_it(content: bytes, heard: Heard) -> None:
    with associated(heard.port) as caller:
        caller.send(content)
        kind, told = caller.answer()
        assert (kind, told[2]) == (ABORT, 2)  # by the service provider
    assert is_answered(heard.port)


@pytest.mark.parametrize("cut", [3, 20, len(request_pdu()) + 8, len(request_pdu()) + 60])
def test_a_peer_that_hangs_up_leaves_its_place(cut: int) -> None:
    with listening(associations_max=1) as heard:
        with Caller(heard.port) as caller:
            caller.send((request_pdu() + pdu(value(3, 3, STORE)))[:cut])
            caller.end()
            while caller.answer()[0]:
                pass
        assert is_answered(heard.port)
        assert heard.messages[0][0].command.field == dimse.C_ECHO_RQ


@pytest.mark.parametrize(
    ("asked", "reason"),
    [({"called": "ELSEWHERE"}, (1, 1, 7)), ({"calling": "STRANGER"}, (1, 1, 3))],
    ids=["another called title", "a caller who is not on the list"],
)
def test_who_may_not_call_is_told_why(asked: dict[str, str], reason: tuple[int, int, int]) -> None:
    with listening(callers=frozenset({"THERE"})) as heard:
        with Caller(heard.port) as caller:
            caller.send(request_pdu(**asked))
            kind, told = caller.answer()
        assert (kind, tuple(told[1:])) == (ASSOCIATE_RJ, reason)
        assert is_answered(heard.port)


def test_one_association_too_many_is_turned_away_for_now() -> None:
    with listening(associations_max=1) as heard, associated(heard.port):
        with Caller(heard.port) as caller:
            caller.send(request_pdu())
            kind, told = caller.answer()
        assert (kind, tuple(told[1:])) == (ASSOCIATE_RJ, (2, 3, 2))


def test_connections_that_say_nothing_leave_room_for_those_that_do() -> None:
    with listening(associations_max=70) as heard, contextlib.ExitStack() as silent:
        for _ in range(100):
            silent.enter_context(Caller(heard.port))
        assert not is_answered(heard.port), "more connections than associations there may be: turned away"
    with listening(associations_max=70) as heard, contextlib.ExitStack() as silent:
        for _ in range(60):
            silent.enter_context(Caller(heard.port))
        assert is_answered(heard.port)
        for _ in range(200):
            silent.enter_context(Caller(heard.port))


def test_the_end_of_the_listener_ends_its_associations() -> None:
    with listening() as heard:
        caller = Caller(heard.port)
        caller.send(request_pdu())
        assert caller.answer()[0] == ASSOCIATE_AC
    with caller:
        assert caller.answer() == (0, b"")


EXCHANGE = request_pdu() + pdu(value(3, 3, STORE)) + pdu(value(3, 2, b"data")) + pdu(value(1, 3, ECHO)) + RELEASE


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")  # they are meant to be
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.integers(0, len(EXCHANGE) - 1), st.integers(0, 255), min_size=1, max_size=6))
def test_no_changed_byte_keeps_it_from_serving_others(changes: dict[int, int], heard: Heard) -> None:
    content = bytearray(EXCHANGE)
    for place, byte in changes.items():
        content[place] = byte
    with Caller(heard.port) as caller, contextlib.suppress(OSError):  # it may be shut already
        caller.send(bytes(content))
        caller.end()
        while caller.answer()[0]:
            pass
    with associated(heard.port) as caller:
        caller.send(pdu(value(1, 3, ECHO)))
        assert status_of(caller.answer()) == 0
