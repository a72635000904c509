"""Pages of cases with their seats: every case once, whatever is looked for, and what readers gave back."""

from datetime import timedelta

import pytest

from labeling_protocols import occupancy
from labeling_protocols.label import Label
from labeling_protocols.occupancy import Show, given_back, held_now, occupied
from labeling_protocols.records import Account, Returned, SeatState
from labeling_protocols.store import Store, now
from labeling_protocols.worklist import next_case, reassign, skip
from tests.conftest import image_of, label_of

NAME = "hippocampus"


@pytest.fixture
def cases(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Five cases on pages of two."""
    monkeypatch.setattr(occupancy, "PAGE", 2)
    made = (
        store.add_case(protocol=NAME, patient=f"P{seed}", volume=image_of(seed), modality="MR")[0] for seed in range(5)
    )
    return sorted(case.id for case in made)


def every(store: Store, show: Show = Show.ALL, reader: str = "", case: str = "") -> list[str]:
    """Case ids over all pages."""
    found, after = [], ""
    while True:
        page = occupied(store, NAME, show=show, reader=reader, case=case, after=after)
        found += [row.case for row in page.cases]
        assert len(page.cases) <= 2
        if not page.after:
            return found
        after = page.after


def test_pages_hold_every_case_once_with_its_seats(
    store: Store, cases: list[str], readers: tuple[Account, Account]
) -> None:
    next_case(store, NAME, readers[0].id)
    assert every(store) == cases
    first = occupied(store, NAME).cases[0]
    assert [(seat.state, seat.reader) for seat in first.seats] == [
        (SeatState.CLAIMED, readers[0].id),
        (SeatState.FREE, None),
    ]


def test_cases_are_found_by_state_reader_and_the_beginning_of_their_id(
    store: Store, cases: list[str], readers: tuple[Account, Account]
) -> None:
    ann, ben = readers
    for reader in readers:
        next_case(store, NAME, reader.id)
        store.save_read(case_id=cases[0], reader=reader.id, label=Label.of(label_of()))
    next_case(store, NAME, ann.id)
    assert every(store, Show.UNJUDGED) == cases[:1]
    assert every(store, Show.FREE) == cases[1:]
    assert every(store, Show.CLAIMED) == [cases[1]]
    assert every(store, Show.OPEN) == cases[1:]
    assert every(store, reader=ann.id) == cases[:2]
    assert every(store, reader=ben.id) == cases[:1]
    assert every(store, case=cases[2][:5]) == [cases[2]]
    assert every(store, case="%") == []
    assert [every(store, show) for show in (Show.DISPUTED, Show.CALIBRATION, Show.LAPSED)] == [[], [], []]
    assert held_now(store, NAME) == (1, 0)


def test_lapsed_leases_are_found(store: Store, cases: list[str], readers: tuple[Account, Account]) -> None:
    next_case(store, NAME, readers[0].id, at=now() - timedelta(days=1))
    next_case(store, NAME, readers[1].id, at=now() - timedelta(days=1))
    assert every(store, Show.LAPSED) == cases[:1]
    assert held_now(store, NAME) == (2, 2)


def test_a_calibration_case_is_shown_as_one(store: Store, cases: list[str]) -> None:
    store.set_calibration(cases[3], Label.of(label_of()))
    assert every(store, Show.CALIBRATION) == [cases[3]]
    assert every(store, Show.OPEN) == [*cases[:3], cases[4]]
    assert every(store) == cases


def test_what_was_given_back_is_listed_newest_first(
    store: Store, cases: list[str], readers: tuple[Account, Account]
) -> None:
    ann, ben = readers
    for _ in range(2):
        case = next_case(store, NAME, ann.id)
        assert case is not None
        skip(store, case.id, ann.id, "blurred")
    next_case(store, NAME, ben.id)
    reassign(store, cases[0], from_reader=ben.id, to_reader=None, actor="boss", reason="on leave")
    newest = given_back(store, NAME)
    assert [(one.reader, one.why, one.reason, one.actor) for one in newest.entries] == [
        (ben.id, Returned.REASSIGNED, "on leave", "boss"),
        (ann.id, Returned.SKIPPED, "blurred", ann.id),
    ]
    older = given_back(store, NAME, before=newest.before)
    assert [(one.case, one.why) for one in older.entries] == [(cases[0], Returned.SKIPPED)]
    assert older.before == 0
    assert [one.reader for one in given_back(store, NAME, why=Returned.REASSIGNED).entries] == [ben.id]
    assert len(given_back(store, NAME, case=cases[0]).entries) == 2
