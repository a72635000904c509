"""A label and its segmentation in, a TID 1500 report of the structures' volumes out; and the volumes of one back.

Every structure of the protocol gets a measurement group: one that refers to its segment where it has voxels, and one
of 0 ml that says "without findings" where it has none. The observer is a device, the model version.
"""

from collections.abc import Sequence

import highdicom as hd
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from labeling_protocols.dicom_seg import (
    MANUFACTURER,
    Algorithm,
    ObjectIdentity,
    as_evidence,
    dicom_code,
    drawn_segments,
    equipment,
    tracking_uid,
)
from labeling_protocols.geometry import Volume
from labeling_protocols.protocol import Protocol, Structure

_VOLUME = DicomCode("118565006", "SCT", "Volume")
_MILLILITRE = DicomCode("mL", "UCUM", "milliliter")
PROCEDURE = DicomCode("363679005", "SCT", "Imaging procedure")
FINDINGS_SUMMARY = DicomCode("111017", "DCM", "CAD Processing and Findings Summary")
WITHOUT_FINDINGS = DicomCode("111241", "DCM", "All algorithms succeeded; without findings")  # CID 6047


class SrError(ValueError):
    """A report that holds no volumes that could be read: what was found, what was expected."""


def sr_from_label(
    label: Volume,
    seg: Dataset | None,
    sources: Sequence[Dataset],
    protocol: Protocol,
    identity: ObjectIdentity,
    algorithm: Algorithm,
    *,
    previous: Dataset | None = None,
) -> Dataset:
    """An Enhanced SR with the volume in ml of each structure, referring to the segments of `seg` and to the series.

    `seg` is None where the label is empty. Tracking identifiers are the structures' names. `previous` is the report
    that this one takes the place of (Predecessor Documents Sequence, PS3.3 C.17.2).
    """
    segments = drawn_segments(seg) if seg is not None else {}
    groups = [
        _measured(structure, segments[structure.name], label, seg, sources, algorithm)
        if seg is not None and structure.name in segments
        else _not_found(structure, identity, sources, algorithm)
        for structure in protocol.outlined
    ]
    report = hd.sr.MeasurementReport(
        observation_context=_observer(algorithm),
        procedure_reported=PROCEDURE,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=list(sources),
    )
    document = hd.sr.EnhancedSR(
        evidence=[*as_evidence(sources), *([seg] if seg is not None else [])],
        content=report,
        series_instance_uid=identity.series_uid,
        series_number=identity.series_number,
        sop_instance_uid=identity.instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        contributing_equipment=[equipment(algorithm)],
        previous_versions=[previous] if previous is not None else None,
    )
    document.SeriesDescription = f"{protocol.title} volumes"[:64]
    document.ManufacturerModelName, document.SoftwareVersions = algorithm.name[:64], algorithm.version[:64]
    return document


def volumes_from_sr(report: Dataset) -> dict[str, float]:
    """Volume in ml of each structure by the tracking identifier it was reported under. Raises `SrError`."""
    if not hasattr(report, "ContentSequence"):
        raise SrError("the object has no content tree; a structured report was expected")
    volumes: dict[str, float] = {}
    for group in _containers(report, "125007"):  # Measurement Group
        name = next((str(item.TextValue) for item in _children(group, "112039")), None)  # Tracking Identifier
        for item in _children(group, _VOLUME.value):
            measured = item.MeasuredValueSequence[0]
            unit = str(measured.MeasurementUnitsCodeSequence[0].CodeValue)
            if unit.lower() != "ml" or name is None:
                raise SrError(f"a volume in {unit} of {name or 'something unnamed'}; mL of a structure was expected")
            volumes[name] = float(measured.NumericValue)
    if not volumes:
        raise SrError("the report has no measurement group with a volume")
    return volumes


def _observer(algorithm: Algorithm) -> hd.sr.ObservationContext:
    return hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                uid=algorithm.device_uid,
                name=algorithm.name,
                manufacturer_name=MANUFACTURER,
                model_name=algorithm.name,
                serial_number=algorithm.version,
            ),
        )
    )


def _measured(
    structure: Structure, number: int, label: Volume, seg: Dataset, sources: Sequence[Dataset], algorithm: Algorithm
) -> hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    voxels = int((label.array_ZYX == structure.value).sum())
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=tracking_uid(str(seg.SOPInstanceUID), structure.name), identifier=structure.name
        ),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=number,
            source_series=hd.sr.SourceSeriesForSegmentation(sources[0].SeriesInstanceUID),
        ),
        finding_type=dicom_code(structure.type),
        finding_category=dicom_code(structure.category),
        finding_sites=finding_sites(structure),
        algorithm_id=_identification(algorithm),
        measurements=[volume_ml(voxels * label.geometry.voxel_ml)],
    )


def _not_found(
    structure: Structure, identity: ObjectIdentity, sources: Sequence[Dataset], algorithm: Algorithm
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=tracking_uid(identity.instance_uid, structure.name), identifier=structure.name
        ),
        finding_type=dicom_code(structure.type),
        finding_category=dicom_code(structure.category),
        finding_sites=finding_sites(structure),
        algorithm_id=_identification(algorithm),
        measurements=[volume_ml(0.0)],
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(name=FINDINGS_SUMMARY, value=WITHOUT_FINDINGS)],
        source_images=[
            hd.sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID) for source in sources
        ],
    )


def volume_ml(ml: float) -> hd.sr.Measurement:
    """A volume in millilitres as a report states it."""
    return hd.sr.Measurement(name=_VOLUME, value=round(ml, 6), unit=_MILLILITRE)


def finding_sites(structure: Structure) -> list[hd.sr.FindingSite] | None:
    """A structure whose type needs a modifier carries both as its site (TID 1419, topographical modifier)."""
    if structure.modifier is None:
        return None
    return [
        hd.sr.FindingSite(
            anatomic_location=dicom_code(structure.type), topographical_modifier=dicom_code(structure.modifier)
        )
    ]


def _identification(algorithm: Algorithm) -> hd.sr.AlgorithmIdentification:
    return hd.sr.AlgorithmIdentification(
        name=algorithm.name,
        version=algorithm.version,
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=MANUFACTURER,
    )


def _containers(item: Dataset, concept: str) -> list[Dataset]:
    """All containers of this concept below an item, in document order."""
    found = _children(item, concept)
    return found + [inner for child in item.get("ContentSequence", []) for inner in _containers(child, concept)]


def _children(item: Dataset, concept: str) -> list[Dataset]:
    return [
        child
        for child in item.get("ContentSequence", [])
        if child.get("ConceptNameCodeSequence") and child.ConceptNameCodeSequence[0].get("CodeValue") == concept
    ]
