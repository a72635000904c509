"""DIMSE command sets: bytes in, what is asked out, and the answer's bytes (PS3.7 section 6.3 and annex E).

They are always Implicit VR Little Endian and hold a handful of elements of group 0000.
"""

import struct
from dataclasses import dataclass

C_STORE_RQ, C_ECHO_RQ, N_ACTION_RQ = 0x0001, 0x0030, 0x0130
_RESPONSE = 0x8000
_NO_DATA_SET = 0x0101

SUCCESS, UNRECOGNIZED_OPERATION, SOP_CLASS_NOT_SUPPORTED = 0x0000, 0x0211, 0x0122
PROCESSING_FAILURE = 0x0110
OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0xA700, 0xC000
_COMMENT_MAX = 64

_ELEMENT = struct.Struct("<HHI")
_US = struct.Struct("<H")
_SOP_CLASS, _REQUESTED_SOP_CLASS, _FIELD, _MESSAGE, _ANSWERED = 0x0002, 0x0003, 0x0100, 0x0110, 0x0120
_DATA_SET_TYPE, _STATUS, _COMMENT = 0x0800, 0x0900, 0x0902
_INSTANCE, _REQUESTED_INSTANCE, _ACTION = 0x1000, 0x1001, 0x1008


class CommandError(ValueError):
    """Bytes that are no command set."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is asked; UIDs as they came, "" where there is none."""

    field: int
    message: int
    sop_class: str
    instance: str
    action: int
    has_data_set: bool


def read_command(content: bytes) -> Command:
    """Raises `CommandError`."""
    elements: dict[int, bytes] = {}
    at = 0
    while at < len(content):
        if at + _ELEMENT.size > len(content):
            raise CommandError("a command set that ends within an element")
        group, element, length = _ELEMENT.unpack_from(content, at)
        at += _ELEMENT.size
        if group or at + length > len(content):
            raise CommandError("a command set with an element that is not its own, or longer than it")
        elements[element] = content[at : at + length]
        at += length
    return Command(
        field=_number(elements, _FIELD),
        message=_number(elements, _MESSAGE),
        sop_class=_uid(elements, _SOP_CLASS) or _uid(elements, _REQUESTED_SOP_CLASS),
        instance=_uid(elements, _INSTANCE) or _uid(elements, _REQUESTED_INSTANCE),
        action=_number(elements, _ACTION, 0),
        has_data_set=_number(elements, _DATA_SET_TYPE) != _NO_DATA_SET,
    )


def response(command: Command, status: int, comment: str = "") -> bytes:
    """The command set that answers, without a data set; `comment` says in at most 64 characters why not."""
    elements = [
        (_SOP_CLASS, _padded(command.sop_class)),
        (_FIELD, _US.pack(command.field | _RESPONSE)),
        (_ANSWERED, _US.pack(command.message)),
        (_DATA_SET_TYPE, _US.pack(_NO_DATA_SET)),
        (_STATUS, _US.pack(status)),
    ]
    if comment:
        elements.append((_COMMENT, comment.encode("ascii", "replace")[:_COMMENT_MAX]))
    if command.instance:
        elements.append((_INSTANCE, _padded(command.instance)))
    if command.field == N_ACTION_RQ:
        elements.append((_ACTION, _US.pack(command.action)))
    body = b"".join(_encoded(*element) for element in elements)
    return _encoded(0, struct.pack("<I", len(body))) + body


def _encoded(element: int, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    return _ELEMENT.pack(0, element, len(value)) + value


def _padded(uid: str) -> bytes:
    return uid.encode("ascii") + b"\0" * (len(uid) % 2)


def _number(elements: dict[int, bytes], element: int, otherwise: int | None = None) -> int:
    value = elements.get(element, b"")
    if len(value) != _US.size:
        if otherwise is not None:
            return otherwise
        raise CommandError(f"a command set without a usable (0000,{element:04X})")
    number: int = _US.unpack(value)[0]
    return number


def _uid(elements: dict[int, bytes], element: int) -> str:
    return elements.get(element, b"").decode("ascii", "replace").rstrip("\0 ")
