"""What charts have in common: colours, settings, panels and files, one drawing at a time; words for few numbers too.

On pages charts lie on the pages' dark ground; those that people take along lie on white.
"""

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from labeling_protocols.reading_figures import FEW

_WIDTH_IN, _ROW_IN = 8.6, 2.9
_DAYS_MIN = 14  # that a chart shows
_one_drawing = threading.Lock()  # matplotlib's settings are one for all threads


class Form(StrEnum):
    """What a chart can be had as."""

    SVG = "svg"
    PNG = "png"
    CSV = "csv"


@dataclass(frozen=True, kw_only=True)
class Look:
    """Colours of a chart; lines differ by style and marker as well."""

    ground: str
    ink: str
    soft: str
    lines: tuple[str, ...]


DARK = Look(
    ground="#181e22",
    ink="#e4e9ec",
    soft="#56636b",
    lines=("#ffb000", "#4cc9f0", "#e07be0", "#6cc4b8", "#f4f4f4", "#f2845c", "#9fb4ff", "#c6d94f"),
)
# Okabe and Ito's colours, told apart by people who see red and green alike.
PAPER = Look(
    ground="#ffffff",
    ink="#1a1a1a",
    soft="#bdbdbd",
    lines=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9", "#7a6a00"),
)


@contextmanager
def drawing(ink: str) -> Iterator[None]:
    """matplotlib's settings for what is drawn here, in this colour of text, one drawing at a time."""
    settings = {
        "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and edited
        "svg.hashsalt": "overread",
        "font.family": ["DejaVu Sans", "sans-serif"],
        "hatch.linewidth": 0.6,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), ink),
    }
    with _one_drawing, mpl.rc_context(settings):
        yield


def drawn(draw: Callable[[Look], Figure], form: Form, look: Look) -> bytes:
    """The chart as a file; the same rows give the same bytes."""
    content = io.BytesIO()
    with drawing(look.ink):
        figure = draw(look)
        if form is Form.SVG:
            figure.savefig(content, format="svg", metadata={"Date": None}, facecolor=look.ground)
        else:
            figure.savefig(content, format="png", dpi=160, facecolor=look.ground, metadata={"Software": None})
    return content.getvalue()


def few(n: int, what: str) -> str:
    """A warning in words; empty where there are enough."""
    return f"only {n} {what}{'' if n == 1 else 's'}: too few to rely on" if n < FEW else ""


def with_n(title: str, n: int, what: str) -> str:
    warning = few(n, what)
    said = f"n = {n}{f'; {warning}' if warning else ''}"
    return f"{title} ({said})" if title else said


@dataclass(frozen=True, kw_only=True)
class NamedLine:
    """A line's name and look, and the height it ends at."""

    ends_at: float
    name: str
    color: str
    style: Any
    marker: str = ""


def name_lines(panel: Axes, lines: Sequence[NamedLine]) -> None:
    """Names right of the panel with a piece of each line, in the order from above in which the lines end."""
    ordered = sorted(lines, key=lambda line: (-line.ends_at, line.name))
    pieces = [
        Line2D([], [], color=line.color, ls=line.style, marker=line.marker, ms=5, label=line.name) for line in ordered
    ]
    panel.legend(
        handles=pieces, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False, handlelength=3.5
    )


def dated(panel: Axes) -> None:
    locator = AutoDateLocator(minticks=3, maxticks=8)
    panel.xaxis.set_major_locator(locator)
    panel.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    shown = panel.dataLim
    if 0 <= shown.width < _DAYS_MIN:  # a single date would be shown in the middle of years
        middle = shown.x0 + shown.width / 2
        panel.set_xlim(middle - _DAYS_MIN / 2, middle + _DAYS_MIN / 2)


def panels_of(look: Look, count: int, *, columns: int = 1, height_in: float = _ROW_IN) -> tuple[Figure, list[Axes]]:
    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(_WIDTH_IN, height_in * rows + 0.35), layout="constrained", facecolor=look.ground)
    FigureCanvasAgg(figure)  # no window system, whatever the machine has
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    if not count:
        panels[0].text(0.5, 0.5, "nothing to draw yet", transform=panels[0].transAxes, ha="center")
    for number, panel in enumerate(panels):
        panel.set_facecolor(look.ground)
        panel.set_visible(number < max(1, count))
        panel.tick_params(labelsize=8)
        panel.grid(visible=True, axis="y", color=look.soft, lw=0.5, alpha=0.6)
        panel.set_axisbelow(True)
        for side, spine in panel.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(look.soft)
    return figure, panels
