"""The tables of a site's database, one `MetaData` for all; `migrations/` brings any older database up to it."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)


class Moment(TypeDecorator[datetime]):
    """A point in time, always in UTC; SQLite would forget the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_DIGEST = String(64)
_MOMENT = Moment()


def _where(condition: Any) -> dict[str, Any]:
    """An index over the rows that fulfil this only."""
    return {"sqlite_where": condition, "postgresql_where": condition}


# Rows of these are never changed or deleted; triggers of the database see to it.
APPEND_ONLY = (
    "protocols",
    "reads",
    "withdrawals",
    "returned_seats",
    "prelabels",
    "shown_prelabels",
    "reviews",
    "adjudications",
    "reopenings",
    "edits",
    "snapshots",
    "split_sides",
    "audit",
)

# `since_version` is the oldest version whose reads count under this one: 5 where 5, 6 and 7 ask the same question.
protocols = Table(
    "protocols",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("since_version", Integer, nullable=False),
    Column("digest", _DIGEST, nullable=False),
    Column("content", Text, nullable=False),
    Column("created", _MOMENT, nullable=False),
)

# `rank` orders a worklist, lowest first; `known_truth` makes a calibration case; `strata` is what evaluation is broken
# down by, NULL where nothing is known; `channels` are further images, NULL where there are none: their name, image,
# series and whether they were resampled. `reads`, `outcome` and `severity` are
# caches over the reads, verdicts and adjudications of the case, moved in the transaction that changes those.
cases = Table(
    "cases",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("protocol", String(64), nullable=False, index=True),
    Column("patient", String(64), nullable=False),
    Column("image", _DIGEST, nullable=False),
    Column("geometry", JSON, nullable=False),
    Column("modality", String(16), nullable=False),
    Column("series", String(64)),
    Column("created", _MOMENT, nullable=False),
    Column("rank", Float, nullable=False, default=0.0),
    Column("known_truth", _DIGEST),
    Column("reads", Integer, nullable=False, default=0),
    Column("outcome", String(16), nullable=False, default="open"),
    Column("severity", Float, nullable=False, default=0.0),
    Column("strata", JSON(none_as_null=True)),
    Column("channels", JSON(none_as_null=True)),
    UniqueConstraint("protocol", "image"),
)
Index("ix_cases_outcome", cases.c.protocol, cases.c.outcome, cases.c.severity)
Index("ix_cases_calibration", cases.c.protocol, **_where(cases.c.known_truth.isnot(None)))

# How far cases are, counted as they go: `kind` is cases, calibration, reads (by reader), agreed, disputed or settled.
tallies = Table(
    "tallies",
    metadata,
    Column("protocol", String(64), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("reader", String(32), primary_key=True, default=""),
    Column("total", Integer, nullable=False),
)

# A password is an argon2id hash, None for who signs in elsewhere; one with `password_until` opens once, to be replaced.
# Tokens made before `tokens_since` are void.
accounts = Table(
    "accounts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("password", Text),
    Column("password_until", _MOMENT),
    Column("roles", JSON, nullable=False),
    Column("groups", JSON, nullable=False, default=list),
    Column("disabled", Boolean, nullable=False, default=False),
    Column("created", _MOMENT, nullable=False),
    Column("issuer", String(255)),
    Column("subject", String(255)),
    Column("failures", Integer, nullable=False, default=0),
    Column("locked_until", _MOMENT),
    Column("tokens_since", _MOMENT),
    UniqueConstraint("issuer", "subject"),
)

# Tokens ended before their time, kept until they would have expired by themselves.
ended_tokens = Table(
    "ended_tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("expires", _MOMENT, nullable=False),
)

# Per-reader server addresses for viewers that cannot log in; only the SHA-256 of the secret is kept.
addresses = Table(
    "addresses",
    metadata,
    Column("secret", _DIGEST, primary_key=True),
    Column("id", String(16), nullable=False, unique=True),
    Column("account", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("title", String(64), nullable=False, default=""),
    Column("created", _MOMENT, nullable=False),
    Column("expires", _MOMENT, nullable=False),
    Column("last_used", _MOMENT),
    Column("revoked", Boolean, nullable=False, default=False),
)

# One row a place on a case, free while it has no reader; `protocol` and `rank` are the case's, for an index.
seats = Table(
    "seats",
    metadata,
    Column("case", ForeignKey("cases.id"), primary_key=True),
    Column("since_version", Integer, primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("protocol", String(64), nullable=False),
    Column("rank", Float, nullable=False, default=0.0),
    Column("group", String(64), nullable=False, default=""),
    Column("reader", ForeignKey("accounts.id")),
    Column("state", String(16), nullable=False, default="free"),
    Column("opened", _MOMENT),
    Column("lease_until", _MOMENT),
    Column("reopened", Boolean, nullable=False, default=False),
    UniqueConstraint("case", "since_version", "reader"),
)
Index(
    "ix_seats_free",
    seats.c.protocol,
    seats.c.since_version,
    seats.c.group,
    seats.c.rank,
    seats.c.case,
    **_where(seats.c.state == "free"),
)
Index(
    "ix_seats_reopened",
    seats.c.protocol,
    seats.c.since_version,
    seats.c.group,
    seats.c.rank,
    seats.c.case,
    **_where(sa.and_(seats.c.state == "free", seats.c.reopened)),
)
Index("ix_seats_claimed", seats.c.reader, seats.c.protocol, **_where(seats.c.state == "claimed"))
Index("ix_seats_lease", seats.c.lease_until, **_where(seats.c.state == "claimed"))

# How a reader lost a seat: lapsed, skipped (with his reason), or reassigned by an administrator. Append-only.
returned_seats = Table(
    "returned_seats",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("case", ForeignKey("cases.id"), nullable=False),
    Column("since_version", Integer, nullable=False),
    Column("reader", ForeignKey("accounts.id"), nullable=False),
    Column("why", String(16), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("actor", String(32), nullable=False),
    Column("created", _MOMENT, nullable=False),
)
Index("ix_returned_seats_case", returned_seats.c.case, returned_seats.c.reader)

# Where a reader's worklist stands: no free seat before (rank, case) is for him, unless it was reopened.
worklists = Table(
    "worklists",
    metadata,
    Column("protocol", String(64), primary_key=True),
    Column("reader", ForeignKey("accounts.id"), primary_key=True),
    Column("rank", Float),
    Column("case", String(32)),
    Column("groups", String(255), nullable=False, default=""),
    Column("since_calibration", Integer, nullable=False, default=0),
)

# The numbers that a model left of each case, for strategies to order cases by; can be computed anew from its bundle.
case_summaries = Table(
    "case_summaries",
    metadata,
    Column("case", ForeignKey("cases.id"), primary_key=True),
    Column("model", String(128), primary_key=True),
    Column("content", JSON, nullable=False),
    Column("created", _MOMENT, nullable=False),
)

# Each strategy's newest order of a protocol's cases, `place` from 0; `model` is empty where there was no champion.
case_scores = Table(
    "case_scores",
    metadata,
    Column("protocol", String(64), primary_key=True),
    Column("strategy", String(32), primary_key=True),
    Column("case", ForeignKey("cases.id"), primary_key=True),
    Column("place", Integer, nullable=False),
    Column("model", String(128), nullable=False),
    Column("score", Float, nullable=False),
    Column("why", Text, nullable=False),
    Column("created", _MOMENT, nullable=False),
)
Index("ix_case_scores_place", case_scores.c.protocol, case_scores.c.strategy, case_scores.c.place)

# Which strategy the ranks of a protocol's cases are from; no row where an administrator gave them, or nobody did.
worklist_orders = Table(
    "worklist_orders",
    metadata,
    Column("protocol", String(64), primary_key=True),
    Column("strategy", String(32), nullable=False),
    Column("model", String(128), nullable=False),
    Column("created", _MOMENT, nullable=False),
)

# Where a reader stands in a strategy's order, as `worklists` says it of the ranks; `basis` is what that rests on.
strategy_places = Table(
    "strategy_places",
    metadata,
    Column("protocol", String(64), primary_key=True),
    Column("strategy", String(32), primary_key=True),
    Column("reader", ForeignKey("accounts.id"), primary_key=True),
    Column("place", Integer, nullable=False),
    Column("basis", String(255), nullable=False),
)

# By which strategy a reader was last given a case, and why that chose it then.
offers = Table(
    "offers",
    metadata,
    Column("case", ForeignKey("cases.id"), primary_key=True),
    Column("reader", ForeignKey("accounts.id"), primary_key=True),
    Column("strategy", String(32), nullable=False),
    Column("model", String(128), nullable=False),
    Column("why", Text, nullable=False),
    Column("created", _MOMENT, nullable=False),
)

# Every save of every read. Append-only.
reads = Table(
    "reads",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("case", ForeignKey("cases.id"), nullable=False),
    Column("reader", ForeignKey("accounts.id"), nullable=False),
    Column("protocol_version", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("label", _DIGEST, nullable=False),
    Column("voxels", JSON, nullable=False),
    Column("volumes_ml", JSON, nullable=False),
    Column("client", String(64), nullable=False),
    Column("seconds", Float),
    Column("prelabel_model", String(128)),
    Column("prelabel_shown", Boolean, nullable=False, default=False),
    Column("created", _MOMENT, nullable=False),
    UniqueConstraint("case", "reader", "protocol_version", "revision"),
)

Index("ix_reads_reader_case", reads.c.reader, reads.c.case)

# A read taken back: this revision and the reader's earlier ones of the case do not count any more. Append-only.
withdrawals = Table(
    "withdrawals",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("read", ForeignKey("reads.id"), nullable=False, unique=True),
    Column("actor", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("created", _MOMENT, nullable=False),
)

prelabels = Table(
    "prelabels",
    metadata,
    Column("case", ForeignKey("cases.id"), primary_key=True),
    Column("model", String(128), primary_key=True),
    Column("label", _DIGEST, nullable=False),
    Column("voxels", JSON, nullable=False),
    Column("created", _MOMENT, nullable=False),
)

# Which proposals a reader was given, whatever became of the seat. Append-only.
shown_prelabels = Table(
    "shown_prelabels",
    metadata,
    Column("case", ForeignKey("cases.id"), primary_key=True),
    Column("reader", ForeignKey("accounts.id"), primary_key=True),
    Column("model", String(128), primary_key=True),
    Column("created", _MOMENT, nullable=False),
)

# What a reviewer said of a read in his viewer (`segmentationMeta` of Slicer's Reviewer); no decision. Append-only.
reviews = Table(
    "reviews",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("case", ForeignKey("cases.id"), nullable=False, index=True),
    Column("read", ForeignKey("reads.id"), nullable=False),
    Column("reviewer", ForeignKey("accounts.id"), nullable=False),
    Column("status", String(32), nullable=False),
    Column("level", String(32), nullable=False),
    Column("comment", Text, nullable=False),
    Column("created", _MOMENT, nullable=False),
)

# What the newest reads of a case say together; a cache that can be recomputed from them (`reads` names which).
verdicts = Table(
    "verdicts",
    metadata,
    Column("case", ForeignKey("cases.id"), primary_key=True),
    Column("reads", String(255), primary_key=True),
    Column("protocol_version", Integer, primary_key=True),
    Column("verdict", JSON, nullable=False),
    Column("agreed", Boolean, nullable=False),
    Column("severity", Float, nullable=False),
    Column("consensus", _DIGEST),
    Column("created", _MOMENT, nullable=False),
)

# Where each dispute stands, moved in the transaction of each act (`disputes.py`); the audit chain tells the acts.
disputes = Table(
    "disputes",
    metadata,
    Column("case", ForeignKey("cases.id"), primary_key=True),
    Column("protocol", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("round", Integer, nullable=False, default=1),
    Column("group", String(64), nullable=False, default=""),
    Column("since", _MOMENT, nullable=False),
    Column("holder", ForeignKey("accounts.id")),
    Column("held_since", _MOMENT),
    Column("held_until", _MOMENT),
)
Index("ix_disputes_state", disputes.c.protocol, disputes.c.state)

# Signed decisions. `parts` say what was taken from where, `basis` is the digest of what was shown. Append-only.
adjudications = Table(
    "adjudications",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("case", ForeignKey("cases.id"), nullable=False),
    Column("adjudicator", ForeignKey("accounts.id"), nullable=False),
    Column("choice", String(64), nullable=False),
    Column("rationale", Text, nullable=False),
    Column("reads", String(255), nullable=False),
    Column("label", _DIGEST, nullable=False),
    Column("created", _MOMENT, nullable=False),
    Column("signature", Text, nullable=False),
    Column("round", Integer, nullable=False, default=1),
    Column("settles", Boolean, nullable=False, default=True),
    Column("parts", JSON, nullable=False, default=list),
    Column("basis", _DIGEST),
    UniqueConstraint("case", "round", "adjudicator"),
)

# A settled dispute opened again, with the reason: the decisions of its `round` and those before count no more.
# Append-only.
reopenings = Table(
    "reopenings",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("case", ForeignKey("cases.id"), nullable=False),
    Column("round", Integer, nullable=False),
    Column("actor", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("created", _MOMENT, nullable=False),
    UniqueConstraint("case", "round"),
)

# What an adjudicator drew in his viewer for a decision; revision 0 is the outline it began from. Append-only.
edits = Table(
    "edits",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("case", ForeignKey("cases.id"), nullable=False),
    Column("adjudicator", ForeignKey("accounts.id"), nullable=False),
    Column("round", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("source", String(64), nullable=False),
    Column("label", _DIGEST, nullable=False),
    Column("created", _MOMENT, nullable=False),
    UniqueConstraint("case", "adjudicator", "round", "revision"),
)

# Lists of truths and images that trainings learn from, by the digest of the blob that holds one. Append-only.
snapshots = Table(
    "snapshots",
    metadata,
    Column("digest", _DIGEST, primary_key=True),
    Column("protocol", String(64), nullable=False, index=True),
    Column("protocol_version", Integer, nullable=False),
    Column("cases", Integer, nullable=False),
    Column("actor", String(32), nullable=False),
    Column("created", _MOMENT, nullable=False),
)

# Whether a patient is held out of training under a protocol, decided for good by the first snapshot with a case of
# theirs. Append-only.
split_sides = Table(
    "split_sides",
    metadata,
    Column("protocol", String(64), primary_key=True),
    Column("patient", String(64), primary_key=True),
    Column("held_out", Boolean, nullable=False),
    Column("snapshot", ForeignKey("snapshots.digest"), nullable=False),
)

# DICOM instances the endpoint acknowledged; the file lies in the site's inbox under its digest.
received_instances = Table(
    "received_instances",
    metadata,
    Column("digest", _DIGEST, primary_key=True),
    Column("series", String(64), nullable=False, index=True),
    Column("study", String(64), nullable=False),
    Column("instance", String(64), nullable=False, index=True),
    Column("received", _MOMENT, nullable=False, index=True),
    Column("sop_class", String(64)),
    Column("transfer_syntax", String(64)),
    Column("bytes", BigInteger),
    Column("sender", String(64)),  # an AE title, or the pseudonym of an account
    Column("layout", JSON),  # `slice_layout.SliceLayout`, null where it is no plain slice
)

# What the endpoint returned for a series; `instances` is the digest over the slices it was made from.
results = Table(
    "results",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("series", String(64), nullable=False, index=True),
    Column("study", String(64), nullable=False),
    Column("instances", _DIGEST, nullable=False),
    Column("model", String(128), nullable=False),
    Column("bundle", _DIGEST, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("seg", String(255)),
    Column("sr", String(255)),
    Column("created", _MOMENT, nullable=False),
    Column("protocol", String(64), nullable=False, server_default=""),
    Column("stage", String(16), nullable=False, server_default="live"),
    Column("rule", String(64), nullable=False, server_default=""),
    Column("priority", Integer, nullable=False, server_default="3"),
    Column("seconds", JSON),
    Column("superseded_by", Integer),
    UniqueConstraint("series", "instances", "model"),
)

# The way of a result's objects to one destination.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("result", ForeignKey("results.id"), nullable=False),
    Column("destination", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due", _MOMENT, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created", _MOMENT, nullable=False),
    Column("changed", _MOMENT, nullable=False),
    UniqueConstraint("result", "destination"),
    Index("ix_deliveries_state_due", "state", "due"),
)

# What was done, by whom: each row's hash is over its content and the hash of the row before. Append-only.
audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("at", String(32), nullable=False),
    Column("actor", String(32), nullable=False),
    Column("action", String(32), nullable=False),
    Column("subject", String(128), nullable=False),
    Column("details", Text, nullable=False),
    Column("hash", _DIGEST, nullable=False),
)
