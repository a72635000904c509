"""The loop: it learns, it can be killed and goes on to the same numbers, it stops when asked."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.training.drawn import small_plan
from training.checkpoint import Epoch, TrainingError, new_state
from training.data import Example
from training.loop import TrainingCancelled, fit, native_precision
from training.networks import NETWORKS
from training.plan import Plan, Precision
from training.segmentation import SegmentationLearner

CPU = torch.device("cpu")
SHORT = small_plan(epochs=4, validate_every=2, channels=(4, 8, 8))


class Killed(BaseException):
    """Stands for the end of the process: nothing in the loop may catch it."""


def run(
    plan: Plan,
    examples: list[Example],
    folder: Path,
    *,
    tell: Callable[[Epoch], None] = lambda epoch: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, Tensor], list[Epoch]]:
    told: list[Epoch] = []

    def keep(epoch: Epoch) -> None:
        told.append(epoch)
        tell(epoch)

    learner = SegmentationLearner(plan)
    weights = fit(plan, learner, examples[:4], examples[4:], folder=folder, device=CPU, tell=keep, cancelled=cancelled)
    return weights, told


def numbers(history: list[Epoch]) -> list[tuple[int, float, float, dict[str, float]]]:
    return [(epoch.number, epoch.loss, epoch.learning_rate, epoch.figures) for epoch in history]


def test_the_same_plan_and_examples_give_the_same_numbers_twice(examples: list[Example], tmp_path: Path) -> None:
    first, told = run(SHORT, examples, tmp_path / "a")
    again, told_again = run(SHORT, examples, tmp_path / "b")
    assert numbers(told) == numbers(told_again)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other, _ = run(small_plan(epochs=4, channels=(4, 8, 8), seed=4), examples, tmp_path / "c")
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_training_killed_after_any_epoch_ends_like_an_undisturbed_one(
    last: int, examples: list[Example], tmp_path: Path
) -> None:
    whole, told = run(SHORT, examples, tmp_path / "whole")

    def die(epoch: Epoch) -> None:
        if epoch.number == last:
            raise Killed

    with pytest.raises(Killed):
        run(SHORT, examples, tmp_path / "killed", tell=die)
    resumed, told_again = run(SHORT, examples, tmp_path / "killed")
    assert numbers(told_again) == numbers(told)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_training_killed_within_an_epoch_repeats_that_epoch(examples: list[Example], tmp_path: Path) -> None:
    whole, _ = run(SHORT, examples, tmp_path / "whole")
    steps = 0

    def die_in_the_second_epoch() -> bool:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise Killed
        return False

    with pytest.raises(Killed):
        run(SHORT, examples, tmp_path / "killed", cancelled=die_in_the_second_epoch)
    resumed, told = run(SHORT, examples, tmp_path / "killed")
    assert [epoch.number for epoch in told] == [1, 2, 3, 4]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_finished_training_run_again_trains_nothing(examples: list[Example], tmp_path: Path) -> None:
    first, told = run(SHORT, examples, tmp_path / "checkpoint")
    again, told_again = run(SHORT, examples, tmp_path / "checkpoint", cancelled=lambda: pytest.fail("a step was made"))
    assert told_again == told
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_cancelled_training_stops_at_the_next_step_and_keeps_its_checkpoint(
    examples: list[Example], tmp_path: Path
) -> None:
    told: list[Epoch] = []
    with pytest.raises(TrainingCancelled, match="cancelled in epoch 2 of 4"):
        run(SHORT, examples, tmp_path / "checkpoint", tell=told.append, cancelled=lambda: len(told) == 1)
    assert len(told) == 1
    _, resumed = run(SHORT, examples, tmp_path / "checkpoint")
    assert numbers(resumed)[:1] == numbers(told)


def test_a_damaged_checkpoint_is_refused_before_it_is_loaded(examples: list[Example], tmp_path: Path) -> None:
    run(SHORT, examples, tmp_path)
    content = bytearray((tmp_path / "last").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "last").write_bytes(content)
    with pytest.raises(TrainingError, match="last is damaged"):
        run(SHORT, examples, tmp_path)


def test_a_checkpoint_of_another_plan_is_refused(examples: list[Example], tmp_path: Path) -> None:
    run(SHORT, examples, tmp_path / "checkpoint")
    with pytest.raises(TrainingError, match="another plan"):
        run(small_plan(epochs=5), examples, tmp_path / "checkpoint")


def test_a_loss_that_is_no_number_ends_the_training_in_words(examples: list[Example], tmp_path: Path) -> None:
    broken = [Example(case="c", image=torch.full_like(e.image, torch.nan), label=e.label) for e in examples]
    with pytest.raises(TrainingError, match=r"the loss is nan in epoch 1.*learning_rate"):
        run(SHORT, broken, tmp_path / "checkpoint")


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_kept_of_any_network_goes_into_a_file_and_back(name: str) -> None:
    learner = SegmentationLearner(small_plan(network=name, channels=(24, 24, 24), patch_RAS=(32, 32, 32)))
    kept = new_state(SHORT, learner, CPU, None).kept()
    restored = safetensors.torch.load(safetensors.torch.save(kept))
    learner.network().load_state_dict(restored, strict=True)
    assert all(torch.equal(restored[weight], tensor) for weight, tensor in kept.items())


def test_half_precision_learns_the_same_task(examples: list[Example], tmp_path: Path) -> None:
    plan = small_plan(precision=Precision.BF16, epochs=25)
    _, told = run(plan, examples, tmp_path / "checkpoint")
    assert min(told[-1].figures.values()) > 0.7
    assert native_precision(CPU) in Precision
