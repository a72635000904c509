"""Whether a reader may take a free seat: what is asked and a reader in, conditions for queries over seats out."""

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.records import Outcome, Returned
from labeling_protocols.saving import Asked

_seats, _cases = schema.seats, schema.cases
# A literal, not a parameter: the partial index is used only where the database sees the very condition.
FREE = _seats.c.state == sa.literal_column("'free'")
REOPENED = _seats.c.reopened == sa.true()


def takeable(asked: Asked, reader: str) -> tuple[sa.ColumnElement[bool], ...]:
    """On a case the reader has no seat on, was not taken from and that is not finished.

    A finished case can have a free seat: one more read came than was asked for, or it was settled before more were.
    One that has been read and is open again waits for further readers.
    """
    his = schema.seats.alias()
    taken = sa.exists().where(
        his.c.case == _seats.c.case, his.c.since_version == _seats.c.since_version, his.c.reader == reader
    )
    finished = sa.exists().where(
        _cases.c.id == _seats.c.case,
        sa.or_(
            sa.and_(_cases.c.reads >= asked.protocol.readers_per_case, _cases.c.outcome != Outcome.OPEN),
            _cases.c.outcome == Outcome.SETTLED,
        ),
    )
    return ~taken, ~declined(reader, _seats.c.case), ~finished


def declined(reader: str, case: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether a person, the reader himself or an administrator, took the case from this reader."""
    returned = schema.returned_seats
    return sa.exists().where(returned.c.case == case, returned.c.reader == reader, returned.c.why != Returned.LAPSED)
