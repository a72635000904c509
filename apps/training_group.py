"""A job's training step in several processes: a job in; torchrun started, watched and, where asked, stopped, out."""

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any, TextIO

from apps.settings import Site
from apps.train_process import FAILED
from training.checkpoint import TrainingError
from training.loop import TrainingCancelled
from training.workplace import Cancelled, Tell

_POLL_S = 0.2
_STOP_S = 30.0


def train_in_group(site: Site, job: str, processes: int, tell: Tell, cancelled: Cancelled) -> None:
    """Train the job in so many processes of this machine; raises `TrainingCancelled`, `TrainingError`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "apps.train_process", "--site", str(site.root), "--job", job]
    with (site.folder("logs") / "training.log").open("a") as log:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True) as group:
            assert group.stdout is not None  # noqa: S101  a pipe was asked for
            told: list[dict[str, Any]] = []
            failed: list[str] = []
            reading = threading.Thread(target=_read, args=(group.stdout, told), daemon=True)
            reading.start()
            try:
                while group.poll() is None:
                    if cancelled():
                        raise TrainingCancelled("cancelled while it trained; nothing was released")
                    failed += _pass_on(told, tell)
                    reading.join(_POLL_S)
                reading.join()
                failed += _pass_on(told, tell)
            finally:
                _stop(group)
        if group.returncode:
            words = failed[0] if failed else "logs/training.log has its last words. Nothing was released."
            raise TrainingError(
                f"{processes} processes trained together and one ended with {group.returncode}: {words}"
            )


def _read(lines: TextIO, told: list[dict[str, Any]]) -> None:
    for line in lines:
        if line.startswith("{"):
            told.append(json.loads(line))


def _pass_on(told: list[dict[str, Any]], tell: Tell) -> list[str]:
    """Tell what was told, and return what processes said that ended them."""
    failed = []
    while told:
        said = told.pop(0)
        if FAILED in said:
            failed.append(str(said[FAILED]))
        else:
            tell(said)
    return failed


def _stop(group: subprocess.Popen[str]) -> None:
    """End torchrun, which ends its processes; and those by force that do not."""
    if group.poll() is None:
        group.terminate()
        try:
            group.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(group.pid, signal.SIGKILL)
