"""How far a protocol's cases are, in counts kept as they change: a case's new outcome in, the tallies moved.

Counting 20,000 cases at each question would cost more than saving a read. What is kept here can be counted anew from
the seats and outcomes at any time (`recount`).
"""

from typing import Any

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.records import Outcome, Progress, SeatState

CASES = "cases"
CALIBRATION = "calibration"
READS = "reads"
_JUDGED = (Outcome.AGREED, Outcome.DISPUTED, Outcome.SETTLED)

_ADD = sa.text(
    "INSERT INTO tallies (protocol, kind, reader, total) VALUES (:protocol, :kind, :reader, :by)"
    " ON CONFLICT (protocol, kind, reader) DO UPDATE SET total = tallies.total + excluded.total"
)


def add(connection: sa.Connection, protocol: str, kind: str, by: int, reader: str = "") -> None:
    connection.execute(_ADD, {"protocol": protocol, "kind": kind, "reader": reader, "by": by})


def move_outcome(connection: sa.Connection, case: Any, outcome: Outcome, severity: float = 0.0) -> None:
    """Give a case (its row, locked) this outcome and count it there."""
    if case.outcome == outcome and case.severity == severity:
        return
    table = schema.cases
    connection.execute(sa.update(table).where(table.c.id == case.id).values(outcome=outcome, severity=severity))
    for kind, by in ((Outcome(case.outcome), -1), (outcome, 1)):
        if kind in _JUDGED:
            add(connection, case.protocol, kind, by)


def progress(connection: sa.Connection, protocol: str) -> Progress:
    """Counts over a protocol's cases; `reads` counts a reader and case once, however many revisions."""
    table = schema.tallies
    rows = connection.execute(
        sa.select(table.c.kind, table.c.reader, table.c.total).where(table.c.protocol == protocol)
    ).all()
    of_site = {row.kind: row.total for row in rows if not row.reader}
    by_reader = {row.reader: row.total for row in rows if row.kind == READS and row.total}
    return Progress(
        cases=of_site.get(CASES, 0),
        calibration_cases=of_site.get(CALIBRATION, 0),
        reads=sum(by_reader.values()),
        disputes=of_site.get(Outcome.DISPUTED, 0),
        truths=of_site.get(Outcome.AGREED, 0) + of_site.get(Outcome.SETTLED, 0),
        by_reader=by_reader,
    )


def recount(connection: sa.Connection, protocol: str, since_version: int) -> None:
    """Count a protocol's tallies anew."""
    table = schema.tallies
    connection.execute(sa.delete(table).where(table.c.protocol == protocol))
    for (kind, reader), total in counted(connection, protocol, since_version).items():
        add(connection, protocol, kind, total, reader)


def counted(connection: sa.Connection, protocol: str, since_version: int) -> dict[tuple[str, str], int]:
    """What the tallies must be, by (kind, reader), counted from cases and seats; zeros left out."""
    cases, seats = schema.cases, schema.seats
    calibration = cases.c.known_truth.isnot(None)
    of_cases = sa.select(calibration, cases.c.outcome, sa.func.count()).where(cases.c.protocol == protocol)
    totals: dict[tuple[str, str], int] = {}
    for is_calibration, outcome, count in connection.execute(of_cases.group_by(calibration, cases.c.outcome)):
        kind = CALIBRATION if is_calibration else CASES
        totals[kind, ""] = totals.get((kind, ""), 0) + count
        if outcome in _JUDGED:
            totals[outcome, ""] = totals.get((outcome, ""), 0) + count
    of_seats = (
        sa.select(seats.c.reader, sa.func.count())
        .where(seats.c.protocol == protocol, seats.c.since_version == since_version, seats.c.state == SeatState.READ)
        .group_by(seats.c.reader)
    )
    totals |= {(READS, reader): count for reader, count in connection.execute(of_seats)}
    return totals
