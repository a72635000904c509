"""The demo itself: every stage runs on a few phantoms and its report says what came of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from training.samples import draw_phantoms

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_demo_runs_the_whole_loop_on_phantoms(tmp_path: Path) -> None:
    draw_phantoms(tmp_path / "data", 16)
    data, out = tmp_path / "data", tmp_path / "out"
    command = [sys.executable, "scripts/demo.py", "--data", data, "--cases", "12", "--max-epochs", "60", "--out", out]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    expected = {
        *("cases", "reads", "disputes", "adjudications", "truths", "snapshot", "mlflow_run_id", "dice", "gate"),
        *("model_version", "bundle", "seg", "sr", "seconds"),
    }
    assert expected <= set(report)
    assert (report["cases"], report["truths"]) == (12, 12)
    assert report["reads"] == 24
    assert report["disputes"] == report["adjudications"]
    assert report["gate"]["passed"]
    assert report["dice"]["mean"] > 0.7
    assert (tmp_path / "out" / "seg.dcm").is_file()
