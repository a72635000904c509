"""What a browser shows of a dispute, as pixels; and the way to it."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page

from labeling_protocols.records import Account
from tests.review.conftest import sign_in

Pixels = NDArray[np.int16]
Seen = NDArray[np.bool_]


def open_dispute(page: Page, account: Account, case: str) -> None:
    """Sign in, open a dispute that nobody has, and wait until it is on the screen."""
    sign_in(page, account, f"/review/disputes/{case}")
    page.get_by_role("button", name="Open the dispute").click()
    wait_until_shown(page)


def wait_until_shown(page: Page) -> None:
    page.wait_for_selector("body[data-shown=true]", timeout=60_000)


def views(page: Page) -> Pixels:
    """The views as they are on the screen, RGB."""
    picture = Image.open(io.BytesIO(page.locator(".stage").screenshot())).convert("RGB")
    return np.asarray(picture).astype(np.int16)


def alike(one: Pixels, other: Pixels) -> bool:
    """Whether two pictures show the same; software WebGL does not always round alike."""
    return int(np.abs(one - other).max()) <= 2


def orange(pixels: Pixels) -> Seen:
    """Reader A."""
    return pixels[..., 0] - pixels[..., 2] > 60


def cyan(pixels: Pixels) -> Seen:
    """Reader B; the crosshair is greener than it is blue."""
    return (pixels[..., 2] - pixels[..., 0] > 60) & (pixels[..., 2] - pixels[..., 1] > 10)


def purple(pixels: Pixels) -> Seen:
    """Reader C."""
    return (pixels[..., 0] - pixels[..., 1] > 50) & (pixels[..., 2] - pixels[..., 1] > 50)


def extent(mask: Seen) -> NDArray[np.intp]:
    """Top, left, bottom, right of what is set in the large view, left of the middle of the screen."""
    rows, columns = np.nonzero(mask[:, : mask.shape[1] * 3 // 5])
    return np.array([rows.min(), columns.min(), rows.max(), columns.max()])
