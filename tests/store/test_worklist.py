"""Every reader gets cases with a free seat in order, the unfinished one first, and never a finished one."""

from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from apps.accounts import Accounts
from labeling_protocols import audit, schema
from labeling_protocols.audit import Action, Entry
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import Calibration, SeatRule
from labeling_protocols.records import Account, Case, Outcome, Role, SeatState
from labeling_protocols.store import SeatError, Store, UnknownError, now
from labeling_protocols.worklist import WorklistError, next_case, order, own_work, reassign, renew, seats, skip
from tests.conftest import image_of, label_of

NAME = "hippocampus"
LATER = timedelta(minutes=241)  # one more than the protocol's lease
READER = frozenset({Role.READER})


def add_cases(store: Store, count: int, protocol: str = NAME, first: int = 0) -> list[Case]:
    """New cases in the order they are offered: by id, as no scores say otherwise."""
    made = [
        store.add_case(protocol=protocol, patient=f"P{seed}", volume=image_of(seed), modality="MR")[0]
        for seed in range(first, first + count)
    ]
    return sorted(made, key=lambda case: case.id)


def add_reader(accounts: Accounts, name: str = "cleo", *groups: str) -> Account:
    return accounts.add(name, f"{name}-password", READER, frozenset(groups))


def read(store: Store, case: Case, reader: Account, shift: int = 0) -> None:
    store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of(shift)))


def read_all(store: Store, reader: Account, protocol: str = NAME) -> list[str]:
    """Take and read cases until none comes; their ids in the order they came."""
    found = []
    while (case := next_case(store, protocol, reader.id)) is not None:
        read(store, case, reader)
        found.append(case.id)
    return found


def states(store: Store, case: Case) -> list[SeatState]:
    return [seat.state for seat in seats(store, case.id)]


def entries(store: Store, action: Action) -> list[Entry]:
    with store.engine.connect() as connection:
        return [entry for entry in audit.entries(connection) if entry.action == action]


def outcome(store: Store, case: Case) -> str:
    with store.engine.connect() as connection:
        return str(connection.execute(sa.select(schema.cases.c.outcome).where(schema.cases.c.id == case.id)).scalar())


# Taking seats


def test_a_seat_is_claimed_with_its_audit_entry(store: Store, readers: tuple[Account, Account]) -> None:
    [case] = add_cases(store, 1)
    assert states(store, case) == [SeatState.FREE, SeatState.FREE]
    assert next_case(store, NAME, readers[0].id) == case
    assert states(store, case) == [SeatState.CLAIMED, SeatState.FREE]
    [entry] = entries(store, Action.SEAT_CLAIMED)
    assert (entry.actor, entry.subject) == (readers[0].id, case.id)


def test_a_reader_who_was_interrupted_gets_the_same_case_again(store: Store, readers: tuple[Account, Account]) -> None:
    add_cases(store, 3)
    assert next_case(store, NAME, readers[0].id) == next_case(store, NAME, readers[0].id)
    assert len(entries(store, Action.SEAT_CLAIMED)) == 1


def test_a_case_is_given_to_as_many_readers_as_the_protocol_asks(
    store: Store, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    third = add_reader(accounts)
    first, second = add_cases(store, 2)
    assert [next_case(store, NAME, reader.id) for reader in readers] == [first, first]
    assert next_case(store, NAME, third.id) == second


def test_a_finished_case_is_not_handed_out_again(
    store: Store, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    [case] = add_cases(store, 1)
    for reader in readers:
        assert next_case(store, NAME, reader.id) == case
        read(store, case, reader)
        assert next_case(store, NAME, reader.id) is None
    assert states(store, case) == [SeatState.READ, SeatState.READ]
    assert next_case(store, NAME, add_reader(accounts).id, at=now() + LATER) is None


def test_every_case_is_read_by_two_of_three_readers_and_no_seat_is_given_twice(
    store: Store, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    cases = add_cases(store, 6)
    three = (*readers, add_reader(accounts))
    had: dict[str, list[str]] = {case.id: [] for case in cases}
    left = list(three)
    while left:
        for reader in list(left):
            case = next_case(store, NAME, reader.id)
            if case is None:
                left.remove(reader)
                continue
            had[case.id].append(reader.id)
            read(store, case, reader)
    assert all(len(set(found)) == len(found) == 2 for found in had.values())


# Leases


def test_a_lapsed_seat_is_given_to_somebody_else(
    store: Store, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    third = add_reader(accounts)
    [case] = add_cases(store, 1)
    for reader in readers:
        next_case(store, NAME, reader.id)
    assert next_case(store, NAME, third.id) is None
    assert next_case(store, NAME, third.id, at=now() + LATER) == case
    assert [entry.actor for entry in entries(store, Action.SEAT_LAPSED)] == ["server", "server"]


def test_work_on_a_case_renews_its_lease(store: Store, accounts: Accounts, readers: tuple[Account, Account]) -> None:
    begun = now()
    [case] = add_cases(store, 1)
    for reader in readers:
        next_case(store, NAME, reader.id, at=begun)
    renew(store, case.id, readers[0].id, at=begun + LATER / 2)
    third = add_reader(accounts)
    assert next_case(store, NAME, third.id, at=begun + LATER) == case
    assert {seat.reader for seat in seats(store, case.id)} == {readers[0].id, third.id}


def test_a_renewal_by_somebody_without_a_seat_does_nothing(store: Store, readers: tuple[Account, Account]) -> None:
    [case] = add_cases(store, 1)
    renew(store, case.id, readers[0].id)
    assert states(store, case) == [SeatState.FREE, SeatState.FREE]


def test_who_comes_back_after_the_lease_ended_goes_on_where_nobody_took_the_seat(
    store: Store, readers: tuple[Account, Account]
) -> None:
    [case] = add_cases(store, 1)
    next_case(store, NAME, readers[0].id)
    assert next_case(store, NAME, readers[0].id, at=now() + 2 * LATER) == case
    lease = seats(store, case.id)[0].lease_until
    assert lease is not None
    assert lease > now() + 2 * LATER


def test_a_finished_read_keeps_its_seat_when_the_lease_ends(
    store: Store, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    [case] = add_cases(store, 1)
    for reader in readers:
        next_case(store, NAME, reader.id)
        read(store, case, reader)
    assert next_case(store, NAME, add_reader(accounts).id, at=now() + LATER) is None


def test_a_late_save_after_the_lease_is_kept(
    store: Store, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    """The seat was given to a third reader, who holds it; the work of the first is not turned away."""
    ann, ben = readers
    third = add_reader(accounts)
    [case] = add_cases(store, 1)
    for reader in readers:
        next_case(store, NAME, reader.id)
    read(store, case, ben)
    assert next_case(store, NAME, third.id, at=now() + LATER) == case
    read(store, case, ann)
    assert [kept.reader for kept in store.latest_reads(case.id)] == sorted((ann.id, ben.id))
    assert sorted(states(store, case)) == [SeatState.CLAIMED, SeatState.READ, SeatState.READ]


def test_a_seat_that_came_free_after_enough_reads_is_offered_to_nobody(
    store: Store, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    ann, ben = readers
    third = add_reader(accounts)
    [case] = add_cases(store, 1)
    for reader in readers:
        next_case(store, NAME, reader.id)
    read(store, case, ben)
    next_case(store, NAME, third.id, at=now() + LATER)
    read(store, case, ann)
    skip(store, case.id, third.id, "enough read it")
    assert SeatState.FREE in states(store, case)
    assert next_case(store, NAME, add_reader(accounts, "dora").id) is None


def test_a_late_save_into_a_group_takes_the_seat_that_was_the_groups(
    store: Store, accounts: Accounts, protocol: Protocol
) -> None:
    store.add_protocol(replace(protocol, name="chests", readers_per_case=1, seats=(SeatRule(count=1, group="thorax"),)))
    [case] = add_cases(store, 1, "chests")
    late, other = add_reader(accounts, "late", "thorax"), add_reader(accounts, "other", "thorax")
    next_case(store, "chests", late.id)
    next_case(store, "chests", other.id, at=now() + LATER)
    skip(store, case.id, other.id, "not mine")
    read(store, case, late)
    assert states(store, case) == [SeatState.READ]


# Skipping and reassigning


def test_a_skipped_case_is_offered_to_others_and_not_to_who_skipped_it(
    store: Store, readers: tuple[Account, Account]
) -> None:
    ann, ben = readers
    first, second = add_cases(store, 2)
    assert next_case(store, NAME, ann.id) == first
    skip(store, first.id, ann.id, " moved during the scan ")
    assert next_case(store, NAME, ann.id) == second
    assert read_all(store, ann) == [second.id]
    assert read_all(store, ben) == [first.id, second.id]
    [entry] = entries(store, Action.SEAT_SKIPPED)
    assert (entry.actor, entry.subject) == (ann.id, first.id)
    assert "moved during the scan" in entry.details


def test_a_skip_needs_a_reason_and_a_claimed_seat(store: Store, readers: tuple[Account, Account]) -> None:
    ann, ben = readers
    [case] = add_cases(store, 1)
    next_case(store, NAME, ann.id)
    with pytest.raises(WorklistError, match="needs a reason"):
        skip(store, case.id, ann.id, "  ")
    with pytest.raises(SeatError, match="no seat"):
        skip(store, case.id, ben.id, "why not")
    read(store, case, ann)
    with pytest.raises(WorklistError, match="read already"):
        skip(store, case.id, ann.id, "too late")
    assert states(store, case) == [SeatState.READ, SeatState.FREE]


def test_a_skip_on_a_readers_behalf_says_who_did_it(store: Store, readers: tuple[Account, Account]) -> None:
    [case] = add_cases(store, 1)
    next_case(store, NAME, readers[0].id)
    skip(store, case.id, readers[0].id, "on leave", actor="command line")
    [entry] = entries(store, Action.SEAT_SKIPPED)
    assert entry.actor == "command line"
    assert readers[0].id in entry.details


def test_an_administrator_gives_a_seat_to_another_reader(
    store: Store, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    ann, ben = readers
    third = add_reader(accounts)
    first, second = add_cases(store, 2)
    for reader in readers:
        next_case(store, NAME, reader.id)
    reassign(store, first.id, from_reader=ann.id, to_reader=third.id, actor="boss", reason="ann is on leave")
    assert {seat.reader for seat in seats(store, first.id)} == {ben.id, third.id}
    assert next_case(store, NAME, third.id) == first
    assert next_case(store, NAME, ann.id) == second
    assert [entry.actor for entry in entries(store, Action.SEAT_REASSIGNED)] == ["boss"]
    given = entries(store, Action.SEAT_CLAIMED)[2]
    assert given.actor == "boss"
    assert third.id in given.details


def test_a_seat_taken_away_takes_no_late_save(store: Store, readers: tuple[Account, Account]) -> None:
    [case] = add_cases(store, 1)
    next_case(store, NAME, readers[0].id)
    reassign(store, case.id, from_reader=readers[0].id, to_reader=None, actor="boss")
    with pytest.raises(SeatError, match="Nothing was saved"):
        read(store, case, readers[0])
    assert states(store, case) == [SeatState.FREE, SeatState.FREE]


def test_an_administrator_gives_a_free_seat_to_a_reader_of_their_choice(
    store: Store, readers: tuple[Account, Account]
) -> None:
    first, second = add_cases(store, 2)
    reassign(store, second.id, from_reader=None, to_reader=readers[0].id, actor="boss")
    assert next_case(store, NAME, readers[0].id) == second
    assert next_case(store, NAME, readers[1].id) == first


def test_a_reassignment_that_cannot_be_changes_nothing(
    store: Store, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    ann, ben = readers
    judge = accounts.add("judge", "judge-password", frozenset({Role.ADJUDICATOR}))
    gone = accounts.add("gone", "gone-password", READER)
    accounts.change(gone.id, actor="boss", disabled=True)
    [case] = add_cases(store, 1)
    next_case(store, NAME, ann.id)
    next_case(store, NAME, ben.id)
    before = seats(store, case.id)
    for from_reader, to_reader, words in (
        (ann.id, ben.id, "has a seat"),
        (ann.id, judge.id, "role reader"),
        (ann.id, gone.id, "role reader"),
        (ann.id, "nobody", "role reader"),
        (None, gone.id, "role reader"),
        (None, None, "name the reader"),
    ):
        with pytest.raises(WorklistError, match=words):
            reassign(store, case.id, from_reader=from_reader, to_reader=to_reader, actor="boss")
    with pytest.raises(SeatError):
        reassign(store, case.id, from_reader=judge.id, to_reader=None, actor="boss")
    assert seats(store, case.id) == before


# Groups


def test_a_groups_seat_waits_for_one_of_the_group(store: Store, accounts: Accounts, protocol: Protocol) -> None:
    rules = (SeatRule(count=1, group="neuro"), SeatRule(count=1))
    store.add_protocol(replace(protocol, name="heads", seats=rules))
    [case] = add_cases(store, 1, "heads")
    anyone, other, expert = (add_reader(accounts, name) for name in ("anyone", "other", "expert"))
    assert next_case(store, "heads", anyone.id) == case
    assert next_case(store, "heads", other.id) is None
    assert next_case(store, "heads", expert.id) is None
    accounts.change(expert.id, actor="boss", groups=frozenset({"neuro"}))
    assert next_case(store, "heads", expert.id) == case, "a reader who joined a group looks at the list again"
    with pytest.raises(WorklistError, match="no free seat"):
        reassign(store, case.id, from_reader=expert.id, to_reader=other.id, actor="boss")


def test_a_reader_of_many_groups_is_offered_cases(store: Store, accounts: Accounts) -> None:
    """Their names together are longer than the column that remembers them."""
    reader = add_reader(accounts, "many", *(f"group_{number:035d}" for number in range(12)))
    first, second = add_cases(store, 2)
    assert read_all(store, reader) == [first.id, second.id]


# Order


def test_cases_come_in_the_order_of_their_scores_highest_first(store: Store, readers: tuple[Account, Account]) -> None:
    a, b, c = add_cases(store, 3)
    order(store, NAME, {a.id: 0.1, c.id: 0.9, b.id: 0.5}, actor="server")
    assert read_all(store, readers[0]) == [c.id, b.id, a.id]
    assert [entry.subject for entry in entries(store, Action.CASES_RANKED)] == [NAME]


def test_new_scores_count_for_a_reader_in_the_middle_of_the_list(
    store: Store, readers: tuple[Account, Account]
) -> None:
    a, b, c, d = add_cases(store, 4)
    ann = readers[0]
    for case in (a, b):
        assert next_case(store, NAME, ann.id) == case
        read(store, case, ann)
    order(store, NAME, {a.id: 0.9, b.id: 0.8, d.id: 0.7, c.id: 0.1}, actor="server")
    assert read_all(store, ann) == [d.id, c.id]


def test_scores_that_cannot_be_used_change_nothing(store: Store, readers: tuple[Account, Account]) -> None:
    a, b = add_cases(store, 2)
    with pytest.raises(WorklistError, match="finite"):
        order(store, NAME, {a.id: 0.1, b.id: float("nan")}, actor="server")
    with pytest.raises(UnknownError, match="1 of the scores"):
        order(store, NAME, {b.id: 0.9, "nothing": 0.1}, actor="server")
    assert read_all(store, readers[0]) == [a.id, b.id]


def test_a_reader_at_the_end_is_offered_what_comes_free_before(
    store: Store, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    ann, ben = readers
    third = add_reader(accounts)
    first, second = add_cases(store, 2)
    for reader in readers:
        assert next_case(store, NAME, reader.id) == first
    assert read_all(store, third) == [second.id]
    skip(store, first.id, ann.id, "not sure")
    assert next_case(store, NAME, third.id) == first
    skip(store, first.id, third.id, "nor am I")
    reassign(store, first.id, from_reader=ben.id, to_reader=None, actor="boss")
    assert next_case(store, NAME, third.id) is None
    late = add_reader(accounts, "late")
    assert read_all(store, late) == [first.id, second.id]


def test_a_reader_at_the_end_is_offered_a_lapsed_seat(
    store: Store, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    third = add_reader(accounts)
    first, second = add_cases(store, 2)
    for reader in readers:
        assert next_case(store, NAME, reader.id) == first
    assert read_all(store, third) == [second.id]
    assert next_case(store, NAME, third.id, at=now() + LATER) == first


def test_a_reader_at_the_end_is_offered_new_cases_wherever_they_come_in_the_order(
    store: Store, readers: tuple[Account, Account]
) -> None:
    add_cases(store, 4)
    read_all(store, readers[0])
    new = add_cases(store, 4, first=10)
    assert sorted(read_all(store, readers[0])) == [case.id for case in new]


def test_a_withdrawn_read_is_made_anew_by_the_same_reader(store: Store, readers: tuple[Account, Account]) -> None:
    ann = readers[0]
    first, second = add_cases(store, 2)
    assert read_all(store, ann) == [first.id, second.id]
    store.withdraw(case_id=first.id, reader=ann.id, actor=ann.id, reason="wrong side")
    assert next_case(store, NAME, ann.id) == first
    read(store, first, ann, shift=1)
    assert next_case(store, NAME, ann.id) is None
    assert [kept.revision for kept in store.latest_reads(first.id)] == [2]


# A reader's own work


def test_own_work_shows_what_is_held_then_what_was_read_last(store: Store, readers: tuple[Account, Account]) -> None:
    ann, ben = readers
    first, second, third = add_cases(store, 3)
    read_all(store, ben)
    for case in (first, second):
        assert next_case(store, NAME, ann.id) == case
        read(store, case, ann)
    read(store, first, ann, shift=1)
    next_case(store, NAME, ann.id)
    work = own_work(store, NAME, ann.id)
    assert [(one.case, one.state, one.revision) for one in work] == [
        (third.id, SeatState.CLAIMED, None),
        (first.id, SeatState.READ, 2),
        (second.id, SeatState.READ, 1),
    ]
    assert work[0].lease_until is not None
    assert all(one.saved is not None and one.seconds is not None for one in work[1:])


# New versions of a protocol


def test_a_compatible_version_keeps_reads_and_asks_one_reader_more(
    store: Store, accounts: Accounts, readers: tuple[Account, Account], protocol: Protocol
) -> None:
    [case] = add_cases(store, 1)
    for reader in readers:
        next_case(store, NAME, reader.id)
        read(store, case, reader)
    third = add_reader(accounts)
    assert next_case(store, NAME, third.id) is None
    store.add_protocol(replace(protocol, version=2, readers_per_case=3))
    assert states(store, case) == [SeatState.READ, SeatState.READ, SeatState.FREE]
    assert next_case(store, NAME, readers[0].id) is None
    assert next_case(store, NAME, third.id) == case
    read(store, case, third)
    assert [kept.protocol_version for kept in store.reads(case.id)] == [1, 1, 2]
    assert len(store.latest_reads(case.id)) == 3
    assert store.progress(NAME).reads == 3


def test_a_reader_saves_again_under_a_compatible_version_and_own_work_shows_it(
    store: Store, readers: tuple[Account, Account], protocol: Protocol
) -> None:
    ann = readers[0]
    [case] = add_cases(store, 1)
    next_case(store, NAME, ann.id)
    read(store, case, ann)
    read(store, case, ann, shift=1)
    store.add_protocol(replace(protocol, version=2, title="Both hippocampi"))
    read(store, case, ann, shift=2)
    [work] = own_work(store, NAME, ann.id)
    [newest] = store.latest_reads(case.id)
    assert (newest.protocol_version, newest.revision) == (2, 1)
    assert (work.revision, work.saved) == (1, newest.created)


def test_an_incompatible_version_has_every_case_read_again(
    store: Store, readers: tuple[Account, Account], protocol: Protocol
) -> None:
    first, second = add_cases(store, 2)
    for reader in readers:
        read_all(store, reader)
    assert next_case(store, NAME, readers[0].id) is None
    fewer = replace(
        protocol,
        version=2,
        structures=protocol.structures[:1],
        agreement={"anterior": protocol.agreement["anterior"]},
        gate=replace(protocol.gate, dice_min={"anterior": 0.65}),
    )
    store.add_protocol(fewer)
    assert store.latest_reads(first.id) == []
    assert store.progress(NAME).reads == 0
    assert outcome(store, first) == Outcome.OPEN
    array = label_of().array_ZYX.copy()
    array[array == 2] = 0
    anterior = Label.of(replace(label_of(), array_ZYX=array))
    for case in (first, second):
        assert next_case(store, NAME, readers[0].id) == case
        store.save_read(case_id=case.id, reader=readers[0].id, label=anterior)
    assert [(kept.protocol_version, kept.revision) for kept in store.reads(first.id, readers[0].id)] == [(1, 1), (2, 1)]


def test_work_begun_under_an_older_version_is_kept(
    store: Store, readers: tuple[Account, Account], protocol: Protocol
) -> None:
    """Structures were added: what he drew is still a label, and it is read anew under the new version."""
    [case] = add_cases(store, 1)
    next_case(store, NAME, readers[0].id)
    third = replace(protocol.structures[0], name="tail", title="Tail", value=3)
    store.add_protocol(
        replace(
            protocol,
            version=2,
            structures=(*protocol.structures, third),
            agreement={**protocol.agreement, "tail": protocol.agreement["anterior"]},
            gate=replace(protocol.gate, dice_min={**protocol.gate.dice_min, "tail": 0.65}),
        )
    )
    read(store, case, readers[0])
    assert [kept.protocol_version for kept in store.latest_reads(case.id)] == [2]
    assert states(store, case) == [SeatState.READ, SeatState.FREE]


# Calibration


@pytest.fixture
def calibrated(store: Store, protocol: Protocol) -> list[Case]:
    """Two calibration cases of a protocol that mixes one in after every two others."""
    store.add_protocol(replace(protocol, name="calibrated", calibration=Calibration(every=2)))
    cases = add_cases(store, 2, "calibrated", first=100)
    return [store.set_calibration(case.id, Label.of(label_of())) for case in cases]


def test_calibration_cases_come_after_so_many_others_and_go_to_every_reader(
    store: Store, accounts: Accounts, readers: tuple[Account, Account], calibrated: list[Case]
) -> None:
    ordinary = [case.id for case in add_cases(store, 5, "calibrated")]
    known = [case.id for case in calibrated]
    expected = [*ordinary[:2], known[0], *ordinary[2:4], known[1], ordinary[4]]
    assert read_all(store, readers[0], "calibrated") == expected
    assert read_all(store, readers[1], "calibrated") == expected
    third = add_reader(accounts)
    assert read_all(store, third, "calibrated") == []
    progress = store.progress("calibrated")
    assert (progress.cases, progress.calibration_cases, progress.reads) == (5, 2, 14)


def test_a_calibration_case_left_unread_is_resumed_and_one_skipped_does_not_come_again(
    store: Store, readers: tuple[Account, Account], calibrated: list[Case]
) -> None:
    add_cases(store, 7, "calibrated")
    ann = readers[0]
    for _ in range(2):
        case = next_case(store, "calibrated", ann.id)
        assert case is not None
        read(store, case, ann)
    assert next_case(store, "calibrated", ann.id) == calibrated[0]
    assert next_case(store, "calibrated", ann.id) == calibrated[0]
    skip(store, calibrated[0].id, ann.id, "blurred")
    came = read_all(store, ann, "calibrated")
    assert came[2] == calibrated[1].id
    assert calibrated[0].id not in came


def test_a_calibration_case_looks_like_any_other_to_its_reader(
    store: Store, readers: tuple[Account, Account], calibrated: list[Case]
) -> None:
    add_cases(store, 2, "calibrated")
    read_all(store, readers[0], "calibrated")
    work = own_work(store, "calibrated", readers[0].id)
    assert {one.case for one in work} > {calibrated[0].id}
    assert {one.state for one in work} == {SeatState.READ}


def test_an_administrator_gives_a_calibration_case_to_a_reader(
    store: Store, readers: tuple[Account, Account], calibrated: list[Case]
) -> None:
    reassign(store, calibrated[1].id, from_reader=None, to_reader=readers[0].id, actor="boss")
    assert next_case(store, "calibrated", readers[0].id) == calibrated[1]
