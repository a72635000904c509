"""Which case a reader should have next: what is known of the cases in, the cases in their order, and why, out.

Pure functions of numbers. `summarise` makes the few numbers of a case that strategies look at, `rank` puts cases in a
strategy's order. What is drawn at random comes from the seed and the cases' ids alone, so that an order does not depend
on the order of what was given; ties are broken by the case's id.

    summaries = [summarise(evidence, ["anterior", "posterior"]) for evidence in found]
    batch = rank("clasp_pe", summaries, seed=1, budget_s=4 * 3600, read=summaries_of_cases_read_already)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from training import acquisition_orders as orders
from training.acquisition_cases import AcquisitionError, Asked, CaseEvidence, CaseSummary, Scored
from training.acquisition_uncertainty import Views

__all__ = ["STRATEGIES", "AcquisitionError", "CaseEvidence", "CaseSummary", "Scored", "Strategy", "rank", "summarise"]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """One way to order cases. `reason` says it to a reader who may not be told what the model saw.

    `needs_samples` and `needs_features` say what of each case's evidence there must be; one that needs neither takes
    any case. `order` gives all cases, the first to read first.
    """

    name: str
    title: str
    reason: str
    order: Callable[[Asked], list[Scored]]
    needs_samples: bool = False
    needs_features: bool = False

    @property
    def needs_model(self) -> bool:
        """Whether it can order nothing before there is a champion; features may be an image's own statistics."""
        return self.needs_samples


def summarise(evidence: CaseEvidence, structures: Sequence[str]) -> CaseSummary:
    """The numbers of a case that strategies look at; `structures` name the samples' channels after the background.

    Raises `AcquisitionError` where samples are no probabilities of so many structures.
    """
    views = Views(structures)
    for sample in evidence.samples if evidence.samples is not None else ():
        views.add(sample)
    features = () if evidence.features is None else tuple(float(value) for value in evidence.features)
    return views.summary(
        evidence.case, features=features, seconds=evidence.seconds, reader_disagreement=evidence.reader_disagreement
    )


def rank(
    strategy: str,
    evidence: Sequence[CaseSummary],
    *,
    seed: int,
    budget_s: float | None = None,
    read: Sequence[CaseSummary] = (),
    progress: float = 0.0,
    titles: Mapping[str, str] = MappingProxyType({}),
) -> list[Scored]:
    """The cases in a strategy's order, first to read first, scores descending.

    With `budget_s`, the batch of them whose expected seconds come to no more than that: in order, leaving out what does
    not fit any more; the hybrid instead picks by what a second is worth. A case whose seconds are not known takes the
    median of those that are, or a second each where none is. `read` are cases that were read before, which diversity
    keeps away from; `progress` (0 to 1) is how far annotation is, which `clasp_pe` quietens its noise by; `titles` are
    what structures are called in the sentences. Raises `AcquisitionError` for an unknown strategy, a case given twice,
    and evidence that the strategy needs and a case has not.
    """
    chosen = STRATEGIES.get(strategy)
    if chosen is None:
        raise AcquisitionError(f"unknown strategy; expected one of {', '.join(STRATEGIES)}. Nothing was ordered.")
    _require(chosen, evidence)
    asked = Asked(
        cases=tuple(sorted(evidence, key=lambda summary: summary.case)),
        seed=seed,
        budget_s=budget_s,
        read=tuple(sorted(read, key=lambda summary: summary.case)),
        progress=min(1.0, max(0.0, progress)),
        titles=titles,
    )
    ordered = chosen.order(asked) if evidence else []
    return ordered if budget_s is None else orders.within_budget(asked, ordered, budget_s)


def _require(strategy: Strategy, evidence: Sequence[CaseSummary]) -> None:
    if len({summary.case for summary in evidence}) < len(evidence):
        raise AcquisitionError("a case was given twice; expected each once. Nothing was ordered.")
    for needed, what, has in (
        (strategy.needs_samples, "a model's probabilities", lambda summary: bool(summary.structures)),
        (strategy.needs_features, "features", lambda summary: bool(summary.features)),
    ):
        lacking = sum(not has(summary) for summary in evidence) if needed else 0
        if lacking:
            raise AcquisitionError(
                f"{strategy.name} needs {what} of every case, found none of {lacking} of {len(evidence)}."
                " Nothing was ordered."
            )


STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {
        strategy.name: strategy
        for strategy in (
            Strategy(
                name="foreground_random",
                title="At random, two of three cases for a structure that the model sees in them",
                reason="Drawn at random.",
                order=orders.foreground_random,
                needs_samples=True,
            ),
            Strategy(name="random", title="At random", reason="Drawn at random.", order=orders.random),
            Strategy(
                name="sequential", title="In the order of case ids", reason="Next in order.", order=orders.sequential
            ),
            Strategy(
                name="predictive_entropy",
                title="Where the model is least sure",
                reason="The model has most to learn from cases like this.",
                order=orders.predictive_entropy,
                needs_samples=True,
            ),
            Strategy(
                name="bald",
                title="Where views of the same case make the model answer differently (BALD)",
                reason="The model has most to learn from cases like this.",
                order=orders.bald,
                needs_samples=True,
            ),
            Strategy(
                name="ensemble_disagreement",
                title="Where outlines of several views or networks differ most",
                reason="The model has most to learn from cases like this.",
                order=orders.ensemble_disagreement,
                needs_samples=True,
            ),
            Strategy(
                name="clasp_pe",
                title="Where the model is least sure of each structure in turn, with some chance (ClaSP PE)",
                reason="The model has much to learn from cases like this.",
                order=orders.clasp_pe,
                needs_samples=True,
            ),
            Strategy(
                name="k_centre",
                title="Unlike all that was read so far (k-centre)",
                reason="Unlike the cases before it.",
                order=orders.k_centre,
                needs_features=True,
            ),
            Strategy(
                name="typicality",
                title="Typical of one kind of case after the other (TypiClust)",
                reason="Typical of its kind of case.",
                order=orders.typicality,
                needs_features=True,
            ),
            Strategy(
                name="reader_disagreement",
                title="Of a kind that is known to be difficult",
                reason="Cases of this kind are known to be difficult.",
                order=orders.reader_disagreement,
            ),
            Strategy(
                name="hybrid",
                title="Unsure, unlike what was read, and soon done: the most for a reader's time",
                reason="Worth the time it takes.",
                order=orders.hybrid,
                needs_samples=True,
                needs_features=True,
            ),
        )
    }
)
