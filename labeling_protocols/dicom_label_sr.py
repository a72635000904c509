"""A label and who answers for it in, a TID 1500 report out: segments, boxes, points, volumes and answers.

The observer is the person who drew or decided, or the consensus as a device. Everything the protocol asks for gets a
measurement group, and what was asked for and not found says "without findings" (CID 6047).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from labeling_protocols.dicom_seg import (
    MANUFACTURER,
    ObjectIdentity,
    as_evidence,
    dicom_code,
    drawn_segments,
    tracking_uid,
)
from labeling_protocols.dicom_sr import FINDINGS_SUMMARY, PROCEDURE, WITHOUT_FINDINGS, finding_sites, volume_ml
from labeling_protocols.label import Answer, Box, Label, Point
from labeling_protocols.protocol import Protocol, Structure, Task
from labeling_protocols.protocol_parts import Question, TextQuestion

WHOLE_CASE = "whole case"  # tracking identifier of the group with the answers

_SCHEME = "99OVERREAD"  # private: questions and their options are the protocol's own words (PS3.3 section 8.2)
_MEANING_MAX = 64  # a code's meaning is a Long String (PS3.5 section 6.2)
# The corners of each face of a box by the side (0 or 1) they have along X, Y and Z, going round, the first one twice.
_FACES = (
    *(((s, 0, 0), (s, 1, 0), (s, 1, 1), (s, 0, 1), (s, 0, 0)) for s in (0, 1)),
    *(((0, s, 0), (1, s, 0), (1, s, 1), (0, s, 1), (0, s, 0)) for s in (0, 1)),
    *(((0, 0, s), (1, 0, s), (1, 1, s), (0, 1, s), (0, 0, s)) for s in (0, 1)),
)

_Group: TypeAlias = (
    hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    | hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations
    | hd.sr.MeasurementsAndQualitativeEvaluations
)


@dataclass(frozen=True, kw_only=True)
class PersonObserver:
    """Somebody who drew or decided, by his pseudonym (PS3.16 TID 1003)."""

    name: str


@dataclass(frozen=True, kw_only=True)
class DeviceObserver:
    """What computed a label from reads, such as "Consensus of 3 readers" by a rule (PS3.16 TID 1004)."""

    name: str
    model: str
    uid: str


Observer = PersonObserver | DeviceObserver


def sr_of_label(
    label: Label,
    seg: Dataset | None,
    sources: Sequence[Dataset],
    protocol: Protocol,
    identity: ObjectIdentity,
    observers: Sequence[Observer],
) -> Dataset:
    """A Comprehensive 3D SR of a label by at least one observer; `seg` is None where no voxel is outlined.

    Outlines refer to their segments in `seg` and have their volume in ml; a box is a closed surface of six polygons,
    a point a region, both in mm of the series' frame of reference; answers but remarks are qualitative evaluations of
    the whole case. `sources` are the slices of the series in the order of the label's z axis.
    """
    drawn = _Drawn(label=label, seg=seg, sources=sources, instance_uid=identity.instance_uid)
    report = hd.sr.MeasurementReport(
        observation_context=_context(observers),
        procedure_reported=PROCEDURE,
        imaging_measurements=[*_groups(drawn, protocol), *_answered(drawn, protocol)],
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=list(sources),
    )
    document = hd.sr.Comprehensive3DSR(
        evidence=[*as_evidence(sources), *([seg] if seg is not None else [])],
        content=report,
        series_instance_uid=identity.series_uid,
        series_number=identity.series_number,
        sop_instance_uid=identity.instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
    )
    document.SeriesDescription = f"{protocol.title} report"[:_MEANING_MAX]
    document.ManufacturerModelName = protocol.name
    document.SoftwareVersions = f"protocol {protocol.version}"
    return document


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    label: Label
    seg: Dataset | None
    sources: Sequence[Dataset]
    instance_uid: str

    @property
    def frame_of_reference(self) -> str:
        return str(self.sources[0].FrameOfReferenceUID)

    def images(self) -> list[hd.sr.SourceImageForMeasurementGroup]:
        return [hd.sr.SourceImageForMeasurementGroup(s.SOPClassUID, s.SOPInstanceUID) for s in self.sources]

    def tracking(self, name: str) -> hd.sr.TrackingIdentifier:
        return hd.sr.TrackingIdentifier(uid=tracking_uid(self.instance_uid, name), identifier=name)


def _context(observers: Sequence[Observer]) -> hd.sr.ObservationContext:
    """TID 1001 takes any number of observers (row 1 repeats); highdicom's own arguments one person and one device."""
    context = hd.sr.ObservationContext()
    for observer in observers:
        context.extend(_observer(observer))
    return context


def _observer(observer: Observer) -> hd.sr.ObserverContext:
    if isinstance(observer, PersonObserver):
        # PS3.5 section 6.2: a person's name has parts
        name = observer.name if "^" in observer.name else f"{observer.name}^"
        return hd.sr.ObserverContext(
            observer_type=codes.DCM.Person,
            observer_identifying_attributes=hd.sr.PersonObserverIdentifyingAttributes(name=name),
        )
    return hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=observer.uid, name=observer.name, manufacturer_name=MANUFACTURER, model_name=observer.model
        ),
    )


def _groups(drawn: _Drawn, protocol: Protocol) -> Iterator[_Group]:
    """What was found of each structure, or that it was not."""
    segments = drawn_segments(drawn.seg) if drawn.seg is not None else {}
    for structure in protocol.structures:
        boxes = [box for box in drawn.label.boxes if box.structure == structure.name]
        points = [point for point in drawn.label.points if point.structure == structure.name]
        if structure.name in segments:
            yield _outlined(drawn, structure, segments[structure.name])
        for number, box in enumerate(boxes, start=1):
            yield _boxed(drawn, structure, box, number)
        for number, point in enumerate(points, start=1):
            yield _pointed(drawn, structure, point, number)
        if not (structure.name in segments or boxes or points):
            yield _not_found(drawn, structure)


def _outlined(drawn: _Drawn, structure: Structure, number: int) -> _Group:
    assert drawn.seg is not None  # noqa: S101  it has the segment
    voxels = int(drawn.label.mask_ZYX(structure.value).sum())
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        # The same tracking UID as the segment's.
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=tracking_uid(str(drawn.seg.SOPInstanceUID), structure.name), identifier=structure.name
        ),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=drawn.seg.SOPClassUID,
            sop_instance_uid=drawn.seg.SOPInstanceUID,
            segment_number=number,
            source_series=hd.sr.SourceSeriesForSegmentation(drawn.sources[0].SeriesInstanceUID),
        ),
        finding_type=dicom_code(structure.type),
        finding_category=dicom_code(structure.category),
        finding_sites=finding_sites(structure),
        measurements=[volume_ml(voxels * drawn.label.geometry.voxel_ml)],
    )


def _boxed(drawn: _Drawn, structure: Structure, box: Box, number: int) -> _Group:
    surface = hd.sr.VolumeSurface(
        graphic_type=hd.sr.GraphicTypeValues3D.POLYGON,
        graphic_data=_faces_mm_LPS(drawn.label, box),
        frame_of_reference_uid=drawn.frame_of_reference,
        source_series=hd.sr.SourceSeriesForSegmentation(drawn.sources[0].SeriesInstanceUID),
    )
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=drawn.tracking(f"{structure.name} box {number}"),
        referenced_volume_surface=surface,
        finding_type=dicom_code(structure.type),
        finding_category=dicom_code(structure.category),
        finding_sites=finding_sites(structure),
        measurements=[volume_ml(float(np.prod(box.size_mm_XYZ)) / 1000.0)],
    )


def _pointed(drawn: _Drawn, structure: Structure, point: Point, number: int) -> _Group:
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=drawn.tracking(f"{structure.name} point {number}"),
        referenced_region=hd.sr.ImageRegion3D(
            graphic_type=hd.sr.GraphicTypeValues3D.POINT,
            graphic_data=np.array([point.position_mm_LPS]),
            frame_of_reference_uid=drawn.frame_of_reference,
        ),
        finding_type=dicom_code(structure.type),
        finding_category=dicom_code(structure.category),
        finding_sites=finding_sites(structure),
    )


def _not_found(drawn: _Drawn, structure: Structure) -> _Group:
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=drawn.tracking(structure.name),
        finding_type=dicom_code(structure.type),
        finding_category=dicom_code(structure.category),
        finding_sites=finding_sites(structure),
        measurements=[volume_ml(0.0)] if Task.SEGMENTATION in structure.tasks else None,
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(name=FINDINGS_SUMMARY, value=WITHOUT_FINDINGS)],
        source_images=drawn.images(),
    )


def _answered(drawn: _Drawn, protocol: Protocol) -> Iterator[_Group]:
    """The answers as codes; a remark is no code and stays out."""
    evaluations = [
        hd.sr.QualitativeEvaluation(
            name=hd.sr.CodedConcept(question.name, _SCHEME, question.title[:_MEANING_MAX]),
            value=_coded(drawn.label.answers[question.name]),
        )
        for question in _coded_questions(protocol)
        if question.name in drawn.label.answers
    ]
    if evaluations:
        yield hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=drawn.tracking(WHOLE_CASE),
            qualitative_evaluations=evaluations,
            source_images=drawn.images(),
        )


def _coded_questions(protocol: Protocol) -> list[Question]:
    return [question for question in protocol.questions if not isinstance(question, TextQuestion)]


def _coded(answer: Answer) -> DicomCode | hd.sr.CodedConcept:
    if isinstance(answer, bool):
        return DicomCode("373066001", "SCT", "Yes") if answer else DicomCode("373067005", "SCT", "No")
    return hd.sr.CodedConcept(str(answer), _SCHEME, str(answer)[:_MEANING_MAX])


def _faces_mm_LPS(label: Label, box: Box) -> list[NDArray[np.float64]]:
    """The six faces of a box as closed polygons, each (5, 3) in mm; its sides lie along the image's axes."""
    axes_LPS = np.reshape(label.geometry.direction_LPS, (3, 3))
    half_mm_XYZ = np.array(box.size_mm_XYZ) / 2
    return [
        np.array(box.centre_mm_LPS) + ((2 * np.array(corners) - 1) * half_mm_XYZ) @ axes_LPS.T for corners in _FACES
    ]
