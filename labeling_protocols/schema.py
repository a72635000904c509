"""The tables of a site's database, one `MetaData` for all; `migrations/` brings any older database up to it."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
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

protocols = Table(
    "protocols",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", _DIGEST, nullable=False),
    Column("content", Text, nullable=False),
    Column("created", _MOMENT, nullable=False),
)

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
    UniqueConstraint("protocol", "image"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("password", Text, nullable=False),  # argon2id
    Column("roles", JSON, nullable=False),
    Column("disabled", Boolean, nullable=False, default=False),
    Column("created", _MOMENT, nullable=False),
)

# Per-reader server addresses for viewers that cannot log in; only the SHA-256 of the secret is kept.
addresses = Table(
    "addresses",
    metadata,
    Column("secret", _DIGEST, primary_key=True),
    Column("account", ForeignKey("accounts.id"), nullable=False),
    Column("created", _MOMENT, nullable=False),
    Column("expires", _MOMENT, nullable=False),
    Column("revoked", Boolean, nullable=False, default=False),
)

# One row a reader and case; `place` numbers the seats of a case, so that no two readers take the last one.
seats = Table(
    "seats",
    metadata,
    Column("case", ForeignKey("cases.id"), primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("reader", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("state", String(16), nullable=False),
    Column("lease_until", _MOMENT, nullable=False),
    UniqueConstraint("case", "reader"),
)

reads = Table(
    "reads",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("case", ForeignKey("cases.id"), nullable=False),
    Column("reader", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("protocol_version", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("label", _DIGEST, nullable=False),
    Column("voxels", JSON, nullable=False),
    Column("client", String(64), nullable=False),
    Column("prelabel_model", String(128)),
    Column("created", _MOMENT, nullable=False),
    UniqueConstraint("case", "reader", "protocol_version", "revision"),
)

prelabels = Table(
    "prelabels",
    metadata,
    Column("case", ForeignKey("cases.id"), primary_key=True),
    Column("model", String(128), primary_key=True),
    Column("label", _DIGEST, nullable=False),
    Column("created", _MOMENT, nullable=False),
)

# What the newest reads of a case say together; a cache that can be recomputed from them (`reads` names which).
verdicts = Table(
    "verdicts",
    metadata,
    Column("case", ForeignKey("cases.id"), primary_key=True),
    Column("reads", String(255), primary_key=True),
    Column("protocol_version", Integer, nullable=False),
    Column("verdict", JSON, nullable=False),
    Column("agreed", Boolean, nullable=False),
    Column("severity", Float, nullable=False),
    Column("consensus", _DIGEST),
    Column("created", _MOMENT, nullable=False),
)

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
    UniqueConstraint("case", "reads"),
)

# DICOM instances the endpoint acknowledged; the file lies in the site's inbox under its digest.
received_instances = Table(
    "received_instances",
    metadata,
    Column("digest", _DIGEST, primary_key=True),
    Column("series", String(64), nullable=False, index=True),
    Column("study", String(64), nullable=False),
    Column("instance", String(64), nullable=False),
    Column("received", _MOMENT, nullable=False, index=True),
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
    UniqueConstraint("series", "instances", "model"),
)
