"""A reader's whole work in OHIF: the next case opens, models draw, he corrects, submits, and it is his read.

The images lie in the site's own archive or in a real Orthanc.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser
from pydicom import dcmread
from scipy import ndimage

from apps.assets import assets_folder
from apps.ingest.archive import Wanted, ingest_from_archive
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account, Case
from tests.annotation.dicom_cases import take_in, write_drawn
from tests.annotation.ohif_page import LOADED_WITHIN_S, Ohif
from tests.annotation.orthanc import PASSWORD, USER, Orthanc, running_orthanc
from tests.annotation.served import Served, serving
from tests.training.drawn import anything_passes, settle_cases, turned, workplace
from training.pipeline import train_candidate
from training.plan import ModelTask
from training.request import TrainingRequest

pytestmark = pytest.mark.slow  # two small trainings, and a browser that opens OHIF three times

ROWS_APART = turned(np.eye(3), (1.0, 1.5, 3.0))


@dataclass(frozen=True, kw_only=True)
class Released:
    """A protocol with champions that were trained for seconds; their figures do not matter here."""

    protocol: Protocol
    model: str


@pytest.fixture(scope="module")
def _packages() -> None:
    if not (assets_folder() / "ohif").is_dir():
        pytest.skip("OHIF is not here: run scripts/setup")


@pytest.fixture(scope="module")
def orthanc(_packages: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc | None]:
    """A real Orthanc; None where it is not installed."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running_orthanc(tmp_path_factory.mktemp("orthanc")))
        except pytest.skip.Exception:
            server = None
        yield server


@pytest.fixture(scope="module")
def served(orthanc: Orthanc | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A site of its own: what comes next for a reader is nobody else's case."""
    folder = tmp_path_factory.mktemp("ohif")
    (folder / "password").write_text(PASSWORD)
    settings = f'[archive]\nurl = "{orthanc.url}"\nusername = "{USER}"\npassword_file = "{folder / "password"}"\n'
    with serving(folder / "site", settings if orthanc else "") as server:
        yield server


@pytest.fixture(scope="module")
def released(served: Served) -> Released:
    protocol = replace(anything_passes(served.protocol()), version=2, readers_per_case=1)
    served.store.add_protocol(protocol)
    settle_cases(served.store, protocol, (served.account(),), range(6))
    place = workplace(served.site, served.store, network="UNet", epochs=40)
    outcomes = [
        train_candidate(
            place,
            TrainingRequest(protocol=protocol.name, task=task),
            f"train-{protocol.name.replace('_', '')}-{number:04d}",
        )
        for number, task in enumerate((ModelTask.SEGMENTATION, ModelTask.INTERACTIVE), 1)
    ]
    assert all(outcome.promoted for outcome in outcomes)
    return Released(protocol=protocol, model=outcomes[0].model_version)


@pytest.fixture
def ohif(served: Served, browser: Browser) -> Iterator[Ohif]:
    context = browser.new_context(viewport={"width": 1400, "height": 850}, base_url=served.url)
    context.set_default_timeout(1000 * LOADED_WITHIN_S)
    ohif = Ohif(context.new_page(), served)
    yield ohif
    context.close()
    assert ohif.elsewhere == []
    assert ohif.failed == []
    assert ohif.complaints == []


def in_orthanc(served: Served, orthanc: Orthanc | None, protocol: Protocol, series: Path) -> Case:
    """The series as a case whose pixels stay in Orthanc."""
    if orthanc is None:
        pytest.skip("no Orthanc with DICOMweb: install Debian's orthanc and orthanc-dicomweb")
    orthanc.fill([dcmread(path) for path in sorted(series.glob("*.dcm"))])
    [added] = ingest_from_archive(served.store, served.site, Wanted(series=series.name), protocol.name).added
    return served.store.case(added)


def empty_place(label_ZYX: NDArray[np.uint8], z: int) -> tuple[int, int, int]:
    """A voxel (x, y, z) of a slice with nothing drawn nearby, away from the image's edge."""
    near_YX = ndimage.binary_dilation(label_ZYX[z] > 0, iterations=3)
    near_YX[:5], near_YX[-5:], near_YX[:, :5], near_YX[:, -5:] = True, True, True, True
    y, x = np.argwhere(~near_YX)[0].tolist()
    return x, y, z


def opened(served: Served, released: Released, ohif: Ohif) -> Account:
    """A reader who is signed in and has his next case before him."""
    reader = served.account()
    ohif.sign_in(reader, "/ohif/next")
    ohif.wait_for("Draw with the tools")
    ohif.confirm_use()
    return reader


@pytest.mark.parametrize("place", ["the site's folder", "Orthanc"])
def test_a_reader_does_his_whole_work_in_ohif(
    served: Served, orthanc: Orthanc | None, released: Released, ohif: Ohif, tmp_path: Path, place: str
) -> None:
    if place == "Orthanc":
        case = in_orthanc(served, orthanc, released.protocol, write_drawn(tmp_path, 71, ROWS_APART))
    else:
        case = take_in(served, released.protocol, write_drawn(tmp_path, 70))
    reader = opened(served, released, ohif)
    ohif.press(f"Run {released.protocol.name}")
    ohif.wait_for(f"{released.model} proposed this")
    prelabel = served.store.prelabel(case.id)
    assert prelabel is not None
    proposed_ZYX = served.store.label(prelabel.label).array_ZYX
    z = ohif.wait_until_drawn(case.geometry, proposed_ZYX)
    ohif.page.screenshot(path=tmp_path / "proposed.png")

    x, y, _ = away = empty_place(proposed_ZYX, z)
    ohif.take_brush(radius_mm=2)
    ohif.paint_at(case.geometry, away)
    ohif.press("Submit")
    ohif.wait_for("Saved: this is revision 1")
    ohif.page.screenshot(path=tmp_path / "submitted.png")
    [read] = served.store.reads(case.id)
    assert read.reader == reader.id
    assert (read.provenance.client, read.provenance.prelabel_model) == ("OHIF", released.model)
    assert read.provenance.prelabel_shown
    assert read.provenance.seconds
    read_ZYX = served.store.label(read.label).array_ZYX
    changed = np.argwhere(read_ZYX != proposed_ZYX)
    assert (proposed_ZYX[z, y, x], read_ZYX[z, y, x]) == (0, 1)
    assert set(changed[:, 0].tolist()) == {z}
    ohif.wait_until_drawn(case.geometry, read_ZYX)

    x, y, _ = further = empty_place(read_ZYX, z)
    ohif.paint_at(case.geometry, further)
    ohif.store_by_its_own_means(case.id)  # what Export, DICOM SEG does: by STOW-RS, under one code for every segment
    [_, stored] = served.store.reads(case.id, reader.id)
    stored_ZYX = served.store.label(stored.label).array_ZYX
    assert (read_ZYX[z, y, x], stored_ZYX[z, y, x]) == (0, 1)
    assert set(np.argwhere(stored_ZYX != read_ZYX)[:, 0].tolist()) == {z}
    ohif.wait_until_drawn(case.geometry, stored_ZYX)

    ohif.press("Next case")
    ohif.wait_for("No case is left for you")


def test_clicks_reach_the_interactive_model_where_they_fell(
    served: Served, released: Released, ohif: Ohif, tmp_path: Path
) -> None:
    case = take_in(served, released.protocol, write_drawn(tmp_path, 72))
    opened(served, released, ohif)
    z = ohif.slice_shown(case.geometry)
    ohif.press("Posterior hippocampus", group="Click into")
    with ohif.page.expect_request("**/infer/*-interactive*") as asked:
        ohif.click_at(case.geometry, (21, 17, z))
    assert sent(asked.value.post_data or "") == {"posterior": [[21, 17, z]], "result_extension": ".nrrd"}
    ohif.wait_for("proposed this")
    assert ohif.slice_shown(case.geometry) == z
    ohif.page.screenshot(path=tmp_path / "clicked.png")


def sent(body: str) -> object:
    """The field `params` of a form that a browser sends."""
    _, _, after = body.partition('name="params"')
    return json.loads(after.split("\r\n")[2])
