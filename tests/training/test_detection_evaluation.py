"""Scores and reports of detections, on boxes whose figures are known."""

from dataclasses import dataclass

import numpy as np
import pytest

from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Box, Label
from labeling_protocols.protocol_parts import AgreementLimits
from labeling_protocols.strata import Strata
from tests.training.drawn import STRAIGHT, turned
from training.detection_boxes import Finding
from training.detection_evaluation import (
    DetectedCase,
    DetectionScores,
    DetectionStatistic,
    choose_operating_point,
    curve_of,
    detection_report,
    hit_of,
    score_findings,
)
from training.froc import FROC_RATES, Hit
from training.intervals import resample

VALUES = {"cyst": 2, "nodule": 1}
HITS = {"nodule": Hit(mm_max=2.0), "cyst": Hit()}
GOOD, FAIR, POOR = 0.9, 0.6, 0.2


@dataclass(frozen=True, kw_only=True)
class Known:
    case: str
    patient: str
    strata: Strata


def box(x: float, structure: str = "nodule", edge: float = 4.0) -> Box:
    return Box(structure=structure, centre_mm_LPS=(x, 0.0, 0.0), size_mm_XYZ=(edge, edge, edge))


def truth(*boxes: Box, geometry: Geometry = STRAIGHT) -> Label:
    return Label(geometry=geometry, layers_LZYX=np.zeros((1, *geometry.shape_ZYX), dtype=np.uint8), boxes=boxes)


def found(*of: tuple[Box, float]) -> list[Finding]:
    return [Finding(box=one, score=score) for one, score in of]


def scores() -> DetectionScores:
    """Three studies, three nodules and a cyst to find.

    a: a nodule found for sure, one not at all, and a false one that is shown. b: a nodule found too faintly to be
    shown, and its cyst for sure. c: nothing is there, and something false is not shown.
    """
    a = found((box(-8), GOOD), (box(0.5), FAIR)), truth(box(-8.5), box(8))
    b = found((box(-8), POOR), (box(8, "cyst"), GOOD)), truth(box(-8), box(8, "cyst"))
    c = found((box(0), POOR / 2)), truth()
    return DetectionScores(
        cases={
            case: score_findings(findings, label, VALUES, HITS, operating_point=0.5)
            for case, (findings, label) in {"a": a, "b": b, "c": c}.items()
        }
    )


CASES = [
    Known(case="a", patient="P1", strata=Strata(sex="F")),
    Known(case="b", patient="P2", strata=Strata(sex="M")),
    Known(case="c", patient="P3", strata=Strata(sex="M")),
]


def test_a_report_counts_what_was_missed_and_what_was_invented() -> None:
    report = detection_report(scores(), CASES, model="m", test_set="t")
    value = {figure.name: figure.value for figure in report.figures}
    assert (report.missed, report.invented) == (2, 1)
    assert value["sensitivity"] == pytest.approx(2 / 4)
    assert value["clear"] == 1.0
    # By falling score: hit (a), hit (b), false (a), hit (b), false (c); a third of a false positive a study each.
    assert value["sensitivity_at_0.5_fp"] == value["sensitivity_at_1_fp"] == pytest.approx(3 / 4)
    assert value["froc"] == pytest.approx((2 / 4 * 2 + 3 / 4 * 5) / 7)
    assert value["sensitivity/nodule"] == pytest.approx(1 / 3)
    assert value["sensitivity/cyst"] == 1.0
    assert value["missed/nodule"] == 2
    assert value["invented/cyst"] == 0
    assert value["clear/cyst"] == 1.0


def test_average_precision_is_a_mean_over_the_structures() -> None:
    """The cyst's is 1. Of nodules: hit, false, hit, false, and the third never: precision 1 up to a recall of 1/3,
    which are 34 of 101 recalls, and 2/3 for 33 more. Shifted by 0.5 of 4 mm the first box has an IoU of 3.5 / 4.5."""
    value = DetectionStatistic()(
        [
            DetectedCase(case=one.case, patient=one.patient, strata=one.strata, structures=scores().cases[one.case])
            for one in CASES
        ]
    )
    nodule = (34 + 33 * 2 / 3) / 101
    assert value["map/nodule"] == value["ap_at_iou_0.1/nodule"] == pytest.approx(nodule)
    assert value["map"] == pytest.approx((nodule + 1) / 2)


def test_cases_are_ranked_worst_first_and_those_with_nothing_to_find_are_not() -> None:
    report = detection_report(scores(), CASES, model="m", test_set="t")
    assert [case for case, _ in report.worst_first()] == ["a", "b"]
    assert {group.value: group.n for group in report.subgroups} == {"F": 1, "M": 2}


def test_figures_of_all_draws_at_once_are_those_of_each_draw() -> None:
    statistic = DetectionStatistic()
    scored = [
        DetectedCase(case=one.case, patient=one.patient, strata=one.strata, structures=scores().cases[one.case])
        for one in CASES
    ]
    times = np.array([[1, 1, 1], [3, 0, 0], [0, 2, 1], [0, 0, 3]])
    together = statistic.resampled(scored, times)
    one_by_one = resample(lambda sample: statistic(sample), scored, times)
    assert set(together) == set(one_by_one)
    for name, values in together.items():
        assert np.allclose(values, one_by_one[name], equal_nan=True), name


def test_scores_are_kept_as_text() -> None:
    kept = DetectionScores.from_json(scores().as_json())
    assert kept.as_json() == scores().as_json()
    report = detection_report(scores(), CASES, model="m", test_set="t")
    assert detection_report(kept, CASES, model="m", test_set="t").digest == report.digest


def test_a_champion_is_compared_on_the_same_cases() -> None:
    silent = DetectionScores(
        cases={
            case: score_findings([], truth(*boxes), VALUES, HITS, operating_point=0.5)
            for case, boxes in {"a": [box(-8.5), box(8)], "b": [box(-8), box(8, "cyst")], "c": []}.items()
        }
    )
    report = detection_report(scores(), CASES, model="m", test_set="t", champion=("v1", silent))
    assert report.comparison is not None
    difference = {figure.name: figure.value for figure in report.comparison.differences}
    assert difference["sensitivity_at_1_fp"] == pytest.approx(3 / 4)


def test_the_operating_point_keeps_to_so_many_false_positives_a_study() -> None:
    """Two false findings in three studies: 0.6 and 0.1. One is allowed at 1/3 a study, none at 0.3."""
    assert choose_operating_point(scores(), 1.0) == 0.0
    assert choose_operating_point(scores(), 1 / 3) == pytest.approx((POOR / 2 + POOR) / 2)
    assert choose_operating_point(scores(), 0.3) == pytest.approx((FAIR + GOOD) / 2)


def test_a_study_with_nothing_to_find_counts_among_the_studies() -> None:
    curve = curve_of(scores())
    assert curve is not None
    assert curve.rates.max() == pytest.approx(2 / 3)
    assert curve.sensitivity.max() == pytest.approx(3 / 4)
    assert curve.shown == pytest.approx((1 / 3, 2 / 4))
    assert curve_of(DetectionScores(cases={"c": scores().cases["c"]}), "nodule") is None


def test_something_shown_where_there_is_nothing_is_not_clear() -> None:
    case = score_findings(found((box(0), GOOD)), truth(), {"nodule": 1}, HITS, operating_point=0.5)
    scored = DetectedCase(case="e", patient="P", strata=Strata(), structures=case)
    value = DetectionStatistic()([scored])
    assert (value["clear"], value["invented"], value["missed"]) == (0.0, 1.0, 0.0)
    assert value["sensitivity"] is value["froc"] is value["map"] is None


def test_a_protocol_says_what_is_the_same_finding() -> None:
    assert hit_of(AgreementLimits(match_mm_max=10.0, f1_min=0.5)) == Hit(mm_max=10.0)
    assert hit_of(AgreementLimits(match_iou_min=0.3, f1_min=0.5)) == Hit(iou_min=0.3)
    assert hit_of(AgreementLimits()) == Hit()


def test_boxes_overlap_along_the_images_own_axes() -> None:
    """On a grid turned by 45 degrees two long boxes side by side do not touch, though around the patient's axes they
    would."""
    cos = np.sqrt(0.5)
    grid = turned(np.array([[cos, -cos, 0.0], [cos, cos, 0.0], [0.0, 0.0, 1.0]]), (1.0, 1.0, 1.0))
    beside = tuple(float(v) for v in 5.0 * np.array([-cos, cos, 0.0]))  # along the grid's y
    long = (20.0, 4.0, 4.0)
    here = Box(structure="nodule", centre_mm_LPS=(0.0, 0.0, 0.0), size_mm_XYZ=long)
    there = Box(structure="nodule", centre_mm_LPS=(beside[0], beside[1], beside[2]), size_mm_XYZ=long)
    label = truth(here, geometry=grid)
    scored = score_findings(
        found((there, GOOD), (here, FAIR)), label, {"nodule": 1}, {"nodule": Hit(iou_min=0.1)}, operating_point=0.5
    )["nodule"]
    assert scored.hits.tolist() == [False, True]


def test_a_case_that_is_none_of_the_test_sets_is_refused() -> None:
    with pytest.raises(ValueError, match="such as c"):
        detection_report(scores(), CASES[:2], model="m", test_set="t")


def test_rates_of_the_froc_score_are_those_of_luna16() -> None:
    assert FROC_RATES == (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
