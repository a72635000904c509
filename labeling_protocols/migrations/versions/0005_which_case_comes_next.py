"""What strategies know of cases, the orders they made, and why readers were given the cases they were given."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "case_summaries",
        sa.Column("case", sa.String(32), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("created", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["case"], ["cases.id"], name="fk_case_summaries_case_cases"),
        sa.PrimaryKeyConstraint("case", "model", name="pk_case_summaries"),
    )
    op.create_table(
        "case_scores",
        sa.Column("protocol", sa.String(64), nullable=False),
        sa.Column("strategy", sa.String(32), nullable=False),
        sa.Column("case", sa.String(32), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("created", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["case"], ["cases.id"], name="fk_case_scores_case_cases"),
        sa.PrimaryKeyConstraint("protocol", "strategy", "case", name="pk_case_scores"),
    )
    op.create_index("ix_case_scores_place", "case_scores", ["protocol", "strategy", "place"])
    op.create_table(
        "worklist_orders",
        sa.Column("protocol", sa.String(64), nullable=False),
        sa.Column("strategy", sa.String(32), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("created", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("protocol", name="pk_worklist_orders"),
    )
    _of_readers()


def _of_readers() -> None:
    op.create_table(
        "strategy_places",
        sa.Column("protocol", sa.String(64), nullable=False),
        sa.Column("strategy", sa.String(32), nullable=False),
        sa.Column("reader", sa.String(32), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("basis", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(["reader"], ["accounts.id"], name="fk_strategy_places_reader_accounts"),
        sa.PrimaryKeyConstraint("protocol", "strategy", "reader", name="pk_strategy_places"),
    )
    op.create_table(
        "offers",
        sa.Column("case", sa.String(32), nullable=False),
        sa.Column("reader", sa.String(32), nullable=False),
        sa.Column("strategy", sa.String(32), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("created", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["case"], ["cases.id"], name="fk_offers_case_cases"),
        sa.ForeignKeyConstraint(["reader"], ["accounts.id"], name="fk_offers_reader_accounts"),
        sa.PrimaryKeyConstraint("case", "reader", name="pk_offers"),
    )
