"""How pictures look: sizes in inches in, empty canvases out, and what was drawn on them as PNG bytes.

Colours are Okabe and Ito's, which colour-blind people tell apart; whatever differs by colour differs by shape too.
"""

import io
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MODEL, HUMAN, CHAMPION, WORSE = "#0072b2", "#e69f00", "#555555", "#d55e00"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLES = ("solid", "dashed", "dashdot", "dotted", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))
GRID = "#dddddd"
_DPI = 100


def canvas(width: float, height: float) -> Figure:
    """An empty picture that needs no window system, whatever the machine has."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """The same bytes for the same picture: without the program's version, which matplotlib writes into files."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": None})
    return content.getvalue()


def plain(panel: Axes, *, grid: Literal["both", "x", "y"] = "both") -> Axes:
    """A panel with its lower and left edge and a light grid along one axis or both."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis=grid, color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    return panel
