"""What ends a training, what it keeps and what it begins from."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.training.drawn import small_plan
from training.checkpoint import Epoch, State, TrainingError, new_state
from training.data import Example
from training.loop import fit
from training.plan import Plan
from training.segmentation import SegmentationLearner

CPU = torch.device("cpu")
TINY = {"channels": (4, 8, 8), "epochs": 6, "validate_every": 1}


class Told(SegmentationLearner):
    """Learns as ever; what the validation shows is told beforehand."""

    def __init__(self, plan: Plan, scores: list[float]) -> None:
        super().__init__(plan)
        self._scores = scores
        self.looked_at: list[dict[str, Tensor]] = []

    def figures(self, network: torch.nn.Module, example: Example) -> dict[str, float]:
        self.looked_at.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"told": self._scores[len(self.looked_at) - 1]}


def learned(
    plan: Plan, learner: SegmentationLearner, examples: list[Example], folder: Path
) -> tuple[dict, list[Epoch]]:
    told: list[Epoch] = []
    return fit(plan, learner, examples[:2], examples[2:3], folder=folder, device=CPU, tell=told.append), told


def test_a_training_ends_when_looks_grow_no_better_and_keeps_its_best_weights(
    examples: list[Example], tmp_path: Path
) -> None:
    plan = small_plan(**TINY, patience=2)
    learner = Told(plan, [0.1, 0.5, 0.4, 0.5, 0.9, 0.9])  # as good as before is no better
    weights, told = learned(plan, learner, examples, tmp_path)
    assert [epoch.score for epoch in told] == [0.1, 0.5, 0.4, 0.5]
    assert all(torch.equal(weights[name], learner.looked_at[1][name]) for name in weights)
    again, told_again = learned(plan, Told(plan, []), examples, tmp_path)
    assert told_again == told
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_without_patience_all_epochs_are_trained_and_the_last_weights_kept(
    examples: list[Example], tmp_path: Path
) -> None:
    plan = small_plan(**TINY)
    learner = Told(plan, [0.9, 0.1, 0.1, 0.1, 0.1, 0.1])
    weights, told = learned(plan, learner, examples, tmp_path)
    assert len(told) == 6
    assert all(torch.equal(weights[name], learner.looked_at[-1][name]) for name in weights)


def test_the_average_follows_the_weights_and_is_what_is_kept(examples: list[Example], tmp_path: Path) -> None:
    plan = small_plan(**{**TINY, "epochs": 1}, average=0.5)
    learner = SegmentationLearner(plan)
    state = new_state(plan, learner, CPU, None)
    assert state.average is not None
    before = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
    with torch.no_grad():
        for parameter in state.network.parameters():
            parameter.add_(1.0)
    state.follow()  # the first step: min(0.5, 2 / 11) of the average stays
    for name, tensor in state.kept().items():
        assert torch.allclose(tensor, before[name] + 1 - 2 / 11, atol=1e-6), name
    without, _ = learned(small_plan(**{**TINY, "epochs": 1}), SegmentationLearner(plan), examples, tmp_path / "without")
    averaged, _ = learned(plan, learner, examples, tmp_path / "with")
    assert any(not torch.equal(without[name], averaged[name]) for name in without)


def test_a_training_begins_from_weights_that_fit_and_refuses_those_that_do_not(trained: tuple[Plan, dict]) -> None:
    plan, weights = trained
    state = new_state(plan, SegmentationLearner(plan), CPU, weights)
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.network.state_dict().items())
    other = small_plan(network="DynUNet")
    with pytest.raises(TrainingError, match=r"no weights of the model to start from fit this plan's DynUNet"):
        new_state(other, SegmentationLearner(other), CPU, {"elsewhere": torch.zeros(1)})


def test_deep_supervision_learns_from_coarser_answers_and_answers_with_one(
    examples: list[Example], tmp_path: Path
) -> None:
    plan = small_plan(
        **{**TINY, "epochs": 12}, network="DynUNet", deep_supervision=True, strides=((1, 1, 1), (2, 2, 2), (2, 2, 2))
    )
    _, told = learned(plan, SegmentationLearner(plan), examples, tmp_path)
    assert told[-1].loss < told[0].loss
    assert set(told[-1].figures) == {"dice/anterior", "dice/posterior"}


def test_patience_counts_looks_and_not_epochs() -> None:
    plan = small_plan(epochs=100, validate_every=5, patience=2)
    state = State(network=torch.nn.Identity(), optimizer=None, average=None, decay=0.0)  # type: ignore[arg-type]

    def after(score: float | None) -> bool:
        figures = {} if score is None else {"dice": score}
        number = len(state.history) + 1
        epoch = Epoch(
            number=number,
            epochs=100,
            loss=1.0,
            learning_rate=0.1,
            figures=figures,
            seconds=1.0,
            patches_per_s=1.0,
            moment_ms=0,
        )
        state.add(epoch)
        return state.done(plan)

    assert [after(score) for score in (0.5, None, None, None, 0.4, None, 0.3)] == [False] * 6 + [True]
