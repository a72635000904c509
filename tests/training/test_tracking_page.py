"""MLflow's own server shows what a training told: through its REST interface, and in a browser."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, expect

from tests.ports import free_ports
from tests.training.tracked import snapshot_of, tell_everything
from training.tracking import RunLog, Tracking

LIMIT_S = 120

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tracking, RunLog]:
    folder = tmp_path_factory.mktemp("mlflow")
    tracking = Tracking(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")
    run = tell_everything(tracking)
    for fold in ("fold-1", "fold-2"):
        tracking.part(run, fold).close("FINISHED")
    return tracking, run


@pytest.fixture(scope="module")
def server(told: tuple[Tracking, RunLog], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server over what was told."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", told[0].client.tracking_uri]
    log = (tmp_path_factory.mktemp("server") / "log").open("ab")
    quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with log, subprocess.Popen(command, stdout=log, stderr=log, env=quiet) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_until_healthy(address, process)
            yield address
        finally:
            process.terminate()


def _wait_until_healthy(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            requests.get(f"{address}/health", timeout=5).raise_for_status()
            return
        except requests.RequestException:
            assert process.poll() is None, "MLflow's server ended"
            assert time.monotonic() < deadline, f"waited {LIMIT_S} s for MLflow's server"
            time.sleep(0.1)


def get(server: str, what: str, **query: str) -> Any:
    answer = requests.get(f"{server}/api/2.0/mlflow/{what}", params=query, timeout=30)
    answer.raise_for_status()
    return answer.json()


def test_the_server_tells_what_the_training_told(server: str, told: tuple[Tracking, RunLog]) -> None:
    run = told[1].id
    found = get(server, "runs/get", run_id=run)["run"]
    assert found["info"]["status"] == "FINISHED"
    tags = {tag["key"]: tag["value"] for tag in found["data"]["tags"]}
    assert tags["mlflow.note.content"].startswith("### Passed its gate: dice mean 0.")
    contexts = {one["tags"][0]["value"]: one["dataset"] for one in found["inputs"]["dataset_inputs"]}
    assert set(contexts) == {"training", "held_out"}
    assert snapshot_of().digest in contexts["training"]["source"]
    history = get(server, "metrics/get-history", run_id=run, metric_key="epoch/train_loss")["metrics"]
    assert [metric["step"] for metric in history] == [1, 2, 3, 4, 5, 6]
    (output,) = found["outputs"]["model_outputs"]
    model = get(server, f"logged-models/{output['model_id']}")["model"]["info"]
    assert (model["name"], model["model_type"]) == ("hippocampus-segmentation", "overread_bundle")
    files = get(server, "artifacts/list", run_id=run, path="evaluation/held_out")["files"]
    assert {Path(file["path"]).name for file in files} == {"cases.csv", "figures.csv", "report.json", "subgroups.csv"}
    table = requests.get(f"{server}/get-artifact", {"path": files[0]["path"], "run_uuid": run}, timeout=30)
    assert table.text.startswith("case,dice_mean\nc0")


def test_a_colleague_sees_the_verdict_the_figures_and_the_worst_case_first(
    server: str, told: tuple[Tracking, RunLog], browser: Browser
) -> None:
    run = told[1]
    experiment = run.client.get_run(run.id).info.experiment_id
    page = browser.new_page(base_url=server, viewport={"width": 1400, "height": 1000})
    page.goto(f"/#/experiments/{experiment}/runs/{run.id}")
    verdict = page.get_by_role("heading", name="Passed its gate: dice mean 0.")
    expect(verdict).to_be_in_viewport(timeout=LIMIT_S * 1000)
    expect(page.get_by_text("fold-1")).to_be_visible()
    page.get_by_text("Show more").first.click()
    expect(page.get_by_role("cell", name="surface dice: posterior")).to_be_visible()
    worst = page.locator("img[src*='pictures/worst.png']")
    worst.scroll_into_view_if_needed()
    page.wait_for_function("picture => picture.naturalWidth > 100", arg=worst.element_handle())
    with page.expect_popup() as opened:
        page.get_by_role("link", name="cases, worst first").click()
    expect(opened.value.get_by_text("dice_mean").first).to_be_visible(timeout=LIMIT_S * 1000)
    page.close()
    opened.value.close()
