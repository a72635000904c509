"""Champions made ready before anybody asks: loaded, and their fastest backend measured, in a thread of low priority.

Otherwise the first reader after a start or a release would wait for that too.
"""

import logging
import threading

from apps.annotation.champions import TASKS, Champions
from apps.annotation.inference_queue import lower_priority
from labeling_protocols.store import Store

_LOOK_EVERY_S = 5.0
_NICENESS = 15
_END_WITHIN_S = 10.0

log = logging.getLogger("overread.inference")


class Warming:
    """Keeps every protocol's champions loaded, from `start` to `close`."""

    def __init__(self, store: Store, champions: Champions) -> None:
        self._store = store
        self._champions = champions
        self._ended = threading.Event()
        self._failed: set[str] = set()  # names with versions
        self._thread = threading.Thread(target=self._keep_ready, name="warming", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End after the model that is being loaded now."""
        self._ended.set()
        self._thread.join(_END_WITHIN_S)

    def _keep_ready(self) -> None:
        lower_priority(_NICENESS)
        while not self._ended.is_set():
            for protocol in self._names():
                for task in TASKS:
                    if not self._ended.is_set():
                        self._load(protocol, task)
            self._ended.wait(_LOOK_EVERY_S)

    def _names(self) -> list[str]:
        try:
            return [protocol.name for protocol in self._store.protocols()]
        except Exception as error:  # noqa: BLE001  a busy database must not end this; who asks is told
            log.warning("the protocols could not be listed: %s", type(error).__name__)
            return []

    def _load(self, protocol: str, task: str) -> None:
        """Load the present champion, unless it could not be loaded before."""
        name = ""
        try:
            if self._champions.exists(protocol, task):
                name = self._champions.name(protocol, task)
                if name not in self._failed:
                    self._champions.load(protocol, task)
        except Exception as error:  # noqa: BLE001  whoever asks for this model is told in words why it is not served
            self._failed.add(name)
            log.warning("%s could not be made ready: %s", name or f"{protocol} {task}", type(error).__name__)
