"""A reader's feedback: the own read beside the truth once a case is unblinded, and nothing before or of others."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page

from apps.review.overlays import slices_of_difference, slices_picture
from labeling_protocols.adjudications import adjudicate
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Box, Label, Point
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import Blinding, BlindingLifts
from labeling_protocols.records import Account, Part
from tests.annotation.served import Served
from tests.conftest import OBLIQUE, image_of, label_of
from tests.review.conftest import Disputed, dispute, sign_in
from tests.review.test_work_page import signed_in

WHY = "Reader A follows the boundary, reader B does not."
LIFTS = Blinding(lifts=BlindingLifts.WHEN_SETTLED)


@pytest.fixture
def found(served: Served) -> Disputed:
    return dispute(served, served.protocol(title="Hippocampi that unblind", blinding=LIFTS), label_of(0), label_of(3))


def decide(served: Served, adjudicator: Account, found: Disputed) -> None:
    """For the second reader."""
    adjudicate(
        served.store,
        case_id=found.case.id,
        adjudicator=adjudicator.id,
        parts=[Part(source=f"reader:{found.readers[1].id}")],
        rationale=WHY,
        signing_key=served.site.signing_key,
    )


def paths(case: str) -> tuple[str, ...]:
    return ("/work/feedback", f"/work/feedback/{case}", f"/work/feedback/{case}/slices.png")


def ask(served: Served, account: Account, path: str) -> tuple[int, str]:
    answer = signed_in(served, account).get(served.url + path, headers={"Accept": "text/html"})
    return answer.status_code, answer.text


def test_before_a_case_is_unblinded_there_is_nothing_not_even_that_it_is_in_dispute(
    served: Served, found: Disputed
) -> None:
    reader = found.readers[0]
    assert "Nothing to show" in ask(served, reader, "/work/feedback")[1]
    for path in paths(found.case.id)[1:]:
        status, text = ask(served, reader, path)
        assert status == 404
        assert text == ask(served, reader, path.replace(found.case.id, "nothing"))[1]


def test_a_reader_sees_the_own_read_beside_the_truth_and_the_rationale(
    served: Served, adjudicator: Account, found: Disputed, page: Page
) -> None:
    """4 voxels wide and 3 apart: Dice 2·1/(4+4) = 0.25."""
    decide(served, adjudicator, found)
    sign_in(page, found.readers[0], "/work/feedback")
    section = page.locator("section", has_text=found.protocol.title)
    assert section.locator(".figure strong").all_inner_texts() == ["0.25", "0.25"]
    section.get_by_role("link", name=found.case.id).click()
    page.wait_for_url(f"**/work/feedback/{found.case.id}")
    assert WHY in page.locator("blockquote").inner_text()
    assert "In it you are reader " in page.locator("blockquote").inner_text()
    row = page.locator("tr", has_text="Anterior").locator("td").all_inner_texts()
    assert (row[0], row[3], row[4]) == ("0.25", "0.14", "0.14")
    picture = page.locator(".chart img")
    page.wait_for_function("(img) => img.complete && img.naturalWidth > 0", arg=picture.element_handle())
    pixels = np.asarray(Image.open(io.BytesIO(picture.screenshot())).convert("RGB")).astype(int)
    assert orange(pixels).sum() > 200
    assert cyan(pixels).sum() > 100


def test_nothing_of_the_other_reader_of_the_adjudicator_or_of_any_time_but_the_own_is_shown(
    served: Served, adjudicator: Account, found: Disputed
) -> None:
    decide(served, adjudicator, found)
    other = found.readers[1]
    for path in paths(found.case.id)[:2]:
        text = ask(served, found.readers[0], path)[1]
        for secret in (other.name, other.id, adjudicator.name, adjudicator.id):
            assert secret not in text
    saved = served.store.reads(found.case.id, found.readers[0].id)[0].created
    shown = re.findall(
        r"[0-9]{2}:[0-9]{2}", "".join(ask(served, found.readers[0], path)[1] for path in paths(found.case.id)[:2])
    )
    assert shown == [saved.strftime("%H:%M")]
    for path in paths(found.case.id)[1:]:
        assert ask(served, served.account(), path)[0] == 404
        assert ask(served, adjudicator, path)[0] == 403


def test_where_the_protocol_never_unblinds_a_settled_case_shows_nothing(served: Served, adjudicator: Account) -> None:
    found = dispute(served, served.protocol(), label_of(0), label_of(3))
    decide(served, adjudicator, found)
    assert found.case.id not in ask(served, found.readers[0], "/work/feedback")[1]
    assert ask(served, found.readers[0], f"/work/feedback/{found.case.id}")[0] == 404


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (640, 400)])
def test_feedback_fits_the_window(
    served: Served, adjudicator: Account, found: Disputed, page: Page, width: int, height: int
) -> None:
    decide(served, adjudicator, found)
    page.set_viewport_size({"width": width, "height": height})
    sign_in(page, found.readers[0], "/work/feedback")
    for path in paths(found.case.id)[:2]:
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_the_slices_that_differ_most_are_found_apart_from_each_other(protocol: Protocol) -> None:
    mine, truth = (np.zeros((24, 10, 8), dtype=np.uint8) for _ in range(2))
    truth[2, 1:9, 1:7] = 1  # 48 voxels
    truth[3, 1:8, 1:7] = 1  # 42, and next to it
    truth[12, 1:6, 1:7] = 1  # 30
    truth[21, 1:3, 1:7] = 2  # 12
    truth[17, 1:2, 1:7] = 2  # 6
    geometry = replace(OBLIQUE, shape_ZYX=truth.shape)
    labels = [Label.of(Volume(array_ZYX=array, geometry=geometry)) for array in (mine, truth)]
    assert slices_of_difference(protocol, *labels) == (2, 12, 21)
    assert slices_of_difference(protocol, labels[1], labels[1]) == (2,)
    assert slices_of_difference(protocol, labels[0], labels[0]) == (12,)


def test_a_box_that_only_one_has_makes_its_slice_differ(protocol: Protocol) -> None:
    empty = Label.of(Volume(array_ZYX=np.zeros(OBLIQUE.shape_ZYX, dtype=np.uint8), geometry=OBLIQUE))
    x, y, z, _ = OBLIQUE.affine_LPS() @ np.array([4.0, 5.0, 4.0, 1.0])
    place = (float(x), float(y), float(z))
    box = Box(structure="anterior", centre_mm_LPS=place, size_mm_XYZ=(3.2, 4.4, 5.0))
    for finding in ({"boxes": (box,)}, {"points": (Point(structure="anterior", position_mm_LPS=place),)}):
        boxed = replace(empty, **finding)
        assert slices_of_difference(protocol, boxed, empty) == (4,)
        pixels = drawn(protocol, boxed, empty, OBLIQUE)
        assert orange(pixels).sum() > 20
        assert cyan(pixels[:-60]).sum() == 0


@pytest.mark.parametrize(("x_grows", "y_grows"), [(1.0, 1.0), (-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)])
def test_the_picture_hangs_as_radiologists_hang_it(protocol: Protocol, x_grows: float, y_grows: float) -> None:
    """One patient stored in four ways: what lies to his left and front is on the picture's right and top."""
    geometry = Geometry(
        shape_ZYX=(1, 40, 40),
        spacing_mm_XYZ=(1.0, 1.0, 3.0),
        origin_mm_LPS=(0.0, 0.0, 0.0),
        direction_LPS=(x_grows, 0.0, 0.0, 0.0, y_grows, 0.0, 0.0, 0.0, x_grows * y_grows),
    )
    array = np.zeros(geometry.shape_ZYX, dtype=np.uint8)
    array[0, 18:22, 18:22] = 1
    left, front = 32 if x_grows > 0 else 4, 4 if y_grows > 0 else 32
    array[0, front : front + 4, left : left + 4] = 1
    label = Label.of(Volume(array_ZYX=array, geometry=geometry))
    empty = Label.of(Volume(array_ZYX=np.zeros_like(array), geometry=geometry))
    rows, columns = np.nonzero(orange(drawn(protocol, label, empty, geometry)[:-60]))
    middle = (columns.min() + columns.max()) / 2
    assert rows[columns > middle].min() < rows[columns < middle].min()


def drawn(protocol: Protocol, mine: Label, truth: Label, geometry: Geometry) -> NDArray[np.int_]:
    content = slices_picture(protocol, image_of(1, geometry), mine, truth)
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def orange(pixels: NDArray[np.int_]) -> NDArray[np.bool_]:
    return pixels[..., 0] - pixels[..., 2] > 90


def cyan(pixels: NDArray[np.int_]) -> NDArray[np.bool_]:
    return pixels[..., 2] - pixels[..., 0] > 90
