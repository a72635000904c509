"""Training as a job: a second start waits for the first, and a cancelled one stops."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from apps.jobs import Jobs
from apps.settings import Site
from apps.training_job import WORKFLOW, start_training
from tests.waiting import until
from training.pipeline import Workplace
from training.request import TrainingRequest


@contextmanager
def worker(site: Site) -> Iterator[None]:
    log = (site.folder("logs") / "worker.log").open("ab")
    with log, subprocess.Popen([sys.executable, "-m", "apps.worker", "--site", str(site.root)], stderr=log) as process:
        try:
            yield
        finally:
            process.kill()


@pytest.mark.slow
def test_a_second_training_waits_for_the_first_and_a_cancelled_one_stops(place: Workplace) -> None:
    root = place.folder.parent
    (root / "config.toml").write_text('[training]\ndevice = "cpu"\nmax_epochs = 1000000\n')
    site = Site(root)
    jobs = Jobs(site)
    first, second = (start_training(jobs, TrainingRequest(protocol="hippocampus"), "somebody") for _ in range(2))
    with worker(site):
        until(lambda: (jobs.progress(first) or {}).get("epoch"), "the first training's first epoch")
        assert [job.id for job in jobs.active(WORKFLOW)] == [first, second]
        assert jobs.progress(second) is None
        assert {"stage", "epoch", "epochs", "loss"} <= set(jobs.progress(first))
        jobs.cancel(first)
        until(lambda: (jobs.progress(second) or {}).get("epoch"), "the second training's first epoch")
        until(lambda: status_of(place, first) == "KILLED", "the first run's end")
        assert [job.id for job in jobs.active(WORKFLOW)] == [second]
        jobs.cancel(second)
        until(lambda: status_of(place, second) == "KILLED", "the second run's end")
    assert jobs.active(WORKFLOW) == []
    assert [jobs.find(job).state for job in (first, second)] == ["CANCELLED", "CANCELLED"]  # type: ignore[union-attr]
    assert place.registry.versions("hippocampus") == []
    jobs.close()


def status_of(place: Workplace, job: str) -> str:
    client = place.tracking.client
    (run,) = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()], f"tags.`overread.job` = '{job}'"
    )
    return str(run.info.status)
