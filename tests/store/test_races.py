"""Processes that do the same thing at the same moment: every revision kept, every seat given once, no deadlock."""

import contextlib
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier

import pytest

from apps.accounts import Accounts
from apps.settings import Site
from labeling_protocols import audit
from labeling_protocols.audit import Action
from labeling_protocols.disputes import DisputeError, reopen
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account, Part, Role
from labeling_protocols.settlement import adjudicate, settle
from labeling_protocols.store import Store, WithdrawalError
from labeling_protocols.worklist import next_case, seats
from tests.conftest import image_of, label_of
from tests.store.examples import assert_whole, numbered_label, seated_cases
from tests.store.processes import together


@pytest.fixture
def racers(accounts: Accounts) -> list[Account]:
    return [accounts.add(f"racer-{number}", "a-long-password", frozenset({Role.READER})) for number in range(8)]


def test_eight_processes_that_save_at_once_keep_every_revision(
    store: Store, site: Site, database_url: str, readers: tuple[Account, Account]
) -> None:
    cases = seated_cases(store, readers, 5)

    def save_fifty(own: Store, number: int, barrier: Barrier) -> None:
        barrier.wait()
        for turn in range(50):
            label = numbered_label(number * 50 + turn)
            own.save_read(case_id=cases[turn % 5].id, reader=readers[number % 2].id, label=label)

    together(store, database_url, 8, save_fifty)
    kept = [read for case in cases for read in store.reads(case.id)]
    assert len(kept) == 400
    assert len({read.label for read in kept}) == 400
    for case in cases:
        for reader in readers:
            assert [read.revision for read in store.reads(case.id, reader.id)] == list(range(1, 41))
    assert_whole(store, site)


@pytest.mark.slow
def test_the_last_seat_of_a_thousand_cases_is_claimed_once_each(
    store: Store, site: Site, database_url: str, protocol: Protocol, racers: list[Account]
) -> None:
    alone = replace(protocol, name="alone", readers_per_case=1)
    store.add_protocol(alone)
    cases = {
        store.add_case(protocol="alone", patient="P", volume=image_of(seed), modality="MR")[0].id
        for seed in range(1000)
    }

    def race(own: Store, number: int, barrier: Barrier) -> list[str]:
        won = []
        barrier.wait()
        while (case := next_case(own, "alone", racers[number].id)) is not None:
            won.append(case.id)
            own.save_read(case_id=case.id, reader=racers[number].id, label=numbered_label(number))
        return won

    winners = together(store, database_url, 8, race)
    assert sum(len(won) > 0 for won in winners) == 8
    assert sorted(case for won in winners for case in won) == sorted(cases)
    with store.engine.connect() as connection:
        entries = Counter(entry.subject for entry in audit.entries(connection) if entry.action == Action.SEAT_CLAIMED)
    assert entries == dict.fromkeys(cases, 1)
    assert_whole(store, site)


def test_a_lapsed_seat_is_given_once_in_every_race(
    store: Store, site: Site, database_url: str, readers: tuple[Account, Account], racers: list[Account]
) -> None:
    """Each time the lease of whoever won before is over: his seat is renewed or returned, and given once."""
    (case,) = seated_cases(store, readers[:1], 1)
    store.save_read(case_id=case.id, reader=readers[0].id, label=numbered_label(1))
    start, lease = datetime.now(UTC), timedelta(minutes=store.protocol("hippocampus").seat_lease_minutes + 1)

    def race(own: Store, number: int, barrier: Barrier) -> list[int]:
        won = []
        for turn in range(40):
            barrier.wait()
            if next_case(own, "hippocampus", racers[number].id, at=start + turn * lease) is not None:
                won.append(turn)
        return won

    winners = together(store, database_url, 8, race)
    assert sorted(turn for won in winners for turn in won) == list(range(40))
    assert len(seats(store, case.id)) == 2
    assert_whole(store, site)


def test_a_double_submit_is_one_revision(
    store: Store, site: Site, database_url: str, readers: tuple[Account, Account]
) -> None:
    (case,) = seated_cases(store, readers, 1)

    def submit(own: Store, number: int, barrier: Barrier) -> list[int]:
        kept = []
        for turn in range(50):
            barrier.wait()
            kept.append(own.save_read(case_id=case.id, reader=readers[0].id, label=numbered_label(turn)).revision)
            barrier.wait()
        return kept

    assert together(store, database_url, 2, submit) == [list(range(1, 51))] * 2
    assert len(store.reads(case.id)) == 50


def test_saving_withdrawing_and_adjudicating_at_once_never_deadlock(
    store: Store, site: Site, database_url: str, readers: tuple[Account, Account], accounts: Accounts
) -> None:
    judges = [accounts.add(f"judge-{number}", "a-long-password", frozenset({Role.ADJUDICATOR})) for number in range(2)]
    cases = seated_cases(store, readers, 6)

    def read(own: Store, number: int, turn: int) -> None:
        case = cases[turn % 6]
        label = Label.of(label_of(number % 2 * 3)) if turn % 2 else numbered_label(number * 100 + turn)
        own.save_read(case_id=case.id, reader=readers[number % 2].id, label=label)
        if turn % 3 == 0:
            with contextlib.suppress(WithdrawalError):  # the other process of this reader was faster
                own.withdraw(case_id=case.id, reader=readers[number % 2].id, actor="command line", reason="a slip")

    def decide(own: Store, number: int, turn: int) -> None:
        case = cases[turn % 6]
        settle(own, case.id)
        with contextlib.suppress(DisputeError):  # no dispute now, or the other judge was faster
            if turn % 4 == 0:
                reopen(own, case.id, judges[number % 2].id, "look again")
            adjudicate(
                own,
                case_id=case.id,
                adjudicator=judges[number % 2].id,
                parts=[Part(source=f"reader:{readers[0].id}")],
                rationale="the border is plain",
                signing_key=site.signing_key,
            )

    def act(own: Store, number: int, barrier: Barrier) -> None:
        barrier.wait()
        for turn in range(40):
            (read if number < 4 else decide)(own, number, turn)

    together(store, database_url, 6, act)
    assert_whole(store, site)
