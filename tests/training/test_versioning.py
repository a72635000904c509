"""Semantic versions of models: what each number counts, and that none is given twice."""

from dataclasses import replace

import pytest

from tests.training.registered import snapshot_of
from training.versioning import Predecessor, Version, model_name, next_version

PLAN = '{"network": "UNet", "epochs": 40, "patch_RAS": [32, 32, 32], "intensity_mean": 1.0}'
BEFORE = Predecessor(version="2.3.4", changelog={"2.3.4": "before"}, plan_json=PLAN, training_cases=4)


def after(
    plan: str = PLAN, *, version: int = 2, before: Predecessor | None = BEFORE, taken: tuple[str, ...] = ()
) -> str:
    return next_version(before, plan_json=plan, snapshot=snapshot_of(5, version=version), taken=taken).number


def test_a_first_model_is_named_after_its_protocols_version() -> None:
    assert after(before=None) == "2.0.0"
    assert after(before=None, version=7) == "7.0.0"


def test_other_data_alone_count_in_the_third_number() -> None:
    assert after() == "2.3.5"
    assert after(PLAN.replace("40", "30").replace("1.0", "2.0")) == "2.3.5"  # which follow from the data


@pytest.mark.parametrize(
    ("old", "new"), [("UNet", "DynUNet"), ("[32, 32, 32]", "[32, 32, 16]"), (', "epochs"', ', "seed": 3, "epochs"')]
)
def test_a_change_of_method_counts_in_the_second(old: str, new: str) -> None:
    assert after(PLAN.replace(old, new)) == "2.4.0"


def test_a_new_protocol_version_counts_in_the_first_whatever_else_changed() -> None:
    assert after(version=3) == after(PLAN.replace("UNet", "DynUNet"), version=3) == "3.0.0"


def test_a_model_of_an_earlier_protocol_version_follows_none_of_a_later() -> None:
    with pytest.raises(ValueError, match=r"version 2.3.4 is of protocol version 2, this model of 1.*No version was"):
        after(version=1)


def test_a_version_that_is_taken_is_not_given_again() -> None:
    assert after(taken=("2.3.5", "2.3.6", "2.4.0")) == "2.3.7"
    assert after(PLAN.replace("UNet", "DynUNet"), taken=("2.4.0",)) == "2.4.1"


def test_the_changelog_says_what_is_new_above_what_was() -> None:
    snapshot = snapshot_of(5, version=2)
    found = next_version(BEFORE, plan_json=PLAN.replace("40", "30"), snapshot=snapshot)
    assert found == Version(
        number="2.3.5",
        changelog={
            "2.3.5": f"trained on 5 case(s) of snapshot {snapshot.digest} (+1); epochs 40 → 30",
            "2.3.4": "before",
        },
    )
    assert list(found.changelog) == ["2.3.5", "2.3.4"]
    of_earlier_release = replace(BEFORE, training_cases=None)
    words = next_version(of_earlier_release, plan_json=PLAN, snapshot=snapshot).changelog["2.3.5"]
    assert words == f"trained on 5 case(s) of snapshot {snapshot.digest}"


def test_each_task_of_a_protocol_has_its_model() -> None:
    assert model_name("hippocampus") == "hippocampus-segmentation"
    assert model_name("hippocampus", "detection") == "hippocampus-detection"
