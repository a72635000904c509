"""A predetermined change control plan: a YAML file in; what may change, how it is verified, and what lies outside, out.

The parts are those of the FDA's guidance "Marketing Submission Recommendations for a Predetermined Change Control Plan
for AI-Enabled Device Software Functions" (December 2024): Description of Modifications (`modifications`), Modification
Protocol (`procedures`, `verification`) and Impact Assessment (`impact`). A docstring under a field is its help in the
JSON Schema. A site keeps one file a model, `change_control/<protocol>.yaml` or `<protocol>-<task>.yaml`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from labeling_protocols.protocol_parts import STRICT, Fraction, Name
from labeling_protocols.strata import ATTRIBUTES
from labeling_protocols.yaml_lines import Document, YamlError, read_yaml
from training.changes import Changes, PlanValue, spoken
from training.report import lower_is_better

SHIPPED = Path(__file__).parent / "change_plans"

_Count = Annotated[int, Field(ge=1)]
_NotNegative = Annotated[float, Field(ge=0)]
_Words = Annotated[str, Field(min_length=1)]
_Scalar = str | int | float | bool
_Allowed = _Scalar | tuple[_Scalar | tuple[_Scalar, ...], ...]


class ChangePlanError(ValueError):
    """A change control plan that says something impossible: file, line, what was found, what was expected."""


class JudgedBy(StrEnum):
    """What of a figure has to reach its bound."""

    POINT = "point"  # the figure itself
    INTERVAL = "interval"  # the worse end of its 95 % interval, so that chance alone does not pass


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataChange:
    """More, or other, training cases under the same protocol."""

    description: _Words
    cases_removed_max: Annotated[int, Field(ge=0)] = 0
    """How many of the champion's training cases may be gone, such as those whose reads were withdrawn."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PlanChange:
    """What one value of the training plan may become; give `allowed`, or `min` or `max` or both, or `any`."""

    description: _Words
    allowed: Annotated[tuple[_Allowed, ...], Field(min_length=1)] | None = None
    min: float | None = None
    """Least value; of each number where the plan's value is a list, such as a spacing."""
    max: float | None = None
    """Greatest value, in the same way."""
    any: bool = False
    """Whatever it becomes: for values that are measured on the training images."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> "PlanChange":
        ways = (self.allowed is not None, self.min is not None or self.max is not None, self.any)
        if sum(ways) != 1:
            raise ValueError("expected one of allowed, min and max, or any")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"expected min up to max, found {self.min:g} and {self.max:g}")
        return self

    def allows(self, value: PlanValue) -> bool:
        if self.any:
            return True
        if self.allowed is not None:
            return value in self.allowed
        return all(_within(number, self.min, self.max) for number in _numbers(value))

    @property
    def range(self) -> str:
        """What is allowed, in words."""
        if self.allowed is not None:
            return " or ".join(spoken(value) for value in self.allowed)
        least, most = self.min, self.max
        if least is not None and most is not None:
            return f"{least:g} to {most:g}"
        return f"at least {least:g}" if least is not None else f"at most {most:g}"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Modifications:
    """Description of Modifications: whatever is not named here may not change under this plan."""

    description: _Words
    data: DataChange | None = None
    """The training cases; they may not change where it is left out."""
    plan: Mapping[str, PlanChange] | None = None
    """Values of the training plan by name, `network` among them."""
    protocol_version: bool = False
    """Whether the labelling protocol may have a new version."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SubgroupRule:
    """How each subgroup of the test set is compared with the champion's figures on the same subgroup."""

    cases_min: _Count
    """Smaller subgroups are named in the gate report and decide nothing."""
    drop_max: Annotated[Mapping[str, _NotNegative], Field(min_length=1)]
    """How much worse than the champion's a figure may be, by the figure's name."""
    attributes: Annotated[tuple[Literal[ATTRIBUTES], ...], Field(min_length=1)] = ATTRIBUTES  # type: ignore[valid-type]  # the names themselves
    """What the test set is divided by."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Verification:
    """Performance evaluation: what a modified model must show on the held-out cases before it may be released."""

    cases_min: _Count
    """Held-out cases that there must be."""
    patients_min: _Count
    judged_by: JudgedBy = JudgedBy.POINT
    """Whether a figure counts, or the worse end of its 95 % interval; subgroups always go by their figures."""
    figures_min: Mapping[str, float] | None = None
    """Least values by the figure's name, such as dice_mean or sensitivity_at_1_fp."""
    figures_max: Mapping[str, float] | None = None
    """Greatest values of figures of which less is better, such as hd95_mm/anterior."""
    drop_max: Mapping[str, _NotNegative] | None = None
    """How much worse than the champion's a figure may be on the same cases, by the figure's name."""
    subgroups: SubgroupRule | None = None
    missed_more_max: Annotated[int, Field(ge=0)] = 0
    """How many more than the champion it may miss."""
    calibration_error_max: Fraction | None = None

    @model_validator(mode="after")
    def _bounds_fit(self) -> "Verification":
        if not self.figures_min and not self.figures_max:
            raise ValueError("figures_min: expected a bound here or in figures_max, found none")
        for name in self.figures_min or ():
            if lower_is_better(name):
                raise ValueError(f"figures_min: found {name}, of which less is better; expected it in figures_max")
        for name in self.figures_max or ():
            if not lower_is_better(name):
                raise ValueError(f"figures_max: found {name}, of which more is better; expected it in figures_min")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Procedures:
    """The rest of the Modification Protocol, in words."""

    data_management: _Words
    """Where training and test cases come from, how truth is made, and how both are kept apart."""
    retraining: _Words
    """What leads to a new training, and how it is done."""
    update: _Words
    """How a new version is released, who is told, and how it is undone."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Risk:
    """What may go wrong through a modification, and what keeps it small."""

    risk: _Words
    mitigation: _Words


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Impact:
    """Impact Assessment."""

    benefits: Annotated[tuple[_Words, ...], Field(min_length=1)]
    risks: Annotated[tuple[Risk, ...], Field(min_length=1)]
    cumulative: _Words
    """What several modifications, one after the other, come to, and how that is watched."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ChangePlan:
    """One version of the plan for one model."""

    protocol: Name
    task: Literal["segmentation", "interactive", "detection", "classification"] = "segmentation"
    version: _Count
    title: _Words
    modifications: Modifications
    procedures: Procedures
    verification: Verification
    impact: Impact

    def as_json(self) -> str:
        """Canonical JSON: equal plans give equal text."""
        content = _ADAPTER.dump_python(self, mode="json", exclude_defaults=True)
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.as_json().encode()).hexdigest()


_ADAPTER: TypeAdapter[ChangePlan] = TypeAdapter(ChangePlan)


def load_change_plan(path: Path) -> ChangePlan:
    """Read a plan's file; raises `ChangePlanError` naming file, line, what was found and what was expected."""
    try:
        document = read_yaml(path, expected="a change control plan (protocol, version, modifications, …)")
    except YamlError as error:
        raise ChangePlanError(str(error)) from error
    try:
        return _ADAPTER.validate_json(document.content_json)
    except ValidationError as error:
        raise ChangePlanError("\n".join(_explain(document, detail) for detail in error.errors())) from error


def find_change_plan(folder: Path, protocol: str, task: str = "segmentation") -> ChangePlan | None:
    """The plan of this model among a site's files, None where it has none; raises `ChangePlanError`."""
    path = folder / plan_file(protocol, task)
    if not path.is_file():
        return None
    plan = load_change_plan(path)
    if (plan.protocol, plan.task) != (protocol, task):
        raise ChangePlanError(
            f"{path}: expected the plan for {task} under protocol {protocol}, found one for {plan.task} under"
            f" {plan.protocol}. Nothing was decided by it."
        )
    return plan


def plan_file(protocol: str, task: str = "segmentation") -> str:
    """The file's name in a site's folder `change_control`."""
    return f"{protocol}.yaml" if task == "segmentation" else f"{protocol}-{task}.yaml"


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a plan's file, for editors; rules across several entries stay the loader's."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_ADAPTER.json_schema()}


def outside(modifications: Modifications, changed: Changes) -> Iterator[str]:
    """What changed from the champion to the candidate and is not in the plan, each in words."""
    if changed.protocol_version is not None and not modifications.protocol_version:
        yield "protocol version {} → {} is not among the plan's modifications".format(*changed.protocol_version)
    data = modifications.data
    if data is None and (changed.cases_added or changed.cases_removed):
        yield (
            f"the training cases ({changed.cases_added} more, {changed.cases_removed} fewer) are not among the plan's"
            " modifications"
        )
    elif data is not None and changed.cases_removed > data.cases_removed_max:
        yield f"{changed.cases_removed} training case(s) fewer, the plan allows {data.cases_removed_max}"
    rules = modifications.plan or {}
    for name, (before, after) in changed.plan.items():
        moved = f"{name} {spoken(before)} → {spoken(after)}"
        if name not in rules:
            yield f"{moved} is not among the plan's modifications"
        elif not rules[name].allows(after):
            yield f"{moved} is outside the plan's {rules[name].range}"


def _within(number: PlanValue, least: float | None, most: float | None) -> bool:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    return (least is None or number >= least) and (most is None or number <= most)


def _numbers(value: PlanValue) -> Iterator[PlanValue]:
    if isinstance(value, tuple):
        for one in value:
            yield from _numbers(one)
    else:
        yield value


def _explain(document: Document, detail: Any) -> str:
    """One problem with the line it stands on; a rule over several entries names its own first."""
    location, message = [str(part) for part in detail["loc"]], str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "value_error" and ": " in message:
        section, message = message.split(": ", 1)
        location.append(section)
    line, steps = document.at(location)
    shown = "" if isinstance(detail["input"], dict | list) or "found" in message else f", found {detail['input']!r}"
    where = f"{'.'.join(steps)}: " if steps else ""
    return f"{document.path}, line {line}: {where}{message}{shown}"
