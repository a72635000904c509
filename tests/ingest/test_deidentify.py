"""No identifier of the original survives, and what analysis needs does."""

from base64 import b64encode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import DataElement, Dataset, dcmread, dcmwrite
from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword
from pydicom.uid import generate_uid

from apps.ingest.deidentify import POLICY, Action, deidentified_bytes, deidentify, new_uid
from labeling_protocols.series_writer import series_datasets
from tests.conftest import image_of
from tests.dicom.examples import AXIAL, identity_of

SECRET = b"k" * 32
OTHER_SECRET = b"j" * 32

TEXT_VRS = ("AE", "LO", "LT", "SH", "ST", "UC", "UT")
MARK = "Xylander"  # part of every planted value; it occurs nowhere else


def plain_image() -> Dataset:
    return series_datasets(image_of(1, AXIAL), identity_of("deid"))[0]


def reread(instance: Dataset, secret: bytes = SECRET) -> tuple[bytes, Dataset]:
    _, content = deidentified_bytes(instance, secret)
    return content, dcmread(BytesIO(content))


def plant(instance: Dataset) -> list[str]:
    """Put identifiers wherever a file can hold them; returns the strings to look for."""
    instance.PatientName = f"{MARK}^Ottilie^Maria=山田^太郎"
    instance.SpecificCharacterSet = "ISO_IR 192"
    instance.PatientID, instance.AccessionNumber = "ID-4711-0815", "ACC-99-XY"
    instance.PatientBirthDate, instance.PatientBirthTime = "19410203", "040506"
    instance.OtherPatientIDs = ["OTHER-1", "OTHER-2"]
    instance.PatientAddress = f"{MARK} Street 5"
    instance.OperatorsName = f"{MARK}^Op"
    instance.StudyDescription = instance.SeriesDescription = f"Follow-up of {MARK}"
    instance.ProtocolName = instance.ImageComments = f"{MARK} brain"
    instance.ImageType = ["ORIGINAL", "PRIMARY", "OTTILIE"]  # where no profile looks for a name
    instance.SequenceName = "ID-4711-0815"
    instance.StudyDate = instance.SeriesDate = instance.AcquisitionDate = "20191224"
    deep = Dataset()
    deep.PatientName, deep.PatientID = f"{MARK}^Nested", "ID-4711-0815"
    deep.ReferencedSOPInstanceUID = "1.2.3.4.55555"
    deep.PersonName = f"{MARK}^Deep"
    outer = Dataset()
    outer.ReferencedImageSequence = [deep]
    outer.add_new(0x00091001, "LO", f"{MARK} in a private element of an item")
    instance.ReferencedImageSequence = [deep]
    instance.RequestAttributesSequence = [outer]
    instance.OriginalAttributesSequence = [deep]
    instance.PerformedProtocolCodeSequence = [outer]
    block = instance.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", f"{MARK} csa".encode())
    block.add_new(0x11, "UN", f"{MARK} csa".encode("utf-16-le"))
    block.add_new(0x12, "SQ", [deep])
    instance.add(DataElement(0x60000010, "US", 8))
    instance.add(DataElement(0x60000022, "LO", f"{MARK} overlay"))
    instance.add(DataElement(0x60003000, "OW", f"{MARK} ovl!".encode()))
    instance.add(DataElement(0x00080098, "UN", f"{MARK} unknown".encode()))
    instance.EncapsulatedDocument = f"{MARK} document!".encode()
    instance.file_meta.SourceApplicationEntityTitle = MARK
    instance.file_meta.PrivateInformationCreatorUID = "1.2.3.4.55555"
    instance.file_meta.PrivateInformation = MARK.encode()
    instance.preamble = MARK.encode().ljust(128, b"\0")
    return [
        *(MARK, "Ottilie", "山田", "太郎", "ID-4711-0815", "ACC-99-XY", "19410203", "040506"),
        *("OTHER-1", "20191224", "1.2.3.4.55555"),
        *(instance.StudyInstanceUID, instance.SeriesInstanceUID, instance.SOPInstanceUID),
        str(instance.FrameOfReferenceUID),
    ]


def test_planted_identifiers_are_nowhere_in_the_bytes() -> None:
    instance = plain_image()
    planted = plant(instance)
    before = BytesIO()
    dcmwrite(before, instance)
    for encoding in ("utf-8", "utf-16-le"):
        assert MARK.encode(encoding) in before.getvalue()  # the search below can find what is there
    content, _ = reread(instance)
    found = [
        value
        for value in planted
        for form in (value.encode(), value.upper().encode(), value.encode("utf-16-le"), b64encode(value.encode()))
        if form in content
    ]
    assert found == []


def test_a_value_in_every_text_element_of_the_dictionary_is_gone_when_it_names_the_patient() -> None:
    """Whatever the table says of an element, a text with the patient's name in it does not stay."""
    instance = plain_image()
    instance.PatientName = f"{MARK}^Ottilie"
    written = 0
    for keyword in keyword_dict:
        tag = tag_for_keyword(keyword)
        if tag is None or tag >> 16 in (0x0000, 0x0002, 0x0004) or tag >> 16 >= 0x5000:
            continue
        vr = dictionary_VR(tag)
        if vr in TEXT_VRS:
            instance.add_new(tag, vr, f"a {MARK}")
            written += 1
        elif vr == "PN":
            instance.add_new(tag, vr, f"{MARK}^Other")
            written += 1
    assert written > 700
    content, _ = reread(instance)
    assert MARK.encode() not in content


def test_what_analysis_needs_stays() -> None:
    instance = plain_image()
    instance.MagneticFieldStrength, instance.RepetitionTime, instance.EchoTime = "3", "2300.5", "2.98"
    instance.ManufacturerModelName, instance.BodyPartExamined = "Skyra", "BRAIN"
    instance.RescaleSlope, instance.RescaleIntercept = "1.5", "-7"
    plant(instance)
    _, clean = reread(instance)
    kept = (
        *("Modality", "SOPClassUID", "Manufacturer", "ManufacturerModelName", "BodyPartExamined"),
        *("MagneticFieldStrength", "RepetitionTime", "EchoTime", "SliceThickness", "SpacingBetweenSlices"),
        *("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "Rows", "Columns"),
        *("RescaleSlope", "RescaleIntercept", "BitsStored", "PixelRepresentation", "PixelData"),
        *("ScanningSequence", "SequenceVariant", "MRAcquisitionType", "PatientPosition", "SeriesNumber"),
    )
    assert {keyword: clean.get(keyword) for keyword in kept} == {keyword: instance.get(keyword) for keyword in kept}


def test_the_file_says_how_it_was_deidentified() -> None:
    _, clean = reread(plain_image())
    assert clean.PatientIdentityRemoved == "YES"
    assert "PS3.15" in clean.DeidentificationMethod
    assert clean.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert clean.LongitudinalTemporalInformationModified == "REMOVED"


def test_uids_and_patients_get_the_same_names_each_time_and_others_at_another_site() -> None:
    first, second = series_datasets(image_of(1, AXIAL), identity_of("one"))[:2]
    clean, again = deidentify(first, SECRET), deidentify(second, SECRET)
    elsewhere = deidentify(first, OTHER_SECRET)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert clean[keyword].value == again[keyword].value
        assert clean[keyword].value != elsewhere[keyword].value
    assert clean.SOPInstanceUID != again.SOPInstanceUID
    assert deidentify(first, SECRET).SOPInstanceUID == clean.SOPInstanceUID
    assert clean.SOPInstanceUID == clean.file_meta.MediaStorageSOPInstanceUID
    assert clean.StudyInstanceUID == new_uid(SECRET, first.StudyInstanceUID)


def test_a_reference_still_points_to_the_instance_it_pointed_to() -> None:
    first, second = series_datasets(image_of(1, AXIAL), identity_of("references"))[:2]
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = second.SOPClassUID, second.SOPInstanceUID
    first.ReferencedImageSequence = [reference]
    clean = deidentify(first, SECRET).ReferencedImageSequence[0]
    assert clean.ReferencedSOPInstanceUID == deidentify(second, SECRET).SOPInstanceUID
    assert clean.ReferencedSOPClassUID == second.SOPClassUID


def test_the_source_is_not_changed() -> None:
    instance = plain_image()
    plant(instance)
    before = instance.to_json()
    deidentify(instance, SECRET)
    assert instance.to_json() == before


def test_a_uid_in_an_element_without_a_rule_is_renamed_too() -> None:
    instance = plain_image()
    secret_uid = generate_uid()
    instance.SourceIrradiationEventSequence = [Dataset()]
    instance.SourceIrradiationEventSequence[0].IrradiationEventUID = [secret_uid, generate_uid()]
    instance.PixelDataProviderURL = "http://host/patient"
    content, clean = reread(instance)
    assert secret_uid.encode() not in content
    assert len(clean.SourceIrradiationEventSequence[0].IrradiationEventUID) == 2
    assert "PixelDataProviderURL" not in clean


def test_the_policy_ends_with_a_rule_for_everything_else() -> None:
    element = DataElement(tag_for_keyword("EchoTime"), "DS", "1")  # type: ignore[arg-type]
    assert [rule.action(element) for rule in POLICY if rule.applies(element)] == [Action.KEEP]


@pytest.mark.real_data
def test_a_real_series_with_synthetic_identifiers_keeps_none_of_them(real_data: Path) -> None:
    for path in sorted((real_data / "deid" / "mr_series").iterdir())[:3]:
        original = dcmread(path)
        content, clean = reread(original)
        for keyword in ("PatientName", "PatientID", "AccessionNumber", "ReferringPhysicianName", "InstitutionName"):
            value = str(original.get(keyword, "") or "")
            assert not value or value.encode() not in content, keyword
        for component in str(original.PatientName).replace("=", "^").split("^"):
            assert len(component) < 3 or component.encode() not in content
        for uid in (original.StudyInstanceUID, original.SeriesInstanceUID, original.SOPInstanceUID):
            assert uid.encode() not in content
        assert not any(element.tag.is_private for element in clean.iterall())
        assert np.array_equal(clean.pixel_array, original.pixel_array)
        assert clean.ImagePositionPatient == original.ImagePositionPatient
