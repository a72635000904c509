"""A condition and what it is for in; back as soon as it holds, a failed test in words where it does not in time."""

import time
from collections.abc import Callable

_LOOK_EVERY_S = 0.05


def until(condition: Callable[[], object], what: str, limit_s: float = 300) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit_s:.0f} s for {what}"
        time.sleep(_LOOK_EVERY_S)
