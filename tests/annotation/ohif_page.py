"""OHIF in a browser, for tests: it is opened on a case, waited for, and its canvas compared with a label."""

import io
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page, Request, Response

from labeling_protocols.geometry import Geometry
from labeling_protocols.records import Account
from tests.annotation.served import Served

LOADED_WITHIN_S = 300
_COLOURED = 40  # how much further apart the channels of a coloured pixel lie than a grey one's
_ONLY_VOXELS = ".svg-layer { visibility: hidden }"  # where the brush's outline stays when it is put away
_EDGE_PX = 80  # the viewport's own signs lie along its edge

# Cornerstone places voxels by the headers of the images alone, apart from everything of ours.
_SHOWN = """() => {
  const { cornerstoneViewportService, viewportGridService } = window.services;
  const viewport = cornerstoneViewportService.getCornerstoneViewport(viewportGridService.getActiveViewportId());
  const plane = window.cornerstone.metaData.get('imagePlaneModule', viewport.getCurrentImageId());
  return Array.from(plane.imagePositionPatient);
}"""
_ON_CANVAS = """points => {
  const { cornerstoneViewportService, viewportGridService } = window.services;
  const viewport = cornerstoneViewportService.getCornerstoneViewport(viewportGridService.getActiveViewportId());
  return points.map(point => Array.from(viewport.worldToCanvas(point)));
}"""
_BRUSH_IN_HAND = """() => {
  const { toolGroupService, viewportGridService } = window.services;
  const group = toolGroupService.getToolGroupForViewport(viewportGridService.getActiveViewportId());
  return group.getActivePrimaryMouseButtonTool() === 'CircularBrush';
}"""
_STORE = """async segmentationId => {
  const { dataset } = window.commandsManager.runCommand('generateSegmentation', { segmentationId });
  const [source] = window.extensionManager.getDataSources('overread');
  await source.store.dicom(dataset);
}"""


@dataclass
class Ohif:
    """A window with OHIF in it; `elsewhere` are addresses of other servers, `failed` answers nobody expects."""

    page: Page
    served: Served
    elsewhere: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", self._asked)
        self.page.on("response", self._answered)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: dialog.accept())

    def sign_in(self, account: Account, to: str) -> None:
        self.page.goto(to)
        self.page.fill("#name", account.name)
        self.page.fill("#password", f"{account.name}-password")
        self.page.press("#password", "Enter")

    def wait_for(self, words: str) -> None:
        """Until the panel says this."""
        self.page.locator(".overread [role=status]").filter(has_text=words).wait_for(timeout=1000 * LOADED_WITHIN_S)

    def says(self) -> str:
        return self.page.locator(".overread [role=status]").inner_text()

    def press(self, name: str, group: str | None = None) -> None:
        panel = self.page.locator(".overread")
        within = panel.get_by_role("group", name=group) if group else panel
        within.get_by_role("button", name=name, exact=True).click()

    def confirm_use(self) -> None:
        """The notice of a first visit, which lies over the image."""
        self.page.get_by_role("button", name="Confirm and hide").click(timeout=1000 * LOADED_WITHIN_S)

    def store_by_its_own_means(self, case: str) -> None:
        """OHIF's own export of what is drawn of a case, to the place it has its images from."""
        with self.page.expect_response("**/dicomweb/studies*") as answered:
            self.page.evaluate(_STORE, f"overread-{case}")
        assert answered.value.status == 200, answered.value.text()

    def take_brush(self, radius_mm: float) -> None:
        self.page.locator('[data-cy="Brush-btn"]').click()
        radius = self.page.get_by_text("Radius (mm)").locator("xpath=ancestor::*[.//input][1]").locator("input").last
        radius.fill(str(radius_mm))
        radius.press("Enter")
        self.page.wait_for_function(_BRUSH_IN_HAND)

    def slice_shown(self, geometry: Geometry) -> int:
        """Which slice of the volume is shown, by where its image says it lies."""
        point_mm = self.page.evaluate(_SHOWN)
        index_XYZ = np.linalg.inv(geometry.affine_LPS()) @ [*point_mm, 1.0]
        return round(float(index_XYZ[2]))

    def on_canvas(self, geometry: Geometry, voxels_XYZ: NDArray[np.integer]) -> NDArray[np.float64]:
        """Where the centres of voxels (n, 3) lie on the canvas, (n, 2) in pixels."""
        homogeneous = np.column_stack([voxels_XYZ, np.ones(len(voxels_XYZ))])
        points_mm = (homogeneous @ geometry.affine_LPS().T)[:, :3]
        return np.asarray(self.page.evaluate(_ON_CANVAS, points_mm.tolist()))

    def coloured(self, geometry: Geometry, z: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which voxels of the slice shown are drawn in colour on the screen, and which can be looked at, (Y, X)."""
        _, rows, columns = geometry.shape_ZYX
        y, x = np.mgrid[:rows, :columns]
        at = self.on_canvas(geometry, np.column_stack([x.ravel(), y.ravel(), np.full(x.size, z)])).astype(int)
        screen = np.asarray(
            Image.open(io.BytesIO(self._canvas().screenshot(style=_ONLY_VOXELS))).convert("RGB")
        ).astype(int)
        height, width, _ = screen.shape
        clear = ((at >= _EDGE_PX) & (at < [width - _EDGE_PX, height - _EDGE_PX])).all(axis=1)
        seen = np.zeros(len(at), dtype=bool)
        seen[clear] = np.ptp(screen[at[clear, 1], at[clear, 0]], axis=1) > _COLOURED
        return seen.reshape(rows, columns), clear.reshape(rows, columns)

    def wait_until_drawn(self, geometry: Geometry, label_ZYX: NDArray[np.uint8]) -> int:
        """Until the colours on the screen are the slice of the label that is shown; returns which slice."""
        deadline = time.monotonic() + LOADED_WITHIN_S
        while True:
            z = self.slice_shown(geometry)
            seen, clear = self.coloured(geometry, z)
            expected = label_ZYX[z] > 0
            wrong = int(np.count_nonzero((expected != seen) & clear))
            if not wrong and (expected & clear).any():
                return z
            assert time.monotonic() < deadline, f"slice {z}: {wrong} voxels are not drawn as they are labelled"

    def paint_at(self, geometry: Geometry, voxel_XYZ: tuple[int, int, int]) -> None:
        """Touch a voxel with the brush, and wait until it is coloured."""
        x, y, z = voxel_XYZ
        deadline = time.monotonic() + LOADED_WITHIN_S
        self.click_at(geometry, voxel_XYZ)
        while not self.coloured(geometry, z)[0][y, x]:
            assert time.monotonic() < deadline, f"the brush did not colour {voxel_XYZ}"

    def click_at(self, geometry: Geometry, voxel_XYZ: tuple[int, int, int]) -> None:
        [[x, y]] = self.on_canvas(geometry, np.array([voxel_XYZ]))
        box = self._canvas().bounding_box()
        assert box is not None
        self.page.mouse.move(box["x"] + x, box["y"] + y)
        self.page.mouse.down()
        self.page.mouse.up()

    def _canvas(self) -> Locator:
        return self.page.locator("canvas").first

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.served.url, "blob:", "data:")):
            self.elsewhere.append(request.url)

    def _answered(self, response: Response) -> None:
        # A case that nothing was saved of yet has no label: that is asked, not known.
        if response.status >= 400 and "/datastore/label" not in response.url:
            self.failed.append(f"{response.status} {response.url}")
