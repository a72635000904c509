"""dcmqi (3D Slicer's library) and highdicom read what we write, we read what they write, and validators are content."""

from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from labeling_protocols import dicom_seg_frames as frames
from labeling_protocols.dicom_seg import SegForm, as_evidence, label_from_seg, seg_from_label
from labeling_protocols.dicom_seg_file import seg_from_bytes
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.series import Series
from tests.conftest import OBLIQUE
from tests.dicom.examples import (
    ANISOTROPIC,
    AXIAL,
    SAGITTAL,
    dciodvfy_errors,
    dicom_validator_errors,
    object_of,
    outlining,
    read_by_dcmqi,
    series_on,
    structure,
    write_by_dcmqi,
)

LIVER = structure("liver", 1, ("10200004", "SCT"))
LEFT, RIGHT = (
    structure(f"{side}_kidney", value, ("64033007", "SCT"), (code, "SCT"))
    for side, value, code in (("left", 2, "7771000"), ("right", 9, "24028007"))
)
TUMOUR = structure("tumour", 4, ("108369006", "SCT"))


@dataclass(frozen=True)
class Example:
    """A series, and a label with structures on it; what has no voxels in it is absent."""

    series: Series
    protocol: Protocol
    label: Label


CASES = ("axial", "oblique", "flipped", "gapped", "overlapping", "one structure", "absent")
_GRIDS = {"axial": AXIAL, "oblique": OBLIQUE, "flipped": SAGITTAL}


@pytest.fixture(scope="module", params=CASES)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    return example_of(request.param, tmp_path_factory.mktemp("example"))


def example_of(case: str, folder: Path) -> Example:
    """Blobs without any symmetry, with empty first and last slices; gapped: 2.5 mm thick slices at a pitch of 4 mm,
    with a slice in between that has nothing on it."""
    grid = _GRIDS.get(case, ANISOTROPIC)
    series = series_on(
        grid, folder, shuffle=4, flipped=case == "flipped", thickness_mm=2.5 if case == "gapped" else None
    )
    layers = np.zeros((2 if case == "overlapping" else 1, *series.volume.geometry.shape_ZYX), np.uint8)
    layers[0, 1:3, 1:4, 1:3] = LIVER.value
    layers[0, 2, 1, 1] = 0
    if case != "absent":
        layers[0, 3, 2:5, 4:7] = LEFT.value
    if case == "gapped":
        layers[0, 2] = 0
    if case == "overlapping":
        layers[1, 1, 2:6, 0:5] = TUMOUR.value
    structures = (LIVER,) if case == "one structure" else (LIVER, RIGHT, LEFT, TUMOUR)
    if case == "one structure":
        layers[layers != LIVER.value] = 0
    return Example(
        series=series,
        protocol=outlining(*structures, overlaps=case == "overlapping"),
        label=Label(geometry=series.volume.geometry, layers_LZYX=layers),
    )


def written(example: Example, folder: Path, form: SegForm = SegForm.BINARY) -> Path:
    folder.mkdir(exist_ok=True)
    sources, protocol = example.series.sources, example.protocol
    seg = seg_from_label(example.label, sources, protocol, object_of("interop"), creator="me", form=form)
    seg.save_as(folder / "seg.dcm")
    return folder / "seg.dcm"


def test_dcmqi_and_we_find_the_same_voxels_in_what_we_write(example: Example, tmp_path: Path) -> None:
    path = written(example, tmp_path)
    geometry = example.label.geometry
    theirs = read_by_dcmqi(path, tmp_path / "dcmqi", geometry)
    ours = label_from_seg(dcmread(path), example.protocol, example.series.sources)
    assert set(theirs) == {found.title for found in example.protocol.outlined}
    for found in example.protocol.outlined:
        assert np.array_equal(theirs[found.title], example.label.mask_ZYX(found.value)), found.name
        assert np.array_equal(ours.mask_ZYX(found.value), example.label.mask_ZYX(found.value)), found.name


def test_highdicom_finds_the_same_voxels_for_each_slice_and_segment(example: Example, tmp_path: Path) -> None:
    theirs = hd.seg.segread(written(example, tmp_path)).get_pixels_by_source_instance(
        [str(source.SOPInstanceUID) for source in example.series.sources], assert_missing_frames_are_empty=True
    )
    for k, found in enumerate(example.protocol.outlined):
        assert np.array_equal(theirs[..., k], example.label.mask_ZYX(found.value)), found.name


def test_dciodvfy_finds_no_error(example: Example, tmp_path: Path) -> None:
    assert dciodvfy_errors(written(example, tmp_path)) == []


def test_dicom_validator_finds_no_error(example: Example, tmp_path: Path) -> None:
    assert dicom_validator_errors(written(example, tmp_path)) == ""


def test_the_bytes_are_those_of_highdicom_but_for_times_and_new_uids(example: Example, tmp_path: Path) -> None:
    """highdicom writes each frame's items itself; here they are put together as bytes."""
    for form in SegForm:
        if form is SegForm.LABELMAP and len(example.label.layers_LZYX) > 1:
            continue
        ours = dcmread(written(example, tmp_path / form.value, form))
        theirs = by_highdicom(example, form)
        theirs.save_as(tmp_path / "theirs.dcm")
        theirs = dcmread(tmp_path / "theirs.dcm")
        assert functional_groups(ours) == functional_groups(theirs)
        odd = int(ours.NumberOfFrames) * int(ours.Rows) * int(ours.Columns) * int(ours.BitsAllocated) // 8 % 2
        assert ours.PixelData[: -odd or None] == theirs.PixelData[: -odd or None]  # highdicom fills up with a "0"
        named = {element.keyword for element in (*ours, *theirs) if ours.get(element.tag) != theirs.get(element.tag)}
        assert named <= {
            *("InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime"),
            *("DimensionOrganizationSequence", "DimensionIndexSequence"),  # a new UID
            *("ContributingEquipmentSequence", "PixelData"),  # the hour, and as above
        }


def test_we_find_the_voxels_that_dcmqi_wrote(example: Example, tmp_path: Path) -> None:
    """A layer an image, for dcmqi as for us; deflated, and as a label map where nothing overlaps."""
    layers = [Volume(array_ZYX=layer, geometry=example.label.geometry) for layer in example.label.layers_LZYX]
    ways = [("--compress", "deflate")] + ([("--segmentationType", "labelmap")] if len(layers) == 1 else [])
    for options in ways:
        path = write_by_dcmqi(layers, example.protocol, example.series, tmp_path / options[1], *options)
        found = label_from_seg(seg_from_bytes(path.read_bytes()), example.protocol, example.series.sources)
        for drawn in example.protocol.outlined:
            assert np.array_equal(found.mask_ZYX(drawn.value), example.label.mask_ZYX(drawn.value)), options


@pytest.mark.parametrize("form", SegForm)
def test_we_find_the_voxels_that_highdicom_wrote(example: Example, form: SegForm) -> None:
    if form is SegForm.LABELMAP and len(example.label.layers_LZYX) > 1:
        form = SegForm.BINARY
    found = label_from_seg(by_highdicom(example, form), example.protocol, example.series.sources)
    for drawn in example.protocol.outlined:
        assert np.array_equal(found.mask_ZYX(drawn.value), example.label.mask_ZYX(drawn.value))


def test_dcmqi_finds_the_same_voxels_in_a_label_map(tmp_path: Path) -> None:
    """dciodvfy, as Debian has it, does not know the SOP class, so dcmqi and highdicom judge it alone."""
    example = example_of("oblique", tmp_path / "series")
    path = written(example, tmp_path, SegForm.LABELMAP)
    theirs = read_by_dcmqi(path, tmp_path / "dcmqi", example.label.geometry)
    for found in (LIVER, LEFT):
        assert np.array_equal(theirs[found.title], example.label.mask_ZYX(found.value))
    onto = example.series.volume.geometry
    assert np.array_equal(label_from_seg(dcmread(path), example.protocol, onto).array_ZYX, example.label.array_ZYX)


@pytest.mark.parametrize("pixels", [(5, 7), (8, 8)], ids=["no whole bytes", "whole bytes"])
def test_large_labels_are_packed_as_small_ones_are(pixels: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ways to the same bytes: numpy's, and the compiled loops that large volumes go through."""
    random = np.random.default_rng(5)
    layers = (random.integers(0, 5, (2, 6, *pixels)) * (random.random((2, 6, *pixels)) < 0.5)).astype(np.uint8)
    layers[:, 3] = 0
    layers[0, 4] = 3
    values = [3, 1, 2, 4]
    results = []
    for large in (1 << 20, 0):
        monkeypatch.setattr(frames, "_LARGE_VOXELS", large)
        present = frames.present_values(layers)
        drawn = frames.drawn_frames(present[:, values], as_labelmap=False)
        results.append((present.tobytes(), frames.packed_frames(layers, values, drawn)))
    assert results[0] == results[1]


def by_highdicom(example: Example, form: SegForm) -> Dataset:
    """The same label by highdicom's own writer alone, one mask a segment."""
    protocol, identity = example.protocol, object_of("interop")
    masks = np.stack([example.label.mask_ZYX(s.value) for s in protocol.outlined], axis=-1).astype(np.uint8)
    ours = seg_from_label(example.label, example.series.sources, protocol, identity, creator="me", form=form)
    seg = hd.seg.Segmentation(
        source_images=as_evidence(example.series.sources),
        pixel_array=masks,
        segmentation_type=form.value,
        segment_descriptions=[
            hd.seg.SegmentDescription.from_dataset(s) for s in ours.SegmentSequence if "TrackingID" in s
        ],
        series_instance_uid=identity.series_uid,
        series_number=identity.series_number,
        sop_instance_uid=identity.instance_uid,
        instance_number=1,
        manufacturer="Overread",
        manufacturer_model_name=protocol.name,
        software_versions=f"protocol {protocol.version}",
        device_serial_number="none",
        content_label="SEGMENTATION",
        content_description=str(ours.ContentDescription),
        content_creator_name="me^",
    )
    seg.SeriesDescription = protocol.title
    return seg


def functional_groups(seg: Dataset) -> bytes:
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    write_dataset(file, seg[0x52009229:0x52009231])
    return file.getvalue()


def test_the_shipped_protocols_write_what_validates(tmp_path: Path) -> None:
    """Every structure that a protocol of ours outlines, in its own codes and words."""
    for path in sorted(SHIPPED.glob("*.yaml")):
        protocol = load_protocol(path)
        if not protocol.outlined:
            continue
        series = series_on(AXIAL, tmp_path / path.stem)
        layers = np.zeros((1, *AXIAL.shape_ZYX), np.uint8)
        for k, found in enumerate(protocol.outlined):
            layers[0].reshape(-1)[10 * k : 10 * k + 3] = found.value
        example = Example(series, protocol, Label(geometry=AXIAL, layers_LZYX=layers))
        assert dciodvfy_errors(written(example, tmp_path / path.stem)) == [], path.stem
