"""Segments of a DICOM segmentation in, the protocol's structures they draw out: by code, never by position.

What a segment is stands in its Segmented Property Type Code and the Modifier nested in it (PS3.3 table C.8.20-4).
OHIF, and 3D Slicer until somebody chooses a terminology, write one code for whatever a person drew, "Tissue" as both
category and type: such a code says no more than that it is of the body. There, and where a writer left the codes out,
a segment belongs to the structure whose name or title its label is, letter by letter; any other label is refused, and
so is a label that contradicts a code which does say something. The place in the sequence decides nothing.
"""

from collections.abc import Sequence

from pydicom import Dataset
from pydicom.sr.coding import Code as DicomCode

from labeling_protocols.dicom_items import SegError, items_of, text_of
from labeling_protocols.protocol import Code, Protocol, Structure

BACKGROUND = DicomCode("125040", "DCM", "Background")

# What CID 7150 (Segmentation Property Categories) offers as categories, and SNOMED CT's "organ": as a type they name no
# structure. pydicom's codes take the SNOMED-RT values of older files (T-D0050) for these.
_SAYS_NOTHING = tuple(
    DicomCode(value, "SCT", meaning)
    for value, meaning in (
        ("85756007", "Tissue"),
        ("123037004", "Anatomical Structure"),
        ("113343008", "Organ"),
        ("49755003", "Morphologically Altered Structure"),
        ("260787004", "Physical object"),
        ("309825002", "Spatial and Relational Concept"),
        ("91720002", "Body Substance"),
    )
)
_SHOWN = 8


def dicom_code(code: Code) -> DicomCode:
    return DicomCode(code.value, code.scheme, code.meaning)


def structure_of(segment: Dataset, protocol: Protocol) -> Structure:
    """The outlined structure a segment draws; raises `SegError` where there is none, or more than one.

    Type and modifiers decide. The category, which writers choose freely for one and the same type, decides among
    structures that share both.
    """
    type_, modifiers = segment_codes(segment)
    if (type_ is None or type_ in _SAYS_NOTHING) and not modifiers:
        label = text_of(segment, "SegmentLabel")
        named = [structure for structure in protocol.outlined if label in (structure.name, structure.title)]
        if len(named) == 1:
            return named[0]
    found = [structure for structure in protocol.structures if _has_codes(structure, type_, modifiers)]
    if len(found) > 1:
        found = [structure for structure in found if _is_in_category(structure, segment)]
    if len(found) == 1 and found[0] in protocol.outlined:
        return found[0]
    raise SegError(f"{spoken_segment(segment)} {_why_not(found, type_, modifiers, protocol)}")


def is_background(segment: Dataset) -> bool:
    """Whether a segment says that it is none (CID 7150's Background, as label maps describe it)."""
    type_, _ = segment_codes(segment)
    return type_ is not None and type_ == BACKGROUND


def segment_codes(segment: Dataset) -> tuple[DicomCode | None, tuple[DicomCode, ...]]:
    """Type and modifiers of a segment, None and nothing where it says neither."""
    types = items_of(segment, "SegmentedPropertyTypeCodeSequence")
    keyword = "SegmentedPropertyTypeModifierCodeSequence"
    modifiers = (items_of(types[0], keyword) if types else []) or items_of(segment, keyword)  # some put it beside
    return (_read_code(types[0]) if types else None), tuple(_read_code(item) for item in modifiers)


def spoken_segment(segment: Dataset) -> str:
    return f"segment {text_of(segment, 'SegmentNumber') or 'without a number'}"


def _has_codes(structure: Structure, type_: DicomCode | None, modifiers: Sequence[DicomCode]) -> bool:
    expected = [dicom_code(structure.modifier)] if structure.modifier else []
    return type_ is not None and dicom_code(structure.type) == type_ and expected == list(modifiers)


def _is_in_category(structure: Structure, segment: Dataset) -> bool:
    categories = items_of(segment, "SegmentedPropertyCategoryCodeSequence")
    return bool(categories) and dicom_code(structure.category) == _read_code(categories[0])


def _why_not(
    found: Sequence[Structure], type_: DicomCode | None, modifiers: Sequence[DicomCode], protocol: Protocol
) -> str:
    coded = f"is coded {_spoken(type_)} with modifier {' and '.join(map(_spoken, modifiers)) or 'none'}"
    if len(found) == 1:
        return f"{coded}, which is {found[0].name}; protocol {protocol.name} does not outline it"
    if found:
        return f"{coded}, as are {', '.join(structure.name for structure in found)}; nothing tells which it is"
    known = "; ".join(
        f"{structure.name} {_spoken(dicom_code(structure.type))} with"
        f" {_spoken(dicom_code(structure.modifier) if structure.modifier else None)}"
        for structure in protocol.outlined[:_SHOWN]
    )
    reason = f"{coded}; protocol {protocol.name} knows {known}"
    if type_ is None or type_ in _SAYS_NOTHING:
        reason += (
            ". A code as general as this one is taken by the segment's label, if that is a structure's name or title"
        )
    return reason


def _read_code(item: Dataset) -> DicomCode:
    value = text_of(item, "CodeValue") or text_of(item, "LongCodeValue") or text_of(item, "URNCodeValue")
    return DicomCode(value, text_of(item, "CodingSchemeDesignator"), "")


def _spoken(code: DicomCode | None) -> str:
    return f"({code.value[:20]}, {code.scheme_designator[:16]})" if code else "none"
