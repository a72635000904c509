"""Snapshots: named by content, split by patient for good."""

import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling_protocols.blobs import DamagedBlobError, FolderBlobs
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.records import Case, Settled, Truth
from labeling_protocols.strata import Strata
from tests.training.drawn import STRAIGHT
from training.snapshot import (
    Snapshot,
    SnapshotError,
    folds,
    held_out_patients,
    keep_snapshot,
    make_snapshot,
    open_snapshot,
)
from training.snapshot_split import fold_value

KEY = b"k" * 32
NAMES = st.text("0123456789abcdef", min_size=1, max_size=12)
PATIENTS = st.sets(NAMES, min_size=2, max_size=60)
HIPPOCAMPUS = load_protocol(SHIPPED / "hippocampus.yaml")
SIEMENS = Strata(maker="Siemens", slice_thickness_mm=2.5, sex="F", age_band="90+", site="north")


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
        strata=SIEMENS if number % 3 == 0 else Strata(),
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


@given(st.lists(PATIENTS, min_size=1, max_size=6))
def test_no_patient_ever_changes_sides_as_others_come_and_go_not_even_who_stood_in(rounds: list[set[str]]) -> None:
    decided: dict[str, bool] = {}
    for patients in rounds:
        try:
            held_out = held_out_patients(patients, secret=KEY, decided=decided)
        except SnapshotError:
            assert patients <= decided.keys()
            assert len({decided[patient] for patient in patients}) == 1
            continue
        assert held_out
        assert held_out < patients
        sides = {patient: patient in held_out for patient in patients}
        assert {patient: decided[patient] for patient in patients & decided.keys()}.items() <= sides.items()
        decided |= sides


def test_a_stand_in_stays_where_it_was_and_without_a_memory_it_would_move() -> None:
    by_hash = sorted((f"patient {n}" for n in range(40)), key=side_hash)
    trained_on = [patient for patient in by_hash if side_hash(patient) >= 0.2]
    first, second, third = trained_on[1:4]
    assert held_out_patients({first, second, third}, secret=KEY) == {first}
    lower = trained_on[0]
    assert held_out_patients({lower, first, second, third}, secret=KEY) == {lower}
    decided = {first: True, second: False, third: False}
    assert held_out_patients({lower, first, second, third}, secret=KEY, decided=decided) == {first}
    assert held_out_patients({lower, second, third}, secret=KEY, decided=decided) == {lower}
    with pytest.raises(SnapshotError, match="each of the 2 patients was trained on before and stays so"):
        held_out_patients({second, third}, secret=KEY, decided=decided)
    with pytest.raises(SnapshotError, match="was held out before and stays so, and one to be trained on is missing"):
        held_out_patients({first, "x"}, secret=KEY, decided={first: True, "x": True})


def side_hash(patient: str) -> float:
    """The first 7 bytes of HMAC-SHA256 of "split/" and the pseudonym, as a fraction, worked out apart."""
    digest = hmac.digest(KEY, b"split/" + patient.encode(), "sha256")
    return float(sum(byte / 256 ** (place + 1) for place, byte in enumerate(digest[:7])))


@given(PATIENTS, st.integers(0, 2**16))
def test_fifty_new_cases_move_nobody_between_sides_or_folds(patients: set[str], seed: int) -> None:
    patients |= {"6", "a"}
    first = snapshot_of(sorted(patients))
    new = [f"new {seed} {n}" for n in range(40)] + sorted(patients)[:10]
    after = snapshot_of([*sorted(patients), *new])
    for side in ("training", "held_out"):
        before_side = {case.patient for case in getattr(first, side)}
        assert before_side == {case.patient for case in getattr(after, side)} & patients
    places = {case.patient: case.fold_value for case in after.cases}
    assert all(case.fold_value == places[case.patient] for case in first.cases)
    assert len({side for side in ("training", "held_out") for case in getattr(after, side) if case.patient == "6"}) == 1


def snapshot_of(patients: list[str]) -> Snapshot:
    """A case for each of these patients, again for one who is named again, and so many more that there are enough."""
    cases = [truth(number, patient) for number, patient in enumerate([*patients, "6", "a", "6", "a"])]
    return make_snapshot(HIPPOCAMPUS, cases, secret=KEY)


@given(st.lists(NAMES, min_size=4, max_size=60), st.integers(2, 5))
def test_folds_part_the_training_patients_and_none_is_empty(patients: list[str], count: int) -> None:
    snapshot = snapshot_of(patients)
    empty = set(range(count)) - {int((case.fold_value or 0) * count) for case in snapshot.training}
    if empty:
        with pytest.raises(SnapshotError, match=f"{len(empty)} of {count} folds have no patient"):
            folds(snapshot, count)
        return
    parts = folds(snapshot, count)
    assert [part.number for part in parts] == list(range(1, count + 1))
    validated = [case for part in parts for case in part.validation]
    assert sorted(case.case for case in validated) == [case.case for case in snapshot.training]
    for part in parts:
        assert part.training
        assert part.validation
        assert {case.patient for case in part.training}.isdisjoint(case.patient for case in part.validation)
        assert {*part.training, *part.validation} == set(snapshot.training)
        assert list(part.training) == [case for case in snapshot.training if case in part.training]


def test_the_fold_of_a_patient_is_the_same_in_a_larger_snapshot() -> None:
    small = snapshot_of([f"patient {n}" for n in range(30)])
    large = snapshot_of([f"patient {n}" for n in range(80)])
    for before, after in zip(folds(small, 4), folds(large, 4), strict=True):
        assert {case.patient for case in before.validation} <= {case.patient for case in after.validation}


def test_folds_are_of_like_size_and_independent_of_the_split_and_the_key() -> None:
    patients = [f"patient {n}" for n in range(2000)]
    held_out = held_out_patients(patients, secret=KEY)
    of_fold = [[patient for patient in patients if int(fold_value(patient, KEY) * 5) == number] for number in range(5)]
    assert all(340 < len(part) < 460 for part in of_fold)
    assert all(0.13 < len(held_out & set(part)) / len(part) < 0.27 for part in of_fold)
    assert fold_value("patient 1", KEY) != fold_value("patient 1", b"other")
    assert all(0 <= fold_value(patient, KEY) < 1 for patient in patients)


def test_an_empty_fold_is_refused_with_a_number_of_folds_that_would_do() -> None:
    snapshot = snapshot_of([f"patient {n}" for n in range(6)])
    with pytest.raises(SnapshotError, match=r"of 40 folds have no patient; with \d+ each has some"):
        folds(snapshot, 40)
    with pytest.raises(SnapshotError, match="found 1 folds; cross-validation needs at least 2"):
        folds(snapshot, 1)
    together = replace(snapshot, cases=tuple(replace(case, fold_value=0.25) for case in snapshot.cases))
    with pytest.raises(SnapshotError, match="1 of 2 folds have no patient; no number of folds gives each some"):
        folds(together, 2)


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


STORED = (
    '{"cases":[{"adjudication":null,"case":"0000000000000000","geometry":{"direction_LPS":[1.0,0.0,0.0,0.0,1.0,0.0,0.0,'
    '0.0,1.0],"origin_mm_LPS":[-14.25,-14.25,-12.75],"shape_ZYX":[18,20,20],"spacing_mm_XYZ":[1.5,1.5,1.5]},"held_out":'
    'false,"image":"00","label":"e8","patient":"P0","reads":[0,1],"settled":"consensus"}],"exclusions":[{"case":"9",'
    '"reason":"read under protocol version 3"}],"protocol":"hippocampus","protocol_digest":"dd","protocol_version":1}'
)


def test_a_snapshot_of_an_earlier_release_opens_and_keeps_its_name(tmp_path_factory: pytest.TempPathFactory) -> None:
    blobs = FolderBlobs(tmp_path_factory.mktemp("blobs"))
    snapshot = open_snapshot(blobs.put(STORED.encode()), blobs)
    assert snapshot.as_json() == STORED
    (case,) = snapshot.cases
    assert (case.strata, case.fold_value) == (Strata(), None)
    with pytest.raises(SnapshotError, match="an earlier release took this snapshot and knew no folds"):
        folds(snapshot, 2)


def test_a_blob_that_is_no_snapshot_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    blobs = FolderBlobs(tmp_path_factory.mktemp("blobs"))
    for content in (b"\x1f\x8b\xff", b"[]", b"{}", STORED.replace("patient", "name").encode()):
        with pytest.raises(SnapshotError, match="is no snapshot"):
            open_snapshot(blobs.put(content), blobs)


def test_strata_are_kept_where_they_are_known_and_come_back(protocol: Protocol) -> None:
    snapshot = make_snapshot(protocol, [truth(n) for n in range(6)], secret=KEY)
    assert [case.strata for case in snapshot.cases[:2]] == [SIEMENS, Strata()]
    assert Snapshot.from_json(snapshot.as_json()) == snapshot
    stored = json.loads(snapshot.as_json())["cases"]
    assert [("strata" in case, "fold_value" in case) for case in stored[:2]] == [(True, True), (False, True)]


def test_cases_left_out_are_named_with_their_reasons_whether_or_not_they_have_a_truth(protocol: Protocol) -> None:
    excluded = {f"{3:016x}": "motion", "calibration": "its truth was known before"}
    snapshot = make_snapshot(protocol, [truth(n) for n in range(6)], secret=KEY, excluded=excluded)
    assert [case.case for case in snapshot.cases] == [f"{n:016x}" for n in (0, 1, 2, 4, 5)]
    assert [(one.case, one.reason) for one in snapshot.exclusions] == sorted(excluded.items())


def test_truths_since_an_older_version_that_asked_the_same_take_part(protocol: Protocol) -> None:
    third = replace(protocol, version=3)
    truths = [truth(n, version=n % 4) for n in range(12)]
    snapshot = make_snapshot(third, truths, secret=KEY, since_version=2)
    assert [int(case.case, 16) % 4 for case in snapshot.cases] == [2, 3] * 3
    assert {one.reason for one in snapshot.exclusions} == {f"read under protocol version {n}" for n in (0, 1)}


def test_truths_of_an_older_protocol_version_are_left_out_and_named(protocol: Protocol) -> None:
    snapshot = make_snapshot(protocol, [*(truth(n) for n in range(5)), truth(9, version=3)], secret=KEY)
    assert len(snapshot.cases) == 5
    assert [(e.case, e.reason) for e in snapshot.exclusions] == [(f"{9:016x}", "read under protocol version 3")]


def test_nobody_is_held_out_where_the_share_is_none_but_who_was_before_stays_so(protocol: Protocol) -> None:
    truths = [truth(n) for n in range(6)]
    assert not make_snapshot(protocol, truths, secret=KEY, held_out_share=0.0).held_out
    decided = {truths[2].case.patient: True}
    (kept,) = make_snapshot(protocol, truths, secret=KEY, held_out_share=0.0, decided=decided).held_out
    assert kept.patient == truths[2].case.patient


def test_too_few_truths_are_refused_in_words(protocol: Protocol) -> None:
    with pytest.raises(SnapshotError, match=r"has 3 settled case.*at least 4"):
        make_snapshot(protocol, [truth(n) for n in range(3)], secret=KEY)


def test_truths_of_one_patient_cannot_be_split(protocol: Protocol) -> None:
    with pytest.raises(SnapshotError, match="truths of 1 patient"):
        make_snapshot(protocol, [truth(n, "P0") for n in range(9)], secret=KEY)
