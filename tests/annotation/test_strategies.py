"""Strategies as viewers see them: listed, each with its own next case, and a sentence on why it was that one."""

import threading

import pytest
import requests

from apps.identity import COOKIE
from labeling_protocols.case_scores import CaseScore, keep_order
from labeling_protocols.protocol import PrelabelPolicy, Protocol
from labeling_protocols.records import Case, Role
from labeling_protocols.volumes import volume_bytes
from labeling_protocols.worklist import order
from tests.annotation.served import Served
from tests.conftest import label_of
from training.acquisition import STRATEGIES

WHY = "The model is unsure of Anterior hippocampus here."


def keep(served: Served, protocol: Protocol, *cases: Case, strategy: str = "bald") -> None:
    scores = [CaseScore(case=case.id, score=float(-n), why=WHY) for n, case in enumerate(cases)]
    keep_order(served.store, protocol.name, strategy, "hippocampus-segmentation 1.0.3", scores)


def test_viewers_are_told_every_strategy_the_worklist_first(served: Served) -> None:
    told = served.client(served.account()).info()["strategies"]
    assert list(told) == ["worklist", *STRATEGIES]
    assert all(one["description"] for one in told.values())


def test_each_strategy_gives_the_next_case_of_its_own_order_and_says_why(served: Served) -> None:
    protocol = served.protocol()
    cases = sorted(served.cases(protocol, 4), key=lambda case: case.id)
    keep(served, protocol, *reversed(cases))
    reader, other = served.account(), served.account()
    given = served.client(reader).next_sample("bald", {"protocol": protocol.name})
    assert (given["id"], given["why"]) == (cases[3].id, WHY)
    plain = served.client(other).next_sample("worklist", {"protocol": protocol.name})
    assert (plain["id"], "why" in plain) == (cases[0].id, False), "nobody's order made it the first"
    again = served.client(reader).next_sample("sequential", {"protocol": protocol.name})
    assert (again["id"], again["why"]) == (given["id"], WHY), "the case he left comes first, with its own reason"


@pytest.mark.parametrize("strategy", ["random", "sequential"])
def test_a_strategy_that_takes_no_look_at_cases_needs_no_preparation(served: Served, strategy: str) -> None:
    protocol = served.protocol()
    cases = served.cases(protocol, 3)
    client, seen = served.client(reader := served.account()), []
    while given := client.next_sample(strategy, {"protocol": protocol.name}):
        assert given["why"] == {"random": "Drawn at random.", "sequential": "Next in order."}[strategy]
        served.put_label(reader, given["id"], volume_bytes(label_of(), ".nrrd"))
        seen.append(given["id"])
    assert sorted(seen) == sorted(case.id for case in cases)


def test_a_strategy_without_an_order_yet_says_how_to_get_one(served: Served) -> None:
    protocol = served.protocol()
    served.cases(protocol, 1)
    session = served.session(served.account())
    answer = session.post(f"{served.url}/activelearning/hybrid", json={"protocol": protocol.name})
    assert answer.status_code == 409
    assert f"overread score {protocol.name} --strategy hybrid" in answer.json()["detail"]
    assert "worklist" in answer.json()["detail"]


def test_an_unknown_strategy_is_refused_with_those_there_are(served: Served) -> None:
    answer = served.session(served.account()).post(f"{served.url}/activelearning/best", json={})
    assert answer.status_code == 404
    assert "expected worklist, foreground_random, random" in answer.json()["detail"]


def test_what_the_model_saw_is_not_told_where_prelabels_are_kept_from_readers(served: Served) -> None:
    for policy in (PrelabelPolicy.NEVER, PrelabelPolicy.AFTER_FIRST_PASS):
        protocol = served.protocol(prelabels=policy)
        keep(served, protocol, *served.cases(protocol, 1))
        reader = served.account()
        given = served.client(reader).next_sample("bald", {"protocol": protocol.name})
        assert given["why"] == STRATEGIES["bald"].reason
        told = served.session(reader).get(f"{served.url}/worklist/").text
        assert "hippocampus here" not in told


def test_the_worklist_and_the_readers_page_say_why_he_holds_a_case(served: Served) -> None:
    protocol = served.protocol()
    first, second = sorted(served.cases(protocol, 2), key=lambda case: case.id)
    keep(served, protocol, second, first)
    order(served.store, protocol.name, {second.id: 1.0, first.id: 0.5}, actor="tests", strategy="bald")
    reader, other = served.account(), served.account()
    served.seat(reader, first)
    for _ in range(2):
        held = served.client(reader).next_sample("worklist", {"protocol": protocol.name})["id"]
        served.put_label(reader, held, volume_bytes(label_of(), ".nrrd")) if held == first.id else None
    [mine] = [
        entry
        for entry in served.session(reader).get(f"{served.url}/worklist/").json()["protocols"]
        if entry["protocol"] == protocol.name
    ]
    told = [(work["case"], work["state"], work["why"]) for work in mine["work"]]
    assert told == [(second.id, "claimed", WHY), (first.id, "read", "")]
    session = requests.Session()
    session.cookies.set(COOKIE, served.accounts.token(reader))
    page = session.get(f"{served.url}/work/").text
    assert page.count(f"Why this case: {WHY}") == 1
    assert WHY not in served.session(other).get(f"{served.url}/worklist/").text


def test_readers_who_ask_at_once_get_cases_of_their_own(served: Served) -> None:
    protocol = served.protocol(readers_per_case=1)
    cases = served.cases(protocol, 4)
    keep(served, protocol, *cases)
    clients = [served.client(served.account()) for _ in range(6)]
    given: list[str | None] = []
    barrier = threading.Barrier(len(clients))

    def ask(number: int) -> None:
        barrier.wait()
        strategy = ("bald", "worklist", "random")[number % 3]
        given.append(clients[number].next_sample(strategy, {"protocol": protocol.name}).get("id"))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(filter(None, given)) == sorted(case.id for case in cases)
    assert given.count(None) == 2


def test_only_readers_are_given_cases_by_a_strategy(served: Served) -> None:
    protocol = served.protocol()
    keep(served, protocol, *served.cases(protocol, 1))
    for role, status in ((Role.ADJUDICATOR, 200), (Role.ENGINEER, 403), (Role.VIEWER, 403)):
        answer = served.session(served.account(role)).post(f"{served.url}/activelearning/bald", json={})
        assert (answer.status_code, answer.json().get("id")) == (status, None)
