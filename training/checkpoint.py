"""How far a training is, written whole after every epoch: a state in, files that a killed training goes on from, out.

A file begins with the SHA-256 of what follows, which is checked before anything is loaded.
"""

import copy
import hashlib
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labeling_protocols.blobs import write_durably
from training.group import Group
from training.learner import Learner
from training.plan import Plan

LAST, BEST = "last", "best"
_DIGEST_LENGTH = 64
_AVERAGE_FROM = 10  # steps after which the average forgets as slowly as the plan says


class TrainingError(RuntimeError):
    """A training that cannot go on: what was found, what was expected."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch showed; `figures` are means over the validation examples by name, empty where nobody looked.

    `cpu_minutes` are those of the processors of this process, since the training began.
    """

    number: int
    epochs: int
    loss: float
    learning_rate: float
    figures: dict[str, float]
    seconds: float
    patches_per_s: float
    moment_ms: int
    cpu_minutes: float = 0.0

    @property
    def score(self) -> float | None:
        """Mean of the figures; higher is better."""
        return sum(self.figures.values()) / len(self.figures) if self.figures else None


@dataclass(kw_only=True)
class State:
    """`average` is the moving average of the weights, None where the plan has none."""

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    average: torch.nn.Module | None
    decay: float
    steps: int = 0
    history: list[Epoch] = field(default_factory=list)

    def add(self, epoch: Epoch) -> bool:
        """Keep what an epoch showed: whether its score is better than all before."""
        before = [score for known in self.history if (score := known.score) is not None]
        self.history.append(epoch)
        return epoch.score is not None and all(epoch.score > score for score in before)

    def done(self, plan: Plan) -> bool:
        """Whether all epochs are trained, or the last `patience` looks were no better than the best before them."""
        if len(self.history) >= plan.epochs:
            return True
        scores = [score for epoch in self.history if (score := epoch.score) is not None]
        return plan.patience is not None and len(scores) - 1 - _place_of_best(scores) >= plan.patience

    def follow(self) -> None:
        """Move the average after a step of the optimizer."""
        self.steps += 1
        if self.average is not None:
            decay = min(self.decay, (1 + self.steps) / (_AVERAGE_FROM + self.steps))
            with torch.no_grad():
                ours: list[Tensor] = list(self.average.parameters())
                theirs: list[Tensor] = list(self.network.parameters())
                torch._foreach_lerp_(ours, theirs, 1 - decay)

    def looked_at(self) -> torch.nn.Module:
        """The network that is validated and kept, in evaluation mode."""
        return (self.network if self.average is None else self.average).eval()

    def kept(self) -> dict[str, Tensor]:
        """The weights by name; a DynUNet names some twice, which no safetensors file may hold as one."""
        weights = self.looked_at().state_dict()
        return {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()
        }

    def chosen(self, plan: Plan, folder: Path, group: Group) -> dict[str, Tensor]:
        """The best weights where the plan looks for them, otherwise the last."""
        if plan.patience is None or not any(epoch.figures for epoch in self.history):
            return self.kept()
        return group.share(_read(folder / BEST) if group.leads else {})


def new_state(plan: Plan, learner: Learner, device: torch.device, start: Mapping[str, Tensor] | None) -> State:
    """The beginning; `start` are weights of a network of the same kind, whose parts that fit are taken over."""
    torch.manual_seed(plan.seed)
    network = learner.network()
    if start is not None:
        own = network.state_dict()
        fitting = {name: tensor for name, tensor in start.items() if name in own and own[name].shape == tensor.shape}
        if not fitting:
            raise TrainingError(
                f"no weights of the model to start from fit this plan's {plan.network}; start without it, or train the"
                " same network. Nothing was trained."
            )
        network.load_state_dict({**own, **fitting})
    network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # not in torch's stubs
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    average = copy.deepcopy(network).requires_grad_(False) if plan.average else None
    return State(network=network, optimizer=optimizer, average=average, decay=plan.average)


def read_state(plan: Plan, learner: Learner, folder: Path, device: torch.device, group: Group) -> State | None:
    """The state that rank 0 finds in its folder; None where there is none. Raises `TrainingError`."""
    path = folder / LAST
    stored = group.share(_read(path) if group.leads and path.exists() else None)
    if stored is None:
        return None
    if stored["plan"] != plan.as_json():
        raise TrainingError(f"{path.name} belongs to another plan than this training's. Nothing was trained.")
    state = new_state(plan, learner, device, None)
    state.network.load_state_dict(stored["network"])
    if state.average is not None:
        state.average.load_state_dict(stored["average"])
    state.optimizer.load_state_dict(stored["optimizer"])
    state.steps = stored["steps"]
    state.history = [Epoch(**epoch) for epoch in stored["history"]]
    return state


def write_state(state: State, plan: Plan, folder: Path) -> None:
    _write(
        {
            "plan": plan.as_json(),
            "network": state.network.state_dict(),
            "average": state.average.state_dict() if state.average is not None else None,
            "optimizer": state.optimizer.state_dict(),
            "steps": state.steps,
            "history": [asdict(epoch) for epoch in state.history],
        },
        folder / LAST,
    )


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    _write(dict(weights), path)


def _place_of_best(scores: list[float]) -> int:
    return scores.index(max(scores)) if scores else -1


def _write(content: Mapping[str, Any], path: Path) -> None:
    body = io.BytesIO()
    torch.save(content, body)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, hashlib.sha256(body.getvalue()).hexdigest().encode() + body.getvalue())


def _read(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    digest, body = content[:_DIGEST_LENGTH], content[_DIGEST_LENGTH:]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise TrainingError(f"{path.name} is damaged: its content no longer gives its digest. Nothing was trained.")
    stored: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    return stored
