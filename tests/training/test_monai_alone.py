"""A bundle runs where MONAI is installed and Overread is not, and answers as the server does."""

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest

from labeling_protocols.volumes import read_volume, write_volume
from tests.training.conftest import KEY
from tests.training.drawn import draw, turned
from training.bundle import open_bundle
from training.card_text import RUN
from training.inference import Predictor


@pytest.fixture(scope="module")
def monai_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment that finds this one's libraries, and nothing of this project.

    A `.pth` file is read in an environment's own folder only, so this project's editable installation does not follow.
    """
    folder = tmp_path_factory.mktemp("alone") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    libraries = sysconfig.get_path("purelib", vars={"base": str(folder)})
    (Path(libraries) / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def run(python: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run([str(python), *words], cwd=cwd, env=clean, capture_output=True, text=True)


@pytest.mark.parametrize("package", ["training", "labeling_protocols", "apps", "overread"])
def test_nothing_of_this_project_is_there(package: str, monai_alone: Path, tmp_path: Path) -> None:
    found = run(monai_alone, "-c", f"import {package}", cwd=tmp_path)
    assert f"No module named '{package}'" in found.stderr


@pytest.mark.slow
def test_the_documented_command_answers_as_the_server_does(
    monai_alone: Path, bundle_path: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(bundle_path, KEY.public_key())
    turn = np.array([[0.0, 1.0, 0.0], [0.8, 0.0, 0.6], [0.6, 0.0, -0.8]])
    (tmp_path / "in").mkdir()
    write_volume(draw(23, turned(turn, (1.2, 1.5, 2.0)))[0], tmp_path / "in" / "drawn.nii.gz")
    command = RUN.replace("IN", str(tmp_path / "in")).replace("OUT", str(tmp_path / "out")).split()
    assert command[:5] == ["python", "-m", "monai.bundle", "run", "inference"]
    assert RUN in bundle.read("docs/README.md").decode()
    ran = run(monai_alone, *command[1:], cwd=bundle.folder)
    assert ran.returncode == 0, ran.stderr[-2000:]
    (written,) = (tmp_path / "out").rglob("*.nii.gz")
    label, image = read_volume(written), read_volume(tmp_path / "in" / "drawn.nii.gz")
    assert label.geometry.difference(image.geometry) is None
    assert set(np.unique(label.array_ZYX)) == {0, 1, 2}
    assert np.array_equal(label.array_ZYX, Predictor(bundle, "cpu").predict(image).array_ZYX)
