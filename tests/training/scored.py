"""Scored cases that are nothing but what a statistic needs: a case, its patient, its strata and values by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from labeling_protocols.strata import Strata
from training.case_figures import PerCase


@dataclass(frozen=True, kw_only=True)
class Scored:
    case: str
    patient: str
    strata: Strata = field(default_factory=Strata)
    values: Mapping[str, float | None] = field(default_factory=dict)


def values_of(one: Scored) -> Mapping[str, float | None]:
    return one.values


def one_each(*dice: float | None, strata: Strata = Strata()) -> list[Scored]:
    """A patient a case, and only a Dice of each."""
    return [
        Scored(case=f"c{n:03d}", patient=f"p{n:03d}", strata=strata, values={"dice": value})
        for n, value in enumerate(dice)
    ]


MEANS: PerCase[Scored] = PerCase(values_of)
