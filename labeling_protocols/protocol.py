"""What to label, who reads, what counts as truth: a YAML file in, a frozen `Protocol` or an error with its line out."""

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

SHIPPED = Path(__file__).parent / "protocols"
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,40}$"

_STRICT = ConfigDict(extra="forbid")
_Name = Annotated[str, Field(pattern=NAME_PATTERN)]
_Fraction = Annotated[float, Field(ge=0, le=1)]


class ProtocolError(ValueError):
    """A protocol file that says something impossible: file, line, what was found, what was expected."""


class ConsensusRule(StrEnum):
    """How reads that agree become one truth (`labeling_protocols/consensus.py`)."""

    MAJORITY = "majority"


class Ties(StrEnum):
    """What a voxel becomes when the readers split evenly."""

    BACKGROUND = "background"
    NEAREST_BOUNDARY = "nearest_boundary"  # the structure it lies deepest inside, by mean signed distance


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Code:
    """One coded concept (DICOM PS3.3 section 8.8)."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Structure:
    """One thing to outline; `value` is its voxel value in every label of this protocol."""

    name: _Name
    title: str
    value: Annotated[int, Field(ge=1, le=255)]
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
    category: Code
    type: Code
    modifier: Code | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AgreementLimits:
    """Two reads of a structure agree when Dice is at least, and HD95 at most, this."""

    dice_min: _Fraction
    hd95_mm_max: Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Consensus:
    rule: ConsensusRule
    ties: Ties


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class GateLimits:
    """What a candidate must reach on held-out cases before it may become champion.

    `missed_max` counts structures present in the truth of which the model drew nothing; `dice_drop_max` is how far the
    mean Dice may lie below the champion's on the same cases.
    """

    dice_mean_min: _Fraction
    dice_min: Mapping[str, _Fraction]
    missed_max: Annotated[int, Field(ge=0)]
    dice_drop_max: _Fraction


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Protocol:
    """One version of a labelling protocol; a change makes a new version."""

    name: _Name
    version: Annotated[int, Field(ge=1)]
    title: str
    modality: tuple[str, ...]
    body_part: Code
    structures: Annotated[tuple[Structure, ...], Field(min_length=1)]
    readers_per_case: Annotated[int, Field(ge=1, le=20)]
    seat_lease_minutes: Annotated[int, Field(ge=1)]
    agreement: Mapping[str, AgreementLimits]
    consensus: Consensus
    gate: GateLimits

    @model_validator(mode="after")
    def _names_agree(self) -> "Protocol":
        names = [structure.name for structure in self.structures]
        for what, found in (("name", names), ("value", [structure.value for structure in self.structures])):
            twice = sorted({str(item) for item in found if found.count(item) > 1})  # type: ignore[arg-type]
            if twice:
                raise ValueError(f"structures: every {what} must be used once, found {', '.join(twice)} twice")
        for section, keys in (("agreement", set(self.agreement)), ("gate.dice_min", set(self.gate.dice_min))):
            if keys != set(names):
                raise ValueError(f"{section}: expected one entry for each of {names}, found {sorted(keys)}")
        return self

    @property
    def values(self) -> dict[str, int]:
        """Voxel value of each structure by name, in the protocol's order."""
        return {structure.name: structure.value for structure in self.structures}

    def structure(self, name: str) -> Structure:
        return next(structure for structure in self.structures if structure.name == name)

    def as_json(self) -> str:
        """Canonical JSON: equal protocols give equal text."""
        return json.dumps(_ADAPTER.dump_python(self, mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.as_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> "Protocol":
        return _ADAPTER.validate_json(text)


_ADAPTER: TypeAdapter[Protocol] = TypeAdapter(Protocol)


def load_protocol(path: Path) -> Protocol:
    """Read a protocol file; raises `ProtocolError` naming file, line, what was found and what was expected."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ProtocolError(f"{path}, line {line}: not valid YAML: {error.problem}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProtocolError(f"{path}: cannot be read as YAML text: {error}") from error
    if not isinstance(content, dict) or root is None:
        raise ProtocolError(f"{path}, line 1: expected a protocol (name, version, structures, …), found {content!r}")
    _refuse_repeated_keys(path, root)
    try:
        return _ADAPTER.validate_python(content)
    except ValidationError as error:
        raise ProtocolError("\n".join(_explain(path, root, detail) for detail in error.errors())) from error


def _explain(path: Path, root: yaml.Node, detail: Any) -> str:
    location = [str(part) for part in detail["loc"]]
    message = str(detail["msg"]).removeprefix("Value error, ")
    if not location and ": " in message:  # a rule over several entries names its section first
        location = message.split(": ", 1)[0].split(".")
    found = "" if isinstance(detail["input"], dict | list) or "found" in message else f", found {detail['input']!r}"
    where = ".".join(location)
    prefix = "" if message.startswith(where) or not where else f"{where}: "
    return f"{path}, line {_line_of(root, location)}: {prefix}{message}{found}"


def _line_of(node: yaml.Node, location: list[str]) -> int:
    """Line of the deepest part of `location` that the file has."""
    line = node.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            entry = next(((key, value) for key, value in node.value if key.value == part), None)
            if entry is None:
                return line
            line, node = entry[0].start_mark.line + 1, entry[1]
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
    return line


def _refuse_repeated_keys(path: Path, node: yaml.Node) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise ProtocolError(f"{path}, line {key.start_mark.line + 1}: {key.value!r} stands here a second time")
            seen.add(key.value)
            _refuse_repeated_keys(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(path, item)
