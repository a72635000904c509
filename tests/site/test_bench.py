"""Benchmarks run, and their rows say what is compared with whom. Figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        (
            "store",
            {
                "scale save",
                "scale next sample",
                "scale status",
                "save label vs nibabel",
                "save label vs nrrd",
                "read label vs nrrd",
                "size vs nii.gz",
            },
        ),
        ("training", {"patches cpu", "mlflow metric"}),
    ],
)
def test_every_row_of_a_benchmark_is_measured_beside_its_peer(name: str, rows: set[str], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "bench.py"), name, "--quick", "--cases", "40"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "rows.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = {row["name"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert rows <= found.keys()
    for row in rows:
        assert found[row]["ratio"] > 0
        assert found[row]["peer"] > 0
