"""What is done leaves an entry that nobody can change, take out or cut off unnoticed."""

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError

from apps.settings import Site
from labeling_protocols import audit, schema
from labeling_protocols.audit import Action, entries, verify
from labeling_protocols.label import Label
from labeling_protocols.records import Account, Part, Role
from labeling_protocols.settlement import adjudicate
from labeling_protocols.store import Store
from labeling_protocols.worklist import next_case, reassign, skip
from tests.conftest import label_of
from tests.store.test_store import add_case, seated_case


def actions(store: Store) -> list[str]:
    with store.engine.connect() as connection:
        return [entry.action for entry in entries(connection)]


def without_triggers(store: Store, statement: str) -> None:
    """Change a row as somebody with the database's own rights could."""
    with store.writing() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("ALTER TABLE audit DISABLE TRIGGER ALL"))
        else:
            connection.execute(sa.text("DROP TRIGGER audit_no_update"))
            connection.execute(sa.text("DROP TRIGGER audit_no_delete"))
        connection.execute(sa.text(statement))


def test_a_case_leaves_its_story(store: Store, site: Site, accounts: object, readers: tuple[Account, Account]) -> None:
    case = seated_case(store, *readers)
    for reader, shift in zip(readers, (0, 3), strict=True):
        store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of(shift)))
    judge = accounts.add("cleo", "cleo-password", frozenset({Role.ADJUDICATOR}))  # type: ignore[attr-defined]
    adjudicate(
        store,
        case_id=case.id,
        adjudicator=judge.id,
        parts=[Part(source=f"reader:{readers[0].id}")],
        rationale="follows the alveus",
        signing_key=site.signing_key,
    )
    with store.engine.connect() as connection:
        story = [(entry.actor, entry.action) for entry in entries(connection) if entry.subject == case.id]
        report = verify(connection)
    ann, ben = (reader.id for reader in readers)
    assert story == [
        ("server", Action.CASE_ADDED),
        (ann, Action.SEAT_CLAIMED),
        (ben, Action.SEAT_CLAIMED),
        (ann, Action.READ_SAVED),
        (ben, Action.READ_SAVED),
        ("server", Action.DISPUTE_MADE),
        (judge.id, Action.DISPUTE_CLAIMED),
        (judge.id, Action.ADJUDICATED),
    ]
    assert (report.broken, report.entries) == (None, len(actions(store)))


def test_what_changes_nothing_leaves_no_entry(store: Store, readers: tuple[Account, Account]) -> None:
    case = seated_case(store, readers[0])
    store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label_of()))
    before = actions(store)
    store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label_of()))
    next_case(store, "hippocampus", readers[0].id)
    assert actions(store) == before


def test_skipping_and_reassigning_are_told(store: Store, readers: tuple[Account, Account]) -> None:
    case = seated_case(store, *readers)
    skip(store, case.id, readers[0].id, "motion artefacts")
    reassign(store, case.id, from_reader=readers[1].id, to_reader=None, actor="command line", reason="on leave")
    assert actions(store)[-2:] == [Action.SEAT_SKIPPED, Action.SEAT_REASSIGNED]


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("UPDATE audit SET actor = 'somebody' WHERE id = 3", 3),
        ("UPDATE audit SET details = '{}' WHERE id = 2", 2),
        ("DELETE FROM audit WHERE id = 2", 2),
        ("UPDATE audit SET id = 99 WHERE id = 1", 1),
    ],
    ids=["actor", "details", "taken out", "renumbered"],
)
def test_the_first_broken_entry_is_named(
    store: Store, readers: tuple[Account, Account], statement: str, broken: int
) -> None:
    add_case(store, 1), add_case(store, 2)
    without_triggers(store, statement)
    with store.engine.connect() as connection:
        report = verify(connection)
    assert report.broken == broken
    assert str(broken) in report.reason


def test_a_chain_cut_short_is_seen_by_whoever_noted_its_head(store: Store) -> None:
    add_case(store, 1)
    with store.engine.connect() as connection:
        head = verify(connection).head
    add_case(store, 2)
    with store.engine.connect() as connection:
        assert verify(connection, head=head).broken is None
    without_triggers(store, "DELETE FROM audit WHERE id > 1")
    with store.engine.connect() as connection:
        assert verify(connection).broken is None
        assert verify(connection, head=head).broken == 2


@pytest.mark.parametrize("table", schema.APPEND_ONLY)
@pytest.mark.parametrize("act", ["update", "delete"])
def test_the_database_refuses_to_change_what_is_only_added(
    store: Store, site: Site, accounts: object, readers: tuple[Account, Account], table: str, act: str
) -> None:
    case = seated_case(store, *readers)
    store.save_prelabel(case.id, "m 1", Label.of(label_of()))
    for reader, shift in zip(readers, (0, 3), strict=True):
        store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of(shift)))
    rows = schema.metadata.tables[table]
    column = next(iter(rows.c))
    statement = sa.update(rows).values({column: column}) if act == "update" else sa.delete(rows)
    with store.engine.connect() as connection:
        some = connection.execute(sa.select(rows)).first() is not None
    if some or store.engine.dialect.name == "postgresql":  # SQLite's triggers fire for rows only
        with pytest.raises(DatabaseError, match="never changed or deleted"), store.writing() as connection:
            connection.execute(statement)


def test_an_entry_and_what_it_tells_stand_or_fall_together(store: Store, readers: tuple[Account, Account]) -> None:
    case = seated_case(store, readers[0])
    before = actions(store)
    with pytest.raises(DatabaseError):
        _insert_twice(store, case.id, readers[0].id)
    assert actions(store) == before


def _insert_twice(store: Store, case: str, reader: str) -> None:
    with store.writing() as connection:
        audit.append(connection, actor="server", action=Action.CASE_ADDED, subject=case)
        seat = {"case": case, "since_version": 1, "place": 7, "protocol": "hippocampus", "reader": reader}
        connection.execute(sa.insert(schema.seats).values(seat))
