"""Metrics on their way into an MLflow run: one after another in, batches out; one at a time they cost some 4 ms each.

A metric after a quiet while is written at once, so that curves of slow trainings are live; what follows closely is
written together a few seconds later, or as soon as a batch is full.
"""

import logging
import threading
import time
from collections.abc import Sequence

from training.quiet_mlflow import Metric, MlflowClient, MlflowException

BATCH = 1000  # metrics; MLflow's limit
EVERY_S = 5.0  # how old a curve may be

log = logging.getLogger(__name__)


class MetricBuffer:
    """The metrics of one run; any thread may add. What was added is lost only with the process, before `flush`."""

    def __init__(self, client: MlflowClient, run_id: str, every_s: float = EVERY_S) -> None:
        self._client = client
        self._run_id = run_id
        self._every_s = every_s
        self._lock = threading.RLock()
        self._waiting: list[Metric] = []
        self._written_s = -every_s
        self._timer: threading.Timer | None = None

    def add(self, metrics: Sequence[Metric]) -> None:
        with self._lock:
            self._waiting += metrics
            quiet_s = time.monotonic() - self._written_s
            if len(self._waiting) >= BATCH or quiet_s >= self._every_s:
                self.flush()
            elif self._timer is None:
                self._timer = threading.Timer(self._every_s - quiet_s, self._write_late)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Write what waits. Where MLflow refuses, it goes on waiting and the refusal is raised."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            while self._waiting:
                self._client.log_batch(self._run_id, metrics=self._waiting[:BATCH])
                del self._waiting[:BATCH]
                self._written_s = time.monotonic()

    def _write_late(self) -> None:
        """The timer's turn. A training must not end because MLflow is away: `flush` tells whoever closes the run."""
        try:
            self.flush()
        except MlflowException as refusal:
            log.warning("metrics wait in memory, MLflow refused them: %s", refusal.error_code)
