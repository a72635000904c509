"""Learning curves of strategies: simulated runs in; a picture, a table in Markdown and a verdict in words out."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import MaxNLocator

from training.drawing import MARKERS, SERIES, STYLES, canvas, plain
from training.intervals import Interval
from training.learning_curves import (
    FOREGROUND_RANDOM,
    RANDOM,
    Difference,
    Run,
    archives_of,
    area_of,
    band_of,
    by_strategy,
    difference,
)

_BASELINES: dict[str, dict[str, Any]] = {
    FOREGROUND_RANDOM: {"color": "#000000", "linestyle": "solid", "marker": "*", "linewidth": 2.4},
    RANDOM: {"color": "#777777", "linestyle": "dashed", "marker": "X", "linewidth": 2.4},
}
_HEAD = (
    "| Strategy | Dice over time | Against random | Against foreground-aware random | Dice at the end | Cases read |\n"
    "|---|---|---|---|---|---|\n"
)


def learning_curves(runs: Sequence[Run]) -> Picture:
    """A column a set: Dice over minutes of annotation with a band a strategy; below it, what each strategy's area is
    less foreground-aware random's, with its interval."""
    archives = archives_of(runs)
    picture = canvas(6.6 * len(archives), 8.6)
    panels = picture.subplots(2, len(archives), squeeze=False, height_ratios=(1.5, 1))
    looks = _looks([run.strategy for run in runs])
    for column, archive in enumerate(archives):
        found = by_strategy(runs, archive)
        _curves(panels[0, column], archive, found, looks)
        _differences(panels[1, column], found, looks)
    handles, names = panels[0, 0].get_legend_handles_labels()
    picture.legend(handles, names, loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    return picture


def learning_table(runs: Sequence[Run]) -> str:
    """A table a set, strategies with the largest area first; intervals in brackets."""
    return "\n".join(_table(archive, by_strategy(runs, archive)) for archive in archives_of(runs))


def verdicts(runs: Sequence[Run]) -> list[str]:
    """A sentence a set and baseline: which differences are larger than their interval, and how many were looked at."""
    said = []
    for archive in archives_of(runs):
        found = by_strategy(runs, archive)
        for baseline in (name for name in (RANDOM, FOREGROUND_RANDOM) if name in found):
            apart = [difference(found[name], found[baseline]) for name in found if name != baseline]
            said.append(f"{archive}, against {spoken(baseline)}: {_verdict(apart)}")
    return said


def spoken(strategy: str) -> str:
    """A strategy's name in words."""
    return "foreground-aware random" if strategy == FOREGROUND_RANDOM else strategy.replace("_", " ")


def _verdict(apart: Sequence[Difference]) -> str:
    better = [spoken(one.strategy) for one in apart if one.clear and one.mean > 0]
    worse = [spoken(one.strategy) for one in apart if one.clear and one.mean < 0]
    parts = [f"{', '.join(names)} clearly {word}" for names, word in ((better, "better"), (worse, "worse")) if names]
    found = "; ".join(parts) or "no difference is larger than its interval"
    return f"{found}. {len(apart)} were looked at, of which one in twenty would seem clear by chance alone."


def _table(archive: str, found: Mapping[str, Sequence[Run]]) -> str:
    rows = []
    for name in sorted(found, key=lambda name: -area_of(found[name])):
        runs = found[name]
        last = [run.standings[-1] for run in runs]
        end, cases = (
            sum(values) / len(runs) for values in ([one.dice_mean for one in last], [len(one.cases) for one in last])
        )
        against = [_told(runs, found.get(baseline)) for baseline in (RANDOM, FOREGROUND_RANDOM)]
        rows.append(
            f"| {spoken(name)} | {area_of(runs):.3f} | {against[0]} | {against[1]} | {end:.3f} | {cases:.1f} |\n"
        )
    seeds = max(len(runs) for runs in found.values())
    return f"**{archive}**, {seeds} seeds\n\n{_HEAD}{''.join(rows)}"


def _told(runs: Sequence[Run], baseline: Sequence[Run] | None) -> str:
    if baseline is None or runs[0].strategy == baseline[0].strategy:
        return ""
    apart = difference(runs, baseline)
    told = f"{apart.mean:+.3f}{_bracketed(apart.interval)}"
    return f"**{told}**" if apart.clear else told


def _bracketed(interval: Interval | None) -> str:
    return "" if interval is None else f" [{interval.low:+.3f}, {interval.high:+.3f}]"


def _looks(strategies: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, line and marker of each strategy, the same in every panel; no two share more than one of the three."""
    others = sorted({name for name in strategies if name not in _BASELINES})
    looks = dict(_BASELINES)
    for place, name in enumerate(others):
        turn, shift = place % len(SERIES), place // len(SERIES)
        looks[name] = {
            "color": SERIES[turn],
            "linestyle": STYLES[(turn + 2 * shift) % len(STYLES)],
            "marker": MARKERS[(turn + 3 * shift) % len(MARKERS)],
            "linewidth": 1.6,
        }
    return looks


def _curves(
    panel: Axes, archive: str, found: Mapping[str, Sequence[Run]], looks: Mapping[str, Mapping[str, Any]]
) -> None:
    for name, runs in found.items():
        band, look = band_of(runs), looks[name]
        minutes = [seconds / 60 for seconds in band.seconds]
        strong = 0.16 if name == FOREGROUND_RANDOM else 0.07
        panel.fill_between(minutes, band.low, band.high, color=look["color"], alpha=strong, linewidth=0)
        panel.plot(minutes, band.mean, label=spoken(name), markersize=5, **look)
    seeds = max(len(runs) for runs in found.values())
    plain(panel).set_title(f"{archive}: {seeds} seeds, bands 95 %", loc="left", fontsize=11)
    panel.set(xlabel="minutes of simulated annotation", ylabel="mean Dice on the test set, misses 0")


def _differences(panel: Axes, found: Mapping[str, Sequence[Run]], looks: Mapping[str, Mapping[str, Any]]) -> None:
    """A row a strategy, the largest area on top; a filled marker where 0 is not in the interval."""
    baseline = found.get(FOREGROUND_RANDOM) or next(iter(found.values()))
    others = sorted((runs for runs in found.values() if runs is not baseline), key=lambda runs: -area_of(runs))
    for row, runs in enumerate(others):
        apart, look = difference(runs, baseline), looks[runs[0].strategy]
        if apart.interval is not None:
            panel.plot([apart.interval.low, apart.interval.high], [row, row], color=look["color"], linewidth=1.8)
        inside = look["color"] if apart.clear else "white"
        panel.plot(
            [apart.mean], [row], marker=look["marker"], color=look["color"], markerfacecolor=inside, markersize=7
        )
    panel.axvline(0.0, color="#000000", linewidth=1.2)
    plain(panel, grid="x").set_yticks(range(len(others)), [spoken(runs[0].strategy) for runs in others], fontsize=9)
    panel.set_ylim(len(others) - 0.4, -0.6)
    against = spoken(baseline[0].strategy)
    panel.set_title(f"Mean Dice while annotating, less that of {against}", loc="left", fontsize=10)
    panel.xaxis.set_major_locator(MaxNLocator(5))
    panel.set_xlabel("paired by seed, with 95 % intervals; filled: 0 lies outside", fontsize=9)
