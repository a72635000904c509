"""What the endpoint returned for each series, and what goes where: rows of `results` and `deliveries` in and out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.store import Store, now
from training.release_stage import Stage

ROUTINE = 3  # as a number, smaller ones first


class ResultState(StrEnum):
    """`refused`: this series cannot be read by the model; `failed`: it could be, and something went wrong."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


class DeliveryState(StrEnum):
    """`dead`: given up after its time; it goes out again when somebody asks for it."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was made of one set of instances by one model version; UIDs and file names, no identifier of a patient.

    `model` and `bundle` are empty where none was chosen; `seg` and `sr` name files of the site's results folder.
    `seconds` says what took how long; `superseded_by` is the result of a later set of the same series.
    """

    series: str
    study: str
    instances: str
    state: ResultState
    reason: str = ""
    protocol: str = ""
    model: str = ""
    bundle: str = ""
    stage: Stage = Stage.LIVE
    rule: str = ""
    priority: int = ROUTINE
    seg: str | None = None
    sr: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    superseded_by: int | None = None
    created: datetime | None = None
    id: int | None = None

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(name for name in (self.seg, self.sr) if name)


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A result on its way to one destination; `reason` is why the last attempt failed."""

    id: int
    result: int
    destination: str
    state: DeliveryState
    attempts: int
    due: datetime
    reason: str
    created: datetime


def record(store: Store, result: Result, destinations: Sequence[str] = ()) -> int:
    """Keep a result and, in the same transaction, that its objects are to go to these destinations; its id.

    The same series, instances and model again change nothing. Results of earlier sets of the series are superseded by
    it: those that were sent by one that is, a shadow's by a shadow's.
    """
    table, made = schema.results, now()
    row = {
        "series": result.series,
        "study": result.study,
        "instances": result.instances,
        "state": result.state.value,
        "reason": result.reason,
        "protocol": result.protocol,
        "model": result.model,
        "bundle": result.bundle,
        "stage": result.stage.value,
        "rule": result.rule,
        "priority": result.priority,
        "seg": result.seg,
        "sr": result.sr,
        "seconds": dict(result.seconds),
        "created": made,
    }
    same = sa.and_(*(table.c[name] == row[name] for name in ("series", "instances", "model")))
    with store.writing() as connection:
        known = connection.execute(sa.select(table.c.id).where(same)).scalar()
        if known is not None:
            return int(known)
        number = int(connection.execute(sa.insert(table).values(row)).inserted_primary_key[0])  # type: ignore[index]
        shadow = table.c.stage == Stage.SHADOW.value
        earlier = sa.and_(
            table.c.series == result.series,
            table.c.protocol.in_([result.protocol, ""]),  # of none: refused before a model was chosen
            table.c.instances != result.instances,
            table.c.id < number,
            table.c.superseded_by.is_(None),
            shadow if result.stage is Stage.SHADOW else ~shadow,
        )
        connection.execute(sa.update(table).where(earlier).values(superseded_by=number))
        if destinations and result.files:
            waiting = {
                "result": number,
                "state": DeliveryState.WAITING.value,
                "priority": result.priority,
                "attempts": 0,
                "due": made,
                "reason": "",
                "created": made,
                "changed": made,
            }
            rows = [{**waiting, "destination": destination} for destination in destinations]
            connection.execute(sa.insert(schema.deliveries), rows)
    return number


def results(store: Store, series: str | None = None) -> list[Result]:
    """Every result, or those of one series, oldest first."""
    table = schema.results
    query = sa.select(table).order_by(table.c.id)
    if series is not None:
        query = query.where(table.c.series == series)
    with store.engine.connect() as connection:
        return [_result(row) for row in connection.execute(query)]


def result(store: Store, number: int) -> Result:
    with store.engine.connect() as connection:
        return _result(connection.execute(sa.select(schema.results).where(schema.results.c.id == number)).one())


def has_result(store: Store, series: str, instances: str) -> bool:
    """Whether this set of instances was run or refused already, by whatever model."""
    table = schema.results
    query = sa.select(table.c.id).where(table.c.series == series, table.c.instances == instances)
    with store.engine.connect() as connection:
        return connection.execute(query).first() is not None


def predecessor(store: Store, series: str, instances: str, protocol: str) -> Result | None:
    """The newest result that was sent of another set of a series by a protocol's models, with its report."""
    found = [
        one
        for one in results(store, series)
        if one.protocol == protocol and one.instances != instances and one.sr and one.stage != Stage.SHADOW
    ]
    return found[-1] if found else None


# Deliveries


def due(store: Store, moment: datetime, at_most: int) -> list[Delivery]:
    """What is to go out now: urgent results first, then the oldest."""
    table = schema.deliveries
    query = (
        sa.select(table)
        .where(table.c.state == DeliveryState.WAITING.value, table.c.due <= moment)
        .order_by(table.c.priority, table.c.created, table.c.id)
        .limit(at_most)
    )
    with store.engine.connect() as connection:
        return [_delivery(row) for row in connection.execute(query)]


def deliveries(store: Store, number: int | None = None, state: DeliveryState | None = None) -> list[Delivery]:
    """All deliveries, those of a result, or those in a state."""
    table = schema.deliveries
    query = sa.select(table).order_by(table.c.id)
    if number is not None:
        query = query.where(table.c.result == number)
    if state is not None:
        query = query.where(table.c.state == state.value)
    with store.engine.connect() as connection:
        return [_delivery(row) for row in connection.execute(query)]


def delivered(store: Store, delivery: Delivery) -> None:
    _change(store, delivery, state=DeliveryState.DELIVERED, reason="", attempts=delivery.attempts + 1)


def postponed(store: Store, delivery: Delivery, until: datetime, reason: str) -> None:
    _change(store, delivery, due=until, reason=reason, attempts=delivery.attempts + 1)


def given_up(store: Store, delivery: Delivery, reason: str) -> None:
    _change(store, delivery, state=DeliveryState.DEAD, reason=reason, attempts=delivery.attempts + 1)


def send_again(store: Store, delivery: Delivery) -> None:
    """Somebody asks for it: it waits again, from now on."""
    moment = now()
    _change(store, delivery, state=DeliveryState.WAITING, due=moment, created=moment)


def _change(store: Store, delivery: Delivery, **values: object) -> None:
    table = schema.deliveries
    with store.writing() as connection:
        connection.execute(sa.update(table).where(table.c.id == delivery.id).values(**values, changed=now()))


def _result(row: sa.Row[tuple[object, ...]]) -> Result:
    told = {**row._mapping, "state": ResultState(row.state), "stage": Stage(row.stage), "seconds": row.seconds or {}}
    return Result(**told)


def _delivery(row: sa.Row[tuple[object, ...]]) -> Delivery:
    told = {name: row._mapping[name] for name in Delivery.__dataclass_fields__}
    return Delivery(**{**told, "state": DeliveryState(row.state)})
