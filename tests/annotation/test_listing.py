"""`/datastore/` as a whole: what it lists is what can be fetched, by everybody, with few questions to the database."""

import json
from typing import Any

import pytest
import sqlalchemy as sa

from apps.annotation.calling import calling
from labeling_protocols import schema, settlement, worklist
from labeling_protocols.label import Label
from labeling_protocols.records import Account, Role
from labeling_protocols.volumes import volume_bytes
from tests.annotation.served import Served
from tests.conftest import label_of

MARKUPS = ("boxes", "points", "answers")  # of one label, where it is asked for alone
TAGS = ("original", "final", "version_1", "version_2", "version_3")


@pytest.fixture(scope="module")
def people(served: Served) -> dict[str, Account]:
    """Everybody around one protocol: one case agreed, one disputed, one read once, one withdrawn, one untouched."""
    protocol = served.protocol()
    cases = served.cases(protocol, 5)
    ann, ben = served.account(), served.account()
    for case in cases[:2]:
        served.store.save_prelabel(case.id, "tests 1", Label.of(label_of(1)))
    for place, reader, shift in ((0, ann, 0), (0, ben, 0), (1, ann, 0), (1, ben, 3), (2, ann, 0), (3, ben, 0)):
        served.seat(reader, cases[place])
        served.put_label(reader, cases[place].id, volume_bytes(label_of(shift), ".nrrd"))
    served.put_label(ann, cases[2].id, volume_bytes(label_of(1), ".nrrd"))
    served.store.withdraw(case_id=cases[3].id, reader=ben.id, actor=ben.id, reason="the wrong side")
    settlement.judge(served.store, protocol.name)
    others = {role.value: served.account(role) for role in Role if role is not Role.READER}
    return {"ann": ann, "ben": ben, "stranger": served.account(), **others}


@pytest.mark.parametrize("who", ["ann", "ben", "stranger", "adjudicator", "engineer", "administrator", "viewer"])
def test_what_is_listed_is_what_can_be_fetched_and_nothing_else(
    served: Served, people: dict[str, Account], who: str
) -> None:
    session = served.session(people[who])
    objects = session.get(f"{served.url}/datastore/?output=all").json()["objects"]
    for case, listed in objects.items():
        for tag in TAGS:
            info = session.get(f"{served.url}/datastore/label/info?label={case}&tag={tag}")
            assert (info.status_code == 200) == (tag in listed["labels"]), (case, tag, info.text)
            if info.status_code == 200:
                told = {name: value for name, value in info.json().items() if name not in MARKUPS}
                assert told == listed["labels"][tag]["info"]
        image = session.get(f"{served.url}/datastore/image/info?image={case}").json()
        assert image == listed["image"]["info"]
    trained = session.get(f"{served.url}/datastore/?output=train").json()
    assert [entry["image"] for entry in trained] == [
        case for case, listed in objects.items() if "final" in listed["labels"]
    ]
    stats = session.get(f"{served.url}/datastore/?output=stats").json()
    assert (stats["total"], stats["completed"]) == (len(objects), len(trained))


def test_the_number_of_questions_does_not_grow_with_the_cases(served: Served, people: dict[str, Account]) -> None:
    def questions(who: str) -> int:
        asked: list[str] = []
        engine = served.store.engine

        def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            asked.append(statement)

        sa.event.listen(engine, "before_cursor_execute", note)
        with calling(people[who]):
            told = served.app.state.annotation.reads.json()
        sa.event.remove(engine, "before_cursor_execute", note)
        assert json.dumps(told)
        return len(asked)

    protocol = served.protocol()
    before = {who: questions(who) for who in ("ann", "engineer")}
    for case in served.cases(protocol, 20):
        served.store.save_prelabel(case.id, "tests 1", Label.of(label_of(1)))
        served.seat(people["ann"], case)
    assert {who: questions(who) for who in ("ann", "engineer")} == before


def test_a_prelabel_from_before_voxels_were_counted_is_counted_when_it_is_asked_for(served: Served) -> None:
    protocol = served.protocol()
    [case] = served.cases(protocol)
    anterior = label_of().array_ZYX.copy()
    anterior[anterior == 2] = 0
    label = Label(geometry=case.geometry, layers_LZYX=anterior[None])
    digest = served.store.save_prelabel(case.id, "tests 1", label).label
    row = {
        "case": case.id,
        "model": "tests 2",
        "label": digest,
        "voxels": {},
        "created": case.created.replace(year=9000),
    }
    with served.store.writing() as connection:
        connection.execute(sa.insert(schema.prelabels).values(row))
    session = served.session(served.account(Role.ENGINEER))
    objects = session.get(f"{served.url}/datastore/?output=all").json()["objects"]
    found = objects[case.id]["labels"]["original"]["info"]
    assert (found["model"], found["params"]["label_names"]) == ("tests 2", {"anterior": 1})


def test_calibration_cases_look_and_count_as_any_other(served: Served) -> None:
    protocol = served.protocol()
    first, second = served.cases(protocol, 2)
    reader = served.account()
    session = served.session(reader)
    before = [session.get(f"{served.url}/datastore/?output={what}").text for what in ("all", "train", "stats")]
    served.store.set_calibration(first.id, Label.of(label_of()))
    after = [session.get(f"{served.url}/datastore/?output={what}").text for what in ("all", "train", "stats")]
    assert after == before
    assert worklist.own_work(served.store, protocol.name, reader.id) == []
    assert second.id in before[0]
