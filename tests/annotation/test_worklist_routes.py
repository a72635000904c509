"""A reader's worklist over HTTP: own work, skipping with a reason, and a seat that stays while it is worked on."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from labeling_protocols import schema, worklist
from labeling_protocols.records import Account, Case
from labeling_protocols.store import now
from labeling_protocols.volumes import volume_bytes
from tests.annotation.served import Served
from tests.conftest import label_of


def test_own_work_is_told_with_progress_and_nothing_of_anybody_else(served: Served) -> None:
    protocol = served.protocol()
    first, second = served.cases(protocol, 2)
    reader, other = served.account(), served.account()
    served.seat(reader, first, second)
    served.seat(other, first)
    for who in (reader, other):
        served.put_label(who, first.id, volume_bytes(label_of(), ".nrrd"))
    told = served.session(reader).get(f"{served.url}/worklist/").json()["protocols"]
    [mine] = [entry for entry in told if entry["protocol"] == protocol.name]
    assert (mine["cases"], mine["read"]) == (2, 1)
    assert [(work["case"], work["state"], work["revision"]) for work in mine["work"]] == [
        (second.id, "claimed", None),
        (first.id, "read", 1),
    ]
    assert other.id not in str(told)


def test_a_skipped_case_goes_to_somebody_else(served: Served) -> None:
    protocol = served.protocol()
    first, second = served.cases(protocol, 2)
    reader, other = served.account(), served.account()
    client = served.client(reader)
    given = client.next_sample("worklist", {"protocol": protocol.name})["id"]
    session = served.session(reader)
    for body, status in (({}, 422), ({"reason": ""}, 422), ({"reason": "a\0b"}, 422), ({"reason": " "}, 409)):
        assert session.post(f"{served.url}/worklist/skip?case={given}", json=body).status_code == status, body
    answer = session.post(f"{served.url}/worklist/skip?case={given}", json={"reason": "I know this patient"})
    assert (answer.status_code, answer.json()) == (200, {"case": given})
    following = client.next_sample("worklist", {"protocol": protocol.name})["id"]
    assert {given, following} == {first.id, second.id}
    served.put_label(reader, following, volume_bytes(label_of(), ".nrrd"))
    assert client.next_sample("worklist", {"protocol": protocol.name}) == {}
    assert session.post(f"{served.url}/worklist/skip?case={following}", json={"reason": "no"}).status_code == 409
    stranger = served.session(other).post(f"{served.url}/worklist/skip?case={given}", json={"reason": "no"})
    assert stranger.status_code == 403


@pytest.mark.parametrize(
    "path", ["/datastore/image?image={}", "/datastore/label?label={}&tag=original", "/infer/hippocampus?image={}"]
)
def test_a_seat_is_kept_while_something_of_the_case_is_fetched(served: Served, path: str) -> None:
    """The fetch itself may find nothing: whoever asks works on the case."""
    protocol = served.protocol(seat_lease_minutes=60)
    [case] = served.cases(protocol)
    reader = served.account()
    served.seat(reader, case)
    age_lease(served, case, reader, timedelta(minutes=30))
    method = "POST" if path.startswith("/infer") else "GET"
    served.session(reader).request(method, served.url + path.format(case.id))
    [seat] = [seat for seat in worklist.seats(served.store, case.id) if seat.reader == reader.id]
    assert seat.lease_until is not None
    assert seat.lease_until - now() > timedelta(minutes=59)


def age_lease(served: Served, case: Case, reader: Account, by: timedelta) -> None:
    table = schema.seats
    mine = sa.and_(table.c.case == case.id, table.c.reader == reader.id)
    with served.store.writing() as connection:
        until = connection.execute(sa.select(table.c.lease_until).where(mine)).scalar_one()
        connection.execute(sa.update(table).where(mine).values(lease_until=until - by))
