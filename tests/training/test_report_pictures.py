"""Pictures of reports and curves: what stands on them, and that the same picture is the same bytes."""

import io

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.text import Text
from PIL import Image

from labeling_protocols.strata import Strata
from tests.training.scored import Scored, values_of
from training.case_figures import PerCase, Summary
from training.curve_pictures import Curve, froc_curve, reliability_diagram, roc_curve
from training.drawing import canvas, png
from training.intervals import Figure, Interval
from training.probabilities import reliability
from training.report import Champion, EvaluationReport, build_report
from training.report_pictures import case_strip, subgroup_forest, summary

NAMES = ("dice_mean", "dice/anterior", "hd95_mm/anterior", "volume_error/anterior", "volume_bias_ml/anterior", "missed")
STATISTIC: PerCase[Scored] = PerCase(values_of, lambda name: Summary.TOTAL if name == "missed" else Summary.MEAN)


def cases(worse: float = 0.0, n: int = 24) -> list[Scored]:
    random = np.random.default_rng(0)
    values = [[*(random.uniform(0.5, 0.9, 2) - worse).tolist(), *random.uniform(1, 4, 4).tolist()] for _ in range(n)]
    return [
        Scored(
            case=f"case{place:02d}",
            patient=f"p{place}",
            strata=Strata(maker="Siemens" if place % 3 else "GE", sex="F"),
            values=dict(zip(NAMES, numbers, strict=True)),
        )
        for place, numbers in enumerate(values)
    ]


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    return build_report(
        cases(),
        STATISTIC,
        task="segmentation",
        model="hippocampus-segmentation 1.0.7",
        test_set="0123456789abcdef",
        principal="dice_mean",
        values=values_of,
        champion=Champion(name="hippocampus-segmentation 1.0.5", scored=cases(worse=0.1)),
        human=(Figure(name="dice_mean", value=0.95, interval=Interval(low=0.93, high=0.97), n=20),),
        resamples=50,
    )


def words(picture: Picture) -> str:
    png(picture)  # what stands where is decided as it is drawn
    return "\n".join(text.get_text() for text in picture.findobj(Text) if text.get_visible())


def test_the_summary_names_model_test_set_figures_and_worst_cases(report: EvaluationReport) -> None:
    said = words(summary(report))
    for expected in ("hippocampus-segmentation 1.0.7", "champion hippocampus-segmentation 1.0.5", "0123456789ab"):
        assert expected in said
    figure = report.figure("dice_mean")
    assert figure is not None
    assert figure.interval is not None
    assert f"{figure.value:.3f}  [{figure.interval.low:.3f}, {figure.interval.high:.3f}]" in said
    assert "24 cases of 24 patients" in said
    assert all(case in said for case, _ in report.worst_first()[:8])
    assert report.worst_first()[9][0] not in said


def test_the_summary_marks_readers_and_champion_by_shape(report: EvaluationReport) -> None:
    panel = next(panel for panel in summary(report).findobj(Axes) if panel.get_title(loc="left") == "More is better")
    marks = {line.get_marker() for line in panel.get_lines()}
    assert {"o", "D", "x"} <= marks


def test_subgroups_stand_with_their_numbers_and_small_ones_are_hollow(report: EvaluationReport) -> None:
    picture = subgroup_forest(report, "dice_mean")
    said = words(picture)
    assert "maker: GE" in said
    assert "n = 8, few" in said
    assert "sex: F" in said
    (panel,) = picture.axes
    inside = [line.get_markerfacecolor() for line in panel.get_lines() if line.get_marker() == "o"]
    assert inside == ["white", "white", "#0072b2"]  # 8 and 16 cases, and all 24


def test_without_strata_the_forest_says_so() -> None:
    bare = [Scored(case=one.case, patient=one.patient, values=one.values) for one in cases(n=3)]
    report = build_report(
        bare, STATISTIC, task="t", model="m", test_set="s", principal="dice_mean", values=values_of, resamples=2
    )
    assert "nothing is known of the cases" in words(subgroup_forest(report, "dice_mean"))
    assert "3 patient(s) only" in words(summary(report))


def test_every_case_is_a_dot_worst_on_the_left(report: EvaluationReport) -> None:
    (panel,) = case_strip(report).axes
    dots = next(line for line in panel.get_lines() if line.get_marker() == "o")
    assert list(dots.get_ydata()) == sorted(one.values["dice_mean"] or 0.0 for one in cases())


def test_a_report_of_nothing_but_one_undefined_figure_is_drawn() -> None:
    only = [Scored(case="a", patient="p", values={"auc/malignant": None})]
    report = build_report(
        only, STATISTIC, task="t", model="m", test_set="s", principal="auc/malignant", values=values_of, resamples=2
    )
    assert "not measured" in words(summary(report))
    assert "0 cases, worst on the left" in words(case_strip(report))


def test_froc_holds_each_sensitivity_until_the_next_threshold_and_writes_what_is_marked() -> None:
    picture = froc_curve([Curve(name="candidate", x=[0.0, 0.3, 2.0], y=[0.4, 0.7, 0.9], marked=((0.5, 0.7),))])
    (panel,) = picture.axes
    line = panel.get_lines()[0]
    assert line.get_drawstyle() == "steps-post"
    assert list(line.get_ydata()) == [0.0, 0.4, 0.7, 0.9, 0.9]
    assert list(line.get_xdata()) == [0.0625, 0.0625, 0.3, 2.0, 10.0]
    assert "candidate: 0.700 at 0.5" in words(picture)


def test_lines_of_one_picture_differ_by_more_than_colour() -> None:
    points = {"x": [0.0, 0.5, 1.0], "y": [0.0, 0.8, 1.0]}
    sums = {name: reliability([0.1, 0.9], [False, True]) for name in ("a", "b", "c")}
    pictures = [
        roc_curve([Curve(name=name, **points) for name in "abc"]),  # type: ignore[arg-type]
        froc_curve([Curve(name=name, **points) for name in "abc"]),  # type: ignore[arg-type]
        reliability_diagram(sums),
    ]
    for picture in pictures:
        lines = [line for line in picture.axes[0].get_lines() if line.get_label()[:1] in "abc"]
        assert len({line.get_linestyle() for line in lines if line.get_label() != "chance"}) == 3


def test_reliability_shows_the_curves_points_and_the_error() -> None:
    picture = reliability_diagram({"liver": reliability([0.2, 0.4, 0.9, 0.7], [False, True, True, True], bins=2)})
    line = next(line for line in picture.axes[0].get_lines() if str(line.get_label()).startswith("liver"))
    assert list(line.get_xdata()) == pytest.approx([0.3, 0.8])
    assert list(line.get_ydata()) == pytest.approx([0.5, 1.0])
    assert "liver: calibration error 0.200" in words(picture)
    assert "perfect" in words(reliability_diagram({"tumour": reliability([], [])}))


def test_the_same_picture_is_the_same_bytes_and_says_nothing_of_the_program(report: EvaluationReport) -> None:
    once, again = png(summary(report)), png(summary(report))
    assert once == again
    with Image.open(io.BytesIO(once)) as picture:
        assert "Software" not in picture.info


def test_a_canvas_is_as_large_as_it_is_asked_to_be() -> None:
    with Image.open(io.BytesIO(png(canvas(3, 2)))) as picture:
        assert picture.size == (300, 200)
