"""What ships with the project is right: its files load, fit the schema, and their codes are the standard's."""

from pathlib import Path

import pytest
import yaml
from pydicom.sr._concepts_dict import concepts

from labeling_protocols.protocol import SHIPPED, Protocol, json_schema, load_protocol
from labeling_protocols.protocol_parts import IntegerQuestion

FILES = sorted(SHIPPED.glob("*.yaml"))
CATEGORIES, ORGANS, LESIONS, OPACITIES, SIDES, REGIONS = 7150, 7154, 7159, 6104, 244, 4


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def test_three_worked_protocols_ship() -> None:
    assert [path.stem for path in FILES] == ["abdomen_ct", "hippocampus", "lung_nodule"]


def test_a_shipped_protocol_loads_and_survives_as_json(path: Path) -> None:
    protocol = load_protocol(path)
    assert protocol.name == path.stem
    assert Protocol.from_json(protocol.as_json()) == protocol


def test_a_shipped_protocol_fits_the_json_schema(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft7Validator(json_schema()).validate(yaml.safe_load(path.read_text()))


def test_a_shipped_protocol_tells_a_radiologist_what_it_is_in_its_first_line(path: Path) -> None:
    assert path.read_text().startswith("# ")


def test_codes_have_the_meaning_the_standard_gives_them(path: Path) -> None:
    protocol = load_protocol(path)
    codes = [protocol.body_part]
    codes += [code for s in protocol.structures for code in (s.category, s.type, s.modifier) if code is not None]
    for code in codes:
        meanings = {known[code.value][0] for known in concepts[code.scheme].values() if code.value in known}
        assert code.meaning in meanings, f"{code.scheme} {code.value} means {meanings}"


def test_categories_and_body_parts_stand_in_their_context_groups(path: Path) -> None:
    protocol = load_protocol(path)
    assert REGIONS in _context_groups(protocol.body_part.scheme, protocol.body_part.value)
    for structure in protocol.structures:
        assert CATEGORIES in _context_groups(structure.category.scheme, structure.category.value)


@pytest.mark.parametrize(
    ("name", "structure", "group"),
    [
        ("abdomen_ct", "liver", ORGANS),
        ("abdomen_ct", "spleen", ORGANS),
        ("abdomen_ct", "left_kidney", ORGANS),
        ("abdomen_ct", "pancreas", ORGANS),
        ("abdomen_ct", "liver_tumour", LESIONS),
        ("lung_nodule", "nodule", LESIONS),
        ("lung_nodule", "micronodule", OPACITIES),
    ],
)
def test_a_structures_type_stands_in_the_context_group_the_file_names(name: str, structure: str, group: int) -> None:
    code = load_protocol(SHIPPED / f"{name}.yaml").structure(structure).type
    assert group in _context_groups(code.scheme, code.value)


def test_left_and_right_are_the_standards() -> None:
    abdomen = load_protocol(SHIPPED / "abdomen_ct.yaml")
    for side in ("left", "right"):
        modifier = abdomen.structure(f"{side}_kidney").modifier
        assert modifier is not None
        assert modifier.meaning.lower() == side
        assert SIDES in _context_groups(modifier.scheme, modifier.value)


def test_hippocampus_version_1_says_what_it_always_said() -> None:
    # Sites have kept this version under this digest; changed content needs a new version.
    digest = "8d88f68e35bf431cc019c4bdb9ce0b0faab95b7295266ec7a4b9fc4faf17d7a0"
    assert load_protocol(SHIPPED / "hippocampus.yaml").digest == digest


def test_abdomen_version_1_says_what_it_always_said() -> None:
    digest = "e6fd1c15410f64e735215b94f8845214f1aa1ac49b727893948b56fd30b9b76b"
    assert load_protocol(SHIPPED / "abdomen_ct.yaml").digest == digest


def test_lung_nodules_are_judged_by_all_of_lidcs_characteristics_and_none_must_be_answered() -> None:
    questions = {question.name: question for question in load_protocol(SHIPPED / "lung_nodule.yaml").questions}
    scales = {question.name: question.max for question in questions.values() if isinstance(question, IntegerQuestion)}
    assert scales == {
        "malignancy": 5,
        "subtlety": 5,
        "internal_structure": 4,
        "calcification": 6,
        "sphericity": 5,
        "margin": 5,
        "lobulation": 5,
        "spiculation": 5,
        "texture": 5,
    }
    assert not any(question.required for question in questions.values())


def test_a_lung_nodule_that_not_everybody_outlined_is_a_dispute() -> None:
    assert load_protocol(SHIPPED / "lung_nodule.yaml").agreement["nodule"].lesion_f1_min == 1.0


def _context_groups(scheme: str, value: str) -> set[int]:
    return {group for known in concepts[scheme].values() if value in known for group in known[value][1]}
