"""A patch is the same wherever its volume is kept and whatever lies beyond it; cases may be larger than memory."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from training.cutting import Shelf, cut, widened, within_reach

EDGES = st.tuples(*[st.integers(1, 6)] * 3)
STARTS = st.tuples(*[st.integers(-7, 7)] * 3)


@dataclass(frozen=True, kw_only=True)
class Case:
    case: str
    image: Tensor
    label: Tensor
    boxes: Tensor


def case(number: int) -> Case:
    random = torch.Generator().manual_seed(number)
    return Case(
        case=f"case {number}",
        image=torch.rand(1, 5, 6, 7, generator=random),
        label=torch.randint(0, 3, (5, 6, 7), generator=random, dtype=torch.uint8),
        boxes=torch.zeros(0, 6),
    )


@given(EDGES, STARTS, EDGES)
def test_what_lies_beyond_a_volume_is_empty(
    shape: tuple[int, int, int], start: tuple[int, int, int], patch: tuple[int, int, int]
) -> None:
    volume = torch.arange(1, 1 + 2 * shape[0] * shape[1] * shape[2], dtype=torch.float32).view(2, *shape)
    around = 16
    padded = F.pad(volume, [around] * 6)
    expected = padded[:, *(slice(s + around, s + around + e) for s, e in zip(start, patch, strict=True))]
    assert torch.equal(cut(volume, start, patch), expected)


def test_room_is_added_on_both_sides_and_only_where_it_lacks() -> None:
    assert widened((10, 4, 7), (8, 8, 8)) == ([10, 8, 8], [0, 2, 0])


def test_examples_beyond_the_memory_lie_in_files_that_nobody_sees(tmp_path: Path) -> None:
    cases = [case(number) for number in range(4)]
    shelf = Shelf(tmp_path, bytes_max=2 * (cases[0].image.nbytes + cases[0].label.nbytes))
    kept = [shelf.keep(one) for one in cases]
    assert [one is other for one, other in zip(kept, cases, strict=True)] == [True, True, False, False]
    for one, other in zip(kept, cases, strict=True):
        assert one.case == other.case
        for ours, theirs in ((one.image, other.image), (one.label, other.label), (one.boxes, other.boxes)):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
    assert list(tmp_path.iterdir()) == []


def test_volumes_go_to_a_device_that_has_room_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    volumes = [case(number).image for number in range(2)]
    assert [one.device.type for one in within_reach(volumes, torch.device("cpu"))] == ["cpu", "cpu"]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (volumes[0].nbytes, 2**40))
    assert within_reach(volumes, torch.device("cuda")) == volumes
