"""Everything of a site on one machine: starts its services, watches them, starts a fallen one again, stops them all.

Services are processes of their own: the web server, MLflow, the DICOM endpoint, its sender and the worker. Their output
goes to `logs/<service>.log` of the site.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from apps.settings import Site

_START_LIMIT_S = 180.0
_STOP_LIMIT_S = 15.0
_POLL_S = 0.1
_BACKOFF_MAX_S = 30.0
_STEADY_S = 60.0  # a service that ran this long fell for a new reason
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
# MLflow is to show runs: it tells nobody of them, and needs no job runner of its own.
_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


class ServeError(RuntimeError):
    """A service that cannot be started: which, why, and where its log is."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One process of the site; `ready` tells whether it answers."""

    name: str
    command: tuple[str, ...]
    address: str
    listens: tuple[str, int] | None
    ready: Callable[[Path], bool]


def services(site: Site) -> tuple[Service, ...]:
    """What `overread serve` runs, in the order in which it is started."""
    config = site.config
    python, root = sys.executable, str(site.root)
    web = f"http://{config.web.host}:{config.web.port}"
    artifacts = site.root / "mlflow" / "artifacts"
    return (
        Service(
            name="mlflow",
            command=(
                *(python, "-m", "mlflow", "server", "--workers", "1"),
                *("--host", config.mlflow.host, "--port", str(config.mlflow.port)),
                *("--backend-store-uri", site.tracking_uri, "--default-artifact-root", artifacts.as_uri()),
            ),
            address=f"http://{config.mlflow.host}:{config.mlflow.port}",
            listens=(config.mlflow.host, config.mlflow.port),
            ready=lambda _: _answers(f"http://{config.mlflow.host}:{config.mlflow.port}/health"),
        ),
        Service(
            name="web",
            command=(python, "-m", "apps.web", "--site", root),
            address=web,
            listens=(config.web.host, config.web.port),
            ready=lambda _: _answers(f"{web}/healthz"),
        ),
        Service(
            name="endpoint",
            command=(python, "-m", "apps.endpoint", "--site", root),
            address=f"{config.dicom.ae_title} {config.dicom.host}:{config.dicom.port}",
            listens=(config.dicom.host, config.dicom.port),
            ready=lambda _: _listening(config.dicom.host, config.dicom.port),
        ),
        Service(
            name="sender",
            command=(python, "-m", "apps.endpoint.sender", "--site", root),
            address="",
            listens=None,
            ready=lambda log: "sender: ready" in log.read_text(errors="replace"),
        ),
        Service(
            name="worker",
            command=(python, "-m", "apps.worker", "--site", root),
            address="",
            listens=None,
            ready=lambda log: "worker: " in log.read_text(errors="replace"),  # ready, or waiting for a command's jobs
        ),
    )


@dataclass
class _Running:
    service: Service
    process: subprocess.Popen[bytes]
    log: Path
    started: float
    falls: int = 0
    again_at: float | None = None


class Supervisor:
    """The site's running services."""

    def __init__(self, site: Site, say: Callable[[str], None]) -> None:
        self._site = site
        self._say = say
        self._running: list[_Running] = []

    def start(self) -> None:
        """Start every service and wait until each answers; raises `ServeError` having stopped all of them again."""
        chosen = services(self._site)
        for service in chosen:
            if service.listens and _listening(*service.listens):
                host, port = service.listens
                raise ServeError(
                    f"{service.name}: {host}:{port} is in use by another program."
                    " Stop it, or give another port in config.toml. Nothing was started."
                )
        _prepare_tracking(self._site)
        try:
            for service in chosen:
                log = self._site.folder("logs") / f"{service.name}.log"
                log.write_bytes(b"")
                self._running.append(_Running(service, _spawn(service, log), log, time.monotonic()))
            for running in self._running:
                self._await_ready(running)
        except BaseException:
            self.stop()
            raise

    def watch(self, ended: threading.Event) -> None:
        """Start a fallen service again, later each time it falls soon, until `ended` is set."""
        while not ended.wait(_POLL_S):
            for running in self._running:
                self._look_after(running, time.monotonic())

    def stop(self) -> None:
        """End every service: politely, and by force where one does not listen."""
        for running in self._running:
            running.process.terminate()
        deadline = time.monotonic() + _STOP_LIMIT_S
        for running in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.process.wait(max(0.0, deadline - time.monotonic()))
            # Each service leads its own process group: what it started and left behind goes with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()
        self._running.clear()

    def process_ids(self) -> dict[str, int]:
        return {running.service.name: running.process.pid for running in self._running}

    def _await_ready(self, running: _Running) -> None:
        deadline = time.monotonic() + _START_LIMIT_S
        while not running.service.ready(running.log):
            if running.process.poll() is not None or time.monotonic() > deadline:
                last = running.log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
                raise ServeError(
                    f"{running.service.name} did not start: {last[0]} (all of it in {running.log})."
                    " The other services were stopped."
                )
            time.sleep(_POLL_S)

    def _look_after(self, running: _Running, at: float) -> None:
        if running.process.poll() is None:
            return
        if running.again_at is None:
            running.falls = 1 if at - running.started > _STEADY_S else running.falls + 1
            wait_s = 0.0 if running.falls == 1 else min(2.0 ** (running.falls - 2), _BACKOFF_MAX_S)
            running.again_at = at + wait_s
            self._say(
                f"{running.service.name} ended with code {running.process.returncode}; starting it again"
                + (f" in {wait_s:.0f} s" if wait_s else "")
                + f" (its log: {running.log})"
            )
        if at >= running.again_at:
            running.process = _spawn(running.service, running.log)
            running.started, running.again_at = at, None


@contextlib.contextmanager
def serving(site: Site, say: Callable[[str], None] = print) -> Iterator[Supervisor]:
    """The site's services, up and watched while the block runs."""
    supervisor = Supervisor(site, say)
    supervisor.start()
    ended = threading.Event()
    watcher = threading.Thread(target=supervisor.watch, args=(ended,), name="supervisor", daemon=True)
    watcher.start()
    try:
        yield supervisor
    finally:
        ended.set()
        watcher.join()
        supervisor.stop()


def _prepare_tracking(site: Site) -> None:
    """Make MLflow's database before several processes open it: its own first migration bears only one."""
    if not (site.root / "mlflow" / "mlflow.db").exists():
        from training.tracking import open_client  # heavy, and needed once in a site's life

        open_client(site.tracking_uri)


def _spawn(service: Service, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            service.command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **_ENVIRONMENT},
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    """Ask Linux for SIGTERM when the supervisor dies, so that none of its services outlives it."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310  our own http address
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _listening(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0
