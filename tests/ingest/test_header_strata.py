"""Scanner, thickness, sex and age band come from a header before it is de-identified, and nothing that identifies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE

from apps.ingest.header_strata import MAKERS, header_strata, maker_of, volume_strata, words_of
from labeling_protocols.series_writer import series_datasets
from labeling_protocols.strata import Strata
from tests.conftest import OBLIQUE, image_of
from tests.dicom.examples import AXIAL, identity_of


def header(**values: str) -> Dataset:
    """A header of the AXIAL series with these elements."""
    instance = series_datasets(image_of(1, AXIAL), identity_of("strata"))[0]
    for keyword, value in values.items():
        setattr(instance, keyword, value)
    return instance


def strata(**values: str) -> Strata:
    return header_strata(header(**values), AXIAL)


@pytest.mark.parametrize(
    ("text", "maker"),
    [
        ("SIEMENS", "Siemens"),
        ("Siemens Healthineers", "Siemens"),
        ("Siemens HealthCare GmbH", "Siemens"),
        ("GE MEDICAL SYSTEMS", "GE"),
        ("GEMS", "GE"),
        ("General Electric Company", "GE"),
        ("Philips Medical Systems", "Philips"),
        ("TOSHIBA_MEC", "Canon"),
        ("Canon Medical Systems", "Canon"),
        ("Shanghai United Imaging Healthcare", "United Imaging"),
        ("  Imaging  Biometrics\tLLC ", "Imaging Biometrics LLC"),
        ("Gemini Scanners", "Gemini Scanners"),
        ("", None),
        ("None", None),
        ("m" * 90, "m" * 64),
    ],
)
def test_makers_go_by_one_name_and_unknown_ones_stay_as_they_are(text: str, maker: str | None) -> None:
    assert maker_of(text) == maker
    assert strata(Manufacturer=text[:64]).maker == maker


def test_each_maker_of_the_table_is_found_by_its_own_name() -> None:
    assert {maker_of(maker) for maker in MAKERS.values()} == set(MAKERS.values())


@given(st.text(max_size=200))
def test_any_text_becomes_words_that_a_case_may_carry(text: str) -> None:
    Strata(model=words_of(text), maker=maker_of(text))


@pytest.mark.parametrize(
    ("values", "band"),
    [
        ({"PatientAge": "047Y"}, "40-49"),
        ({"PatientAge": "094Y"}, "90+"),
        ({"PatientAge": "018M"}, "00-09"),
        ({"PatientAge": "120M"}, "10-19"),
        ({"PatientAge": "011D"}, "00-09"),
        ({"PatientAge": "000Y"}, None),
        ({"PatientAge": "999Y"}, None),
        ({"PatientAge": "", "PatientBirthDate": "19700615", "StudyDate": "20200614"}, "40-49"),
        ({"PatientAge": "", "PatientBirthDate": "19700615", "StudyDate": "20200615"}, "50-59"),
        ({"PatientAge": "", "PatientBirthDate": "19200101", "StudyDate": "20200614"}, "90+"),
        ({"PatientAge": "", "PatientBirthDate": "19000101", "StudyDate": "19800614"}, None),
        ({"PatientAge": "", "PatientBirthDate": "20060101", "StudyDate": "20060101"}, None),
        ({"PatientAge": "", "PatientBirthDate": "20210101", "StudyDate": "20200614"}, None),
        ({"PatientAge": "", "PatientBirthDate": "19700615", "StudyDate": ""}, None),
    ],
)
def test_an_age_is_told_or_counted_from_birth_to_study_and_dummies_are_none(
    values: dict[str, str], band: str | None
) -> None:
    assert strata(**values).age_band == band


@pytest.mark.parametrize(("told", "sex"), [("F", "F"), ("M", "M"), ("O", "O"), ("", None), ("X", None)])
def test_sex_is_one_of_dicoms_three_or_not_known(told: str, sex: str | None) -> None:
    assert strata(PatientSex=told).sex == sex


def test_the_thickness_is_how_far_slices_lie_apart_whatever_the_header_says() -> None:
    assert AXIAL.spacing_mm_XYZ[2] != 7.5
    assert strata(SliceThickness="7.5").slice_thickness_mm == pytest.approx(AXIAL.spacing_mm_XYZ[2], abs=0.005)


def test_an_image_without_a_header_has_its_grids_widest_distance_unless_more_is_known() -> None:
    assert volume_strata(OBLIQUE, Strata(site="north")) == Strata(slice_thickness_mm=2.5, site="north")
    assert volume_strata(OBLIQUE, Strata(slice_thickness_mm=5.0)).slice_thickness_mm == 5.0


@pytest.mark.parametrize(
    "values",
    [
        {"ManufacturerModelName": "Skyra 40764", "DeviceSerialNumber": "40764"},
        {"ManufacturerModelName": "MRC-Ward7 Skyra", "StationName": "mrc-ward7"},
        {"ManufacturerModelName": "Skyra of St Elsewhere", "InstitutionName": "St Elsewhere"},
        {"ManufacturerModelName": "Skyra 20191224", "StudyDate": "20191224"},
        {"ManufacturerModelName": "Skyra Xylander", "PatientName": "Xylander^Ottilie"},
        {"ManufacturerModelName": "ID-4711", "PatientID": "ID-4711"},
        {"Manufacturer": "Ottilie & Sons", "PatientName": "Xylander^Ottilie"},
    ],
)
def test_a_model_or_maker_that_repeats_what_identifies_is_left_out(values: dict[str, str]) -> None:
    found = strata(**({"Manufacturer": "", "ManufacturerModelName": ""} | values))
    assert (found.maker, found.model) == (None, None)


def test_a_known_maker_stays_though_somebody_is_called_like_it() -> None:
    assert strata(Manufacturer="SIEMENS", OperatorsName="Siemens^Service").maker == "Siemens"


def test_a_model_of_any_length_or_number_of_values_and_an_age_that_is_none_are_borne() -> None:
    assert strata(ManufacturerModelName="m" * 64).model == "m" * 64
    broken = header(ManufacturerModelName="Skyra\\second value")
    broken.add(DataElement("PatientAge", "AS", "soon", validation_mode=IGNORE))
    assert (header_strata(broken, AXIAL).model, header_strata(broken, AXIAL).age_band) == ("Skyra", None)
    broken.add(DataElement("ManufacturerModelName", "LO", "m" * 90, validation_mode=IGNORE))
    assert header_strata(broken, AXIAL).model == "m" * 64
