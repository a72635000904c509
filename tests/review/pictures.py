"""The README's pictures: phantoms, three readers who differ, and a real browser in; PNGs beside the pages out.

`python -m tests.review.pictures` takes them anew. Phantoms only: no picture of a person is kept in the project.
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from scipy import ndimage

from apps.ingest.folder import ingest
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Role
from labeling_protocols.settlement import settle
from labeling_protocols.worklist import next_case
from tests.annotation.ohif_page import Ohif
from tests.annotation.served import Served, serving
from tests.conftest import SWIFTSHADER
from tests.review.conftest import sign_in
from tests.review.seen import wait_until_shown
from tests.training.drawn import anything_passes, workplace
from training.pipeline import train_candidate
from training.request import TrainingRequest
from training.samples import draw_series, phantom

PICTURES = Path(__file__).parents[2] / "apps" / "review" / "pictures"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "site") as served:
        protocol = _disagree(served)
        taught = _learn(served)
        draw_series(Path(folder) / "series")
        ingest(served.store, served.site, Path(folder) / "series", taught.name)
        judge = served.account(Role.ADJUDICATOR, name="judge")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=SWIFTSHADER)
            page = browser.new_page(viewport={"width": 1280, "height": 800}, base_url=served.url)
            sign_in(page, judge, f"/review/?protocol={protocol.name}")
            page.screenshot(path=PICTURES / "queue.png", clip={"x": 0, "y": 0, "width": 1280, "height": 520})
            page.get_by_role("button", name="Open case").first.click()
            wait_until_shown(page)
            _decide(page)
            page.screenshot(path=PICTURES / "dispute.png")
            _ohif(served, taught, browser.new_page(viewport={"width": 1280, "height": 800}, base_url=served.url))
            browser.close()
    for picture in PICTURES.glob("*.png"):
        Image.open(picture).convert("RGB").quantize(256).save(picture, optimize=True)


def _disagree(served: Served) -> Protocol:
    """Four cases, each read three times: slips of a growing kind, and one reader who left a structure out."""
    protocol = served.protocol(title="Anterior and posterior hippocampus", readers_per_case=3)
    readers = [served.account() for _ in range(3)]
    drawn = {}
    for number in range(4):
        image, label = phantom(np.random.default_rng(number))
        case, _ = served.store.add_case(protocol=protocol.name, patient=f"P{number}", volume=image, modality="MR")
        drawn[case.id] = (number, label)
    for slip, reader in enumerate(readers):
        while case := next_case(served.store, protocol.name, reader.id):  # type: ignore[assignment]
            number, label = drawn[case.id]
            array = label.array_ZYX
            if slip:
                moved = np.array((0.4 * number, 1.6 * number, 0.8 * number)) * (1, -0.6)[slip - 1]
                array = ndimage.shift(array, moved, order=0)
                array = np.where((array == 2) & (number == 3) & (slip == 1), 0, array)
            outlined = Volume(array_ZYX=array.astype(np.uint8), geometry=label.geometry)
            served.store.save_read(case_id=case.id, reader=reader.id, label=Label.of(outlined))
            settle(served.store, case.id)
    return protocol


def _decide(page: Page) -> None:
    """Choose by structure, away from the reader who left one out; which letter that is, the site's key decides."""
    detail = page.request.get(page.url.replace("/review/disputes/", "/review/api/disputes/")).json()
    reads = sorted(detail["reads"], key=lambda read: read["volumes_ml"].get("posterior", 0.0))
    page.keyboard.press("x")
    page.locator("#decision select[name=take]").select_option("staple")
    page.locator("select[name='take.posterior']").select_option(reads[1]["letter"])
    page.get_by_label("Rationale").fill(f"Reader {reads[0]['letter']} leaves out the tail.")
    page.locator("h1").scroll_into_view_if_needed()


def _learn(served: Served) -> Protocol:
    """A protocol with a champion that eight phantoms taught for a minute."""
    protocol = anything_passes(served.protocol(title="Hippocampus", readers_per_case=1))
    protocol = replace(protocol, version=2)
    served.store.add_protocol(protocol)
    reader, truths = served.account(), {}
    for number in range(20, 28):
        image, label = phantom(np.random.default_rng(number))
        case, _ = served.store.add_case(protocol=protocol.name, patient=f"P{number}", volume=image, modality="MR")
        truths[case.id] = Label.of(label)
    while case := next_case(served.store, protocol.name, reader.id):  # type: ignore[assignment]
        served.store.save_read(case_id=case.id, reader=reader.id, label=truths[case.id])
        settle(served.store, case.id)
    place = replace(workplace(served.site, served.store), overrides={"epochs": 40})
    assert train_candidate(place, TrainingRequest(protocol=protocol.name), "train-pictures").promoted
    return protocol


def _ohif(served: Served, protocol: Protocol, page: Page) -> None:
    """A reader's next case, with what the champion proposed for it."""
    ohif = Ohif(page, served)
    ohif.sign_in(served.account(name="reader"), "/ohif/next")
    ohif.wait_for("Draw with the tools")
    ohif.confirm_use()
    ohif.press(f"Run {protocol.name}")
    ohif.wait_for("proposed this")
    page.mouse.move(5, 5)
    page.screenshot(path=PICTURES / "ohif.png")


if __name__ == "__main__":
    main()
