"""What takes long to work out of a large study, kept in memory for as long as nothing of the study changes."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from labeling_protocols.comparisons import standing
from labeling_protocols.store import Store

T = TypeVar("T")

_MOST = 12  # things kept; one of 20,000 cases takes some 50 MB
_SLOW_S = 1.0
_SHARE = 10.0  # what is slow to make is made anew after ten times as long at the soonest, whatever changes


class Remembered:
    """One for a server."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], tuple[tuple[int, ...], float, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, store: Store, protocol: str, what: str, make: Callable[[], T]) -> T:
        """What `make` made last, made anew where a read, a decision or a judgement came since."""
        with self._lock:
            before = standing(store, protocol)
            kept = self._kept.get((protocol, what))
            if kept is not None and (kept[0] == before or time.monotonic() < kept[1]):
                return kept[2]  # made by this very function, under this name
            started = time.monotonic()
            made = make()
            after, took = standing(store, protocol), time.monotonic() - started
            # Making it may itself have kept comparisons; anything else that came meanwhile is for the next time.
            stands = after if after[:-1] == before[:-1] else before
            good_until = started + took * (1 + _SHARE) if took > _SLOW_S else 0.0
            self._kept[protocol, what] = (stands, good_until, made)
            self._kept.move_to_end((protocol, what))
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)
            return made
