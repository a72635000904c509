"""Champions are ready before somebody asks: at the start, and whenever another one is released."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.annotation.released import interactive_parts, release
from tests.annotation.served import Served, serving
from tests.waiting import until
from training.bundle import WEIGHTS
from training.interactive_inference import Interactor


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "site") as server:
        yield server


def test_a_released_model_is_loaded_though_nobody_asks_and_so_is_its_successor(served: Served) -> None:
    protocol = served.protocol()
    loaded: list[Interactor | None] = []

    def ready() -> bool:
        interactor = served.app.state.annotation.champions.interactor_or_none(protocol.name)
        if interactor is not None and interactor not in loaded:
            loaded.append(interactor)
            return True
        return False

    release(served, protocol, "interactive", interactive_parts())
    until(ready, "the released model")
    release(served, protocol, "interactive", interactive_parts())
    until(ready, "its successor")
    assert len(loaded) == 2


def test_a_model_that_cannot_be_loaded_is_told_once_and_keeps_no_other_from_being_ready(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = served.protocol(), served.protocol()
    with caplog.at_level(logging.WARNING, "overread.inference"):
        model = release(served, broken, "segmentation", {**interactive_parts(), WEIGHTS: b"no weights"})
        until(lambda: model in caplog.text, "a word about the broken model")
        release(served, sound, "interactive", interactive_parts())
        champions = served.app.state.annotation.champions
        until(lambda: champions.interactor_or_none(sound.name) is not None, "the sound model")
    assert caplog.text.count(f"{model} could not be made ready: BundleError") == 1
