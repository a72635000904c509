"""Values of a plan as they are typed or stand in a file, as overrides of the plan."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def overrides(typed: Sequence[str], path: Path | None) -> dict[str, Any]:
    """Those of the file, then those typed as NAME=VALUE, the value being JSON or else a word; raises `ValueError`."""
    found: dict[str, Any] = {}
    if path is not None:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML too
        if not isinstance(stored, dict):
            raise ValueError(f"{path} holds no names with values of a plan. Nothing was trained.")
        found |= {str(name): value for name, value in stored.items()}
    for one in typed:
        name, equals, value = one.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, found {one!r}. Nothing was trained.")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
