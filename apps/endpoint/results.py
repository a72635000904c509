"""What the endpoint returned for each series: rows of the `results` table in and out."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.store import Store, now


class ResultState(StrEnum):
    """`refused`: this series cannot be read by the champion; `failed`: it could be, and something went wrong."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was made of one set of instances by one model version; UIDs and file names, no identifier of a patient.

    `model` and `bundle` are empty where none was chosen; `seg` and `sr` name files of the site's results folder.
    """

    series: str
    study: str
    instances: str
    state: ResultState
    reason: str = ""
    model: str = ""
    bundle: str = ""
    seg: str | None = None
    sr: str | None = None
    created: datetime | None = None


def record(store: Store, result: Result) -> None:
    """Keep a result; the same series, instances and model again replace what was said of their state before."""
    table = schema.results
    row = {
        "study": result.study,
        "state": result.state.value,
        "reason": result.reason,
        "bundle": result.bundle,
        "seg": result.seg,
        "sr": result.sr,
    }
    key = {"series": result.series, "instances": result.instances, "model": result.model}
    same = sa.and_(*(table.c[name] == value for name, value in key.items()))
    with store.writing() as connection:
        if connection.execute(sa.update(table).where(same).values(row)).rowcount == 0:
            connection.execute(sa.insert(table).values({**key, **row, "created": now()}))


def results(store: Store, series: str | None = None) -> list[Result]:
    """Every result, or those of one series, oldest first."""
    table = schema.results
    query = sa.select(table).order_by(table.c.id)
    if series is not None:
        query = query.where(table.c.series == series)
    with store.engine.connect() as connection:
        return [_result(row) for row in connection.execute(query)]


def has_result(store: Store, series: str, instances: str) -> bool:
    """Whether this set of instances was run or refused already, by whatever model."""
    return any(result.instances == instances for result in results(store, series))


def _result(row: sa.Row[tuple[object, ...]]) -> Result:
    fields = {name: value for name, value in row._mapping.items() if name != "id"}
    return Result(**{**fields, "state": ResultState(row.state)})
