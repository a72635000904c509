"""What reviewers say of reads in their viewers: kept as rows that nobody changes, and read back. It decides nothing."""

from collections.abc import Iterable

import sqlalchemy as sa

from labeling_protocols import audit, schema
from labeling_protocols.audit import Action
from labeling_protocols.records import Read, Review
from labeling_protocols.store import Store, now

STATUSES = ("", "approved", "flagged", "segmented")
LEVELS = ("", "easy", "medium", "hard")
_COMMENT_MAX = 10_000


class ReviewError(ValueError):
    """A review that cannot be kept: what was found, what was expected; nothing was stored."""


def add_review(store: Store, *, read: Read, reviewer: str, status: str, level: str, comment: str) -> Review:
    """Keep what a reviewer says of a revision; saying the same again adds nothing. Raises `ReviewError`."""
    if status not in STATUSES or level not in LEVELS:
        raise ReviewError(
            f"expected one of {', '.join(STATUSES[1:])} or nothing as the status and one of {', '.join(LEVELS[1:])}"
            " or nothing as the level. Nothing was kept."
        )
    if len(comment) > _COMMENT_MAX or "\0" in comment:
        raise ReviewError(f"expected a comment of at most {_COMMENT_MAX} characters of text. Nothing was kept.")
    said = Review(
        case=read.case,
        read=read.id,
        reviewer=reviewer,
        status=status,
        level=level,
        comment=comment,
        created=now(),
    )
    table = schema.reviews
    mine = sa.select(table).where(table.c.read == read.id, table.c.reviewer == reviewer)
    with store.writing() as connection:
        last = connection.execute(mine.order_by(table.c.id.desc()).limit(1)).first()
        if last is not None and (last.status, last.level, last.comment) == (status, level, comment):
            return _review(last)
        connection.execute(sa.insert(table).values(said.__dict__))
        audit.append(
            connection,
            actor=reviewer,
            action=Action.READ_REVIEWED,
            subject=read.case,
            read=read.id,
            status=status,
            level=level,
        )
    return said


def newest_reviews(store: Store, reads: Iterable[int] | None = None, protocol: str | None = None) -> dict[int, Review]:
    """The newest review of each of these reads (by their ids), or of all reads of a protocol."""
    table, cases = schema.reviews, schema.cases
    query = sa.select(table).order_by(table.c.id)
    if reads is not None:
        query = query.where(table.c.read.in_(list(reads)))
    if protocol is not None:
        query = query.join(cases, cases.c.id == table.c.case).where(cases.c.protocol == protocol)
    with store.engine.connect() as connection:
        return {row.read: _review(row) for row in connection.execute(query)}


def _review(row: sa.Row[tuple[object, ...]]) -> Review:
    return Review(**{name: value for name, value in row._mapping.items() if name != "id"})
