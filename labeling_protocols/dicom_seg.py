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

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.protocol import Code, Protocol, Structure
from labeling_protocols.pseudonyms import keyed_uid
from labeling_protocols.series import geometry_of

MANUFACTURER = "Overread"

# Patient and General Study module (PS3.3 C.7.1.1, C.7.2.1): must be there, may be empty.
_TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
# A frame may lie this far (in voxels) from the grid it is read onto.
_GRID_TOLERANCE = 0.05


class SegError(ValueError):
    """A segmentation that cannot be written or mapped to a protocol: what was found, what was expected."""


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
    label: Volume,
    sources: Sequence[Dataset],
    protocol: Protocol,
    identity: ObjectIdentity,
    *,
    algorithm: Algorithm | None = None,
    creator: str | None = None,
) -> Dataset:
    """A BINARY segmentation with one segment for each structure of the protocol that has voxels.

    `sources` are the slices of the series in the order of the label's z axis (as `read_series` gives them). Structures
    without voxels are named in the Content Description. With an `algorithm` the segments are AUTOMATIC, without one
    MANUAL, by `creator`. Raises `SegError` for an empty label, foreign values or another grid.
    """
    _refuse_label(label, sources, protocol)
    present = [structure for structure in protocol.structures if bool((label.array_ZYX == structure.value).any())]
    absent = [structure.name for structure in protocol.structures if structure not in present]
    numbers_ZYX = np.zeros(label.array_ZYX.shape, np.uint8)
    for number, structure in enumerate(present, start=1):
        numbers_ZYX[label.array_ZYX == structure.value] = number
    seg = hd.seg.Segmentation(
        source_images=as_evidence(sources),
        pixel_array=numbers_ZYX,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _describe(number, structure, identity, algorithm) for number, structure in enumerate(present, start=1)
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
        content_creator_name=creator,
        contributing_equipment=[equipment(algorithm)] if algorithm else None,
    )
    seg.SeriesDescription = protocol.title[:64]
    for segment, structure in zip(seg.SegmentSequence, present, strict=True):
        if structure.modifier:
            concept = hd.sr.CodedConcept.from_code(dicom_code(structure.modifier))
            segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [concept]
    return seg


def label_from_seg(seg: Dataset, protocol: Protocol, onto: Geometry | Sequence[Dataset]) -> Volume:
    """The label a segmentation draws on a grid, or on the grid of ordered slices, in the protocol's values (uint8).

    Reads BINARY and LABELMAP. Each segment is mapped by type and modifier code and each frame by its own place and
    orientation. Raises `SegError` for FRACTIONAL, a segment no structure has the codes of, two segments of one
    structure, overlapping structures, or a frame that does not lie on the grid.
    """
    geometry = onto if isinstance(onto, Geometry) else geometry_of(onto)
    kind = str(seg.get("SegmentationType", "missing"))
    if kind not in ("BINARY", "LABELMAP"):
        raise SegError(f"segmentation type {kind}, BINARY or LABELMAP was expected; nothing was read")
    values = {int(segment.SegmentNumber): value for segment, value in _mapped(seg, protocol)}
    frames = seg.pixel_array.reshape(-1, int(seg.Rows), int(seg.Columns))
    label_ZYX = np.zeros(geometry.shape_ZYX, np.uint8)
    for frame_YX, groups in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        target = _frame_index(seg, groups, geometry, frame_YX)
        if kind == "BINARY":
            number = int(_macro(seg, groups, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            drawn = np.full(np.count_nonzero(frame_YX), values[number], np.uint8)
        else:
            drawn = _labelmap_values(frame_YX[frame_YX > 0], values)
        before = label_ZYX[target]
        if np.any((before != 0) & (drawn != 0) & (before != drawn)):
            raise SegError("two segments of the protocol overlap; one structure a voxel was expected")
        label_ZYX[target] = np.where(drawn != 0, drawn, before)
    return Volume(array_ZYX=label_ZYX, geometry=geometry)


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


def _refuse_label(label: Volume, sources: Sequence[Dataset], protocol: Protocol) -> None:
    found = {int(value) for value in np.unique(label.array_ZYX)} - {0}
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


def _describe(
    number: int, structure: Structure, identity: ObjectIdentity, algorithm: Algorithm | None
) -> hd.seg.SegmentDescription:
    kind = hd.seg.SegmentAlgorithmTypeValues
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=structure.title[:64],
        segmented_property_category=dicom_code(structure.category),
        segmented_property_type=dicom_code(structure.type),
        algorithm_type=kind.AUTOMATIC if algorithm else kind.MANUAL,
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


def _frame_index(
    seg: Dataset, groups: Dataset, geometry: Geometry, frame_YX: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Where on the grid (z, y, x) the non-zero pixels of one frame lie."""
    frame_to_patient = _frame_affine(seg, groups)
    frame_to_grid = np.linalg.inv(geometry.affine_LPS()) @ frame_to_patient
    row, column = np.nonzero(frame_YX)
    points_XYZ = frame_to_grid @ np.stack([column, row, np.zeros_like(row), np.ones_like(row)])
    index_XYZ = np.rint(points_XYZ[:3]).astype(np.intp)
    off = float(np.abs(points_XYZ[:3] - index_XYZ).max(initial=0))
    steps = np.abs(frame_to_grid[:3, :2])
    if off > _GRID_TOLERANCE or np.abs(steps - np.rint(steps)).max() > _GRID_TOLERANCE:
        raise SegError(
            f"a frame's pixels lie up to {off:.2f} voxels beside the image's, or have another size or direction;"
            " a segmentation on the image's own grid was expected"
        )
    x, y, z = index_XYZ
    if row.size and (index_XYZ.min() < 0 or bool(np.any(index_XYZ.max(axis=1) >= geometry.shape_ZYX[::-1]))):
        raise SegError("a frame draws outside the image; a segmentation of this series was expected")
    return z, y, x


def _frame_affine(seg: Dataset, groups: Dataset) -> NDArray[np.float64]:
    """4×4 matrix from (column, row, 0) of a frame to millimetres in LPS (PS3.3 C.7.6.2.1.1)."""
    orientation = np.array(_macro(seg, groups, "PlaneOrientationSequence").ImageOrientationPatient, float)
    row_mm, column_mm = (float(v) for v in _macro(seg, groups, "PixelMeasuresSequence").PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * column_mm
    affine[:3, 1] = orientation[3:] * row_mm
    affine[:3, 2] = 0
    affine[:3, 3] = np.array(_macro(seg, groups, "PlanePositionSequence").ImagePositionPatient, float)
    return affine


def _macro(seg: Dataset, groups: Dataset, name: str) -> Dataset:
    """A functional group of a frame, its own or the shared one (PS3.3 C.7.6.16)."""
    sequence = groups.get(name) or seg.SharedFunctionalGroupsSequence[0].get(name)
    if not sequence:
        raise SegError(f"a frame has no {name}; it cannot be placed")
    return sequence[0]
