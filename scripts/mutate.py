"""Mutation testing: Cosmic Ray's changes to a few modules, one at a time, and which of them the fast tests notice.

Works on copies of the tree in a temporary folder. A mutant runs in a process forked from one that has all libraries
loaded, so that it costs the tests alone; tests with worked-out examples come first. A mutant that ends in a crash or
runs too long counts as killed.
"""

import argparse
import ast
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("labeling_protocols", "training", "apps", "tests")
# Where a target's modules lie and what they are called, the tests that should notice, and options of theirs.
TARGETS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "agreement": (
        "labeling_protocols",
        ("agreement", "surfaces", "nearest"),
        ("store/test_agreement*.py",),
        (),
    ),
    "consensus": (
        "labeling_protocols",
        ("consensus", "votes", "patterns", "staple", "composition", "part_sources"),
        ("store/test_consensus*.py", "store/test_staple.py", "store/test_composition.py"),
        (),
    ),
    "gate": (
        "training",
        ("gate", "gate_report", "change_control", "changes"),
        ("training/test_gate.py", "training/test_change_control.py"),
        ("--noconftest",),  # which would load torch, and much of ours anew for each mutant
    ),
}
_NOTICED, _UNNOTICED = 1, 0
_SLOWER = 4  # times the processor seconds of all tests: a mutant that takes longer hangs


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change: what Cosmic Ray's operator does at its so-manieth place in a module."""

    module: str
    operator: str
    occurrence: int
    line: int

    def __str__(self) -> str:
        return f"{self.module}.py:{self.line} {self.operator.removeprefix('core/')} {self.occurrence}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--modules", nargs="*", help="only these of the target's modules")
    parser.add_argument("--every", type=int, default=1, help="try only every so-manieth mutant (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: 2)")
    parser.add_argument("--diff", action="store_true", help="show the changed lines of each survivor")
    arguments = parser.parse_args()
    layer, names, patterns, options = TARGETS[arguments.target]
    modules = [f"{layer}/{name}" for name in names if not arguments.modules or name in arguments.modules]
    found = sorted(str(path.relative_to(ROOT)) for p in patterns for path in (ROOT / "tests").glob(p))
    tests = [*options, *found]
    mutants = [mutant for module in modules for mutant in _mutants(module)][:: arguments.every]
    with tempfile.TemporaryDirectory() as folder:
        trees = [_copy(Path(folder) / str(number)) for number in range(arguments.jobs)]
        limit_s = _prepare(trees[0], tests) * _SLOWER + 5
        print(
            f"{len(mutants)} mutants of {', '.join(modules)}; a mutant may take {limit_s:.0f} s of a processor",
            flush=True,
        )
        survivors = _try_all(mutants, trees, tests, int(limit_s))
    _report(mutants, survivors, arguments.diff)
    return 0


def _report(mutants: list[Mutant], survivors: list[Mutant], diff: bool) -> None:
    for mutant in survivors:
        print(f"survived: {mutant}")
        if diff:
            print("\n".join(_changed_lines(mutant)))
    for module in dict.fromkeys(mutant.module for mutant in mutants):
        tried, left = (sum(mutant.module == module for mutant in some) for some in (mutants, survivors))
        print(f"{module}: killed {tried - left} of {tried} ({(tried - left) / tried:.1%})")
    killed = len(mutants) - len(survivors)
    print(f"all: killed {killed} of {len(mutants)} ({killed / max(1, len(mutants)):.1%})")


def _mutants(module: str) -> Iterator[Mutant]:
    """All changes to a module but those in annotations and decorators, which change nothing when it runs."""
    source = _module(ROOT, module).read_text()
    silent = _silent_spans(source)
    tree = get_ast(source)
    for name in operator_names():
        operator_class = get_operator(name)
        if operator_class.arguments():  # it needs to be told what to change
            continue
        operator = operator_class()
        places = (place for node in ast_nodes(tree) for place in operator.mutation_positions(node))
        for occurrence, (start, stop) in enumerate(places):
            if not any(first <= start and stop <= last for first, last in silent):
                yield Mutant(module=module, operator=name, occurrence=occurrence, line=start[0])


def _silent_spans(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """From where to where, as (line, column), annotations and decorators reach, and type aliases at the top."""
    nodes: list[ast.expr | ast.stmt | None] = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            nodes += [node.returns, *node.decorator_list]
        elif isinstance(node, ast.ClassDef):
            nodes += node.decorator_list
        elif isinstance(node, ast.arg | ast.AnnAssign):
            nodes.append(node.annotation)
    nodes += [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript)]
    return [
        ((node.lineno, node.col_offset - 1), (node.end_lineno or 0, (node.end_col_offset or 0) + 1))
        for node in nodes
        if node is not None
    ]


def _copy(tree: Path) -> Path:
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


def _prepare(tree: Path, tests: list[str]) -> float:
    """Run the tests unchanged, which have to pass; load what they load, but for the project itself.

    Returns how many seconds of a processor they take.
    """
    seen = tree / "modules"
    code = (
        "import sys, pytest, hypothesis as h;"
        "h.settings.register_profile('steady', deadline=None, suppress_health_check=list(h.HealthCheck));"
        "h.settings.load_profile('steady');"
        "result = pytest.main(sys.argv[2:]);"
        "open(sys.argv[1], 'w').write('\\n'.join(sys.modules)); sys.exit(result)"
    )
    command = [sys.executable, "-c", code, str(seen), *_options(tests)]
    outcome = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    if outcome.returncode:
        sys.exit(f"the tests fail without any change:\n{outcome.stdout[-3000:]}{outcome.stderr[-1000:]}")
    for name in seen.read_text().split():
        if name.split(".")[0] not in (*FOLDERS, "__main__", "conftest"):
            try:
                __import__(name)
            except (ImportError, RuntimeError):  # loaded under a name that is not its own, or never whole
                continue
    _, status, used = os.wait4(_fork(tree, tests, 600), 0)
    if status:
        sys.exit("the tests fail without any change, in a forked process")
    return used.ru_utime + used.ru_stime


def _options(tests: list[str]) -> list[str]:
    quiet = ["-q", "-x", "--no-header", "--tb=no", "--no-summary", "-p", "no:cacheprovider", "-p", "no:timeout"]
    return [*quiet, "-p", "no:xdist", "-W", "ignore", "-m", "not slow and not real_data", *tests]


def _try_all(mutants: list[Mutant], trees: list[Path], tests: list[str], limit_s: int) -> list[Mutant]:
    survivors = []
    free, running, waiting = list(trees), {}, list(reversed(mutants))
    while waiting or running:
        while waiting and free:
            mutant, tree = waiting.pop(), free.pop()
            changed = _changed(mutant)
            _module(tree, mutant.module).write_text(changed)
            running[_fork(tree, tests, limit_s)] = (mutant, tree)
        process, status = os.waitpid(-1, 0)
        if process in running:
            mutant, tree = running.pop(process)
            shutil.copy(_module(ROOT, mutant.module), _module(tree, mutant.module))
            free.append(tree)
            if status == _UNNOTICED:
                survivors.append(mutant)
                print(f"survived: {mutant} ({len(mutants) - len(waiting)}/{len(mutants)} tried)", flush=True)
    return survivors


def _fork(tree: Path, tests: list[str], limit_s: int) -> int:
    """The id of a process that runs the tests on this tree and ends with 0 where all of them pass."""
    process = os.fork()
    if process:
        return process
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os.chdir(tree)
    sys.path[:] = [
        str(tree),
        *(path for path in sys.path if Path(path or ".").resolve() not in (ROOT, ROOT / "scripts")),
    ]
    # Shrinking an example would only say better what is said already.
    phases = [phase for phase in hypothesis.Phase if phase not in (hypothesis.Phase.shrink, hypothesis.Phase.explain)]
    patient = {"deadline": None, "suppress_health_check": list(hypothesis.HealthCheck)}
    hypothesis.settings.register_profile("mutants", phases=phases, database=None, **patient)
    hypothesis.settings.load_profile("mutants")
    try:
        outcome = int(pytest.main(_options(tests), plugins=[_ExamplesFirst()]))
    except BaseException:  # noqa: BLE001  whatever a mutant raises, even SystemExit, it was noticed
        outcome = _NOTICED
    os._exit(_UNNOTICED if outcome == 0 else _NOTICED)


class _ExamplesFirst:
    """Most mutants fail a test with a worked-out example, and those with drawn examples take longer."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: getattr(getattr(item, "obj", None), "is_hypothesis_test", False))


def _changed(mutant: Mutant) -> str:
    source = _module(ROOT, mutant.module).read_text()
    changed = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
    assert changed is not None
    return changed


def _changed_lines(mutant: Mutant) -> list[str]:
    before, after = _module(ROOT, mutant.module).read_text().splitlines(), _changed(mutant).splitlines()
    return [f"    {new.strip()}" for old, new in zip(before, after, strict=False) if old != new][:2]


def _module(tree: Path, name: str) -> Path:
    return tree / f"{name}.py"


if __name__ == "__main__":
    raise SystemExit(main())
