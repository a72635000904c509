"""A network's answer to an image larger than its patch: windows over the image in, their weighted mean out.

Windows, their order and their weights are those of MONAI's `SlidingWindowInferer` with the same settings.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from monai.data.utils import compute_importance_map, dense_patch_slices
from torch import Tensor

from training.stopping import Stopped, go_on, never

# Scores of a batch of windows (B, C, X, Y, Z) in, those of the channels (B, K, X, Y, Z) out.
Network = Callable[[Tensor], Tensor]
Place = tuple[slice, ...]

_KNOWN = {"_target_", "roi_size", "sw_batch_size", "overlap", "mode", "cval"}


@dataclass(frozen=True, kw_only=True)
class Windows:
    """How an image is covered: windows of `size` voxels that share `overlap` of each edge with the next."""

    size: tuple[int, int, int]
    overlap: float
    mode: str
    padding: float = 0.0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Windows | None":
        """Those of a bundle's `inferer`; None where it is anything but a plain sliding window."""
        size = config.get("roi_size")
        plain = (
            config.get("_target_") == "SlidingWindowInferer"
            and set(config) <= _KNOWN
            and isinstance(size, Sequence)
            and len(size) == 3
            and all(isinstance(edge, int) and edge > 0 for edge in size)
            and isinstance(config.get("overlap", 0.25), float)
        )
        if not plain or size is None:
            return None
        x, y, z = size
        return cls(
            size=(x, y, z),
            overlap=config.get("overlap", 0.25),
            mode=config.get("mode", "constant"),
            padding=config.get("cval", 0.0),
        )

    @cached_property
    def weights(self) -> Tensor:
        """How much each voxel of a window counts, (X, Y, Z)."""
        weights: Tensor = compute_importance_map(self.size, mode=self.mode, sigma_scale=0.125)
        return weights

    def places(self, shape: Sequence[int]) -> list[Place]:
        """Where the windows lie in an image at least as large as one of them."""
        steps = [
            edge if size == edge else max(1, int(edge * (1 - self.overlap)))
            for edge, size in zip(self.size, shape, strict=True)
        ]
        return list(dense_patch_slices(shape, self.size, steps))

    def scores(
        self, image: Tensor, network: Network, *, device: torch.device, crew: int = 1, stopped: Stopped = never
    ) -> Tensor:
        """What the network says of the image (C, X, Y, Z), each voxel the weighted mean of its windows, on the CPU.

        A window of one value throughout is answered once for each such value. On the CPU `crew` windows are worked on
        at once, by threads of one core each. Raises `InferenceStopped` between windows.
        """
        padded, inside = self._padded(image)
        places = self.places(padded.shape[1:])
        sums: Tensor | None = None
        counts = torch.zeros(padded.shape[1:], device=device)
        weights = self.weights.to(device)
        ask = _Asked(padded, network, device, stopped)
        with _crew(crew if device.type == "cpu" else 1, len(places)) as each:
            for place, scores in zip(places, each(ask, places), strict=True):
                if sums is None:
                    sums = torch.zeros(scores.shape[0], *padded.shape[1:], device=device)
                sums[:, *place].addcmul_(scores, weights)
                counts[place].add_(weights)
        assert sums is not None  # noqa: S101  an image has at least one window
        return sums.div_(counts)[:, *inside].cpu()

    def _padded(self, image: Tensor) -> tuple[Tensor, Place]:
        """The image, made as large as a window where it is smaller, and where it lies in that."""
        missing = [max(edge - size, 0) for edge, size in zip(self.size, image.shape[1:], strict=True)]
        inside = tuple(slice(m // 2, m // 2 + size) for m, size in zip(missing, image.shape[1:], strict=True))
        if not any(missing):
            return image, inside
        sides = [side for m in reversed(missing) for side in (m // 2, m - m // 2)]
        return F.pad(image, sides, value=self.padding), inside


class _Asked:
    """The network's answer to one window (K, X, Y, Z) after the other; several threads may ask."""

    def __init__(self, image: Tensor, network: Network, device: torch.device, stopped: Stopped) -> None:
        self._image = image
        self._network = network
        self._device = device
        self._stopped = stopped
        self._flat: dict[tuple[float, ...], Tensor] = {}
        self._lock = threading.Lock()

    def __call__(self, place: Place) -> Tensor:
        go_on(self._stopped)
        with torch.inference_mode():
            window = self._image[:, *place]
            value = _only_value(window)
            if value is None:
                return self._answer(window)
            with self._lock:
                if value not in self._flat:
                    self._flat[value] = self._answer(window)
                return self._flat[value]

    def _answer(self, window: Tensor) -> Tensor:
        return self._network(window[None].to(self._device))[0].float()


def _only_value(window: Tensor) -> tuple[float, ...] | None:
    """The value of each channel (C, X, Y, Z) where it has but one, otherwise None."""
    values = window[:, 0, 0, 0]
    # Its first row tells of nearly every window that is not constant, at no cost.
    if not bool((window[:, 0] == values[:, None, None]).all()):
        return None
    return tuple(values.tolist()) if bool((window == values[:, None, None, None]).all()) else None


@contextmanager
def _crew(size: int, windows: int) -> Iterator[Callable[[_Asked, Sequence[Place]], Iterator[Tensor]]]:
    """Who works on windows: this thread, or threads of one core each, whose answers come in the windows' order.

    torch's own two threads wait for each other at every operation, and on a busy machine are slower than one.
    """
    size = min(size, windows)
    if size < 2:
        yield lambda ask, places: map(ask, places)
        return
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(size, thread_name_prefix="windows", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.map
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))
