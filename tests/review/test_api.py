"""Disputes and decisions over HTTP: worst first, readers as letters, one signed decision, both reads kept."""

import json

import numpy as np
import pytest
import requests

from apps.identity import COOKIE
from labeling_protocols import settlement
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from labeling_protocols.records import Account, Role, Settled
from labeling_protocols.volumes import read_volume_bytes
from labeling_protocols.worklist import next_case
from tests.annotation.served import Served
from tests.conftest import label_of
from tests.review.conftest import Disputed, dispute


def ask(served: Served, account: Account, path: str) -> requests.Response:
    return served.session(account).get(f"{served.url}/review/api/{path}")


def decide(served: Served, account: Account, case: str, choice: str, why: str = "seen") -> requests.Response:
    body = {"choice": choice, "rationale": why}
    return served.session(account).post(f"{served.url}/review/api/disputes/{case}", json=body)


def test_disputes_are_listed_worst_first_with_their_reasons(served: Served, adjudicator: Account) -> None:
    protocol = served.protocol()
    mild = dispute(served, protocol, label_of(0), label_of(2))
    severe = dispute(served, protocol, label_of(0), label_of(3))
    listed = ask(served, adjudicator, f"disputes?protocol={protocol.name}").json()["disputes"]
    assert [one["case"] for one in listed] == [severe.case.id, mild.case.id]
    assert listed[0]["severity"] > listed[1]["severity"]
    assert any("Dice" in reason for reason in listed[0]["reasons"])


def test_a_letter_leads_to_that_readers_label_and_to_no_name(
    served: Served, adjudicator: Account, disputed: Disputed
) -> None:
    answer = ask(served, adjudicator, f"disputes/{disputed.case.id}")
    session = served.session(adjudicator)
    labels = []
    for read in answer.json()["reads"]:
        content = session.get(served.url + read["label"]).content
        labels.append(read_volume_bytes(content, ".nii.gz").array_ZYX.tobytes())
    assert [read["letter"] for read in answer.json()["reads"]] == ["A", "B"]
    assert sorted(labels) == sorted(label.array_ZYX.tobytes() for label in disputed.labels.values())
    image = read_volume_bytes(session.get(served.url + answer.json()["image"]).content, ".nii.gz")
    np.testing.assert_array_equal(image.array_ZYX, served.store.image(disputed.case).array_ZYX)
    for reader in disputed.readers:
        assert reader.id not in answer.text
        assert reader.name not in answer.text
    for read in served.store.reads(disputed.case.id):
        assert read.label not in answer.text
        assert read.created.isoformat()[:16] not in answer.text


def test_letters_are_drawn_anew_for_each_case(served: Served, adjudicator: Account) -> None:
    """The same two readers on a dozen cases are not the same letters on all of them."""
    protocol = served.protocol()
    readers = (served.account(), served.account())
    first_is_a = set()
    served.cases(protocol, 12)
    for reader, shift in zip(readers, (0, 3), strict=True):
        while (case := next_case(served.store, protocol.name, reader.id)) is not None:
            served.store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of(shift)))
    for found in settlement.disputes(served.store, protocol.name):
        reads = ask(served, adjudicator, f"disputes/{found.case}").json()["reads"]
        content = served.session(adjudicator).get(served.url + reads[0]["label"]).content
        first_is_a.add(np.array_equal(read_volume_bytes(content, ".nii.gz").array_ZYX, label_of(0).array_ZYX))
    assert first_is_a == {True, False}


@pytest.mark.parametrize("choice", ["A", "B", "majority"])
def test_a_choice_becomes_the_truth_and_both_reads_stay(
    served: Served, adjudicator: Account, disputed: Disputed, choice: str
) -> None:
    detail = ask(served, adjudicator, f"disputes/{disputed.case.id}").json()
    address = detail["majority"] if choice == "majority" else {r["letter"]: r["label"] for r in detail["reads"]}[choice]
    shown = read_volume_bytes(served.session(adjudicator).get(served.url + address).content, ".nii.gz")
    before = served.store.reads(disputed.case.id)
    answer = decide(served, adjudicator, disputed.case.id, choice, "follows the alveus")
    assert answer.status_code == 200, answer.text
    truth = settlement.truth(served.store, disputed.case.id)
    assert truth is not None
    assert truth.settled is Settled.ADJUDICATION
    np.testing.assert_array_equal(served.store.label(truth.label).array_ZYX, shown.array_ZYX)
    assert served.store.reads(disputed.case.id) == before
    decision = settlement.adjudication_of(served.store, disputed.case.id)
    assert decision is not None
    assert decision.adjudicator == adjudicator.id
    assert decision.rationale == "follows the alveus"
    assert settlement.signature_holds(decision, served.site.public_key)
    assert ask(served, adjudicator, f"disputes/{disputed.case.id}").status_code == 404


def test_a_dispute_is_settled_once(served: Served, adjudicator: Account, disputed: Disputed) -> None:
    assert decide(served, adjudicator, disputed.case.id, "A").status_code == 200
    again = decide(served, served.account(Role.ADJUDICATOR), disputed.case.id, "B")
    assert again.status_code == 404
    assert "settled already" in again.json()["detail"]


@pytest.mark.parametrize("choice", ["C", "", "a", "reader", "../A"])
def test_a_choice_that_is_none_is_refused_in_words(
    served: Served, adjudicator: Account, disputed: Disputed, choice: str
) -> None:
    answer = decide(served, adjudicator, disputed.case.id, choice)
    assert answer.status_code == 409
    assert "Nothing was decided" in answer.json()["detail"]
    assert settlement.truth(served.store, disputed.case.id) is None


def test_a_readers_pseudonym_is_no_choice(served: Served, adjudicator: Account, disputed: Disputed) -> None:
    assert decide(served, adjudicator, disputed.case.id, disputed.readers[0].id).status_code == 409


def test_a_decision_without_a_rationale_is_refused(served: Served, adjudicator: Account, disputed: Disputed) -> None:
    assert decide(served, adjudicator, disputed.case.id, "A", "  ").status_code == 409
    body = {"choice": "A", "rationale": "x", "adjudicator": disputed.readers[0].id}
    answer = served.session(adjudicator).post(f"{served.url}/review/api/disputes/{disputed.case.id}", json=body)
    assert answer.status_code == 422
    assert settlement.truth(served.store, disputed.case.id) is None


def test_who_read_a_case_neither_sees_its_dispute_nor_settles_it(served: Served) -> None:
    protocol = served.protocol()
    both = served.account(Role.READER, Role.ADJUDICATOR)
    [case] = served.cases(protocol)
    for reader, shift in ((both, 0), (served.account(), 3)):
        next_case(served.store, protocol.name, reader.id)
        served.store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of(shift)))
    listed = ask(served, both, f"disputes?protocol={protocol.name}").json()
    assert listed == {"disputes": [], "kept_from_you": 1}
    for answer in (ask(served, both, f"disputes/{case.id}"), decide(served, both, case.id, "A")):
        assert answer.status_code == 403
        assert "read this case yourself" in answer.json()["detail"]
    session = served.session(both)
    for name in ("image", "reader-A", "reader-B", "majority"):
        assert session.get(f"{served.url}/review/disputes/{case.id}/{name}.nii.gz").status_code == 403


def test_what_is_not_in_dispute_is_not_shown(served: Served, adjudicator: Account) -> None:
    [case] = served.cases(served.protocol())
    assert ask(served, adjudicator, f"disputes/{case.id}").status_code == 404
    assert ask(served, adjudicator, "disputes/../../x").status_code == 404
    assert ask(served, adjudicator, "disputes?protocol=nothing").status_code == 404


def test_the_first_look_is_where_readers_differ_most(served: Served, adjudicator: Account) -> None:
    protocol = served.protocol()
    second = label_of(0)
    array = second.array_ZYX.copy()
    array[4, 1:9, 1:8] = 2
    found = dispute(served, protocol, label_of(0), Volume(array_ZYX=array, geometry=second.geometry))
    focus = ask(served, adjudicator, f"disputes/{found.case.id}").json()["focus_mm_RAS"]
    index = np.linalg.inv(found.case.geometry.affine_RAS()) @ np.array([*focus, 1.0])
    x, y, z = np.rint(index[:3]).astype(int)
    assert z == 4
    assert array[z, y, x] != label_of(0).array_ZYX[z, y, x]


def test_progress_counts_what_is_there(served: Served, adjudicator: Account) -> None:
    protocol = served.protocol()
    dispute(served, protocol, label_of(0), label_of(3))
    served.cases(protocol, 2)
    assert ask(served, adjudicator, f"progress?protocol={protocol.name}").json() == {
        "protocol": protocol.name,
        "cases": 3,
        "reads": 2,
        "reads_planned": 6,
        "disputes": 1,
        "truths": 0,
    }


def test_the_sessions_cookie_is_out_of_reach_of_scripts_and_other_sites(served: Served, adjudicator: Account) -> None:
    form = {"name": adjudicator.name, "password": f"{adjudicator.name}-password", "next": "https://elsewhere.example"}
    answer = requests.post(f"{served.url}/sign-in", data=form, allow_redirects=False, timeout=10)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(COOKIE)
    for wanted in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age="):
        assert wanted.lower() in cookie.lower()
    wrong = requests.post(f"{served.url}/sign-in", data={**form, "password": "x"}, timeout=10)
    assert wrong.status_code == 401
    assert "set-cookie" not in wrong.headers
    elsewhere = requests.post(
        f"{served.url}/sign-in", data=form, headers={"Origin": "https://elsewhere.example"}, timeout=10
    )
    assert elsewhere.status_code == 403


def test_a_form_without_its_pages_value_settles_nothing(
    served: Served, adjudicator: Account, disputed: Disputed
) -> None:
    cookie = {COOKIE: served.accounts.token(adjudicator)}
    address = f"{served.url}/review/disputes/{disputed.case.id}"
    form = {"choice": "A", "rationale": "x"}
    for extra in ({}, {"csrf": "x"}):
        answer = requests.post(address, data={**form, **extra}, cookies=cookie, timeout=10)
        assert answer.status_code == 403
        assert "did not come from a page of this server" in json.dumps(answer.json())
    assert settlement.truth(served.store, disputed.case.id) is None


@pytest.mark.parametrize("aim", ["//elsewhere.example", "/\\elsewhere.example", "https://elsewhere.example", "/a\nb"])
def test_signing_in_leads_nowhere_else(served: Served, adjudicator: Account, aim: str) -> None:
    form = {"name": adjudicator.name, "password": f"{adjudicator.name}-password", "next": aim}
    answer = requests.post(f"{served.url}/sign-in", data=form, allow_redirects=False, timeout=10)
    assert answer.headers["location"] == "/"
