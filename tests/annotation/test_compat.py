"""monailabel can be imported, and what stands in the way is named."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from apps import compat
from apps.compat import CompatError, check_package, check_versions

GOOD = {"monailabel": "0.8.5", "monai": "1.5.2", "pydicom": "3.0.2", "torch": "2.13.0+cpu"}


def test_the_versions_this_was_built_for_pass() -> None:
    check_versions(GOOD)


@pytest.mark.parametrize(
    ("package", "found"),
    [("monailabel", "0.8.4"), ("monailabel", "0.9.0"), ("monai", "1.6.0rc1"), ("pydicom", "2.4.4"), ("torch", "2.9.1")],
)
def test_another_version_is_refused_by_name(package: str, found: str) -> None:
    with pytest.raises(CompatError, match=rf"found {package} {found}; expected {package}>="):
        check_versions({**GOOD, package: found})


def test_a_missing_package_is_named() -> None:
    with pytest.raises(CompatError, match="monai is not installed"):
        check_versions({**GOOD, "monai": None})


def test_another_distributions_package_of_our_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    with pytest.raises(CompatError, match="hides ours"):
        check_package("training", tmp_path)


def test_our_own_packages_pass() -> None:
    for name in compat.OURS:
        check_package(name, compat.ROOT)


def test_no_module_of_the_app_hides_one_of_the_standard_library() -> None:
    """monailabel puts the app's folder on PYTHONPATH of the processes it starts."""
    names = {path.stem for path in (compat.ROOT / "apps" / "annotation").glob("*.py")} - {"__init__"}
    assert names.isdisjoint(sys.stdlib_module_names)


def test_monailabel_imports_beside_a_torchvision_without_its_operators(tmp_path: Path) -> None:
    """As after installing torchvision's CUDA wheel beside a CPU torch; worker processes start like this one."""
    spec = find_spec("torchvision")
    assert spec is not None
    installed = Path(str(spec.origin)).parent
    shutil.copytree(installed, tmp_path / "torchvision", ignore=shutil.ignore_patterns("_C*.so", "datasets"))
    (tmp_path / "torchvision" / "datasets.py").touch()
    words = "from apps import compat; compat.mend(); import torchvision, monailabel.interfaces.app"
    where = os.pathsep.join((str(tmp_path), str(compat.ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", f"{words}; print(torchvision.__file__)"],
        env={**os.environ, "PYTHONPATH": where},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(str(tmp_path / "torchvision" / "__init__.py"))
