"""The queue and the frame of the pages in a browser; the dispute's own page has `test_dispute_page.py`."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from labeling_protocols import disputes, settlement
from labeling_protocols.records import Account, Role
from tests.annotation.served import Served
from tests.conftest import label_of
from tests.review.conftest import Disputed, dispute, sign_in


def test_the_queue_is_filtered_counted_and_worst_first(served: Served, adjudicator: Account, page: Page) -> None:
    protocol = served.protocol(title="Anterior and posterior hippocampus, queued")
    mild = dispute(served, protocol, label_of(0), label_of(2))
    worst = dispute(served, protocol, label_of(0), label_of(3))
    other = served.account(Role.ADJUDICATOR)
    disputes.claim(served.store, mild.case.id, other.id)
    sign_in(page, adjudicator, "/review/")
    page.get_by_label("Protocol").select_option(protocol.name)
    rows = page.locator("tbody tr")
    page.wait_for_url(f"**protocol={protocol.name}*")
    rows.nth(2).wait_for(state="detached")
    assert [row.split()[2] for row in rows.all_inner_texts()] == [worst.case.id, mild.case.id]
    assert f"{other.name} has it since" in rows.nth(1).inner_text()
    assert rows.nth(1).get_by_role("link", name="See who has").is_visible()
    assert "claimed 1" in page.get_by_label("Counts by state").inner_text()
    page.locator("select[name=state]").select_option("open")
    rows.nth(1).wait_for(state="detached")
    assert worst.case.id in rows.inner_text()
    page.keyboard.press("Escape")
    page.get_by_role("heading", level=1).click()
    page.keyboard.press("j")
    assert page.locator("button.open:focus").count() == 1


def test_who_read_cases_is_told_how_many_are_kept_from_him(served: Served) -> None:
    protocol = served.protocol()
    found = dispute(served, protocol, label_of(0), label_of(2))
    served.accounts.change(found.readers[0].id, actor="tests", roles=frozenset({Role.READER, Role.ADJUDICATOR}))
    answer = served.session(found.readers[0]).get(f"{served.url}/review/?protocol={protocol.name}")
    assert "1 more is kept from you, because you read the case yourself." in answer.text
    assert found.case.id not in answer.text


def test_a_settled_dispute_is_reopened_from_the_queue_with_a_reason(
    served: Served, adjudicator: Account, disputed: Disputed
) -> None:
    session = served.session(adjudicator)
    body = {"choice": "A", "rationale": "seen", "password": f"{adjudicator.name}-password"}
    assert session.post(f"{served.url}/review/api/disputes/{disputed.case.id}", json=body).status_code == 200
    queue = session.get(f"{served.url}/review/?protocol={disputed.protocol.name}&state=settled").text
    assert f"Reopen case {disputed.case.id}" in queue
    address = f"{served.url}/review/disputes/{disputed.case.id}/reopen"
    assert "needs a reason" in session.post(address, data={"reason": " "}).text
    answer = session.post(address, data={"reason": "the wrong side"})
    assert "is open again" in answer.text
    assert settlement.truth(served.store, disputed.case.id) is None


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (640, 400)])
def test_the_pages_fit_the_window_also_at_200_percent(
    served: Served, adjudicator: Account, page: Page, disputed: Disputed, width: int, height: int
) -> None:
    page.set_viewport_size({"width": width, "height": height})
    sign_in(page, adjudicator, "/review/")
    for path in ("/", "/review/", "/review/progress", f"/review/disputes/{disputed.case.id}"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.get_by_role("heading", level=1).first.is_visible()


def test_a_page_refused_is_a_page_in_words(browser: Browser, served: Served, disputed: Disputed) -> None:
    context = browser.new_context(base_url=served.url)
    page = context.new_page()
    sign_in(page, served.account(Role.READER), "/")
    assert page.goto("/review/").status == 403  # type: ignore[union-attr]
    assert "needs the role" in page.get_by_role("alert").inner_text()
    page.goto("/review/disputes/nothing")
    page.get_by_role("link", name="Back to the start").click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in")
    page.goto("/review/")
    assert "/sign-in" in page.url
    context.close()


def test_pictures_of_the_pages_are_small_enough_to_keep() -> None:
    for picture in (Path(__file__).parents[2] / "apps" / "review" / "pictures").glob("*.png"):
        assert picture.stat().st_size <= 400_000, picture.name
