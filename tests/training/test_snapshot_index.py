"""Snapshots of a site: taken from its truths, listed, found by the beginning of a digest; nobody ever changes sides."""

import json
from dataclasses import replace

import pytest
import sqlalchemy as sa

from apps.accounts import Accounts
from apps.settings import Site
from labeling_protocols import audit, schema
from labeling_protocols.blobs import FolderBlobs
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account, Role
from labeling_protocols.store import Store, UnknownError
from labeling_protocols.strata import Strata
from tests.conftest import image_of, label_of
from tests.store.examples import assert_whole
from tests.training.snapshot_examples import NAME, SIEMENS, adjudicated_case, read_case
from training.snapshot import SnapshotError, open_snapshot
from training.snapshot_index import Taken, find, listed, take
from training.snapshot_split import held_out_patients


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    return str(request.getfixturevalue("postgres").new_store_database())


@pytest.fixture
def judge(accounts: Accounts) -> Account:
    return accounts.add("judge", "judge-password", frozenset({Role.ADJUDICATOR}))


def taken(store: Store, site: Site, excluded: dict[str, str] | None = None) -> Taken:
    return take(store, NAME, secret=site.secret, excluded=excluded or {}, actor="command line")


def test_a_snapshot_holds_every_truth_with_how_it_was_settled_and_its_strata(
    store: Store, site: Site, readers: tuple[Account, Account], judge: Account
) -> None:
    agreed = [read_case(store, readers, number) for number in range(4)]
    adjudicated = adjudicated_case(store, site, readers, judge, 4)
    read_case(store, readers, 5, apart=3)  # in dispute
    found = taken(store, site)
    assert open_snapshot(found.digest, store.blobs) == found.snapshot
    by_case = {case.case: case for case in found.snapshot.cases}
    assert by_case.keys() == {case.id for case in (*agreed, adjudicated)}
    settled = {case: (one.settled, one.adjudication is not None) for case, one in by_case.items()}
    assert settled[adjudicated.id] == ("adjudication", True)
    assert set(settled.values()) == {("adjudication", True), ("consensus", False)}
    assert by_case[agreed[1].id].strata == SIEMENS
    assert by_case[agreed[2].id].strata == Strata(maker="GE")
    assert found.snapshot.protocol_digest == store.protocol(NAME).digest
    assert_whole(store, site)


def test_taking_it_again_is_the_same_snapshot_listed_once(
    store: Store, site: Site, readers: tuple[Account, Account]
) -> None:
    for number in range(4):
        read_case(store, readers, number)
    first, second = taken(store, site), taken(store, site)
    assert (first.is_new, second.is_new, first.digest) == (True, False, second.digest)
    read_case(store, readers, 4)
    third = taken(store, site)
    assert [(one.digest, one.cases, one.actor) for one in listed(store, NAME)] == [
        (first.digest, 4, "command line"),
        (third.digest, 5, "command line"),
    ]
    assert listed(store, "liver") == []
    with store.engine.connect() as connection:
        entries = [entry for entry in audit.entries(connection) if entry.action == audit.Action.SNAPSHOT_TAKEN]
    assert [json.loads(entry.details)["digest"] for entry in entries] == [first.digest, third.digest]


def test_a_snapshot_is_found_by_how_its_digest_begins(
    store: Store, site: Site, readers: tuple[Account, Account]
) -> None:
    for number in range(4):
        read_case(store, readers, number)
    digest = taken(store, site).digest
    assert find(store, digest[:4]) == find(store, digest) == digest
    unlisted = store.blobs.put(b"a snapshot of an earlier release")
    assert find(store, unlisted) == unlisted
    other = "f" if digest[0] != "f" else "0"
    for part, words in ((other * 5, "0 snapshots begin with"), ("../../x", "named by the first"), ("abc", "4 to 64")):
        with pytest.raises(SnapshotError, match=words):
            find(store, part)
    with store.writing() as connection:
        row = connection.execute(sa.select(schema.snapshots)).one()
        twin = digest[:8] + "0" * 56
        connection.execute(sa.insert(schema.snapshots).values({**row._mapping, "digest": twin}))
    with pytest.raises(SnapshotError, match="2 snapshots begin with"):
        find(store, digest[:6])


def test_cases_left_out_by_hand_and_calibration_cases_are_named(
    store: Store, site: Site, readers: tuple[Account, Account]
) -> None:
    cases = [read_case(store, readers, number) for number in range(5)]
    known, _ = store.add_case(protocol=NAME, patient="P9", volume=image_of(9), modality="MR")
    store.set_calibration(known.id, Label.of(label_of()))
    found = taken(store, site, {cases[2].id: " motion artefact "})
    assert {one.case: one.reason for one in found.snapshot.exclusions} == {
        cases[2].id: "motion artefact",
        known.id: "a calibration case, whose truth was known before",
    }
    assert len(found.snapshot.cases) == 4
    for excluded, words in (
        ({"0" * 16: "motion"}, "1 case.s. to leave out are none of this protocol's"),
        ({cases[0].id: "  "}, "needs a reason of 1 to 200 characters; one of 0 was"),
        ({cases[0].id: "m" * 201}, "one of 201 was"),
    ):
        with pytest.raises(SnapshotError, match=words):
            taken(store, site, excluded)


def test_a_case_whose_image_or_label_is_damaged_or_missing_is_left_out(
    store: Store, site: Site, readers: tuple[Account, Account], judge: Account
) -> None:
    cases = [read_case(store, readers, number) for number in range(6)]
    decided = adjudicated_case(store, site, readers, judge, 7)
    assert isinstance(store.blobs, FolderBlobs)
    store.blobs.path(cases[0].image).write_bytes(b"other bytes")
    store.blobs.path(cases[1].image).unlink()
    label = next(case.label for case in taken(store, site).snapshot.cases if case.case == decided.id)
    store.blobs.path(label).unlink()
    read_case(store, readers, 8)  # who can be held out where the one who was is left out
    steps: list[tuple[int, int]] = []
    found = take(store, NAME, secret=site.secret, progress=lambda done, total: steps.append((done, total)))
    assert {one.case: one.reason for one in found.snapshot.exclusions} == {
        cases[0].id: "its image is damaged",
        cases[1].id: "its image is missing",
        decided.id: "its label is missing",
    }
    assert steps == [(done, 8) for done in range(1, 9)]


def test_who_stood_in_for_an_empty_side_stays_there_as_others_come_and_go(
    store: Store, site: Site, readers: tuple[Account, Account]
) -> None:
    """Four patients whose hashes train on them all, and one whose hash holds him out, who comes later."""
    names = [f"patient {number}" for number in range(400)]
    drawn = sorted(names, key=lambda name: name in held_out_patients(names, secret=site.secret))
    late, first = drawn[-1], drawn[:4]
    cases = [read_case(store, readers, number, patient=patient) for number, patient in enumerate(first)]
    before = {case.patient: case.held_out for case in taken(store, site).snapshot.cases}
    assert sum(before.values()) == 1
    (stand_in,) = (patient for patient, held_out in before.items() if held_out)
    read_case(store, readers, 10, patient=late)
    after = {case.patient: case.held_out for case in taken(store, site).snapshot.cases}
    assert after == before | {late: True}
    gone = {case.id: "withdrawn" for case in cases if case.patient == stand_in}
    without = {case.patient: case.held_out for case in taken(store, site, gone).snapshot.cases}
    assert without == {patient: side for patient, side in after.items() if patient != stand_in}
    with store.engine.connect() as connection:
        sides = connection.execute(sa.select(schema.split_sides.c.patient, schema.split_sides.c.held_out)).all()
    assert {patient: held_out for patient, held_out in sides} == after


def test_sides_outlast_the_sites_key(store: Store, site: Site, readers: tuple[Account, Account]) -> None:
    for number in range(12):
        read_case(store, readers, number)
    before = {case.patient: case.held_out for case in taken(store, site).snapshot.cases}
    after = {case.patient: case.held_out for case in take(store, NAME, secret=b"another key").snapshot.cases}
    assert after == before


def test_a_version_that_asks_the_same_keeps_truths_and_one_that_does_not_names_cases_read_before(
    store: Store, site: Site, readers: tuple[Account, Account], judge: Account, protocol: Protocol
) -> None:
    cases = [read_case(store, readers, number) for number in range(4)]
    cases.append(adjudicated_case(store, site, readers, judge, 4))
    before = taken(store, site).snapshot
    store.add_protocol(replace(protocol, version=2, title="Hippocampus, as before"))
    again = taken(store, site).snapshot
    assert (again.protocol_version, again.exclusions) == (2, ())
    assert [case.label for case in again.cases] == [case.label for case in before.cases]
    body = replace(protocol.structures[1], name="body", title="Body", value=3)
    store.add_protocol(
        replace(
            protocol,
            version=3,
            structures=(*protocol.structures, body),
            agreement={**protocol.agreement, "body": protocol.agreement["anterior"]},
            gate=replace(protocol.gate, dice_min={**protocol.gate.dice_min, "body": 0.65}),
        )
    )
    for number in range(10, 14):
        read_case(store, readers, number)
    anew = taken(store, site).snapshot
    assert len(anew.cases) == 4
    assert {one.case: one.reason for one in anew.exclusions} == {
        case.id: "read under protocol version 1 only, which asked something else" for case in cases
    }


def test_too_few_truths_and_an_unknown_protocol_leave_nothing_behind(
    store: Store, site: Site, readers: tuple[Account, Account]
) -> None:
    read_case(store, readers, 1)
    with pytest.raises(SnapshotError, match=r"has 1 settled case"):
        taken(store, site)
    with pytest.raises(UnknownError):
        take(store, "liver", secret=site.secret)
    assert listed(store) == []


def test_no_name_date_or_key_is_in_a_snapshot(store: Store, site: Site, readers: tuple[Account, Account]) -> None:
    for number in range(4):
        read_case(store, readers, number)
    text = taken(store, site).snapshot.as_json()
    year = str(listed(store)[0].created.year)
    for word in ("ann", "ben", readers[0].id, f"{year}-", "T0", site.secret.hex(), "created"):
        assert word not in text
