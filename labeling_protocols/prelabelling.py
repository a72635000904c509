"""Which cases of a worklist a model has not proposed anything for yet: a protocol and a model in, case ids out."""

from dataclasses import dataclass

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.records import Outcome
from labeling_protocols.store import Store


@dataclass(frozen=True, kw_only=True)
class Unproposed:
    """`cases` lack this model's prelabel, in the order in which they will be read; `known` have it already."""

    cases: tuple[str, ...]
    known: int


def unproposed(store: Store, protocol: str, model: str, *, open_only: bool, limit: int | None = None) -> Unproposed:
    """The cases of a protocol without this model's prelabel; `open_only` keeps to those that wait for readers."""
    cases, prelabels = schema.cases, schema.prelabels
    proposed = sa.exists().where(prelabels.c.case == cases.c.id, prelabels.c.model == model)
    asked = cases.c.protocol == protocol
    if open_only:
        asked = sa.and_(asked, cases.c.outcome == Outcome.OPEN, cases.c.known_truth.is_(None))
    waiting = sa.select(cases.c.id).where(asked, ~proposed).order_by(cases.c.rank, cases.c.id).limit(limit)
    with store.engine.connect() as connection:
        known = connection.execute(sa.select(sa.func.count()).select_from(cases).where(asked, proposed)).scalar_one()
        return Unproposed(cases=tuple(connection.execute(waiting).scalars()), known=known)
