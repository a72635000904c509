"""Whether a candidate is better than the champion: both models' scores of the same cases in, paired differences out."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic

import numpy as np
from scipy import stats

from labeling_protocols.strata import Strata
from training.intervals import (
    RESAMPLES,
    SEED,
    Drawn,
    Figure,
    Resampling,
    S,
    Statistic,
    Times,
    draw_patients,
    figures_of,
)
from training.subgroups import Subgroup, subgroups_of

_Values = Callable[[S], Mapping[str, float | None]]


@dataclass(frozen=True, kw_only=True)
class Champion(Generic[S]):
    """The version that is champion now, and its scores of the candidate's cases."""

    name: str
    scored: Sequence[S]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The candidate's figures less the champion's.

    `differences` have intervals over the same draws of patients for both models. `p_values` are two-sided and of
    Wilcoxon's signed-rank test (Wilcoxon 1945, Biometrics Bulletin 1:80) that differences between the two on one
    patient, means over his cases, lie evenly about 0; patients without a difference are left out. They are not
    corrected for how many figures there are; None where no case has the figure from both. `subgroups` hold differences
    within groups of cases.
    """

    champion: str
    differences: tuple[Figure, ...]
    p_values: Mapping[str, float | None] = field(default_factory=dict)
    subgroups: tuple[Subgroup, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pair(Generic[S]):
    """One case as the candidate and as the champion did it."""

    ours: S
    theirs: S

    @property
    def case(self) -> str:
        return self.ours.case

    @property
    def patient(self) -> str:
        return self.ours.patient

    @property
    def strata(self) -> Strata:
        return self.ours.strata


def compare(
    scored: Sequence[S],
    champion: Champion[S],
    statistic: Statistic[S],
    values: _Values[S],
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Comparison:
    """The candidate less the champion; `values` are what each case has by itself.

    Raises `ValueError` where the two were not scored on the same cases.
    """
    pairs = _pairs(scored, champion)
    difference = _ResampledLess(statistic) if isinstance(statistic, Resampling) else _Less(statistic)
    by_patient = _by_patient(pairs, values)
    counts = {name: found.cases for name, found in by_patient.items()}
    times = draw_patients([pair.patient for pair in pairs], resamples, seed)
    return Comparison(
        champion=champion.name,
        differences=figures_of(difference, pairs, times, counts),
        p_values={name: signed_rank_p(found.differences) for name, found in by_patient.items()},
        subgroups=subgroups_of(pairs, difference, resamples, seed),
    )


def signed_rank_p(differences: Sequence[float]) -> float | None:
    """Wilcoxon's two-sided p of paired differences; 1 where all are 0, None where there are none."""
    if not differences:
        return None
    if not any(differences):
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)


class _Less(Generic[S]):
    """A statistic of pairs: what it is for the candidate less what it is for the champion."""

    def __init__(self, statistic: Statistic[S]) -> None:
        self._statistic = statistic

    def __call__(self, pairs: Sequence[Pair[S]]) -> dict[str, float | None]:
        ours = self._statistic([pair.ours for pair in pairs])
        theirs = self._statistic([pair.theirs for pair in pairs])
        return {name: _less(value, theirs.get(name)) for name, value in ours.items()}


class _ResampledLess(_Less[S]):
    """The same, of all draws at once."""

    def __init__(self, statistic: Resampling[S]) -> None:
        super().__init__(statistic)
        self._resampling = statistic

    def resampled(self, pairs: Sequence[Pair[S]], times: Times) -> Drawn:
        ours = self._resampling.resampled([pair.ours for pair in pairs], times)
        theirs = self._resampling.resampled([pair.theirs for pair in pairs], times)
        return {name: drawn - theirs[name] for name, drawn in ours.items() if name in theirs}


@dataclass(frozen=True, kw_only=True)
class _ByPatient:
    """Mean differences, one a patient, over so many cases."""

    cases: int
    differences: tuple[float, ...]


def _pairs(scored: Sequence[S], champion: Champion[S]) -> list[Pair[S]]:
    theirs = {one.case: one for one in champion.scored}
    ours = {one.case for one in scored}
    if ours != set(theirs):
        raise ValueError(
            f"champion {champion.name} was scored on {len(theirs)} case(s), {len(ours & set(theirs))} of them among"
            f" the candidate's {len(ours)}; expected the same cases. Nothing was compared."
        )
    return [Pair(ours=one, theirs=theirs[one.case]) for one in scored]


def _by_patient(pairs: Sequence[Pair[S]], values: _Values[S]) -> dict[str, _ByPatient]:
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for pair in pairs:
        theirs = values(pair.theirs)
        for name, value in values(pair.ours).items():
            difference = _less(value, theirs.get(name))
            of_patient = found[name][pair.patient]
            if difference is not None:
                of_patient.append(difference)
    return {
        name: _ByPatient(
            cases=sum(len(known) for known in patients.values()),
            differences=tuple(float(np.mean(known)) for known in patients.values() if known),
        )
        for name, patients in found.items()
    }


def _less(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours - theirs
