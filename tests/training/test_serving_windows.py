"""Windows over an image: MONAI's own, on several cores, left in the middle where nobody waits any more."""

from typing import Any

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor

from training.stopping import InferenceStopped
from training.windows import Windows

CPU = torch.device("cpu")


class Network(torch.nn.Module):
    """A small one that sees its window as a whole, as those with instance norm do; it counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.InstanceNorm3d(4), torch.nn.Conv3d(4, 3, 3, padding=1)
        )
        self.asked: list[tuple[int, ...]] = []

    def forward(self, windows: Tensor) -> Tensor:
        self.asked.append(tuple(windows.shape))
        scores: Tensor = self.layers(windows)
        return scores


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": [12, 10, 8],
        "sw_batch_size": 1,
        "overlap": 0.5,
        "mode": "gaussian",
        **changes,
    }


def drawn(*shape: int) -> Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(2))


def windows_of(**changes: Any) -> Windows:
    found = Windows.of(settings(**changes))
    assert found is not None
    return found


@pytest.mark.parametrize("crew", [1, 3])
@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("shape", [(30, 23, 17), (7, 25, 3), (12, 11, 8)])
def test_scores_are_those_of_monais_sliding_window(
    shape: tuple[int, int, int], overlap: float, mode: str, crew: int
) -> None:
    network, image = Network(), drawn(*shape)
    with torch.inference_mode():
        expected = SlidingWindowInferer((12, 10, 8), 1, overlap, mode)(image[None], network)[0]
    found = windows_of(overlap=overlap, mode=mode).scores(image, network, device=CPU, crew=crew)
    assert found.shape == (3, *shape)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_several_threads_come_to_the_very_numbers_of_one() -> None:
    network, image, windows = Network(), drawn(30, 31, 32), windows_of()
    alone = windows.scores(image, network, device=CPU, crew=1)
    assert all(torch.equal(windows.scores(image, network, device=CPU, crew=4), alone) for _ in range(5))


def test_torchs_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    windows_of().scores(drawn(30, 31, 32), Network(), device=CPU, crew=2)
    assert torch.get_num_threads() == before


def test_windows_of_one_value_are_answered_once_for_each_value() -> None:
    network, image = Network(), drawn(12, 10, 80)
    image[..., 8:40] = -1.5
    image[..., 40:72] = 0.25
    found = windows_of(overlap=0.0).scores(image, network, device=CPU)
    assert len(network.asked) == 2 + 2
    with torch.inference_mode():
        expected = SlidingWindowInferer((12, 10, 8), 1, 0.0, "gaussian")(image[None], network)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_window_that_only_begins_constant_is_asked_of_the_network() -> None:
    network, image = Network(), torch.zeros(1, 12, 10, 16)
    image[..., 7, 3, 4] = 5.0
    windows_of(overlap=0.0).scores(image, network, device=CPU)
    assert len(network.asked) == 2


@pytest.mark.parametrize("crew", [1, 2])
def test_nothing_more_is_computed_once_nobody_waits(crew: int) -> None:
    network = Network()
    with pytest.raises(InferenceStopped, match="Nothing was proposed"):
        windows_of().scores(drawn(30, 31, 32), network, device=CPU, crew=crew, stopped=lambda: len(network.asked) >= 3)
    assert 3 <= len(network.asked) < 3 + crew + 1


@pytest.mark.parametrize(
    "change",
    [
        {"_target_": "SimpleInferer"},
        {"roi_size": [12, 10, -1]},
        {"roi_size": 12},
        {"overlap": [0.5, 0.5, 0.25]},
        {"buffer_steps": 2},
        {"padding_mode": "reflect"},
        {"with_coord": True},
    ],
)
def test_anything_but_a_plain_sliding_window_is_left_to_monai(change: dict[str, Any]) -> None:
    assert Windows.of(settings(**change)) is None
