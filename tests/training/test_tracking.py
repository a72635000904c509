"""A run holds what was told, once, whoever was killed while telling it; nothing waits for ever on its way there."""

import multiprocessing
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
import yaml
from mlflow.models import Model

from tests.training.tracked import MOMENT_MS, PLAN, history, report_of, snapshot_of, tell_everything
from tests.waiting import until
from training import environment
from training.metric_buffer import BATCH, MetricBuffer
from training.quiet_mlflow import Metric, MlflowException, mlflow
from training.run_page import Progress, markdown
from training.tracking import RunLog, Tracking, open_client

JOB = "train-hippocampus-0001"
LIMIT_S = 30
CONTEXT = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables, which takes seconds to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    open_client(f"sqlite:///{path}")
    return path


@pytest.fixture
def site_of_mlflow(database: Path, tmp_path: Path) -> tuple[str, Path]:
    """Where tracking is, and its artifacts; nobody has opened it in this process."""
    (tmp_path / "mlflow.db").write_bytes(database.read_bytes())
    return f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts"


@pytest.fixture
def tracking(site_of_mlflow: tuple[str, Path]) -> Tracking:
    return Tracking(*site_of_mlflow)


@pytest.fixture
def run(tracking: Tracking) -> RunLog:
    return tracking.run(JOB, "hippocampus")


def steps(run: RunLog, name: str) -> list[int]:
    return [metric.step for metric in run.client.get_metric_history(run.id, name)]


def of(number: int) -> list[Metric]:
    return [Metric("epoch/train_loss", 1.0 / number, MOMENT_MS + number, number)]


def test_the_first_metric_is_written_at_once_and_those_close_behind_it_together(run: RunLog) -> None:
    buffer = MetricBuffer(run.client, run.id, every_s=1000.0)
    for number in range(1, 6):
        buffer.add(of(number))
    assert steps(run, "epoch/train_loss") == [1]
    buffer.flush()
    assert steps(run, "epoch/train_loss") == [1, 2, 3, 4, 5]


def test_a_full_batch_is_written_without_waiting(run: RunLog) -> None:
    buffer = MetricBuffer(run.client, run.id, every_s=1000.0)
    buffer.add(of(1))
    buffer.add([metric for number in range(2, BATCH + 1) for metric in of(number)])
    assert len(steps(run, "epoch/train_loss")) == 1
    buffer.add(of(BATCH + 1))
    assert len(steps(run, "epoch/train_loss")) == BATCH + 1


def test_a_metric_that_waits_is_written_although_no_other_comes(run: RunLog) -> None:
    buffer = MetricBuffer(run.client, run.id, every_s=0.1)
    buffer.add(of(1))
    buffer.add(of(2))
    until(lambda: steps(run, "epoch/train_loss") == [1, 2], "the timer")


def test_what_mlflow_refuses_for_a_while_is_not_lost(run: RunLog) -> None:
    buffer = MetricBuffer(run.client, run.id, every_s=1000.0)
    run.client.delete_run(run.id)
    with pytest.raises(MlflowException):
        buffer.add(of(1))
    run.client.restore_run(run.id)
    buffer.flush()
    assert steps(run, "epoch/train_loss") == [1]


@pytest.mark.parametrize("end", ["close", "leave", "tag", "text"])
def test_metrics_are_in_mlflow_when_a_run_is_closed_left_or_written_to(run: RunLog, end: str) -> None:
    with run:
        for epoch in history():
            run.epoch(epoch)
        assert steps(run, "epoch/train_loss") == [1]
        if end == "close":
            run.close("FINISHED")
        elif end == "tag":
            run.tag({"a": "b"})
        elif end == "text":
            run.text("a.txt", "b")
        if end != "leave":
            assert len(steps(run, "epoch/train_loss")) == 6
    assert steps(run, "epoch/train_loss") == [1, 2, 3, 4, 5, 6]


def tell_and_die(uri: str, artifacts: Path) -> None:
    run = Tracking(uri, artifacts).run(JOB, "hippocampus")
    for epoch in history(until=4):
        run.epoch(epoch)
    os.kill(os.getpid(), signal.SIGKILL)


def test_epochs_told_again_after_a_kill_fill_in_what_was_lost(site_of_mlflow: tuple[str, Path]) -> None:
    killed = CONTEXT.Process(target=tell_and_die, args=site_of_mlflow)
    killed.start()
    killed.join(LIMIT_S)
    assert killed.exitcode == -signal.SIGKILL
    tracking = Tracking(*site_of_mlflow)
    with tracking.run(JOB, "hippocampus") as run:
        assert steps(run, "epoch/train_loss") == [1]  # the others waited for company
        for epoch in history():
            run.epoch(epoch)
    assert steps(run, "epoch/train_loss") == [1, 2, 3, 4, 5, 6]
    assert steps(run, "epoch/validation/dice/anterior") == [2, 4, 6]
    values = [metric.value for metric in run.client.get_metric_history(run.id, "epoch/validation_score")]
    assert values == pytest.approx([0.74, 0.865, 1 - 0.5 / 6 - 0.01])


def test_a_training_told_twice_stands_there_once(tracking: Tracking) -> None:
    first, again = tell_everything(tracking), tell_everything(tracking)
    assert first.id == again.id
    client = tracking.client
    run = client.get_run(first.id)
    assert run.info.status == "FINISHED"
    assert steps(first, "epoch/train_loss") == [1, 2, 3, 4, 5, 6]
    assert steps(first, "held_out/dice/anterior") == [6]
    found = {(one.dataset.name, one.tags[0].value) for one in run.inputs.dataset_inputs}
    assert found == {("hippocampus-training", "training"), ("hippocampus-held-out", "held_out")}
    assert len(run.outputs.model_outputs) == 1
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert run.data.params["network"] == "UNet"
    assert run.data.tags["overread.snapshot"] == snapshot_of().digest


def test_a_part_is_nested_in_its_training_and_found_again(tracking: Tracking, run: RunLog) -> None:
    first, other = tracking.part(run, "fold-1"), tracking.part(run, "fold-2")
    assert tracking.part(run, "fold-1").id == first.id
    assert len({run.id, first.id, other.id}) == 3
    tags = tracking.client.get_run(first.id).data.tags
    assert (tags["mlflow.parentRunId"], tags["mlflow.runName"]) == (run.id, "fold-1")
    assert tracking.run(JOB, "hippocampus").id == run.id
    elsewhere = tracking.part(tracking.run("train-hippocampus-0002", "hippocampus"), "fold-1")
    assert elsewhere.id != first.id


def test_a_setting_stays_what_it_was_first_and_a_long_one_is_cut(run: RunLog) -> None:
    run.params({"device": "cuda", "channels": "8" * 7000})
    run.params({"device": "cpu", "processes": "2"})
    params = run.client.get_run(run.id).data.params
    assert (params["device"], params["processes"]) == ("cuda", "2")
    assert len(params["channels"]) == 6000
    assert params["channels"].endswith("8…")


def test_a_figure_under_a_name_that_mlflow_refuses_is_kept_under_a_near_one(run: RunLog) -> None:
    run.figures({"held_out/sensitivity/> 5 mm (left)": 0.5}, step=1)
    assert run.client.get_run(run.id).data.metrics == {"held_out/sensitivity/_ 5 mm _left_": 0.5}


def test_the_plan_is_one_file_to_read(run: RunLog) -> None:
    run.plan(PLAN)
    read = yaml.safe_load(run.read_text("plan.yaml"))
    assert (read["network"], read["patch_RAS"]) == ("UNet", [24, 24, 16])
    assert "patch_RAS: [24, 24, 16]\n" in run.read_text("plan.yaml")


def test_the_environment_says_what_ran_and_not_where(run: RunLog, tracking: Tracking) -> None:
    tracking.describe(run, snapshot_of(), PLAN, {})
    packages = run.read_text("environment/packages.txt").splitlines()
    assert f"mlflow=={mlflow.__version__}" in packages
    assert packages == sorted(packages, key=str.lower)
    machine = yaml.safe_load(run.read_text("environment/machine.yaml"))
    assert machine["cores"] >= 1
    assert {"cpu", "gpus", "cuda", "torch", "torch_build"} <= set(machine)
    name = subprocess.run(["hostname"], capture_output=True, text=True, check=False).stdout.strip()
    assert not name or name not in run.read_text("environment/machine.yaml")
    tags = run.client.get_run(run.id).data.tags
    assert tags["mlflow.source.git.commit"] == environment.code().commit
    assert tags["overread.mlflow"] == mlflow.__version__


def test_the_use_of_the_machine_is_logged_until_the_run_is_closed(run: RunLog) -> None:
    run.watch_system(sample_s=0.05, samples=1)
    run.watch_system(sample_s=0.05, samples=1)  # watched once
    assert sum(thread.name == "SystemMetricsMonitor" for thread in threading.enumerate()) == 1
    until(lambda: "system/cpu_utilization_percentage" in run.client.get_run(run.id).data.metrics, "system metrics")
    run.close("KILLED")
    assert all(thread.name != "SystemMetricsMonitor" for thread in threading.enumerate())
    assert run.client.get_run(run.id).info.status == "KILLED"


def test_the_model_says_what_goes_in_and_out_and_holds_no_code(tracking: Tracking) -> None:
    run = tell_everything(tracking)
    (output,) = run.client.get_run(run.id).outputs.model_outputs
    logged = run.client.get_logged_model(output.model_id)
    assert (logged.name, str(logged.status)) == ("hippocampus-segmentation", "READY")
    assert logged.tags["bundle_sha256"] == "b" * 64
    assert {metric.key for metric in logged.metrics} >= {"held_out/dice_mean", "held_out/dice/anterior"}
    folder = Path(logged.artifact_location.removeprefix("file://"))
    assert [path.name for path in folder.rglob("*")] == ["MLmodel"]
    model = Model.load(str(folder))
    assert [(spec.name, spec.shape, str(spec.type)) for spec in model.signature.inputs.inputs] == [
        ("image", (-1, 1, -1, -1, -1), "float32")
    ]
    assert [(spec.name, spec.shape) for spec in model.signature.outputs.inputs] == [("scores", (-1, 3, -1, -1, -1))]
    assert set(model.flavors) == {"overread_bundle"}
    with pytest.raises(MlflowException, match='does not have the "python_function" flavor'):
        mlflow.pyfunc.load_model(str(folder))


def test_tables_hold_the_figures_beside_the_champions_and_the_readers(run: RunLog) -> None:
    report = report_of(snapshot_of())
    run.evaluation(report, step=6)
    heads, first, *_ = run.read_text("evaluation/held_out/figures.csv").splitlines()
    assert heads == "figure,value,low,high,n,champion,difference,p,readers"
    name, value, low, high, n, champion, difference, _, readers = first.split(",")
    assert (name, n, readers) == ("dice_mean", "10", "0.92")
    assert float(low) < float(value) < float(high)
    assert float(champion) + float(difference) == pytest.approx(float(value), abs=2e-4)
    cases = run.read_text("evaluation/held_out/cases.csv").splitlines()[1:]
    dice = [float(case.split(",")[1]) for case in cases]
    assert dice == sorted(dice)
    assert len(cases) == 10
    assert "site,C,2,1,few," in run.read_text("evaluation/held_out/subgroups.csv")


def test_the_page_begins_with_the_verdict_and_the_principal_figure() -> None:
    report = report_of(snapshot_of())
    progress = Progress(snapshot=snapshot_of(), plan=PLAN, stage="", report=report, passed=False, reasons=("too bad",))
    page = markdown(progress, experiment="1", run="r", pictures=["pictures/worst.png"])
    first, reason, _, heads, *_ = page.splitlines()
    dice = report.figure("dice_mean")
    assert dice is not None
    assert first.startswith(f"### Refused by its gate: dice mean {dice.value:.3f} (")
    assert first.endswith("readers 0.920, 0 missed")
    assert reason == "- too bad"
    assert heads.startswith("| On the held-out cases")
    assert "![pictures/worst.png](get-artifact?path=pictures/worst.png&run_uuid=r)" in page
    assert "[gate report](#/experiments/1/runs/r/artifacts/gate.json)" in page
    early = markdown(Progress(snapshot=snapshot_of(), plan=PLAN, stage="Training"), experiment="1", run="r")
    assert early.startswith("### Training\n")
    assert "gate.json" not in early
    assert "Learned from 20 cases of 10 patients" in early


def test_a_page_too_long_for_mlflow_ends_with_a_whole_line(run: RunLog) -> None:
    run.note("\n".join(["x" * 99] * 200))
    note = run.client.get_run(run.id).data.tags["mlflow.note.content"]
    assert len(note) <= 8000
    assert note.splitlines()[-2:] == ["x" * 99, "…"]
