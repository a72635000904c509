"""A reader's own page: what they hold and read, giving back and withdrawing with a reason, and nothing of others."""

from datetime import timedelta

import pytest
import requests
from playwright.sync_api import Page
from pydicom.uid import generate_uid

from apps.identity import COOKIE
from labeling_protocols.label import Label
from labeling_protocols.protocol_parts import Blinding, BlindingLifts, Calibration
from labeling_protocols.records import Account, Role, SeatState
from labeling_protocols.series_writer import SeriesIdentity, write_series
from labeling_protocols.settlement import settle
from labeling_protocols.store import now
from labeling_protocols.worklist import next_case, own_work, renew
from tests.annotation.served import Served
from tests.conftest import image_of, label_of
from tests.review.conftest import sign_in


@pytest.fixture
def reader(served: Served) -> Account:
    return served.account(Role.READER)


def read_next(served: Served, protocol: str, reader: Account, shift: int = 0) -> str:
    case = next_case(served.store, protocol, reader.id)
    assert case is not None
    served.store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of(shift)))
    return case.id


def signed_in(served: Served, account: Account) -> requests.Session:
    """A browser that holds the account's cookie and nothing else."""
    session = requests.Session()
    session.cookies.set(COOKIE, served.accounts.token(account))
    return session


def post(served: Served, account: Account, path: str, **form: str) -> requests.Response:
    """A form as its page sends it."""
    token = served.accounts.token(account)
    csrf = served.app.state.identities.csrf(served.accounts.holder(token)[1])
    return requests.post(
        served.url + path,
        data={"csrf": csrf, **form},
        cookies={COOKIE: token},
        headers={"Accept": "text/html"},
        allow_redirects=False,
        timeout=10,
    )


def test_a_reader_sees_what_they_hold_and_what_they_read(served: Served, reader: Account, page: Page) -> None:
    protocol = served.protocol(title="Hippocampi of this test")
    served.cases(protocol, 3)
    read = read_next(served, protocol.name, reader)
    held = next_case(served.store, protocol.name, reader.id)
    assert held is not None
    sign_in(page, reader, "/work/")
    section = page.locator("section", has_text=protocol.title)
    assert "3 h 59 min" in section.locator("tr", has_text=held.id).inner_text()
    assert "Next Sample" in section.locator("tr", has_text=held.id).inner_text()
    assert section.locator("tr", has_text=read).locator("td").nth(1).inner_text() == "1"
    figures = section.locator(".figure").all_inner_texts()
    assert figures[0].startswith("1\ncase read")
    assert figures[2].startswith("2\n")
    assert section.get_by_role("img", name="at most 1 a day").is_visible()


def test_a_case_is_given_back_with_a_reason_and_not_offered_again(served: Served, reader: Account, page: Page) -> None:
    protocol = served.protocol()
    served.cases(protocol, 2)
    held = next_case(served.store, protocol.name, reader.id)
    assert held is not None
    sign_in(page, reader, "/work/")
    row = page.locator("tr", has_text=held.id)
    row.get_by_text("Give back …").click()
    row.get_by_label("Why do you not read it?").fill("Moved during the scan")
    row.get_by_role("button", name="Give back").click()
    page.wait_for_url("**/work/?done=skipped")
    assert "not offered to you again" in page.get_by_role("status").inner_text()
    assert page.locator("tr", has_text=held.id).count() == 0
    following = next_case(served.store, protocol.name, reader.id)
    assert following is not None
    assert following != held


def test_a_read_is_withdrawn_with_a_reason_and_is_to_be_read_anew(served: Served, reader: Account, page: Page) -> None:
    protocol = served.protocol()
    served.cases(protocol)
    case = read_next(served, protocol.name, reader)
    sign_in(page, reader, "/work/")
    row = page.locator("tr", has_text=case)
    row.get_by_text("Withdraw …").click()
    row.get_by_label("What is wrong with it?").fill("Left and right swapped")
    row.get_by_role("button", name="Withdraw").click()
    page.wait_for_url("**/work/?done=withdrawn")
    assert "withdrawn" in page.locator("tr", has_text=case).inner_text()
    assert served.store.latest_reads(case) == []
    assert [one.withdrawn for one in served.store.reads(case)] == [True]
    again = next_case(served.store, protocol.name, reader.id)
    assert again is not None
    assert again.id == case


def test_a_held_case_that_came_from_dicom_opens_in_ohif(served: Served, reader: Account) -> None:
    protocol = served.protocol()
    who = SeriesIdentity(
        patient_id="P1",
        patient_name="P1",
        study_uid=generate_uid(prefix=None),
        series_uid=generate_uid(prefix=None),
        frame_of_reference_uid=generate_uid(prefix=None),
        study_description="",
    )
    image = image_of(next(served.numbers))
    write_series(image, served.site.folder("archive") / who.series_uid, who)
    served.store.add_case(protocol=protocol.name, patient="P1", volume=image, modality="MR", series=who.series_uid)
    next_case(served.store, protocol.name, reader.id)
    served.app.state.archive._looked = 0.0  # the index looks at its folder every other second only
    text = signed_in(served, reader).get(f"{served.url}/work/").text
    assert f'href="/ohif/segmentation?StudyInstanceUIDs={who.study_uid}&amp;initialSeriesInstanceUID=' in text


def test_a_lease_that_ended_is_said(served: Served, reader: Account) -> None:
    protocol = served.protocol()
    served.cases(protocol)
    next_case(served.store, protocol.name, reader.id, at=now() - timedelta(days=1))
    assert "lease ended" in signed_in(served, reader).get(f"{served.url}/work/").text


@pytest.mark.parametrize("act", ["skip", "withdraw"])
def test_what_cannot_be_done_is_said_on_the_page_and_changes_nothing(served: Served, reader: Account, act: str) -> None:
    protocol = served.protocol()
    served.cases(protocol, 2)
    read = read_next(served, protocol.name, reader)
    held = next_case(served.store, protocol.name, reader.id)
    assert held is not None
    before = own_work(served.store, protocol.name, reader.id)
    wrong = {"skip": read, "withdraw": held.id}[act]
    right = {"skip": held.id, "withdraw": read}[act]
    for case, reason in ((wrong, "because"), (right, "  "), ("nothing", "because")):
        answer = post(served, reader, f"/work/{case}/{act}", reason=reason)
        assert answer.status_code == 409
        assert 'role="alert"' in answer.text
    assert own_work(served.store, protocol.name, reader.id) == before


def test_nobody_gives_back_or_withdraws_for_another_reader(served: Served, reader: Account) -> None:
    protocol = served.protocol()
    served.cases(protocol, 2)
    read = read_next(served, protocol.name, reader)
    held = next_case(served.store, protocol.name, reader.id)
    assert held is not None
    before = own_work(served.store, protocol.name, reader.id)
    other = served.account(Role.READER)
    assert post(served, other, f"/work/{held.id}/skip", reason="because").status_code == 409
    assert post(served, other, f"/work/{read}/withdraw", reason="because").status_code == 409
    assert post(served, reader, f"/work/{held.id}/skip", reason="because", csrf="x").status_code == 403
    assert own_work(served.store, protocol.name, reader.id) == before


def test_nothing_another_reader_does_changes_the_page(served: Served, reader: Account) -> None:
    protocol = served.protocol(readers_per_case=3)
    served.cases(protocol, 3)
    case = read_next(served, protocol.name, reader)
    others = (served.account(Role.READER), served.account(Role.READER))
    browser = signed_in(served, reader)
    before = browser.get(f"{served.url}/work/").content
    assert case.encode() in before
    for other in others:
        for _ in range(3):
            read_next(served, protocol.name, other, shift=3)
    served.store.withdraw(case_id=case, reader=others[0].id, actor=others[0].id, reason="wrong side")
    renew(served.store, case, others[0].id)
    settle(served.store, case)
    assert browser.get(f"{served.url}/work/").content == before


@pytest.mark.parametrize("lifts", list(BlindingLifts))
def test_calibration_is_shown_once_blinding_may_lift_and_never_by_case(
    served: Served, reader: Account, lifts: BlindingLifts
) -> None:
    protocol = served.protocol(calibration=Calibration(every=1), blinding=Blinding(lifts=lifts))
    known, *_ = served.cases(protocol, 2)
    served.store.set_calibration(known.id, Label.of(label_of()))
    read_next(served, protocol.name, reader)
    assert read_next(served, protocol.name, reader, shift=1) == known.id
    text = signed_in(served, reader).get(f"{served.url}/work/").text
    assert ("Against known truth" in text) == (lifts != BlindingLifts.NEVER)
    assert ("<strong>0.75</strong>" in text) == (lifts != BlindingLifts.NEVER)
    states = [work.state for work in own_work(served.store, protocol.name, reader.id)]
    assert states == [SeatState.READ, SeatState.READ]
    assert text.count(known.id) == text.count(next(c.id for c in served.store.cases(protocol.name) if c != known))


def test_older_reads_are_shown_when_asked_for(served: Served, reader: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.review.work_pages._PAGE", 2)
    protocol = served.protocol()
    served.cases(protocol, 3)
    first = read_next(served, protocol.name, reader)
    for _ in range(2):
        read_next(served, protocol.name, reader)
    browser = signed_in(served, reader)
    assert first not in browser.get(f"{served.url}/work/").text
    assert "1 older" in browser.get(f"{served.url}/work/").text
    assert first in browser.get(f"{served.url}/work/?shown=4").text


def test_only_readers_have_such_a_page(served: Served) -> None:
    answer = signed_in(served, served.account(Role.ENGINEER)).get(f"{served.url}/work/")
    assert answer.status_code == 403
    away = requests.get(f"{served.url}/work/", headers={"Accept": "text/html"}, allow_redirects=False, timeout=10)
    assert (away.status_code, away.headers["location"]) == (303, "/sign-in?next=%2Fwork%2F")
