"""The command line `overread`: what a person types in, the site changed or shown and an exit code out.

Errors of ours end with code 1 and a sentence; a traceback would be a defect.
"""

import secrets
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from apps.account_commands import account_app
from apps.accounts import Accounts
from apps.acquisition_commands import score_command
from apps.change_control_commands import change_control_app
from apps.console import HERE, SiteOption, console, errors, lines, progress_bar
from apps.endpoint_commands import endpoint_app
from apps.evaluate_command import evaluate
from apps.import_commands import import_app
from apps.ingest_command import ingest
from apps.label_commands import adopt_command, export_app
from apps.model_commands import models, promote, publish, rollback, verify
from apps.prelabel_commands import prelabel_command
from apps.protocol_commands import protocol_app
from apps.settings import Site, make_site
from apps.snapshot_commands import snapshot_app
from apps.store_commands import audit_app, store_app
from apps.trace_command import trace_command
from apps.tuning_commands import tune_command
from apps.worklist_commands import calibration_app, seats_app
from labeling_protocols.protocol import SHIPPED, load_protocol
from labeling_protocols.records import Role
from labeling_protocols.store import Store

if TYPE_CHECKING:
    from apps.jobs import Jobs

# Heavy modules (torch, MLflow, DBOS) are imported by the commands that need them, so that the others answer at once.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Annotate, adjudicate, train and serve.",
)
app.add_typer(account_app, name="account")
app.add_typer(protocol_app, name="protocol")
app.add_typer(store_app, name="store")
app.add_typer(audit_app, name="audit")
app.add_typer(seats_app, name="seats")
app.add_typer(calibration_app, name="calibration")
app.add_typer(import_app, name="import")
app.add_typer(export_app, name="export")
app.add_typer(snapshot_app, name="snapshot")
app.add_typer(endpoint_app, name="endpoint")
app.add_typer(change_control_app, name="change-control")
app.command("adopt")(adopt_command)
app.command("evaluate")(evaluate)
app.command("ingest")(ingest)
app.command("tune")(tune_command)
app.command("prelabel")(prelabel_command)
app.command("score")(score_command)
app.command("trace")(trace_command)
for _command in (models, promote, rollback, verify, publish):
    app.command(_command.__name__)(_command)

_FOLLOW_S = 0.5


def main() -> None:
    """Entry of the `overread` script."""
    try:
        app()
    except (RuntimeError, ValueError, LookupError, OSError) as error:
        errors.print(f"[bold red]overread:[/] {escape(str(error))}", highlight=False)
        sys.exit(1)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    administrator: Annotated[str, typer.Option(help="Name of the first administrator.")] = "admin",
) -> None:
    """Make a site: settings, keys, database, protocols and a first administrator."""
    site = make_site(folder)
    store = Store(site.database_url, site.blobs)
    for path in sorted(SHIPPED.glob("*.yaml")):
        (site.folder("protocols") / path.name).write_bytes(path.read_bytes())
        store.add_protocol(load_protocol(path))
    password = secrets.token_urlsafe(12)
    Accounts(store, site).add(administrator, password, frozenset(Role))
    store.close()
    lines.print(f"Made the site {site.root}.")
    lines.print(
        f"Administrator [bold]{administrator}[/], password [bold]{password}[/] (shown this once).", highlight=False
    )
    lines.print("Its signing key and site key are in keys/: keep a copy of that folder where only you can read it.")
    lines.print(f"Serve it with: overread serve --site {folder}")


@app.command()
def serve(site: SiteOption = HERE) -> None:
    """Run everything on this machine until Ctrl-C: web server, MLflow, DICOM endpoint, its sender and one worker."""
    from apps.serve import services, serving

    opened = Site(site)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with console.status("Starting the web server, MLflow, the DICOM endpoint and the worker …"):
        context = serving(opened, lambda words: lines.print(f"[yellow]{words}[/]"))
        context.__enter__()
    try:
        addresses = {service.name: service.address for service in services(opened)}
        table = Table("Service", "Address", title=f"Overread serves {opened.root}")
        table.add_row("Annotation (3D Slicer)", addresses["web"])
        table.add_row("Review pages", f"{addresses['web']}/review/")
        table.add_row("OHIF", f"{addresses['web']}/ohif/")
        table.add_row("MLflow", addresses["mlflow"])
        table.add_row("DICOM endpoint", addresses["endpoint"])
        console.print(table)
        lines.print(
            "3D Slicer: module MONAI Label, server", addresses["web"], "and your account. Ctrl-C stops all of it."
        )
        ended.wait()
        lines.print("Stopping …")
    finally:
        context.__exit__(None, None, None)
    lines.print("Stopped.")


@app.command()
def train(
    protocol: Annotated[str, typer.Argument(help="Name of the protocol to train for.")],
    task: Annotated[str, typer.Option(help="segmentation, interactive, detection or classification.")] = "segmentation",
    question: Annotated[str, typer.Option(help="What a classification answers: a question of the protocol.")] = "",
    snapshot: Annotated[str, typer.Option(help="Digest of a kept snapshot; left out, one is made of the truths.")] = "",
    folds: Annotated[int, typer.Option(min=1, max=20, help="Cross-validate, and keep all folds' networks.")] = 1,
    from_champion: Annotated[bool, typer.Option(help="Begin from the champion's weights.")] = False,
    values: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of the plan, in JSON; repeat it.")
    ] = None,
    set_file: Annotated[
        Path | None, typer.Option(help="The same from a JSON or YAML file, such as a tuning's.")
    ] = None,
    site: SiteOption = HERE,
) -> None:
    """Train on the protocol's truths: snapshot, run, gate, bundle. Follows the job; Ctrl-C leaves it running."""
    from apps.jobs import Jobs, launch_worker, sole_worker
    from apps.training_job import start_training
    from apps.training_options import overrides
    from training.request import TrainingRequest

    request = TrainingRequest.of(
        protocol=protocol,
        task=task,
        question=question,
        snapshot=snapshot,
        folds=folds,
        warm_start=from_champion,
        overrides=overrides(values or [], set_file),
    )
    opened = Site(site)
    store = Store(opened.database_url, opened.blobs)
    store.protocol(protocol)
    store.close()
    jobs = Jobs(opened)
    job_id = start_training(jobs, request, requested_by="command line")
    lines.print(f"Job {job_id} waits for the worker.")
    with sole_worker(opened) as alone:
        if alone:
            from apps.worker import register

            lines.print("No worker runs for this site: this command works on its jobs until this one is done.")
            launch_worker(opened, register)
        state, words = _follow(jobs, job_id)
    lines.print(words, markup=False)
    if state != "SUCCESS":
        raise typer.Exit(1)


@app.command()
def status(site: SiteOption = HERE) -> None:
    """Show how far each protocol's cases are."""
    opened = Site(site)
    store = Store(opened.database_url, opened.blobs)
    table = Table("Protocol", "Version", "Cases", "Reads", "Disputes", "Truths")
    for protocol in store.protocols():
        counts = store.progress(protocol.name)
        row = (protocol.version, counts.cases, counts.reads, counts.disputes, counts.truths)
        table.add_row(protocol.name, *map(str, row))
    store.close()
    console.print(table)


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(help="Where they are put: images/, labels/ and series/.")],
    cases: Annotated[int, typer.Option(min=1, help="How many.")] = 6,
) -> None:
    """Fetch MSD hippocampus volumes, or draw phantoms where there is no internet, and draw a DICOM series."""
    from training.samples import draw_series, sample_volumes

    with console.status("Fetching MSD Task04, or drawing phantoms …"):
        source = sample_volumes(folder, cases)
        draw_series(folder / "series")
    lines.print(f"{cases} sample volumes in {folder}: {source}. A DICOM series of a drawn phantom is in series/.")


def _follow(jobs: "Jobs", job_id: str) -> tuple[str, str]:
    """Show a training job's progress until it ends: its state and what to tell the person."""
    shown = ""
    with progress_bar() as bar:
        task = bar.add_task("waiting", total=None)
        while True:
            job = jobs.find(job_id)
            if job is None:
                return "ERROR", "The job vanished from the site's job database."
            said = jobs.progress(job_id) or {}
            doing = " ".join(str(said[word]) for word in ("stage", "fold", "model") if word in said) or "waiting"
            if doing != shown and not console.is_terminal:  # where there is no bar, a log
                lines.print(doing)
            shown = doing
            bar.update(task, description=doing)
            for counted in ("epoch", "case"):
                if counted in said:
                    bar.update(task, completed=said[counted], total=said[f"{counted}s"])
            if not job.active:
                break
            time.sleep(_FOLLOW_S)
    if job.state == "SUCCESS":
        return job.state, _outcome(job.result)
    return job.state, f"Job {job_id} ended as {job.state}: {job.error or 'no reason was recorded'}"


def _outcome(result: dict[str, Any]) -> str:
    """What a training came to, in words."""
    released = "passed its gate and is champion" if result["promoted"] else "is kept and not released"
    principal, folds = result["principal"], result["cross_validation"]
    beside = folds if folds != result["figures"] else {}  # with no case held out it was judged by them
    said = [
        f"{result['model_version']} {released}: {_spoken(principal, result['figures'])} on {result['cases']}"
        f" {result['judged_on']}, {result['missed']} missed.",
        *([f"  cross-validation: {_spoken(principal, beside)} on the cases trained on, by fold."] if beside else []),
        *(f"  gate: {reason}" for reason in result["reasons"]),
        f"MLflow run {result['run_id']}, snapshot {result['snapshot'][:12]}, bundle {result['bundle_sha256'][:12]}.",
    ]
    return "\n".join(said)


def _spoken(name: str, figures: dict[str, float | None]) -> str:
    value = figures.get(name)
    return f"{name} {'not defined' if value is None else f'{value:.3f}'}"


if __name__ == "__main__":
    main()
