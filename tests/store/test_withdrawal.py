"""A read taken back stays where it is and does not count any more."""

import pytest

from labeling_protocols.label import Label
from labeling_protocols.records import Account, Outcome, SeatState
from labeling_protocols.settlement import disputes, settle, truth
from labeling_protocols.store import Store, WithdrawalError
from labeling_protocols.worklist import next_case, seats
from tests.conftest import label_of
from tests.store.test_store import seated_case


def test_a_withdrawn_read_stays_and_does_not_count(store: Store, readers: tuple[Account, Account]) -> None:
    case = seated_case(store, *readers)
    for reader in readers:
        store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of()))
    assert settle(store, case.id) is not None
    store.withdraw(case_id=case.id, reader=readers[0].id, actor=readers[0].id, reason="wrong patient position")
    assert [read.withdrawn for read in store.reads(case.id)] == [True, False]
    assert [read.reader for read in store.latest_reads(case.id)] == [readers[1].id]
    assert truth(store, case.id) is None
    progress = store.progress("hippocampus")
    assert (progress.reads, progress.truths, progress.by_reader) == (1, 0, {readers[1].id: 1})


def test_a_withdrawal_takes_back_every_revision_before_it(store: Store, readers: tuple[Account, Account]) -> None:
    case = seated_case(store, readers[0])
    for shift in (0, 1):
        store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label_of(shift)))
    store.withdraw(case_id=case.id, reader=readers[0].id, actor="command line", reason="read the wrong series")
    assert [read.withdrawn for read in store.reads(case.id)] == [True, True]
    assert store.latest_reads(case.id) == []


def test_the_seat_is_the_readers_again_and_the_same_label_is_a_new_revision(
    store: Store, readers: tuple[Account, Account]
) -> None:
    case = seated_case(store, readers[0])
    store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label_of()))
    store.withdraw(case_id=case.id, reader=readers[0].id, actor=readers[0].id, reason="too early")
    assert next_case(store, "hippocampus", readers[0].id) == case
    read = store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label_of()))
    assert (read.revision, read.withdrawn) == (2, False)
    assert [seat.state for seat in seats(store, case.id)] == [SeatState.READ, SeatState.FREE]


def test_a_dispute_ends_where_one_of_its_reads_is_withdrawn(store: Store, readers: tuple[Account, Account]) -> None:
    case = seated_case(store, *readers)
    for reader, shift in zip(readers, (0, 3), strict=True):
        store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of(shift)))
    assert [dispute.case for dispute in disputes(store, "hippocampus")] == [case.id]
    store.withdraw(case_id=case.id, reader=readers[1].id, actor=readers[1].id, reason="moved the outline by mistake")
    assert disputes(store, "hippocampus") == []
    assert store.cases("hippocampus", (Outcome.OPEN,)) == [case]


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_withdrawal_needs_a_reason_and_a_read(store: Store, readers: tuple[Account, Account], reason: str) -> None:
    case = seated_case(store, readers[0])
    with pytest.raises(WithdrawalError, match="no read"):
        store.withdraw(case_id=case.id, reader=readers[0].id, actor=readers[0].id, reason="a reason")
    store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label_of()))
    with pytest.raises(WithdrawalError, match="reason"):
        store.withdraw(case_id=case.id, reader=readers[0].id, actor=readers[0].id, reason=reason)
    assert [read.withdrawn for read in store.reads(case.id)] == [False]
