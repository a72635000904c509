"""What answers windows is chosen by measurement, and only where it answers as the network does."""

import importlib.util
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests.training.drawn import small_plan
from training import backends
from training.backends import Backend, fastest, plain
from training.networks import build_network

CPU = torch.device("cpu")
SIZE = (16, 16, 16)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(4)
    plan = small_plan(network="DynUNet", patch_RAS=SIZE)
    return build_network(plan).eval()


@pytest.fixture
def anything_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the small network were a large one."""
    monkeypatch.setattr(backends, "_WORTHWHILE", 0.0)


def candidates(monkeypatch: pytest.MonkeyPatch, *made: tuple[str, Callable[[], backends.Ask]]) -> None:
    monkeypatch.setattr(backends, "_candidates", lambda *_: iter([made]))


def seconds(monkeypatch: pytest.MonkeyPatch, **of: float) -> None:
    """What each candidate is measured to take; the network itself a second."""

    def timed(backend: Backend, windows: list[Tensor]) -> tuple[list[Tensor], float]:
        return [backend.ask(window) for window in windows], of.get(backend.name, 1.0)

    monkeypatch.setattr(backends, "_timed", timed)


def test_a_small_network_is_left_as_it_is(network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates(monkeypatch, ("never asked", lambda: pytest.fail("nothing is to be gained here")))
    assert fastest(network, SIZE, CPU).name == "torch float32"


@pytest.mark.usefixtures("anything_counts")
def test_the_clearly_fastest_of_those_that_agree_is_taken(
    network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = plain(network).ask
    candidates(monkeypatch, ("fast", lambda: ask), ("faster", lambda: ask), ("hardly faster", lambda: ask))
    seconds(monkeypatch, fast=0.5, faster=0.3, **{"hardly faster": 0.29})
    assert fastest(network, SIZE, CPU).name == "faster"


@pytest.mark.usefixtures("anything_counts")
def test_what_answers_otherwise_is_left_out_however_fast(
    network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = plain(network).ask

    def shifted(windows: Tensor) -> Tensor:
        scores = ask(windows).clone()
        scores[:, 1] += 0.05 * scores.std()
        return scores

    candidates(monkeypatch, ("mirrored", lambda: lambda w: ask(w).flip(2)), ("shifted", lambda: shifted))
    seconds(monkeypatch, mirrored=0.1, shifted=0.1)
    assert fastest(network, SIZE, CPU).name == "torch float32"


@pytest.mark.usefixtures("anything_counts")
def test_what_cannot_run_the_network_is_left_out(network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> backends.Ask:
        raise RuntimeError("unsupported operation")

    candidates(monkeypatch, ("refusing", refuse))
    assert fastest(network, SIZE, CPU).name == "torch float32"


@pytest.mark.usefixtures("anything_counts")
def test_float32_is_looked_at_only_where_no_bfloat16_agrees(
    network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = plain(network).ask

    def precisions(bf16: backends.Ask) -> None:
        both = [[("bf16", lambda: bf16)], [("f32", lambda: ask)]]
        monkeypatch.setattr(backends, "_candidates", lambda *_: iter(both))

    seconds(monkeypatch, bf16=0.3, f32=0.1)
    precisions(ask)
    assert fastest(network, SIZE, CPU).name == "bf16"
    precisions(lambda windows: ask(windows).flip(2))
    assert fastest(network, SIZE, CPU).name == "f32"


def test_a_network_without_a_convolution_is_left_as_it_is() -> None:
    assert fastest(torch.nn.Identity(), SIZE, CPU).name == "torch float32"


@pytest.mark.usefixtures("anything_counts")
def test_measuring_gives_torchs_threads_back(network: torch.nn.Module) -> None:
    before = torch.get_num_threads()
    fastest(network, SIZE, CPU)
    assert torch.get_num_threads() == before


def test_a_structure_that_moved_is_no_agreement_even_where_scores_hardly_differ() -> None:
    scores = torch.zeros(1, 2, 10, 10, 10)
    scores[:, 0] = 1e-3
    scores[:, 1, :5, :5, :5] = 2e-3
    scores[:, 1, 5:, 5:, 5:] = 1e-3 - 1e-6  # just short of background
    moved = scores.clone()
    moved[:, 1, 5:, 5:, 5:] += 2e-6
    assert not backends._agrees([scores], [moved])
    assert backends._agrees([scores], [scores.clone()])


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="the extra openvino is not installed")
def test_openvino_answers_as_the_network_does_from_several_threads(network: torch.nn.Module) -> None:
    from concurrent.futures import ThreadPoolExecutor

    windows = [backends._drawn(1, SIZE, seed) for seed in range(6)]
    backend = Backend(name="OpenVINO", ask=backends._openvino(network, windows[0], "f32"))
    expected = [plain(network).ask(window) for window in windows]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(backend.ask, windows))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    both = backend.ask(torch.cat(windows[:2]))
    torch.testing.assert_close(both, torch.cat(found[:2]), rtol=1e-3, atol=1e-4)


def test_openvino_is_a_candidate_only_where_it_is_installed(
    network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names(found: object) -> list[str]:
        monkeypatch.setattr(backends, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda _: found)))
        every = backends._candidates(network, torch.zeros(1, 1, *SIZE), CPU)
        return [name for precision in every for name, _ in precision]

    assert not any("OpenVINO" in name for name in names(None))
    assert "OpenVINO float32" in names(object())
