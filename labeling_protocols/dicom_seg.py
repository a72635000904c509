"""A label volume in, a DICOM Segmentation out; reading one back is `dicom_seg_reading.py`.

Segments are numbered as DICOM wants them (1, 2, …); what a segment means stands in its Segmented Property Type Code
Sequence and the Modifier nested in it (PS3.3 table C.8.20-4), so the number and the order never carry meaning. Every
outlined structure of the protocol gets its segment, also one without a voxel: that it was looked for and is absent is
a statement, and a reader of the file finds it under its code. highdicom makes the object once, of two slices of one
pixel; frames and what describes them are put beside it (`dicom_seg_frames.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.valuerep import DSfloat

from labeling_protocols.dicom_items import SegError
from labeling_protocols.dicom_seg_codes import dicom_code
from labeling_protocols.dicom_seg_frames import (
    drawn_frames,
    labelmap_frames,
    packed_frames,
    per_frame_items,
    present_values,
    referenced_instances,
)
from labeling_protocols.dicom_seg_reading import SegReading, label_from_seg, read_seg
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol, Structure
from labeling_protocols.pseudonyms import keyed_uid
from labeling_protocols.series import geometry_of

__all__ = [
    "MANUFACTURER",
    "Algorithm",
    "ObjectIdentity",
    "SegError",
    "SegForm",
    "SegReading",
    "as_evidence",
    "dicom_code",
    "drawn_segments",
    "equipment",
    "label_from_seg",
    "read_seg",
    "seg_from_label",
    "tracking_uid",
]

MANUFACTURER = "Overread"
ABSENT = "Looked for and not present: no voxel belongs to it."

# Patient and General Study module (PS3.3 C.7.1.1, C.7.2.1): must be there, may be empty.
_TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)


class SegForm(StrEnum):
    """How voxels are stored (PS3.3 C.8.20.2); a destination that takes LABELMAP must know its own SOP class."""

    BINARY = "BINARY"
    LABELMAP = "LABELMAP"


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """The model version that drew the segments; `device_uid` is the same for everything this version ever makes."""

    name: str
    version: str
    device_uid: str


@dataclass(frozen=True, kw_only=True)
class ObjectIdentity:
    """The UIDs and numbers a written object gets; the caller keeps them stable, so that a repeated run repeats them."""

    series_uid: str
    instance_uid: str
    series_number: int


def seg_from_label(
    label: Label | Volume,
    sources: Sequence[Dataset],
    protocol: Protocol,
    identity: ObjectIdentity,
    *,
    algorithm: Algorithm | None = None,
    creator: str | None = None,
    form: SegForm = SegForm.BINARY,
) -> Dataset:
    """A segmentation with one segment for each outlined structure of the protocol.

    `sources` are the slices of the series in the order of the label's z axis (as `read_series` gives them). Structures
    without voxels have a segment without frames, described as absent; a label without any voxel has one blank frame.
    The segments are MANUAL, by `creator`, without an `algorithm`, AUTOMATIC with one and no `creator`, and
    SEMIAUTOMATIC with both: a human's work that began from an algorithm's. Raises `SegError` for foreign values,
    another grid, or structures that share voxels where `form` is LABELMAP, which holds one a voxel.
    """
    layers_LZYX = (label if isinstance(label, Label) else Label.of(label)).layers_LZYX
    if not len(layers_LZYX):
        layers_LZYX = np.zeros((1, *label.geometry.shape_ZYX), np.uint8)
    values = [structure.value for structure in protocol.outlined]
    present_ZV = present_values(layers_LZYX)
    _refuse_label(label.geometry, present_ZV, sources, protocol)
    overlap = _overlap(layers_LZYX)
    if overlap and form is SegForm.LABELMAP:
        raise SegError("structures share voxels, and a LABELMAP holds one a voxel; BINARY was expected")
    drawn = drawn_frames(present_ZV[:, values], as_labelmap=form is SegForm.LABELMAP)
    absent = [structure for structure in protocol.outlined if not present_ZV[:, structure.value].any()]
    seg = _skeleton(sources, protocol, identity, absent, algorithm, creator, form)
    seg.SegmentsOverlap = "YES" if overlap else "NO"
    seg.Rows, seg.Columns = layers_LZYX.shape[2:]
    seg.NumberOfFrames = drawn.slices.size
    used = drawn.used
    if (form is SegForm.LABELMAP or len(values) == 1) and len(used) > 1 and len(set(np.diff(used))) == 1:
        seg.DimensionOrganizationType = "3D"  # frames told apart by their place alone, evenly spaced
    pack = packed_frames if form is SegForm.BINARY else labelmap_frames
    items = per_frame_items(sources, drawn, segment_items=form is SegForm.BINARY and len(values) > 1)
    return _assembled(seg, items, pack(layers_LZYX, values, drawn))


def drawn_segments(seg: Dataset) -> dict[str, int]:
    """The number of each segment that has voxels, by its structure's name, of a segmentation made here."""
    return {
        str(segment.TrackingID): int(segment.SegmentNumber)
        for segment in seg.SegmentSequence
        if "TrackingID" in segment and segment.get("SegmentDescription") != ABSENT
    }


def tracking_uid(instance_uid: str, structure: str) -> str:
    """The UID under which one structure of one segmentation is tracked, the same in the SEG and in its SR."""
    return keyed_uid(b"overread tracking", "tracking", instance_uid, structure)


def equipment(algorithm: Algorithm) -> Dataset:
    """The model version as a device that took part (PS3.3 C.12.1, Contributing Equipment Sequence)."""
    device = hd.ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=algorithm.name,
        software_versions=algorithm.version,
        device_serial_number=algorithm.device_uid,
    )
    device.DeviceUID = algorithm.device_uid
    return device


def as_evidence(sources: Sequence[Dataset]) -> list[Dataset]:
    """The slices' headers with the type 2 elements that new objects copy, empty where a scanner left them out."""
    headers = [source[:] for source in sources]  # datasets of their own: copy.copy() would share the elements
    for header in headers:
        for keyword in _TYPE_2:
            if keyword not in header:
                setattr(header, keyword, None)
    return headers


# Writing


def _refuse_label(
    geometry: Geometry, present_ZV: NDArray[np.bool_], sources: Sequence[Dataset], protocol: Protocol
) -> None:
    foreign = {int(value) for value in np.flatnonzero(present_ZV.any(axis=0))} - set(protocol.values.values())
    if foreign:
        raise SegError(f"the label has values {sorted(foreign)} unknown to {protocol.name}; nothing was written")
    if any(not source.get("FrameOfReferenceUID") for source in sources):
        raise SegError("the series has no Frame of Reference UID, which a segmentation must share; nothing was written")
    difference = geometry_of(sources).difference(geometry)
    if difference:
        raise SegError(f"the label does not lie on the series' grid: {difference}; nothing was written")


def _skeleton(
    sources: Sequence[Dataset],
    protocol: Protocol,
    identity: ObjectIdentity,
    absent: Sequence[Structure],
    algorithm: Algorithm | None,
    creator: str | None,
    form: SegForm,
) -> Dataset:
    """The object without its frames, as highdicom makes it of the first two slices were they one pixel large."""
    evidence = as_evidence(sources[:2])
    for header in evidence:
        for keyword in ("Rows", "Columns"):
            header.add_new(keyword, "US", 1)  # an element of its own, where setting would change the source's
    named = ", ".join(structure.name for structure in absent)
    seg = hd.seg.Segmentation(
        source_images=evidence,
        pixel_array=np.array([1, 0], np.uint8).reshape(2, 1, 1),
        segmentation_type=form.value,
        segment_descriptions=[
            _describe(number, structure, identity, algorithm, creator)
            for number, structure in enumerate(protocol.outlined, start=1)
        ],
        series_instance_uid=identity.series_uid,
        series_number=identity.series_number,
        sop_instance_uid=identity.instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=algorithm.name if algorithm else protocol.name,
        software_versions=algorithm.version if algorithm else f"protocol {protocol.version}",
        device_serial_number=algorithm.device_uid if algorithm else "none",
        content_label="SEGMENTATION",
        content_description=(f"Not present: {named}" if absent else "All structures present")[:64],
        content_creator_name=creator if not creator or "^" in creator else f"{creator}^",  # PS3.5 6.2: it has parts
        contributing_equipment=[equipment(algorithm)] if algorithm else None,
    )
    seg.SeriesDescription = protocol.title[:64]
    for structure in protocol.outlined:
        segment = next(item for item in seg.SegmentSequence if item.get("TrackingID") == structure.name)
        if structure.modifier:
            concept = hd.sr.CodedConcept.from_code(dicom_code(structure.modifier))
            segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [concept]
        if structure in absent:
            segment.SegmentDescription = ABSENT
    return _referring(seg, sources)


def _referring(seg: Dataset, sources: Sequence[Dataset]) -> Dataset:
    """The skeleton with all slices among its references, and their spacing."""
    value = referenced_instances(sources)
    for holder, keyword in (
        (seg, "SourceImageSequence"),
        (seg.ReferencedSeriesSequence[0], "ReferencedInstanceSequence"),
    ):
        holder[keyword] = RawDataElement(Tag(keyword), "SQ", len(value), value, 0, False, True)
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SpacingBetweenSlices = DSfloat(geometry_of(sources).spacing_mm_XYZ[2], auto_format=True)
    return seg


def _assembled(seg: Dataset, items: bytes, pixels: bytes) -> Dataset:
    """The object with these frames. Their items are parsed when somebody looks, and written again as they are."""
    del seg.PerFrameFunctionalGroupsSequence, seg.PixelData
    file = BytesIO()
    seg.save_as(file, enforce_file_format=True)
    file.write(items)  # (5200,9230); after it comes the pixel data alone
    file.seek(0)
    whole = dcmread(file)
    whole.add_new("PixelData", "OB", pixels)
    return whole


def _overlap(layers_LZYX: NDArray[np.uint8]) -> bool:
    """Whether a voxel belongs to two structures."""
    if len(layers_LZYX) == 1:
        return False
    top = layers_LZYX[0].copy()
    for layer_ZYX in layers_LZYX[1:]:
        if bool(((top != 0) & (layer_ZYX != 0) & (top != layer_ZYX)).any()):
            return True
        np.maximum(top, layer_ZYX, out=top)
    return False


def _describe(
    number: int, structure: Structure, identity: ObjectIdentity, algorithm: Algorithm | None, creator: str | None
) -> hd.seg.SegmentDescription:
    kind = hd.seg.SegmentAlgorithmTypeValues
    drawn_by = kind.MANUAL if algorithm is None else kind.AUTOMATIC if creator is None else kind.SEMIAUTOMATIC
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=structure.title[:64],
        segmented_property_category=dicom_code(structure.category),
        segmented_property_type=dicom_code(structure.type),
        algorithm_type=drawn_by,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=algorithm.name, family=codes.DCM.ArtificialIntelligence, version=algorithm.version
        )
        if algorithm
        else None,
        tracking_uid=tracking_uid(identity.instance_uid, structure.name),
        tracking_id=structure.name,
        display_color=hd.color.CIELabColor.from_rgb(*bytes.fromhex(structure.color[1:])),
    )
