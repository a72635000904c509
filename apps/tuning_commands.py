"""`overread tune`: a protocol and how long to search in; the best values of its model's plan, as a file, out."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from apps.console import HERE, SiteOption, lines, opened_store, progress_bar

if TYPE_CHECKING:
    from apps.jobs import Jobs

_FOLLOW_S = 0.5


def tune_command(
    protocol: Annotated[str, typer.Argument(help="Name of the protocol whose model's plan is tuned.")],
    trials: Annotated[
        int, typer.Option(min=1, help="How many plans to try; a study of the same goes on to so many.")
    ] = 30,
    workers: Annotated[int, typer.Option(min=1, help="Processes that try plans at once on this machine.")] = 1,
    task: Annotated[str, typer.Option(help="segmentation, interactive, detection or classification.")] = "segmentation",
    question: Annotated[str, typer.Option(help="What a classification answers: a question of the protocol.")] = "",
    snapshot: Annotated[str, typer.Option(help="Digest of a kept snapshot; left out, one is made of the truths.")] = "",
    space: Annotated[Path | None, typer.Option(help="YAML file of what may change, instead of the usual.")] = None,
    change: Annotated[
        list[str] | None, typer.Option(help='A line of it, such as "batch: {low: 2, high: 8}" or "width: null".')
    ] = None,
    values: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of the plan that is tuned, in JSON; repeat it.")
    ] = None,
    pruning: Annotated[Literal["median", "hyperband", "none"], typer.Option(help="Which trials end early.")] = "median",
    storage: Annotated[str, typer.Option(help="URL of a database for studies, such as PostgreSQL's for many.")] = "",
    site: SiteOption = HERE,
) -> None:
    """Search for a better plan: trials on a fold, pruned, in one MLflow run. Ctrl-C leaves it running."""
    from apps.jobs import Jobs, launch_worker, sole_worker
    from apps.training_options import overrides
    from apps.tuning_job import TuningRequest, start_tuning, storage_url
    from training.request import TrainingRequest
    from training.tuning import Pruning

    request = TuningRequest(
        training=TrainingRequest.of(
            protocol=protocol, task=task, question=question, snapshot=snapshot, overrides=overrides(values or [], None)
        ),
        trials=trials,
        workers=workers,
        pruning=Pruning(pruning),
        space=space.read_text(encoding="utf-8") if space else "",
        changes=tuple(change or ()),
        storage=storage,
    )
    with opened_store(site) as (opened, store):
        store.protocol(protocol)
        storage_url(opened, storage)
    jobs = Jobs(opened)
    job_id = start_tuning(jobs, request, requested_by="command line")
    lines.print(f"Job {job_id} waits for the worker.")
    with sole_worker(opened) as alone:
        if alone:
            from apps.worker import register

            lines.print("No worker runs for this site: this command works on its jobs until this one is done.")
            launch_worker(opened, register)
        state, words = _follow(jobs, job_id, trials)
    lines.print(words, markup=False)
    if state != "SUCCESS":
        raise typer.Exit(1)


def _follow(jobs: "Jobs", job_id: str, trials: int) -> tuple[str, str]:
    """Show a tuning's progress until it ends: its state and what to tell the person."""
    with progress_bar() as bar:
        task = bar.add_task("waiting", total=trials)
        while (job := jobs.find(job_id)) is not None and job.active:
            said = jobs.progress(job_id) or {}
            bar.update(task, description=_description(said), completed=said.get("trial", 0))
            time.sleep(_FOLLOW_S)
    if job is None:
        return "ERROR", "The job vanished from the site's job database."
    if job.state == "SUCCESS":
        return job.state, outcome_words(job.result)
    return job.state, f"Job {job_id} ended as {job.state}: {job.error or 'no reason was recorded'}"


def _description(said: dict[str, Any]) -> str:
    best = said.get("best")
    return f"{said.get('stage', 'waiting')}{'' if best is None else f', best score {best:.3f}'}"


def outcome_words(result: dict[str, Any]) -> str:
    """What a tuning came to, and how to train with it."""
    protocol = result["protocol"]
    changed = ", ".join(f"{name} {value}" for name, value in result["overrides"].items())
    return "\n".join(
        [
            f"Trial {result['trial']} is best with a score of {result['score']:.3f}: {changed}.",
            f"{result['finished']} trial(s) trained to the end, {result['pruned']} pruned, {result['failed']} failed;"
            f" MLflow run {result['run_id']}, study {result['study']}.",
            f"Train with it: overread train {protocol} --set-file {result['file']}",
        ]
    )
