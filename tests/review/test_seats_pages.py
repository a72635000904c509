"""Who reads which case: administrators see names and change seats, adjudicators see states, readers nothing."""

import pytest
import requests
from playwright.sync_api import Page

from labeling_protocols import audit, occupancy
from labeling_protocols.audit import Action
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import Calibration
from labeling_protocols.records import Account, Case, Role
from labeling_protocols.worklist import next_case, seats, skip
from tests.annotation.served import Served
from tests.conftest import label_of
from tests.review.conftest import sign_in
from tests.review.test_work_page import post, read_next, signed_in


@pytest.fixture
def boss(served: Served) -> Account:
    return served.account(Role.ADMINISTRATOR)


@pytest.fixture
def readers(served: Served) -> tuple[Account, Account]:
    return served.account(), served.account()


@pytest.fixture
def begun(served: Served, readers: tuple[Account, Account]) -> tuple[Protocol, list[Case]]:
    """Three cases: the first read by both readers, the second held by the first reader."""
    protocol = served.protocol()
    cases = sorted(served.cases(protocol, 3), key=lambda case: case.id)
    for reader in readers:
        read_next(served, protocol.name, reader)
    next_case(served.store, protocol.name, readers[0].id)
    return protocol, cases


def last_entry(served: Served, action: Action) -> audit.Entry:
    with served.store.engine.connect() as connection:
        return [entry for entry in audit.entries(connection) if entry.action == action][-1]


def test_an_administrator_finds_a_case_and_gives_its_seat_to_another_reader(
    served: Served, boss: Account, readers: tuple[Account, Account], begun: tuple[Protocol, list[Case]], page: Page
) -> None:
    protocol, cases = begun
    third = served.account()
    sign_in(page, boss, f"/review/seats/?protocol={protocol.name}")
    page.get_by_label("Cases").select_option("being read")
    page.get_by_role("button", name="Show").click()
    assert page.locator("tbody tr").count() == 1
    page.get_by_role("link", name=f"Open case {cases[1].id}").click()
    assert page.get_by_role("heading", level=1).inner_text() == f"Case {cases[1].id}"
    row = page.locator("tr", has_text=readers[0].name).first
    row.get_by_text("Reassign …").click()
    row.get_by_label("To").select_option(third.name)
    row.get_by_label("Reason").fill("on leave")
    row.get_by_role("button", name="Reassign").click()
    page.wait_for_url("**?done=reassigned")
    assert {seat.reader for seat in seats(served.store, cases[1].id)} == {third.id, None}
    given_back = page.locator("section", has_text="Given back").locator("tbody tr").inner_text()
    assert all(words in given_back for words in (readers[0].name, "reassigned", "on leave", boss.name))
    entry = last_entry(served, Action.SEAT_REASSIGNED)
    assert (entry.actor, entry.subject) == (boss.id, cases[1].id)


def test_an_administrator_withdraws_a_read_with_a_reason(
    served: Served, boss: Account, readers: tuple[Account, Account], begun: tuple[Protocol, list[Case]], page: Page
) -> None:
    case = begun[1][0]
    sign_in(page, boss, f"/review/seats/cases/{case.id}")
    row = page.locator("tr", has_text=readers[1].name).first
    row.get_by_text("Withdraw …").click()
    row.get_by_label("Reason").fill("wrong patient")
    row.get_by_role("button", name="Withdraw").click()
    page.wait_for_url("**?done=withdrawn")
    assert [read.reader for read in served.store.latest_reads(case.id)] == [readers[0].id]
    assert "withdrawn" in page.locator("section", has_text="Reads").locator("tr", has_text=readers[1].name).inner_text()
    entry = last_entry(served, Action.READ_WITHDRAWN)
    assert (entry.actor, entry.subject) == (boss.id, case.id)


def test_a_change_that_cannot_be_is_said_on_the_page_and_changes_nothing(
    served: Served, boss: Account, readers: tuple[Account, Account], begun: tuple[Protocol, list[Case]]
) -> None:
    ann, ben = readers
    read, held = begun[1][0].id, begun[1][1].id
    before = seats(served.store, read), seats(served.store, held)
    for case, act, form in (
        (held, "reassign", {"from_reader": ann.id, "reason": " "}),
        (held, "reassign", {"from_reader": ann.id, "to_reader": boss.id, "reason": "x"}),
        (held, "reassign", {"from_reader": ben.id, "reason": "x"}),
        (read, "reassign", {"from_reader": ann.id, "reason": "x"}),
        (read, "reassign", {}),
        (read, "withdraw", {"reader": ann.id, "reason": ""}),
        (held, "withdraw", {"reader": ann.id, "reason": "x"}),
    ):
        answer = post(served, boss, f"/review/seats/cases/{case}/{act}", **form)
        assert answer.status_code == 409, form
        assert 'role="alert"' in answer.text
    assert post(served, boss, "/review/seats/cases/nothing/withdraw", reader=ann.id, reason="x").status_code == 404
    assert post(served, boss, f"/review/seats/cases/{held}/reassign", csrf="x", reason="x").status_code == 403
    assert (seats(served.store, read), seats(served.store, held)) == before


def test_an_adjudicator_sees_states_and_neither_names_nor_times(
    served: Served, adjudicator: Account, readers: tuple[Account, Account], begun: tuple[Protocol, list[Case]]
) -> None:
    protocol, cases = begun
    skip(served.store, cases[1].id, readers[0].id, "blurred")
    browser = signed_in(served, adjudicator)
    listed = browser.get(f"{served.url}/review/seats/?protocol={protocol.name}&reader={readers[0].id}").text
    returned = browser.get(f"{served.url}/review/seats/returned?protocol={protocol.name}").text
    assert all(case.id in listed for case in cases), "a search by reader is not an adjudicator's"
    assert "blurred" in returned
    for text in (listed, returned):
        for reader in readers:
            assert reader.id not in text
            assert reader.name not in text
        for read in served.store.reads(cases[0].id):
            assert read.created.strftime("%H:%M") not in text
    for path in ("calibration", "audit", f"cases/{cases[0].id}"):
        assert browser.get(f"{served.url}/review/seats/{path}").status_code == 403


def test_who_reads_cases_sees_nobodys_seats_unless_an_administrator(
    served: Served, begun: tuple[Protocol, list[Case]]
) -> None:
    both = served.account(Role.READER, Role.ADJUDICATOR)
    for path in ("", "returned"):
        answer = signed_in(served, both).get(f"{served.url}/review/seats/{path}", headers={"Accept": "text/html"})
        assert answer.status_code == 403
        assert "you read cases yourself" in answer.text
    assert "/review/seats/" not in signed_in(served, both).get(f"{served.url}/").text
    assert signed_in(served, served.account(*Role)).get(f"{served.url}/review/seats/").status_code == 200


def test_long_lists_come_in_pages(
    served: Served, boss: Account, begun: tuple[Protocol, list[Case]], monkeypatch: pytest.MonkeyPatch, page: Page
) -> None:
    monkeypatch.setattr(occupancy, "PAGE", 2)
    protocol, cases = begun
    sign_in(page, boss, f"/review/seats/?protocol={protocol.name}")
    assert page.locator("tbody tr").count() == 2
    page.get_by_role("link", name="Next page").click()
    assert cases[2].id in page.locator("tbody tr").inner_text()
    assert page.get_by_role("link", name="Next page").count() == 0
    page.get_by_role("link", name="First page").click()
    assert page.locator("tbody tr").count() == 2


def test_what_was_given_back_is_listed_with_who_and_why(
    served: Served, boss: Account, readers: tuple[Account, Account], begun: tuple[Protocol, list[Case]]
) -> None:
    protocol, cases = begun
    skip(served.store, cases[1].id, readers[0].id, "<b>blurred</b>")
    browser = signed_in(served, boss)
    text = browser.get(f"{served.url}/review/seats/returned?protocol={protocol.name}&why=skipped").text
    assert readers[0].name in text
    assert "&lt;b&gt;blurred" in text
    lapsed = browser.get(f"{served.url}/review/seats/returned?protocol={protocol.name}&why=lapsed").text
    assert "No reader gave" in lapsed


def test_calibration_results_are_listed_by_reader_and_can_be_sorted(
    served: Served, boss: Account, readers: tuple[Account, Account], page: Page
) -> None:
    protocol = served.protocol(calibration=Calibration(every=1))
    known, *_ = served.cases(protocol, 2)
    served.store.set_calibration(known.id, Label.of(label_of()))
    for reader, shift in zip(readers, (2, 0), strict=True):
        read_next(served, protocol.name, reader)
        assert read_next(served, protocol.name, reader, shift) == known.id
    sign_in(page, boss, f"/review/seats/calibration?protocol={protocol.name}")
    table = page.locator("table").first
    rows = table.locator("tbody tr")
    table.get_by_role("button", name="Anterior hippocampus").click()
    assert [readers[0].name in text for text in rows.all_inner_texts()] == [True, False]
    table.get_by_role("button", name="Anterior hippocampus").click()
    assert [readers[0].name in text for text in rows.all_inner_texts()] == [False, True]
    worst = table.locator("tr", has_text=readers[0].name).locator("td")
    assert worst.nth(1).inner_text() == "1"
    assert worst.nth(2).inner_text() == "0"
    assert worst.nth(3).inner_text().strip() == "0.50"
    assert "Dice 0.50 < 0.75" in page.locator("table").nth(1).inner_text()


def test_the_audits_end_is_shown_with_the_chains_head(
    served: Served, boss: Account, begun: tuple[Protocol, list[Case]]
) -> None:
    text = signed_in(served, boss).get(f"{served.url}/review/seats/audit").text
    with served.store.engine.connect() as connection:
        entries = list(audit.entries(connection))
    assert entries[-1].hash in text
    assert text.count("<tr>") == min(50, len(entries)) + 1
    assert "seat claimed" in text


def test_a_calibration_case_is_given_to_a_reader(
    served: Served, boss: Account, readers: tuple[Account, Account], page: Page
) -> None:
    protocol = served.protocol(calibration=Calibration(every=1))
    [known] = served.cases(protocol)
    served.store.set_calibration(known.id, Label.of(label_of()))
    sign_in(page, boss, f"/review/seats/cases/{known.id}")
    page.get_by_label("Give it to").select_option(readers[1].name)
    page.get_by_role("button", name="Give").click()
    page.wait_for_url("**?done=reassigned")
    assert next_case(served.store, protocol.name, readers[1].id) == served.store.case(known.id)


@pytest.mark.parametrize(
    "query", ["show=nonsense", "before=-1", f"before={2**70}", "case=..%2f", "after=%00", "reader='x", "protocol=liver"]
)
def test_nonsense_in_an_address_is_refused_in_words(served: Served, boss: Account, query: str) -> None:
    for path in ("", "returned"):
        answer = signed_in(served, boss).get(f"{served.url}/review/seats/{path}?{query}")
        assert answer.status_code in (200, 404, 422), answer.text


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (640, 400)])
def test_the_pages_fit_the_window_also_at_200_percent(
    served: Served, begun: tuple[Protocol, list[Case]], page: Page, width: int, height: int
) -> None:
    page.set_viewport_size({"width": width, "height": height})
    sign_in(page, served.account(*Role), "/work/")
    case = begun[1][0].id
    names = ("", "returned", "calibration", "audit", f"cases/{case}")
    for path in ("/work/", *(f"/review/seats/{name}" for name in names)):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.get_by_role("heading", level=1).is_visible()


def test_strangers_are_asked_to_sign_in(served: Served) -> None:
    for path in ("", "returned", "calibration", "audit", "cases/x"):
        answer = requests.get(f"{served.url}/review/seats/{path}", timeout=10)
        assert answer.status_code == 401
