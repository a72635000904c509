"""Disputes as rows, decisions in rounds and parts, reopenings and edits."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_MOMENT = sa.DateTime(timezone=True)
_APPEND_ONLY = ("adjudications", "reopenings", "edits")


def upgrade() -> None:
    _make_tables()
    _widen_adjudications()
    _judge_again()
    _settled_disputes()
    _forbid_changes()


def _make_tables() -> None:
    op.create_table(
        "disputes",
        sa.Column("case", sa.String(32), nullable=False),
        sa.Column("protocol", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("group", sa.String(64), nullable=False),
        sa.Column("since", _MOMENT, nullable=False),
        sa.Column("holder", sa.String(32)),
        sa.Column("held_since", _MOMENT),
        sa.Column("held_until", _MOMENT),
        sa.ForeignKeyConstraint(["case"], ["cases.id"], name="fk_disputes_case_cases"),
        sa.ForeignKeyConstraint(["holder"], ["accounts.id"], name="fk_disputes_holder_accounts"),
        sa.PrimaryKeyConstraint("case", name="pk_disputes"),
    )
    op.create_index("ix_disputes_state", "disputes", ["protocol", "state"])
    op.create_table(
        "reopenings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("case", sa.String(32), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("actor", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["case"], ["cases.id"], name="fk_reopenings_case_cases"),
        sa.PrimaryKeyConstraint("id", name="pk_reopenings"),
        sa.UniqueConstraint("case", "round", name="uq_reopenings_case_round"),
    )
    op.create_table(
        "edits",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("case", sa.String(32), nullable=False),
        sa.Column("adjudicator", sa.String(32), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("created", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["case"], ["cases.id"], name="fk_edits_case_cases"),
        sa.ForeignKeyConstraint(["adjudicator"], ["accounts.id"], name="fk_edits_adjudicator_accounts"),
        sa.PrimaryKeyConstraint("id", name="pk_edits"),
        sa.UniqueConstraint(
            "case", "adjudicator", "round", "revision", name="uq_edits_case_adjudicator_round_revision"
        ),
    )


def _widen_adjudications() -> None:
    """A case's older decisions become its first rounds; SQLite makes the table anew and forgets its triggers."""
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        op.execute("DROP TRIGGER adjudications_only_grow ON adjudications")
    with op.batch_alter_table("adjudications") as adjudications:
        adjudications.add_column(sa.Column("round", sa.Integer(), nullable=False, server_default="1"))
        adjudications.add_column(sa.Column("settles", sa.Boolean(), nullable=False, server_default=sa.true()))
        adjudications.add_column(sa.Column("parts", sa.JSON(), nullable=False, server_default="[]"))
        adjudications.add_column(sa.Column("basis", sa.String(64)))
        adjudications.drop_constraint("uq_adjudications_case_reads", type_="unique")
    connection.execute(
        sa.text(
            "UPDATE adjudications SET round = (SELECT count(*) FROM adjudications AS earlier"
            ' WHERE earlier."case" = adjudications."case" AND earlier.id <= adjudications.id)'
        )
    )
    with op.batch_alter_table("adjudications") as adjudications:
        columns = ["case", "round", "adjudicator"]
        adjudications.create_unique_constraint("uq_adjudications_case_round_adjudicator", columns)


def _judge_again() -> None:
    """Verdicts, a cache, hold more now: what is not settled is judged anew from its reads."""
    op.execute("DELETE FROM verdicts")
    op.execute("UPDATE cases SET outcome = 'unjudged', severity = 0 WHERE outcome IN ('agreed', 'disputed')")
    op.execute("DELETE FROM tallies WHERE kind IN ('agreed', 'disputed')")


def _settled_disputes() -> None:
    """What is settled was a dispute; what is in dispute becomes a row when it is judged.

    A decision counts no more once one of its reads was withdrawn: such a case goes back to where its reads put it.
    """
    connection = op.get_bind()
    op.execute(
        'INSERT INTO disputes ("case", protocol, state, round, "group", since)'
        " SELECT cases.id, cases.protocol, 'settled', adjudications.round, '', adjudications.created"
        ' FROM cases JOIN adjudications ON adjudications."case" = cases.id'
        " WHERE cases.outcome = 'settled'"
        ' AND adjudications.id IN (SELECT max(id) FROM adjudications GROUP BY "case")'
    )
    withdrawn = _withdrawn_reads()
    newest = 'SELECT "case", reads FROM adjudications WHERE id IN (SELECT max(id) FROM adjudications GROUP BY "case")'
    for case, reads in connection.execute(sa.text(newest)).all():
        if withdrawn & {int(number) for number in reads.split(",")}:
            _take_back(case)


def _withdrawn_reads() -> set[int]:
    """A withdrawal takes back its revision and the reader's earlier ones of the case."""
    query = (
        "SELECT reads.id FROM reads JOIN reads AS later"
        ' ON later."case" = reads."case" AND later.reader = reads.reader AND later.id >= reads.id'
        " JOIN withdrawals ON withdrawals.read = later.id"
    )
    return set(op.get_bind().execute(sa.text(query)).scalars())


def _take_back(case: str) -> None:
    connection = op.get_bind()
    of_case = {"case": case}
    found = connection.execute(sa.text("SELECT protocol, reads, outcome FROM cases WHERE id = :case"), of_case).one()
    if found.outcome != "settled":
        return
    newest = "SELECT content FROM protocols WHERE name = :name ORDER BY version DESC LIMIT 1"
    content = connection.execute(sa.text(newest), {"name": found.protocol}).scalar_one()
    outcome = "unjudged" if found.reads >= json.loads(content)["readers_per_case"] else "open"
    connection.execute(
        sa.text("UPDATE cases SET outcome = :outcome, severity = 0 WHERE id = :case"), {**of_case, "outcome": outcome}
    )
    connection.execute(sa.text("UPDATE disputes SET state = 'withdrawn' WHERE \"case\" = :case"), of_case)
    counted = "UPDATE tallies SET total = total - 1 WHERE protocol = :protocol AND kind = 'settled'"
    connection.execute(sa.text(counted), {"protocol": found.protocol})


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
