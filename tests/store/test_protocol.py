"""A bad protocol file is refused with its line; a good one survives the database."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling_protocols.protocol import SHIPPED, PrelabelPolicy, Protocol, ProtocolError, json_schema, load_protocol
from labeling_protocols.protocol_parts import Calibration, SeatRule, Task
from tests.store.drawn_protocols import protocols

SHIPPED_TEXT = (SHIPPED / "hippocampus.yaml").read_text()
NODULE_TEXT = (SHIPPED / "lung_nodule.yaml").read_text()


def load_text(folder: Path, text: str) -> Protocol:
    path = folder / "bad.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return load_protocol(path)


# What one entry alone shows to be wrong: the loader and the JSON Schema refuse it both.
WRONG_ENTRIES = [
    ("readers_per_case: 2", "readers_per_case: two", "readers_per_case:", "valid integer"),
    ("readers_per_case: 2", 'readers_per_case: "2"', "readers_per_case:", "valid integer, found '2'"),
    ("readers_per_case: 2", "readers_per_case: 0", "readers_per_case:", "greater than or equal to 1, found 0"),
    ("version: 1", "version: true", "version:", "valid integer"),
    ("rule: majority", "rule: vote", "consensus:", "'union' or 'staple', found 'vote'"),
    ("title: Posterior", "titel: Posterior", "titel:", "Unexpected keyword"),
    ("dice_min: 0.75, hd95", "dice_min: 1.5, hd95", "anterior: {dice_min", "less than or equal to 1"),
    ("#e6772e", "orange", "color:", "match pattern"),
    ('"12738006"', "12738006", "body_part:", "valid string, found 12738006"),
    ("title: Anterior hip", "title: yes #", "title: yes", "valid string, found True (write it in quotes)"),
    ("value: 2", "value: 256", "value: 256", "less than or equal to 255"),
    ("value: 2", "value: 2\n    tasks: [outline]", "tasks:", "'segmentation', 'boxes' or 'points', found 'outline'"),
    ("value: 2", "value: 2\n    tasks: []", "tasks:", "at least 1 item"),
    ("version: 1", "version: 1\nprelabels: sometimes", "prelabels:", "'after_first_pass' or 'never'"),
    ("version: 1", "version: 1\nblinding: {lifts: soon}", "blinding:", "'never' or 'when_settled', found 'soon'"),
    ("version: 1", "version: 1\ncalibration: {every: 0}", "calibration:", "greater than or equal to 1"),
    ("version: 1", "version: 1\nseats: [{count: 2, group: Neuro}]", "seats:", "match pattern"),
    ("version: 1", "version: 1\noverlaps: [[anterior]]", "overlaps:", "overlaps.0.1: Field required"),
    ("version: 1", "version: 1\nadjudication: {adjudicators: 3}", "adjudication:", "less than or equal to 2"),
    ("version: 1", "version: 1\nquestions: [{name: q, title: Q}]", "questions:", "discriminator 'kind'"),
    ("version: 1", "version: 1\nquestions:\n  - name: q\n    title: Q\n    kind: choice", "  - name: q", "options"),
    (
        "version: 1",
        "version: 1\nquestions:\n  - name: q\n    title: Q\n    kind: choice\n    options: [yes, no]",
        "    options:",
        "valid string, found True (write it in quotes)",
    ),
]

# The same of findings, in the protocol that has boxes and points.
WRONG_MATCHING = [
    ("match_mm_max: 10.0", "match_mm_max: 10.0\n    match_iou_min: 0.3", "nodule:", "expected one of them"),
    ("match_mm_max: 10.0", "hd95_mm_max: 5.0", "nodule:", "expected match_mm_max or match_iou_min, as nodule is boxed"),
    ("match_mm_max: 5.0", "match_iou_min: 0.3", "micronodule:", "micronodule is pointed at; expected match_mm_max"),
    ("match_mm_max: 5.0", "lesion_f1_min: 0.3", "micronodule:", "found lesion_f1_min, and micronodule is not outlined"),
    ("    f1_min: 0.80\n", "", "nodule:", "expected f1_min, as nodule is boxed or pointed at; found none"),
]

# What takes several entries together: the loader's alone.
WRONG_TOGETHER = [
    ("value: 2", "value: 1", "structures:", "every value must be used once, found 1 twice"),
    ("name: posterior", "name: anterior", "structures:", "every name must be used once, found anterior twice"),
    ("posterior: 0.65", "post: 0.65", "dice_min: {anterior: 0.65", "expected one entry for each of"),
    ("posterior: {dice_min: 0.75, ", "posterior: {", "posterior: {", "expected dice_min, as posterior is outlined"),
    ("posterior: {", "posterior: {f1_min: 0.5, ", "posterior: {", "found f1_min, and posterior is not boxed"),
    ("version: 1", "version: 1\nversion: 2", "version: 2", "a second time"),
    (
        "posterior: {",
        "posterior: {surface_dice_min: 0.9, ",
        "posterior: {",
        "give both or neither; found surface_dice_min without surface_tolerance_mm",
    ),
    (
        "posterior: {",
        "posterior: {surface_tolerance_mm: 2, ",
        "posterior: {",
        "give both or neither; found surface_tolerance_mm without surface_dice_min",
    ),
    ("posterior: {", "posterior: {match_iou_min: 0.5, ", "posterior: {", "found match_iou_min, and posterior is not"),
    ("ties: nearest_boundary", "ties: nearest_boundary, found_by_min: 3", "consensus:", "at most 2, the readers of a"),
    ("gate:", "gate: [", "  dice_min: {anterior: 0.65", "not valid YAML"),
    ("version: 1", "version: 1\nseats: [{count: 3}]", "seats:", "expected 2 in all, as readers_per_case says, found 3"),
    ("version: 1", "version: 1\noverlaps: [[anterior, tail]]", "overlaps:", "['anterior', 'posterior'], found tail"),
    ("version: 1", "version: 1\noverlaps: [[anterior, anterior]]", "overlaps:", "two different structures"),
    (
        "version: 1",
        "version: 1\nquestions: [{name: anterior, title: Q, kind: boolean}]",
        "questions:",
        "a question and a structure need different names, found anterior as both",
    ),
    (
        "version: 1",
        "version: 1\nquestions: [{name: q, title: Q, kind: integer, min: 5, max: 1}]",
        "questions:",
        "expected at least min, 5, found 1",
    ),
    (
        "version: 1",
        "version: 1\nadjudication:\n  escalate_after_days: 3",
        "adjudication:",
        "escalate_after_days and escalate_to: give both or neither",
    ),
    ("title: Anterior and", "title: &words Anterior and", "modality: *words", "*words refers to another place"),
]


@pytest.mark.parametrize(("old", "new", "line_of", "words"), [*WRONG_ENTRIES, *WRONG_TOGETHER])
def test_a_bad_protocol_is_refused_with_file_line_and_what_was_expected(
    tmp_path: Path, old: str, new: str, line_of: str, words: str
) -> None:
    text = SHIPPED_TEXT.replace(old, new, 1)
    if "&words" in text:
        text = text.replace("modality: [MR]", "modality: *words")
    line = next(number for number, content in enumerate(text.splitlines(), 1) if line_of in content)
    with pytest.raises(ProtocolError) as refusal:
        load_text(tmp_path, text)
    assert f"bad.yaml, line {line}:" in str(refusal.value)
    assert words in str(refusal.value)


@pytest.mark.parametrize(("old", "new", "structure", "words"), WRONG_MATCHING)
def test_findings_are_matched_in_one_way_that_fits_their_task(
    tmp_path: Path, old: str, new: str, structure: str, words: str
) -> None:
    before, section, after = NODULE_TEXT.partition("\nagreement:")
    if new.startswith("hd95"):
        after = after.replace("    hd95_mm_max: 5.0\n", "", 1)
    with pytest.raises(ProtocolError, match=rf"agreement\.{structure} .*{words}"):
        load_text(tmp_path, before + section + after.replace(old, new, 1))


def test_boxes_may_be_matched_by_what_they_share_and_outlines_held_to_more(tmp_path: Path) -> None:
    more = (
        "match_iou_min: 0.3\n    surface_dice_min: 0.9\n    surface_tolerance_mm: 2.0\n    volume_difference_max: 0.2"
    )
    limits = load_text(tmp_path, NODULE_TEXT.replace("match_mm_max: 10.0", more)).agreement["nodule"]
    assert (limits.match_mm_max, limits.match_iou_min, limits.surface_dice_min) == (None, 0.3, 0.9)
    assert (limits.surface_tolerance_mm, limits.volume_difference_max, limits.lesion_f1_min) == (2.0, 0.2, 1.0)


@pytest.mark.parametrize(("old", "new", "line_of", "words"), WRONG_ENTRIES)
def test_the_json_schema_refuses_what_the_loader_refuses(old: str, new: str, line_of: str, words: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft7Validator(json_schema())
    assert not list(validator.iter_errors(yaml.safe_load(SHIPPED_TEXT)))
    wrong = json.loads(json.dumps(yaml.safe_load(SHIPPED_TEXT.replace(old, new, 1))))
    assert list(validator.iter_errors(wrong))


def test_the_json_schema_explains_fields_to_an_editor() -> None:
    schema = json_schema()
    assert schema["properties"]["overlaps"]["description"].startswith("Pairs of structures that may share voxels")
    limits = schema["$defs"]["AgreementLimits"]
    assert "Dice" in limits["description"]
    assert all("description" in limits["properties"][name] for name in ("match_iou_min", "lesion_f1_min", "dice_min"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1\n- 2\n", "expected a protocol"),
        ("", "expected a protocol"),
        ("when: 2020-13-45\n", "cannot be read as YAML"),
        ("[" * 5000, "nested too deeply|not valid YAML"),
        ('title: "\\ud800"\n', "line 1"),
    ],
)
def test_a_file_that_is_no_protocol_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        load_text(tmp_path, text)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"none\.yaml: cannot be read: No such file"):
        load_protocol(tmp_path / "none.yaml")


@settings(max_examples=60, deadline=None)
@given(protocols())
def test_any_protocol_survives_the_database(protocol: Protocol) -> None:
    kept = Protocol.from_json(protocol.as_json())
    assert kept == protocol
    assert kept.digest == protocol.digest
    assert len(protocol.seat_groups) == protocol.readers_per_case


@settings(max_examples=30, deadline=None)
@given(protocols())
def test_any_protocol_written_as_yaml_is_read_back_and_fits_the_json_schema(
    tmp_path_factory: pytest.TempPathFactory, protocol: Protocol
) -> None:
    content = json.loads(protocol.as_json())
    assert load_text(tmp_path_factory.mktemp("drawn"), yaml.safe_dump(content)) == protocol
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft7Validator(json_schema()).validate(content)


def test_a_protocol_kept_before_a_field_came_is_read_as_it_was_meant_and_keeps_its_digest() -> None:
    content = json.loads(load_protocol(SHIPPED / "hippocampus.yaml").as_json())
    for structure in content["structures"]:
        structure["modifier"] = None  # how it was written when there was none
    before = json.dumps(content, sort_keys=True, separators=(",", ":"))
    protocol = Protocol.from_json(before)
    assert protocol.as_json() == before
    assert protocol.structures[0].tasks == (Task.SEGMENTATION,)
    assert (protocol.overlaps, protocol.questions, protocol.seats, protocol.calibration) == ((), (), (), None)
    assert (protocol.prelabels, protocol.blinding.lifts, protocol.may_be_empty) == ("always", "never", False)


def test_naming_a_default_does_not_change_a_digest(tmp_path: Path) -> None:
    named = (
        SHIPPED_TEXT + "prelabels: always\nblinding: {lifts: never}\noverlaps: []\nadjudication: {adjudicators: 1}\n"
    )
    assert load_text(tmp_path, named).digest == load_text(tmp_path, SHIPPED_TEXT).digest


def test_seats_are_kept_for_their_groups_in_the_order_of_the_file(protocol: Protocol) -> None:
    assert protocol.seat_groups == ("", "")
    grouped = replace(protocol, readers_per_case=3, seats=(SeatRule(count=1, group="neuro"), SeatRule(count=2)))
    assert grouped.seat_groups == ("neuro", "", "")


def test_what_a_file_says_of_policies_reaches_the_code() -> None:
    protocol = load_protocol(SHIPPED / "lung_nodule.yaml")
    assert protocol.prelabels is PrelabelPolicy.AFTER_FIRST_PASS
    assert protocol.blinding.lifts == "when_settled"
    assert protocol.calibration == Calibration(every=20)
    assert protocol.values == {"nodule": 1}  # a micronodule is pointed at, so no voxel has its value


SCALARS = [
    "",
    "x",
    "-1",
    "0.5",
    "1e999",
    ".nan",
    "null",
    "[]",
    "{}",
    "[a, b]",
    "yes",
    "2020-01-01",
    "!!binary aa",
    "*x",
]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_a_damaged_protocol_loads_or_is_refused_with_a_line(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    lines = NODULE_TEXT.splitlines()
    dice = random.Random(seed)
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(lines))
        damage = dice.randrange(6)
        if damage == 0:
            del lines[at]
        elif damage == 1:
            lines.insert(at, lines[dice.randrange(len(lines))])
        elif damage == 2:
            lines[at] = re.sub(r"[^\s:]+\s*$", dice.choice(SCALARS), lines[at])
        elif damage == 3:
            lines[at] = " " * dice.randint(0, 6) + lines[at].strip()
        elif damage == 4:
            place = dice.randint(0, len(lines[at]))
            lines[at] = lines[at][:place] + chr(dice.choice([9, 34, 35, 39, 45, 58, 91, 123, 233])) + lines[at][place:]
        else:
            lines[at] = lines[at].replace(dice.choice("aeiou01"), dice.choice("xyz99"))
    try:
        load_text(tmp_path_factory.getbasetemp(), "\n".join(lines))
    except ProtocolError as error:
        assert re.match(r".*bad\.yaml, line \d+: ", str(error))  # noqa: PT017  it may also load
