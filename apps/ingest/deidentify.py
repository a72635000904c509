"""A DICOM instance in, the same image without anything that names the patient, the people or the place out.

The policy is the ordered list `POLICY`: the first rule that applies to an element decides. It is the Basic Application
Level Confidentiality Profile (PS3.15 annex E, table E.1-1 as dicom-anonymizer carries it), stricter where the profile
leaves room: private and unknown elements, long texts and dates go too. What describes the acquisition (maker, model,
spacing, position, timing and energy values, rescale) is in no list of the profile and stays. UIDs and the patient id
become keyed names of the site, so that studies of one patient stay together over batches and years.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from io import BytesIO

from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydicom import DataElement, Dataset, FileDataset, Sequence, dcmwrite
from pydicom.datadict import dictionary_has_tag, keyword_for_tag
from pydicom.dataset import FileMetaDataset
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID

from labeling_protocols.pseudonyms import keyed_uid, patient_pseudonym

PROFILE = "dicomfields_2026c"
METHOD = "Overread: PS3.15 2026c Basic Profile, keyed UIDs and ids"
_PROFILE_CODE = ("113100", "DCM", "Basic Application Confidentiality Profile")  # PS3.16 CID 7050


class Action(Enum):
    """What becomes of an element (PS3.15 table E.1-1a): X, Z, D, U and K."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    REPLACE_UID = "U"
    KEEP = "K"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One line of the policy: where `applies` says yes, `action` (or what it returns) is done."""

    name: str
    applies: Callable[[DataElement], bool]
    action: Callable[[DataElement], Action]


def deidentify(instance: Dataset, secret: bytes) -> FileDataset:
    """A new instance with new UIDs, the patient's pseudonym, no identifier of the original and its pixels unchanged."""
    clean = _cleaned(instance, secret, _identifiers(instance))
    clean.PatientID = clean.PatientName = pseudonym_of(instance, secret)
    clean.PatientIdentityRemoved = "YES"
    clean.LongitudinalTemporalInformationModified = "REMOVED"
    clean.DeidentificationMethod = METHOD
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = _PROFILE_CODE
    clean.DeidentificationMethodCodeSequence = [code]
    meta = FileMetaDataset()  # nothing of the original's: it may name stations and applications
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = clean.SOPClassUID, clean.SOPInstanceUID
    meta.TransferSyntaxUID = instance.file_meta.TransferSyntaxUID
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    return FileDataset("", clean, file_meta=meta, preamble=b"\0" * 128)


def deidentified_bytes(instance: Dataset, secret: bytes) -> tuple[str, bytes]:
    """The new SOP Instance UID and the file of the de-identified instance."""
    clean = deidentify(instance, secret)
    file = BytesIO()
    dcmwrite(file, clean, enforce_file_format=True)
    return str(clean.SOPInstanceUID), file.getvalue()


def pseudonym_of(instance: Dataset, secret: bytes) -> str:
    """The site's name for the instance's patient; where no patient id was given, its study stands for the patient."""
    patient = str(instance.get("PatientID", "") or "").strip()
    return patient_pseudonym(secret, patient or f"study {instance.get('StudyInstanceUID', '')}")


def repeats_identifier(instance: Dataset, text: str) -> bool:
    """Whether a text repeats a word of a person's name, or an identifier of the patient, that the instance holds."""
    return _identifiers(instance).stand_in(text)


def new_uid(secret: bytes, uid: str) -> str:
    """What this UID is called at this site."""
    return keyed_uid(secret, "uid", uid)


# The policy

_RETIRED_PIXEL_GROUPS = (*range(0x5000, 0x5100, 2), *range(0x6000, 0x6100, 2))  # curves and overlays
_TEXT = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT")
_LONG_TEXT = ("LT", "ST", "UT", "UR")
_BINARY = ("OB", "OD", "OF", "OL", "OV", "OW", "UN", "OB or OW")
_BINARY_KEPT = ("PixelData",)
_LOOKUP_TABLE = re.compile(r"LUTData$|LookupTableData$")
# Sequences that refer to other images: kept for their geometry, with new UIDs inside.
_KEPT_SEQUENCES = ("ReferencedImageSequence", "SourceImageSequence")


def _profile_actions() -> dict[tuple[int, int], Action]:
    """Action of each single tag of the profile; where it leaves a choice, what keeps a CT or MR image valid."""
    table = dicom_anonymization_database_selector(PROFILE)
    chosen = {
        "X_TAGS": Action.REMOVE,
        "X_D_TAGS": Action.REMOVE,
        "X_Z_D_TAGS": Action.REMOVE,
        "X_Z_TAGS": Action.EMPTY,
        "Z_TAGS": Action.EMPTY,
        "Z_D_TAGS": Action.EMPTY,
        "D_TAGS": Action.DUMMY,
        "U_TAGS": Action.REPLACE_UID,
        "X_Z_U_STAR_TAGS": Action.REMOVE,
    }
    actions: dict[tuple[int, int], Action] = {}
    for group, action in chosen.items():
        actions.update({tag: action for tag in table[group] if len(tag) == 2})
    return actions


_PROFILE_ACTIONS = _profile_actions()


def _profile_action(element: DataElement) -> Action:
    return _PROFILE_ACTIONS[(element.tag.group, element.tag.element)]


POLICY: tuple[Rule, ...] = (
    Rule(name="private elements", applies=lambda e: e.tag.is_private, action=lambda _: Action.REMOVE),
    Rule(
        name="elements the standard does not know",
        applies=lambda e: not dictionary_has_tag(e.tag) or e.tag.element == 0,
        action=lambda _: Action.REMOVE,
    ),
    Rule(
        name="curves and overlays",
        applies=lambda e: e.tag.group in _RETIRED_PIXEL_GROUPS,
        action=lambda _: Action.REMOVE,
    ),
    Rule(
        name="references to images",
        applies=lambda e: keyword_for_tag(e.tag) in _KEPT_SEQUENCES,
        action=lambda _: Action.KEEP,
    ),
    Rule(
        name="the profile's table",
        applies=lambda e: (e.tag.group, e.tag.element) in _PROFILE_ACTIONS,
        action=_profile_action,
    ),
    Rule(name="all other UIDs", applies=lambda e: e.VR == "UI", action=lambda _: Action.REPLACE_UID),
    Rule(
        name="names, dates and long texts in no table",
        applies=lambda e: e.VR in ("PN", "DA", "DT", *_LONG_TEXT),
        action=lambda _: Action.REMOVE,
    ),
    Rule(
        name="binary values other than pixels and lookup tables",
        applies=lambda e: (
            e.VR in _BINARY
            and keyword_for_tag(e.tag) not in _BINARY_KEPT
            and not _LOOKUP_TABLE.search(keyword_for_tag(e.tag))
        ),
        action=lambda _: Action.REMOVE,
    ),
    Rule(name="everything else", applies=lambda _: True, action=lambda _: Action.KEEP),
)


# Doing it


def _cleaned(dataset: Dataset, secret: bytes, known: "_Identifiers") -> Dataset:
    clean = Dataset()
    for element in _readable(dataset):
        rule = next(rule for rule in POLICY if rule.applies(element))
        kept = _changed(element, rule.action(element), secret, known)
        if kept is not None:
            clean.add(kept)
    return clean


def _readable(dataset: Dataset) -> Iterator[DataElement]:
    """The elements that can be read as what they say they are; one that cannot is not carried over."""
    for tag in sorted(dataset.keys()):
        try:
            element = dataset[tag]
            _ = str(element.value) if element.VR in _TEXT else None
        except (ValueError, TypeError, KeyError, NotImplementedError, LookupError, AttributeError, OverflowError):
            continue
        yield element


def _changed(element: DataElement, action: Action, secret: bytes, known: "_Identifiers") -> DataElement | None:
    if action is Action.REMOVE:
        return None
    if action is Action.EMPTY:
        return DataElement(element.tag, element.VR, [] if element.VR == "SQ" else None)
    if action is Action.DUMMY:
        dummy = _DUMMIES.get(element.VR)
        return None if dummy is None else DataElement(element.tag, element.VR, dummy)
    if element.VR == "UI":
        return DataElement(element.tag, "UI", [_site_uid(secret, str(uid)) for uid in _values(element)])
    if element.VR == "SQ":
        items = [_cleaned(item, secret, known) for item in element.value]
        return DataElement(element.tag, "SQ", Sequence(items))
    if element.VR in _TEXT and any(known.stand_in(str(value)) for value in _values(element)):
        return DataElement(element.tag, element.VR, None)
    return DataElement(element.tag, element.VR, element.value)


# A dummy of the element's own type; what has none is removed.
_DUMMIES = {
    **{vr: "REMOVED" for vr in ("CS", "LO", "SH", "LT", "ST", "UC", "UT", "PN", "AE")},
    **{"DA": "19000101", "TM": "000000", "DT": "19000101000000", "AS": "000Y"},
    **{"DS": "0", "IS": "0", "UI": None},
}


def _site_uid(secret: bytes, uid: str) -> str:
    """UIDs that DICOM itself registered (SOP classes, transfer syntaxes, …) say nothing about a patient and stay."""
    return uid if uid.startswith("1.2.840.10008.") or not uid else new_uid(secret, uid)


def _values(element: DataElement) -> list[object]:
    if element.value is None:
        return []
    return list(element.value) if element.VM > 1 else [element.value]


# Identifiers that stand where the profile does not look for them

_IDENTIFIERS = (
    *("PatientID", "OtherPatientIDs", "AccessionNumber", "PatientBirthDate", "AdmissionID", "MedicalRecordLocator"),
    *("PatientTelephoneNumbers", "PatientInsurancePlanIdentification"),
)
_SHORTEST = 3


@dataclass(frozen=True, kw_only=True)
class _Identifiers:
    """What must not be repeated in any text: each word of a person's name, and identifiers as a whole."""

    words: frozenset[str]
    wholes: frozenset[str]

    def stand_in(self, text: str) -> bool:
        return bool(_words(text) & self.words) or any(whole in text.lower() for whole in self.wholes)


def _identifiers(instance: Dataset) -> _Identifiers:
    words: set[str] = set()
    wholes: set[str] = set()
    for element in _all_elements(instance):
        if element.VR == "PN":
            words.update(word for value in _values(element) for word in _words(str(value)))
        elif keyword_for_tag(element.tag) in _IDENTIFIERS:
            wholes.update(str(value).strip().lower() for value in _values(element))
    return _Identifiers(words=frozenset(words), wholes=frozenset(w for w in wholes if len(w) >= _SHORTEST))


def _all_elements(dataset: Dataset) -> Iterator[DataElement]:
    for element in _readable(dataset):
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from _all_elements(item)


def _words(text: str) -> set[str]:
    return {word for word in re.split(r"[\W_]+", text.lower()) if len(word) >= _SHORTEST}
