"""Where elements lie in an encoded data set: its first bytes in, places of wanted values and of the pixels out.

For little-endian data sets as they travel (PS3.5 section 7). It steps over what is not asked for, which takes a tenth
of the time that parsing the header does; what it cannot step over it leaves to a parser.
"""

import struct
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

PIXEL_DATA = 0x7FE00010
# Float and Double Float Pixel Data, which also end a header.
_PIXELS = frozenset((0x7FE00008, 0x7FE00009, PIXEL_DATA))
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_TAG = struct.Struct("<HH")
_EXPLICIT_SHORT = struct.Struct("<HH2sH")
_U32 = struct.Struct("<I")
_IMPLICIT = struct.Struct("<HHI")
_DEPTH_MAX = 32


class NotSteppedError(ValueError):
    """Bytes that this cannot step over: another encoding, no data set, or one whose header does not end in them."""


@dataclass(frozen=True, kw_only=True)
class Elements:
    """Raw values by tag, as bytes; `pixels` is the place of the pixels' value and its length, None where encapsulated
    (a length of -1) is its place too."""

    values: dict[int, bytes]
    pixels: int | None
    pixels_length: int


def step(head: bytes, transfer_syntax: str, wanted: AbstractSet[int], *, whole: bool) -> Elements:
    """The wanted elements at the top level of a data set of which `head` is the beginning, `whole` if it is all of it.

    `pixels` is the offset of the pixel data's value in the data set, None where there is none; `pixels_length` its
    bytes, -1 where they are encapsulated. Raises `NotSteppedError`.
    """
    if transfer_syntax in (ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        raise NotSteppedError(f"transfer syntax {transfer_syntax}")
    explicit = transfer_syntax != ImplicitVRLittleEndian
    values: dict[int, bytes] = {}
    at, last = 0, -1
    try:
        while at < len(head):
            tag, value, length = _element(head, at, explicit)
            if tag <= last:
                raise NotSteppedError("elements that are not in order")
            if tag in _PIXELS:
                encapsulated = length == _UNDEFINED
                return Elements(values=values, pixels=value, pixels_length=-1 if encapsulated else length)
            at = _after(head, value, length, explicit, 0)
            if tag in wanted and length != _UNDEFINED:
                if at > len(head):
                    break
                values[tag] = bytes(head[value:at])
            elif tag in wanted:
                values[tag] = b""
            last = tag
    except struct.error as error:
        raise NotSteppedError("a header that does not end where it was looked at") from error
    if at != len(head) or not whole:
        raise NotSteppedError("a header that does not end where it was looked at")
    return Elements(values=values, pixels=None, pixels_length=0)


def _element(head: bytes, at: int, explicit: bool) -> tuple[int, int, int]:
    """Tag, place of the value, and length of the element at a place."""
    if not explicit:
        group, element, length = _IMPLICIT.unpack_from(head, at)
        return group << 16 | element, at + 8, length
    group, element, vr, length = _EXPLICIT_SHORT.unpack_from(head, at)
    if group == 0xFFFE:  # items and delimiters have no VR
        return group << 16 | element, at + 8, _U32.unpack_from(head, at + 4)[0]
    if vr in _LONG:
        return group << 16 | element, at + 12, _U32.unpack_from(head, at + 8)[0]
    if not (vr.isalpha() and vr.isupper()):
        raise NotSteppedError("a value representation that there is not")
    return group << 16 | element, at + 8, length


def _after(head: bytes, value: int, length: int, explicit: bool, depth: int) -> int:
    """Where the element ends whose value begins here: at its length, or after the items of an undefined one."""
    if length != _UNDEFINED:
        return value + length
    if depth > _DEPTH_MAX:
        raise NotSteppedError("sequences within sequences")
    at = value
    while True:
        tag, at, item_length = _element(head, at, explicit)
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise NotSteppedError("a sequence of something else than items")
        at = at + item_length if item_length != _UNDEFINED else _after_item(head, at, explicit, depth + 1)


def _after_item(head: bytes, at: int, explicit: bool, depth: int) -> int:
    while True:
        tag, value, length = _element(head, at, explicit)
        if tag == _ITEM_END:
            return value
        at = _after(head, value, length, explicit, depth)
