"""A space is read from a few lines, refused where it makes no plan, and changes a plan as it says."""

import optuna
import pytest

from tests.training.tracked import PLAN
from training.plan import ModelTask, override
from training.search_space import Options, Range, SpaceError, read_space


def chosen(text: str, **values: object) -> dict[str, object]:
    """What the space changes in the plan where Optuna suggests these values."""
    return read_space(PLAN, text).overrides(optuna.trial.FixedTrial(values), PLAN)  # type: ignore[arg-type]


def test_the_default_space_suits_the_task() -> None:
    segmentation = read_space(PLAN)
    assert set(segmentation.choices) == {"learning_rate", "weight_decay", "batch", "patch_scale", "network", "width"}
    assert segmentation.choices["learning_rate"] == Range(low=1e-4, high=3e-2, log=True)
    detection = read_space(override(PLAN, {"task": ModelTask.DETECTION, "network": "RetinaNet"}))
    assert set(detection.choices) == {"learning_rate", "weight_decay", "batch", "patch_scale"}


def test_a_file_is_the_whole_space_and_changes_come_on_top() -> None:
    space = read_space(PLAN, "batch: {low: 2, high: 8}\nseed: [1, 2]\n", ["seed: null", "average: [0.0, 0.99]"])
    assert space.choices == {"batch": Range(low=2, high=8), "average": Options(values=(0.0, 0.99))}


def test_numbers_as_yaml_does_not_read_them_are_numbers() -> None:
    assert read_space(PLAN, "learning_rate: {low: 1e-4, high: 1e-2}").choices["learning_rate"] == Range(
        low=1e-4, high=1e-2
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rat: {low: 0.1, high: 1.0}", "no value 'learning_rat'.*may also name network, width, patch_scale"),
        ("batch: {low: 0, high: 4}", "batch = 0 makes no plan"),
        ("batch: {low: 4, high: 4}", "batch: found a range from 4 to 4; expected low < high"),
        ("weight_decay: {low: 0.0, high: 1.0, log: true}", "expected low < high above 0"),
        ("batch: {low: 1}", "batch: .*'high'"),
        ("batch: {low: 1, high: 4, step: 2}", "batch: .*'step'"),
        ("batch: {low: one, high: 4}", "found 'one'; expected a number"),
        ("batch: 3", "batch: found 3; expected a list of options or"),
        ("batch: []", "batch: found an empty list"),
        ("batch: null", "names nothing to change"),
        ("[batch]", "expected lines such as"),
        ("batch: {", "is no YAML"),
    ],
)
def test_a_space_that_makes_no_plan_is_refused(text: str, said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        read_space(PLAN, text)


def test_width_multiplies_channels_in_steps_of_eight() -> None:
    assert PLAN.channels == (8, 16, 16)
    for width, channels in ((3.0, (24, 48, 48)), (1.6, (16, 24, 24)), (0.5, (8, 8, 8)), (1.0, (8, 16, 16))):
        assert chosen("width: [0.5, 1.0, 1.6, 3.0]", width=width) == {"channels": channels}


def test_a_scaled_patch_is_still_divided_by_the_strides() -> None:
    assert PLAN.patch_RAS == (24, 24, 16)
    assert PLAN.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 1))
    assert chosen("patch_scale: [0.6, 0.01]", patch_scale=0.6) == {"patch_RAS": (16, 16, 10)}  # 14.4 of 4, 9.6 of 2
    assert chosen("patch_scale: [0.6, 0.01]", patch_scale=0.01) == {"patch_RAS": (4, 4, 2)}


def test_only_a_dynunet_keeps_its_deep_supervision() -> None:
    deep = override(PLAN, {"network": "DynUNet", "deep_supervision": True})
    space = read_space(deep, "network: [DynUNet, SegResNet]")
    for name, supervised in (("DynUNet", True), ("SegResNet", False)):
        changed = space.overrides(optuna.trial.FixedTrial({"network": name}), deep)  # type: ignore[arg-type]
        assert changed == {"network": name, "deep_supervision": supervised}


def test_lists_are_options_too() -> None:
    changed = chosen("patch_RAS: [[16, 16, 8], [24, 24, 16]]", patch_RAS="[16, 16, 8]")
    assert changed == {"patch_RAS": (16, 16, 8)}
