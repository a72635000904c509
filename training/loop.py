"""The training loop: examples and a plan in, trained weights out; what an epoch showed is told as it ends.

Everything random is a function of the plan's seed and the epoch's number, and a checkpoint is written whole after every
epoch: a run that was killed goes on from there and comes to the numbers of an undisturbed one.
"""

import hashlib
import io
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from monai.inferers import SlidingWindowInferer
from monai.losses import DiceCELoss
from torch import Tensor

from labeling_protocols.blobs import write_durably
from training.data import Bank, Example
from training.networks import build_network
from training.plan import Plan, Precision

_WARM_UP = 0.05  # of all steps
_GRADIENT_MAX = 12.0
_DIGEST_LENGTH = 64

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


class TrainingError(RuntimeError):
    """A training that cannot go on: what was found, what was expected."""


class TrainingCancelled(RuntimeError):  # noqa: N818  a wish, not an error
    """Somebody asked this training to stop; its last checkpoint stays."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch showed; `dice` is by network channel on the held-out examples, empty where nobody looked."""

    number: int
    epochs: int
    loss: float
    learning_rate: float
    dice: dict[int, float]
    seconds: float
    moment_ms: int


@dataclass(kw_only=True)
class _State:
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    history: list[Epoch] = field(default_factory=list)


def fit(
    plan: Plan,
    training: Sequence[Example],
    held_out: Sequence[Example],
    *,
    checkpoint: Path,
    device: torch.device,
    tell: Callable[[Epoch], None],
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Tensor]:
    """Train, or go on training from `checkpoint`, to the plan's last epoch; returns the weights on the CPU.

    Epochs that were done before an interruption are told again. The held-out examples draw the curve and choose
    nothing: the weights are those of the last epoch. Raises `TrainingCancelled`, `TrainingError`.
    """
    with _crew(plan, device) as crew:
        state = _resumed_or_new(plan, checkpoint, device)
        for epoch in state.history:
            tell(epoch)
        bank = Bank(plan, training, device)
        for number in range(len(state.history), plan.epochs):
            begun = time.monotonic()
            loss = _train_one_epoch(plan, state, bank, number, crew, cancelled)
            due = (number + 1) % plan.validate_every == 0 or number + 1 == plan.epochs
            dice = _validate(plan, state.network, held_out, crew) if due else {}
            state.history.append(
                Epoch(
                    number=number + 1,
                    epochs=plan.epochs,
                    loss=loss,
                    learning_rate=state.optimizer.param_groups[0]["lr"],
                    dice=dice,
                    seconds=time.monotonic() - begun,
                    moment_ms=time.time_ns() // 1_000_000,
                )
            )
            _write(state, plan, checkpoint)
            tell(state.history[-1])
        return {name: tensor.detach().cpu().contiguous() for name, tensor in state.network.state_dict().items()}


def _train_one_epoch(
    plan: Plan, state: _State, bank: Bank, number: int, crew: "_Crew", cancelled: Callable[[], bool]
) -> float:
    """One pass over the examples; returns the mean loss."""
    batches = bank.batches(_seed(plan, number))
    losses = []
    state.network.train()
    for step, batch in enumerate(batches):
        if cancelled():
            raise TrainingCancelled(f"cancelled in epoch {number + 1} of {plan.epochs}; nothing was released")
        done = (number * len(batches) + step) / (plan.epochs * len(batches))
        for group in state.optimizer.param_groups:
            group["lr"] = plan.learning_rate * _schedule(done)
        losses.append(_step(plan, state, bank, batch, _seed(plan, number, step), crew))
        if not math.isfinite(losses[-1]):
            raise TrainingError(
                f"the loss is {losses[-1]} in epoch {number + 1}; a lower learning_rate than"
                f" {plan.learning_rate} is expected to help. Nothing was released."
            )
    return sum(losses) / len(losses)


def _step(plan: Plan, state: _State, bank: Bank, batch: Sequence[int], seed: int, crew: "_Crew") -> float:
    """Move the weights along the batch's mean gradient, worked out in parts by the crew; returns the loss."""
    parameters = list(state.network.parameters())
    criterion = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)

    def gradient_of(part: tuple[int, Sequence[int]]) -> tuple[Tensor, Sequence[Tensor]]:
        image, label = bank.patches(part[1], seed + part[0])
        with _autocast(plan, crew.device):
            scores = state.network(image.contiguous(memory_format=torch.channels_last_3d))
        loss = criterion(scores.float(), label) * (len(part[1]) / len(batch))
        return loss.detach(), torch.autograd.grad(loss, parameters)

    parts = list(crew.map(gradient_of, list(enumerate(crew.parts(batch)))))
    for index, parameter in enumerate(parameters):
        parameter.grad = torch.stack([gradients[index] for _, gradients in parts]).sum(dim=0)
    torch.nn.utils.clip_grad_norm_(parameters, _GRADIENT_MAX)
    state.optimizer.step()
    return float(sum(loss for loss, _ in parts))


def _validate(plan: Plan, network: torch.nn.Module, held_out: Sequence[Example], crew: "_Crew") -> dict[int, float]:
    """Mean Dice of each channel over the held-out examples, on the network's own grid; two empty masks agree."""
    network.eval()
    window = SlidingWindowInferer(plan.patch_RAS, sw_batch_size=1, overlap=plan.window_overlap, mode="gaussian")

    @torch.inference_mode()
    def dice_of(example: Example) -> list[float]:
        with _autocast(plan, crew.device):
            scores = window(example.image[None].to(crew.device), network)
        chosen, found = scores.argmax(dim=1)[0].cpu(), []
        for channel in range(1, len(plan.values)):
            ours, theirs = chosen == channel, example.label == channel
            total = int(ours.sum() + theirs.sum())
            found.append(2 * int((ours & theirs).sum()) / total if total else 1.0)
        return found

    scored = list(crew.map(dice_of, held_out))
    return {channel: sum(dice) / len(dice) for channel, dice in enumerate(zip(*scored, strict=True), start=1)}


def choose_device(name: str) -> torch.device:
    """The device of a site's setting: `auto` takes a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def native_precision(device: torch.device) -> Precision:
    """bfloat16 where the device computes in it; elsewhere it is emulated, which is slower than float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return Precision.BF16 if native else Precision.FP32


@dataclass(frozen=True, kw_only=True)
class _Crew:
    """Who works on the parts of a batch at once: threads of one core each on the CPU, the device itself on a GPU.

    On a busy machine torch's own two threads wait for each other at every operation and can be several times slower
    than one; these meet once a step. The parts are the same whatever the number of cores, and so are the numbers.
    """

    device: torch.device
    pool: ThreadPoolExecutor

    def parts(self, batch: Sequence[int]) -> list[Sequence[int]]:
        return [[place] for place in batch] if self.device.type == "cpu" else [batch]

    def map(self, work: Callable[[_Part], _Result], parts: Sequence[_Part]) -> Iterator[_Result]:
        """The results in the order of the parts."""
        return self.pool.map(work, parts)


@contextmanager
def _crew(plan: Plan, device: torch.device) -> Iterator[_Crew]:
    """The crew of one training; torch's threads are shared out among it and given back in the end."""
    threads = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0))
    members = min(plan.batch, cores) if device.type == "cpu" else 1
    torch.set_num_threads(max(1, cores // members) if device.type == "cpu" else threads)
    try:
        with ThreadPoolExecutor(members, thread_name_prefix="training") as pool:
            yield _Crew(device=device, pool=pool)
    finally:
        torch.set_num_threads(threads)


def _autocast(plan: Plan, device: torch.device) -> torch.autocast:
    """Without its cache of converted weights, which all threads would share."""
    return torch.autocast(
        device.type, torch.bfloat16, enabled=plan.precision is Precision.BF16, cache_enabled=device.type != "cpu"
    )


def _seed(plan: Plan, *place: int) -> int:
    """A seed for this place (epoch, step) in the training, far from those of its neighbours."""
    digest = hashlib.sha256(repr((plan.seed, *place)).encode()).digest()
    return int.from_bytes(digest[:6])


def _schedule(done: float) -> float:
    """Share of the learning rate after this share of the training: a short rise, then a cosine to nothing."""
    rise = min(1.0, (done + 1e-3) / _WARM_UP)
    return rise * 0.5 * (1 + math.cos(math.pi * done))


def _resumed_or_new(plan: Plan, checkpoint: Path, device: torch.device) -> _State:
    torch.manual_seed(plan.seed)
    network = build_network(plan).to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # not in torch's stubs
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    state = _State(network=network, optimizer=optimizer)
    if checkpoint.exists():
        stored = _read(checkpoint)
        if stored["plan"] != plan.as_json():
            raise TrainingError(f"{checkpoint.name} belongs to another plan than this training's. Nothing was trained.")
        network.load_state_dict(stored["network"])
        optimizer.load_state_dict(stored["optimizer"])
        state.history = [Epoch(**epoch) for epoch in stored["history"]]
    return state


def _write(state: _State, plan: Plan, checkpoint: Path) -> None:
    content = io.BytesIO()
    torch.save(
        {
            "plan": plan.as_json(),
            "network": state.network.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "history": [asdict(epoch) for epoch in state.history],
        },
        content,
    )
    body = content.getvalue()
    write_durably(checkpoint, hashlib.sha256(body).hexdigest().encode() + body)


def _read(checkpoint: Path) -> dict[str, Any]:
    """The checkpoint's content; its digest, the first 64 bytes, is checked before anything is loaded."""
    content = checkpoint.read_bytes()
    digest, body = content[:_DIGEST_LENGTH], content[_DIGEST_LENGTH:]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise TrainingError(
            f"{checkpoint.name} is damaged: its content no longer gives its digest. Nothing was trained."
        )
    stored: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    return stored
