"""The same server on PostgreSQL, which takes neither NUL nor half a surrogate pair: still an answer, and no 5xx."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from labeling_protocols import settlement
from labeling_protocols.label import Label
from labeling_protocols.records import Role
from labeling_protocols.volumes import volume_bytes
from tests.annotation.served import Served, serving
from tests.conftest import label_of
from tests.postgres import Postgres

NAMES = ("\0", "a\0b", "\ud800", "x" * 3000, "'; DROP TABLE reads; --", "é", "version_1\0")


@pytest.fixture(scope="module")
def on_postgresql(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root: Path = tmp_path_factory.mktemp("postgresql") / "site"
    with serving(root, settings=f'[store]\ndatabase = "{postgres.new_database()}"\n') as served:
        yield served


def test_reads_listings_and_reviews_are_the_same_there(on_postgresql: Served) -> None:
    served = on_postgresql
    protocol = served.protocol()
    [case] = served.cases(protocol)
    served.store.save_prelabel(case.id, "tests 1", Label.of(label_of(1)))
    readers = [served.account(), served.account()]
    for reader in readers:
        served.seat(reader, case)
        assert served.put_label(reader, case.id, volume_bytes(label_of(), ".nrrd")).json()["version"] == 1
    settlement.judge(served.store, protocol.name)
    adjudicator = served.account(Role.ADJUDICATOR)
    said = {"params": json.dumps({"segmentationMeta": {"status": "approved", "level": "easy", "comment": "good"}})}
    for tag, status in (("version_1", 200), ("version_3", 404)):
        address = f"{served.url}/datastore/updatelabelinfo?label={case.id}&tag={tag}"
        assert served.session(adjudicator).put(address, data=said).status_code == status
    found = {}
    for name, account in (("reader", readers[0]), ("adjudicator", adjudicator)):
        objects = served.session(account).get(f"{served.url}/datastore/?output=all").json()["objects"]
        found[name] = list(objects[case.id]["labels"])
    assert found == {
        "reader": ["original", "final", "version_1"],
        "adjudicator": ["original", "final", "version_1", "version_2"],
    }
    assert served.session(readers[0]).get(f"{served.url}/worklist/").status_code == 200


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_name_is_too_much(on_postgresql: Served, name: str) -> None:
    served = on_postgresql
    session = served.session(served.account())
    typed = name.encode("utf-8", "surrogatepass")
    form = {"params": json.dumps({"answers": {name: name}})}
    label = {"label": ("label.nrrd", volume_bytes(label_of(), ".nrrd"))}
    answers = [
        session.get(f"{served.url}/datastore/image", params={"image": typed}),
        session.get(f"{served.url}/datastore/label", params={"label": typed, "tag": typed}),
        session.put(f"{served.url}/datastore/label", params={"image": typed}, data=form, files=label),
        session.post(f"{served.url}/infer/hippocampus", params={"image": typed, "session_id": typed}),
        session.post(f"{served.url}/activelearning/worklist", json={"protocol": name}),
        session.post(f"{served.url}/worklist/skip", params={"case": typed}, json={"reason": name}),
        requests.post(f"{served.url}/auth/token", data={"username": typed, "password": typed}, timeout=10),
        session.get(f"{served.url}/datastore/image", params={"image": b"\xff\xfe"}),
    ]
    assert [answer.status_code for answer in answers if not 400 <= answer.status_code < 500] == []
    assert all(set(answer.json()) == {"detail"} for answer in answers)
