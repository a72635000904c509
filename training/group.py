"""Processes that train one model together: what one of them has in, what all of them have out.

torchrun starts them, on one machine or several, and says in the environment who each is. A training that runs alone has
a group of one, whose exchanges do nothing.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

_Shared = TypeVar("_Shared")


@dataclass(frozen=True, kw_only=True)
class Group:
    """This process is number `rank` of `size`; rank 0 logs, keeps checkpoints and decides."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Add the tensors of all processes up, in place and in one exchange."""
        if self.size > 1:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            dist.all_reduce(flat)
            for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def share(self, value: _Shared) -> _Shared:
        """What rank 0 has."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: _Shared) -> list[_Shared]:
        """What each process has, in the order of their ranks."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found


ALONE = Group()


@contextmanager
def joined(device: str) -> Iterator[tuple[Group, torch.device]]:
    """The group that torchrun made this process part of, and its device by a site's setting (`auto`, `cpu`, …)."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield ALONE, choose_device(device)
        return
    cuda = choose_device(device).type == "cuda"
    mine = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    dist.init_process_group("nccl" if cuda else "gloo", device_id=mine if cuda else None)
    try:
        yield Group(rank=dist.get_rank(), size=dist.get_world_size()), mine
    finally:
        dist.destroy_process_group()


def choose_device(name: str) -> torch.device:
    """The device of a site's setting: `auto` takes a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
