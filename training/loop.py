"""The training loop: examples and a plan in, trained weights out; what an epoch showed is told as it ends.

Everything random is a function of the plan's seed and the place in the training, and a checkpoint is written whole
after every epoch: a run that was killed goes on from there and comes to the numbers of an undisturbed one.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from training.checkpoint import Epoch, State, TrainingError, new_state, read_state, write_state, write_weights
from training.group import ALONE, Group
from training.learner import Learner
from training.plan import Plan, Precision

_WARM_UP = 0.05  # of all steps
_GRADIENT_MAX = 12.0

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")
Weights = dict[str, Tensor]


class TrainingCancelled(RuntimeError):  # noqa: N818  a wish, not an error
    """Somebody asked this training to stop; its last checkpoint stays."""


def fit(
    plan: Plan,
    learner: Learner,
    training: Sequence[Any],
    validation: Sequence[Any],
    *,
    folder: Path,
    device: torch.device,
    tell: Callable[[Epoch], None],
    cancelled: Callable[[], bool] = lambda: False,
    group: Group = ALONE,
    start: Mapping[str, Tensor] | None = None,
) -> Weights:
    """Train, or go on training from `folder`/last, to the plan's last epoch; returns the weights on the CPU.

    Epochs that were done before an interruption are told again. The validation examples draw the curve and choose
    nothing, unless the plan's `patience` lets them end the training, which then keeps the weights of its best look at
    them (`folder`/best). `start` are weights to begin from. The processes of a group share the steps and come to the
    same weights; rank 0 tells and keeps checkpoints. Raises `TrainingCancelled`, `TrainingError`.
    """
    with _crew(plan, device) as crew:
        state = read_state(plan, learner, folder, device, group) or new_state(plan, learner, device, start)
        for epoch in state.history:
            tell(epoch)
        learner.load(training, device)
        while not state.done(plan):
            begun, begun_cpu_s = time.monotonic(), time.process_time()
            loss = _train_one_epoch(plan, learner, state, len(training), crew, cancelled, group)
            trained_s = time.monotonic() - begun
            spent_before = state.history[-1].cpu_minutes if state.history else 0.0
            epoch = Epoch(
                number=len(state.history) + 1,
                epochs=plan.epochs,
                loss=loss,
                learning_rate=state.optimizer.param_groups[0]["lr"],
                figures=_validate(plan, learner, state, validation, crew, group),
                seconds=time.monotonic() - begun,
                patches_per_s=len(training) / trained_s,
                moment_ms=time.time_ns() // 1_000_000,
                cpu_minutes=spent_before + (time.process_time() - begun_cpu_s) / 60,
            )
            improved = state.add(epoch)
            if group.leads:
                if improved:
                    write_weights(state.kept(), folder / "best")
                write_state(state, plan, folder)
            tell(epoch)
        return state.chosen(plan, folder, group)


def _train_one_epoch(
    plan: Plan,
    learner: Learner,
    state: State,
    examples: int,
    crew: "_Crew",
    cancelled: Callable[[], bool],
    group: Group,
) -> float:
    """One pass over the examples in an order of its own; returns the mean loss."""
    number = len(state.history)
    batches = passes(plan, examples, number)
    losses = []
    state.network.train()
    for step, batch in enumerate(batches):
        if group.share(cancelled()):
            raise TrainingCancelled(f"cancelled in epoch {number + 1} of {plan.epochs}; nothing was released")
        done = (number * len(batches) + step) / (plan.epochs * len(batches))
        for settings in state.optimizer.param_groups:
            settings["lr"] = plan.learning_rate * _schedule(done)
        seeds = [_seed(plan, number, step, place) for place in range(len(batch))]
        losses.append(_step(learner, state, batch, seeds, crew, group))
        if not math.isfinite(losses[-1]):
            raise TrainingError(
                f"the loss is {losses[-1]} in epoch {number + 1}; a lower learning_rate than"
                f" {plan.learning_rate} is expected to help. Nothing was released."
            )
    return sum(losses) / len(losses)


def passes(plan: Plan, examples: int, number: int) -> list[list[int]]:
    """One pass over all examples: their places in random order, a batch at a time."""
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(_seed(plan, number))).tolist()
    return [order[start : start + plan.batch] for start in range(0, examples, plan.batch)]


def _step(
    learner: Learner, state: State, batch: Sequence[int], seeds: Sequence[int], crew: "_Crew", group: Group
) -> float:
    """Move the weights along the batch's mean gradient, worked out in parts by processes and crew; returns the loss."""
    parameters = [parameter for parameter in state.network.parameters() if parameter.requires_grad]
    places = list(range(len(batch)))[group.rank :: group.size]

    def gradient_of(part: Sequence[int]) -> list[Tensor]:
        loss = learner.loss(state.network, [batch[place] for place in part], [seeds[place] for place in part])
        loss = loss * (len(part) / len(batch))
        return [*torch.autograd.grad(loss, parameters, materialize_grads=True), loss.detach().reshape(1)]

    nothing = [*map(torch.zeros_like, parameters), torch.zeros(1, device=crew.device)]
    found = list(crew.map(gradient_of, crew.parts(places))) or [nothing]
    sums = [torch.stack(column).sum(dim=0) for column in zip(*found, strict=True)] if len(found) > 1 else found[0]
    group.sum_(sums)
    for parameter, gradient in zip(parameters, sums, strict=False):
        parameter.grad = gradient
    torch.nn.utils.clip_grad_norm_(parameters, _GRADIENT_MAX)
    state.optimizer.step()
    state.follow()
    return float(sums[-1])


def _validate(
    plan: Plan, learner: Learner, state: State, validation: Sequence[Any], crew: "_Crew", group: Group
) -> dict[str, float]:
    """Mean of each figure over the validation examples; nothing where this epoch does not look at them."""
    number = len(state.history) + 1
    if not validation or (number % plan.validate_every and number != plan.epochs):
        return {}
    network = state.looked_at()
    mine = list(crew.map(lambda example: learner.figures(network, example), validation[group.rank :: group.size]))
    found = [figures for of_process in group.gather(mine) for figures in of_process]
    names = dict.fromkeys(name for figures in found for name in figures)
    columns = {name: [figures[name] for figures in found if name in figures] for name in names}
    return {name: math.fsum(column) / len(column) for name, column in columns.items()}


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
    apart: bool

    def map(self, work: Callable[[_Part], _Result], parts: Sequence[_Part]) -> Iterator[_Result]:
        """The results in the order of the parts."""
        return self.pool.map(work, parts)

    def parts(self, batch: Sequence[int]) -> list[Sequence[int]]:
        return [[place] for place in batch] if self.apart else [batch] if batch else []


@contextmanager
def _crew(plan: Plan, device: torch.device) -> Iterator[_Crew]:
    """The crew of one training; torch's threads are shared out among it and given back in the end."""
    threads = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0))
    apart = device.type == "cpu" and not plan.deep_supervision  # MONAI's DynUNet keeps its coarser answers on itself
    members = min(plan.batch, cores) if apart else 1
    torch.set_num_threads(max(1, cores // members) if device.type == "cpu" else threads)
    try:
        with ThreadPoolExecutor(members, thread_name_prefix="training") as pool:
            yield _Crew(device=device, pool=pool, apart=apart)
    finally:
        torch.set_num_threads(threads)


def _seed(plan: Plan, *place: int) -> int:
    """A seed for this place (epoch, step, example) in the training, far from those of its neighbours."""
    digest = hashlib.sha256(repr((plan.seed, *place)).encode()).digest()
    return int.from_bytes(digest[:6])


def _schedule(done: float) -> float:
    """Share of the learning rate after this share of the training: a short rise, then a cosine to nothing."""
    rise = min(1.0, (done + 1e-3) / _WARM_UP)
    return rise * 0.5 * (1 + math.cos(math.pi * done))
