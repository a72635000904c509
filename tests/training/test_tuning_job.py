"""A tuning asked for as a job is done by a worker: trials nested in one run, and a file that a training takes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from apps.jobs import Jobs
from apps.settings import Site
from apps.tuning_commands import outcome_words
from apps.tuning_job import WORKFLOW, TuningRequest, start_tuning, storage_url
from tests.training.drawn import SMALL
from tests.waiting import until
from training.plan import override
from training.request import TrainingRequest
from training.trials import base_plan
from training.tuning import TuningError
from training.workplace import Workplace

_WORKER = """
import sys, threading
from pathlib import Path
from apps import compat, tuning_job
from apps.jobs import launch_worker, sole_worker
from apps.settings import Site
compat.mend()
site = Site(Path(sys.argv[1]))
with sole_worker(site) as alone:
    launch_worker(site, tuning_job.register)
    threading.Event().wait()
"""

# Heartbeats have been an experiment of Optuna's since its version 2.8.
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@contextmanager
def worker(site: Site) -> Iterator["subprocess.Popen[bytes]"]:
    log = (site.folder("logs") / "worker.log").open("ab")
    command = [sys.executable, "-c", _WORKER, str(site.root)]
    with log, subprocess.Popen(command, stderr=log, cwd=Path(__file__).parents[2]) as process:
        try:
            yield process
        finally:
            process.kill()


def asked(**values: object) -> TuningRequest:
    training = TrainingRequest(protocol="hippocampus", overrides=SMALL)
    return TuningRequest(training=training, space="learning_rate: [0.01, 0.02]\n", **values)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_tuning_is_one_run_with_its_trials_and_ends_in_overrides_to_train_with(place: Workplace) -> None:
    site = Site(place.folder.parent)
    jobs = Jobs(site)
    job = start_tuning(jobs, asked(trials=3, workers=2), "somebody")
    with worker(site):
        until(lambda: not jobs.find(job).active, "the tuning")  # type: ignore[union-attr]
    done = jobs.find(job)
    assert done is not None
    assert done.state == "SUCCESS", (done.error, (site.folder("logs") / "worker.log").read_text()[-3000:])
    result = done.result
    assert result["finished"] + result["pruned"] == 3
    overrides = json.loads(Path(result["file"]).read_text())
    assert overrides == result["overrides"]
    assert override(base_plan(place, job), overrides).learning_rate in (0.01, 0.02)
    assert f"overread train hippocampus --set-file {result['file']}" in outcome_words(result)
    assert jobs.progress(job)["trial"] == 3
    client = place.tracking.client
    parent = client.get_run(result["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["mlflow.note.content"].startswith("### 3 of 3 trials, the best is trial")
    trials = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {run.data.tags["mlflow.runName"] for run in trials} == {"trial-000", "trial-001", "trial-002"}
    assert {run.info.status for run in trials} == {"FINISHED"}
    assert all("epoch/validation_score" in run.data.metrics for run in trials)
    assert {file.path for file in client.list_artifacts(parent.info.run_id, "pictures")} == {
        "pictures/history.png",
        "pictures/importances.png",
    }
    jobs.close()


@pytest.mark.slow
def test_a_tuning_that_is_cancelled_or_killed_leaves_no_process_behind(place: Workplace) -> None:
    site = Site(place.folder.parent)
    jobs = Jobs(site)
    with worker(site) as process:
        cancelled = start_tuning(jobs, asked(trials=5000), "somebody")
        until(lambda: (jobs.progress(cancelled) or {}).get("trial"), "a trial")
        assert len(tuning_processes(process.pid)) == 1
        jobs.cancel(cancelled)
        until(lambda: status_of(place, cancelled) == "KILLED", "the run's end")
        until(lambda: not tuning_processes(process.pid), "the tuning's process to end")
        assert jobs.active(WORKFLOW) == []
        killed = start_tuning(jobs, asked(trials=5000), "somebody")
        until(lambda: (jobs.progress(killed) or {}).get("trial", 0) > 0, "a trial")
        (child,) = tuning_processes(process.pid)
        process.kill()
        until(lambda: not Path(f"/proc/{child}/cmdline").exists(), "the process to end with its parent")
    assert [job.id for job in jobs.active(WORKFLOW)] == [killed]
    jobs.close()


def tuning_processes(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task").glob("*/children")
    found = [int(number) for file in children for number in file.read_text().split()]
    return [number for number in found if b"spawn_main" in Path(f"/proc/{number}/cmdline").read_bytes()]


def status_of(place: Workplace, job: str) -> str:
    client = place.tracking.client
    experiments = [one.experiment_id for one in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"tags.`overread.job` = '{job}'")
    return str(run.info.status)


def test_studies_lie_in_a_database_of_their_own_without_a_password(site: Site) -> None:
    assert storage_url(site, "") == f"sqlite:///{site.root}/tuning.db"
    assert storage_url(site, "postgresql://overread@db/tuning") == "postgresql://overread@db/tuning"
    with pytest.raises(TuningError, match="one of the site's others"):
        storage_url(site, site.database_url)
    with pytest.raises(TuningError, match="given with a password") as refused:
        storage_url(site, "postgresql://overread:geheim@db/tuning")
    assert "geheim" not in str(refused.value)


def test_a_tuning_that_cannot_be_is_refused_with_its_reason() -> None:
    good = asked(trials=3)
    assert TuningRequest.from_json(good.as_json()).as_json() == good.as_json()
    with pytest.raises(TuningError, match="trials: Input should be greater than or equal to 1"):
        TuningRequest.from_json(good.as_json().replace('"trials":3', '"trials":0'))
