"""Seats and calibration from the command line: shown, changed, and refused in words."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from apps.accounts import AccountError
from apps.command import app
from apps.settings import Site
from labeling_protocols import audit
from labeling_protocols.label import Label, LabelError
from labeling_protocols.records import Account, Case, SeatState
from labeling_protocols.store import Store, UnknownError, WithdrawalError
from labeling_protocols.volumes import write_volume
from labeling_protocols.worklist import WorklistError, next_case, seats
from tests.conftest import image_of, label_of

NAME = "hippocampus"


@pytest.fixture
def opened(site: Site, store: Store) -> tuple[Store, list[Case]]:
    """Two cases of the hippocampus protocol."""
    made = [
        store.add_case(protocol=NAME, patient=f"P{seed}", volume=image_of(seed), modality="MR")[0] for seed in range(2)
    ]
    return store, sorted(made, key=lambda case: case.id)


def overread(site: Site, *words: object) -> str:
    """What the command says; its error, raised, where it ends with one."""
    done = CliRunner().invoke(app, [*map(str, words), "--site", str(site.root)], env={"COLUMNS": "200"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return re.sub(r"\s+", " ", done.output)


def actors(store: Store, action: audit.Action) -> list[str]:
    with store.engine.connect() as connection:
        return [entry.actor for entry in audit.entries(connection) if entry.action == action]


def test_the_seats_of_a_case_are_listed(
    site: Site, opened: tuple[Store, list[Case]], readers: tuple[Account, Account]
) -> None:
    store, [case, _] = opened
    next_case(store, NAME, readers[0].id)
    shown = overread(site, "seats", "list", case.id)
    assert re.search(r"1 │ anyone │ claimed │ ann │ \d{4}-\d\d-\d\d", shown)
    assert "2 │ anyone │ free │ – │ – │ –" in shown


def test_a_seat_is_reassigned_skipped_and_found_among_those_given_back(
    site: Site, opened: tuple[Store, list[Case]], readers: tuple[Account, Account]
) -> None:
    store, [case, _] = opened
    next_case(store, NAME, readers[0].id)
    assert "given to ben" in overread(
        site, "seats", "reassign", case.id, "--from", "ann", "--to", "ben", "--reason", "on leave"
    )
    assert {seat.reader for seat in seats(store, case.id)} == {readers[1].id, None}
    overread(site, "seats", "skip", case.id, "--reader", "ben", "--reason", "[blurred]")
    assert {seat.state for seat in seats(store, case.id)} == {SeatState.FREE}
    shown = overread(site, "seats", "returned", NAME)
    assert "ben │ skipped │ [blurred] │ command line" in shown
    assert "ann │ reassigned │ on leave │ command line" in shown
    overread(site, "seats", "reassign", case.id, "--to", "ben")
    assert {seat.reader for seat in seats(store, case.id)} == {readers[1].id, None}
    assert actors(store, audit.Action.SEAT_SKIPPED) == ["command line"]


def test_a_read_is_withdrawn(site: Site, opened: tuple[Store, list[Case]], readers: tuple[Account, Account]) -> None:
    store, [case, _] = opened
    next_case(store, NAME, readers[0].id)
    store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label_of()))
    said = overread(site, "seats", "withdraw", case.id, "--reader", "ann", "--reason", "wrong side")
    assert f"Revision 1 of ann's read of case {case.id} is withdrawn" in said
    assert store.latest_reads(case.id) == []
    assert actors(store, audit.Action.READ_WITHDRAWN) == ["command line"]


def test_a_known_truth_makes_a_calibration_case_and_results_compare_readers_with_it(
    site: Site, opened: tuple[Store, list[Case]], readers: tuple[Account, Account], tmp_path: Path
) -> None:
    store, [_, second] = opened
    write_volume(label_of(), tmp_path / "truth.nii.gz")
    said = overread(site, "calibration", "add", second.id, tmp_path / "truth.nii.gz")
    assert "is a calibration case" in said
    assert "hands out no calibration cases" in said
    overread(site, "seats", "reassign", second.id, "--to", "ann")
    store.save_read(case_id=second.id, reader=readers[0].id, label=Label.of(label_of(1)))
    assert "ann │ 1 │ 1 │ 0.75 │ 0.75" in overread(site, "calibration", "results", NAME)
    with pytest.raises(LabelError, match="Nothing was changed"):
        overread(site, "calibration", "add", second.id, tmp_path / "truth.nii.gz")


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("seats", "list", "nothing"), UnknownError, "unknown case"),
        (("seats", "returned", "liver"), UnknownError, "unknown protocol"),
        (("seats", "skip", "{case}", "--reader", "nobody", "--reason", "x"), AccountError, "no account of this name"),
        (("seats", "skip", "{case}", "--reader", "ann", "--reason", " "), WorklistError, "needs a reason"),
        (("seats", "reassign", "{case}"), WorklistError, "name the reader"),
        (("seats", "withdraw", "{case}", "--reader", "ann", "--reason", "x"), WithdrawalError, "no read"),
        (("calibration", "results", "liver"), UnknownError, "unknown protocol"),
    ],
)
def test_what_cannot_be_done_is_said(
    site: Site,
    opened: tuple[Store, list[Case]],
    readers: tuple[Account, Account],
    words: tuple[str, ...],
    error: type[Exception],
    said: str,
) -> None:
    with pytest.raises(error, match=said):
        overread(site, *(word.format(case=opened[1][0].id) for word in words))
