"""What a tuning shows on MLflow's page: a study in; its curve, best trials, pictures and the words at the top, out."""

import optuna
from optuna.trial import FrozenTrial, TrialState

from training import tuning_pictures
from training.run_log import RunLog
from training.tuning import Found, Search, Standing, number_of, overrides_of

BEST = "best.json"  # artifact of the run
_BEST_SHOWN = 10
_HISTORY, _IMPORTANCES = "pictures/history.png", "pictures/importances.png"
_GAP = "&emsp;"  # MLflow sets a table's columns without any space between


def tell_standing(run: RunLog, search: Search, study: optuna.Study, now: Standing) -> None:
    """How far the study is: the trials' scores, and the words at the top."""
    for trial in _finished(study):
        if trial.value is not None and trial.datetime_complete is not None:
            moment_ms = int(trial.datetime_complete.timestamp() * 1000)
            run.metrics({"tuning/score": trial.value}, number_of(trial), moment_ms)
    run.note(markdown(search, study, now))


def tell_found(run: RunLog, search: Search, study: optuna.Study, what: Found) -> None:
    """What it came to: the overrides as a file, pictures, and the words at the top."""
    tell_standing(run, search, study, what.standing)
    run.text(BEST, what.as_json())
    run.picture(_HISTORY, tuning_pictures.history(study))
    run.picture(_IMPORTANCES, tuning_pictures.importances(what.importances))
    shown = [f"![{path}](get-artifact?path={path}&run_uuid={run.id})" for path in (_HISTORY, _IMPORTANCES)]
    run.note("\n\n".join([markdown(search, study, what.standing), *shown]))


def markdown(search: Search, study: optuna.Study, now: Standing) -> str:
    """How far it is; then the best trials with what they changed in the plan."""
    said = f"### {now.done} of {search.trials} trials"
    if now.best_score is not None:
        said += f", the best is trial {now.best_number} with a score of {now.best_score:.3f}"
    counts = f"{now.finished} trained to the end, {now.pruned} pruned, {now.failed} failed; study `{study.study_name}`."
    return "\n\n".join([said, *_table(study), counts, f"The best overrides of the plan are in `{BEST}` once it ends."])


def _table(study: optuna.Study) -> list[str]:
    best = sorted(_finished(study), key=lambda trial: trial.value or 0.0, reverse=True)[:_BEST_SHOWN]
    if not best:
        return []
    names = list(dict.fromkeys(name for trial in best for name in overrides_of(trial)))
    rows = [["Trial", "Score", *names], ["---"] * (2 + len(names))]
    for trial in best:
        changed = overrides_of(trial)
        rows.append([str(number_of(trial)), f"**{trial.value:.3f}**", *(_short(changed.get(name)) for name in names)])
    return ["\n".join("| " + " | ".join(cell + (_GAP if cell != "---" else "") for cell in row) + " |" for row in rows)]


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
