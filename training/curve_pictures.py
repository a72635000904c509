"""Pictures of how a model's scores hold up at each threshold: curves in; FROC, ROC and reliability pictures out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from numpy.typing import ArrayLike

from training.drawing import MARKERS, SERIES, STYLES, canvas, plain
from training.probabilities import Reliability

_FROC_TICKS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # as LUNA16 has them (Setio et al. 2017, Med Image Anal 42:1)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line, its points by falling threshold; `marked` are points (x, y) to stand out, such as operating points."""

    name: str
    x: ArrayLike
    y: ArrayLike
    marked: Sequence[tuple[float, float]] = ()


def froc_curve(curves: Sequence[Curve]) -> Picture:
    """Sensitivity `y` over false positives a volume, `x`; each holds until the next threshold."""
    picture = canvas(6.6, 4.4)
    panel = plain(picture.subplots())
    low, high = _FROC_TICKS[0] / 2, _FROC_TICKS[-1] * 1.25
    for place, curve in enumerate(curves):
        x = np.concatenate([[0.0], np.asarray(curve.x, dtype=float), [high]]).clip(low)
        y = np.concatenate([[0.0], np.asarray(curve.y, dtype=float)])
        panel.step(x, np.append(y, y[-1]), where="post", label=_named(curve), **_line(place))
        _mark(panel, place, curve)
    panel.set_xscale("log")
    panel.set_xticks(_FROC_TICKS, [f"{tick:g}" for tick in _FROC_TICKS])
    panel.minorticks_off()
    panel.set(xlim=(low, high), ylim=(0, 1.02), xlabel="false positives a volume", ylabel="sensitivity")
    return _titled(picture, panel, "Free-response ROC", "lower right")


def roc_curve(curves: Sequence[Curve]) -> Picture:
    """Sensitivity `y` over the false-positive rate `x`, which is 1 less specificity; one line a class."""
    picture = canvas(5.2, 5.2)
    panel = plain(picture.subplots())
    panel.plot([0, 1], [0, 1], color="#999999", linestyle="dotted", linewidth=1.2, label="chance")
    for place, curve in enumerate(curves):
        panel.plot(curve.x, curve.y, label=_named(curve), **_line(place))
        _mark(panel, place, curve)
    panel.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    panel.set(xlabel="false-positive rate (1 − specificity)", ylabel="sensitivity")
    return _titled(picture, panel, "ROC", "lower right")


def reliability_diagram(found: Mapping[str, Reliability]) -> Picture:
    """How much was so of what the model gave each probability, by name; below, how many fell into each bin."""
    picture = canvas(5.6, 6.6)
    panel, counts = picture.subplots(2, 1, height_ratios=(3.4, 1), sharex=True)
    panel.plot([0, 1], [0, 1], color="#999999", linestyle="dotted", linewidth=1.2, label="perfect")
    for place, (name, sums) in enumerate(found.items()):
        points, error = sums.curve(), sums.calibration_error
        label = name if error is None else f"{name}: calibration error {error:.3f}"
        marker = MARKERS[place % len(MARKERS)]
        panel.plot(
            [p.probability for p in points], [p.share for p in points], marker=marker, label=label, **_line(place)
        )
        counts.stairs(sums.counts, np.linspace(0.0, 1.0, len(sums.counts) + 1), **_line(place))
    plain(panel).set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share that was so")
    plain(counts, grid="y").set(xlabel="probability that the model gave", ylabel="how many")
    if most := max((max(sums.counts) for sums in found.values()), default=0):
        counts.set(yscale="log", ylim=(1, 10 ** np.ceil(np.log10(most + 1))))
    return _titled(picture, panel, "Reliability", "upper left")


def _line(place: int) -> dict[str, Any]:
    """Lines differ by colour and by style."""
    return {"color": SERIES[place % len(SERIES)], "linestyle": STYLES[place % len(STYLES)], "linewidth": 1.8}


def _mark(panel: Axes, place: int, curve: Curve) -> None:
    for x, y in curve.marked:
        marker, color = MARKERS[place % len(MARKERS)], SERIES[place % len(SERIES)]
        panel.plot([x], [y], marker=marker, markersize=7, color=color, markeredgecolor="white", linestyle="none")


def _named(curve: Curve) -> str:
    points = ", ".join(f"{y:.3f} at {x:g}" for x, y in curve.marked)
    return f"{curve.name}: {points}" if points else curve.name


def _titled(picture: Picture, panel: Axes, title: str, legend: str) -> Picture:
    panel.set_title(title, loc="left", fontsize=11)
    panel.legend(loc=legend, fontsize=8, frameon=True, framealpha=0.9, edgecolor="none")
    return picture
