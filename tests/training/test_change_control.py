"""Change control plans: what a file may say, what lies within a plan, and what lies outside of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from labeling_protocols.geometry import Geometry
from labeling_protocols.yaml_lines import read_yaml
from training.change_control import (
    SHIPPED,
    ChangePlanError,
    DataChange,
    JudgedBy,
    Modifications,
    PlanChange,
    find_change_plan,
    json_schema,
    load_change_plan,
    outside,
    plan_file,
)
from training.changes import Changes, Made, changes, made_of, spoken
from training.snapshot import Snapshot, SnapshotCase

EXAMPLE = SHIPPED / "hippocampus.yaml"


def written(tmp_path: Path, old: str, new: str) -> Path:
    text = EXAMPLE.read_text()
    assert old in text
    path = tmp_path / "hippocampus.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


def line_of(path: Path, words: str) -> int:
    return next(number for number, line in enumerate(path.read_text().splitlines(), start=1) if words in line)


# Files


def test_the_shipped_example_is_a_plan_and_fits_its_schema() -> None:
    plan = load_change_plan(EXAMPLE)
    assert (plan.protocol, plan.task, plan.version) == ("hippocampus", "segmentation", 1)
    assert plan.verification.judged_by is JudgedBy.POINT
    content = json.loads(read_yaml(EXAMPLE, expected="a plan").content_json)
    assert list(Draft7Validator(json_schema()).iter_errors(content)) == []
    assert json_schema()["$schema"].endswith("2020-12/schema")


def test_the_digest_is_of_what_a_plan_says_and_not_of_how(tmp_path: Path) -> None:
    plan = load_change_plan(EXAMPLE)
    spaced = load_change_plan(written(tmp_path, "version: 1", "version:   1   # the first"))
    named = load_change_plan(written(tmp_path, "missed_more_max: 0", "calibration_error_max: null"))
    other = load_change_plan(written(tmp_path, "cases_min: 10", "cases_min: 11"))
    assert plan.digest == spaced.digest == named.digest != other.digest
    assert len(plan.digest) == 64


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version: 1\n", "version: 0\n", "version: Input should be greater than or equal to 1, found 0"),
        ("missed_more_max: 0", "missed_more: 0", "verification.missed_more: Unexpected"),
        ("judged_by: point", "judged_by: luck", "verification.judged_by: Input should be 'point' or 'interval'"),
        (
            "figures_min: {dice_mean: 0.75, dice/anterior: 0.7, dice/posterior: 0.7}",
            "figures_min: {hd95_mm/anterior: 2}",
            "verification.figures_min: found hd95_mm/anterior, of which less is better; expected it in figures_max",
        ),
        (
            "figures_min: {dice_mean: 0.75, dice/anterior: 0.7, dice/posterior: 0.7}",
            "figures_max: {dice_mean: 0.75}",
            "verification.figures_max: found dice_mean, of which more is better; expected it in figures_min",
        ),
        (
            "figures_min: {dice_mean: 0.75, dice/anterior: 0.7, dice/posterior: 0.7}",
            "figures_min: {}",
            "verification.figures_min: expected a bound here or in figures_max, found none",
        ),
        (
            "precision: {allowed: [fp32, bf16],",
            "precision: {allowed: [fp32, bf16], any: true,",
            "modifications.plan.precision: expected one of allowed, min and max, or any",
        ),
        (
            "batch: {min: 1, max: 8,",
            "batch: {min: 9, max: 8,",
            "modifications.plan.batch: expected min up to max, found 9 and 8",
        ),
        ("batch: {min: 1, max: 8,", "batch: {", "modifications.plan.batch: expected one of allowed"),
        ("drop_max: {dice_mean: 0.03}", "drop_max: {}", "verification.subgroups.drop_max"),
        ("drop_max: {dice_mean: 0.03}", "drop_max: {dice_mean: -1}", "verification.subgroups.drop_max.dice_mean"),
    ],
)
def test_what_cannot_be_is_told_with_its_line(old: str, new: str, words: str, tmp_path: Path) -> None:
    path = written(tmp_path, old, new)
    with pytest.raises(ChangePlanError) as refused:
        load_change_plan(path)
    message = str(refused.value)
    assert message.startswith(f"{path}, line ")
    assert words in message
    told = int(message.removeprefix(f"{path}, line ").split(":")[0])
    assert told in (line_of(path, new.strip()), line_of(path, "verification:"))


def test_a_section_that_is_missing_is_named(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    path = tmp_path / "hippocampus.yaml"
    path.write_text(text[: text.index("impact:")])
    with pytest.raises(ChangePlanError, match="impact: Field required"):
        load_change_plan(path)


def test_a_file_that_is_no_yaml_and_one_that_is_not_there_are_told(tmp_path: Path) -> None:
    path = tmp_path / "hippocampus.yaml"
    with pytest.raises(ChangePlanError, match="cannot be read"):
        load_change_plan(path)
    path.write_text("- a list")
    with pytest.raises(ChangePlanError, match="line 1: expected a change control plan"):
        load_change_plan(path)


def test_a_site_has_a_plan_a_model_or_none(tmp_path: Path) -> None:
    assert find_change_plan(tmp_path, "hippocampus") is None
    (tmp_path / plan_file("hippocampus")).write_bytes(EXAMPLE.read_bytes())
    assert find_change_plan(tmp_path, "hippocampus") == load_change_plan(EXAMPLE)
    assert find_change_plan(tmp_path, "hippocampus", "detection") is None
    assert plan_file("hippocampus", "detection") == "hippocampus-detection.yaml"


@pytest.mark.parametrize(("protocol", "task"), [("liver", "segmentation"), ("hippocampus", "detection")])
def test_a_plan_in_anothers_place_is_refused(protocol: str, task: str, tmp_path: Path) -> None:
    (tmp_path / plan_file(protocol, task)).write_bytes(EXAMPLE.read_bytes())
    with pytest.raises(ChangePlanError, match=f"expected the plan for {task} under protocol {protocol}, found one for"):
        find_change_plan(tmp_path, protocol, task)


# What a value may become


@pytest.mark.parametrize(
    ("rule", "inside", "outside_"),
    [
        ({"allowed": ("UNet", "DynUNet")}, ["UNet", "DynUNet"], ["SegResNet", None, ""]),
        ({"allowed": ((16, 32), (16, 32, 64))}, [(16, 32), (16, 32, 64)], [(16,), 16, (32, 16)]),
        ({"min": 2, "max": 4.0}, [2, 3.5, 4, (2, 4), ((2, 2), (4, 4))], [1.99, 4.01, (2, 5), ((2, 2), (1, 4)), "3"]),
        ({"min": 2}, [2, 1e9], [1, None, True, False]),
        ({"max": 2}, [2, -1e9], [3, (1, "2"), True]),
        ({"min": 1, "max": 1}, [1], [0, 2]),
        ({"any": True}, [None, "x", (1, 2), True], []),
    ],
)
def test_a_value_lies_within_what_is_allowed_or_not(rule: Any, inside: list[Any], outside_: list[Any]) -> None:
    change = PlanChange(description="Some.", **rule)
    assert [change.allows(value) for value in inside] == [True] * len(inside)
    assert [change.allows(value) for value in outside_] == [False] * len(outside_)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"allowed": ("UNet", (1, 2))}, "UNet or 1×2"),
        ({"min": 2, "max": 4.5}, "2 to 4.5"),
        ({"min": 0.001}, "at least 0.001"),
        ({"max": 8}, "at most 8"),
    ],
)
def test_what_is_allowed_is_said_in_words(rule: Any, words: str) -> None:
    assert PlanChange(description="Some.", **rule).range == words


def modifications(**values: Any) -> Modifications:
    return Modifications(description="Some.", **values)


def test_whatever_the_plan_does_not_name_lies_outside() -> None:
    changed = Changes(protocol_version=(1, 2), plan={"network": ("UNet", "DynUNet")}, cases_added=3, cases_removed=1)
    assert list(outside(modifications(), changed)) == [
        "protocol version 1 → 2 is not among the plan's modifications",
        "the training cases (3 more, 1 fewer) are not among the plan's modifications",
        "network UNet → DynUNet is not among the plan's modifications",
    ]
    assert list(outside(modifications(), Changes())) == []
    assert len(list(outside(modifications(), Changes(cases_removed=1)))) == 1


def test_whatever_the_plan_names_lies_within() -> None:
    changed = Changes(protocol_version=(1, 2), plan={"epochs": (40, 60)}, cases_added=300, cases_removed=2)
    named = modifications(
        protocol_version=True,
        data=DataChange(description="Some.", cases_removed_max=2),
        plan={"epochs": PlanChange(description="Some.", min=40, max=60)},
    )
    assert list(outside(named, changed)) == []


def test_a_named_change_beyond_its_range_lies_outside() -> None:
    named = modifications(
        data=DataChange(description="Some."), plan={"epochs": PlanChange(description="Some.", min=40, max=60)}
    )
    changed = Changes(plan={"epochs": (40, 61), "seed": (1, 2)}, cases_removed=1)
    assert list(outside(named, changed)) == [
        "1 training case(s) fewer, the plan allows 0",
        "epochs 40 → 61 is outside the plan's 40 to 60",
        "seed 1 → 2 is not among the plan's modifications",
    ]


# What differs


def made(*cases: str, version: int = 1, **plan: Any) -> Made:
    return Made(protocol_version=version, plan=plan, snapshot="s", training=frozenset(cases))


def test_what_differs_between_two_trainings_is_found() -> None:
    before = made("a", "b", "c", network="UNet", epochs=40, channels=(16, 32))
    after = made("b", "c", "d", "e", version=2, network="DynUNet", epochs=40, channels=(16, 32), average=0.9)
    assert changes(before, after) == Changes(
        protocol_version=(1, 2),
        plan={"network": ("UNet", "DynUNet"), "average": (None, 0.9)},
        cases_added=2,
        cases_removed=1,
    )
    assert changes(before, before) == Changes()
    assert changes(after, before).plan == {"network": ("DynUNet", "UNet"), "average": (0.9, None)}


def test_what_is_measured_on_the_images_is_no_change_of_method() -> None:
    measured = {"spacing_mm_RAS": ((1.0,), (1.1,)), "intensity_mean": (1.0, 2.0), "epochs": (40, 41)}
    assert Changes(plan=measured).method == ()
    assert Changes(plan={**measured, "patch_RAS": ((32,), (64,))}).method == ("patch_RAS",)


def test_differences_are_said_in_words() -> None:
    changed = Changes(
        protocol_version=(1, 2),
        plan={"network": ("UNet", "DynUNet"), "spacing_mm_RAS": ((1.0, 1.0), (1.5, 1.25)), "average": (None, 0.9)},
        cases_added=5,
        cases_removed=2,
    )
    assert str(changed) == (
        "protocol version 1 → 2; 5 training case(s) more; 2 training case(s) fewer; network UNet → DynUNet;"
        " spacing_mm_RAS 1×1 → 1.5×1.25; average none → 0.9"
    )
    assert str(Changes()) == "nothing differs"
    assert str(Changes(cases_added=1)) == "1 training case(s) more"
    assert spoken(((1, 2), (3, 4))) == "1×2×3×4"


def test_a_model_is_made_of_its_plan_and_the_training_cases_of_its_snapshot() -> None:
    grid = Geometry(
        shape_ZYX=(1, 1, 1),
        spacing_mm_XYZ=(1.0, 1.0, 1.0),
        origin_mm_LPS=(0.0, 0.0, 0.0),
        direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )
    cases = tuple(
        SnapshotCase(
            case=f"c{number}",
            patient=f"P{number}",
            image="0" * 64,
            label="1" * 64,
            settled="consensus",
            reads=(1, 2),
            adjudication=None,
            geometry=grid,
            held_out=number == 0,
        )
        for number in range(3)
    )
    snapshot = Snapshot(
        protocol="hippocampus", protocol_version=4, protocol_digest="2" * 64, cases=cases, exclusions=()
    )
    found = made_of('{"network": "UNet", "strides": [[1, 2], [3, 4]]}', snapshot)
    assert found.plan == {"network": "UNet", "strides": ((1, 2), (3, 4))}
    assert found.training == {"c1", "c2"}
    assert (found.protocol_version, found.snapshot) == (4, snapshot.digest)
