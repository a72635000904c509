"""What benchmarks share: work and a peer's work in, medians of both and how many times better ours is out."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

REPEATS = 15


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure; lower is better for seconds and bytes."""

    name: str
    ours: float
    peer: float | None = None
    unit: str = "s"
    ratio: float | None = None
    goal: float | None = None


def compare(
    name: str, ours: Callable[[], object], peer: Callable[[], object], goal: float | None = None, repeats: int = REPEATS
) -> Row:
    """Medians of both, measured in turn so that a drifting machine meets both alike."""
    return medians(name, lambda: seconds_of(ours), lambda: seconds_of(peer), goal, repeats)


def medians(
    name: str, ours: Callable[[], float], peer: Callable[[], float], goal: float | None = None, repeats: int = REPEATS
) -> Row:
    """The same of works that measure themselves, because they have to prepare something first."""
    ours(), peer()
    figures = [(ours(), peer()) for _ in range(repeats)]
    mine, theirs = (statistics.median(column) for column in zip(*figures, strict=True))
    return Row(name=name, ours=mine, peer=theirs, ratio=theirs / mine, goal=goal)


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
