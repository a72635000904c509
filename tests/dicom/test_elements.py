"""Stepping over a data set's elements finds what a parser finds, and says where it cannot."""

from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, Sequence, dcmread, dcmwrite
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)

from labeling_protocols.dicom_elements import NotSteppedError, step

_SERIES, _ROWS, _POSITION, _PIXELS = 0x0020000E, 0x00280010, 0x00200032, 0x7FE00010
WANTED = frozenset((_SERIES, _ROWS, _POSITION))

texts = st.text("abc ^", max_size=11)
leaves = st.builds(lambda text: _leaf(text), texts)


def _leaf(text: str) -> Dataset:
    item = Dataset()
    item.PatientComments = text
    item.Rows = 3  # a wanted tag, but not at the top level
    return item


def _holding(items: list[Dataset], *, undefined: bool) -> Dataset:
    held = Dataset()
    held.ReferencedStudySequence = Sequence(items)
    held["ReferencedStudySequence"].is_undefined_length = undefined
    for item in items:
        item.is_undefined_length_sequence_item = undefined
    return held


items = st.recursive(leaves, lambda inner: st.builds(_holding, st.lists(inner, max_size=3), undefined=st.booleans()))


def encoded(image: Dataset, *, implicit: bool) -> bytes:
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = implicit, True
    write_dataset(file, image)
    content: bytes = file.getvalue()
    return content


@given(nested=items, text=texts, implicit=st.booleans(), pixels=st.binary(max_size=40))
def test_wanted_values_and_the_pixels_place_are_found_behind_any_sequences(
    nested: Dataset, text: str, pixels: bytes, *, implicit: bool
) -> None:
    pixels += b"\0" * (len(pixels) % 2)
    image = Dataset()
    image.update(nested)
    image.PatientComments = text
    image.SeriesInstanceUID, image.Rows = "1.2.3", 512
    image.ImagePositionPatient = [1, -2.5, 3]
    image.add_new(_PIXELS, "OW", pixels)
    content = encoded(image, implicit=implicit)
    found = step(content, ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian, WANTED, whole=True)
    assert found.values == {_SERIES: b"1.2.3\0", _ROWS: b"\0\2", _POSITION: b"1.0\\-2.5\\3.0"}
    assert found.pixels is not None
    assert content[found.pixels : found.pixels + found.pixels_length] == pixels


def test_encapsulated_pixels_have_a_place_and_no_length() -> None:
    image = Dataset()
    image.Rows = 4
    head = encoded(image, implicit=False) + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\0\0\0\0"
    found = step(head, JPEGLSLossless, WANTED, whole=False)
    assert (found.pixels, found.pixels_length) == (len(head) - 8, -1)


@pytest.mark.parametrize(
    ("content", "syntax", "whole"),
    [
        (b"", ExplicitVRBigEndian, True),
        (b"", DeflatedExplicitVRLittleEndian, True),
        (b"\x28\0\x10\0US\x02\0\0\2", ExplicitVRLittleEndian, False),  # the pixels may yet come
        (b"\x28\0\x10\0US\x02\0\0", ExplicitVRLittleEndian, True),
        (b"\x28\0\x10\0us\x02\0\0\2", ExplicitVRLittleEndian, True),
        (b"\x28\0\x10\0US\x02\0\0\2" * 2, ExplicitVRLittleEndian, True),
        (b"\x08\0\x11\x11SQ\0\0\xff\xff\xff\xff" * 9, ExplicitVRLittleEndian, True),
        (
            b"\x08\0\x11\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff" * 999,
            ImplicitVRLittleEndian,
            True,
        ),
    ],
)
def test_what_cannot_be_stepped_over_is_said_so(content: bytes, syntax: str, *, whole: bool) -> None:
    with pytest.raises(NotSteppedError):
        step(content, syntax, WANTED, whole=whole)


@given(st.binary(max_size=300), st.sampled_from([ImplicitVRLittleEndian, ExplicitVRLittleEndian]))
def test_no_bytes_make_it_fail_in_another_way(content: bytes, syntax: str) -> None:
    try:
        found = step(content, syntax, WANTED, whole=True)
    except NotSteppedError:
        return
    assert found.pixels is None or found.pixels <= len(content)


@pytest.mark.real_data
def test_headers_of_real_files_are_stepped_over_as_pydicom_parses_them(real_data: Path) -> None:
    stepped = 0
    for path in sorted(real_data.rglob("*.dcm")):
        image = dcmread(path, force=True)
        syntax = str(getattr(image.file_meta, "TransferSyntaxUID", ""))
        file = BytesIO()
        dcmwrite(file, image)
        content = file.getvalue()
        at = 144 + int.from_bytes(content[140:144], "little")
        found = step(content[at:], syntax, WANTED, whole=True)
        stepped += 1
        assert found.values.get(_SERIES, b"").decode().rstrip("\0") == image.get("SeriesInstanceUID", "")
        assert int.from_bytes(found.values.get(_ROWS, b""), "little") == image.get("Rows", 0)
        if found.pixels is not None and found.pixels_length > 0:
            assert content[at + found.pixels :][: found.pixels_length].startswith(image.PixelData)
    assert stepped > 100
