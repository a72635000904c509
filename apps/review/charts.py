"""Leads' charts: rows of figures in, drawings out that are read without colour: by line style, marker, hatch and words.

Every chart says how many cases or reads it is of, and in words where those are few.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.dates import date2num
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from apps.review.chart_frame import Look, NamedLine, dated, name_lines, panels_of, with_n
from labeling_protocols.reading_figures import WINDOW, CountInPeriod, DisputesInPeriod, RolledScore, TimeInPeriod
from labeling_protocols.reading_rows import Taken
from labeling_protocols.study_reliability import PairReliability

LINES_MAX = 8  # more lines than there are styles to tell them by
PANELS_MAX = 6
_DOTS_MAX = 1500  # in a panel: more are a smear and a heavy file; every one is in the data
_BARS_MIN = 6  # that a chart has room for
_DATES_MAX = 13  # under a chart of bars
_STYLES = ("solid", "dashed", "dotted", "dashdot", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)), (0, (3, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\")


def scores_chart(
    rows: Sequence[RolledScore], titles: Mapping[str, str], names: Callable[[str], str], *, against: str
) -> Callable[[Look], Figure]:
    """A panel a structure: each read's score as a faint mark, its reader's rolling mean as a line with a name."""
    by_structure: dict[str, dict[str, list[RolledScore]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_structure[row.of_read.structure][row.of_read.reader].append(row)
    shown = _most({reader: len(group) for of in by_structure.values() for reader, group in of.items()})

    def draw(look: Look) -> Figure:
        figure, panels = panels_of(look, len(by_structure))
        for panel, (structure, readers) in zip(panels, by_structure.items(), strict=False):
            n = sum(map(len, readers.values()))
            title = with_n(titles.get(structure, structure), n, "score")
            newest = f"; the newest {_DOTS_MAX} are drawn" if n > _DOTS_MAX else ""
            panel.set_title(f"{title}{newest}", loc="left", fontsize=10)
            lines = []
            for number, reader in enumerate(shown):
                if group := readers.get(reader):
                    _line_of_scores(panel, group[-_DOTS_MAX // len(shown) :], look, number)
                    lines.append(_named(names(reader), len(group), group[-1].rolling_mean, look, number))
            name_lines(panel, lines)
            panel.set(ylim=(_floor(readers.values()), 1.02), ylabel="Dice or F1")
            dated(panel)
        figure.suptitle(
            f"Reads against {against}: each read, and the mean of the last {WINDOW}", fontsize=11, x=0.01, ha="left"
        )
        return figure

    return draw


def times_chart(rows: Sequence[TimeInPeriod], names: Callable[[str], str]) -> Callable[[Look], Figure]:
    """Median minutes a case, a line a reader, with quartiles as bars where the line is the only one."""
    readers: dict[str, list[TimeInPeriod]] = defaultdict(list)
    for row in rows:
        readers[row.reader].append(row)
    shown = _most({reader: sum(row.n for row in group) for reader, group in readers.items()})

    def draw(look: Look) -> Figure:
        figure, (panel, *_) = panels_of(look, 1, height_in=3.6)
        lines = []
        for number, reader in enumerate(shown):
            group = readers[reader]
            begins, minutes = date2num([row.begins for row in group]), [row.median_s / 60 for row in group]
            panel.plot(begins, minutes, color=look.lines[number], ls=_STYLES[number], marker=_MARKERS[number], ms=5)
            if len(shown) == 1:
                low, high = [row.low_s / 60 for row in group], [row.high_s / 60 for row in group]
                panel.vlines(begins, low, high, color=look.lines[number], lw=4, alpha=0.35)
            lines.append(_named(names(reader), sum(row.n for row in group), minutes[-1], look, number))
        name_lines(panel, lines)
        panel.set_ylim(bottom=0)
        panel.set(ylabel="minutes a case")
        panel.set_title(
            with_n("Median time spent on a case", sum(row.n for row in rows), "time"), loc="left", fontsize=10
        )
        dated(panel)
        return figure

    return draw


def disputes_chart(rows: Sequence[DisputesInPeriod]) -> Callable[[Look], Figure]:
    """Bars of decisions by what was taken, hatched and counted, beside a line of disputes raised."""

    def draw(look: Look) -> Figure:
        figure, (panel, *_) = panels_of(look, 1, height_in=3.8)
        places = range(len(rows))
        bottom = [0] * len(rows)
        for number, taken in enumerate(Taken):
            counts = [row.taken[taken] for row in rows]
            if not any(counts):
                continue
            panel.bar(
                places,
                counts,
                bottom=bottom,
                width=0.7,
                color=look.ground,
                edgecolor=look.lines[number],
                hatch=_HATCHES[number] or None,
                linewidth=1.4,
                label=f"settled by {taken.value}, n = {sum(counts)}",
            )
            for place, count, base in zip(places, counts, bottom, strict=True):
                if count:
                    panel.text(
                        place,
                        base + count / 2,
                        str(count),
                        ha="center",
                        va="center",
                        fontsize=8,
                        color=look.ink,
                        bbox={"facecolor": look.ground, "edgecolor": "none", "pad": 1.2},
                    )
            bottom = [base + count for base, count in zip(bottom, counts, strict=True)]
        raised = [row.raised for row in rows]
        panel.plot(places, raised, color=look.ink, marker="o", ms=5, label=f"raised, n = {sum(raised)}")
        every = -(-len(rows) // _DATES_MAX) or 1
        dates = [row.begins.strftime("%d %b %Y") for row in rows]
        panel.set_xticks(list(places)[::every], dates[::every], rotation=30, ha="right", fontsize=8)
        panel.yaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_xlim(-0.7, max(len(rows), _BARS_MIN) - 0.3)
        panel.set(ylabel="disputes", ylim=(0, 1.35 * max([1, *raised, *bottom])))
        panel.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)
        panel.set_title(f"Disputes raised (n = {sum(raised)}) and settled (n = {sum(bottom)})", loc="left", fontsize=10)
        return figure

    return draw


def counts_chart(rows: Sequence[CountInPeriod], planned: int) -> Callable[[Look], Figure]:
    """Reads so far, and how many are planned."""

    def draw(look: Look) -> Figure:
        figure, (panel, *_) = panels_of(look, 1, height_in=3.0)
        begins, total = date2num([row.begins for row in rows]), [row.total for row in rows]
        panel.step(begins, total, where="post", color=look.lines[0], marker="o", ms=4)
        last = total[-1] if total else 0
        panel.axhline(planned, color=look.ink, ls="dashed", lw=1)
        name_lines(
            panel,
            [
                NamedLine(ends_at=last, name=f"{last} read", color=look.lines[0], style="solid", marker="o"),
                NamedLine(ends_at=planned, name=f"{planned} planned", color=look.ink, style="dashed"),
            ],
        )
        panel.set(ylabel="reads", ylim=(0, 1.1 * max(1, planned, last)))
        panel.yaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_title(f"Reads so far (n = {last})", loc="left", fontsize=10)
        dated(panel)
        return figure

    return draw


@dataclass(frozen=True, kw_only=True)
class VolumePair:
    """Volumes in ml of one structure by two readers, case by case, and how they agree."""

    names: tuple[str, str]
    volumes_ml: tuple[tuple[float, float], ...]
    agreement: PairReliability


def bland_altman_chart(pairs: Sequence[VolumePair], title: str) -> Callable[[Look], Figure]:
    """A panel a pair of readers: difference over mean, with bias and 95 % limits of agreement as lines."""
    shown = sorted(pairs, key=lambda pair: -len(pair.volumes_ml))[:PANELS_MAX]

    def draw(look: Look) -> Figure:
        figure, panels = panels_of(look, len(shown), columns=min(2, max(1, len(shown))))
        for panel, pair in zip(panels, shown, strict=False):
            means = [(a + b) / 2 for a, b in pair.volumes_ml][:_DOTS_MAX]
            differences = [round(a - b, 9) for a, b in pair.volumes_ml][:_DOTS_MAX]
            panel.plot(means, differences, ls="none", marker="o", ms=4, mfc="none", color=look.lines[0])
            _lines_of_agreement(panel, pair, look)
            a, b = pair.names
            panel.set_title(f"{a} less {b}\n{with_n('', len(pair.volumes_ml), 'case')}", loc="left", fontsize=9)
            panel.set_xlabel("mean volume, ml", fontsize=9)
            panel.set_ylabel("difference, ml", fontsize=9)
            panel.margins(y=0.25)
        figure.suptitle(f"{title}: volumes of two readers (Bland and Altman 1986)", fontsize=11, x=0.01, ha="left")
        return figure

    return draw


def _lines_of_agreement(panel: Axes, pair: VolumePair, look: Look) -> None:
    found = pair.agreement.bland_altman
    if found is None:
        return
    lines = [(found.bias, "solid", "bias")]
    if found.upper - found.lower > 1e-9:
        lines += [(found.lower, "dashed", "−1.96 SD"), (found.upper, "dashed", "+1.96 SD")]
    for value, style, words in lines:
        panel.axhline(round(value, 9), color=look.ink, ls=style, lw=1)
        panel.annotate(
            f"{words} {value:.2f}",
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 2),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=look.ink,
        )


def _named(name: str, n: int, ends_at: float, look: Look, number: int) -> NamedLine:
    return NamedLine(
        ends_at=ends_at,
        name=f"{name}, n = {n}",
        color=look.lines[number],
        style=_STYLES[number],
        marker=_MARKERS[number],
    )


def _floor(groups: Iterable[Sequence[RolledScore]]) -> float:
    """Where a panel of scores begins: the tenth below the lowest."""
    lowest = min(row.of_read.score for group in groups for row in group)
    return max(-0.02, math.floor(10 * lowest - 0.2) / 10)


def _line_of_scores(panel: Axes, group: Sequence[RolledScore], look: Look, number: int) -> None:
    color = look.lines[number]
    at, values = date2num([row.of_read.at for row in group]), [row.of_read.score for row in group]
    panel.plot(at, values, ls="none", marker=_MARKERS[number], ms=4, mfc="none", color=color, alpha=0.55)
    panel.plot(at, [row.rolling_mean for row in group], color=color, ls=_STYLES[number], lw=1.8)


def _most(counts: Mapping[str, int]) -> list[str]:
    """The readers with the most, as many as there are styles to tell lines by; by id, so that a style stays theirs."""
    return sorted(sorted(counts, key=lambda reader: (-counts[reader], reader))[:LINES_MAX])
