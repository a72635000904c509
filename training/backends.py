"""What computes a network's answer to a window: a network in; its fastest equal on this machine, by measurement, out.

A candidate is taken only where it answers drawn windows as the network itself does in float32, and is clearly faster.
OpenVINO (the extra `openvino`) is one where it is installed.
"""

import importlib.util
import logging
import os
import queue
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from training.loop import native_precision
from training.plan import Precision

# A batch of windows (B, C, X, Y, Z) in, the channels' scores (B, K, X, Y, Z) out, float32.
Ask = Callable[[Tensor], Tensor]

_WORTHWHILE = 2e9  # floating-point operations a window: below, there is nothing to gain
_CLEARLY_FASTER = 1.15
_DICE_MIN, _DICE_MEAN_MIN = 0.99, 0.995  # of each channel and of all structures, on the drawn windows together
_SHARE_MIN = 0.005  # of the drawn voxels that a channel has, to be compared
_APART_MAX = 0.01  # root mean square of the differences, of the scores' deviation
_CELLS = (4, 8, 16)  # edges in voxels of what is drawn
_WINDOWS = 3

log = logging.getLogger("overread.inference")


@dataclass(frozen=True, kw_only=True, eq=False)
class Backend:
    """Something that answers windows of one size; `name` is for logs. Several threads may ask at once."""

    name: str
    ask: Ask


def plain(network: torch.nn.Module) -> Backend:
    """The network itself, float32: the same numbers everywhere."""
    return Backend(name="torch float32", ask=partial(_asked, network))


def fastest(network: torch.nn.Module, size: Sequence[int], device: torch.device) -> Backend:
    """The fastest that answers as the network does, for windows of this size; the network itself where nothing is."""
    reference = plain(network)
    channels = _channels_in(network)
    if channels is None:
        return reference
    with _one_thread(device), torch.inference_mode():
        windows = [_drawn(channels, size, seed).to(device) for seed in range(_WINDOWS)]
        if _operations(network, windows[0]) < _WORTHWHILE:
            return reference
        wanted, best_s = _timed(reference, windows)
        best, told = reference, [f"{reference.name} {1000 * best_s:.0f} ms"]
        for precision in _candidates(network, windows[0], device):
            for name, make in precision:
                candidate = _made(name, make)
                found, took_s = _timed(candidate, windows) if candidate is not None else ([], 0.0)
                if candidate is None or not _agrees(wanted, found):
                    told.append(f"{name} left out")
                    continue
                told.append(f"{name} {1000 * took_s:.0f} ms")
                if took_s * _CLEARLY_FASTER < best_s:
                    best, best_s = candidate, took_s
            if best is not reference:
                break
    log.info("windows of %s voxels are answered by %s (%s)", "×".join(map(str, size)), best.name, ", ".join(told))
    return best


_Candidate = tuple[str, Callable[[], Ask]]


def _candidates(network: torch.nn.Module, window: Tensor, device: torch.device) -> Iterator[Sequence[_Candidate]]:
    """By precision: those of float32 are only looked at where no faster one in bfloat16 agrees."""
    openvino = device.type == "cpu" and importlib.util.find_spec("openvino") is not None
    if native_precision(device) is Precision.BF16:
        bf16: list[_Candidate] = [("torch bfloat16", lambda: partial(_asked, network, autocast=device.type))]
        if device.type == "cuda":
            bf16.append(("torch bfloat16, channels last", lambda: _channels_last(network, device)))
            bf16.append(("torch bfloat16, compiled", lambda: _compiled(network, device)))
        if openvino:
            bf16.append(("OpenVINO bfloat16", lambda: _openvino(network, window, "bf16")))
        yield bf16
    if openvino:
        yield [("OpenVINO float32", lambda: _openvino(network, window, "f32"))]


def _made(name: str, make: Callable[[], Ask]) -> Backend | None:
    try:
        return Backend(name=name, ask=make())
    except Exception as error:  # noqa: BLE001  converters raise whatever they like; torch then serves as well
        log.info("%s cannot run this network (%s)", name, type(error).__name__)
        return None


def _asked(network: Callable[[Tensor], Tensor], windows: Tensor, autocast: str = "") -> Tensor:
    with torch.inference_mode(), torch.autocast(autocast or "cpu", torch.bfloat16, enabled=bool(autocast)):
        return network(windows).float()


def _channels_last(network: torch.nn.Module, device: torch.device) -> Ask:
    laid_out: torch.nn.Module = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # 2D only
    return lambda windows: _asked(laid_out, windows.to(memory_format=torch.channels_last_3d), device.type)


def _compiled(network: torch.nn.Module, device: torch.device) -> Ask:
    compiled: Callable[[Tensor], Tensor] = torch.compile(network)
    return lambda windows: _asked(compiled, windows, device.type)


def _openvino(network: torch.nn.Module, window: Tensor, precision: str) -> Ask:
    """Converted by its PyTorch front end alone: `convert_model` would tell Intel of each conversion."""
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of each Python branch
        decoder = TorchScriptPythonDecoder(network, example_input=(window,))
        front_end = FrontEndManager().load_by_framework("pytorch")
        model = front_end.convert(front_end.load(decoder))  # which read of the decoder: it must not be gone by now
    model.reshape([1, *window.shape[1:]])
    streams = len(os.sched_getaffinity(0))
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": streams,
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,  # the machine does other work too
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    requests: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
    for _ in range(streams):
        requests.put(compiled.create_infer_request())

    def ask_one(one: Tensor) -> Tensor:
        request = requests.get()
        try:
            request.infer({0: one[None].contiguous().numpy()}, share_inputs=True)
            return torch.from_numpy(request.get_output_tensor(0).data.copy())
        finally:
            requests.put(request)

    return lambda windows: torch.cat([ask_one(one) for one in windows])


def _agrees(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> bool:
    """Whether the scores of all windows lead to the same labels, and differ by no more than rounding does."""
    expected, answered = torch.cat(list(wanted)), torch.cat(list(found))
    if float((expected - answered).square().mean().sqrt()) > _APART_MAX * float(expected.std()):
        return False
    ours, theirs = expected.argmax(dim=1), answered.argmax(dim=1)
    dices = []
    for channel in range(expected.shape[1]):
        a, b = ours == channel, theirs == channel
        voxels = int(a.sum()) + int(b.sum())
        if voxels > 2 * _SHARE_MIN * ours.numel():
            dices.append(2 * int((a & b).sum()) / voxels)
    structures = dices[1:] or dices
    return min(dices) >= _DICE_MIN and sum(structures) / len(structures) >= _DICE_MEAN_MIN


def _drawn(channels: int, size: Sequence[int], seed: int) -> Tensor:
    """A window of blobs of several sizes in some noise, of mean 0 and deviation 1, as images are prepared."""
    random = torch.Generator().manual_seed(seed)
    drawn = 0.2 * torch.randn(1, channels, *size, generator=random)
    for cell in _CELLS:
        coarse = torch.randn(1, channels, *(max(2, -(-edge // cell)) for edge in size), generator=random)
        drawn += F.interpolate(coarse, size=list(size), mode="trilinear", align_corners=True)
    return (drawn - drawn.mean()) / drawn.std()


def _timed(backend: Backend, windows: Sequence[Tensor]) -> tuple[list[Tensor], float]:
    """The answers, and the seconds of the fastest: whatever else the machine does only adds to them."""
    answers, took = [], []
    for window in windows:
        began = time.perf_counter()
        answers.append(backend.ask(window).cpu())
        took.append(time.perf_counter() - began)
    return answers, min(took)


def _operations(network: torch.nn.Module, window: Tensor) -> int:
    """Floating-point operations of one answer."""
    with FlopCounterMode(display=False) as counted:
        network(window)
    return int(counted.get_total_flops())


def _channels_in(network: torch.nn.Module) -> int | None:
    """How many channels the network takes; None where its first layer is no 3D convolution."""
    first = next((module for module in network.modules() if isinstance(module, torch.nn.Conv3d)), None)
    return None if first is None else first.in_channels


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Windows are worked on by threads of one core each, so that is how candidates are measured."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cpu" else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
