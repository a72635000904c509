"""Whether a model is as good for everybody: scored cases in, figures by scanner, slices, sex, age and site out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from labeling_protocols.strata import ATTRIBUTES
from training.intervals import (
    RESAMPLES,
    SEED,
    Interval,
    Resampling,
    S,
    Statistic,
    draw_patients,
    interval_of,
    resample,
)

SMALL = 20  # cases; of fewer, whose Dice spreads by 0.1 from one to the next, the mean is not known to ± 0.04
UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Subgroup:
    """The cases that share one value of an attribute; `small` where they are fewer than `SMALL`, which say little.

    `intervals` are of those figures that have one; none has where the statistic cannot be had of all draws at once.
    """

    attribute: str
    value: str
    n: int
    patients: int
    small: bool
    figures: Mapping[str, float | None]
    intervals: Mapping[str, Interval] = field(default_factory=dict)


def subgroups_of(
    scored: Sequence[S], statistic: Statistic[S], resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[Subgroup, ...]:
    """Every group of every attribute that is known of some case; the cases it is not known of are a group too."""
    return tuple(
        _subgroup(attribute, value, members, statistic, resamples, seed)
        for (attribute, value), members in _groups(scored).items()
    )


def _groups(scored: Sequence[S]) -> dict[tuple[str, str], list[S]]:
    """By attribute in the order of `ATTRIBUTES`, then by value."""
    found: dict[tuple[str, str], list[S]] = {}
    for attribute in ATTRIBUTES:
        groups = [one.strata.group(attribute) for one in scored]
        if all(group is None for group in groups):
            continue
        for value in sorted({group or UNKNOWN for group in groups}, key=_place):
            members = [one for one, group in zip(scored, groups, strict=True) if (group or UNKNOWN) == value]
            found[attribute, value] = members
    return found


def _subgroup(
    attribute: str, value: str, members: Sequence[S], statistic: Statistic[S], resamples: int, seed: int
) -> Subgroup:
    """Patients are drawn of the group alone, as many as it has."""
    patients = [one.patient for one in members]
    several = len({*patients}) > 1 and isinstance(statistic, Resampling)
    drawn = resample(statistic, members, draw_patients(patients, resamples, seed)) if several else {}
    return Subgroup(
        attribute=attribute,
        value=value,
        n=len(members),
        patients=len({*patients}),
        small=len(members) < SMALL,
        figures={name: None if number is None else float(number) for name, number in statistic(members).items()},
        intervals={name: found for name, of_name in drawn.items() if (found := interval_of(of_name)) is not None},
    )


def _place(value: str) -> tuple[bool, int, str]:
    """Thickness in the order of millimetres, everything else in that of the alphabet, what is unknown last."""
    return value == UNKNOWN, {"<": 0, ">": 2}.get(value[0], 1), value
