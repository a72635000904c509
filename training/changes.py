"""What differs between two trainings of one model: what each was made of in, the differences out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from training.snapshot import Snapshot

# A value of a plan as JSON has it, its lists as tuples.
PlanValue = str | int | float | bool | None | tuple[Any, ...]

# What a plan takes from the training images themselves, and how long it shows them; it moves with every new case.
MEASURED = (
    *("spacing_mm_RAS", "intensity_mean", "intensity_std", "intensity_low", "intensity_high", "further_intensities"),
    "epochs",
)


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a model was made of: the protocol's version, the plan's values by name, the cases it was trained on."""

    protocol_version: int
    plan: Mapping[str, PlanValue]
    snapshot: str
    training: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """From an earlier model to a later one: (before, after) of what differs; a plan that lacks a value has None."""

    protocol_version: tuple[int, int] | None = None
    plan: Mapping[str, tuple[PlanValue, PlanValue]] = field(default_factory=dict)
    cases_added: int = 0
    cases_removed: int = 0

    @property
    def method(self) -> tuple[str, ...]:
        """Values of the plan that differ and do not merely follow from the training images (`MEASURED`)."""
        return tuple(name for name in self.plan if name not in MEASURED)

    def __str__(self) -> str:
        """In words, such as '5 training cases more; network UNet → DynUNet'."""
        said = []
        if self.protocol_version is not None:
            said.append("protocol version {} → {}".format(*self.protocol_version))
        if self.cases_added:
            said.append(f"{self.cases_added} training case(s) more")
        if self.cases_removed:
            said.append(f"{self.cases_removed} training case(s) fewer")
        said += [f"{name} {spoken(before)} → {spoken(after)}" for name, (before, after) in self.plan.items()]
        return "; ".join(said) or "nothing differs"


def made_of(plan_json: str, snapshot: Snapshot) -> Made:
    """What a training of this plan (`Plan.as_json`) on this snapshot makes a model of."""
    training = frozenset(case.case for case in snapshot.training)
    return Made(
        protocol_version=snapshot.protocol_version,
        plan=plan_values(plan_json),
        snapshot=snapshot.digest,
        training=training,
    )


def plan_values(plan_json: str) -> dict[str, PlanValue]:
    return {name: _tuples(value) for name, value in json.loads(plan_json).items()}


def changes(before: Made, after: Made) -> Changes:
    versions = (before.protocol_version, after.protocol_version)
    return Changes(
        protocol_version=versions if versions[0] != versions[1] else None,
        plan=plan_changes(before.plan, after.plan),
        cases_added=len(after.training - before.training),
        cases_removed=len(before.training - after.training),
    )


def plan_changes(
    before: Mapping[str, PlanValue], after: Mapping[str, PlanValue]
) -> dict[str, tuple[PlanValue, PlanValue]]:
    """(before, after) of each value that differs; None where one of the plans does not have it."""
    values = {name: (before.get(name), after.get(name)) for name in dict.fromkeys((*before, *after))}
    return {name: (old, new) for name, (old, new) in values.items() if old != new}


def spoken(value: PlanValue) -> str:
    """A plan's value as a person writes it."""
    if isinstance(value, tuple):
        return "×".join(map(spoken, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _tuples(value: Any) -> PlanValue:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
