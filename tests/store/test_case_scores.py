"""Orders that strategies made: kept and replaced, and readers who take the next case of one beside the worklist's."""

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from apps.accounts import Accounts
from labeling_protocols import schema
from labeling_protocols.case_scores import (
    CaseScore,
    forget_summaries,
    has_order,
    keep_order,
    keep_summary,
    lacking_summary,
    offers,
    open_cases,
    ordered_cases,
    orders,
    summaries,
)
from labeling_protocols.label import Label
from labeling_protocols.offers import take_next
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import Calibration, SeatRule
from labeling_protocols.records import Account, Case, Role
from labeling_protocols.store import Store, UnknownError, now
from labeling_protocols.worklist import next_case, order, seats, skip
from tests.conftest import OBLIQUE, image_of, label_of

NAME = "hippocampus"
LATER = timedelta(minutes=241)  # one more than the protocol's lease


def add_cases(store: Store, count: int, protocol: str = NAME, first: int = 0) -> list[Case]:
    made = [
        store.add_case(protocol=protocol, patient=f"P{seed}", volume=image_of(seed), modality="MR")[0]
        for seed in range(first, first + count)
    ]
    return sorted(made, key=lambda case: case.id)


def keep(store: Store, *cases: Case, strategy: str = "bald", protocol: str = NAME, model: str = "m 1.0.0") -> None:
    scores = [CaseScore(case=case.id, score=-n, why=f"Place {n}.") for n, case in enumerate(cases)]
    keep_order(store, protocol, strategy, model, scores)


def take_and_read(store: Store, reader: Account, strategy: str = "", protocol: str = NAME) -> str | None:
    case = next_case(store, protocol, reader.id, strategy=strategy)
    if case is None:
        return None
    store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of()))
    return case.id


def read_all(store: Store, reader: Account, strategy: str = "", protocol: str = NAME) -> list[str]:
    found = []
    while (case := take_and_read(store, reader, strategy, protocol)) is not None:
        found.append(case)
    return found


# What is kept


def test_a_newer_order_replaces_the_older_one(store: Store) -> None:
    a, b, c = add_cases(store, 3)
    keep(store, a, b, c)
    keep(store, c, a, model="m 1.0.1")
    keep(store, b, strategy="random", model="")
    order(store, NAME, {a.id: 1.0}, actor="server", strategy="bald", model="m 1.0.1")
    told = [(one.strategy, one.model, one.cases, one.stands) for one in orders(store, NAME)]
    assert told == [("bald", "m 1.0.1", 2, True), ("random", "", 1, False)]
    assert (ordered_cases(store, NAME, "bald"), has_order(store, NAME, "bald")) == (2, True)
    assert (ordered_cases(store, NAME, "hybrid"), has_order(store, NAME, "hybrid")) == (0, False)
    order(store, NAME, {b.id: 1.0}, actor="boss")
    assert not any(one.stands for one in orders(store, NAME)), "ranks somebody gave are nobody's order"


def test_an_order_with_a_foreign_case_is_not_kept(store: Store) -> None:
    [a] = add_cases(store, 1)
    with pytest.raises(UnknownError, match="1 of the scores"):
        keep_order(store, NAME, "bald", "m", [CaseScore(case=n, score=0.0, why="") for n in (a.id, "f" * 16)])
    assert orders(store, NAME) == []


def test_summaries_are_kept_by_model_until_another_is_champion(store: Store) -> None:
    a, b = add_cases(store, 2)
    keep_summary(store, a.id, "m 1", {"voxels": {"anterior": 3.0}})
    keep_summary(store, a.id, "m 1", {"voxels": {"anterior": 4.0}})
    keep_summary(store, b.id, "m 2", {})
    assert dict(summaries(store, [a.id, b.id], "m 1")) == {a.id: {"voxels": {"anterior": 4.0}}}
    assert lacking_summary(store, [a.id, b.id], "m 1") == [b.id]
    forget_summaries(store, NAME, "m 2")
    assert lacking_summary(store, [a.id, b.id], "m 1") == [a.id, b.id]
    assert lacking_summary(store, [a.id, b.id], "m 2") == [a.id]


def test_open_cases_have_a_free_seat_and_are_neither_settled_nor_known(
    store: Store, readers: tuple[Account, Account]
) -> None:
    cases = add_cases(store, 4)
    known, full, begun, fresh = cases
    store.set_calibration(known.id, Label.of(label_of()))
    for reader in readers:
        assert take_and_read(store, reader) == full.id
    assert take_and_read(store, readers[0]) == begun.id
    assert open_cases(store, NAME) == [begun.id, fresh.id]


# Who comes next


def test_a_reader_takes_the_next_case_of_a_strategy_and_then_of_the_worklist(
    store: Store, readers: tuple[Account, Account]
) -> None:
    a, b, c, d = add_cases(store, 4)
    keep(store, c, a)
    assert read_all(store, readers[0], "bald") == [c.id, a.id, b.id, d.id]
    assert read_all(store, readers[1]) == [a.id, b.id, c.id, d.id]


def test_strategies_share_the_seats_so_that_no_case_is_given_too_often(
    store: Store, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    a, b = add_cases(store, 2)
    keep(store, b, a)
    keep(store, b, a, strategy="hybrid")
    assert next_case(store, NAME, readers[0].id, strategy="bald") == b
    assert next_case(store, NAME, readers[1].id, strategy="hybrid") == b
    third = accounts.add("cleo", "cleo-password", frozenset({Role.READER}))
    assert next_case(store, NAME, third.id, strategy="bald") == a
    assert [seat.state for seat in seats(store, b.id)] == ["claimed", "claimed"]


def test_readers_who_ask_at_once_get_no_more_seats_than_there_are(store: Store, accounts: Accounts) -> None:
    cases = add_cases(store, 3)
    keep(store, *reversed(cases))
    people = [accounts.add(f"reader{n}", "a-password", frozenset({Role.READER})) for n in range(8)]
    given: list[str | None] = []
    barrier = threading.Barrier(len(people))

    def ask(reader: Account) -> None:
        barrier.wait()
        case = next_case(store, NAME, reader.id, strategy="bald")
        given.append(case.id if case else None)

    threads = [threading.Thread(target=ask, args=(reader,)) for reader in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(given, key=str) == sorted([case.id for case in cases] * 2 + [None, None], key=str)


def test_an_unread_case_comes_before_what_a_strategy_would_give(store: Store, readers: tuple[Account, Account]) -> None:
    a, b = add_cases(store, 2)
    keep(store, b, a)
    assert next_case(store, NAME, readers[0].id) == a
    assert next_case(store, NAME, readers[0].id, strategy="bald") == a


def test_a_reader_at_the_end_of_an_order_is_offered_what_comes_free_and_what_is_ordered_anew(
    store: Store, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    a, b, c = add_cases(store, 3)
    keep(store, b, a)
    for reader in readers:
        assert next_case(store, NAME, reader.id, strategy="bald") == b
    third = accounts.add("cleo", "cleo-password", frozenset({Role.READER}))
    assert take_and_read(store, third, "bald") == a.id
    skip(store, b.id, readers[0].id, "not sure")
    assert take_and_read(store, third, "bald") == b.id
    keep(store, c, b, a)
    assert read_all(store, third, "bald") == [c.id]


def test_lapsed_seats_and_skipped_cases_are_as_in_the_worklist(store: Store, readers: tuple[Account, Account]) -> None:
    a, b = add_cases(store, 2)
    keep(store, b, a)
    ann, ben = readers
    assert next_case(store, NAME, ann.id, strategy="bald") == b
    skip(store, b.id, ann.id, "I know this patient")
    assert next_case(store, NAME, ann.id, strategy="bald") == a
    assert take_and_read(store, ben, "bald") == b.id
    assert next_case(store, NAME, ben.id, strategy="bald", at=now() + LATER) == a
    assert [seat.reader for seat in seats(store, a.id)].count(ann.id) == 0


def test_a_new_version_of_the_protocol_is_looked_at_from_the_start(
    store: Store, protocol: Protocol, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    a, b = add_cases(store, 2)
    keep(store, b, a)
    third = accounts.add("cleo", "cleo-password", frozenset({Role.READER}))
    for reader in readers:
        assert take_and_read(store, reader, "bald") == b.id
    assert take_and_read(store, third, "bald") == a.id
    store.add_protocol(replace(protocol, version=2, readers_per_case=3))
    assert take_and_read(store, third, "bald") == b.id


def test_seats_of_groups_are_kept_for_them(store: Store, protocol: Protocol, accounts: Accounts) -> None:
    rules = (SeatRule(count=1, group="neuro"), SeatRule(count=1))
    store.add_protocol(replace(protocol, name="heads", seats=rules))
    [case] = add_cases(store, 1, "heads")
    keep(store, case, protocol="heads")
    people = [accounts.add(name, "a-password", frozenset({Role.READER})) for name in ("one", "two", "expert")]
    given = [next_case(store, "heads", reader.id, strategy="bald") for reader in people]
    assert given == [case, None, None]
    accounts.change(people[2].id, actor="boss", groups=frozenset({"neuro"}))
    assert next_case(store, "heads", people[2].id, strategy="bald") == case


# Why


def test_why_a_case_was_given_is_remembered_with_the_strategy_that_gave_it(
    store: Store, readers: tuple[Account, Account]
) -> None:
    ann, ben = readers
    a, b = add_cases(store, 2)
    keep(store, b, a)
    keep(store, a, b, strategy="random", model="")
    order(store, NAME, {a.id: 2.0, b.id: 1.0}, actor="server", strategy="random")
    take_and_read(store, ann, "bald")
    take_and_read(store, ann)
    told = offers(store, ann.id, [a.id, b.id])
    assert {case: (one.strategy, one.model, one.why) for case, one in told.items()} == {
        b.id: ("bald", "m 1.0.0", "Place 0."),
        a.id: ("random", "", "Place 0."),
    }
    assert offers(store, ben.id, [a.id, b.id]) == {}
    keep(store, a, b)
    assert offers(store, ann.id, [b.id])[b.id].why == "Place 0.", "it says why the case was chosen then"


def test_without_a_strategy_there_is_no_reason_to_tell(store: Store, readers: tuple[Account, Account]) -> None:
    [a] = add_cases(store, 1)
    assert next_case(store, NAME, readers[0].id) == a
    assert offers(store, readers[0].id, [a.id]) == {}


def test_a_calibration_case_comes_in_its_turn_with_a_sentence_as_any_other(
    store: Store, protocol: Protocol, readers: tuple[Account, Account]
) -> None:
    mixed = replace(protocol, name="mixed", calibration=Calibration(every=2))
    store.add_protocol(mixed)
    cases = add_cases(store, 4, "mixed")
    known = cases[0]
    store.set_calibration(known.id, Label.of(label_of()))
    keep(store, *reversed(cases), protocol="mixed")
    order = [take_and_read(store, readers[0], "bald", "mixed") for _ in range(4)]
    assert order == [cases[3].id, cases[2].id, known.id, cases[1].id]
    told = offers(store, readers[0].id, [case.id for case in cases])
    assert {case: one.why for case, one in told.items()} == {case.id: f"Place {3 - n}." for n, case in enumerate(cases)}


# Twenty thousand cases


def many_cases(store: Store, count: int) -> None:
    """Rows of cases with two free seats each and an order, as `ingest` and a scoring leave them."""
    moment = now()
    ids = [f"{n:016x}" for n in range(count)]
    case = {"protocol": NAME, "geometry": OBLIQUE.as_json(), "modality": "MR", "created": moment, "rank": 0.0}
    seat = {"since_version": 1, "protocol": NAME, "rank": 0.0, "group": "", "state": "free", "reopened": False}
    score = {"protocol": NAME, "strategy": "bald", "model": "m", "score": 0.0, "why": "", "created": moment}
    with store.writing() as connection:
        rows = [{"id": n, "patient": n, "image": n.zfill(64), **case} for n in ids]
        connection.execute(sa.insert(schema.cases), rows)
        connection.execute(sa.insert(schema.seats), [{"case": n, "place": p, **seat} for n in ids for p in (0, 1)])
        connection.execute(sa.insert(schema.case_scores), [{"case": n, "place": p, **score} for p, n in enumerate(ids)])
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("analyze"))


def test_the_next_case_of_an_order_of_20000_looks_at_a_few_rows_however_many_were_read(
    store: Store, readers: tuple[Account, Account]
) -> None:
    many_cases(store, 20_000)
    reader = readers[0].id
    with store.writing() as connection:
        # The reader has read the first 15,000, of which one seat each is still free.
        read = sa.and_(schema.seats.c.place == 0, schema.seats.c.case < f"{15_000:016x}")
        connection.execute(sa.update(schema.seats).where(read).values(reader=reader, state="read"))
    assert next_case(store, NAME, reader, strategy="bald").id == f"{15_000:016x}"  # type: ignore[union-attr]
    looked_at = []
    for number in range(15_000, 15_003):
        skip(store, f"{number:016x}", reader, "next")
        looked_at.append(rows_looked_at(store, reader))
    assert max(looked_at) < 500, looked_at


def rows_looked_at(store: Store, reader: str) -> int:
    """Steps of SQLite's machine, in hundreds, or rows that PostgreSQL's plans say they went through, for one case."""
    if store.engine.dialect.name == "sqlite":
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        def watch(connection: object, *_: object) -> None:
            connection.set_progress_handler(count, 100)  # type: ignore[attr-defined]

        sa.event.listen(store.engine, "checkout", watch)
        try:
            assert next_case(store, NAME, reader, strategy="bald") is not None
        finally:
            sa.event.remove(store.engine, "checkout", watch)
        return steps
    table = sa.text("select coalesce(sum(seq_tup_read), 0) from pg_stat_xact_user_tables where relname <> 'worklists'")
    return _sequential(store, reader, table)


def _sequential(store: Store, reader: str, query: sa.TextClause) -> int:
    """Rows read by going through whole tables, within one transaction that takes the next case."""
    with store.writing() as connection:
        before = connection.execute(query).scalar_one()
        taken = take_next(connection, store.asked(NAME, connection), reader, now(), LATER, "bald")
        assert taken is not None
        return int(connection.execute(query).scalar_one() - before)
