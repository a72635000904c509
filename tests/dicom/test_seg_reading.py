"""What a segmentation says is mapped by code and place, or refused: names, fractions, other series, other grids."""

from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence

from labeling_protocols.dicom_seg import SegError, SegForm, label_from_seg, read_seg, seg_from_label
from labeling_protocols.dicom_seg_reading import Fraction
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.series import Series
from tests.conftest import OBLIQUE
from tests.dicom.examples import ANISOTROPIC, AXIAL, object_of, outlining, series_on, structure, uid

LIVER = structure("liver", 1, ("10200004", "SCT"))
SPLEEN = structure("spleen", 5, ("78961009", "SCT"))
LEFT, RIGHT = (
    structure(f"{side}_kidney", value, ("64033007", "SCT"), (code, "SCT"))
    for side, value, code in (("left", 2, "7771000"), ("right", 3, "24028007"))
)
ORGANS = outlining(LIVER, SPLEEN)
TISSUE = {"SCT": "85756007", "SRT": "T-D0050"}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    return series_on(AXIAL, tmp_path_factory.mktemp("series"))


def two_organs(geometry: Geometry = AXIAL) -> NDArray[np.uint8]:
    layer = np.zeros(geometry.shape_ZYX, np.uint8)
    layer[1:3, 1:4, 1:3] = LIVER.value
    layer[3, 2:5, 4:7] = SPLEEN.value
    return layer


def seg_of(
    layer: NDArray[np.uint8], series: Series, form: SegForm = SegForm.BINARY, protocol: Protocol = ORGANS
) -> Dataset:
    drawn = Volume(array_ZYX=layer, geometry=series.volume.geometry)
    return seg_from_label(drawn, series.sources, protocol, object_of("reading"), form=form)


def fractional(values: NDArray[np.floating], series: Series, kind: str = "PROBABILITY", most: int = 255) -> Dataset:
    """highdicom's FRACTIONAL segmentation of one mask a segment along the last axis."""
    described = seg_of(two_organs(), series).SegmentSequence
    return hd.seg.Segmentation(
        source_images=list(series.sources),
        pixel_array=values,
        segmentation_type="FRACTIONAL",
        fractional_type=kind,
        max_fractional_value=most,
        segment_descriptions=[hd.seg.SegmentDescription.from_dataset(item) for item in described],
        series_instance_uid=uid("fraction"),
        series_number=1,
        sop_instance_uid=uid("fractions"),
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
    )


# What a segment is


@pytest.mark.parametrize("scheme", TISSUE)
@pytest.mark.parametrize("label", ["spleen", "Spleen"])
def test_a_code_that_only_says_tissue_is_taken_by_the_segments_exact_label(
    scheme: str, label: str, series: Series
) -> None:
    """As OHIF writes them: T-D0050, category and type alike, and the label that the reader sees."""
    seg = seg_of(two_organs(), series)
    say(seg.SegmentSequence[0], "liver", scheme)
    say(seg.SegmentSequence[1], label, scheme)
    seg.SegmentSequence.reverse()  # their order decides nothing
    assert np.array_equal(label_from_seg(seg, ORGANS, series.sources).array_ZYX, two_organs())


@pytest.mark.parametrize("label", ["Segment 1", "SPLEEN", "spleen tip", "", "1"])
def test_any_other_label_with_such_a_code_is_refused(label: str, series: Series) -> None:
    seg = seg_of(two_organs(), series)
    say(seg.SegmentSequence[1], label, "SRT")
    with pytest.raises(SegError, match=r"segment 2 is coded \(T-D0050, SRT\) .*taken by the segment's label"):
        label_from_seg(seg, ORGANS, series.sources)


def test_a_label_never_contradicts_a_code_that_says_something(series: Series) -> None:
    seg = seg_of(two_organs(), series)
    seg.SegmentSequence[0].SegmentLabel, seg.SegmentSequence[1].SegmentLabel = "Spleen", "Liver"
    assert np.array_equal(label_from_seg(seg, ORGANS, series.sources).array_ZYX, two_organs())
    seg.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0].CodeValue = "15776009"  # pancreas
    with pytest.raises(SegError, match=r"coded \(15776009, SCT\)"):
        label_from_seg(seg, ORGANS, series.sources)


def test_a_segment_without_any_code_is_taken_by_its_exact_label(series: Series) -> None:
    seg = seg_of(two_organs(), series)
    for segment in seg.SegmentSequence:
        del segment.SegmentedPropertyTypeCodeSequence, segment.SegmentedPropertyCategoryCodeSequence
    assert np.array_equal(label_from_seg(seg, ORGANS, series.sources).array_ZYX, two_organs())


def test_left_is_not_right_and_a_second_modifier_is_another_thing(series: Series) -> None:
    kidneys = outlining(LEFT, RIGHT)
    layer = np.where(two_organs() == SPLEEN.value, LEFT.value, 0).astype(np.uint8)
    seg = seg_of(layer, series, protocol=kidneys)
    assert np.array_equal(label_from_seg(seg, kidneys, series.sources).array_ZYX, layer)
    modifiers = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    modifiers.append(hd.sr.CodedConcept("261183002", "SCT", "Upper"))
    with pytest.raises(SegError, match=r"modifier \(7771000, SCT\) and \(261183002, SCT\)"):
        label_from_seg(seg, kidneys, series.sources)


def test_the_category_decides_among_structures_of_one_type(series: Series) -> None:
    other = replace(LIVER.category, value="49755003", meaning="Morphologically Altered Structure")
    lesion = replace(LIVER, name="liver_lesion", title="Lesion", value=5, category=other)
    protocol = outlining(LIVER, lesion)
    seg = seg_of(two_organs(), series, protocol=protocol)
    assert np.array_equal(label_from_seg(seg, protocol, series.sources).array_ZYX, two_organs())
    del seg.SegmentSequence[1].SegmentedPropertyCategoryCodeSequence
    with pytest.raises(SegError, match=r"coded .*none"):
        label_from_seg(seg, protocol, series.sources)
    twin = outlining(LIVER, replace(lesion, category=LIVER.category))
    with pytest.raises(SegError, match="as are liver, liver_lesion; nothing tells which"):
        label_from_seg(seg_of(two_organs(), series), twin, series.sources)


# What is absent


def test_an_absent_structure_goes_round_and_round_as_a_statement(series: Series) -> None:
    layer = np.where(two_organs() == LIVER.value, LIVER.value, 0).astype(np.uint8)
    for _ in range(2):
        seg = seg_of(layer, series)
        found = read_seg(seg, ORGANS, series.sources)
        assert (found.empty, found.unstated) == (("spleen",), ())
        layer = found.label.array_ZYX
    assert seg.ContentDescription == "Not present: spleen"
    assert "not present" in seg.SegmentSequence[1].SegmentDescription


@pytest.mark.parametrize("form", SegForm)
def test_nothing_here_is_a_segmentation_too(form: SegForm, series: Series) -> None:
    seg = seg_of(np.zeros(AXIAL.shape_ZYX, np.uint8), series, form)
    assert int(seg.NumberOfFrames) == 1
    found = read_seg(seg, ORGANS, series.sources)
    assert (found.empty, found.unstated, found.label.array_ZYX.any()) == (("liver", "spleen"), (), False)


def test_a_structure_that_no_segment_speaks_of_is_told_from_an_absent_one(series: Series) -> None:
    seg = seg_of(two_organs(), series, protocol=outlining(LIVER, SPLEEN))
    found = read_seg(seg, outlining(LIVER, SPLEEN, replace(LEFT, value=9)), series.sources)
    assert (found.empty, found.unstated) == ((), ("left_kidney",))


# FRACTIONAL and LABELMAP


@pytest.mark.parametrize("kind", Fraction)
@pytest.mark.parametrize("most", [255, 100])
def test_a_voxel_belongs_to_a_structure_from_half_on(kind: Fraction, most: int, series: Series) -> None:
    values = np.zeros((*AXIAL.shape_ZYX, 2))
    values[1, 1, 1:5, 0] = (0.2, 0.49, 0.5, 1.0)  # of 255: 51, 125, 128, 255; of 100: 20, 49, 50, 100
    values[2, 3, 3, 1] = 0.75
    found = read_seg(fractional(values, series, kind.value, most), ORGANS, series.sources)
    expected = np.zeros(AXIAL.shape_ZYX, np.uint8)
    expected[1, 1, 3:5], expected[2, 3, 3] = LIVER.value, SPLEEN.value
    assert np.array_equal(found.label.array_ZYX, expected)
    assert found.fraction is kind


def test_fractions_that_come_to_nothing_are_refused_rather_than_lost(series: Series) -> None:
    """A writer that stores 1 for "drawn" and says that 255 is the most."""
    values = np.zeros((*AXIAL.shape_ZYX, 2))
    values[1, 1, 1:5, 0], values[1, 3, 3, 1] = 1 / 255, 1
    with pytest.raises(SegError, match=r"segments \[1\] have pixels, and none of them reaches half .* \(255\)"):
        label_from_seg(fractional(values, series), ORGANS, series.sources)


def test_fractions_of_no_known_kind_are_refused(series: Series) -> None:
    seg = fractional(np.ones((*AXIAL.shape_ZYX, 2)) * 0.3, series)
    seg.SegmentationFractionalType = "CONFIDENCE"
    with pytest.raises(SegError, match="CONFIDENCE; PROBABILITY or OCCUPANCY was expected"):
        label_from_seg(seg, ORGANS, series.sources)
    del seg.SegmentationFractionalType
    with pytest.raises(SegError, match="missing; PROBABILITY or OCCUPANCY"):
        label_from_seg(seg, ORGANS, series.sources)


def test_a_label_map_has_its_background_where_it_says(series: Series) -> None:
    """Segment 2 is numbered 0 and the background 7: both are allowed, and 7 is on every empty pixel."""
    seg = seg_of(two_organs(), series, SegForm.LABELMAP)
    assert seg.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
    seg.SegmentSequence = DicomSequence([s for s in seg.SegmentSequence if s.SegmentNumber])
    seg.SegmentSequence[1].SegmentNumber = 0
    seg.PixelPaddingValue = 7
    seg.PixelData = bytes(np.array([7, 1, 0], np.uint8)[np.frombuffer(seg.PixelData[: 3 * 63], np.uint8)]) + b"\0"
    assert np.array_equal(label_from_seg(seg, ORGANS, series.sources).array_ZYX, two_organs())
    seg.PixelPaddingValue = 8
    with pytest.raises(SegError, match=r"frame 1 .* holds the values \[7\], which no segment describes"):
        label_from_seg(seg, ORGANS, series.sources)


def test_structures_that_share_voxels_make_no_label_map(series: Series) -> None:
    layers = np.stack([two_organs(), np.where(two_organs() == LIVER.value, SPLEEN.value, 0).astype(np.uint8)])
    label = Label(geometry=AXIAL, layers_LZYX=layers)
    with pytest.raises(SegError, match="BINARY was expected"):
        seg_from_label(label, series.sources, ORGANS, object_of("shared"), form=SegForm.LABELMAP)


# Where frames lie


@pytest.mark.parametrize("beside_mm", [-0.099, 0.099])
def test_a_place_within_the_tolerance_is_that_place(beside_mm: float, series: Series) -> None:
    seg = moved(seg_of(two_organs(), series), (beside_mm, beside_mm, -beside_mm))
    assert np.array_equal(label_from_seg(seg, ORGANS, series.sources).array_ZYX, two_organs())


@pytest.mark.parametrize(
    ("by_mm", "words"),
    [
        ((0, 0, 0.5), r"frame 1 at \(0.0, 0.0, 2.5\) mm lies between the image's slices 2 and 3 .* 0.50 mm"),
        ((0, 0, 0.2), "between the image's slices 2 and 3 .* 0.20 mm .* at most 0.10 mm"),
        ((0.3, 0, 0), "up to 0.30 mm .* beside the image's voxels along x"),
        ((0, 0, 40), "40.0 mm|38.0 mm beyond its last slice"),
        ((0, 0, -40), "38.0 mm beyond its first slice"),
        ((-3, 0, 0), "draws 6 pixels outside the image"),
    ],
)
def test_a_frame_that_lies_elsewhere_is_refused_with_the_place(
    by_mm: tuple[float, float, float], words: str, series: Series
) -> None:
    with pytest.raises(SegError, match=words):
        label_from_seg(moved(seg_of(two_organs(), series), by_mm), ORGANS, series.sources)


def test_pixels_of_another_size_are_refused_and_nothing_is_resampled(series: Series) -> None:
    seg = seg_of(two_organs(), series)
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = [2.0, 2.0]
    with pytest.raises(SegError, match=r"pixels of 2.000 × 2.000 mm.*voxels of 1.000 × 1.000 × 1.000 mm.*resampled"):
        label_from_seg(seg, ORGANS, series.sources)
    measures.PixelSpacing = [1.0, 1.06]
    with pytest.raises(SegError, match=r"up to 0.48 mm .* beside the image's voxels along x"):
        label_from_seg(seg, ORGANS, series.sources)


def test_frames_two_degrees_askew_are_refused_where_they_leave_the_slice(series: Series) -> None:
    seg = seg_of(two_organs(), series)
    turned = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    turned.ImageOrientationPatient = [1, 0, 0, 0, 0.99945, 0.03316]  # 1.9°: 0.2 mm at the seventh row
    with pytest.raises(SegError, match=r"between the image's slices 2 and 3 .* 0.20 mm"):
        label_from_seg(seg, ORGANS, series.sources)


def test_a_segmentation_cut_to_what_it_draws_lands_in_its_place(series: Series) -> None:
    """Frames of 4 × 5 pixels whose first one is the image's pixel (row 1, column 2)."""
    layer = np.zeros(AXIAL.shape_ZYX, np.uint8)
    layer[2, 1:4, 3:6] = LIVER.value
    seg = seg_of(layer, series)
    seg.Rows, seg.Columns = 4, 5
    seg.PixelData = np.packbits(layer[2, 1:5, 2:7] > 0, bitorder="little").tobytes() + b"\0"
    assert np.array_equal(label_from_seg(moved(seg, (2, 1, 0)), ORGANS, series.sources).array_ZYX, layer)


@pytest.mark.parametrize("grid", [ANISOTROPIC, OBLIQUE], ids=["axial", "oblique"])
@pytest.mark.parametrize(
    "turn", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (0, 2, 1)], ids=["mirrored", "sagittal", "coronal", "transposed"]
)
def test_frames_cut_another_way_through_the_patient_hit_the_same_voxels(
    grid: Geometry, turn: tuple[int, int, int], tmp_path: Path
) -> None:
    """A label on axes that run another way and backwards, written there, is read here as the same voxels."""
    random = np.random.default_rng(3)
    label = np.where(random.random(grid.shape_ZYX) < 0.2, LIVER.value, 0).astype(np.uint8)
    shape_XYZ = grid.shape_ZYX[::-1]
    step = np.eye(4)
    step[:3, :3] = 0
    for new_axis, old_axis in enumerate(turn):
        backwards = new_axis == 1
        step[old_axis, new_axis] = -1 if backwards else 1
        step[old_axis, 3] = shape_XYZ[old_axis] - 1 if backwards else 0
    if np.linalg.det(grid.affine_LPS()[:3, :3] @ step[:3, :3]) < 0:  # slices of a series follow row × column
        step[turn[2], 2], step[turn[2], 3] = -1, shape_XYZ[turn[2]] - 1
    other = Geometry.from_affine_LPS(grid.affine_LPS() @ step, tuple(shape_XYZ[axis] for axis in turn)[::-1])
    elsewhere = np.zeros(other.shape_ZYX, np.uint8)
    for index_ZYX in np.argwhere(label):
        x, y, z = np.rint(np.linalg.inv(step) @ [*index_ZYX[::-1], 1])[:3].astype(int)
        elsewhere[z, y, x] = LIVER.value
    theirs = series_on(other, tmp_path / "series")
    seg = seg_of(elsewhere, theirs)
    assert np.array_equal(label_from_seg(seg, ORGANS, grid).array_ZYX, label)


# Other series, and references to nothing


def test_of_a_file_on_several_series_the_wanted_ones_frames_are_read(series: Series) -> None:
    """Frame 1 and 2 draw the liver on this series, frame 3 the spleen on a second one that covers the same place."""
    seg = seg_of(two_organs(), series)
    on_another_series(seg, 0)
    found = read_seg(seg, ORGANS, series.sources)
    assert found.frames_of_others == 1
    expected = two_organs()
    expected[2] = 0  # highdicom's order: the first frame is the liver's last slice
    assert np.array_equal(found.label.array_ZYX, expected)
    assert read_seg(seg, ORGANS, AXIAL).frames_of_others == 0  # a bare grid takes what lies on it


def test_a_file_whose_frames_all_lie_on_another_series_is_refused(series: Series) -> None:
    seg = seg_of(two_organs(), series)
    for number in range(3):
        on_another_series(seg, number)
    with pytest.raises(SegError, match="none of the 3 frames was drawn on this series"):
        label_from_seg(seg, ORGANS, series.sources)


def test_a_registered_series_of_the_study_takes_the_places_of_its_sister(series: Series, tmp_path: Path) -> None:
    """It refers to the sister alone; both share their frame of reference."""
    sources = [source[:] for source in series.sources]
    for k, source in enumerate(sources):
        source.add_new("SeriesInstanceUID", "UI", uid("sister"))
        source.add_new("SOPInstanceUID", "UI", uid("sister", str(k)))
    seg = seg_of(two_organs(), series)
    assert np.array_equal(label_from_seg(seg, ORGANS, sources).array_ZYX, two_organs())
    for source in sources:
        source.add_new("FrameOfReferenceUID", "UI", uid("elsewhere"))
    with pytest.raises(SegError, match="another frame of reference"):
        label_from_seg(seg, ORGANS, sources)


def test_references_to_nothing_leave_the_places_to_decide(series: Series) -> None:
    seg = seg_of(two_organs(), series)
    for groups in seg.PerFrameFunctionalGroupsSequence:
        groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = uid("nothing")
    assert np.array_equal(label_from_seg(seg, ORGANS, series.sources).array_ZYX, two_organs())


def moved(seg: Dataset, by_mm: tuple[float, float, float]) -> Dataset:
    for groups in seg.PerFrameFunctionalGroupsSequence:
        position = groups.PlanePositionSequence[0]
        position.ImagePositionPatient = [
            float(mm) + by for mm, by in zip(position.ImagePositionPatient, by_mm, strict=True)
        ]
    return seg


def say(segment: Dataset, label: str, scheme: str) -> None:
    """Label and codes as OHIF's, or in today's scheme."""
    segment.SegmentLabel = label
    for keyword in ("SegmentedPropertyTypeCodeSequence", "SegmentedPropertyCategoryCodeSequence"):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = TISSUE[scheme], scheme, "Tissue"
        setattr(segment, keyword, [item])


def on_another_series(seg: Dataset, number: int) -> None:
    """Let a frame be derived from an instance of a second series, which the file lists."""
    instance, listed = Dataset(), Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", uid("other", "1")
    listed.SeriesInstanceUID, listed.ReferencedInstanceSequence = uid("other"), [instance]
    seg.ReferencedSeriesSequence.append(listed)
    source = seg.PerFrameFunctionalGroupsSequence[number].DerivationImageSequence[0].SourceImageSequence[0]
    source.ReferencedSOPInstanceUID = uid("other", "1")
