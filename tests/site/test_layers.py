"""Imports point one way: labeling_protocols <- training <- apps, and one app never imports another."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "labeling_protocols": {"labeling_protocols"},
    "training": {"labeling_protocols", "training"},
    "apps": {"labeling_protocols", "training", "apps"},
}
TOP_LEVEL = {"pyproject.toml", "apps", "labeling_protocols", "training", "tests", "scripts", "README.md", "LICENSE"} | {
    "CHANGELOG.md"
}
MODULES = [path for layer in MAY_IMPORT for path in sorted((ROOT / layer).rglob("*.py"))]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_its_own_layer_and_those_below(path: Path) -> None:
    layer, *inner = path.relative_to(ROOT).parts
    app = inner[0] if layer == "apps" and len(inner) > 1 else None
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top in (*MAY_IMPORT, "tests", "scripts"):
            assert top in MAY_IMPORT[layer], f"{layer} imports {name}"
        if app is not None and top == "apps" and rest and (ROOT / "apps" / rest.split(".")[0]).is_dir():
            assert rest.split(".")[0] == app, f"app {app} imports {name}"
        if layer == "labeling_protocols":
            assert top not in ("torch", "monai", "monailabel", "mlflow"), f"{layer} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_opens_with_a_sentence(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path.relative_to(ROOT)} does not say what it is for"


def test_the_top_level_is_as_the_user_named_it() -> None:
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert found - {"site", "out", "build", "overread.egg-info"} <= TOP_LEVEL
