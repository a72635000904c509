"""A report says what was found, what was not, what was answered, and who says so: a person, or a consensus."""

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes

from labeling_protocols.dicom_label_sr import WHOLE_CASE, DeviceObserver, Observer, PersonObserver, sr_of_label
from labeling_protocols.dicom_seg import dicom_code, seg_from_label
from labeling_protocols.dicom_sr import volumes_from_sr
from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Box, Label, Point
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.series import Series, read_series, scan
from labeling_protocols.series_writer import write_series
from tests.conftest import image_of
from tests.dicom.examples import dciodvfy_errors, identity_of, object_of, uid
from tests.dicom.test_sr import items

# 30° about Z, right-handed as DICOM's slices lie, 0.8 × 1.1 × 2.5 mm.
OBLIQUE = Geometry(
    shape_ZYX=(6, 10, 8),
    spacing_mm_XYZ=(0.8, 1.1, 2.5),
    origin_mm_LPS=(-31.0, 12.5, 7.25),
    direction_LPS=(0.866025403784, -0.5, 0.0, 0.5, 0.866025403784, 0.0, 0.0, 0.0, 1.0),
)
BOX = Box(structure="nodule", centre_mm_LPS=(-30.0, 16.0, 12.0), size_mm_XYZ=(2.0, 3.0, 4.0))
POINT = Point(structure="micronodule", position_mm_LPS=(-29.5, 15.0, 9.75))
ANSWERS = {"malignancy": 4, "internal_structure": 1, "remark": "as on the scan of Mr. Roe"}
JUDGE = PersonObserver(name="a3f09c")


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    folder = tmp_path_factory.mktemp("series")
    write_series(image_of(1, OBLIQUE), folder, identity_of("label report"), shuffle=2)
    return read_series(scan(folder)[0].files)


@pytest.fixture(scope="module")
def lung() -> Protocol:
    return load_protocol(SHIPPED / "lung_nodule.yaml")


def label(voxels: int, **found: object) -> Label:
    layers_LZYX = np.zeros((1, *OBLIQUE.shape_ZYX), np.uint8)
    layers_LZYX.ravel()[:voxels] = 1
    return Label(geometry=OBLIQUE, layers_LZYX=layers_LZYX, **found)  # type: ignore[arg-type]


def report_on(series: Series, protocol: Protocol, drawn: Label, *observers: Observer) -> tuple[Dataset | None, Dataset]:
    outlined = drawn.layers_LZYX.any()
    seg = seg_from_label(drawn, series.sources, protocol, object_of("seg"), creator="a3f09c") if outlined else None
    return seg, sr_of_label(drawn, seg, series.sources, protocol, object_of("sr", 951), observers or (JUDGE,))


@pytest.fixture(scope="module")
def found(series: Series, lung: Protocol, tmp_path_factory: pytest.TempPathFactory) -> hd.sr.Comprehensive3DSR:
    """Ten voxels, a box, a point and three answers, as highdicom reads them back."""
    _, report = report_on(series, lung, label(10, boxes=(BOX,), points=(POINT,), answers=ANSWERS))
    path = tmp_path_factory.mktemp("sr") / "sr.dcm"
    report.save_as(path)
    assert dciodvfy_errors(path) == []
    read = hd.sr.srread(path)
    assert isinstance(read, hd.sr.Comprehensive3DSR)
    return read


def test_the_adjudicator_is_the_person_who_observed(found: hd.sr.Comprehensive3DSR) -> None:
    (person,) = found.content.get_observer_contexts(observer_type=codes.DCM.Person)
    assert person.observer_identifying_attributes.name == "a3f09c^"
    assert found.content.get_observer_contexts(observer_type=codes.DCM.Device) == []


def test_two_who_decided_are_both_named(series: Series, lung: Protocol, tmp_path: Path) -> None:
    _, report = report_on(series, lung, label(1), JUDGE, PersonObserver(name="77b2e1"))
    report.save_as(tmp_path / "sr.dcm")
    assert dciodvfy_errors(tmp_path / "sr.dcm") == []
    assert [str(item.PersonName) for item in items(report, "Person Observer Name")] == ["a3f09c^", "77b2e1^"]


def test_a_consensus_is_a_device_that_says_of_how_many(series: Series, lung: Protocol, tmp_path: Path) -> None:
    device = DeviceObserver(name="Consensus of 3 readers", model="majority", uid=uid("consensus"))
    _, report = report_on(series, lung, label(1), device)
    report.save_as(tmp_path / "sr.dcm")
    assert dciodvfy_errors(tmp_path / "sr.dcm") == []
    (context,) = hd.sr.srread(tmp_path / "sr.dcm").content.get_observer_contexts(observer_type=codes.DCM.Device)
    assert context.observer_identifying_attributes.name == "Consensus of 3 readers"
    assert context.observer_identifying_attributes.uid == uid("consensus")


def test_outlines_boxes_and_points_are_regions_with_volumes(found: hd.sr.Comprehensive3DSR, lung: Protocol) -> None:
    # 10 voxels of 0.8 × 1.1 × 2.5 mm = 22 mm³; a box of 2 × 3 × 4 mm = 24 mm³
    assert volumes_from_sr(found) == pytest.approx({"nodule": 0.022, "nodule box 1": 0.024})
    surface = next(
        group.roi for group in found.content.get_volumetric_roi_measurement_groups() if group.roi is not None
    )
    corners_mm_LPS = np.concatenate(surface.graphic_data)
    assert len(surface.graphic_data) == 6
    np.testing.assert_allclose((corners_mm_LPS.min(0) + corners_mm_LPS.max(0)) / 2, BOX.centre_mm_LPS, atol=1e-4)
    along_XYZ = corners_mm_LPS @ np.reshape(OBLIQUE.direction_LPS, (3, 3))  # the box lies along the image's axes
    np.testing.assert_allclose(along_XYZ.max(0) - along_XYZ.min(0), BOX.size_mm_XYZ, atol=1e-4)
    (marked,) = found.content.get_planar_roi_measurement_groups()
    np.testing.assert_allclose(marked.roi.value, [POINT.position_mm_LPS], atol=1e-4)
    assert marked.finding_type == dicom_code(lung.structure("micronodule").type)


def test_answers_are_evaluations_of_the_whole_case_and_remarks_stay_out(found: hd.sr.Comprehensive3DSR) -> None:
    groups = found.content.get_image_measurement_groups()
    (whole,) = [group for group in groups if group.tracking_identifier == WHOLE_CASE]
    said = {evaluation.name.value: evaluation.value.value for evaluation in whole.get_qualitative_evaluations()}
    assert said == {"malignancy": "4", "internal_structure": "1"}
    assert "Roe" not in str(found.ContentSequence)


def test_what_was_asked_for_and_not_found_says_so(series: Series, lung: Protocol, tmp_path: Path) -> None:
    seg, report = report_on(series, lung, label(0))
    assert seg is None
    report.save_as(tmp_path / "sr.dcm")
    assert dciodvfy_errors(tmp_path / "sr.dcm") == []
    groups = hd.sr.srread(tmp_path / "sr.dcm").content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in groups] == [structure.name for structure in lung.structures]
    for group in groups:
        said = {evaluation.name.value: evaluation.value.value for evaluation in group.get_qualitative_evaluations()}
        assert said["111017"] == "111241"  # CAD Processing and Findings Summary: without findings
    assert volumes_from_sr(dcmread(tmp_path / "sr.dcm")) == {"nodule": 0.0}


def test_the_report_refers_to_the_series_and_to_each_segment(series: Series, lung: Protocol) -> None:
    seg, report = report_on(series, lung, label(10))
    assert seg is not None
    assert {item.UID for item in items(report, "Source Series for Segmentation")} == {
        series.sources[0].SeriesInstanceUID
    }
    (segment,) = [item.ReferencedSOPSequence[0] for item in items(report, "Referenced Segment")]
    assert (segment.ReferencedSOPInstanceUID, segment.ReferencedSegmentNumber) == (seg.SOPInstanceUID, 1)
    tracked = [item.UID for item in items(report, "Tracking Unique Identifier")]
    assert str(seg.SegmentSequence[0].TrackingUID) in tracked
    assert report.StudyInstanceUID == series.sources[0].StudyInstanceUID
