"""Who is shown what a model proposes, and when: the protocol's policy holds at every way to a prelabel."""

import json
from typing import Any

import pytest
import requests

from labeling_protocols.label import Label
from labeling_protocols.protocol import PrelabelPolicy, Protocol
from labeling_protocols.records import Account, Case, Role
from labeling_protocols.volumes import volume_bytes
from tests.annotation.served import Served
from tests.conftest import image_of, label_of

MODEL = "tests 1"


def begun(served: Served, policy: PrelabelPolicy) -> tuple[Protocol, Case, Account]:
    protocol = served.protocol(prelabels=policy)
    [case] = served.cases(protocol)
    served.store.save_prelabel(case.id, MODEL, Label.of(label_of(2)))
    reader = served.account()
    served.seat(reader, case)
    return protocol, case, reader


def ways(served: Served, account: Account, protocol: Protocol, case: Case) -> dict[str, requests.Response]:
    """Every way to a proposal; there is no champion, so that 409 is an inference that would have been made."""
    session = served.session(account)
    image = {"file": ("image.nii.gz", volume_bytes(image_of(1), ".nii.gz"))}
    uploaded = session.put(f"{served.url}/session/", files=image).json()["session_id"]
    infer = f"{served.url}/infer/{protocol.name}"
    return {
        "label": session.get(f"{served.url}/datastore/label?label={case.id}&tag=original"),
        "head": session.head(f"{served.url}/datastore/label?label={case.id}&tag=original"),
        "info": session.get(f"{served.url}/datastore/label/info?label={case.id}&tag=original"),
        "infer": session.post(f"{infer}?image={case.id}"),
        "file": session.post(infer, files=image),
        "session": session.post(f"{infer}?session_id={uploaded}"),
    }


def listed(served: Served, account: Account, case: Case) -> bool:
    objects: dict[str, Any] = served.client(account).datastore()["objects"]
    return "original" in objects[case.id]["labels"]


SHOWN = {"label": 200, "head": 200, "info": 200, "infer": 409}
REFUSED = dict.fromkeys(SHOWN, 403)
UPLOADS = {"file": 409, "session": 409}
NO_UPLOADS = dict.fromkeys(UPLOADS, 403)


@pytest.mark.parametrize(
    ("policy", "before", "after"),
    [
        (PrelabelPolicy.ALWAYS, SHOWN | UPLOADS, SHOWN | UPLOADS),
        (PrelabelPolicy.AFTER_FIRST_PASS, REFUSED | NO_UPLOADS, SHOWN | NO_UPLOADS),
        (PrelabelPolicy.NEVER, REFUSED | NO_UPLOADS, REFUSED | NO_UPLOADS),
    ],
)
def test_a_reader_is_shown_prelabels_as_the_protocol_says(
    served: Served, policy: PrelabelPolicy, before: dict[str, int], after: dict[str, int]
) -> None:
    protocol, case, reader = begun(served, policy)
    for expected in (before, after):
        found = ways(served, reader, protocol, case)
        assert {way: answer.status_code for way, answer in found.items()} == expected
        for answer in found.values():
            if answer.status_code == 403 and answer.content:
                assert "readers of this protocol" in answer.json()["detail"]
                assert "Nothing was done" in answer.json()["detail"]
        assert listed(served, reader, case) == (expected["label"] == 200)
        served.put_label(reader, case.id, volume_bytes(label_of(), ".nrrd"))


def test_a_read_withdrawn_is_a_first_pass_no_more(served: Served) -> None:
    protocol, case, reader = begun(served, PrelabelPolicy.AFTER_FIRST_PASS)
    served.put_label(reader, case.id, volume_bytes(label_of(), ".nrrd"))
    assert ways(served, reader, protocol, case)["label"].status_code == 200
    served.store.withdraw(case_id=case.id, reader=reader.id, actor="tests", reason="again")
    assert ways(served, reader, protocol, case)["label"].status_code == 403
    assert not listed(served, reader, case)


def test_policy_is_for_readers_whatever_else_they_are(served: Served) -> None:
    protocol, case, _ = begun(served, PrelabelPolicy.NEVER)
    found = ways(served, served.account(Role.ENGINEER), protocol, case)
    assert {way: answer.status_code for way, answer in found.items()} == SHOWN | UPLOADS
    both = served.account(Role.ENGINEER, Role.READER)
    assert ways(served, both, protocol, case)["label"].status_code == 403


def test_a_reader_without_a_seat_is_not_told_whether_there_is_a_prelabel(served: Served) -> None:
    protocol, case, _ = begun(served, PrelabelPolicy.ALWAYS)
    stranger = served.account()
    assert "no seat" in ways(served, stranger, protocol, case)["label"].json()["detail"]
    assert not listed(served, stranger, case)


def test_what_a_reader_was_shown_before_getting_a_seat_is_remembered(served: Served) -> None:
    _, case, _ = begun(served, PrelabelPolicy.ALWAYS)
    early = served.account()
    served.store.prelabel_shown(case.id, early.id, MODEL)
    served.seat(early, case)
    served.put_label(early, case.id, volume_bytes(label_of(), ".nrrd"))
    [read] = served.store.reads(case.id, early.id)
    assert (read.provenance.prelabel_model, read.provenance.prelabel_shown) == (MODEL, True)


@pytest.mark.parametrize("way", ["label", "label/info", "nothing"])
def test_a_read_says_whether_its_reader_had_seen_the_prelabel(served: Served, way: str) -> None:
    _, case, reader = begun(served, PrelabelPolicy.ALWAYS)
    if way != "nothing":
        served.session(reader).get(f"{served.url}/datastore/{way}?label={case.id}&tag=original")
    served.put_label(reader, case.id, volume_bytes(label_of(), ".nrrd"))
    [read] = served.store.reads(case.id, reader.id)
    assert (read.provenance.prelabel_model, read.provenance.prelabel_shown) == (MODEL, way != "nothing")


def test_a_model_that_readers_never_see_is_not_offered_to_them(served: Served) -> None:
    """3D Slicer offers, and can run on each new case, whatever models it is told of."""
    never = served.protocol(prelabels=PrelabelPolicy.NEVER)
    told = {role: served.client(served.account(role)).info() for role in (Role.READER, Role.ENGINEER)}
    assert json.dumps(told[Role.READER]["models"]).count(never.name) == 0
    assert never.name in told[Role.ENGINEER]["trainers"]
