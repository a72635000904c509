"""The benchmarks run, and name the rows that goals are set for."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_store_is_measured_in_all_its_rows(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "bench.py"), "store", "--quick", "--cases", "40"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "rows.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    scale = {"scale save", "scale next sample", "scale status"}
    labels = {"save label vs nibabel", "save label vs nrrd", "read label vs nrrd", "size vs nii.gz"}
    assert scale | labels <= rows.keys()
    for name in scale | labels:
        assert rows[name]["ratio"] > 0
        assert rows[name]["goal"] is not None
