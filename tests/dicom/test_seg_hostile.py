"""Segmentations that lie about themselves end in words, before anything large is made."""

import resource
import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import JPEGLSLosslessEncoder, RLELosslessEncoder
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from labeling_protocols.dicom_seg import SegError, SegForm, label_from_seg, seg_from_label
from labeling_protocols.dicom_seg_file import seg_from_bytes
from labeling_protocols.dicom_seg_pixels import DEFLATED_FRAMES
from labeling_protocols.geometry import Volume
from labeling_protocols.protocol import SHIPPED, load_protocol
from labeling_protocols.series import SeriesError
from tests.dicom.examples import AXIAL, object_of, series_on

PROTOCOL = load_protocol(SHIPPED / "hippocampus.yaml")
LABEL = np.zeros(AXIAL.shape_ZYX, np.uint8)
LABEL[1:3, 1:4, 1:3], LABEL[3, 2:5, 4:7] = 1, 2


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[SegForm, bytes]:
    series = series_on(AXIAL, tmp_path_factory.mktemp("series"))
    label = Volume(array_ZYX=LABEL, geometry=AXIAL)
    return {
        form: bytes_of(seg_from_label(label, series.sources, PROTOCOL, object_of("h"), form=form)) for form in SegForm
    }


def bytes_of(seg: Dataset) -> bytes:
    file = BytesIO()
    dcmwrite(file, seg)
    return file.getvalue()


def first(seg: Dataset, keyword: str) -> Dataset:
    return seg[keyword].value[0]


def without(keyword: str, *path: str) -> Callable[[Dataset], None]:
    def change(seg: Dataset) -> None:
        for step in path:
            seg = first(seg, step)
        delattr(seg, keyword)

    return change


def setting(keyword: str, value: object, *path: str) -> Callable[[Dataset], None]:
    def change(seg: Dataset) -> None:
        for step in path:
            seg = first(seg, step)
        setattr(seg, keyword, value)

    return change


_FRAME, _SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
BAD = {
    "a billion frames": (setting("NumberOfFrames", 10**9), "NumberOfFrames is .*1000000000.*from 1 to"),
    "more frames than are described": (setting("NumberOfFrames", 7), "NumberOfFrames is 7 and 3 frames are described"),
    "no frames": (setting("NumberOfFrames", 0), "NumberOfFrames"),
    "frames of four thousand million pixels": (
        lambda seg: (setattr(seg, "Rows", 65535), setattr(seg, "Columns", 65535)),
        "frames of 65535 × 65535 pixels",
    ),
    "frames of nothing": (setting("Rows", 0), "Rows is .*a number from 1"),
    "pixels that end early": (setting("PixelData", b"\0\0"), "2 bytes of pixel data; 24 were expected for 3 frames"),
    "pixels that go on": (setting("PixelData", bytes(1000)), "1000 bytes of pixel data; 24 were expected"),
    "no pixels": (without("PixelData"), "no pixel data"),
    "no segments": (without("SegmentSequence"), "no Segment Sequence"),
    "no type": (without("SegmentationType"), "segmentation type missing"),
    "no frames described": (without(_FRAME), "0 frames are described"),
    "no place": (without("PlanePositionSequence", _FRAME), "frame 1 has no PlanePositionSequence"),
    "no orientation": (without("PlaneOrientationSequence", _SHARED), "has no PlaneOrientationSequence"),
    "no spacing": (without("PixelSpacing", _SHARED, "PixelMeasuresSequence"), "PixelSpacing is no list of 2"),
    "no spacing at all": (setting("PixelSpacing", [0, 0], _SHARED, "PixelMeasuresSequence"), "are not the image's"),
    "nothing shared": (without(_SHARED), "has no SharedFunctionalGroupsSequence"),
    "a segment nobody describes": (
        setting("ReferencedSegmentNumber", 9, _FRAME, "SegmentIdentificationSequence"),
        "frame 1 .* is of segment 9, which the file does not describe",
    ),
    "no segment": (without("SegmentIdentificationSequence", _FRAME), "has no SegmentIdentificationSequence"),
    "a place that is no number": (
        lambda seg: first(first(seg, _FRAME), "PlanePositionSequence").add_new("ImagePositionPatient", "LO", "a\\b\\c"),
        "ImagePositionPatient is no list of 3 finite numbers",
    ),
    "pixels of 32 bits": (setting("BitsAllocated", 32), "BitsAllocated is"),
    "an unknown transfer syntax": (
        lambda seg: setattr(seg.file_meta, "TransferSyntaxUID", UID("1.2.840.10008.1.2.4.51")),
        "transfer syntax",
    ),
    "values beyond one bit": (
        lambda seg: (
            setattr(seg, "BitsAllocated", 8),
            setattr(seg, "BitsStored", 8),
            setattr(seg, "PixelData", b"\2" * 190),
        ),
        "has the value 2; at most 1",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_segmentation_that_contradicts_itself_is_refused_in_words(what: str, contents: dict[SegForm, bytes]) -> None:
    change, words = BAD[what]
    seg = seg_from_bytes(contents[SegForm.BINARY])
    change(seg)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SegError, match=words):
        label_from_seg(seg, PROTOCOL, AXIAL)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_honest_files_are_read_packed_or_not_and_without_a_preamble(contents: dict[SegForm, bytes]) -> None:
    for form in SegForm:
        plain = contents[form]
        for content in (plain, plain[132:], deflated(plain)):
            assert np.array_equal(label_from_seg(seg_from_bytes(content), PROTOCOL, AXIAL).array_ZYX, LABEL)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_frames_are_read_and_bombs_among_them_are_not(syntax: UID, contents: dict[SegForm, bytes]) -> None:
    seg = seg_from_bytes(contents[SegForm.LABELMAP])
    frames = seg.pixel_array
    seg.file_meta.TransferSyntaxUID = syntax
    packed = [compressed(frame, syntax) for frame in frames]
    seg.PixelData = encapsulate(packed)
    seg["PixelData"].is_undefined_length = True
    content = bytes_of(seg)
    assert np.array_equal(label_from_seg(seg_from_bytes(content), PROTOCOL, AXIAL).array_ZYX, LABEL)
    seg.Rows, seg.Columns = 1, 1
    with pytest.raises(SegError, match="a compressed frame is not of 1 × 1 pixels"):
        label_from_seg(bombed(seg, packed, syntax), PROTOCOL, AXIAL)
    seg.Rows, seg.Columns = 7, 9
    seg.PixelData = encapsulate([frame[: len(frame) // 2] for frame in packed])
    with pytest.raises(SegError, match=r"cannot be decoded|is not of 7 × 9 pixels"):
        label_from_seg(seg, PROTOCOL, AXIAL)
    seg.PixelData = encapsulate(packed[:2])
    with pytest.raises(SegError, match="compressed frames"):
        label_from_seg(seg, PROTOCOL, AXIAL)


def compressed(frame: NDArray[np.uint8], syntax: UID) -> bytes:
    if syntax == JPEG2000Lossless:
        file = BytesIO()
        PIL.Image.fromarray(frame).save(file, "JPEG2000", no_jp2=True, irreversible=False, num_resolutions=1)
        return file.getvalue()
    encoder = {RLELossless: RLELosslessEncoder, JPEGLSLossless: JPEGLSLosslessEncoder}[syntax]
    rows, columns = frame.shape
    options = {"photometric_interpretation": "MONOCHROME2", "samples_per_pixel": 1, "pixel_representation": 0}
    sizes = {"rows": rows, "columns": columns, "bits_allocated": 8, "bits_stored": 8, "number_of_frames": 1}
    return bytes(encoder.encode(frame, **sizes, **options))


def bombed(seg: Dataset, packed: list[bytes], syntax: UID) -> Dataset:
    """RLE has no size of its own: there a frame of a thousand pixels is what unpacks to more than one."""
    if syntax == RLELossless:
        head = struct.pack("<16I", 1, 64, *([0] * 14))
        seg.PixelData = encapsulate([head + b"\x81\x00" * 500 for _ in packed])
    return seg


def test_deflated_frames_are_read_within_their_size(contents: dict[SegForm, bytes]) -> None:
    for form in SegForm:
        seg = seg_from_bytes(contents[form])
        plain = [
            (np.packbits(frame, bitorder="little") if form is SegForm.BINARY else frame).tobytes()
            for frame in seg.pixel_array
        ]
        seg.file_meta.TransferSyntaxUID = UID(DEFLATED_FRAMES)
        seg.PixelData = encapsulate([raw_deflate(frame) for frame in plain])
        assert np.array_equal(label_from_seg(seg, PROTOCOL, AXIAL).array_ZYX, LABEL)
        for bomb in (raw_deflate(bytes(1 << 24)), raw_deflate(b"\0"), b"\xff" * 40):
            seg.PixelData = encapsulate([bomb] * 3)
            with pytest.raises(SegError, match="deflated frame"):
                label_from_seg(seg, PROTOCOL, AXIAL)


def test_a_deflated_file_of_zeros_without_end_costs_little_memory(contents: dict[SegForm, bytes]) -> None:
    content = deflated(contents[SegForm.BINARY], more=bytes(1 << 28))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SegError, match="more than 4,194,304 bytes"):
        seg_from_bytes(content, inflated_max=4 << 20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"DICM",
        b"NRRD0004\ntype: uchar\n\n",
        b"\0" * 132,
        b"\0" * 128 + b"DICM",
        b"\x08\x00" * 3,
        b"PK\x03\x04" * 50,
    ],
)
def test_what_is_no_dicom_file_is_refused(content: bytes) -> None:
    with pytest.raises(SegError):
        seg_from_bytes(content)


def test_sequences_within_sequences_without_end_are_refused() -> None:
    deep = b""
    for _ in range(4000):
        deep += b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    meta = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0"
    content = b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00" + struct.pack("<I", len(meta)) + meta + deep
    with pytest.raises(SegError):
        label_from_seg(seg_from_bytes(content), PROTOCOL, AXIAL)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(data=st.data())
def test_damage_anywhere_is_a_label_or_a_refusal(data: st.DataObject, contents: dict[SegForm, bytes]) -> None:
    content = bytearray(contents[data.draw(st.sampled_from(list(SegForm)))])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(140, len(content))))
    try:
        label = label_from_seg(seg_from_bytes(bytes(content[:end])), PROTOCOL, AXIAL)
    except (SegError, SeriesError):
        return
    assert label.geometry == AXIAL


def deflated(content: bytes, more: bytes = b"") -> bytes:
    """The same file in Deflated Explicit VR Little Endian (PS3.5 A.5)."""
    seg = dcmread(BytesIO(content))
    plain = BytesIO()
    dcmwrite(plain, seg)
    seg.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    start = 144 + struct.unpack_from("<I", plain.getvalue(), 140)[0]
    head = plain.getvalue()[132:start].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    grown = struct.pack("<I", struct.unpack_from("<I", head, 8)[0] + 2)
    head = head[:8] + grown + head[12:].replace(b"\x02\x00\x10\x00UI\x14\x00", b"\x02\x00\x10\x00UI\x16\x00")
    return b"\0" * 128 + b"DICM" + head + raw_deflate(plain.getvalue()[start:] + more)


def raw_deflate(plain: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(plain) + packer.flush()
