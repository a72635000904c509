"""A label volume in, a DICOM Segmentation out, and back: codes tell structures apart, places tell voxels apart.

Segments are numbered as DICOM wants them (1, 2, …); what a segment means stands in its Segmented Property Type Code
Sequence and the Modifier nested in it (PS3.3 table C.8.20-4), so the number and the order never carry meaning.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from labeling_protocols.dicom_frames import SegError, frame_index, macro
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Label, whole_structures
from labeling_protocols.protocol import Code, Protocol, Structure
from labeling_protocols.pseudonyms import keyed_uid
from labeling_protocols.series import geometry_of

__all__ = [
    "MANUFACTURER",
    "Algorithm",
    "ObjectIdentity",
    "SegError",
    "as_evidence",
    "dicom_code",
    "equipment",
    "label_from_seg",
    "seg_from_label",
    "tracking_uid",
]

MANUFACTURER = "Overread"

# Patient and General Study module (PS3.3 C.7.1.1, C.7.2.1): must be there, may be empty.
_TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)


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
) -> Dataset:
    """A BINARY segmentation with one segment for each structure of the protocol that has voxels.

    `sources` are the slices of the series in the order of the label's z axis (as `read_series` gives them). Structures
    without voxels are named in the Content Description. The segments are MANUAL, by `creator`, without an `algorithm`,
    AUTOMATIC with one and no `creator`, and SEMIAUTOMATIC with both: a human's work that began from an algorithm's.
    Raises `SegError` for an empty label, foreign values or another grid.
    """
    drawn = label if isinstance(label, Label) else Label.of(label)
    _refuse_label(drawn, sources, protocol)
    present = [structure for structure in protocol.outlined if bool((drawn.layers_LZYX == structure.value).any())]
    absent = [structure.name for structure in protocol.outlined if structure not in present]
    seg = hd.seg.Segmentation(
        source_images=as_evidence(sources),
        pixel_array=_pixels(drawn, present),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _describe(number, structure, identity, algorithm, creator)
            for number, structure in enumerate(present, start=1)
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
        content_description=(f"Not present: {', '.join(absent)}" if absent else "All structures present")[:64],
        content_creator_name=creator if not creator or "^" in creator else f"{creator}^",  # PS3.5 6.2: it has parts
        contributing_equipment=[equipment(algorithm)] if algorithm else None,
    )
    seg.SeriesDescription = protocol.title[:64]
    for segment, structure in zip(seg.SegmentSequence, present, strict=True):
        if structure.modifier:
            concept = hd.sr.CodedConcept.from_code(dicom_code(structure.modifier))
            segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [concept]
    return seg


def label_from_seg(seg: Dataset, protocol: Protocol, onto: Geometry | Sequence[Dataset]) -> Label:
    """The label a segmentation draws on a grid, or on the grid of ordered slices, in the protocol's values.

    Reads BINARY and LABELMAP. Each segment is mapped by type and modifier code and each frame by its own place and
    orientation; structures that overlap come into different layers. Raises `SegError` for FRACTIONAL, a segment no
    structure has the codes of, two segments of one structure, structures that overlap and may not, or a frame that does
    not lie on the grid.
    """
    geometry = onto if isinstance(onto, Geometry) else geometry_of(onto)
    kind = str(seg.get("SegmentationType", "missing"))
    if kind not in ("BINARY", "LABELMAP"):
        raise SegError(f"segmentation type {kind}, BINARY or LABELMAP was expected; nothing was read")
    values = {int(segment.SegmentNumber): value for segment, value in _mapped(seg, protocol)}
    frames = seg.pixel_array.reshape(-1, int(seg.Rows), int(seg.Columns))
    layers: list[NDArray[np.uint8]] = [np.zeros(geometry.shape_ZYX, np.uint8)]
    for frame_YX, groups in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        target = frame_index(seg, groups, geometry, frame_YX)
        if kind == "BINARY":
            number = int(macro(seg, groups, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            drawn = np.full(np.count_nonzero(frame_YX), values[number], np.uint8)
        else:
            drawn = _labelmap_values(frame_YX[frame_YX > 0], values)
        _draw(layers, target, drawn, protocol)
    whole = np.stack(layers) if len(layers) == 1 else whole_structures(np.stack(layers))
    return Label(geometry=geometry, layers_LZYX=whole)


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
    headers = [copy.copy(source) for source in sources]
    for header in headers:
        for keyword in _TYPE_2:
            if keyword not in header:
                setattr(header, keyword, None)
    return headers


def dicom_code(code: Code) -> DicomCode:
    return DicomCode(code.value, code.scheme, code.meaning)


# Writing


def _refuse_label(label: Label, sources: Sequence[Dataset], protocol: Protocol) -> None:
    found = {int(value) for value in np.unique(label.layers_LZYX)} - {0}
    foreign = found - set(protocol.values.values())
    if foreign:
        raise SegError(f"the label has values {sorted(foreign)} unknown to {protocol.name}; nothing was written")
    if not found:
        raise SegError("the label is empty and a segmentation needs at least one segment; say so in a report instead")
    if any(not source.get("FrameOfReferenceUID") for source in sources):
        raise SegError("the series has no Frame of Reference UID, which a segmentation must share; nothing was written")
    difference = geometry_of(sources).difference(label.geometry)
    if difference:
        raise SegError(f"the label does not lie on the series' grid: {difference}; nothing was written")


def _pixels(label: Label, present: Sequence[Structure]) -> NDArray[np.uint8]:
    """Segment numbers, or one mask a segment along a last axis where segments share voxels."""
    layers = label.layers_LZYX
    if len(layers) > 1 and np.count_nonzero(layers, axis=0).max() > 1:
        return np.stack([label.mask_ZYX(structure.value) for structure in present], axis=-1).astype(np.uint8)
    table = np.zeros(256, np.uint8)
    for number, structure in enumerate(present, start=1):
        table[structure.value] = number
    pixels: NDArray[np.uint8] = table[layers.max(axis=0)]
    return pixels


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


# Reading


def _draw(
    layers: list[NDArray[np.uint8]], target: tuple[NDArray[np.intp], ...], drawn: NDArray[np.uint8], protocol: Protocol
) -> None:
    """Put a frame's values into the first layer with room for them, or into a new one where they may overlap."""
    names = {value: name for name, value in protocol.values.items()}
    for layer_ZYX in layers:
        before = layer_ZYX[target]
        shared = (before != 0) & (drawn != 0) & (before != drawn)
        if not shared.any():
            layer_ZYX[target] = np.where(drawn != 0, drawn, before)
            return
        pairs = np.unique(np.stack([before[shared], drawn[shared]]), axis=1).T.tolist()
        if not all(protocol.may_overlap(names[a], names[b]) for a, b in pairs):
            raise SegError("two segments of the protocol overlap; one structure a voxel was expected")
    layers.append(np.zeros_like(layers[0]))
    layers[-1][target] = drawn


def _mapped(seg: Dataset, protocol: Protocol) -> list[tuple[Dataset, int]]:
    """Each segment with the voxel value of the structure that has its codes."""
    mapped: list[tuple[Dataset, int]] = []
    for segment in seg.SegmentSequence:
        if str(seg.SegmentationType) == "LABELMAP" and int(segment.SegmentNumber) == 0:
            continue  # a label map may describe its background (PS3.3 C.8.20.2.3.3)
        structure = _structure_of(segment, protocol)
        if structure.value in (value for _, value in mapped):
            raise SegError(f"two segments are coded as {structure.name}; one segment a structure was expected")
        mapped.append((segment, structure.value))
    return mapped


def _structure_of(segment: Dataset, protocol: Protocol) -> Structure:
    type_item = segment.SegmentedPropertyTypeCodeSequence[0]
    keyword = "SegmentedPropertyTypeModifierCodeSequence"
    modifiers = type_item.get(keyword) or segment.get(keyword)  # some writers put it beside the type
    type_, modifier = _read_code(type_item), _read_code(modifiers[0]) if modifiers else None
    for structure in protocol.structures:
        expected = dicom_code(structure.modifier) if structure.modifier else None
        # pydicom's codes take SNOMED-RT values of older files for the SNOMED CT codes they became.
        if dicom_code(structure.type) == type_ and (expected is None) == (modifier is None) and expected == modifier:
            return structure
    known = "; ".join(
        f"{_spoken(dicom_code(s.type))} with {_spoken(dicom_code(s.modifier) if s.modifier else None)}"
        for s in protocol.structures
    )
    raise SegError(
        f"segment {segment.SegmentNumber} is coded {_spoken(type_)} with modifier {_spoken(modifier)};"
        f" protocol {protocol.name} knows {known}"
    )


def _read_code(item: Dataset) -> DicomCode:
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue") or ""
    return DicomCode(str(value), str(item.get("CodingSchemeDesignator", "")), "")


def _spoken(code: DicomCode | None) -> str:
    return f"({code.value}, {code.scheme_designator})" if code else "none"


def _labelmap_values(numbers: NDArray[np.integer[Any]], values: dict[int, int]) -> NDArray[np.uint8]:
    unknown = set(np.unique(numbers).tolist()) - set(values)
    if unknown:
        raise SegError(f"the label map holds the values {sorted(unknown)}, which no segment describes")
    table = np.zeros(max(values, default=0) + 1, np.uint8)
    for number, value in values.items():
        table[number] = value
    return np.asarray(table[numbers])
