"""A protocol's cases put in order: what the store knows of them in, strategies' orders kept and one of them followed.

No model is asked here: what the champion said of each case was kept before (`acquisition_job.py`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import sqlalchemy as sa

from apps.settings import Site
from labeling_protocols import schema
from labeling_protocols.case_scores import CaseScore, forget_summaries, keep_order, open_cases, summaries
from labeling_protocols.protocol import Protocol
from labeling_protocols.reading_rows import times
from labeling_protocols.records import Outcome
from labeling_protocols.store import Store
from labeling_protocols.worklist import order
from training.acquisition import STRATEGIES, CaseSummary, Scored, Strategy, rank
from training.acquisition_likeness import expected_disagreement, expected_seconds

READ_CASES = 100  # the newest judged ones, which say what cases like them are like
NO_MODEL = ""
_FALLBACK = "random"
_WITHOUT_EVIDENCE = ("random", "sequential")


@dataclass(frozen=True, kw_only=True)
class Cases:
    """The cases a scoring is about: those that wait for readers, calibration cases, and some that were judged.

    Calibration cases are looked at so that what their reader is told reads as of any other case; they are ordered among
    themselves only. `patients` and `disputed` (1 for a case that came into dispute, else 0) go by case.
    """

    waiting: tuple[str, ...]
    calibration: tuple[str, ...]
    judged: tuple[str, ...]
    patients: Mapping[str, str]
    disputed: Mapping[str, float]

    @property
    def to_look_at(self) -> tuple[str, ...]:
        return (*self.waiting, *self.calibration, *self.judged)


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """What came of an ordering: the strategy the worklist follows, how many cases it put in order, how many of them are
    the batch that fits the budget, and the strategies whose orders are kept."""

    strategy: str
    cases: int
    batch: int
    strategies: tuple[str, ...]


def strategy_of(protocol: Protocol, site: Site) -> str:
    """The strategy that orders a protocol's cases: its own, or the site's."""
    chosen = protocol.acquisition.strategy if protocol.acquisition else site.config.acquisition.strategy
    return chosen.value


def seed_of(protocol: str) -> int:
    """The same for a protocol always: a new order by chance would send readers elsewhere for nothing."""
    return int.from_bytes(hashlib.sha256(protocol.encode()).digest()[:4], "big")


def find_cases(store: Store, protocol: str) -> Cases:
    table, verdicts = schema.cases, schema.verdicts
    judged = (Outcome.AGREED, Outcome.DISPUTED, Outcome.SETTLED)
    newest = sa.select(sa.func.max(verdicts.c.created)).where(verdicts.c.case == table.c.id).scalar_subquery()
    of_protocol = table.c.protocol == protocol
    known = sa.select(table.c.id).where(of_protocol, table.c.known_truth.isnot(None)).order_by(table.c.id)
    read = sa.select(table.c.id).where(of_protocol, table.c.outcome.in_(judged)).order_by(newest.desc(), table.c.id)
    every = sa.select(table.c.id, table.c.patient, table.c.outcome).where(of_protocol)
    with store.engine.connect() as connection:
        rows = connection.execute(every).all()
        return Cases(
            waiting=tuple(open_cases(store, protocol)),
            calibration=tuple(connection.execute(known).scalars()),
            judged=tuple(connection.execute(read.limit(READ_CASES)).scalars()),
            patients={row.id: row.patient for row in rows},
            disputed={row.id: float(row.outcome != Outcome.AGREED) for row in rows if row.outcome in judged},
        )


def order_cases(
    store: Store, protocol_name: str, model: str, asked: str, *, actor: str, budget_s: float | None = None
) -> Ordered:
    """Keep every strategy's order that the evidence allows, and have the worklist follow the one that was asked.

    Where that one needs a model and there is none, the worklist is shuffled. Under a budget the batch that fits into it
    comes first, the other cases after it.
    """
    cases = find_cases(store, protocol_name)
    material = _material(store, store.protocol(protocol_name), cases, model)
    found = {name: ranked for name, one in STRATEGIES.items() if (ranked := material.ranked(one)) or not material.given}
    chosen = STRATEGIES[asked if asked in found else _FALLBACK]
    batch: list[Scored] = []
    if budget_s is not None:
        batch = material.ranked(chosen, among=cases.waiting, budget_s=budget_s)
        first = {scored.case for scored in batch}
        found[chosen.name] = [*batch, *(scored for scored in found[chosen.name] if scored.case not in first)]
    for name, ranked in found.items():
        scores = (CaseScore(case=one.case, score=one.score, why=one.why) for one in ranked)
        keep_order(store, protocol_name, name, _model_of(STRATEGIES[name], model), scores)
    waiting = {*cases.waiting}
    order_found = [scored.case for scored in found[chosen.name] if scored.case in waiting]
    places = [*order_found, *sorted(waiting - {*order_found})]  # what could not be looked at comes last
    scores_of_places = {case: float(len(places) - place) for place, case in enumerate(places)}
    of_model = _model_of(chosen, model)
    order(store, protocol_name, scores_of_places, actor=actor, strategy=chosen.name, model=of_model)
    forget_summaries(store, protocol_name, model)
    return Ordered(strategy=chosen.name, cases=len(places), batch=len(batch), strategies=tuple(found))


def order_at_once(store: Store, protocol_name: str, strategy: str) -> bool:
    """Keep the order of a strategy that looks at no evidence; whether it is one."""
    chosen = STRATEGIES[strategy]
    if chosen.name not in _WITHOUT_EVIDENCE:
        return False
    cases = find_cases(store, protocol_name)
    given = [CaseSummary(case=case) for case in (*cases.waiting, *cases.calibration)]
    ranked = rank(strategy, given, seed=seed_of(protocol_name))
    scores = [CaseScore(case=one.case, score=one.score, why=one.why) for one in ranked]
    keep_order(store, protocol_name, strategy, NO_MODEL, scores)
    return True


@dataclass(frozen=True, kw_only=True)
class _Material:
    """All that strategies are given: the cases to order, those that were read, and how far annotation is."""

    seed: int
    given: tuple[CaseSummary, ...]
    read: tuple[CaseSummary, ...]
    progress: float
    titles: Mapping[str, str]

    def ranked(
        self, strategy: Strategy, *, among: Sequence[str] | None = None, budget_s: float | None = None
    ) -> list[Scored]:
        """The order of the cases that the strategy has its evidence of."""
        wanted = None if among is None else {*among}
        able = [
            one
            for one in self.given
            if (one.structures or not strategy.needs_samples)
            and (one.features or not strategy.needs_features)
            and (wanted is None or one.case in wanted)
        ]
        how = {"read": self.read, "progress": self.progress, "titles": self.titles}
        return rank(strategy.name, able, seed=self.seed, budget_s=budget_s, **how)  # type: ignore[arg-type]


def _material(store: Store, protocol: Protocol, cases: Cases, model: str) -> _Material:
    known = {case: CaseSummary.from_json(said) for case, said in summaries(store, cases.to_look_at, model)}
    given = [known.get(case, CaseSummary(case=case)) for case in (*cases.waiting, *cases.calibration)]
    read = tuple(known[case] for case in cases.judged if case in known)
    seconds = expected_seconds(given, read, _measured_s(store, protocol.name))
    disagreement = expected_disagreement(given, read, cases.disputed, cases.patients)
    done = len(cases.patients) - len(cases.calibration)
    return _Material(
        seed=seed_of(protocol.name),
        given=tuple(
            replace(one, seconds=seconds.get(one.case), reader_disagreement=disagreement.get(one.case)) for one in given
        ),
        read=read,
        progress=1.0 - len(cases.waiting) / done if done else 0.0,
        titles={structure.name: structure.title for structure in protocol.structures},
    )


def _measured_s(store: Store, protocol_name: str) -> dict[str, float]:
    """Seconds a read of each case that was read, the middle of its readers'."""
    by_case: dict[str, list[float]] = {}
    for spent in times(store, protocol_name):
        if spent.seconds > 0:
            by_case.setdefault(spent.case, []).append(spent.seconds)
    return {case: median(seconds) for case, seconds in by_case.items()}


def _model_of(strategy: Strategy, model: str) -> str:
    return NO_MODEL if strategy.name in _WITHOUT_EVIDENCE else model
