"""What an adjudicator sees of a dispute and does with it, in a browser: by pixels, by keyboard alone, and blindly."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect

from labeling_protocols import settlement
from labeling_protocols.channels import Channel
from labeling_protocols.disputes import standing_over
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Label
from labeling_protocols.records import Account, Case, Reason, Role
from labeling_protocols.volumes import read_volume, read_volume_bytes, write_volume
from labeling_protocols.worklist import next_case
from tests.annotation.served import INFO, Served
from tests.conftest import image_of, label_of
from tests.review.conftest import Disputed, dispute, sign_in
from tests.review.seen import alike, cyan, extent, open_dispute, orange, purple, views, wait_until_shown

# Turned round in two axes and with unequal spacing: an outline drawn without looking would lie elsewhere.
FLIPPED = Geometry(
    shape_ZYX=(14, 24, 20),
    spacing_mm_XYZ=(1.0, 1.5, 2.5),
    origin_mm_LPS=(20.0, -18.0, 30.0),
    direction_LPS=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
)
SAVED = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
ALL = (orange, cyan, purple)


def boxes(x: int) -> Volume:
    """Anterior in a corner of the grid, posterior behind it."""
    array = np.zeros(FLIPPED.shape_ZYX, dtype=np.uint8)
    array[2:7, 3:9, x : x + 6] = 1
    array[2:7, 9:14, x : x + 6] = 2
    return Volume(array_ZYX=array, geometry=FLIPPED)


def read_by(served: Served, labels: Sequence[Volume], image: Volume | None = None, **protocol: Any) -> Disputed:
    """A new case of a protocol of its own, which so many readers read differently, long ago."""
    asked = served.protocol(readers_per_case=len(labels), **protocol)
    image = image or image_of(next(served.numbers), labels[0].geometry)
    return another(
        served, Disputed(case=_case(served, asked.name, image), protocol=asked, readers=(), labels={}), labels
    )


def another(served: Served, like: Disputed, labels: Sequence[Volume]) -> Disputed:
    """The reads of a case: one by each of as many new readers."""
    readers = tuple(served.account() for _ in labels)
    for reader, label in zip(readers, labels, strict=True):
        assert next_case(served.store, like.protocol.name, reader.id) == like.case
        served.store.save_read(case_id=like.case.id, reader=reader.id, label=Label.of(label), created=SAVED)
    verdict = settlement.settle(served.store, like.case.id)
    assert verdict is not None
    assert not verdict.agreed
    drawn = {reader.id: label for reader, label in zip(readers, labels, strict=True)}
    return Disputed(case=like.case, protocol=like.protocol, readers=readers, labels=drawn)


def _case(served: Served, protocol: str, image: Volume) -> Case:
    return served.store.add_case(protocol=protocol, patient="P1", volume=image, modality="MR")[0]


def letters(served: Served, account: Account, case: str) -> dict[str, Volume]:
    """Each reader's label by letter, as a program gets it."""
    session = served.session(account)
    detail = session.get(f"{served.url}/review/api/disputes/{case}").json()
    return {
        read["letter"]: read_volume_bytes(session.get(served.url + read["label"]).content, ".nii.gz")
        for read in detail["reads"]
    }


def test_three_readers_are_seen_and_a_decision_by_structure_leads_to_the_next_dispute(
    served: Served, adjudicator: Account, page: Page
) -> None:
    worst = read_by(served, [label_of(0), label_of(2), label_of(3)])
    milder = _case(served, worst.protocol.name, image_of(next(served.numbers)))
    another(
        served,
        Disputed(case=milder, protocol=worst.protocol, readers=(), labels={}),
        [label_of(0), label_of(0), label_of(2)],
    )
    drawn = letters(served, adjudicator, worst.case.id)
    sign_in(page, adjudicator, f"/review/?protocol={worst.protocol.name}")
    assert page.locator("tbody tr").count() == 2
    page.get_by_role("button", name=f"Open case {worst.case.id}").click()
    wait_until_shown(page)
    both = views(page)
    for number, colour in enumerate(ALL):
        assert colour(both).sum() > 150, colour.__name__
        button = page.get_by_role("button", name=f"Reader {'ABC'[number]}", exact=False)
        button.click()
        without = views(page)
        assert colour(without).sum() == 0
        for other in ALL:
            assert other is colour or other(without).sum() > 100
        button.click()
        assert alike(views(page), both)
    page.get_by_label("Anterior hippocampus").and_(page.locator("#decision select")).select_option("B")
    page.locator("select[name='take.posterior']").select_option("A")
    page.get_by_label("Rationale").fill("B has the head, A the tail.")
    page.get_by_label("Your password").fill(f"{adjudicator.name}-password")
    page.get_by_role("button", name="Sign and settle").click()
    page.wait_for_url(f"**/review/disputes/*settled={worst.case.id}*")
    assert worst.case.id in page.locator(".panel .done").inner_text()
    truth = settlement.truth(served.store, worst.case.id)
    assert truth is not None
    label = served.store.label(truth.label)
    for letter, value in (("B", 1), ("A", 2)):
        np.testing.assert_array_equal(label.mask_ZYX(value), drawn[letter].array_ZYX == value)
    decision = settlement.adjudication_of(served.store, worst.case.id)
    assert decision is not None
    assert (decision.adjudicator, decision.rationale) == (adjudicator.id, "B has the head, A the tail.")
    following = page.locator("h1 code").inner_text()
    assert following not in ("", worst.case.id)
    held = standing_over(served.store, following)
    assert held is not None
    assert held.holder == adjudicator.id


def test_everything_is_done_by_keyboard_alone(served: Served, adjudicator: Account, page: Page) -> None:
    found = read_by(served, [label_of(0), label_of(2)])
    sign_in(page, adjudicator, f"/review/?protocol={found.protocol.name}")
    page.keyboard.press("n")
    wait_until_shown(page)
    both = views(page)
    for key, colour in (("1", orange), ("2", cyan)):
        page.keyboard.press(key)
        assert colour(views(page)).sum() == 0
        page.keyboard.press(key)
    page.keyboard.press("PageUp")
    assert not alike(views(page), both)
    page.keyboard.press("d")
    assert alike(views(page), both)
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    page.keyboard.type("Maj")
    assert page.locator("#decision select[name=take]").input_value() == "majority"
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.locator("#rationale:focus").count():
            break
    page.keyboard.type("1 and 2 are letters of this text, not toggles.")
    page.keyboard.press("Tab")
    page.keyboard.type(f"{adjudicator.name}-password")
    page.keyboard.press("Enter")
    page.wait_for_url("**settled=*")
    decision = settlement.adjudication_of(served.store, found.case.id)
    assert decision is not None
    assert decision.parts[0].source == "consensus:majority"
    assert decision.rationale.startswith("1 and 2")


def test_each_structure_is_taken_from_another_reader_by_keyboard_and_the_next_dispute_follows(
    served: Served, adjudicator: Account, page: Page
) -> None:
    worst = read_by(served, [label_of(0), label_of(3)])
    dispute(served, worst.protocol, label_of(0), label_of(2))
    drawn = letters(served, adjudicator, worst.case.id)
    sign_in(page, adjudicator, f"/review/?protocol={worst.protocol.name}")
    page.keyboard.press("n")
    wait_until_shown(page)
    assert page.locator("h1 code").inner_text() == worst.case.id
    shown = views(page)
    page.keyboard.press("c")
    for downs in (0, 2, 1):  # the whole case as below, anterior from B, posterior from A
        for _ in range(downs):
            page.keyboard.press("ArrowDown")
        page.keyboard.press("Escape")  # to the images and their keys, then back to where one was
        page.keyboard.press("1")
        assert orange(views(page)).sum() == 0
        page.keyboard.press("1")
        assert (orange(views(page)) == orange(shown)).mean() > 0.99
        page.keyboard.press("c")
        page.keyboard.press("Tab")
    assert page.locator("#rationale:focus").count()
    page.keyboard.type("B has the head, A the tail.")
    page.keyboard.press("Tab")
    page.keyboard.type(f"{adjudicator.name}-password")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/review/disputes/*settled={worst.case.id}*")
    truth = settlement.truth(served.store, worst.case.id)
    assert truth is not None
    label = served.store.label(truth.label)
    for letter, value in (("B", 1), ("A", 2)):
        np.testing.assert_array_equal(label.mask_ZYX(value), drawn[letter].array_ZYX == value)
    following = page.locator("h1 code").inner_text()
    assert following not in ("", worst.case.id)  # the worst of all that are open, of any protocol
    wait_until_shown(page)
    page.keyboard.press("c")
    assert page.locator("#decision select[name=take]:focus").count()


def test_outlines_lie_on_what_they_outline_and_everything_fits_at_200_percent(
    served: Served, adjudicator: Account, page: Page
) -> None:
    """A's boxes are bright in the image, on a flipped, anisotropic grid: outline and brightness cover one patch."""
    image = Volume(array_ZYX=(boxes(3).array_ZYX > 0).astype(np.int16) * 800, geometry=FLIPPED)
    found = read_by(served, [boxes(3), boxes(12)], image)
    bright = next(
        letter for letter, label in letters(served, adjudicator, found.case.id).items() if label.array_ZYX[3, 4, 4]
    )
    mine, others = (orange, cyan) if bright == "A" else (cyan, orange)
    open_dispute(page, adjudicator, found.case.id)
    lines = views(page)
    page.keyboard.press("o")
    none = views(page)
    assert mine(none).sum() == others(none).sum() == 0
    white = none.min(axis=-1) > 128
    drawn, seen = extent(mine(lines)), extent(white)
    # 11 voxels high and 6 wide; NiiVue smooths within half a voxel, and a letter stands beside the line.
    half_a_voxel_px = np.tile((seen[2:] - seen[:2]) / (11, 6) / 2, 2)
    assert (np.abs(drawn - seen) < half_a_voxel_px + 16).all()
    assert not white[others(lines)].any()
    page.keyboard.press("o")
    page.keyboard.press("x")
    hatched = views(page)
    assert (orange(hatched) | cyan(hatched)).sum() > 2 * (orange(lines) | cyan(lines)).sum()
    red = [(hatched[..., 0] - hatched[..., 1] > 60).sum()]
    for structure in ("posterior", "anterior"):
        page.locator("#only").select_option(structure)
        part = views(page)
        red.append((part[..., 0] - part[..., 1] > 60).sum())
    assert 0 < max(red[1:]) < 0.7 * red[0]
    page.locator("#only").select_option("")
    page.keyboard.press("Escape")
    page.keyboard.press("x")
    page.keyboard.press("f")
    changed = np.abs(views(page) - lines).max(axis=-1) > 20
    assert changed.sum() > 3 * (orange(lines) | cyan(lines)).sum()
    for width, height in ((1280, 800), (640, 400)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for name in ("Sign and settle", "Edit in 3D Slicer", "Give it back"):
            page.get_by_role("button", name=name).scroll_into_view_if_needed()
            assert page.get_by_role("button", name=name).is_visible()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # monailabel's client leaves its connection open
def test_each_channel_of_a_case_is_looked_at_in_its_own_window(
    served: Served, adjudicator: Account, page: Page
) -> None:
    lesion_ZYX = np.zeros(FLIPPED.shape_ZYX, np.int16)
    lesion_ZYX[2:9, 4:16, 4:14] = 3000
    flair = Channel(name="FLAIR", volume=Volume(array_ZYX=lesion_ZYX, geometry=FLIPPED))
    asked = served.protocol(readers_per_case=2, channels=("T1", "FLAIR"))
    case, _ = served.store.add_case(
        protocol=asked.name, patient="P1", volume=image_of(7, FLIPPED), modality="MR", channels=[flair]
    )
    another(served, Disputed(case=case, protocol=asked, readers=(), labels={}), [boxes(4), boxes(8)])
    told = served.session(adjudicator).get(f"{served.url}/review/api/disputes/{case.id}").json()["channels"]
    shown = {
        name: read_volume_bytes(served.session(adjudicator).get(served.url + at).content, ".nii.gz").array_ZYX
        for name, at in told.items()
    }
    np.testing.assert_array_equal(shown["T1"], image_of(7, FLIPPED).array_ZYX)
    np.testing.assert_array_equal(shown["FLAIR"], lesion_ZYX)
    unknown = served.session(adjudicator).get(f"{served.url}/review/disputes/{case.id}/image.nii?channel=T3")
    assert (unknown.status_code, "it has T1, FLAIR" in unknown.json()["detail"]) == (404, True)
    open_dispute(page, adjudicator, case.id)
    page.keyboard.press("o")  # no outlines
    first = views(page)
    white = {"T1": int((first.min(axis=-1) > 230).sum())}
    page.locator("#canvas").focus()
    page.keyboard.press("i")
    expect(page.locator("#where")).to_have_text("Channel FLAIR")
    assert page.locator("button.channel[aria-pressed=true]").inner_text() == "FLAIR"
    white["FLAIR"] = int((views(page).min(axis=-1) > 230).sum())
    assert white["FLAIR"] > 5 * white["T1"]
    page.get_by_role("button", name="T1", exact=True).click()
    expect(page.locator("#where")).to_have_text("Channel T1")
    assert alike(views(page), first)


def test_a_refusal_keeps_what_was_filled_in_and_an_edit_in_3d_slicer_arrives_by_itself(
    served: Served, adjudicator: Account, page: Page, tmp_path: Path
) -> None:
    found = read_by(served, [label_of(0), label_of(2)])
    open_dispute(page, adjudicator, found.case.id)
    fetched: list[str] = []
    page.on("request", lambda asked: fetched.append(asked.url))
    page.locator("#decision select[name=take]").select_option("A")
    page.get_by_label("Rationale").fill("A.")
    page.get_by_label("Your password").fill("not it")
    with page.expect_response(lambda answer: answer.request.method == "POST") as posted:
        page.get_by_role("button", name="Sign and settle").click()
    assert posted.value.status == 403
    page.locator("#problem", has_text="password is wrong").wait_for()
    assert page.locator("#decision select[name=take]").input_value() == "A"
    assert not [address for address in fetched if address.endswith(".nii")]
    page.locator("#edit select").select_option("B")
    page.get_by_role("button", name="Edit in 3D Slicer").click()
    page.locator("#edit", has_text="Ready, begun from Reader B.").wait_for()
    assert page.locator("#edit select").input_value() == "B"
    client = served.client(adjudicator)  # what 3D Slicer's module does
    assert client.next_sample("worklist", {})["id"] == found.case.id
    base = read_volume(Path(client.download_label(found.case.id, "original")))
    np.testing.assert_array_equal(base.array_ZYX, letters(served, adjudicator, found.case.id)["B"].array_ZYX)
    drawn = np.where(np.arange(base.array_ZYX.shape[0])[:, None, None] < 3, base.array_ZYX, 0).astype(np.uint8)
    write_volume(replace(base, array_ZYX=drawn), tmp_path / "edit.nrrd")
    client.save_label(found.case.id, str(tmp_path / "edit.nrrd"), params={"label_info": INFO})
    page.locator("#edit", has_text="revision 1, has arrived (begun from Reader B)").wait_for(timeout=20_000)
    assert page.get_by_role("button", name="My edit").get_attribute("aria-pressed") == "true"
    page.locator("#decision select[name=take]").select_option(label="My edit, revision 1")
    page.get_by_label("Your password").fill(f"{adjudicator.name}-password")
    page.get_by_role("button", name="Sign and settle").click()
    page.wait_for_url("**settled=*")
    truth = settlement.truth(served.store, found.case.id)
    assert truth is not None
    np.testing.assert_array_equal(served.store.label(truth.label).array_ZYX, drawn)
    assert client.next_sample("worklist", {}) == {}


def test_the_pages_and_their_traffic_say_nothing_of_who_read_or_when(
    served: Served, adjudicator: Account, page: Page
) -> None:
    found = read_by(served, [label_of(0), label_of(2), label_of(3)])
    answers: list[bytes] = []

    def keep(route: Route) -> None:
        """Take the answer before the browser gets it: a page that is left drops what it was sent."""
        answer = route.fetch(max_redirects=0)
        if "/static/" not in answer.url:
            answers.append(answer.url.encode() + str(answer.headers).encode() + answer.body())
        route.fulfill(response=answer)

    sign_in(page, adjudicator, "/review/")
    page.route("**/*", keep)
    page.goto(f"/review/disputes/{found.case.id}")
    page.get_by_role("button", name="Open the dispute").click()
    wait_until_shown(page)
    for rule in ("Majority", "STAPLE"):
        with page.expect_response("**/outlines-*"):
            page.get_by_role("button", name=rule).click()
    with page.expect_response("**/edit"):
        page.get_by_role("button", name="Edit in 3D Slicer").click()
    text = page.locator("body").inner_text().encode()
    page.goto(f"/review/?protocol={found.protocol.name}")
    page.evaluate("fetch('/review/api/disputes').then((answer) => answer.text())")
    everything = b"".join(answers) + text + page.locator("body").inner_text().encode()
    assert len(answers) >= 8
    assert found.case.id.encode() in everything
    reads = {read.reader: read for read in served.store.reads(found.case.id)}
    for reader in found.readers:
        for secret in (reader.id, reader.name, reads[reader.id].label):
            assert secret.encode() not in everything
    for moment in ("2026-01-02", "03:04", "02 Jan", str(int(SAVED.timestamp()))):
        assert moment.encode() not in everything


def test_a_second_adjudicator_is_told_who_has_the_dispute(served: Served, adjudicator: Account) -> None:
    found = read_by(served, [label_of(0), label_of(2)])
    address = f"{served.url}/review/disputes/{found.case.id}"
    asked = {"headers": {"Accept": "text/html"}, "allow_redirects": False}
    first, second = served.session(adjudicator), served.session(served.account(Role.ADJUDICATOR))
    assert "Nobody has this dispute" in first.get(address, **asked).text
    assert first.post(f"{address}/claim", **asked).status_code == 303
    assert "Sign and settle" in first.get(address, **asked).text
    for answer, status in ((second.get(address, **asked), 200), (second.post(f"{address}/claim", **asked), 409)):
        assert answer.status_code == status
        assert f"<strong>{adjudicator.name}</strong> has this dispute since" in answer.text
        assert "Sign and settle" not in answer.text
        assert 'id="dispute"' not in answer.text
    queue = second.get(f"{served.url}/review/?protocol={found.protocol.name}", **asked).text
    assert f"{adjudicator.name} has it since" in queue
    assert first.post(f"{address}/release", **asked).status_code == 303
    assert second.post(f"{address}/claim", **asked).status_code == 303


def test_reasons_tell_readers_in_the_order_of_letters_not_of_accounts() -> None:
    """Who is kept first in each case would otherwise be told first in each case, whatever his letter."""
    reason = Reason(text="{0} and {1} left it out and {2}, {3} and {4} outlined it", readers=tuple("zyxwv"))
    names = dict(zip("zyxwv", ("reader D", "reader A", "reader E", "reader C", "reader B"), strict=True))
    assert reason.said(names) == "reader A and reader D left it out and reader B, reader C and reader E outlined it"
