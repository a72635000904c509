"""Labels become segmentations that any reader puts at the same place, and come back by their codes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from labeling_protocols.dicom_seg import SegError, drawn_segments, label_from_seg, seg_from_label
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.series import read_series, scan
from tests.conftest import OBLIQUE
from tests.dicom.examples import ALGORITHM, ANISOTROPIC, AXIAL, SAGITTAL, dciodvfy_errors, object_of, series_on

GRIDS = {"axial": AXIAL, "anisotropic": ANISOTROPIC, "oblique and flipped": OBLIQUE, "sagittal": SAGITTAL}


def blobs_on(geometry: Geometry, values: tuple[int, ...] = (1, 2)) -> Volume:
    """A few voxels of each structure, asymmetric along every axis, with empty first and last slices."""
    label = np.zeros(geometry.shape_ZYX, np.uint8)
    label[1:3, 1:4, 1:3] = values[0]
    label[2, 1, 1] = 0
    label[3, 2:5, 4:7] = values[-1]
    return Volume(array_ZYX=label, geometry=geometry)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_a_label_comes_back_unchanged_on_every_kind_of_grid(grid: Geometry, tmp_path: Path, protocol: Protocol) -> None:
    series = series_on(grid, tmp_path / "series", flipped=True, shuffle=3)
    label = blobs_on(series.volume.geometry)
    written = saved(seg_from_label(label, series.sources, protocol, object_of("round"), algorithm=ALGORITHM), tmp_path)
    for onto in (series.volume.geometry, series.sources):
        assert np.array_equal(label_from_seg(dcmread(written), protocol, onto).array_ZYX, label.array_ZYX)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_highdicom_reads_the_same_voxels_for_each_source_slice_in_any_order(
    grid: Geometry, tmp_path: Path, protocol: Protocol
) -> None:
    series = series_on(grid, tmp_path / "series", shuffle=8)
    label = blobs_on(series.volume.geometry)
    written = saved(seg_from_label(label, series.sources, protocol, object_of("hd"), algorithm=ALGORITHM), tmp_path)
    order = np.random.default_rng(2).permutation(len(series.sources))
    theirs = hd.seg.segread(written).get_pixels_by_source_instance(
        [str(series.sources[k].SOPInstanceUID) for k in order],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    assert np.array_equal(theirs, label.array_ZYX[order])  # segments 1, 2 are the protocol's values 1, 2


def test_a_label_is_read_onto_a_grid_whose_axes_run_another_way(tmp_path: Path, protocol: Protocol) -> None:
    series = series_on(ANISOTROPIC, tmp_path / "series")
    seg = seg_from_label(blobs_on(ANISOTROPIC), series.sources, protocol, object_of("turned"))
    z, y, x = ANISOTROPIC.shape_ZYX
    index_to_index = np.array([[-1.0, 0, 0, x - 1], [0, 0, 1, 0], [0, -1, 0, z - 1], [0, 0, 0, 1]])
    turned = Geometry.from_affine_LPS(ANISOTROPIC.affine_LPS() @ index_to_index, (y, z, x))
    expected = blobs_on(ANISOTROPIC).array_ZYX[::-1, :, ::-1].transpose(1, 0, 2)
    assert np.array_equal(label_from_seg(seg, protocol, turned).array_ZYX, expected)


def test_what_a_segment_is_stands_in_its_codes_with_the_modifier_inside_the_type(
    tmp_path: Path, protocol: Protocol
) -> None:
    series = series_on(AXIAL, tmp_path / "series")
    seg = dcmread(saved(seg_from_label(blobs_on(AXIAL), series.sources, protocol, object_of("codes")), tmp_path))
    first, second = seg.SegmentSequence
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "5366008"
    modifiers = [
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning
        for segment in (first, second)
    ]
    assert modifiers == ["Anterior", "Posterior"]
    color = hd.color.CIELabColor.from_dicom_value(list(first.RecommendedDisplayCIELabValue))
    assert color.to_rgb() == pytest.approx((0xE6, 0x77, 0x2E), abs=1)
    assert first.SegmentAlgorithmType == "MANUAL"


def test_an_automatic_segmentation_names_its_model_version_and_device(tmp_path: Path, protocol: Protocol) -> None:
    series = series_on(AXIAL, tmp_path / "series")
    seg = seg_from_label(blobs_on(AXIAL), series.sources, protocol, object_of("auto"), algorithm=ALGORITHM)
    segment = seg.SegmentSequence[0]
    device = next(item for item in seg.ContributingEquipmentSequence if "DeviceUID" in item)
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("hippocampus-segmentation", "1.0.3")
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
    assert (device.DeviceUID, device.SoftwareVersions) == (ALGORITHM.device_uid, "1.0.3")


def test_a_humans_read_names_him_and_says_whether_a_prelabel_came_first(tmp_path: Path, protocol: Protocol) -> None:
    series = series_on(AXIAL, tmp_path / "series")
    for algorithm, drawn_by in ((None, "MANUAL"), (ALGORITHM, "SEMIAUTOMATIC")):
        identity = object_of(drawn_by)
        seg = seg_from_label(blobs_on(AXIAL), series.sources, protocol, identity, algorithm=algorithm, creator="R0A1B2")
        assert {segment.SegmentAlgorithmType for segment in seg.SegmentSequence} == {drawn_by}
        assert seg.ContentCreatorName == "R0A1B2^"
        assert ("SegmentationAlgorithmIdentificationSequence" in seg.SegmentSequence[0]) == (algorithm is not None)


def test_structures_that_overlap_come_back_in_layers(tmp_path: Path) -> None:
    abdomen = load_protocol(SHIPPED / "abdomen_ct.yaml")
    layers = np.zeros((2, *ANISOTROPIC.shape_ZYX), np.uint8)
    layers[0, 1:5, 2:8, 2:6] = abdomen.values["liver"]
    layers[0, 0, 0, 0] = abdomen.values["spleen"]
    layers[1, 3:6, 4:6, 4:7] = abdomen.values["liver_tumour"]
    series = series_on(ANISOTROPIC, tmp_path / "series")
    label = Label(geometry=ANISOTROPIC, layers_LZYX=layers)
    written = saved(seg_from_label(label, series.sources, abdomen, object_of("overlap")), tmp_path)
    back = label_from_seg(dcmread(written), abdomen, series.sources)
    assert np.array_equal(back.layers_LZYX, layers)


def test_structures_that_must_not_overlap_are_refused_where_they_do(tmp_path: Path, protocol: Protocol) -> None:
    series = series_on(AXIAL, tmp_path / "series")
    layers = np.zeros((2, *AXIAL.shape_ZYX), np.uint8)
    layers[0, 1:3], layers[1, 2:4] = 1, 2
    label = Label(geometry=AXIAL, layers_LZYX=layers)
    seg = dcmread(saved(seg_from_label(label, series.sources, protocol, object_of("shared")), tmp_path))
    with pytest.raises(SegError, match="two segments of the protocol overlap"):
        label_from_seg(seg, protocol, AXIAL)


def test_a_segmentation_refers_to_study_series_frame_and_every_slice(tmp_path: Path, protocol: Protocol) -> None:
    series = series_on(AXIAL, tmp_path / "series")
    seg = seg_from_label(blobs_on(AXIAL), series.sources, protocol, object_of("refers"))
    source = series.sources[0]
    assert seg.StudyInstanceUID == source.StudyInstanceUID
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
    (referenced,) = seg.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} == {
        slice_.SOPInstanceUID for slice_ in series.sources
    }


def test_a_structure_that_is_absent_has_a_segment_that_says_so(tmp_path: Path, protocol: Protocol) -> None:
    series = series_on(AXIAL, tmp_path / "series")
    label = blobs_on(AXIAL, values=(2, 2))
    written = saved(seg_from_label(label, series.sources, protocol, object_of("absent")), tmp_path)
    seg = dcmread(written)
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == [
        "Anterior hippocampus",
        "Posterior hippocampus",
    ]
    said = [segment.get("SegmentDescription") for segment in seg.SegmentSequence]
    assert said == ["Looked for and not present: no voxel belongs to it.", None]
    assert drawn_segments(seg) == {"posterior": 2}
    assert seg.ContentDescription == "Not present: anterior"
    assert np.array_equal(label_from_seg(seg, protocol, AXIAL).array_ZYX, label.array_ZYX)
    assert dciodvfy_errors(written) == []


def test_a_label_map_is_read_and_its_order_of_segments_means_nothing(tmp_path: Path, protocol: Protocol) -> None:
    series = series_on(ANISOTROPIC, tmp_path / "series")
    label = blobs_on(ANISOTROPIC)
    swapped = np.array([0, 2, 1], np.uint8)[label.array_ZYX]
    binary = seg_from_label(label, series.sources, protocol, object_of("map"))
    posterior, anterior = (
        hd.seg.SegmentDescription.from_dataset(segment) for segment in reversed(binary.SegmentSequence)
    )
    posterior.SegmentNumber, anterior.SegmentNumber = 1, 2
    label_map = hd.seg.Segmentation(
        source_images=list(series.sources),
        pixel_array=swapped,
        segmentation_type="LABELMAP",
        segment_descriptions=[posterior, anterior],
        series_instance_uid="1.2.3",
        series_number=1,
        sop_instance_uid="1.2.3.4",
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
    )
    assert np.array_equal(label_from_seg(label_map, protocol, ANISOTROPIC).array_ZYX, label.array_ZYX)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda seg: setattr(seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0], "CodeValue", "1"),
            r"segment 1 is coded \(1, SCT\) with modifier \(255549009, SCT\); protocol hippocampus knows anterior",
        ),
        (
            lambda seg: delattr(
                seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0],
                "SegmentedPropertyTypeModifierCodeSequence",
            ),
            "with modifier none",
        ),
        (
            lambda seg: setattr(
                seg.SegmentSequence[1],
                "SegmentedPropertyTypeCodeSequence",
                seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence,
            ),
            "two segments are coded as anterior",
        ),
        (lambda seg: setattr(seg, "SegmentSequence", [seg.SegmentSequence[0]] * 2), "two segments have the number 1"),
        (lambda seg: setattr(seg, "SegmentationType", "SURFACE"), "BINARY, FRACTIONAL or LABELMAP was expected"),
        (
            lambda seg: shift(seg, 0.5),
            r"frame 1 at .* lies up to 0.50 mm .0.50 voxels. beside the image's voxels along x",
        ),
        (lambda seg: shift(seg, 100), "draws 9 pixels outside the image|draws 6 pixels outside|draws 5 pixels outside"),
    ],
)
def test_a_segmentation_that_cannot_be_mapped_is_refused_with_the_reason(
    change: Callable[[Dataset], None], words: str, tmp_path: Path, protocol: Protocol
) -> None:
    series = series_on(AXIAL, tmp_path / "series")
    seg = dcmread(saved(seg_from_label(blobs_on(AXIAL), series.sources, protocol, object_of("bad")), tmp_path))
    change(seg)
    with pytest.raises(SegError, match=words):
        label_from_seg(seg, protocol, AXIAL)


def test_a_label_that_does_not_belong_to_the_series_is_not_written(tmp_path: Path, protocol: Protocol) -> None:
    series = series_on(AXIAL, tmp_path / "series")

    def refusal(label: Volume) -> str:
        with pytest.raises(SegError) as error:
            seg_from_label(label, series.sources, protocol, object_of("foreign"))
        return str(error.value)

    assert "values [7]" in refusal(blobs_on(AXIAL, values=(1, 7)))
    moved = replace(AXIAL, origin_mm_LPS=(0.0, 0.0, 1.0))
    assert "1.00 mm from" in refusal(blobs_on(moved))


@pytest.mark.real_data
@pytest.mark.parametrize(
    "folder",
    [
        "mr_brain_dicom/PGBM-003_IBDelta_FLAIRreg",
        "mr_brain_dicom/PGBM-003_HCropVolume",
        "lidc_0003/dicom",
        "deid/mr_series",
    ],
)
def test_real_series_take_a_segmentation_that_validates_and_comes_back(
    folder: str, real_data: Path, tmp_path: Path, protocol: Protocol
) -> None:
    series = read_series(scan(real_data / folder)[0].files)
    label = blobs_on(series.volume.geometry)
    written = saved(seg_from_label(label, series.sources, protocol, object_of("real"), algorithm=ALGORITHM), tmp_path)
    assert dciodvfy_errors(written) == []
    assert np.array_equal(label_from_seg(dcmread(written), protocol, series.sources).array_ZYX, label.array_ZYX)


def saved(seg: Dataset, folder: Path) -> Path:
    path = folder / "seg.dcm"
    seg.save_as(path)
    return path


def shift(seg: Dataset, by_mm: float) -> None:
    for groups in seg.PerFrameFunctionalGroupsSequence:
        position = groups.PlanePositionSequence[0]
        x, y, z = position.ImagePositionPatient
        position.ImagePositionPatient = [x + by_mm, y, z]
