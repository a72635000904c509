"""The report states the volume of every structure, who measured it, and on which images."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from labeling_protocols.dicom_seg import seg_from_label
from labeling_protocols.dicom_sr import SrError, sr_from_label, volumes_from_sr
from labeling_protocols.geometry import Volume
from labeling_protocols.protocol import Protocol
from labeling_protocols.series import Series, read_series, scan
from labeling_protocols.series_writer import write_series
from tests.conftest import image_of
from tests.dicom.examples import ALGORITHM, ANISOTROPIC, dciodvfy_errors, identity_of, object_of


def report_on(series: Series, protocol: Protocol, *structures: int) -> tuple[Dataset | None, Dataset]:
    """A box of 2 × 3 × 4 voxels of each structure."""
    array = np.zeros(series.volume.geometry.shape_ZYX, np.uint8)
    for value in structures:
        array[1:3, 1:4, 4 * value - 4 : 4 * value] = value
    label = Volume(array_ZYX=array, geometry=series.volume.geometry)
    seg = seg_from_label(label, series.sources, protocol, object_of("seg"), algorithm=ALGORITHM) if structures else None
    return seg, sr_from_label(label, seg, series.sources, protocol, object_of("sr", 901), ALGORITHM)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    folder = tmp_path_factory.mktemp("series")
    write_series(image_of(1, ANISOTROPIC), folder, identity_of("report"), shuffle=2)
    return read_series(scan(folder)[0].files)


def items(container: Dataset, meaning: str) -> list[Dataset]:
    """Content items below `container` whose concept has this meaning."""
    found = []
    for item in container.get("ContentSequence", []):
        if item.get("ConceptNameCodeSequence") and item.ConceptNameCodeSequence[0].CodeMeaning == meaning:
            found.append(item)
        found += items(item, meaning)
    return found


def test_volumes_are_voxels_times_their_size_in_millilitres(series: Series, protocol: Protocol) -> None:
    _, report = report_on(series, protocol, 1, 2)
    # 24 voxels of 0.7 × 1.3 × 4.0 mm
    assert volumes_from_sr(report) == pytest.approx({"anterior": 0.08736, "posterior": 0.08736})
    units = {
        item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue for item in items(report, "Volume")
    }
    assert units == {"mL"}


def test_the_report_refers_to_segments_series_and_study(series: Series, protocol: Protocol) -> None:
    seg, report = report_on(series, protocol, 1, 2)
    assert seg is not None
    assert report.StudyInstanceUID == series.sources[0].StudyInstanceUID
    referenced = [item.ReferencedSOPSequence[0] for item in items(report, "Referenced Segment")]
    assert [(r.ReferencedSOPInstanceUID, r.ReferencedSegmentNumber) for r in referenced] == [
        (seg.SOPInstanceUID, 1),
        (seg.SOPInstanceUID, 2),
    ]
    assert {item.UID for item in items(report, "Source Series for Segmentation")} == {
        series.sources[0].SeriesInstanceUID
    }
    evidence = {
        instance.ReferencedSOPInstanceUID
        for study in (
            *report.get("CurrentRequestedProcedureEvidenceSequence", []),
            *report.get("PertinentOtherEvidenceSequence", []),
        )
        for of_series in study.ReferencedSeriesSequence
        for instance in of_series.ReferencedSOPSequence
    }
    assert evidence == {seg.SOPInstanceUID, *(source.SOPInstanceUID for source in series.sources)}


def test_observer_and_algorithm_are_the_model_version(series: Series, protocol: Protocol) -> None:
    _, report = report_on(series, protocol, 1)
    assert [item.UID for item in items(report, "Device Observer UID")] == [ALGORITHM.device_uid]
    assert {item.TextValue for item in items(report, "Algorithm Name")} == {"hippocampus-segmentation"}
    assert {item.TextValue for item in items(report, "Algorithm Version")} == {"1.0.3"}
    devices = [item.DeviceUID for item in report.ContributingEquipmentSequence if "DeviceUID" in item]
    assert devices == [ALGORITHM.device_uid]


def test_a_segment_and_its_measurements_share_their_tracking_uid(series: Series, protocol: Protocol) -> None:
    seg, report = report_on(series, protocol, 1, 2)
    assert seg is not None
    assert [item.UID for item in items(report, "Tracking Unique Identifier")] == [
        segment.TrackingUID for segment in seg.SegmentSequence
    ]


@pytest.mark.parametrize("present", [(1, 2), (2,), ()], ids=["both", "one", "none"])
def test_the_report_validates_and_says_what_was_not_found(
    present: tuple[int, ...], series: Series, protocol: Protocol, tmp_path: Path
) -> None:
    _, report = report_on(series, protocol, *present)
    report.save_as(tmp_path / "sr.dcm")
    assert dciodvfy_errors(tmp_path / "sr.dcm") == []
    volumes = volumes_from_sr(dcmread(tmp_path / "sr.dcm"))
    assert {name for name, ml in volumes.items() if ml == 0} == {
        structure.name for structure in protocol.structures if structure.value not in present
    }
    said = [item.ConceptCodeSequence[0].CodeValue for item in items(report, "CAD Processing and Findings Summary")]
    assert said == ["111241"] * (2 - len(present))  # all algorithms succeeded; without findings


def test_an_object_without_volumes_is_refused(series: Series, protocol: Protocol) -> None:
    seg, report = report_on(series, protocol, 1)
    assert seg is not None
    with pytest.raises(SrError, match="no content tree"):
        volumes_from_sr(seg)
    items(report, "Volume")[0].MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue = "mm3"
    with pytest.raises(SrError, match="a volume in mm3 of anterior; mL"):
        volumes_from_sr(report)
