"""OHIF, served here, over this server's archive: it lists the studies and shows one, and asks nobody else."""

import io
import time

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page
from pydicom.uid import generate_uid

from apps.assets import assets_folder
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.records import Account, Role
from labeling_protocols.series_writer import SeriesIdentity, write_series
from tests.annotation.served import Served
from tests.review.conftest import local, sign_in

AXIAL = Geometry(
    shape_ZYX=(8, 64, 64),
    spacing_mm_XYZ=(2.0, 2.0, 4.0),
    origin_mm_LPS=(-64.0, -64.0, 0.0),
    direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
)
LOADED_WITHIN_S = 90


@pytest.fixture
def viewer(served: Served) -> Account:
    if not (assets_folder() / "ohif").is_dir():
        pytest.skip("OHIF is not here: run scripts/setup")
    return served.account(Role.VIEWER)


@pytest.fixture
def study(served: Served) -> str:
    """A study whose right half is bright in every slice."""
    array = np.zeros(AXIAL.shape_ZYX, dtype=np.int16)
    array[:, :, 32:] = 1000
    who = SeriesIdentity(
        patient_id="P77",
        patient_name="P77",
        study_uid=generate_uid(prefix=None),
        series_uid=generate_uid(prefix=None),
        frame_of_reference_uid=generate_uid(prefix=None),
        study_description="Half and half",
    )
    write_series(Volume(array_ZYX=array, geometry=AXIAL), served.site.folder("archive") / who.series_uid, who)
    return who.study_uid


def halves(page: Page) -> tuple[float, float]:
    """Mean brightness left and right of the middle of the image, away from its edges and texts."""
    canvas = page.locator("canvas").first
    pixels = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("L")).astype(float)
    height, width = pixels.shape
    band = pixels[height // 2 - 40 : height // 2 + 40]
    return float(band[:, width // 2 - 120 : width // 2 - 40].mean()), float(
        band[:, width // 2 + 40 : width // 2 + 120].mean()
    )


def test_ohif_lists_and_shows_a_study_of_the_archive(
    served: Served, viewer: Account, study: str, browser: Browser
) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, base_url=served.url)
    page = context.new_page()
    elsewhere: list[str] = []
    page.on("request", lambda asked: None if local(asked.url, served) else elsewhere.append(asked.url))
    refused: list[str] = []
    page.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
    sign_in(page, viewer, "/ohif/")
    page.get_by_text("P77").first.wait_for(timeout=1000 * LOADED_WITHIN_S)
    page.goto(f"/ohif/viewer?StudyInstanceUIDs={study}")
    page.locator("canvas").first.wait_for(timeout=1000 * LOADED_WITHIN_S)
    page.get_by_text("Skip all").click()  # the tour of a first visit, which lies over everything else
    page.get_by_role("button", name="Confirm and hide").click()
    deadline = time.monotonic() + LOADED_WITHIN_S
    while (shown := halves(page))[1] < shown[0] + 50:
        assert time.monotonic() < deadline, f"the image never showed: brightness {shown}"
    context.close()
    assert elsewhere == []
    assert refused == []


def test_without_the_package_the_server_says_how_to_fetch_it(
    served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("OVERREAD_ASSETS", str(tmp_path))
    session = served.session(served.account(Role.VIEWER))
    for path in ("/ohif/", "/ohif/app.bundle.css", "/review/static/niivue.umd.js"):
        answer = session.get(served.url + path)
        assert answer.status_code == 503
        assert "scripts/setup" in answer.json()["detail"]
    assert session.get(f"{served.url}/info/").status_code == 200
