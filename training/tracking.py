"""One MLflow run a training: what was planned, what happened and what came out of it, from the loop into MLflow.

A training is found again by its job's id, so a worker that was killed and started again writes on in the same run;
whatever is logged twice stands there once.
"""

import fcntl
import json
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from matplotlib.figure import Figure

from training.loop import Epoch
from training.plan import Plan
from training.quiet_mlflow import Dataset, DatasetInput, InputTag, Metric, MlflowClient, Param, RunTag
from training.snapshot import Snapshot

_JOB_TAG = "overread.job"
_PACKAGES = ("torch", "monai", "mlflow", "numpy", "SimpleITK")
_DATASET_DIGEST_LENGTH = 36  # MLflow's column; the whole digest stands in the tags and the source
_METRICS_A_BATCH = 1000  # MLflow's limit


@dataclass(frozen=True, kw_only=True)
class RunLog:
    """One run; every method may be called again after a crash."""

    client: MlflowClient
    id: str

    def epochs(self, history: list[Epoch], names: dict[int, str]) -> None:
        """Loss, learning rate and Dice by structure (`names` by network channel), with the moments they were had."""
        metrics = [metric for epoch in history for metric in _metrics(epoch, names)]
        for start in range(0, len(metrics), _METRICS_A_BATCH):
            self.client.log_batch(self.id, metrics=metrics[start : start + _METRICS_A_BATCH])

    def figures(self, values: dict[str, float], step: int) -> None:
        """Closing figures, dated to the run's start so that a repetition is the same metric."""
        moment_ms = self.client.get_run(self.id).info.start_time
        self.client.log_batch(self.id, metrics=[Metric(k, v, moment_ms, step) for k, v in values.items()])

    def text(self, name: str, content: str) -> None:
        self.client.log_text(self.id, content, name)

    def picture(self, name: str, figure: Figure) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            figure.savefig(path, format="png", dpi=100, metadata={"Software": None})
            self.client.log_artifact(self.id, str(path), str(Path(name).parent))

    def files(self, folder: Path, name: str) -> None:
        self.client.log_artifacts(self.id, str(folder), name)

    def tag(self, values: dict[str, str]) -> None:
        self.client.log_batch(self.id, tags=[RunTag(key, value) for key, value in values.items()])

    def read_text(self, name: str) -> str:
        """The text of an artifact of this run."""
        with tempfile.TemporaryDirectory() as folder:
            return Path(self.client.download_artifacts(self.id, name, folder)).read_text(encoding="utf-8")

    def close(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.id, status=status)


class Tracking:
    """A site's MLflow: its database and the folder of its artifacts."""

    def __init__(self, tracking_uri: str, artifacts: Path) -> None:
        self.client = open_client(tracking_uri)
        self._artifacts = artifacts

    def run(self, job: str, protocol: str) -> RunLog:
        """The run of this job, made where there is none yet, and running."""
        experiment = self._experiment(protocol)
        found = self.client.search_runs([experiment], f"tags.`{_JOB_TAG}` = '{job}'", max_results=1)
        if found:
            self.client.update_run(found[0].info.run_id, status="RUNNING")
            return RunLog(client=self.client, id=found[0].info.run_id)
        run = self.client.create_run(experiment, tags={_JOB_TAG: job, **_environment()}, run_name=job)
        return RunLog(client=self.client, id=run.info.run_id)

    def describe(self, run: RunLog, snapshot: Snapshot, plan: Plan, settings: dict[str, str]) -> None:
        """Everything that is known before the first epoch: plan, snapshot as the dataset, settings."""
        plan_values = {key: str(value) for key, value in json.loads(plan.as_json()).items()}
        counts = {"training_cases": str(len(snapshot.training)), "held_out_cases": str(len(snapshot.held_out))}
        params = {**plan_values, **counts, **settings}
        self.client.log_batch(run.id, params=[Param(key, value) for key, value in params.items()])
        run.tag({"overread.snapshot": snapshot.digest})
        run.text("plan.json", plan.as_json())
        run.text("snapshot.json", snapshot.as_json())
        dataset = Dataset(
            name=f"{snapshot.protocol}-snapshot",
            digest=snapshot.digest[:_DATASET_DIGEST_LENGTH],
            source_type="overread-snapshot",
            source=json.dumps({"snapshot": snapshot.digest}),
            profile=json.dumps({**counts, "excluded": len(snapshot.exclusions)}),
        )
        context = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(run.id, datasets=[DatasetInput(dataset, context)])

    def _experiment(self, protocol: str) -> str:
        known = self.client.get_experiment_by_name(protocol)
        if known is None:
            folder = self._artifacts / protocol
            folder.mkdir(parents=True, exist_ok=True)
            return str(self.client.create_experiment(protocol, artifact_location=folder.as_uri()))
        return str(known.experiment_id)


def open_client(tracking_uri: str) -> MlflowClient:
    """A client of this MLflow database or server, registry included; a new database gets its tables here.

    One process at a time: MLflow's own migrations fail when two run them on the same SQLite file.
    """
    with _alone(tracking_uri):
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        client.search_experiments(max_results=1)
        return client


@contextmanager
def _alone(tracking_uri: str) -> Iterator[None]:
    """Hold a lock beside a SQLite file; a server looks after itself."""
    database = tracking_uri.removeprefix("sqlite:///")
    if database == tracking_uri:
        yield
        return
    with Path(f"{database}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _metrics(epoch: Epoch, names: dict[int, str]) -> list[Metric]:
    values = {"loss": epoch.loss, "learning_rate": epoch.learning_rate, "epoch_seconds": epoch.seconds}
    values |= {f"dice_{names[channel]}": dice for channel, dice in epoch.dice.items()}
    if epoch.dice:
        values["dice_mean"] = sum(epoch.dice.values()) / len(epoch.dice)
    return [Metric(key, value, epoch.moment_ms, epoch.number) for key, value in values.items()]


def _environment() -> dict[str, str]:
    """Tags that say what ran: the code's commit and the versions of what decides the numbers."""
    packages = {f"overread.{name.lower()}": version(name) for name in _PACKAGES}
    return {"mlflow.source.git.commit": _commit(), "overread.python": platform.python_version(), **packages}


def _commit() -> str:
    """The commit this code was checked out at, '-changed' where files differ from it, or 'unknown'."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changes = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("-changed" if changes.stdout.strip() else "")
