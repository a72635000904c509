"""Snapshots: named by content, split by patient for good."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling_protocols.blobs import DamagedBlobError, FolderBlobs
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Case, Settled, Truth
from tests.training.drawn import STRAIGHT
from training.snapshot import SnapshotError, held_out_patients, keep_snapshot, make_snapshot, open_snapshot

KEY = b"k" * 32
PATIENTS = st.sets(st.text("0123456789abcdef", min_size=1, max_size=12), min_size=2, max_size=60)


def truth(number: int, patient: str | None = None, *, version: int = 1) -> Truth:
    case = Case(
        id=f"{number:016x}",
        protocol="hippocampus",
        patient=patient or f"P{number}",
        image=f"{number:064x}",
        geometry=STRAIGHT,
        modality="MR",
        series=None,
        created=datetime(2031, 5, 17, tzinfo=UTC),
    )
    return Truth(
        case=case,
        protocol_version=version,
        settled=Settled.ADJUDICATION if number % 2 else Settled.CONSENSUS,
        label=f"{number + 1000:064x}",
        reads=(2 * number, 2 * number + 1),
        adjudication=number if number % 2 else None,
    )


@given(PATIENTS)
def test_both_sides_have_a_patient_and_no_patient_is_on_both(patients: set[str]) -> None:
    held_out = held_out_patients(patients, secret=KEY)
    assert held_out
    assert held_out < patients


@given(PATIENTS, PATIENTS)
def test_the_side_of_a_patient_never_moves_when_others_are_added(first: set[str], more: set[str]) -> None:
    first |= {"6", "a"}  # so both sides are filled from the start and no stand-in is needed
    before = held_out_patients(first, secret=KEY)
    after = held_out_patients(first | more, secret=KEY)
    assert after & first == before


def test_about_a_fifth_of_many_patients_is_held_out() -> None:
    held_out = held_out_patients({f"patient {n}" for n in range(2000)}, secret=KEY)
    assert 330 < len(held_out) < 470


def test_another_key_gives_another_split() -> None:
    patients = {f"patient {n}" for n in range(200)}
    assert held_out_patients(patients, secret=KEY) != held_out_patients(patients, secret=b"other")


def test_all_cases_of_a_patient_are_on_one_side(protocol: Protocol) -> None:
    snapshot = make_snapshot(protocol, [truth(n, f"P{n % 7}") for n in range(40)], secret=KEY)
    trained_on = {case.patient for case in snapshot.training}
    assert trained_on.isdisjoint(case.patient for case in snapshot.held_out)
    assert len(snapshot.cases) == 40


def test_equal_truths_in_any_order_give_the_same_digest(protocol: Protocol) -> None:
    truths = [truth(n) for n in range(8)]
    assert make_snapshot(protocol, truths, secret=KEY) == make_snapshot(protocol, truths[::-1], secret=KEY)
    changed = [*truths[:-1], truth(77)]
    assert make_snapshot(protocol, changed, secret=KEY).digest != make_snapshot(protocol, truths, secret=KEY).digest


def test_a_kept_snapshot_is_read_back_by_its_digest_and_a_damaged_one_is_refused(
    protocol: Protocol, tmp_path_factory: pytest.TempPathFactory
) -> None:
    blobs = FolderBlobs(tmp_path_factory.mktemp("blobs"))
    snapshot = make_snapshot(protocol, [truth(n) for n in range(6)], secret=KEY)
    digest = keep_snapshot(snapshot, blobs)
    assert digest == snapshot.digest
    assert open_snapshot(digest, blobs) == snapshot
    blobs.path(digest).write_bytes(snapshot.as_json().replace("P1", "P2").encode())
    with pytest.raises(DamagedBlobError):
        open_snapshot(digest, blobs)


def test_a_snapshot_says_how_each_truth_was_settled_and_carries_no_date(protocol: Protocol) -> None:
    text = make_snapshot(protocol, [truth(n) for n in range(6)], secret=KEY).as_json()
    first, second = json.loads(text)["cases"][:2]
    assert (first["settled"], first["reads"], first["adjudication"]) == ("consensus", [0, 1], None)
    assert (second["settled"], second["reads"], second["adjudication"]) == ("adjudication", [2, 3], 1)
    assert "2031" not in text


def test_truths_of_an_older_protocol_version_are_left_out_and_named(protocol: Protocol) -> None:
    snapshot = make_snapshot(protocol, [*(truth(n) for n in range(5)), truth(9, version=3)], secret=KEY)
    assert len(snapshot.cases) == 5
    assert [(e.case, e.reason) for e in snapshot.exclusions] == [(f"{9:016x}", "read under protocol version 3")]


def test_too_few_truths_are_refused_in_words(protocol: Protocol) -> None:
    with pytest.raises(SnapshotError, match=r"has 3 settled case.*at least 4"):
        make_snapshot(protocol, [truth(n) for n in range(3)], secret=KEY)


def test_truths_of_one_patient_cannot_be_split(protocol: Protocol) -> None:
    with pytest.raises(SnapshotError, match="truths of 1 patient"):
        make_snapshot(protocol, [truth(n, "P0") for n in range(9)], secret=KEY)
