"""The pipeline's side of a detection, with a model whose findings are known."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from apps.accounts import Accounts
from apps.settings import make_site
from labeling_protocols.label import Box, Label
from labeling_protocols.protocol import Protocol, Task
from labeling_protocols.records import Role
from labeling_protocols.settlement import settle
from labeling_protocols.store import Store
from labeling_protocols.strata import Strata
from labeling_protocols.worklist import next_case
from tests.training.drawn_spheres import CUBE, draw_spheres, sphere_plan
from training.detection_boxes import Finding
from training.detection_kit import DetectionKit, readers_sensitivity
from training.drawing import png
from training.task_kit import TestCase

PLAN = replace(sphere_plan(), targets=("anterior",), values=(1,))


@pytest.fixture(scope="module")
def boxing(protocol: Protocol) -> Protocol:
    """A protocol that boxes its first structure, the same where centres are 3 mm apart or less."""
    first, second = protocol.structures
    boxed = replace(first, tasks=(Task.SEGMENTATION, Task.BOXES))
    limits = replace(protocol.agreement["anterior"], match_mm_max=3.0, f1_min=0.1)
    return replace(protocol, structures=(boxed, second), agreement={**protocol.agreement, "anterior": limits})


def box(x: float) -> Box:
    return Box(structure="anterior", centre_mm_LPS=(x, 0.0, 0.0), size_mm_XYZ=(4.0, 4.0, 4.0))


def label(*boxes: Box) -> Label:
    return Label(geometry=CUBE, layers_LZYX=np.zeros((1, *CUBE.shape_ZYX), dtype=np.uint8), boxes=boxes)


@dataclass(frozen=True)
class Knowing:
    """A model that finds the same in every image."""

    findings: tuple[Finding, ...]
    operating_point: float = 0.5
    structures: tuple[str, ...] = ("anterior",)

    def predict(self, image: object) -> tuple[Finding, ...]:
        return self.findings

    def report(self, image: object) -> tuple[Finding, ...]:
        return tuple(one for one in self.findings if one.score >= self.operating_point)


MODEL = Knowing(findings=(Finding(box=box(-8), score=0.9), Finding(box=box(2), score=0.3)))


def case(name: str, *boxes: Box) -> TestCase:
    image, _ = draw_spheres(0, count=0)
    return TestCase(case=name, patient=f"P-{name}", strata=Strata(), image=image, label=label(*boxes))


CASES = [case("a", box(-8)), case("b", box(4.5), box(12)), case("c")]


def test_scores_of_folds_are_reported_as_one(boxing: Protocol) -> None:
    """Within 3 mm are the box of a, and the first of b, which is not certain enough to be shown."""
    kit = DetectionKit()
    parts = [kit.score(MODEL, part, PLAN, boxing) for part in (CASES[:1], CASES[1:])]  # type: ignore[arg-type]
    report = kit.report(kit.pooled(parts), CASES, plan=PLAN, protocol=boxing, model="m", test_set="t")
    value = {figure.name: figure.value for figure in report.figures}
    assert (report.missed, report.invented, value["sensitivity"]) == (2, 2, pytest.approx(1 / 3))
    assert value["clear"] == 0.0
    assert report.notes == ("anterior: found where centres lie 3 mm apart or less",)


def test_pictures_show_boxes_and_the_curve(boxing: Protocol) -> None:
    kit = DetectionKit()
    shown = [("worst", CASES[1], 0.2), ("best", CASES[2], 1.0)]
    drawn = dict(kit.pictures(MODEL, boxing, shown))  # type: ignore[arg-type]
    assert list(drawn) == ["worst", "best"]
    assert png(drawn["worst"]) != png(drawn["best"])
    rectangles = [panel.patches for panel in drawn["worst"].axes]
    assert [len(of_panel) for of_panel in rectangles] == [2 + 1, 2 + 1, 1]  # true, and the one that is shown
    (name,) = dict(kit.charts(kit.score(MODEL, CASES, PLAN, boxing)))  # type: ignore[arg-type]
    assert name == "froc"
    assert not dict(kit.charts(kit.score(MODEL, CASES[2:], PLAN, boxing)))  # type: ignore[arg-type]


def test_readers_are_held_against_each_other(boxing: Protocol, tmp_path: Path) -> None:
    """Of Ann's two findings Ben has one, 2 mm off, and it is his only one: (1/2 + 1) / 2."""
    site = make_site(tmp_path / "site")
    store = Store(site.database_url, site.blobs)
    store.add_protocol(boxing)
    accounts = Accounts(store, site)
    image, _ = draw_spheres(0, count=0)
    store.add_case(protocol=boxing.name, patient="P", volume=image, modality="MR")
    for name, drawn in (("ann", label(box(-8), box(8))), ("ben", label(box(-6)))):
        reader = accounts.add(name, f"{name}-password", frozenset({Role.READER}))
        seat = next_case(store, boxing.name, reader.id)
        assert seat is not None
        store.save_read(case_id=seat.id, reader=reader.id, label=drawn)
        settle(store, seat.id)

    @dataclass(frozen=True)
    class ReadBoth:
        case: str = seat.id
        patient: str = "P"
        strata: Strata = Strata()  # noqa: RUF009  frozen
        reads: tuple[int, ...] = tuple(read.id for read in store.reads(seat.id))

    (figure,) = readers_sensitivity(store, boxing, [ReadBoth()])  # type: ignore[list-item]
    assert (figure.name, figure.value) == ("sensitivity", pytest.approx(0.75))
    store.close()
