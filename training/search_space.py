"""Where tuning looks: what may change in a plan, and between which bounds, in; a plan's overrides for one trial out.

`SPACE` is the space where nobody asks for another; a YAML file or the command line says in the same words what else.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import yaml

from training.plan import ModelTask, Plan, PlanError, override

SPACE = """\
learning_rate: {low: 1.0e-4, high: 3.0e-2, log: true}
weight_decay: {low: 1.0e-6, high: 1.0e-1, log: true}
batch: {low: 1, high: 4}
patch_scale: [0.75, 1.0]  # times the edges of the plan's patch
"""
VOXELWISE = """\
network: [UNet, DynUNet, SegResNet]
width: [0.5, 1.0, 1.5]  # times the channels of the plan's network
"""  # beside `SPACE`, where every voxel gets an answer and there is a choice of networks

_Scalar = bool | int | float | str


class SpaceError(ValueError):
    """A search space that cannot be: what was found, what was expected."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones where both are, evenly in the logarithm where `log`."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            least = " above 0" if self.log else ""
            raise SpaceError(f"found a range from {self.low} to {self.high}; expected low < high{least}")

    def suggest(self, trial: optuna.Trial, name: str) -> _Scalar:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


@dataclass(frozen=True, kw_only=True)
class Options:
    """One of these; lists, such as a patch's edges, are options too."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise SpaceError("found an empty list of options; expected one at least")

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Optuna keeps scalars only, so what is none goes by its JSON."""
        spoken = [value if isinstance(value, _Scalar) else json.dumps(value) for value in self.values]
        chosen = trial.suggest_categorical(name, spoken)
        return next(value for value, word in zip(self.values, spoken, strict=True) if word == chosen)


@dataclass(frozen=True, kw_only=True)
class Space:
    """What may change, by the name of a plan's value or of what is derived from it (`width`, `patch_scale`)."""

    choices: Mapping[str, Range | Options]

    def overrides(self, trial: optuna.Trial, plan: Plan) -> dict[str, Any]:
        """What this trial changes in the plan."""
        found: dict[str, Any] = {}
        for name, choice in self.choices.items():
            value = choice.suggest(trial, name)
            found |= _DERIVED[name](plan, value) if name in _DERIVED else {name: value}
        return found

    def as_json(self) -> str:
        """Equal spaces give equal text."""
        return json.dumps({name: dataclasses.asdict(choice) for name, choice in self.choices.items()}, sort_keys=True)


def read_space(plan: Plan, file: str = "", changes: Sequence[str] = ()) -> Space:
    """The space of a YAML file, or the one for the plan's task where it is empty; `changes` are further lines of YAML.

    A name with `null` is left as the plan has it. Raises `SpaceError` for what makes no plan.
    """
    stored = _mapping(file or _default(plan))
    for change in changes:
        stored |= _mapping(change)
    space = Space(choices={name: _choice(name, value) for name, value in stored.items() if value is not None})
    if not space.choices:
        raise SpaceError("the search space names nothing to change; expected lines such as `batch: {low: 2, high: 8}`")
    for name, choice in space.choices.items():
        _check(name, choice, plan)
    return space


def _default(plan: Plan) -> str:
    return SPACE + (VOXELWISE if plan.task in (ModelTask.SEGMENTATION, ModelTask.INTERACTIVE) else "")


def _mapping(text: str) -> dict[str, Any]:
    try:
        stored = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpaceError(f"the search space is no YAML: {error}") from error
    if not isinstance(stored, dict):
        raise SpaceError(f"found {stored!r} as a search space; expected lines such as `batch: {{low: 2, high: 8}}`")
    return {str(name): value for name, value in stored.items()}


def _choice(name: str, value: Any) -> Range | Options:
    try:
        if isinstance(value, list):
            return Options(values=tuple(tuple(one) if isinstance(one, list) else one for one in value))
        if isinstance(value, dict):
            bounds = {key: _number(one) for key, one in value.items() if key != "log"}
            return Range(**bounds, log=bool(value.get("log", False)))
    except (TypeError, SpaceError) as error:
        raise SpaceError(f"{name}: {error}") from error
    raise SpaceError(f"{name}: found {value!r}; expected a list of options or {{low, high, log}}")


def _number(value: Any) -> float:
    """YAML 1.1 reads 1e-4 as words."""
    try:
        return value if isinstance(value, int | float) and not isinstance(value, bool) else float(value)
    except (TypeError, ValueError) as error:
        raise SpaceError(f"found {value!r}; expected a number") from error


def _check(name: str, choice: Range | Options, plan: Plan) -> None:
    """Every option and both bounds have to make a plan."""
    values = choice.values if isinstance(choice, Options) else (choice.low, choice.high)
    for value in values:
        try:
            override(plan, _DERIVED[name](plan, value) if name in _DERIVED else {name: value})
        except PlanError as error:
            raise SpaceError(
                f"the search space's {name} = {value!r} makes no plan: {error}"
                f" A space may also name {', '.join(_DERIVED)}."
            ) from error


def _network(plan: Plan, name: str) -> dict[str, Any]:
    """Deep supervision goes with the one network that has it."""
    return {"network": name, "deep_supervision": plan.deep_supervision and name == "DynUNet"}


def _width(plan: Plan, times: float) -> dict[str, Any]:
    """Channels in steps of 8, which every normalisation by groups bears."""
    channels = tuple(max(8, 8 * round(count * times / 8)) for count in plan.channels)
    return {"channels": plan.channels if times == 1 else channels}


def _patch_scale(plan: Plan, times: float) -> dict[str, Any]:
    """Edges that the network's strides divide."""
    factor = np.prod(np.asarray(plan.strides), axis=0)
    edges = np.maximum(np.round(np.asarray(plan.patch_RAS) * times / factor).astype(int), 1) * factor
    return {"patch_RAS": tuple(int(edge) for edge in edges)}


_DERIVED: Mapping[str, Callable[[Plan, Any], dict[str, Any]]] = {
    "network": _network,
    "width": _width,
    "patch_scale": _patch_scale,
}
