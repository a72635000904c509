"""What to label, who reads, what counts as truth: a YAML file in, a frozen `Protocol` or an error with its line out."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from labeling_protocols.protocol_parts import (
    STRICT,
    Acquisition,
    AdjudicationRule,
    AgreementLimits,
    Blinding,
    Calibration,
    ChannelName,
    Code,
    Consensus,
    GateLimits,
    Name,
    PrelabelPolicy,
    Question,
    SeatRule,
    Structure,
    Task,
    Ties,
)
from labeling_protocols.yaml_lines import Document, YamlError, read_yaml

__all__ = [
    "SHIPPED",
    "AgreementLimits",
    "Code",
    "GateLimits",
    "PrelabelPolicy",
    "Protocol",
    "ProtocolError",
    "Structure",
    "Task",
    "Ties",
    "json_schema",
    "load_protocol",
]

SHIPPED = Path(__file__).parent / "protocols"

# What each kind of work must have, and what it may have, of the limits of agreement.
_OUTLINE_LIMITS = ("dice_min", "hd95_mm_max")
_MORE_OUTLINE_LIMITS = ("surface_dice_min", "surface_tolerance_mm", "volume_difference_max", "lesion_f1_min")
_FINDING_LIMITS = ("f1_min",)
_MATCHING_LIMITS = ("match_mm_max", "match_iou_min")


class ProtocolError(ValueError):
    """A protocol file that says something impossible: file, line, what was found, what was expected."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Protocol:
    """One version of a labelling protocol; a change makes a new version."""

    name: Name
    version: Annotated[int, Field(ge=1)]
    title: str
    modality: tuple[str, ...]
    """DICOM modalities (PS3.3 C.7.3.1.1.1) whose series are labelled, such as CT or MR."""
    channels: tuple[ChannelName, ...] = ()
    """Registered images of one study that make a case together, such as T1 and FLAIR: labels lie on the first one's
    grid, and viewers open that. One image, where it is left out."""
    body_part: Code
    """Anatomic region (DICOM PS3.16 CID 4)."""
    structures: Annotated[tuple[Structure, ...], Field(min_length=1)]
    questions: tuple[Question, ...] = ()
    """What readers answer about the whole case."""
    overlaps: tuple[tuple[str, str], ...] = ()
    """Pairs of structures that may share voxels; no others may."""
    may_be_empty: bool = False
    """Whether a label without any finding is a read ("nothing here") rather than a mistake."""
    readers_per_case: Annotated[int, Field(ge=1, le=20)]
    seats: tuple[SeatRule, ...] = ()
    """How the readers of a case are drawn from groups; anyone, where it is left out."""
    seat_lease_minutes: Annotated[int, Field(ge=1)]
    """How long a reader keeps a case without a sign of life."""
    prelabels: PrelabelPolicy = PrelabelPolicy.ALWAYS
    blinding: Blinding = Blinding()
    calibration: Calibration | None = None
    acquisition: Acquisition | None = None
    """Which case comes next; as the site's settings say, where it is left out."""
    agreement: Mapping[str, AgreementLimits]
    """When two reads agree, by structure."""
    consensus: Consensus
    adjudication: AdjudicationRule = AdjudicationRule()
    gate: GateLimits

    @model_validator(mode="after")
    def _parts_fit(self) -> "Protocol":
        problem = next(_problems(self), None)
        if problem is not None:
            raise ValueError(problem)
        return self

    @property
    def values(self) -> dict[str, int]:
        """Voxel value of each outlined structure by name, in the protocol's order."""
        return {structure.name: structure.value for structure in self.outlined}

    @property
    def outlined(self) -> tuple[Structure, ...]:
        """The structures readers draw voxels of."""
        return tuple(structure for structure in self.structures if Task.SEGMENTATION in structure.tasks)

    @property
    def seat_groups(self) -> tuple[str, ...]:
        """The group each of a case's seats is kept for, "" for anyone; as many as there are readers a case."""
        if not self.seats:
            return ("",) * self.readers_per_case
        return tuple(rule.group or "" for rule in self.seats for _ in range(rule.count))

    def may_overlap(self, a: str, b: str) -> bool:
        """Whether these two structures may share voxels."""
        return (a, b) in self.overlaps or (b, a) in self.overlaps

    def structure(self, name: str) -> Structure:
        return next(structure for structure in self.structures if structure.name == name)

    def as_json(self) -> str:
        """Canonical JSON: equal protocols give equal text, also where one names a default and the other does not."""
        content = _ADAPTER.dump_python(self, mode="json", exclude_defaults=True)
        for structure in content["structures"]:
            structure.setdefault("modifier", None)  # written since before defaults were left out: digests stay
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

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
        document = read_yaml(path, expected="a protocol (name, version, structures, …)")
    except YamlError as error:
        raise ProtocolError(str(error)) from error
    try:
        return _ADAPTER.validate_json(document.content_json)
    except ValidationError as error:
        raise ProtocolError("\n".join(_explain(document, detail) for detail in error.errors())) from error


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a protocol file, for editors; rules across several entries stay the loader's."""
    schema = _ADAPTER.json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _problems(protocol: Protocol) -> Iterator[str]:
    """What no single entry shows: each problem begins with the section it is in."""
    names = [structure.name for structure in protocol.structures]
    outlined = [structure.name for structure in protocol.outlined]
    questions = [question.name for question in protocol.questions]
    yield from _used_once("channels", "name", list(protocol.channels))
    yield from _used_once("structures", "name", names)
    yield from _used_once("structures", "value", [str(structure.value) for structure in protocol.structures])
    yield from _used_once("questions", "name", questions)
    if shared := sorted({*names} & {*questions}):
        yield f"questions: a question and a structure need different names, found {', '.join(shared)} as both"
    yield from _one_entry_each("agreement", names, protocol.agreement)
    yield from _limits_fit("agreement", protocol, protocol.agreement)
    if protocol.calibration and protocol.calibration.limits is not None:
        yield from _one_entry_each("calibration.limits", names, protocol.calibration.limits)
        yield from _limits_fit("calibration.limits", protocol, protocol.calibration.limits)
    yield from _one_entry_each("gate.dice_min", outlined, protocol.gate.dice_min)
    yield from _overlap_problems(protocol.overlaps, outlined)
    wanted = protocol.consensus.found_by_min
    if wanted is not None and wanted > protocol.readers_per_case:
        readers = protocol.readers_per_case
        yield f"consensus.found_by_min: expected at most {readers}, the readers of a case, found {wanted}"
    seats = sum(rule.count for rule in protocol.seats)
    if protocol.seats and seats != protocol.readers_per_case:
        yield f"seats: expected {protocol.readers_per_case} in all, as readers_per_case says, found {seats}"


def _used_once(section: str, what: str, found: list[str]) -> Iterator[str]:
    twice = sorted({item for item in found if found.count(item) > 1})
    if twice:
        yield f"{section}: every {what} must be used once, found {', '.join(twice)} twice"


def _one_entry_each(section: str, names: list[str], entries: Collection[str]) -> Iterator[str]:
    if {*entries} != {*names}:
        yield f"{section}: expected one entry for each of {names}, found {sorted(entries)}"


def _limits_fit(section: str, protocol: Protocol, limits: Mapping[str, AgreementLimits]) -> Iterator[str]:
    for structure in protocol.structures:
        where, of_structure = f"{section}.{structure.name}", limits[structure.name]
        outlined = Task.SEGMENTATION in structure.tasks
        found = outlined < len(structure.tasks)  # boxes or points beside the outline, or instead of it
        for asked, needed, allowed, work in (
            (outlined, _OUTLINE_LIMITS, _MORE_OUTLINE_LIMITS, "outlined"),
            (found, _FINDING_LIMITS, _MATCHING_LIMITS, "boxed or pointed at"),
        ):
            for field in (*needed, *allowed):
                given = getattr(of_structure, field) is not None
                if asked and field in needed and not given:
                    yield f"{where}: expected {field}, as {structure.name} is {work}; found none"
                elif given and not asked:
                    yield f"{where}: found {field}, and {structure.name} is not {work}"
        yield from _surface_limits_fit(where, of_structure)
        if found:
            yield from _matching_fits(where, structure, of_structure)


def _surface_limits_fit(where: str, limits: AgreementLimits) -> Iterator[str]:
    if (limits.surface_dice_min is None) != (limits.surface_tolerance_mm is None):
        given, other = "surface_dice_min", "surface_tolerance_mm"
        if limits.surface_dice_min is None:
            given, other = other, given
        yield f"{where}: surface_dice_min and surface_tolerance_mm: give both or neither; found {given} without {other}"


def _matching_fits(where: str, structure: Structure, limits: AgreementLimits) -> Iterator[str]:
    """Findings are matched by distance or, boxes alone, by what they share."""
    by_mm, by_iou = limits.match_mm_max is not None, limits.match_iou_min is not None
    if by_iou and Task.POINTS in structure.tasks:
        yield f"{where}: found match_iou_min, and {structure.name} is pointed at; expected match_mm_max"
    elif by_iou and by_mm:
        yield f"{where}: found match_mm_max and match_iou_min; expected one of them"
    elif not by_iou and not by_mm:
        instead = " or match_iou_min" if Task.POINTS not in structure.tasks else ""
        yield f"{where}: expected match_mm_max{instead}, as {structure.name} is boxed or pointed at; found none"


def _overlap_problems(overlaps: tuple[tuple[str, str], ...], outlined: list[str]) -> Iterator[str]:
    for index, pair in enumerate(overlaps):
        if foreign := [name for name in pair if name not in outlined]:
            yield f"overlaps.{index}: expected two of the outlined structures {outlined}, found {', '.join(foreign)}"
        elif pair[0] == pair[1]:
            yield f"overlaps.{index}: expected two different structures, found {pair[0]} twice"
    pairs = [" and ".join(sorted(pair)) for pair in overlaps]
    yield from _used_once("overlaps", "pair", pairs)


def _explain(document: Document, detail: Any) -> str:
    location = [str(part) for part in detail["loc"]]
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "value_error" and ": " in message:  # a rule over several entries names its section first
        section, message = message.split(": ", 1)
        location += section.split(".")
    line, steps = document.at(location)
    where = f"{'.'.join(steps)}: " if steps else ""
    shown = "" if isinstance(detail["input"], dict | list) or "found" in message else f", found {detail['input']!r}"
    hint = " (write it in quotes)" if isinstance(detail["input"], bool) and detail["type"] == "string_type" else ""
    return f"{document.path}, line {line}: {where}{message}{shown}{hint}"
