"""A classification's answers in; ROC curves, confusion matrix, reliability diagram and single cases, drawn, out."""

from collections.abc import Iterator, Mapping
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure

from labeling_protocols.geometry import Volume
from labeling_protocols.strata import Strata
from training.classification_evaluation import (
    AnsweredCase,
    Answers,
    confusion,
    operating_points,
    reliabilities,
    roc,
    told_of,
)
from training.drawing import GRID, MARKERS, SERIES, STYLES, canvas, plain

_DARK = 0.6  # of the largest count, from which on the number in a cell is white


def charts(answers: Answers) -> Iterator[tuple[str, Figure]]:
    """All charts by name."""
    cases = [
        AnsweredCase(case=case, patient=case, strata=Strata(), truth=truth, probabilities=probabilities)
        for case, (truth, probabilities) in answers.of.items()
    ]
    yield "roc", _roc(answers, cases)
    yield "confusion", _confusion(answers, cases)
    yield "reliability", _reliability(answers, cases)


def answered(image: Volume, title: str, truth: str, probabilities: Mapping[str, float]) -> Figure:
    """Three planes through the middle of a case, with its true answer and what the model gave each option."""
    figure = canvas(10, 4)
    low, high = np.percentile(image.array_ZYX.astype(np.float32), (0.5, 99.5))
    spacing = image.geometry.spacing_mm_ZYX
    for axis, panel in enumerate(figure.subplots(1, 3)):
        rows, columns = (n for n in range(3) if n != axis)
        plane = image.array_ZYX.take(image.array_ZYX.shape[axis] // 2, axis)
        upright = "upper" if axis == 0 else "lower"  # head up, where slices are stacked from the feet
        panel.imshow(plane, cmap="gray", vmin=low, vmax=high, aspect=spacing[rows] / spacing[columns], origin=upright)
        panel.set_axis_off()
    given = ", ".join(f"{option} {probability:.2f}" for option, probability in probabilities.items())
    figure.suptitle(f"{title}: truly {truth or 'unanswered'}\nmodel: {given}", fontsize=10)
    return figure


def _roc(answers: Answers, cases: list[AnsweredCase]) -> Figure:
    figure = canvas(5.5, 5)
    panel = plain(figure.subplots())
    panel.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
    for option, color, style, marker in zip(
        told_of(answers.options), cycle(SERIES), cycle(STYLES), cycle(MARKERS), strict=False
    ):
        curve = roc(cases, option)
        area = curve.areas()[0]
        if np.isnan(area):
            panel.plot([], [], color=color, label=f"{option}: not defined")
            continue
        away = 1 - curve.specificity[0]
        panel.plot(away, curve.sensitivity[0], color=color, linestyle=style, label=f"{option}: AUC {area:.3f}")
        point = operating_points(cases, option)["youden"]
        at = f"  from {point.threshold:.2f}"
        panel.plot([1 - point.specificity], [point.sensitivity], color=color, marker=marker, linestyle="none")
        panel.annotate(at, (1 - point.specificity, point.sensitivity), fontsize=8, va="top")
    panel.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    panel.set_title(f"{answers.question}: ROC, {len(cases)} cases; marked: Youden's threshold", loc="left", fontsize=10)
    panel.legend(loc="lower right", fontsize=9, frameon=False)
    return figure


def _confusion(answers: Answers, cases: list[AnsweredCase]) -> Figure:
    counts, options = confusion(cases, answers.options), answers.options
    figure = canvas(2.5 + 0.8 * len(options), 2.0 + 0.7 * len(options))
    panel = figure.subplots()
    panel.imshow(counts, cmap="Blues", vmin=0)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if count > _DARK * counts.max() else "black"
        panel.text(column, row, str(count), ha="center", va="center", color=color)
    panel.set_xticks(range(len(options)), options)
    panel.set_yticks(range(len(options)), options)
    panel.set(xlabel="model's most probable answer", ylabel="truth")
    panel.set_title(answers.question, loc="left", fontsize=10)
    return figure


def _reliability(answers: Answers, cases: list[AnsweredCase]) -> Figure:
    figure = canvas(5.5, 5)
    panel = plain(figure.subplots())
    panel.plot([0, 1], [0, 1], color=GRID, linewidth=2)
    for option, color, marker in zip(told_of(answers.options), cycle(SERIES), cycle(MARKERS), strict=False):
        first, *others = [reliabilities(one, answers.options)[option] for one in cases]
        total = sum(others, start=first)
        points = total.curve()
        label = f"{option}: calibration error {total.calibration_error:.3f}"
        panel.plot([p.probability for p in points], [p.share for p in points], marker=marker, color=color, label=label)
    panel.set(xlabel="mean probability", ylabel="share that was so", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    panel.set_title(f"{answers.question}: can the probabilities be believed?", loc="left", fontsize=10)
    panel.legend(loc="upper left", fontsize=9, frameon=False)
    return figure
