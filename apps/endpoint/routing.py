"""Which models read a series: the site's rules, in their order, and the series' facts in, a route with its reasons out.

Rules are a list that a person can read (`routes.yaml` in the site's folder). The first rule whose conditions all hold
decides; what a header does not say satisfies no condition. Without the file, the settings' one protocol reads whatever
is of its modality.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import pydantic
import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from apps.endpoint.series_facts import Orientation, SeriesFacts
from apps.settings import Site
from labeling_protocols.store import Store

FILE = "routes.yaml"
_STRICT = ConfigDict(extra="forbid")
_Words = Annotated[str, Field(min_length=1, max_length=64)]


class RoutesError(ValueError):
    """A file of rules that cannot be used: where, what was found, what was expected."""


class Priority(StrEnum):
    """Which waiting studies are run first."""

    EMERGENCY = "emergency"
    URGENT = "urgent"
    ROUTINE = "routine"

    @property
    def rank(self) -> int:
        """Smaller ones first, from 1 on."""
        return [*Priority].index(self) + 1


class Outside(StrEnum):
    """What becomes of a study that lies outside the acquisitions a model was trained on."""

    FLAG = "flag"  # it is run, and the result says it
    REFUSE = "refuse"


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_STRICT)
class Range:
    """From `min` to `max`, both included."""

    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        if self.min is None and self.max is None:
            raise ValueError("a range needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is more than max {self.max:g}")

    def __str__(self) -> str:
        parts = ((self.min, "at least"), (self.max, "at most"))
        return " and ".join(f"{words} {bound:g}" for bound, words in parts if bound is not None)


def _listed(value: object) -> object:
    """One word stands for a list of it."""
    return [value] if isinstance(value, str) else value


_Patterns = Annotated[tuple[_Words, ...], pydantic.BeforeValidator(_listed), Field(min_length=1)]
_Orientations = Annotated[tuple[Orientation, ...], pydantic.BeforeValidator(_listed), Field(min_length=1)]


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_STRICT)
class Conditions:
    """What a series' facts must be; each field is the fact of that name.

    Words are patterns as file names have them (`*T1*`), without regard to case; one of a list is enough.
    """

    modality: _Patterns | None = None
    body_part: _Patterns | None = None
    study_description: _Patterns | None = None
    series_description: _Patterns | None = None
    protocol_name: _Patterns | None = None
    image_type: _Patterns | None = None
    manufacturer: _Patterns | None = None
    model: _Patterns | None = None
    kernel: _Patterns | None = None
    sender: _Patterns | None = None
    sex: _Patterns | None = None
    orientation: _Orientations | None = None
    contrast: bool | None = None
    slices: Range | None = None
    slice_thickness_mm: Range | None = None
    pixel_spacing_mm: Range | None = None
    kvp: Range | None = None
    age_years: Range | None = None

    @property
    def asked(self) -> dict[str, Any]:
        """The conditions there are, by fact."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: condition for name, condition in found.items() if condition is not None}


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_STRICT)
class Rule:
    """`models` are protocols whose released models read the series; none at all keeps it unread, which `why` says."""

    name: _Words
    models: Annotated[tuple[_Words, ...], pydantic.BeforeValidator(_listed)]
    when: Conditions = Conditions()
    unless: Conditions = Conditions()
    priority: Priority = Priority.ROUTINE
    outside: Outside = Outside.FLAG
    why: Annotated[str, Field(max_length=200)] = ""


@dataclass(frozen=True, kw_only=True)
class Route:
    """What is decided for a series. `rule` is empty and there are no models where no rule takes it; `reasons` say why,
    a line for each rule that was asked."""

    rule: str
    models: tuple[str, ...]
    priority: Priority
    outside: Outside
    reasons: tuple[str, ...]


# Facts that people write by hand.
_WRITTEN = frozenset(("body_part", "study_description", "series_description", "protocol_name"))
_RULES = TypeAdapter(tuple[Rule, ...])


def read_rules(site: Site, store: Store) -> tuple[Rule, ...]:
    """The rules of a site; raises `RoutesError`, and `UnknownError` where the settings' protocol is not known."""
    path = site.root / FILE
    if not path.is_file():
        protocol = store.protocol(site.config.dicom.protocol)
        return (Rule(name="settings", models=(protocol.name,), when=Conditions(modality=protocol.modality)),)
    rules = parse_rules(path)
    known = {protocol.name for protocol in store.protocols()}
    if unknown := {name for rule in rules for name in rule.models} - known:
        words = f"{', '.join(sorted(unknown))} is no protocol of this site, which has {', '.join(sorted(known))}"
        raise RoutesError(f"{path.name}: {words}")
    return rules


def parse_rules(path: Path) -> tuple[Rule, ...]:
    """Raises `RoutesError`."""
    try:
        rules = _RULES.validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RoutesError(f"{path.name} cannot be read: {error}") from error
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())
        raise RoutesError(f"{path.name}: {found}. Expected a list of rules.") from error
    twice = {rule.name for rule in rules if sum(other.name == rule.name for other in rules) > 1}
    if twice:
        raise RoutesError(f"{path.name}: more than one rule is called {', '.join(sorted(twice))}")
    return rules


def route_of(rules: tuple[Rule, ...], facts: SeriesFacts, *, repeat: bool = False) -> Route:
    """The first rule that takes the series decides.

    Reasons repeat what somebody wrote into the header only where `repeat` is asked for: it may name a patient.
    """
    reasons: list[str] = []
    for rule in rules:
        against = _against(rule, facts, repeat=repeat)
        if not against:
            said = f"{rule.name}: takes it" + (
                f", for {', '.join(rule.models)}" if rule.models else ", and runs nothing"
            )
            return Route(
                rule=rule.name,
                models=rule.models,
                priority=rule.priority,
                outside=rule.outside,
                reasons=(*reasons, said + (f" ({rule.why})" if rule.why else "")),
            )
        reasons.append(f"{rule.name}: {against}")
    return Route(
        rule="", models=(), priority=Priority.ROUTINE, outside=Outside.REFUSE, reasons=(*reasons, "no rule takes it")
    )


def _against(rule: Rule, facts: SeriesFacts, *, repeat: bool) -> str:
    """The first thing that keeps a rule from taking the series; empty where nothing does."""
    for name, condition in rule.when.asked.items():
        value = getattr(facts, name)
        if not _holds(condition, value):
            return f"{name} is {_shown(value, repeat=repeat or name not in _WRITTEN)}, expected {_expected(condition)}"
    for name, condition in rule.unless.asked.items():
        value = getattr(facts, name)
        if _holds(condition, value):
            shown = _shown(value, repeat=repeat or name not in _WRITTEN)
            return f"{name} is {shown}, and the rule is not for {_expected(condition)}"
    return ""


def _holds(condition: Any, value: Any) -> bool:
    if value is None or value == "":
        return False
    if isinstance(condition, Range):
        return (condition.min is None or value >= condition.min) and (condition.max is None or value <= condition.max)
    if isinstance(condition, bool):
        return bool(value is condition)
    return any(fnmatchcase(str(value).casefold(), pattern.casefold()) for pattern in condition)


_SHOWN: Mapping[type, Callable[[Any], str]] = {
    bool: lambda value: "yes" if value else "no",
    float: lambda value: f"{value:g}",
}


def _shown(value: Any, *, repeat: bool = True) -> str:
    if value is None or value == "":
        return "not said"
    return _SHOWN.get(type(value), str)(value) if repeat else "something else"


def _expected(condition: Any) -> str:
    if isinstance(condition, tuple):
        return " or ".join(map(str, condition))
    return _shown(condition) if isinstance(condition, bool) else str(condition)
