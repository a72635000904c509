"""What strategies know of cases and the orders they made: numbers and orders in, kept; who comes next, and why, out.

A strategy's order is kept beside the worklist's own: a reader can take the next case of either, and the seats are the
same. All of it can be computed anew, so a newer order replaces the older one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.records import Outcome
from labeling_protocols.seats import lock_worklist
from labeling_protocols.store import Store, UnknownError, now

_cases, _seats = schema.cases, schema.seats
_scores, _summaries = schema.case_scores, schema.case_summaries
_AT_ONCE = 500  # summaries a query


@dataclass(frozen=True, kw_only=True)
class CaseScore:
    """A case in an order; `why` is a sentence for the reader who is given it."""

    case: str
    score: float
    why: str


@dataclass(frozen=True, kw_only=True)
class Order:
    """A strategy's newest order of a protocol's cases; `stands` where the worklist follows it."""

    strategy: str
    model: str
    cases: int
    created: datetime
    stands: bool


@dataclass(frozen=True, kw_only=True)
class Offer:
    """By which strategy and model a reader was given a case, and why that chose it."""

    case: str
    strategy: str
    model: str
    why: str
    created: datetime


# What is known of cases


def keep_summary(store: Store, case_id: str, model: str, content: Mapping[str, Any]) -> None:
    """Keep what a model says of a case; what it said before is replaced."""
    row = {"case": case_id, "model": model, "content": dict(content), "created": now()}
    with store.writing() as connection:
        mine = sa.and_(_summaries.c.case == case_id, _summaries.c.model == model)
        connection.execute(sa.delete(_summaries).where(mine))
        connection.execute(sa.insert(_summaries).values(row))


def summaries(store: Store, cases: Sequence[str], model: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a model said of those of these cases it was asked about."""
    for start in range(0, len(cases), _AT_ONCE):
        wanted = _summaries.c.case.in_(cases[start : start + _AT_ONCE])
        query = sa.select(_summaries.c.case, _summaries.c.content).where(wanted, _summaries.c.model == model)
        with store.engine.connect() as connection:
            yield from ((row.case, row.content) for row in connection.execute(query))


def forget_summaries(store: Store, protocol: str, keep_model: str) -> None:
    """Let go of what other models said of a protocol's cases: they are asked anew should they be champion again."""
    mine = _summaries.c.case.in_(sa.select(_cases.c.id).where(_cases.c.protocol == protocol))
    with store.writing() as connection:
        connection.execute(sa.delete(_summaries).where(mine, _summaries.c.model != keep_model))


def open_cases(store: Store, protocol_name: str) -> list[str]:
    """Ordinary cases that still have a free seat and no verdict, by id."""
    asked = store.asked(protocol_name)
    free = sa.exists().where(
        _seats.c.case == _cases.c.id,
        _seats.c.since_version == asked.since_version,
        _seats.c.state == sa.literal_column("'free'"),
    )
    mine = sa.and_(_cases.c.protocol == protocol_name, _cases.c.known_truth.is_(None), _cases.c.outcome == Outcome.OPEN)
    with store.engine.connect() as connection:
        return list(connection.execute(sa.select(_cases.c.id).where(mine, free).order_by(_cases.c.id)).scalars())


def lacking_summary(store: Store, cases: Sequence[str], model: str) -> list[str]:
    """Those of these cases the model was not asked about yet, in their order."""
    known = {
        case for start in range(0, len(cases), _AT_ONCE) for case in _known(store, cases[start:][:_AT_ONCE], model)
    }
    return [case for case in cases if case not in known]


def _known(store: Store, cases: Sequence[str], model: str) -> list[str]:
    query = sa.select(_summaries.c.case).where(_summaries.c.case.in_(cases), _summaries.c.model == model)
    with store.engine.connect() as connection:
        return list(connection.execute(query).scalars())


# Orders


def keep_order(store: Store, protocol_name: str, strategy: str, model: str, scores: Iterable[CaseScore]) -> None:
    """Keep a strategy's order of cases, first to read first; every reader begins at its start.

    Raises `UnknownError` for a case the protocol has not, having kept nothing.
    """
    at = now()
    rows = [
        {"protocol": protocol_name, "strategy": strategy, "place": place, "model": model, "created": at, **vars(one)}
        for place, one in enumerate(scores)
    ]
    places = schema.strategy_places
    with store.writing() as connection:
        lock_worklist(connection, protocol_name)
        known = set(connection.execute(sa.select(_cases.c.id).where(_cases.c.protocol == protocol_name)).scalars())
        if missing := sum(row["case"] not in known for row in rows):
            raise UnknownError(f"{missing} of the scores are for cases this protocol has not. Nothing was kept.")
        connection.execute(sa.delete(_scores).where(_of(protocol_name, strategy)))
        if rows:
            connection.execute(sa.insert(_scores), rows)
        of_order = sa.and_(places.c.protocol == protocol_name, places.c.strategy == strategy)
        connection.execute(sa.delete(places).where(of_order))


def orders(store: Store, protocol_name: str) -> list[Order]:
    """The orders there are of a protocol's cases, by strategy."""
    query = (
        sa.select(_scores.c.strategy, _scores.c.model, sa.func.count(), sa.func.max(_scores.c.created))
        .where(_scores.c.protocol == protocol_name)
        .group_by(_scores.c.strategy, _scores.c.model)
        .order_by(_scores.c.strategy)
    )
    with store.engine.connect() as connection:
        standing = standing_order(connection, protocol_name)
        rows = connection.execute(query).all()
    stands = (standing.strategy, standing.model) if standing is not None else None
    return [
        Order(strategy=strategy, model=model, cases=cases, created=created, stands=(strategy, model) == stands)
        for strategy, model, cases, created in rows
    ]


def ordered_cases(store: Store, protocol_name: str, strategy: str) -> int:
    """How many cases a strategy's newest order has; 0 where there is none."""
    query = sa.select(sa.func.count()).where(_of(protocol_name, strategy))
    with store.engine.connect() as connection:
        return int(connection.execute(query).scalar_one())


def has_order(store: Store, protocol_name: str, strategy: str) -> bool:
    """Whether a strategy has ordered the protocol's cases."""
    with store.engine.connect() as connection:
        return (
            connection.execute(sa.select(_scores.c.place).where(_of(protocol_name, strategy)).limit(1)).first()
            is not None
        )


def standing_order(connection: sa.Connection, protocol_name: str) -> Any:
    """The row that says which strategy the worklist follows, or None."""
    table = schema.worklist_orders
    return connection.execute(sa.select(table).where(table.c.protocol == protocol_name)).first()


def _of(protocol_name: str, strategy: str) -> sa.ColumnElement[bool]:
    return sa.and_(_scores.c.protocol == protocol_name, _scores.c.strategy == strategy)


# What readers were given


def offers(store: Store, reader: str, cases: Iterable[str]) -> dict[str, Offer]:
    """Why a reader was given these cases, by case; those he was given without a strategy are left out."""
    table = schema.offers
    columns = (table.c.case, table.c.strategy, table.c.model, table.c.why, table.c.created)
    query = sa.select(*columns).where(table.c.reader == reader, table.c.case.in_(list(cases)))
    with store.engine.connect() as connection:
        return {row.case: Offer(**row._mapping) for row in connection.execute(query)}
