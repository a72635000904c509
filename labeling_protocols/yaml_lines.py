"""A YAML file in; its content, and the line on which any part of it stands, out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class YamlError(ValueError):
    """A file that is no plain YAML: file, line, what was found."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One YAML mapping; `content_json` is its content as JSON text, `root` where its parts stand."""

    path: Path
    content_json: str
    root: yaml.MappingNode

    def at(self, location: Sequence[str]) -> tuple[int, list[str]]:
        """Line of the deepest part of `location` the file has, and the location without steps the file has not.

        The last step stays in any case: it is what is missing, or what is one too many.
        """
        node: yaml.Node = self.root
        line, steps = node.start_mark.line + 1, []
        for index, part in enumerate(location):
            found = _step(node, part)
            if found is not None:
                line, node = found
            if found is not None or index == len(location) - 1:
                steps.append(part)
        return line, steps


def read_yaml(path: Path, *, expected: str) -> Document:
    """Read a file of one mapping, `expected` in words; raises `YamlError` naming file and line.

    Keys that stand twice and references (`*name`) are refused: either would hide what a person reads.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_references(path, text)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise YamlError(f"{path}, line {line}: not valid YAML: {error.problem}") from error
    except RecursionError as error:
        raise YamlError(f"{path}, line 1: nested too deeply to be read") from error
    except YamlError:
        raise
    except OSError as error:
        raise YamlError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise YamlError(f"{path}, line 1: cannot be read as YAML text: {error}") from error
    if not isinstance(content, dict) or not isinstance(root, yaml.MappingNode):
        raise YamlError(f"{path}, line 1: expected {expected}, found {_short(content)}")
    _refuse_repeated_keys(path, root)
    # What JSON has no word for (a date, a set, a key that is no text) becomes text, which the reader of it refuses.
    return Document(path=path, content_json=json.dumps(content, default=str), root=root)


def _short(content: Any) -> str:
    shown = repr(content)
    return shown if len(shown) <= 80 else f"{shown[:77]}…"


def _step(node: yaml.Node, part: str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        entry = next(((key, value) for key, value in node.value if key.value == part), None)
        return None if entry is None else (entry[0].start_mark.line + 1, entry[1])
    if isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
        item = node.value[int(part)]
        return item.start_mark.line + 1, item
    return None


def _refuse_references(path: Path, text: str) -> None:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise YamlError(f"{path}, line {line}: *{event.anchor} refers to another place; write it out here")


def _refuse_repeated_keys(path: Path, node: yaml.Node) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise YamlError(f"{path}, line {key.start_mark.line + 1}: {key.value!r} stands here a second time")
            seen.add(key.value)
            _refuse_repeated_keys(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(path, item)
