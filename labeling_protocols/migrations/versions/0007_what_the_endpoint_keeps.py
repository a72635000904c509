"""What is known of a received instance and of a result, and what became of each result on its way out."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    # Nothing of it is known of instances from before; their headers are read instead.
    with op.batch_alter_table("received_instances") as table:
        table.add_column(sa.Column("sop_class", sa.String(length=64)))
        table.add_column(sa.Column("transfer_syntax", sa.String(length=64)))
        table.add_column(sa.Column("bytes", sa.BigInteger()))
        table.add_column(sa.Column("sender", sa.String(length=64)))
        table.add_column(sa.Column("layout", sa.JSON()))
    op.create_index(op.f("ix_received_instances_instance"), "received_instances", ["instance"], unique=False)
    # Results from before are of the one protocol there was, live, and were delivered as they were recorded.
    with op.batch_alter_table("results") as table:
        table.add_column(sa.Column("protocol", sa.String(length=64), server_default="", nullable=False))
        table.add_column(sa.Column("stage", sa.String(length=16), server_default="live", nullable=False))
        table.add_column(sa.Column("rule", sa.String(length=64), server_default="", nullable=False))
        table.add_column(sa.Column("priority", sa.Integer(), server_default="3", nullable=False))
        table.add_column(sa.Column("seconds", sa.JSON()))
        table.add_column(sa.Column("superseded_by", sa.Integer()))
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("result", sa.Integer(), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["result"], ["results.id"], name=op.f("fk_deliveries_result_results")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("result", "destination", name=op.f("uq_deliveries_result_destination")),
    )
    op.create_index("ix_deliveries_state_due", "deliveries", ["state", "due"], unique=False)
