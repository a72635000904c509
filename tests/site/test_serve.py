"""Everything is up after one command, comes back when it falls, and is gone after Ctrl-C."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from apps.jobs import sole_worker
from apps.serve import ServeError, serving
from apps.settings import Site
from apps.worker import WAITS
from labeling_protocols.store import Store
from tests.ports import with_free_ports
from tests.waiting import until

LIMIT_S = 120


def status_of(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.status


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_fallen_service_comes_back(site: Site, store: Store) -> None:
    site = with_free_ports(site)
    said: list[str] = []
    with serving(site, said.append) as supervisor:
        for url in (
            f"http://127.0.0.1:{site.config.web.port}/healthz",
            f"http://127.0.0.1:{site.config.mlflow.port}/health",
        ):
            assert status_of(url) == 200
        before = supervisor.process_ids()
        for name in ("worker", "web"):
            os.kill(before[name], signal.SIGKILL)
        until(lambda: set(supervisor.process_ids().values()).isdisjoint({before["worker"], before["web"]}), "restarts")
        until(lambda: (site.root / "logs" / "worker.log").read_text().count("worker: ready") == 2, "the new worker")
        until(lambda: _answers(f"http://127.0.0.1:{site.config.web.port}/healthz"), "the new web server")
        after = supervisor.process_ids()
    assert len(said) == 2
    assert [name for name, pid in after.items() if alive(pid)] == []


@pytest.mark.slow
def test_services_start_beside_a_command_that_works_on_its_own_job_and_take_over_when_it_ends(
    site: Site, store: Store
) -> None:
    site = with_free_ports(site)
    log = site.root / "logs" / "worker.log"
    with contextlib.ExitStack() as services:
        with sole_worker(site) as alone:
            assert alone
            services.enter_context(serving(site, lambda said: None))
            until(lambda: WAITS in log.read_text(), "the worker to say that it waits")
            assert "worker: ready" not in log.read_text()
        until(lambda: "worker: ready" in log.read_text(), "the worker to take over")


def test_a_worker_that_cannot_take_jobs_ends_so_that_another_is_started(site: Site) -> None:
    broken = (
        "import sys, apps.worker as worker\n"
        "def launch_worker(site, register): raise RuntimeError('no job database')\n"
        "worker.launch_worker = launch_worker\n"
        "sys.argv[1:] = ['--site', sys.argv[1]]\n"
        "worker.main()\n"
    )
    command = [sys.executable, "-c", broken, str(site.root)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ended.returncode == 1
    assert "the worker cannot take jobs, and ends" in ended.stderr
    assert "worker: ready" not in ended.stdout


def _answers(url: str) -> bool:
    try:
        return status_of(url) == 200
    except OSError:
        return False


@pytest.mark.slow
def test_ctrl_c_stops_all_of_it(site: Site, store: Store) -> None:
    site = with_free_ports(site)
    served = subprocess.Popen(
        [sys.executable, "-m", "apps.command", "serve", "--site", str(site.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert served.stdout is not None
    lines = []
    for line in served.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    served.send_signal(signal.SIGINT)
    rest = served.stdout.read()
    assert served.wait(LIMIT_S) == 0, "".join(lines) + rest
    for port in (site.config.web.port, site.config.mlflow.port, site.config.dicom.port):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert "Stopped." in rest


def test_a_port_in_use_is_named_and_nothing_is_started(site: Site) -> None:
    site = with_free_ports(site)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", site.config.web.port))
        taken.listen()
        with pytest.raises(ServeError, match=f"web: 127.0.0.1:{site.config.web.port} is in use"), serving(site):
            pytest.fail("it was started all the same")
    assert not (site.root / "logs").exists()
