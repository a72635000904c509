"""Patches out of volumes, and volumes kept in files, so that a training's cases need not fit in memory.

What lies beyond a volume is empty; no copy of it with empty borders is made.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

_MEMORY_BYTES = 4 * 2**30  # of prepared cases kept in this process; the rest is read from files as it is needed
_DEVICE_SHARE = 0.4  # of a GPU's free memory that prepared cases may take

_Example = TypeVar("_Example")


class Shelf:
    """Prepared examples: those that memory has room for stay in it, of others the tensors lie in files without a name.

    The files lie in `folder` and are gone when nobody uses the tensors any more, however the process ends.
    """

    def __init__(self, folder: Path, bytes_max: int = _MEMORY_BYTES) -> None:
        self._folder = folder
        self._left = bytes_max

    def keep(self, example: _Example) -> _Example:
        """The same example (a dataclass), to be used instead."""
        tensors = {of.name: getattr(example, of.name) for of in fields(example)}  # type: ignore[arg-type]
        tensors = {name: value for name, value in tensors.items() if isinstance(value, Tensor) and value.numel()}
        self._left -= sum(tensor.nbytes for tensor in tensors.values())
        if self._left >= 0:
            return example
        in_files: dict[str, Any] = {name: self._in_file(tensor) for name, tensor in tensors.items()}
        return replace(example, **in_files)  # type: ignore[type-var]

    def _in_file(self, tensor: Tensor) -> Tensor:
        with tempfile.NamedTemporaryFile(dir=self._folder) as file:
            tensor.contiguous().numpy().tofile(file)
            file.flush()
            return torch.from_file(file.name, shared=True, size=tensor.numel(), dtype=tensor.dtype).view(tensor.shape)


def within_reach(volumes: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The volumes on the device where it has room for all of them, otherwise where they are."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if sum(volume.nbytes for volume in volumes) > _DEVICE_SHARE * free:
            return list(volumes)
    return [volume.to(device) for volume in volumes]


def widened(shape: Sequence[int], least: Sequence[int]) -> tuple[list[int], list[int]]:
    """A volume's shape with empty room around, so that no axis is shorter than `least`, and where it begins in that."""
    sizes = [max(size, edge) for size, edge in zip(shape, least, strict=True)]
    return sizes, [(wide - size) // 2 for wide, size in zip(sizes, shape, strict=True)]


def cut(volume: Tensor, start: Sequence[int], patch: Sequence[int]) -> Tensor:
    """The patch (C, *patch) that begins at `start` of the volume (C, X, Y, Z), which may lie before its first voxel."""
    inside, pads = [], []
    for first, edge, size in zip(start, patch, volume.shape[1:], strict=True):
        low, high = (min(max(end, 0), size) for end in (first, first + edge))
        inside.append(slice(low, high))
        before = min(max(-first, 0), edge)
        pads.append((before, edge - before - (high - low)))
    found = volume[:, *inside]
    if not any(before or after for before, after in pads):
        return found
    return F.pad(found, [side for sides in reversed(pads) for side in sides])
