"""One MLflow run: what a training shows while it runs and what came out of it in, written where MLflow's page has it.

Whatever is told twice stands there once, so a worker that was killed and started again tells what it knows anew. The
page shows metrics in groups by what stands before the last "/", in the alphabet's order: `epoch/…`, the curves, come
first, then `held_out/…`, one number each, and `loop/…`; `system/…` has a page of its own.
"""

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import yaml
from matplotlib.figure import Figure

from training import report_tables
from training.checkpoint import Epoch
from training.metric_buffer import MetricBuffer
from training.plan import Plan
from training.quiet_mlflow import (
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    MlflowClient,
    Param,
    RunTag,
    SystemMetricsMonitor,
)
from training.report import EvaluationReport
from training.signature import FLAVOUR, write_model_file
from training.snapshot import Snapshot

HELD_OUT, CROSS_VALIDATION = "held_out", "cross_validation"  # what figures are of, and so where they stand in a run
_NOTE_TAG = "mlflow.note.content"
_NOTE_CHARACTERS_MAX = 8000  # MLflow's limit on a tag
_PARAM_CHARACTERS_MAX = 6000  # MLflow's limits too
_PARAMS_A_BATCH = 100
_UNUSUAL = re.compile(r"[^\w.\- :/]")  # what MLflow takes in no metric's name
_SYSTEM_SAMPLE_S = 5.0
_SYSTEM_SAMPLES = 3  # a point is their mean


def judged_by(snapshot: Snapshot) -> str:
    """What a model of this snapshot is judged by; without any held-out case, its cross-validation."""
    return HELD_OUT if snapshot.held_out else CROSS_VALIDATION


class RunLog:
    """One run; every method may be called again after a crash. A `with` block ends with everything written."""

    def __init__(self, *, client: MlflowClient, id: str) -> None:
        self.client = client
        self.id = id
        self._metrics = MetricBuffer(client, id)
        self._monitor: SystemMetricsMonitor | None = None

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._settle()

    def epoch(self, epoch: Epoch) -> None:
        """What an epoch showed, at the moment it was had; written within seconds."""
        values = {
            "epoch/train_loss": epoch.loss,
            "loop/learning_rate": epoch.learning_rate,
            "loop/cpu_minutes": epoch.cpu_minutes,
            "loop/epoch_seconds": epoch.seconds,
            "loop/patches_per_s": epoch.patches_per_s,
            **{f"epoch/validation/{name}": value for name, value in epoch.figures.items()},
        }
        if epoch.score is not None:
            values["epoch/validation_score"] = epoch.score
        self.metrics(values, epoch.number, epoch.moment_ms)

    def epochs(self, history: Sequence[Epoch], names: Mapping[int, str] | None = None) -> None:
        """Several epochs; `names` are in their figures already."""
        for epoch in history:
            self.epoch(epoch)

    def metrics(self, values: Mapping[str, float], step: int, moment_ms: int) -> None:
        """Figures of one step; a repetition has to give the same moment, and is then the same metric."""
        self._metrics.add([Metric(_metric_name(name), value, moment_ms, step) for name, value in values.items()])

    def figures(self, values: Mapping[str, float], step: int) -> None:
        """Closing figures, dated to the run's start so that a repetition is the same metric."""
        self.metrics(values, step, self.client.get_run(self.id).info.start_time)
        self.flush()

    def evaluation(self, report: EvaluationReport, step: int, name: str = HELD_OUT) -> None:
        """A report: its figures, and itself with tables to look through; `name` says on what, held out or elsewhere."""
        counts = {f"{name}/missed": float(report.missed), f"{name}/invented": float(report.invented)}
        self.figures({**counts, **_defined(report, name)}, step)
        self.text(f"evaluation/{name}/report.json", report.as_json())
        for table, content in report_tables.tables(report).items():
            self.text(f"evaluation/{name}/{table}.csv", content)

    def note(self, markdown: str) -> None:
        """Say what the run's page shows first."""
        if len(markdown) > _NOTE_CHARACTERS_MAX:
            markdown = markdown[: markdown.rindex("\n", 0, _NOTE_CHARACTERS_MAX - 1)] + "\n…"
        self.tag({_NOTE_TAG: markdown})

    def params(self, values: Mapping[str, str]) -> None:
        """Settings of the run; those it has already stay what they were first."""
        known = self.client.get_run(self.id).data.params
        new = [Param(key, _shortened(value)) for key, value in values.items() if key not in known]
        for start in range(0, len(new), _PARAMS_A_BATCH):
            self.client.log_batch(self.id, params=new[start : start + _PARAMS_A_BATCH])

    def text(self, name: str, content: str) -> None:
        self.flush()
        self.client.log_text(self.id, content, name)

    def picture(self, name: str, figure: Figure) -> None:
        self.flush()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            figure.savefig(path, format="png", dpi=100, metadata={"Software": None})
            self.client.log_artifact(self.id, str(path), str(Path(name).parent))

    def files(self, folder: Path, name: str) -> None:
        self.flush()
        self.client.log_artifacts(self.id, str(folder), name)

    def tag(self, values: Mapping[str, str]) -> None:
        self.flush()
        self.client.log_batch(self.id, tags=[RunTag(key, value) for key, value in values.items()])

    def plan(self, plan: Plan) -> None:
        """The plan: each value a parameter, and the whole as one file to read (`plan.yaml`) and to load."""
        values = json.loads(plan.as_json())
        self.params({key: str(value) for key, value in values.items()})
        self.text("plan.json", plan.as_json())
        self.text("plan.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None))

    def model(
        self, plan: Plan, name: str, facts: Mapping[str, str], report: EvaluationReport, on: str = HELD_OUT
    ) -> str:
        """Attach the model: what goes in and out, and its figures `on` which cases; returns MLflow's id of it.

        `facts` say which bundle it is about, `bundle_sha256` among them. Nothing that could be executed is attached.
        """
        self.flush()
        run = self.client.get_run(self.id)
        experiment = run.info.experiment_id
        found = self.client.search_logged_models([experiment], f"source_run_id = '{self.id}'")
        model = next((one for one in found if one.name == name), None) or self.client.create_logged_model(
            experiment, name=name, source_run_id=self.id, model_type=FLAVOUR, params=dict(run.data.params)
        )
        self.client.set_logged_model_tags(model.model_id, dict(facts))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "MLmodel"
            write_model_file(plan, path, run_id=self.id, model_id=model.model_id, facts=facts)
            self.client.log_model_artifact(model.model_id, str(path))
        self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        if all(known.model_id != model.model_id for known in run.outputs.model_outputs):
            self.client.log_outputs(self.id, [LoggedModelOutput(model.model_id, step=0)])
        moment_ms = run.info.start_time
        metrics = [
            Metric(_metric_name(key), value, moment_ms, plan.epochs, model_id=model.model_id, run_id=self.id)
            for key, value in _defined(report, on).items()
        ]
        self.client.log_batch(self.id, metrics=metrics)
        return str(model.model_id)

    def watch_system(
        self, *, sample_s: float = _SYSTEM_SAMPLE_S, samples: int = _SYSTEM_SAMPLES, node: str | None = None
    ) -> None:
        """Log the use of processor, memory, disk, network and GPUs (with pynvml) until the run is left or closed.

        `node` tells machines that train together apart.
        """
        if self._monitor is None:
            self._monitor = SystemMetricsMonitor(
                self.id,
                sampling_interval=sample_s,
                samples_before_logging=samples,
                resume_logging=True,
                node_id=node,
                tracking_uri=self.client.tracking_uri,
            )
            self._monitor.start()

    def read_text(self, name: str) -> str:
        """The text of an artifact of this run."""
        with tempfile.TemporaryDirectory() as folder:
            return Path(self.client.download_artifacts(self.id, name, folder)).read_text(encoding="utf-8")

    def flush(self) -> None:
        """Write the metrics that wait for company."""
        self._metrics.flush()

    def close(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        self._settle()
        self.client.set_terminated(self.id, status=status)

    def _settle(self) -> None:
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        self.flush()


def _defined(report: EvaluationReport, name: str) -> dict[str, float]:
    return {f"{name}/{one.name}": one.value for one in report.figures if one.value is not None}


def _metric_name(name: str) -> str:
    return _UNUSUAL.sub("_", name)


def _shortened(value: str) -> str:
    return value if len(value) <= _PARAM_CHARACTERS_MAX else value[: _PARAM_CHARACTERS_MAX - 1] + "…"
