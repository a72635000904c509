"""What is known of a received instance: its kind, its sender, and where its pixels lie."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:  # nothing of it is known of instances from before; their headers are read instead
    with op.batch_alter_table("received_instances") as table:
        table.add_column(sa.Column("sop_class", sa.String(length=64)))
        table.add_column(sa.Column("transfer_syntax", sa.String(length=64)))
        table.add_column(sa.Column("bytes", sa.BigInteger()))
        table.add_column(sa.Column("sender", sa.String(length=64)))
        table.add_column(sa.Column("layout", sa.JSON()))
    op.create_index(op.f("ix_received_instances_instance"), "received_instances", ["instance"], unique=False)
