"""Several adjudicators over one dispute, in browsers and as programs: two who must agree, escalation, and claims."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, Page

from labeling_protocols import disputes, schema, settlement
from labeling_protocols.label import Label
from labeling_protocols.protocol import SHIPPED, load_protocol
from labeling_protocols.protocol_parts import AdjudicationRule
from labeling_protocols.records import Account, DisputeState, Role
from labeling_protocols.settlement import adjudication_of, truth
from labeling_protocols.store import now
from labeling_protocols.worklist import next_case
from tests.annotation.served import Served
from tests.conftest import image_of, label_of
from tests.review.conftest import Disputed, dispute, is_complaint, sign_in
from tests.review.seen import open_dispute, wait_until_shown

TWO = AdjudicationRule(adjudicators=2)
TWO_AND_CHIEFS = AdjudicationRule(adjudicators=2, escalate_after_days=3, escalate_to="chiefs")


@pytest.fixture
def chief(served: Served) -> Account:
    name = f"chief{next(served.numbers)}"
    groups = frozenset({"chiefs"})
    return served.accounts.add(name, f"{name}-password", frozenset({Role.ADJUDICATOR}), groups)


@pytest.fixture
def other(served: Served) -> Account:
    return served.account(Role.ADJUDICATOR)


def ruled(served: Served, rule: AdjudicationRule) -> Disputed:
    return dispute(served, served.protocol(adjudication=rule), label_of(0), label_of(2))


def state(served: Served, found: Disputed) -> str:
    standing = disputes.standing_over(served.store, found.case.id)
    assert standing is not None
    return standing.state


@contextmanager
def window(browser: Browser, served: Served) -> Iterator[Page]:
    """Another person's browser, beside the test's own."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, base_url=served.url)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if is_complaint(message) else None)
    yield page
    context.close()
    assert complaints == []


def sign(page: Page, account: Account, take: str, why: str, button: str = "Sign") -> None:
    page.locator("#decision select[name=take]").select_option(take)
    page.get_by_label("Rationale").fill(why)
    page.get_by_label("Your password").fill(f"{account.name}-password")
    page.get_by_role("button", name=button, exact=True).click()
    page.wait_for_url("**settled=*")


def line(page: Page, found: Disputed) -> str:
    """What the queue says of a dispute."""
    page.goto(f"/review/?protocol={found.protocol.name}")
    return page.locator(f"tr[data-dispute='{found.case.id}']").inner_text()


class Program:
    """An adjudicator's program that speaks JSON with httpx."""

    def __init__(self, served: Served, account: Account, case: str) -> None:
        self.password = f"{account.name}-password"
        headers = {"Authorization": f"Bearer {served.accounts.token(account)}"}
        self.address = f"{served.url}/review/api/disputes/{case}"
        self.client = httpx.Client(headers=headers, timeout=30)

    def look(self) -> dict[str, Any]:
        told: dict[str, Any] = self.client.get(self.address).raise_for_status().json()
        return told

    def act(self, act: str, **said: Any) -> httpx.Response:
        return self.client.post(f"{self.address}/{act}", json=said)

    def decide(self, choice: str) -> httpx.Response:
        return self.client.post(self.address, json={"choice": choice, "rationale": "seen", "password": self.password})


def test_a_second_adjudicator_is_told_what_is_left_and_settles_by_deciding_the_same(
    served: Served, browser: Browser, adjudicator: Account, other: Account, page: Page
) -> None:
    found = ruled(served, TWO)
    open_dispute(page, adjudicator, found.case.id)
    assert "You are the first" in page.get_by_role("note").inner_text()
    sign(page, adjudicator, "union", "Both have a part of it.")
    assert "once another adjudicator decides the same" in page.get_by_role("status").inner_text()
    assert state(served, found) == DisputeState.OPEN
    assert truth(served.store, found.case.id) is None
    assert "1 of 2 signed" in line(page, found)
    assert "you decided already" in line(page, found)
    assert not page.get_by_role("button", name=f"Open case {found.case.id}").count()
    page.get_by_role("link", name=f"See why case {found.case.id}").click()
    assert "You decided already; another adjudicator decides next." in page.get_by_role("status").inner_text()
    assert not page.get_by_role("button", name="Open the dispute").count()
    with window(browser, served) as second:
        open_dispute(second, other, found.case.id)
        left = second.get_by_role("note").inner_text()
        assert "One adjudicator has signed, and you are not told for what." in left
        assert "another adjudicator decides next" in left
        for secret in ("Both have", adjudicator.name):
            assert secret not in second.content()
        sign(second, other, "union", "The union.")
        assert "is settled and signed" in second.get_by_role("status").inner_text()
    decision = adjudication_of(served.store, found.case.id)
    assert decision is not None
    assert (decision.adjudicator, decision.settles) == (other.id, True)


def test_two_who_differ_leave_it_to_the_group_and_an_escalation_by_hand_says_why(
    served: Served, browser: Browser, adjudicator: Account, other: Account, chief: Account, page: Page
) -> None:
    differ = ruled(served, TWO_AND_CHIEFS)
    by_hand = dispute(served, differ.protocol, label_of(0), label_of(3))
    assert Program(served, adjudicator, differ.case.id).decide("A").json()["settles"] is False
    open_dispute(page, other, differ.case.id)
    assert "where it differs, the dispute goes to the group chiefs" in page.get_by_role("note").inner_text()
    sign(page, other, "B", "B.")
    assert "The two decisions differ, so it is escalated." in page.locator(".panel .done").inner_text()
    assert state(served, differ) == DisputeState.ESCALATED
    wait_until_shown(page)  # the next dispute is his now
    assert page.locator("h1 code").inner_text() == by_hand.case.id
    page.get_by_text("Escalate to chiefs").click()
    page.get_by_label("Why?").fill("A rare variant; <b>look</b> at the tail.")
    page.get_by_role("button", name="Escalate", exact=True).click()
    assert f"Case {by_hand.case.id} is escalated." in page.get_by_role("status").inner_text()
    for found in (differ, by_hand):
        told = line(page, found)
        assert "escalated to chiefs" in told
        assert "this dispute is for adjudicators of the group chiefs" in told
    page.goto(f"/review/disputes/{by_hand.case.id}")
    assert "for adjudicators of the group chiefs" in page.get_by_role("status").inner_text()
    assert "A rare variant; <b>look</b> at the tail." in page.get_by_role("main").inner_text()
    with window(browser, served) as third:
        open_dispute(third, chief, by_hand.case.id)
        assert "Escalated to chiefs: A rare variant; <b>look</b> at the tail." in third.locator(".panel").inner_text()
        assert not third.get_by_text("Escalate to").count()
        sign(third, chief, "A", "It is the variant.", "Sign and settle")
        assert differ.case.id in third.locator("h1 code").inner_text()
        assert "two adjudicators decided differently" in third.locator(".panel").inner_text()
    assert state(served, by_hand) == DisputeState.SETTLED


def test_programs_are_told_what_is_left_and_whose_it_is(
    served: Served, adjudicator: Account, other: Account, chief: Account
) -> None:
    found = ruled(served, TWO_AND_CHIEFS)
    first, second, third = (Program(served, judge, found.case.id) for judge in (adjudicator, other, chief))
    told = first.look()
    assert (told["adjudicators"], told["decided"], told["not_yours"]) == (2, 0, None)
    answer = first.decide("A").json()
    assert (answer["settles"], answer["state"], answer["decided"]) == (False, "open", 1)
    told = first.look()
    assert told["not_yours"] == "you decided already; another adjudicator decides next"
    for refused in (first.act("claim"), first.decide("A")):
        assert refused.status_code == 409
        assert "you decided already" in refused.json()["detail"]
    assert (second.look()["decided"], second.look()["not_yours"]) == (1, None)
    answer = second.decide("B").json()
    assert (answer["settles"], answer["state"], answer["decided"]) == (False, "escalated", 2)
    told = third.look()
    assert (told["group"], told["adjudicators"], told["not_yours"]) == ("chiefs", 1, None)
    assert told["escalated_because"] == "two adjudicators decided differently"
    assert second.act("claim").status_code == 409
    answer = third.decide("A").json()
    assert (answer["settles"], answer["state"], answer["decided"]) == (True, "settled", 3)


def test_without_a_group_a_third_adjudicator_decides_between_two(
    served: Served, adjudicator: Account, other: Account
) -> None:
    found = ruled(served, TWO)
    first, second, third = (
        Program(served, judge, found.case.id) for judge in (adjudicator, other, served.account(Role.ADJUDICATOR))
    )
    first.decide("A")
    assert second.decide("B").json()["state"] == "open"
    assert third.look()["decided"] == 2
    assert third.decide("union").json()["settles"] is False
    assert Program(served, served.account(Role.ADJUDICATOR), found.case.id).decide("B").json()["settles"] is True
    known = truth(served.store, found.case.id)
    assert known is not None
    taken = {label.array_ZYX.tobytes() for label in found.labels.values()}
    assert served.store.label(known.label).array_ZYX.tobytes() in taken


def test_an_escalation_by_a_program_needs_a_reason_and_ends_his_claim(
    served: Served, adjudicator: Account, other: Account, chief: Account
) -> None:
    found = ruled(served, TWO_AND_CHIEFS)
    one, two, three = (Program(served, judge, found.case.id) for judge in (adjudicator, other, chief))
    assert one.act("claim").json()["mine"]
    refused = two.act("escalate", reason="hard")
    assert refused.status_code == 409
    assert f"{adjudicator.name} has this dispute since" in refused.json()["detail"]
    assert one.act("escalate", reason=" ").status_code == 409
    told = one.act("escalate", reason="hard").json()
    assert (told["state"], told["group"], told["held_by"]) == ("escalated", "chiefs", None)
    for program in (one, two):
        assert "for adjudicators of the group chiefs" in program.act("claim").json()["detail"]
    assert three.act("claim").json()["mine"]
    assert three.act("escalate", reason="harder").status_code == 409


def test_a_claim_is_kept_while_somebody_works_on_the_page_and_its_loss_is_said(
    served: Served, adjudicator: Account, other: Account, page: Page
) -> None:
    found = ruled(served, AdjudicationRule())
    case, table = found.case.id, schema.disputes
    sign_in(page, adjudicator, f"/review/disputes/{case}")

    def open_with(minutes: float) -> None:
        """The page as it is when so much of his time is left."""
        soon = now() + timedelta(minutes=minutes)
        with served.store.writing() as connection:
            connection.execute(sa.update(table).where(table.c.case == case).values(held_until=soon))
        page.reload()
        wait_until_shown(page)

    page.get_by_role("button", name="Open the dispute").click()
    wait_until_shown(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/claim") else None)
    page.keyboard.press("x")
    open_with(30)
    assert asked == []  # an hour was left, and nobody moved since
    with page.expect_response("**/claim") as renewed:
        page.mouse.move(300, 300)
    assert renewed.value.ok
    page.wait_for_function("(words) => document.getElementById('until').textContent === words", arg=until(served, case))
    standing = disputes.standing_over(served.store, case)
    assert standing is not None
    assert standing.held_until is not None
    assert standing.held_until > now() + timedelta(minutes=55)
    page.keyboard.press("x")
    assert len(asked) == 1
    open_with(4)
    page.get_by_role("alert").filter(has_text="Your time with this dispute ends at").wait_for()
    disputes.claim(served.store, case, other.id, at=now() + timedelta(minutes=5))
    page.get_by_label("Rationale").press_sequentially("B")
    page.get_by_role("alert").filter(has_text=f"{other.name} has this dispute since").wait_for()
    assert "what you wrote stays" in page.locator("#claim").inner_text()
    assert page.get_by_role("button", name="Sign and settle").is_disabled()
    assert page.get_by_label("Rationale").input_value() == "B"


def until(served: Served, case: str) -> str:
    """When a claim that is made now ends, as the page says it."""
    standing = disputes.standing_over(served.store, case)
    assert standing is not None
    assert standing.held_until is not None
    return f"{standing.held_until:%H:%M} UTC"


def test_a_chest_opens_in_the_lung_window_and_others_in_their_own(served: Served, adjudicator: Account) -> None:
    lung = load_protocol(SHIPPED / "lung_nodule.yaml")
    abdomen = load_protocol(SHIPPED / "abdomen_ct.yaml")
    for protocol, modality, first in ((lung, "CT", "lung"), (abdomen, "CT", "soft"), (lung, "MR", "auto")):
        asked = served.protocol(body_part=protocol.body_part, modality=(modality,))
        case, _ = served.store.add_case(
            protocol=asked.name, patient="P1", volume=image_of(next(served.numbers)), modality=modality
        )
        for shift in (0, 2):
            reader = served.account()
            next_case(served.store, asked.name, reader.id)
            served.store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of(shift)))
        settlement.settle(served.store, case.id)
        disputes.claim(served.store, case.id, adjudicator.id)
        text = served.session(adjudicator).get(f"{served.url}/review/disputes/{case.id}").text
        assert f'data-window="{first}" aria-pressed="true"' in text
        assert text.count('class="window"') == text.count('aria-pressed="true"', text.index('class="window"')) + (
            4 if modality == "CT" else 1
        )


def test_a_lead_who_reads_is_told_of_cases_and_reads_and_not_of_what_became_of_them(served: Served) -> None:
    found = ruled(served, AdjudicationRule())
    known = {"protocol": found.protocol.name, "cases": 1, "reads": 2, "reads_planned": 2}
    for roles, became in (
        ((Role.ENGINEER,), {"disputes": 1, "truths": 0}),
        ((Role.ENGINEER, Role.READER), {"disputes": None, "truths": None}),
        ((Role.ADMINISTRATOR, Role.READER), {"disputes": None, "truths": None}),
    ):
        session = served.session(served.account(*roles))
        answer = session.get(f"{served.url}/review/api/progress?protocol={found.protocol.name}")
        assert answer.json() == {**known, **became}
    everything = session.get(f"{served.url}/review/api/progress").json()
    assert everything["cases"] >= 1
    assert everything["truths"] is None
