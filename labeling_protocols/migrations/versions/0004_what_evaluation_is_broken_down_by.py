"""Strata of cases, the snapshots of a site, and on which side of the split a patient is."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_MOMENT = sa.DateTime(timezone=True)
_APPEND_ONLY = ("snapshots", "split_sides")


def upgrade() -> None:
    op.add_column("cases", sa.Column("strata", sa.JSON()))  # of cases from before, nothing is known
    op.create_table(
        "snapshots",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("protocol", sa.String(64), nullable=False),
        sa.Column("protocol_version", sa.Integer(), nullable=False),
        sa.Column("cases", sa.Integer(), nullable=False),
        sa.Column("actor", sa.String(32), nullable=False),
        sa.Column("created", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_snapshots"),
    )
    op.create_index("ix_snapshots_protocol", "snapshots", ["protocol"])
    op.create_table(
        "split_sides",
        sa.Column("protocol", sa.String(64), nullable=False),
        sa.Column("patient", sa.String(64), nullable=False),
        sa.Column("held_out", sa.Boolean(), nullable=False),
        sa.Column("snapshot", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["snapshot"], ["snapshots.digest"], name="fk_split_sides_snapshot_snapshots"),
        sa.PrimaryKeyConstraint("protocol", "patient", name="pk_split_sides"),
    )
    _forbid_changes()


def _forbid_changes() -> None:
    """The database itself refuses to change or delete what is only ever added."""
    if op.get_bind().dialect.name == "postgresql":
        for table in _APPEND_ONLY:
            op.execute(
                f"CREATE TRIGGER {table}_only_grow BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
                " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
            )
        return
    for table in _APPEND_ONLY:
        for act in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{act.lower()} BEFORE {act} ON {table}"
                f" BEGIN SELECT RAISE(ABORT, 'rows of {table} are never changed or deleted'); END"
            )
