"""Disputes and decisions over HTTP: worst first, readers as letters, one signed decision, both reads kept."""

import json
import re
from datetime import timedelta

import numpy as np
import pytest
import requests
import sqlalchemy as sa

from apps.identity import COOKIE
from labeling_protocols import edits, schema, settlement
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from labeling_protocols.records import Account, Role, Settled
from labeling_protocols.store import now
from labeling_protocols.volumes import read_volume_bytes
from labeling_protocols.worklist import next_case
from tests.annotation.served import Served
from tests.conftest import label_of
from tests.review.conftest import Disputed, dispute


def ask(served: Served, account: Account, path: str) -> requests.Response:
    return served.session(account).get(f"{served.url}/review/api/{path}")


def decide(served: Served, account: Account, case: str, choice: str, why: str = "seen") -> requests.Response:
    return send(served, account, case, choice=choice, rationale=why, password=f"{account.name}-password")


def send(served: Served, account: Account, case: str, act: str = "", **body: object) -> requests.Response:
    return served.session(account).post(f"{served.url}/review/api/disputes/{case}{act}", json=body)


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


@pytest.mark.parametrize("choice", ["A", "B", "majority", "staple", "union"])
def test_a_choice_becomes_the_truth_and_both_reads_stay(
    served: Served, adjudicator: Account, disputed: Disputed, choice: str
) -> None:
    detail = ask(served, adjudicator, f"disputes/{disputed.case.id}").json()
    address = ({r["letter"]: r["label"] for r in detail["reads"]} | detail["consensus"])[choice]
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
    body = {"choice": "A", "rationale": "x", "password": "x", "adjudicator": disputed.readers[0].id}
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
    assert (listed["disputes"], listed["kept_from_you"]) == ([], 1)
    for answer in (ask(served, both, f"disputes/{case.id}"), decide(served, both, case.id, "A")):
        assert answer.status_code == 403
        assert "read this case yourself" in answer.json()["detail"]
    session = served.session(both)
    for name in ("image", "reader-A", "reader-B", "consensus-majority"):
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


def test_the_queue_tells_how_disputes_stand_and_who_has_them(
    served: Served, adjudicator: Account, disputed: Disputed
) -> None:
    other = served.account(Role.ADJUDICATOR)
    name = disputed.protocol.name
    [open_one] = ask(served, adjudicator, f"disputes?protocol={name}").json()["disputes"]
    assert open_one["state"] == "open"
    assert (open_one["held_by"], open_one["mine"]) == (None, False)
    assert open_one["structures"] == ["anterior", "posterior"]
    assert all(re.match(r"(anterior|posterior): ", reason) for reason in open_one["reasons"])
    assert send(served, adjudicator, disputed.case.id, "/claim").status_code == 200
    [held] = ask(served, other, f"disputes?protocol={name}&state=claimed").json()["disputes"]
    assert (held["held_by"], held["mine"]) == (adjudicator.name, False)
    told = ask(served, adjudicator, f"disputes?protocol={name}").json()
    assert told["disputes"][0]["mine"]
    assert {state: count for state, count in told["counts"].items() if count} == {"claimed": 1}
    assert ask(served, adjudicator, f"disputes?protocol={name}&state=open").json()["disputes"] == []
    assert ask(served, adjudicator, "disputes?state=nothing").status_code == 422
    for text in (ask(served, adjudicator, f"disputes?protocol={name}").text, json.dumps(told)):
        for read in served.store.reads(disputed.case.id):
            assert read.reader not in text
            assert read.created.isoformat()[:13] not in text.replace(held["held_since"], "").replace(
                told["disputes"][0]["held_until"], ""
            )


def test_of_two_adjudicators_one_has_a_dispute_and_the_other_is_told_who_and_since_when(
    served: Served, adjudicator: Account, disputed: Disputed
) -> None:
    other, case = served.account(Role.ADJUDICATOR), disputed.case.id
    held = send(served, adjudicator, case, "/claim").json()
    assert (held["state"], held["held_by"], held["mine"]) == ("claimed", adjudicator.name, True)
    since = held["held_since"][11:16]
    for answer in (
        send(served, other, case, "/claim"),
        send(served, other, case, "/edit", take="A"),
        send(served, other, case, "/release"),
        decide(served, other, case, "A"),
    ):
        assert answer.status_code == 409
        assert answer.json()["detail"] == f"{adjudicator.name} has this dispute since {since} UTC. Nothing was changed."
    assert send(served, adjudicator, case, "/release").json()["state"] == "open"
    assert send(served, other, case, "/claim").json()["held_by"] == other.name


def test_the_details_have_every_number_and_nobodys_name(
    served: Served, adjudicator: Account, disputed: Disputed
) -> None:
    told = ask(served, adjudicator, f"disputes/{disputed.case.id}").json()
    assert (told["state"], told["round"], told["adjudicators"], told["rationale_min_characters"]) == ("open", 1, 1, 1)
    assert told["sources"] == ["A", "B", "majority", "intersection", "union", "staple"]
    rows = {row["structure"]: row for row in told["agreement"]}
    # Two boxes of 4 x 4 x 4 voxels, 2 voxels apart along x: 32 voxels in common.
    assert rows["anterior"]["pair"] == "A–B"
    assert rows["anterior"]["dice"] == pytest.approx(0.5)
    assert rows["anterior"]["iou"] == pytest.approx(1 / 3)
    assert rows["anterior"]["volume_difference_ml"] == pytest.approx(0)
    assert not rows["anterior"]["within"]
    lesions = [lesion for lesion in told["lesions"] if lesion["structure"] == "anterior"]
    assert [(lesion["number"], lesion["found_by"]) for lesion in lesions] == [(1, ["A", "B"])]
    assert {one["structure"] for one in told["reliability"]} == {"anterior", "posterior"}
    assert set(told["consensus"]) == {"majority", "intersection", "union", "staple"}
    assert told["edit"] is None


def test_a_decision_takes_each_structure_from_another_source(
    served: Served, adjudicator: Account, disputed: Disputed
) -> None:
    case, password = disputed.case.id, f"{adjudicator.name}-password"
    reads = ask(served, adjudicator, f"disputes/{case}").json()["reads"]
    session = served.session(adjudicator)
    shown = {
        read["letter"]: read_volume_bytes(session.get(served.url + read["label"]).content, ".nii.gz").array_ZYX
        for read in reads
    }
    parts = [{"structure": "anterior", "take": "B"}, {"structure": "posterior", "take": "A"}]
    answer = send(served, adjudicator, case, parts=parts, rationale="each has one right", password=password)
    assert answer.status_code == 200, answer.text
    assert answer.json()["settles"]
    truth = settlement.truth(served.store, case)
    assert truth is not None
    expected = np.where(shown["B"] == 1, 1, 0) + np.where(shown["A"] == 2, 2, 0)
    np.testing.assert_array_equal(served.store.label(truth.label).array_ZYX, expected)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"choice": "A", "parts": [{"take": "A"}]}, 422),
        ({}, 422),
        ({"parts": []}, 409),
        ({"parts": [{"structure": "anterior", "take": "A"}]}, 409),
        ({"parts": [{"structure": "nothing", "take": "A"}]}, 409),
        ({"parts": [{"take": "A"}, {"structure": "anterior", "lesion": 9, "take": "none"}]}, 409),
        ({"parts": [{"take": "A", "lesion": 1}]}, 409),
        ({"choice": "edit"}, 409),
    ],
)
def test_parts_that_make_no_label_are_refused_in_words(
    served: Served, adjudicator: Account, disputed: Disputed, body: dict[str, object], status: int
) -> None:
    password = f"{adjudicator.name}-password"
    answer = send(served, adjudicator, disputed.case.id, rationale="x", password=password, **body)
    assert answer.status_code == status, answer.text
    assert "Nothing was" in answer.json()["detail"]
    assert all(reader.id not in answer.text for reader in disputed.readers)


def test_a_decision_is_signed_with_the_password_and_a_wrong_one_counts(
    served: Served, adjudicator: Account, disputed: Disputed
) -> None:
    case = disputed.case.id
    for password in ("", "wrong", f"{disputed.readers[0].name}-password"):
        answer = send(served, adjudicator, case, choice="A", rationale="x", password=password)
        assert answer.status_code == 403
        assert "the password is wrong" in answer.json()["detail"]
    failures = sa.select(schema.accounts.c.failures).where(schema.accounts.c.id == adjudicator.id)
    with served.store.engine.connect() as connection:
        assert connection.execute(failures).scalar() == 3
    assert settlement.truth(served.store, case) is None
    assert decide(served, adjudicator, case, "A").status_code == 200


def test_a_locked_account_signs_nothing(served: Served, disputed: Disputed) -> None:
    locked = served.account(Role.ADJUDICATOR)
    token = served.session(locked)
    most = served.site.config.accounts.wrong_passwords
    for _ in range(most):
        send(served, locked, disputed.case.id, choice="A", rationale="x", password="wrong")
    address = f"{served.url}/review/api/disputes/{disputed.case.id}"
    body = {"choice": "A", "rationale": "x", "password": f"{locked.name}-password"}
    assert token.post(address, json=body).status_code == 403


def test_who_has_no_password_here_signs_with_a_sign_in_of_a_moment_ago(served: Served, disputed: Disputed) -> None:
    account, table = served.account(Role.ADJUDICATOR), schema.accounts
    with served.store.writing() as connection:
        elsewhere = {"issuer": "https://provider.example", "subject": account.id, "password": None}
        connection.execute(sa.update(table).where(table.c.id == account.id).values(elsewhere))
    body = {"choice": "A", "rationale": "x"}
    began = now() - timedelta(minutes=6)
    old = served.accounts.tokens._signed(account.id, "0" * 32, began, began, began + timedelta(hours=1))
    address = f"{served.url}/review/api/disputes/{disputed.case.id}"
    refused = requests.post(address, json=body, headers={"Authorization": f"Bearer {old}"}, timeout=30)
    assert refused.status_code == 403
    assert "at most 5 minutes old" in refused.json()["detail"]
    fresh = {"Authorization": f"Bearer {served.accounts.token(account)}"}
    assert requests.post(address, json=body, headers=fresh, timeout=30).status_code == 200


def test_a_settled_dispute_is_reopened_with_a_reason(served: Served, adjudicator: Account, disputed: Disputed) -> None:
    case, other = disputed.case.id, served.account(Role.ADJUDICATOR)
    assert send(served, adjudicator, case, "/reopen", reason="look again").status_code == 409
    assert decide(served, adjudicator, case, "A").status_code == 200
    assert send(served, other, case, "/claim").status_code == 404
    assert send(served, other, case, "/reopen", reason=" ").status_code == 409
    told = send(served, other, case, "/reopen", reason="the contrast phase was mistaken").json()
    assert (told["state"], told["round"]) == ("reopened", 2)
    assert decide(served, adjudicator, case, "B").status_code == 200


def test_without_a_group_to_escalate_to_nothing_is_escalated(
    served: Served, adjudicator: Account, disputed: Disputed
) -> None:
    answer = send(served, adjudicator, disputed.case.id, "/escalate", reason="hard")
    assert answer.status_code == 409
    assert "names nobody to escalate to" in answer.json()["detail"]


def test_an_edit_is_begun_saved_and_taken(served: Served, adjudicator: Account, disputed: Disputed) -> None:
    case = disputed.case.id
    begun = send(served, adjudicator, case, "/edit", take="B")
    assert begun.json()["edit"] == {
        "revision": 0,
        "source": "B",
        "saved": False,
        "label": f"/review/disputes/{case}/edit.nii.gz",
    }
    assert decide(served, adjudicator, case, "edit").status_code == 409
    edits.save_edit(served.store, case, adjudicator.id, Label.of(label_of(1)))
    told = ask(served, adjudicator, f"disputes/{case}").json()
    assert (told["edit"]["revision"], told["edit"]["source"], told["edit"]["saved"]) == (1, "B", True)
    assert told["held_by"] == adjudicator.name
    assert decide(served, adjudicator, case, "edit").status_code == 200
    truth = settlement.truth(served.store, case)
    assert truth is not None
    np.testing.assert_array_equal(served.store.label(truth.label).array_ZYX, label_of(1).array_ZYX)
