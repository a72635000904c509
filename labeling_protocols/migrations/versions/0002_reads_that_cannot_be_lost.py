"""Seats as rows, withdrawals, reviews, tallies, the audit chain, accounts that lock, and tables that only grow."""

import json
import secrets
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_MOMENT = sa.DateTime(timezone=True)
_APPEND_ONLY = (
    "protocols",
    "reads",
    "withdrawals",
    "returned_seats",
    "prelabels",
    "shown_prelabels",
    "reviews",
    "adjudications",
    "audit",
)


def upgrade() -> None:
    _widen()
    _make_tables()
    _make_seats(_old_seats())
    _count()
    _forbid_changes()


def _widen() -> None:
    """New columns; what is already kept gets the values it would have had."""
    connection = op.get_bind()
    op.add_column("protocols", sa.Column("since_version", sa.Integer(), nullable=False, server_default="1"))
    connection.execute(sa.text("UPDATE protocols SET since_version = version"))
    op.add_column("cases", sa.Column("rank", sa.Float(), nullable=False, server_default="0"))
    op.add_column("cases", sa.Column("known_truth", sa.String(64)))
    op.add_column("cases", sa.Column("reads", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("cases", sa.Column("outcome", sa.String(16), nullable=False, server_default="open"))
    op.add_column("cases", sa.Column("severity", sa.Float(), nullable=False, server_default="0"))
    op.create_index("ix_cases_outcome", "cases", ["protocol", "outcome", "severity"])
    _partial_index("ix_cases_calibration", "cases", ["protocol"], "known_truth IS NOT NULL")

    with op.batch_alter_table("accounts") as accounts:
        accounts.alter_column("password", existing_type=sa.Text(), nullable=True)
        accounts.add_column(sa.Column("groups", sa.JSON(), nullable=False, server_default="[]"))
        accounts.add_column(sa.Column("issuer", sa.String(255)))
        accounts.add_column(sa.Column("subject", sa.String(255)))
        accounts.add_column(sa.Column("failures", sa.Integer(), nullable=False, server_default="0"))
        accounts.add_column(sa.Column("locked_until", _MOMENT))
        accounts.add_column(sa.Column("tokens_since", _MOMENT))
        accounts.add_column(sa.Column("password_until", _MOMENT))
        accounts.create_unique_constraint("uq_accounts_issuer_subject", ["issuer", "subject"])

    op.add_column("addresses", sa.Column("id", sa.String(16)))
    op.add_column("addresses", sa.Column("title", sa.String(64), nullable=False, server_default=""))
    op.add_column("addresses", sa.Column("last_used", _MOMENT))
    for (secret,) in connection.execute(sa.text("SELECT secret FROM addresses")).all():
        name = {"id": secrets.token_hex(8), "secret": secret}
        connection.execute(sa.text("UPDATE addresses SET id = :id WHERE secret = :secret"), name)
    with op.batch_alter_table("addresses") as addresses:
        addresses.alter_column("id", existing_type=sa.String(16), nullable=False)
        addresses.create_unique_constraint("uq_addresses_id", ["id"])
    op.create_index("ix_addresses_account", "addresses", ["account"])

    op.drop_index("ix_reads_reader", "reads")
    op.create_index("ix_reads_reader_case", "reads", ["reader", "case"])
    op.add_column("reads", sa.Column("volumes_ml", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("reads", sa.Column("seconds", sa.Float()))
    op.add_column("reads", sa.Column("prelabel_shown", sa.Boolean(), nullable=False, server_default=sa.false()))
    kept = connection.execute(
        sa.text('SELECT reads.id, reads.voxels, cases.geometry FROM reads JOIN cases ON cases.id = reads."case"')
    )
    for read_id, voxels, geometry in kept.all():
        spacing = _parsed(geometry)["spacing_mm_XYZ"]
        voxel_ml = spacing[0] * spacing[1] * spacing[2] / 1000
        volumes = {name: count * voxel_ml for name, count in _parsed(voxels).items()}
        change = {"id": read_id, "volumes": json.dumps(volumes)}
        connection.execute(sa.text("UPDATE reads SET volumes_ml = :volumes WHERE id = :id"), change)
    op.add_column("prelabels", sa.Column("voxels", sa.JSON(), nullable=False, server_default="{}"))


def _make_tables() -> None:
    op.create_table(
        "tallies",
        sa.Column("protocol", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("reader", sa.String(32), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("protocol", "kind", "reader", name="pk_tallies"),
    )
    op.create_table(
        "ended_tokens",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("expires", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ended_tokens"),
    )
    op.create_table(
        "returned_seats",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("case", sa.String(32), nullable=False),
        sa.Column("since_version", sa.Integer(), nullable=False),
        sa.Column("reader", sa.String(32), nullable=False),
        sa.Column("why", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(32), nullable=False),
        sa.Column("created", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["case"], ["cases.id"], name="fk_returned_seats_case_cases"),
        sa.ForeignKeyConstraint(["reader"], ["accounts.id"], name="fk_returned_seats_reader_accounts"),
        sa.PrimaryKeyConstraint("id", name="pk_returned_seats"),
    )
    op.create_index("ix_returned_seats_case", "returned_seats", ["case", "reader"])
    op.create_table(
        "worklists",
        sa.Column("protocol", sa.String(64), nullable=False),
        sa.Column("reader", sa.String(32), nullable=False),
        sa.Column("rank", sa.Float()),
        sa.Column("case", sa.String(32)),
        sa.Column("groups", sa.String(255), nullable=False),
        sa.Column("since_calibration", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["reader"], ["accounts.id"], name="fk_worklists_reader_accounts"),
        sa.PrimaryKeyConstraint("protocol", "reader", name="pk_worklists"),
    )
    op.create_table(
        "withdrawals",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("read", sa.Integer(), nullable=False),
        sa.Column("actor", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["read"], ["reads.id"], name="fk_withdrawals_read_reads"),
        sa.PrimaryKeyConstraint("id", name="pk_withdrawals"),
        sa.UniqueConstraint("read", name="uq_withdrawals_read"),
    )
    op.create_table(
        "shown_prelabels",
        sa.Column("case", sa.String(32), nullable=False),
        sa.Column("reader", sa.String(32), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("created", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["case"], ["cases.id"], name="fk_shown_prelabels_case_cases"),
        sa.ForeignKeyConstraint(["reader"], ["accounts.id"], name="fk_shown_prelabels_reader_accounts"),
        sa.PrimaryKeyConstraint("case", "reader", "model", name="pk_shown_prelabels"),
    )
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("case", sa.String(32), nullable=False),
        sa.Column("read", sa.Integer(), nullable=False),
        sa.Column("reviewer", sa.String(32), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("level", sa.String(32), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("created", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["case"], ["cases.id"], name="fk_reviews_case_cases"),
        sa.ForeignKeyConstraint(["read"], ["reads.id"], name="fk_reviews_read_reads"),
        sa.ForeignKeyConstraint(["reviewer"], ["accounts.id"], name="fk_reviews_reviewer_accounts"),
        sa.PrimaryKeyConstraint("id", name="pk_reviews"),
    )
    op.create_index("ix_reviews_case", "reviews", ["case"])
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("actor", sa.String(32), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.drop_table("verdicts")  # a cache: what it held is computed again from the reads
    op.create_table(
        "verdicts",
        sa.Column("case", sa.String(32), nullable=False),
        sa.Column("reads", sa.String(255), nullable=False),
        sa.Column("protocol_version", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.JSON(), nullable=False),
        sa.Column("agreed", sa.Boolean(), nullable=False),
        sa.Column("severity", sa.Float(), nullable=False),
        sa.Column("consensus", sa.String(64)),
        sa.Column("created", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["case"], ["cases.id"], name="fk_verdicts_case_cases"),
        sa.PrimaryKeyConstraint("case", "reads", "protocol_version", name="pk_verdicts"),
    )


def _old_seats() -> list[Any]:
    connection = op.get_bind()
    query = 'SELECT "case", place, reader, state, lease_until FROM seats ORDER BY "case", place'
    rows = list(connection.execute(sa.text(query).columns(lease_until=_MOMENT)).all())
    op.drop_index("ix_seats_reader", "seats")
    op.drop_table("seats")
    return rows


def _make_seats(taken: list[Any]) -> None:
    seats = op.create_table(
        "seats",
        sa.Column("case", sa.String(32), nullable=False),
        sa.Column("since_version", sa.Integer(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("protocol", sa.String(64), nullable=False),
        sa.Column("rank", sa.Float(), nullable=False),
        sa.Column("group", sa.String(64), nullable=False),
        sa.Column("reader", sa.String(32)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("opened", _MOMENT),
        sa.Column("lease_until", _MOMENT),
        sa.Column("reopened", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["case"], ["cases.id"], name="fk_seats_case_cases"),
        sa.ForeignKeyConstraint(["reader"], ["accounts.id"], name="fk_seats_reader_accounts"),
        sa.PrimaryKeyConstraint("case", "since_version", "place", name="pk_seats"),
        sa.UniqueConstraint("case", "since_version", "reader", name="uq_seats_case_since_version_reader"),
    )
    _partial_index("ix_seats_free", "seats", ["protocol", "since_version", "group", "rank", "case"], "state = 'free'")
    # As the queries write it: SQLite compares the words.
    true = "true" if op.get_bind().dialect.name == "postgresql" else "1"
    reopened = f"state = 'free' AND reopened = {true}"
    _partial_index("ix_seats_reopened", "seats", ["protocol", "since_version", "group", "rank", "case"], reopened)
    _partial_index("ix_seats_claimed", "seats", ["reader", "protocol"], "state = 'claimed'")
    _partial_index("ix_seats_lease", "seats", ["lease_until"], "state = 'claimed'")
    connection = op.get_bind()
    versions = _newest_versions()
    held: dict[str, list[Any]] = {}
    for seat in taken:
        held.setdefault(seat.case, []).append(seat)
    rows = []
    for case_id, protocol in connection.execute(sa.text("SELECT id, protocol FROM cases")).all():
        version, readers = versions[protocol]
        common = {
            "case": case_id,
            "since_version": version,
            "protocol": protocol,
            "rank": 0.0,
            "group": "",
            "reopened": False,
        }
        places = {seat.place: seat for seat in held.get(case_id, [])}
        for place in sorted(places.keys() | set(range(readers))):
            seat = places.get(place)
            if seat is None:
                rows.append({**common, "place": place, "reader": None, "state": "free", "lease_until": None})
            else:
                own = {"reader": seat.reader, "state": seat.state, "lease_until": seat.lease_until}
                rows.append({**common, "place": place, **own})
    if rows and seats is not None:
        connection.execute(sa.insert(seats), rows)


def _count() -> None:
    """Outcomes and tallies of what is kept."""
    connection = op.get_bind()
    connection.execute(
        sa.text(
            "UPDATE cases SET reads ="
            " (SELECT count(*) FROM seats WHERE seats.\"case\" = cases.id AND seats.state = 'read')"
        )
    )
    for protocol, (_, readers) in _newest_versions().items():
        full = {"protocol": protocol, "readers": readers}
        judged = "UPDATE cases SET outcome = 'unjudged' WHERE protocol = :protocol AND reads >= :readers"
        connection.execute(sa.text(judged), full)
    connection.execute(sa.text("UPDATE cases SET outcome = 'settled' WHERE id IN (SELECT \"case\" FROM adjudications)"))
    totals = (
        "SELECT protocol, 'cases', '', count(*) FROM cases GROUP BY protocol",
        "SELECT protocol, 'settled', '', count(*) FROM cases WHERE outcome = 'settled' GROUP BY protocol",
        "SELECT protocol, 'reads', reader, count(*) FROM seats WHERE state = 'read' GROUP BY protocol, reader",
    )
    for query in totals:
        connection.execute(sa.text(f"INSERT INTO tallies (protocol, kind, reader, total) {query}"))


def _newest_versions() -> dict[str, tuple[int, int]]:
    """Version and readers a case of each protocol's newest version."""
    rows = op.get_bind().execute(sa.text("SELECT name, version, content FROM protocols ORDER BY version")).all()
    return {name: (version, json.loads(content)["readers_per_case"]) for name, version, content in rows}


def _forbid_changes() -> None:
    """The database itself refuses to change or delete what is only ever added."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'rows of % are never changed or deleted', TG_TABLE_NAME; END $$"
        )
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


def _partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
