"""What an adjudicator sees and does in a browser: overlays by their pixels, a dispute settled, by keyboard too."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, Route

from labeling_protocols import settlement
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.records import Account, Role
from tests.annotation.served import Served
from tests.conftest import label_of
from tests.review.conftest import Disputed, dispute, sign_in

# Turned round in two axes and with unequal spacing: an outline drawn without looking would lie elsewhere.
FLIPPED = Geometry(
    shape_ZYX=(14, 24, 20),
    spacing_mm_XYZ=(1.0, 1.5, 2.5),
    origin_mm_LPS=(20.0, -18.0, 30.0),
    direction_LPS=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
)


def boxes(x: int) -> Volume:
    """Anterior in a corner of the grid, posterior behind it."""
    array = np.zeros(FLIPPED.shape_ZYX, dtype=np.uint8)
    array[2:7, 3:9, x : x + 6] = 1
    array[2:7, 9:14, x : x + 6] = 2
    return Volume(array_ZYX=array, geometry=FLIPPED)


def open_dispute(page: Page, account: Account, found: Disputed) -> None:
    sign_in(page, account, f"/review/disputes/{found.case.id}")
    page.wait_for_selector("body[data-shown=true]", timeout=30_000)


def seen(page: Page) -> NDArray[np.int16]:
    """The views as they are on the screen, RGB."""
    picture = Image.open(io.BytesIO(page.locator(".stage").screenshot())).convert("RGB")
    return np.asarray(picture).astype(np.int16)


def orange(pixels: NDArray[np.int16]) -> NDArray[np.bool_]:
    return pixels[..., 0] - pixels[..., 2] > 60


def cyan(pixels: NDArray[np.int16]) -> NDArray[np.bool_]:
    """The crosshair is greener than it is blue."""
    return (pixels[..., 2] - pixels[..., 0] > 60) & (pixels[..., 2] - pixels[..., 1] > 10)


def extent(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Top, left, bottom, right of what is set in the large view, left of the middle of the screen."""
    rows, columns = np.nonzero(mask[:, : mask.shape[1] * 3 // 5])
    return np.array([rows.min(), columns.min(), rows.max(), columns.max()])


def test_an_adjudicator_opens_the_worst_dispute_sees_both_readers_and_settles_it(
    served: Served, adjudicator: Account, page: Page
) -> None:
    protocol = served.protocol(title="Anterior and posterior hippocampus")
    dispute(served, protocol, label_of(0), label_of(2))
    worst = dispute(served, protocol, label_of(0), label_of(3))
    sign_in(page, adjudicator, "/review/")
    section = page.locator("section", has_text=protocol.title).filter(has_text=worst.case.id)
    section.locator("tbody tr").first.get_by_role("link", name="Open").click()
    page.wait_for_selector("body[data-shown=true]", timeout=30_000)
    assert page.locator("h1").inner_text() == f"Case {worst.case.id}"
    pixels = seen(page)
    assert orange(pixels).sum() > 300
    assert cyan(pixels).sum() > 300
    page.get_by_role("button", name="Reader A").click()
    assert orange(seen(page)).sum() == 0
    page.get_by_role("button", name="Reader B").click()
    assert cyan(seen(page)).sum() == 0
    page.get_by_label("Reader B", exact=True).and_(page.locator("input")).check()
    page.get_by_label("Rationale").fill("B follows the boundary.")
    page.get_by_role("button", name="Sign and settle").click()
    page.wait_for_url("**/review/?settled=*")
    assert worst.case.id in page.get_by_role("status").inner_text()
    assert page.locator("tbody", has_text=worst.case.id).count() == 0
    decision = settlement.adjudication_of(served.store, worst.case.id)
    assert decision is not None
    assert (decision.adjudicator, decision.rationale) == (adjudicator.id, "B follows the boundary.")


def test_outlines_lie_where_the_viewer_itself_draws_the_label(served: Served, adjudicator: Account, page: Page) -> None:
    """Lines are ours, fillings NiiVue's: on a flipped, anisotropic grid both must cover the same patch."""
    found = dispute(served, served.protocol(), boxes(3), boxes(12), FLIPPED)
    open_dispute(page, adjudicator, found)
    lines = seen(page)
    page.keyboard.press("f")
    filled = seen(page)
    for colour in (orange, cyan):
        drawn = extent(colour(lines))
        # Each reader's boxes are 11 voxels high and 6 wide on the screen; NiiVue smooths within half a voxel.
        half_a_voxel_px = np.tile((drawn[2:] - drawn[:2]) / (11, 6) / 2, 2)
        assert (np.abs(drawn - extent(colour(filled))) < half_a_voxel_px).all(), colour.__name__
        assert colour(filled).sum() > 3 * colour(lines).sum()
    page.keyboard.press("f")
    np.testing.assert_array_equal(orange(seen(page)), orange(lines))


def test_everything_is_done_by_keyboard_alone(
    served: Served, adjudicator: Account, page: Page, disputed: Disputed
) -> None:
    open_dispute(page, adjudicator, disputed)
    both = seen(page)
    page.keyboard.press("1")
    assert orange(seen(page)).sum() == 0
    page.keyboard.press("1")
    page.keyboard.press("2")
    assert cyan(seen(page)).sum() == 0
    page.keyboard.press("2")
    page.keyboard.press("d")
    np.testing.assert_array_equal(orange(seen(page)), orange(both))
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.locator("input[name=choice]:focus").count():
            break
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.locator("input[value=majority]").is_checked()
    page.keyboard.press("Tab")
    page.keyboard.type("1 and 2 are letters of this text, not toggles.")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/review/?settled=*")
    decision = settlement.adjudication_of(served.store, disputed.case.id)
    assert decision is not None
    assert decision.choice == "majority"
    assert decision.rationale.startswith("1 and 2")


def test_the_pages_and_their_traffic_name_no_reader(
    served: Served, adjudicator: Account, page: Page, disputed: Disputed
) -> None:
    bodies: list[bytes] = []

    def keep(route: Route) -> None:
        """Take the answer before the browser gets it: a page that is left drops what it was sent."""
        answer = route.fetch(max_redirects=0)
        if answer.status == 200 and "/static/" not in answer.url:
            bodies.append(answer.url.encode() + str(answer.headers).encode() + answer.body())
        route.fulfill(response=answer)

    sign_in(page, adjudicator, "/review/")
    page.route("**/*", keep)
    page.goto(f"/review/disputes/{disputed.case.id}")
    page.wait_for_selector("body[data-shown=true]", timeout=30_000)
    page.goto("/review/")
    page.goto("/review/progress")
    assert len(bodies) >= 6
    everything = b"".join(bodies)
    assert disputed.case.id.encode() in everything
    for reader in disputed.readers:
        assert reader.id.encode() not in everything
        assert reader.name.encode() not in everything


def test_a_missing_rationale_is_said_on_the_page(
    served: Served, adjudicator: Account, page: Page, disputed: Disputed
) -> None:
    open_dispute(page, adjudicator, disputed)
    page.locator("input[value=A]").check()
    page.get_by_label("Rationale").fill("   ")
    with page.expect_response(lambda answer: answer.request.method == "POST") as posted:
        page.get_by_role("button", name="Sign and settle").click()
    assert posted.value.status == 409
    assert "rationale" in page.get_by_role("alert").inner_text()
    assert page.locator("input[value=A]").is_checked()
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
