"""A case of 512×512×300 voxels with three reads in a browser: how long from the click until it is on the screen."""

import time

import numpy as np
import pytest
from playwright.sync_api import Page

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Label
from labeling_protocols.records import Account
from labeling_protocols.settlement import settle
from labeling_protocols.worklist import next_case
from tests.annotation.served import Served
from tests.review.conftest import sign_in
from tests.review.seen import cyan, orange, purple, views, wait_until_shown

GEOMETRY = Geometry(
    shape_ZYX=(300, 512, 512),
    spacing_mm_XYZ=(0.7, 0.7, 1.0),
    origin_mm_LPS=(-179.0, -179.0, 0.0),
    direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
)
# Centre (z, y, x) and radius, in voxels of 0.7 mm.
BALLS = ((150, 256, 150, 80), (150, 256, 350, 90))
_MARKS = (
    "Object.fromEntries(performance.getEntriesByType('mark').map((mark) => [mark.name, Math.round(mark.startTime)]))"
)


def drawn_image() -> Volume:
    """A body with noise in Hounsfield units, so that it packs as badly as a real scan."""
    random = np.random.default_rng(0)
    y, x = np.ogrid[:512, :512]
    body_YX = np.where(((y - 256) / 180) ** 2 + ((x - 256) / 230) ** 2 < 1, 40, -1000).astype(np.int16)
    noise_ZYX = random.integers(-40, 40, (16, 512, 512), dtype=np.int16)
    array = np.stack([body_YX + np.roll(noise_ZYX[z % 16], z, axis=1) for z in range(300)])
    return Volume(array_ZYX=array, geometry=GEOMETRY)


def drawn_label(slip: int) -> Label:
    z, y, x = np.ogrid[:300, :512, :512]
    array = np.zeros(GEOMETRY.shape_ZYX, np.uint8)
    for value, (cz, cy, cx, radius) in enumerate(BALLS, start=1):
        inside = ((z - cz) / 0.7) ** 2 + (y - cy - slip) ** 2 + (x - cx + slip) ** 2 < radius**2
        array[inside] = value
    return Label.of(Volume(array_ZYX=array, geometry=GEOMETRY))


@pytest.mark.slow  # drawing, reading and judging it takes longer than showing it
def test_a_case_of_300_slices_with_three_reads_comes_to_the_screen(
    served: Served, adjudicator: Account, page: Page, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = served.protocol(readers_per_case=3)
    case, _ = served.store.add_case(protocol=protocol.name, patient="P1", volume=drawn_image(), modality="CT")
    for slip in (0, 40, 60):
        reader = served.account()
        next_case(served.store, protocol.name, reader.id)
        served.store.save_read(case_id=case.id, reader=reader.id, label=drawn_label(slip))
    settle(served.store, case.id)
    sign_in(page, adjudicator, f"/review/?protocol={protocol.name}")
    began = time.monotonic()
    page.get_by_role("button", name="Open case").click()
    wait_until_shown(page)
    shown_s = time.monotonic() - began
    marks = page.evaluate(_MARKS)
    pixels = views(page)
    with capsys.disabled():
        print(f"\n512×512×300 with three reads: on the screen {shown_s:.1f} s after the click, of the page {marks} ms")
    for colour in (orange, cyan, purple):
        assert colour(pixels).sum() > 300, colour.__name__
    began = time.monotonic()
    page.reload()
    wait_until_shown(page)
    with capsys.disabled():
        print(f"512×512×300 opened again: {time.monotonic() - began:.1f} s")
