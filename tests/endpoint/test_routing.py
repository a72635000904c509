"""Rules that a person can read decide which models read a series, and say why."""

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset
from typer.testing import CliRunner

from apps.command import app
from apps.endpoint.routing import FILE, Outside, Priority, RoutesError, parse_rules, read_rules, route_of
from apps.endpoint.series_facts import Orientation, SeriesFacts, facts_of
from apps.settings import Site, make_site
from labeling_protocols.protocol import SHIPPED, load_protocol
from labeling_protocols.series_writer import write_series
from labeling_protocols.store import Store
from tests.conftest import image_of
from tests.dicom.examples import AXIAL, identity_of

RULES = """
- name: scouts
  models: []
  why: localizers are not read
  when: {image_type: "*LOCALIZER*"}
- name: lungs in an emergency
  models: [lung_nodule, abdomen]
  priority: emergency
  outside: refuse
  when:
    modality: CT
    body_part: [CHEST, THORAX]
    slice_thickness_mm: {max: 2.5}
    age_years: {min: 18}
    orientation: axial
    contrast: false
    sender: ER*
  unless: {series_description: ["*MIP*", "*minip*"]}
- name: brains
  models: hippocampus
  when: {modality: MR, series_description: "*t1*"}
"""


def chest(**changed: object) -> Dataset:
    header = Dataset()
    header.Modality, header.BodyPartExamined = "CT", "CHEST"
    header.SeriesDescription, header.SliceThickness = "Lung 1.0 B60", "1.0"
    header.ImageOrientationPatient = [1, 0, 0, 0, 0.98, 0.2]
    header.PatientAge, header.PatientSex = "064Y", "F"
    for keyword, value in changed.items():
        setattr(header, keyword, value)
    return header


def facts(**changed: object) -> SeriesFacts:
    return facts_of(chest(**changed), slices=300, sender="ER1")


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    path = tmp_path / FILE
    path.write_text(RULES)
    return path


def test_the_first_rule_that_takes_a_series_decides(rules_file: Path) -> None:
    route = route_of(parse_rules(rules_file), facts())
    assert (route.rule, route.models) == ("lungs in an emergency", ("lung_nodule", "abdomen"))
    assert (route.priority, route.outside) == (Priority.EMERGENCY, Outside.REFUSE)
    assert route.reasons == (
        "scouts: image_type is not said, expected *LOCALIZER*",
        "lungs in an emergency: takes it, for lung_nodule, abdomen",
    )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"Modality": "MR"}, "modality is MR, expected CT"),
        ({"BodyPartExamined": "ABDOMEN"}, "body_part is ABDOMEN, expected CHEST or THORAX"),
        ({"SliceThickness": "3.0"}, "slice_thickness_mm is 3, expected at most 2.5"),
        ({"SliceThickness": None}, "slice_thickness_mm is not said, expected at most 2.5"),
        ({"SliceThickness": ""}, "slice_thickness_mm is not said, expected at most 2.5"),
        ({"PatientAge": "018M"}, "age_years is 1.5, expected at least 18"),
        ({"PatientAge": "sixty"}, "age_years is not said, expected at least 18"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "orientation is sagittal, expected axial"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.7, 0.7]}, "orientation is oblique, expected axial"),
        ({"ImageOrientationPatient": None}, "orientation is not said, expected axial"),
        ({"ContrastBolusAgent": "Iomeron"}, "contrast is yes, expected no"),
        ({"SeriesDescription": "Thorax mip"}, "series_description is Thorax mip, and the rule is not for *MIP* or"),
    ],
)
def test_a_rule_that_does_not_take_a_series_says_why(rules_file: Path, changed: dict[str, object], reason: str) -> None:
    route = route_of(parse_rules(rules_file), facts(**changed), repeat=True)
    assert (route.rule, route.models) == ("", ())
    assert route.reasons[1].startswith(f"lungs in an emergency: {reason}")
    assert route.reasons[-1] == "no rule takes it"


def test_what_somebody_wrote_is_repeated_only_on_demand(rules_file: Path) -> None:
    named = facts(SeriesDescription="Roe mip", BodyPartExamined="ROE")
    assert not any("roe" in reason.casefold() for reason in route_of(parse_rules(rules_file), named).reasons)
    told = route_of(parse_rules(rules_file), named, repeat=True).reasons
    assert "lungs in an emergency: body_part is ROE, expected CHEST or THORAX" in told


def test_a_rule_without_models_keeps_a_series_unread(rules_file: Path) -> None:
    route = route_of(parse_rules(rules_file), facts(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    assert (route.rule, route.models) == ("scouts", ())
    assert route.reasons == ("scouts: takes it, and runs nothing (localizers are not read)",)


def test_the_sender_counts_without_regard_to_case(rules_file: Path) -> None:
    rules = parse_rules(rules_file)
    assert route_of(rules, replace(facts(), sender="er_ct2")).rule == "lungs in an emergency"
    assert route_of(rules, replace(facts(), sender="WARD")).rule == ""


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("name: x", "Expected a list of rules"),
        ("- name: x\n  models: []\n  when: {modalty: CT}", "0.when.modalty: Unexpected keyword argument"),
        ("- name: x\n  models: []\n  when: {age_years: {min: 9, max: 2}}", "min 9 is more than max 2"),
        ("- name: x\n  models: []\n  when: {age_years: {}}", "a range needs min, max or both"),
        ("- name: x\n  models: []\n  when: {orientation: up}", "0.when.orientation.0: Input should be 'sagittal'"),
        ("- name: x\n  models: []\n  priority: soon", "0.priority: Input should be 'emergency'"),
        ("- {name: x, models: []}\n- {name: x, models: []}", "more than one rule is called x"),
        ("- [", "cannot be read"),
    ],
)
def test_rules_that_cannot_be_used_are_refused_with_the_place(tmp_path: Path, rules: str, words: str) -> None:
    path = tmp_path / FILE
    path.write_text(rules)
    with pytest.raises(RoutesError) as refusal:
        parse_rules(path)
    assert words in str(refusal.value)


@pytest.fixture
def site_and_store(tmp_path: Path) -> tuple[Site, Store]:
    site = make_site(tmp_path / "site")
    store = Store(site.database_url, site.blobs)
    store.add_protocol(load_protocol(SHIPPED / "hippocampus.yaml"))
    return site, store


def test_without_rules_the_settings_protocol_reads_its_modality(site_and_store: tuple[Site, Store]) -> None:
    rules = read_rules(*site_and_store)
    assert route_of(rules, facts(Modality="MR")).models == ("hippocampus",)
    assert route_of(rules, facts()).reasons == (
        "settings: modality is CT, expected MR",
        "no rule takes it",
    )


def test_a_rule_for_a_model_of_no_known_protocol_is_refused(site_and_store: tuple[Site, Store]) -> None:
    site, store = site_and_store
    (site.root / FILE).write_text("- {name: x, models: [spleen]}")
    with pytest.raises(RoutesError, match="spleen is no protocol of this site, which has hippocampus"):
        read_rules(site, store)


def test_the_command_explains_a_folder_series_by_series(site_and_store: tuple[Site, Store], tmp_path: Path) -> None:
    site, _ = site_and_store
    write_series(image_of(1, AXIAL), tmp_path / "in" / "ct", identity_of("explained"), modality="CT")
    write_series(image_of(2, AXIAL), tmp_path / "in" / "mr", identity_of("explained too"))
    told = CliRunner().invoke(app, ["endpoint", "explain", str(tmp_path / "in"), "--site", str(site.root)]).output
    assert "settings: modality is CT, expected MR" in told
    assert "settings: takes it, for hippocampus" in told
    assert "routine priority" in told
    (tmp_path / "in" / "notes.txt").write_text("none")
    nothing = CliRunner().invoke(
        app, ["endpoint", "explain", str(tmp_path / "in" / "notes.txt"), "--site", str(site.root)]
    )
    assert "holds no DICOM series" in str(nothing.exception)


def test_facts_of_an_empty_header_say_nothing() -> None:
    found = facts_of(Dataset(), slices=1, sender="X")
    assert (found.modality, found.orientation, found.age_years, found.contrast) == ("", None, None, False)
    assert facts_of(chest(), slices=1, sender="X").orientation is Orientation.AXIAL
