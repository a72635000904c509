"""What readers reach among each other, to hold a model's figures against: cases and the store in, figures out.

A reader against the truth would not do: the truth was made of his own read. So each two readers of a case are compared
with each other, and their mean is the case's, whether its reads agreed or went to an adjudicator. A model above that is
as near to the truth as readers are to one another; not that it reads better than they do, as a consensus of several
lies nearer to each of them than they do to each other. No reader is named, nor can one be told from another.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol as Shape

from labeling_protocols.agreement import outline_agreements
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.store import Store
from labeling_protocols.strata import Strata
from training.case_figures import PerCase, Summary
from training.evaluation import surface_tolerances_mm
from training.intervals import RESAMPLES, SEED, Figure, KnownCase, draw_patients, figures_of

READERS_MIN = 2


class ReadCase(KnownCase, Shape):
    """A case whose truth these reads settled, as a snapshot has it."""

    @property
    def reads(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, kw_only=True)
class ReadersAgreement:
    """How far the readers of one case agree: means over all pairs of them, by the figures' names."""

    case: str
    patient: str
    strata: Strata
    readers: int
    values: dict[str, float | None]


def human_ceiling(
    store: Store, protocol: Protocol, cases: Iterable[ReadCase], *, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[Figure, ...]:
    """Figures under the names that the model's have, over the cases of two readers or more; empty where there are none.

    Mean Dice and surface Dice, median HD95; a structure that one reader left out scores 0, and that pair has no HD95.
    """
    return ceiling_of(readers_agreements(store, protocol, cases), resamples=resamples, seed=seed)


def readers_agreements(store: Store, protocol: Protocol, cases: Iterable[ReadCase]) -> list[ReadersAgreement]:
    """The cases that two readers or more read; the labels of one case at a time are held in memory."""
    found = []
    for one in cases:
        labels = [store.label(read.label) for read in store.reads(one.case) if read.id in one.reads]
        if len(labels) >= READERS_MIN:
            found.append(
                ReadersAgreement(
                    case=one.case,
                    patient=one.patient,
                    strata=one.strata,
                    readers=len(labels),
                    values=pairwise(protocol, labels),
                )
            )
    return found


def ceiling_of(
    agreements: Sequence[ReadersAgreement], *, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[Figure, ...]:
    """The figures of these cases, with intervals over patients."""
    if not agreements:
        return ()
    cases = sorted(agreements, key=lambda one: one.case)
    counts = {name: sum(one.values[name] is not None for one in cases) for name in cases[0].values}
    times = draw_patients([one.patient for one in cases], resamples, seed)
    return figures_of(PerCase(_values, _summary), cases, times, counts)


def pairwise(protocol: Protocol, labels: Sequence[Label]) -> dict[str, float | None]:
    """Means over every pair of these readers' labels, by figure."""
    tolerance_mm = surface_tolerances_mm(protocol)
    measured = outline_agreements(
        [label.layers_LZYX for label in labels],
        list(protocol.values.values()),
        labels[0].geometry.spacing_mm_ZYX,
        {value: tolerance_mm[name] for name, value in protocol.values.items()},
    )
    pairs = {name: list(measured[value].values()) for name, value in protocol.values.items()}
    dice = {name: statistics.fmean(pair.dice for pair in of_name) for name, of_name in pairs.items()}
    surface_dice = {name: _mean(pair.surface_dice for pair in of_name) for name, of_name in pairs.items()}
    return {
        "dice_mean": statistics.fmean(dice.values()),
        **{f"dice/{name}": value for name, value in dice.items()},
        "surface_dice_mean": _mean(surface_dice.values()),
        **{f"surface_dice/{name}": value for name, value in surface_dice.items()},
        **{f"hd95_mm/{name}": _mean(pair.hd95_mm for pair in of_name) for name, of_name in pairs.items()},
    }


def _values(one: ReadersAgreement) -> dict[str, float | None]:
    return one.values


def _summary(name: str) -> Summary:
    return Summary.MEDIAN if name.startswith("hd95_mm") else Summary.MEAN


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
