"""Every reader gets cases with a free seat, and his own unfinished one first."""

from datetime import timedelta

from apps.accounts import Accounts
from labeling_protocols.records import Account, Role, SeatState
from labeling_protocols.store import Store, now
from labeling_protocols.worklist import next_case, seats
from tests.conftest import image_of, label_of


def add_cases(store: Store, count: int) -> None:
    for seed in range(count):
        store.add_case(protocol="hippocampus", patient=f"P{seed}", volume=image_of(seed), modality="MR")


def test_a_reader_who_was_interrupted_gets_the_same_case_again(store: Store, readers: tuple[Account, Account]) -> None:
    add_cases(store, 3)
    assert next_case(store, "hippocampus", readers[0].id) == next_case(store, "hippocampus", readers[0].id)


def test_a_case_is_given_to_as_many_readers_as_the_protocol_asks(
    store: Store, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    third = accounts.add("cleo", "cleo-password", frozenset({Role.READER}))
    add_cases(store, 2)
    ann, ben = (next_case(store, "hippocampus", reader.id) for reader in readers)
    assert ann is not None
    assert ann == ben
    other = next_case(store, "hippocampus", third.id)
    assert other is not None
    assert other != ann


def test_a_finished_case_is_not_handed_out_again(store: Store, readers: tuple[Account, Account]) -> None:
    add_cases(store, 1)
    case = next_case(store, "hippocampus", readers[0].id)
    assert case is not None
    store.save_read(case_id=case.id, reader=readers[0].id, label=label_of())
    assert next_case(store, "hippocampus", readers[0].id) is None
    assert [seat.state for seat in seats(store, case.id)] == [SeatState.READ]


def test_a_lapsed_seat_is_given_to_somebody_else(
    store: Store, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    third = accounts.add("cleo", "cleo-password", frozenset({Role.READER}))
    add_cases(store, 1)
    for reader in readers:
        next_case(store, "hippocampus", reader.id)
    assert next_case(store, "hippocampus", third.id) is None
    assert next_case(store, "hippocampus", third.id, at=now() + timedelta(days=1)) is not None


def test_a_finished_read_keeps_its_seat_when_the_lease_ends(
    store: Store, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    third = accounts.add("cleo", "cleo-password", frozenset({Role.READER}))
    add_cases(store, 1)
    for reader in readers:
        case = next_case(store, "hippocampus", reader.id)
        assert case is not None
        store.save_read(case_id=case.id, reader=reader.id, label=label_of())
    assert next_case(store, "hippocampus", third.id, at=now() + timedelta(days=1)) is None
