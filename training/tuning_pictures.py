"""Pictures of a search: how trials did one after another, and which values of the plan mattered."""

from collections.abc import Mapping, Sequence

import optuna
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

_BLUE, _GREY, _DARK = "#3d6be9", "#b5bac6", "#1f2a44"


def history(study: optuna.Study) -> Figure:
    """Each trial's score, pruned ones with what they had when they were, and the best so far."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    finished = _points(study, TrialState.COMPLETE)
    pruned = _points(study, TrialState.PRUNED)
    axes.scatter(*_columns(pruned), color=_GREY, marker="x", label="pruned")
    axes.scatter(*_columns(finished), color=_BLUE, label="trained to the end")
    best: list[float] = []
    for _, score in finished:
        best.append(max([score, *best[-1:]]))
    axes.step([number for number, _ in finished], best, color=_DARK, where="post", label="best so far")
    axes.set(title="Scores of the trials", xlabel="trial", ylabel="score on the fold's cases")
    axes.legend()
    return figure


def importances(shares: Mapping[str, float]) -> Figure:
    """The share of each value in what makes trials differ, most important first."""
    figure = Figure(figsize=(8, 0.8 + 0.4 * max(1, len(shares))), layout="constrained")
    axes = figure.subplots()
    names = sorted(shares, key=lambda name: shares[name])
    bars = axes.barh(names, [shares[name] for name in names], color=_BLUE)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(title="What mattered (PED-ANOVA)", xlabel="share of the importance", xlim=(0, 1.1))
    return figure


def _points(study: optuna.Study, state: TrialState) -> list[tuple[int, float]]:
    found = ((trial.number, _score(trial)) for trial in study.get_trials(deepcopy=False, states=(state,)))
    return [(number, score) for number, score in found if score is not None]


def _score(trial: FrozenTrial) -> float | None:
    if trial.value is not None:
        return trial.value
    return trial.intermediate_values[trial.last_step] if trial.last_step is not None else None


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [number for number, _ in points], [score for _, score in points]
