"""The parts of the README that say what the code says: made from the code, held against it by a test.

`python -m tests.site.readme` writes them anew.
"""

import ast
import re
import subprocess
from pathlib import Path

import typer.main

from apps.command import app

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
_LAYERS = ("labeling_protocols", "training", "apps", "scripts")


def commands() -> str:
    """A table of every command of `overread` and what it does."""
    rows = ["| Command | What it does |", "|---|---|"]
    for words, click_command in sorted(_walk(typer.main.get_command(app), ("overread",))):
        arguments = " ".join(f"{p.name.upper()}" for p in click_command.params if p.param_type_name == "argument")
        help_line = (click_command.help or "").strip().splitlines()[0]
        rows.append(f"| `{' '.join((*words, arguments)).strip()}` | {help_line} |")
    return "\n".join(rows)


def files() -> str:
    """One line for each file of the program: its path and the first sentence of its docstring or comment."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *_LAYERS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    rows = []
    for name in sorted(set(listed)):
        path = ROOT / name
        sentence = _sentence(path) if path.is_file() else ""
        if sentence:
            rows.append(f"- `{name}` {sentence}")
    return "\n".join(rows)


def written(text: str) -> str:
    """The README with its made parts made anew."""
    for name, content in (("commands", commands()), ("files", files())):
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"README.md has no place for {name}: <!-- {name} --> … <!-- /{name} -->")
        text = pattern.sub(lambda match, content=content: match[1] + content + match[2], text)
    return text


def _walk(command: object, words: tuple[str, ...]) -> list[tuple[tuple[str, ...], object]]:
    children = getattr(command, "commands", None)
    if children is None:
        return [(words, command)]
    return [found for name, child in children.items() for found in _walk(child, (*words, name))]


def _sentence(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="ignore")
    if path.suffix == ".py":
        docstring = ast.get_docstring(ast.parse(text)) or ""
        first = "" if path.name == "__init__.py" and len(path.parts) and not docstring else docstring.split("\n\n")[0]
    elif path.suffix in (".yaml", ".txt", "") and text.startswith("#"):
        comments = [line for line in text.splitlines() if not line.startswith("#!")]
        first = comments[0].lstrip("# ")
    else:
        return ""
    return " ".join(first.split())


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
