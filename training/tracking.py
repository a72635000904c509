"""A site's MLflow: a job in, its run out, made where there is none; and everything that is known before it begins.

A training is found again by its job's id, and a fold or trial of it by its part's, so a worker that was killed and
started again writes on in the same runs.
"""

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from training import environment
from training.plan import Plan
from training.quiet_mlflow import Dataset, DatasetInput, InputTag, MlflowClient
from training.run_log import HELD_OUT, RunLog
from training.snapshot import Snapshot, SnapshotCase

__all__ = ["HELD_OUT", "RunLog", "Tracking", "open_client"]

_JOB_TAG = "overread.job"
_PART_TAG = "overread.part"
_PARENT_TAG = "mlflow.parentRunId"
_TRAININGS = {"mlflow.experimentKind": "custom_model_development"}  # its page opens on runs, not on chats
_DATASET_DIGEST_LENGTH = 36  # MLflow's column; the whole digest stands in the tags and the source


class Tracking:
    """A site's MLflow: its database and the folder of its artifacts."""

    def __init__(self, tracking_uri: str, artifacts: Path) -> None:
        self.client = open_client(tracking_uri)
        self._artifacts = artifacts

    def run(self, job: str, protocol: str) -> RunLog:
        """The run of this job, made where there is none yet, and running."""
        return self._run(self._experiment(protocol), {_JOB_TAG: job}, job)

    def part(self, parent: RunLog, part: str) -> RunLog:
        """The run of a part of the parent's work, such as `fold-1` or `trial-007`, nested below it on MLflow's page."""
        experiment = self.client.get_run(parent.id).info.experiment_id
        return self._run(experiment, {_PARENT_TAG: parent.id, _PART_TAG: part}, part)

    def describe(self, run: RunLog, snapshot: Snapshot, plan: Plan, settings: Mapping[str, str]) -> None:
        """Everything that is known before the first epoch: plan, snapshot as the dataset, settings, environment."""
        counts = {"training_cases": str(len(snapshot.training)), "held_out_cases": str(len(snapshot.held_out))}
        run.plan(plan)
        run.params({**counts, **settings})
        run.tag({"overread.snapshot": snapshot.digest, "overread.task": str(plan.task)})
        run.text("snapshot.json", snapshot.as_json())
        run.text("environment/packages.txt", environment.packages())
        run.text("environment/machine.yaml", environment.machine())
        if changes := environment.code().changes:
            run.text("environment/changes.diff", changes)
        sides = (("training", snapshot.training), (HELD_OUT, snapshot.held_out))
        inputs = [_dataset(snapshot, context, cases) for context, cases in sides]
        self.client.log_inputs(run.id, datasets=inputs)

    def _run(self, experiment: str, named: Mapping[str, str], title: str) -> RunLog:
        """The run that carries these tags, made where there is none yet, and running."""
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in named.items())
        found = self.client.search_runs([experiment], query, max_results=1)
        if found:
            self.client.update_run(found[0].info.run_id, status="RUNNING")
            return RunLog(client=self.client, id=found[0].info.run_id)
        run = self.client.create_run(experiment, tags={**named, **_origin()}, run_name=title)
        return RunLog(client=self.client, id=run.info.run_id)

    def _experiment(self, protocol: str) -> str:
        known = self.client.get_experiment_by_name(protocol)
        if known is None:
            folder = self._artifacts / protocol
            folder.mkdir(parents=True, exist_ok=True)
            return str(self.client.create_experiment(protocol, folder.as_uri(), tags=_TRAININGS))
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


def _origin() -> dict[str, str]:
    """Tags that say what ran: the code's commit and the versions of what decides the numbers."""
    code = environment.code()
    return {
        "mlflow.source.name": "overread",
        "mlflow.source.type": "JOB",
        "mlflow.source.git.commit": code.commit,
        "mlflow.source.git.branch": code.branch,
        "mlflow.source.git.dirty": str(bool(code.changes)),
        **{f"overread.{name}": version for name, version in environment.versions().items()},
    }


def _dataset(snapshot: Snapshot, context: str, cases: Sequence[SnapshotCase]) -> DatasetInput:
    """One side of the split; both carry the snapshot's digest."""
    profile = {
        "cases": len(cases),
        "patients": len({case.patient for case in cases}),
        **{
            f"settled by {how}": sum(case.settled == how for case in cases)
            for how in sorted({c.settled for c in cases})
        },
        "excluded from the snapshot": len(snapshot.exclusions),
    }
    dataset = Dataset(
        name=f"{snapshot.protocol}-{context.replace('_', '-')}",
        digest=snapshot.digest[:_DATASET_DIGEST_LENGTH],
        source_type="overread-snapshot",
        source=json.dumps({"snapshot": snapshot.digest}),
        profile=json.dumps(profile),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
