"""Pictures of an evaluation report: a page to see it all at once, its subgroups, its cases; a report in, pictures out.

A dot is the model, with its 95 % interval; a hollow diamond is what readers reach among each other; a cross is the
champion.
"""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.figure import SubFigure

from training.drawing import CHAMPION, HUMAN, MODEL, WORSE, canvas, plain
from training.figure_names import spoken
from training.intervals import Interval
from training.report import EvaluationReport, Figure, lower_is_better
from training.report_tables import champions

WORST = 8  # cases that a page names
_MM = ("hd95_mm", "average_surface_distance_mm")
_TOLD_ELSEWHERE = ("missed", "invented", "volume_bias_ml")  # in words, and in tables
_LEGEND = "●  model, with its 95 % interval over patients          ◇  readers among each other          ×  champion"
_ROW_INCHES = 0.3
_HEAD_ROWS = 2.0  # that a panel's title and axis take the height of
_BESIDE = 0.26  # of a row


def summary(report: EvaluationReport) -> Picture:
    """One page: every figure with its interval, the readers' and the champion's beside it, and the worst cases."""
    more, less, mm = _panels(report)
    worst = report.worst_first()[:WORST]
    left, right = [len(more), len(worst)], [rows for rows in (len(less), len(mm)) if rows]
    tallest = max(sum(rows + _HEAD_ROWS for rows in side) for side in (left, right))
    picture = canvas(13, 1.0 + _ROW_INCHES * tallest)
    picture.suptitle(_title(report), fontsize=11, x=0.008, ha="left")
    picture.supxlabel(_LEGEND, fontsize=9, color="#333333")
    halves = picture.subfigures(1, 2, squeeze=False)[0]
    top, bottom = _stacked(halves[0], left, tallest)
    _rows(top, report, more, "More is better")
    _worst(bottom, report, worst)
    lower = [one for one in ((less, "Less is better"), (mm, "Millimetres, less is better")) if one[0]]
    for panel, (figures, title) in zip(_stacked(halves[1], right, tallest), lower, strict=True):
        _rows(panel, report, figures, title)
        panel.set_xlim(left=0)
    return picture


def subgroup_forest(report: EvaluationReport, name: str) -> Picture:
    """One figure in every subgroup, with the whole test set's as a line; small subgroups are hollow."""
    groups = [(group, value) for group in report.subgroups if (value := group.figures.get(name)) is not None]
    picture = canvas(9, 1.5 + _ROW_INCHES * max(len(groups), 3))
    panel = plain(picture.subplots(), grid="x")
    panel.set_title(f"{_capital(spoken(name))} by subgroup", loc="left", fontsize=11)
    if not groups:
        panel.text(0.5, 0.5, "nothing is known of the cases", transform=panel.transAxes, ha="center", va="center")
        return picture
    _whole(panel, report.figure(name))
    for row, (group, value) in enumerate(groups):
        _point(panel, row, value, group.intervals.get(name), "o", MODEL, filled=not group.small)
        if row and groups[row - 1][0].attribute != group.attribute:
            panel.axhline(row - 0.5, color="#bbbbbb", linewidth=0.8)
    labels = [f"{group.attribute.replace('_', ' ')}: {group.value}" for group, _ in groups]
    numbers = [f"{_number(value)}   n = {group.n}{', few' if group.small else ''}" for group, value in groups]
    _label_rows(panel, labels, numbers)
    panel.set_xlabel("dashed: all cases, with the 95 % interval in grey; hollow: few cases", fontsize=8)
    return picture


def case_strip(report: EvaluationReport) -> Picture:
    """Every case's value of the principal figure, worst on the left."""
    picture = canvas(9, 3.4)
    panel = plain(picture.subplots(), grid="y")
    values = [value for _, value in report.worst_first()]
    panel.set_title(f"{_capital(spoken(report.principal))} of each case, sorted", loc="left", fontsize=11)
    panel.set_xlabel(f"{len(values)} cases, worst on the left", fontsize=9)
    panel.plot(range(1, len(values) + 1), values, linestyle="none", marker="o", markersize=4, color=MODEL)
    whole, human = report.figure(report.principal), report.human_figure(report.principal)
    for figure, color, style, whose in ((whole, MODEL, "dashed", "all cases"), (human, HUMAN, "dotted", "readers")):
        if figure is not None and figure.value is not None:
            label = f"{whose}: {_number(figure.value)}"
            panel.axhline(figure.value, color=color, linestyle=style, linewidth=1.5, label=label, zorder=1)
    panel.margins(x=0.02)
    panel.set_ylim(bottom=min(0.0, *values, 0.0), top=1.02 if max(values, default=0.0) <= 1.0 else None)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(loc="best", fontsize=9, frameon=False)
    return picture


def _title(report: EvaluationReport) -> str:
    against = f", against champion {report.comparison.champion}" if report.comparison else ""
    few = [words for words in report.warnings() if "patient" in words]
    found = [
        f"{report.cases} cases of {report.patients} patients",
        f"{report.missed} missed",
        f"{report.invented} invented",
    ]
    return f"{report.model} ({report.task}){against}; test set {report.test_set[:12]}\n{'; '.join([*found, *few])}"


def _panels(report: EvaluationReport) -> tuple[list[Figure], list[Figure], list[Figure]]:
    """Figures of which more is better; shares, and distances, of which less is."""
    kinds = [(figure, figure.name.partition("/")[0]) for figure in report.figures]
    shown = [(figure, kind) for figure, kind in kinds if kind not in _TOLD_ELSEWHERE]
    more = [figure for figure, kind in shown if not lower_is_better(kind)]
    less = [figure for figure, kind in shown if lower_is_better(kind) and kind not in _MM]
    return more, less, [figure for figure, kind in shown if kind in _MM]


def _stacked(half: SubFigure, rows: Sequence[int], tallest: float) -> list[Axes]:
    """Panels of so many rows one below the other, all rows of one height; what is left of the half stays empty."""
    heights = [count + _HEAD_ROWS for count in rows]
    spare = max(tallest - sum(heights), 0.01)
    panels = half.subplots(len(rows) + 1, 1, height_ratios=[*heights, spare], squeeze=False)[:, 0]
    panels[-1].set_axis_off()
    return list(panels[:-1])


def _rows(panel: Axes, report: EvaluationReport, figures: Sequence[Figure], title: str) -> None:
    """A row a figure."""
    plain(panel, grid="x").set_title(title, loc="left", fontsize=10)
    for row, figure in enumerate(figures):
        human, champion = report.human_figure(figure.name), champions(report, figure)
        if human is not None and human.value is not None:
            _point(panel, row + _BESIDE, human.value, human.interval, "D", HUMAN, filled=False)
        if champion is not None:
            panel.plot([champion], [row - _BESIDE], marker="x", color=CHAMPION, markersize=6, linestyle="none")
        if figure.value is not None:
            _point(panel, row, figure.value, figure.interval, "o", MODEL, filled=True)
    names = [spoken(figure.name) for figure in figures]
    _label_rows(panel, names, [_with_interval(figure) for figure in figures])


def _worst(panel: Axes, report: EvaluationReport, worst: Sequence[tuple[str, float]]) -> None:
    """The worst cases as bars, named by their ids."""
    name = report.principal
    plain(panel, grid="x").set_title(f"Worst cases, {spoken(name)}", loc="left", fontsize=10)
    panel.barh(range(len(worst)), [value for _, value in worst], height=0.55, color=WORSE, alpha=0.85)
    whole = report.figure(name)
    if whole is not None and whole.value is not None:
        panel.axvline(whole.value, color=MODEL, linestyle="dashed", linewidth=1.2)
    _label_rows(panel, [case for case, _ in worst], [_number(value) for _, value in worst])


def _label_rows(panel: Axes, names: Sequence[str], numbers: Sequence[str]) -> None:
    """Names on the left of the rows, from the top, and numbers on their right."""
    panel.set_yticks(range(len(names)), names, fontsize=8.5)
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.tick_params(axis="x", labelsize=8)
    panel.tick_params(axis="y", length=0)
    for row, words in enumerate(numbers):
        panel.text(1.02, row, words, transform=panel.get_yaxis_transform(), va="center", fontsize=8.5)


def _point(
    panel: Axes, row: float, value: float, interval: Interval | None, marker: str, color: str, *, filled: bool
) -> None:
    if interval is not None:
        panel.plot([interval.low, interval.high], [row, row], color=color, linewidth=1.6, solid_capstyle="butt")
    inside = color if filled else "white"
    panel.plot([value], [row], marker=marker, markersize=6, color=color, markerfacecolor=inside, linestyle="none")


def _whole(panel: Axes, figure: Figure | None) -> None:
    """All cases' value as a line, and its interval behind everything."""
    if figure is None or figure.value is None:
        return
    panel.axvline(figure.value, color=CHAMPION, linestyle="dashed", linewidth=1.2)
    if figure.interval is not None:
        panel.axvspan(figure.interval.low, figure.interval.high, color="#e6e6e6", zorder=0)


def _with_interval(figure: Figure) -> str:
    if figure.value is None:
        return "not measured"
    if figure.interval is None:
        return _number(figure.value)
    return f"{_number(figure.value)}  [{_number(figure.interval.low)}, {_number(figure.interval.high)}]"


def _number(value: float) -> str:
    """Three places, fewer of what is larger than 10."""
    return f"{value:.{max(0, 3 - max(0, math.floor(math.log10(abs(value)))))}f}" if value else "0"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
