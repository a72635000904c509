"""3D Slicer's Reviewer module at a personal address: it reads the datastore, and keeps what it says of versions."""

import json
from typing import Any

import pytest
import requests

from labeling_protocols import audit, settlement
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import Blinding, BlindingLifts
from labeling_protocols.records import Account, Case, Role
from labeling_protocols.volumes import volume_bytes
from tests.annotation.served import Served
from tests.conftest import label_of

# What the module sends: the annotator's and the reviewer's names come out of its boxes, the time from its clock.
SAID = {"status": "approved", "approvedBy": "somebody", "level": "hard", "comment": "good", "editTime": 12}


def read_case(served: Served, **changes: Any) -> tuple[Protocol, Case, list[Account]]:
    protocol = served.protocol(**changes)
    [case] = served.cases(protocol)
    readers = [served.account(), served.account()]
    for reader in readers:
        served.seat(reader, case)
        served.put_label(reader, case.id, volume_bytes(label_of(), ".nrrd"))
    return protocol, case, readers


def at_address(served: Served, account: Account) -> str:
    return f"{served.url}/u/{served.accounts.new_address(account)}"


def update(address: str, case: Case, tag: str, said: object) -> requests.Response:
    """As the module does it: a form field with JSON in it, and no sign-in."""
    data = {"params": json.dumps({"label_info": [], "segmentationMeta": said})}
    return requests.put(f"{address}/datastore/updatelabelinfo?label={case.id}&tag={tag}", data=data, timeout=10)


def labels(address: str, case: Case) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{address}/datastore/?output=all", timeout=10).json()["objects"][case.id]
    return found["labels"]  # type: ignore[no-any-return]


def test_the_module_finds_versions_and_its_reviews_come_back(served: Served) -> None:
    _, case, _ = read_case(served)
    adjudicator = served.account(Role.ADJUDICATOR)
    address = at_address(served, adjudicator)
    assert requests.get(address, timeout=10).status_code == 200  # its test of the connection
    found = labels(address, case)
    assert list(found) == ["final", "version_1", "version_2"]  # it counts on from the last
    assert found["final"]["info"]["name"] == f"{case.id}.nrrd"
    assert found["final"]["info"]["label_info"] == [{"name": "anterior", "idx": 1}, {"name": "posterior", "idx": 2}]
    assert update(address, case, "version_2", SAID).status_code == 200
    meta = labels(address, case)["version_2"]["info"]["segmentationMeta"]
    assert {**meta, "editTime": 0} == {**SAID, "approvedBy": adjudicator.name, "editTime": 0}
    assert meta["editTime"] > SAID["editTime"]
    assert "segmentationMeta" not in labels(address, case)["version_1"]["info"]
    alone = requests.get(f"{address}/datastore/label/info?label={case.id}&tag=version_2", timeout=10).json()
    assert alone["segmentationMeta"] == meta


def test_a_later_review_is_shown_and_the_earlier_one_stays(served: Served) -> None:
    _, case, _ = read_case(served)
    adjudicator = served.account(Role.ADJUDICATOR)
    address = at_address(served, adjudicator)
    for said in (SAID, SAID, {**SAID, "status": "flagged"}):
        assert update(address, case, "version_1", said).status_code == 200
    assert labels(address, case)["version_1"]["info"]["segmentationMeta"]["status"] == "flagged"
    with served.store.engine.connect() as connection:
        said = [e for e in audit.entries(connection) if e.subject == case.id and e.action == "read reviewed"]
    assert [(e.actor, json.loads(e.details)["status"]) for e in said] == [
        (adjudicator.id, "approved"),
        (adjudicator.id, "flagged"),
    ]


def test_a_review_is_of_a_revision_and_not_of_what_its_reader_saves_next(served: Served) -> None:
    _, case, readers = read_case(served)
    address = at_address(served, served.account(Role.ADJUDICATOR))
    for tag in ("version_1", "version_2"):
        update(address, case, tag, SAID)
    served.put_label(readers[0], case.id, volume_bytes(label_of(1), ".nrrd"))
    found = labels(address, case)
    assert ["segmentationMeta" in found[f"version_{number}"]["info"] for number in (1, 2)].count(True) == 1


def test_a_review_decides_nothing(served: Served) -> None:
    protocol, case, _ = read_case(served)
    truth = settlement.truth(served.store, case.id)
    update(at_address(served, served.account(Role.ADJUDICATOR)), case, "version_1", {**SAID, "status": "flagged"})
    assert settlement.truth(served.store, case.id) == truth
    assert settlement.disputes(served.store, protocol.name) == []


@pytest.mark.parametrize("lifts", BlindingLifts)
def test_a_reader_sees_what_was_said_of_his_own_read_once_blinding_lifts(served: Served, lifts: BlindingLifts) -> None:
    protocol, case, readers = read_case(served, blinding=Blinding(lifts=lifts))
    adjudicator = served.account(Role.ADJUDICATOR)
    for tag in ("version_1", "version_2"):
        update(at_address(served, adjudicator), case, tag, SAID)
    address = at_address(served, readers[0])
    assert "segmentationMeta" not in json.dumps(labels(address, case))  # nobody judged the case yet
    settlement.judge(served.store, protocol.name)
    meta = labels(address, case)["version_1"]["info"].get("segmentationMeta")
    if lifts is BlindingLifts.NEVER:
        assert meta is None
    else:
        assert (meta["status"], meta["approvedBy"]) == ("approved", "")
    assert adjudicator.name not in json.dumps(labels(address, case))


@pytest.mark.parametrize(
    ("tag", "said", "status"),
    [
        ("final", SAID, 404),
        ("version_3", SAID, 404),
        ("original", SAID, 404),
        ("version_1", {**SAID, "status": "splendid"}, 422),
        ("version_1", {**SAID, "level": "x" * 1000}, 422),
        ("version_1", {**SAID, "comment": "x" * 20_000}, 422),
        ("version_1", {**SAID, "comment": "a\0b"}, 422),
        ("version_1", {**SAID, "comment": 5}, 422),
        ("version_1", "approved", 422),
        ("version_1", None, 422),
    ],
)
def test_what_is_no_review_of_a_read_is_refused_in_words(served: Served, tag: str, said: object, status: int) -> None:
    _, case, _ = read_case(served)
    address = at_address(served, served.account(Role.ADJUDICATOR))
    answer = update(address, case, tag, said)
    assert (answer.status_code, "Nothing was kept" in answer.json()["detail"]) == (status, True), answer.text
    assert "segmentationMeta" not in json.dumps(labels(address, case))


def test_a_reader_reviews_nothing_whatever_other_roles_there_are(served: Served) -> None:
    _, case, readers = read_case(served)
    assert update(at_address(served, readers[0]), case, "version_1", SAID).status_code == 403
    both = served.account(Role.READER, Role.ADJUDICATOR)
    assert update(at_address(served, both), case, "version_1", SAID).status_code == 403
