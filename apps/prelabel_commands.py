"""`overread prelabel`: a protocol in, its champion's proposals for a worklist out; or a job paused, resumed, ended."""

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from apps.console import HERE, SiteOption, console, lines, opened_store, progress_bar
from apps.settings import Site

if TYPE_CHECKING:
    from apps.jobs import Jobs
    from apps.prelabel_job import PrelabelRequest

_FOLLOW_S = 0.5
_INTERRUPTED = 130  # a shell's code for Ctrl-C
_NOBODY = "command line"


def prelabel_command(
    protocol: Annotated[str | None, typer.Argument(help="The protocol whose cases are proposed for.")] = None,
    cases: Annotated[Literal["open", "all"], typer.Option(help="Those that wait for readers, or all.")] = "open",
    limit: Annotated[int | None, typer.Option(min=1, help="How many at most, the next to be read first.")] = None,
    pause: Annotated[str | None, typer.Option(metavar="JOB", help="Pause this job after the case it is at.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="JOB", help="Go on with this paused job.")] = None,
    cancel: Annotated[str | None, typer.Option(metavar="JOB", help="End this job; what it made stays.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Show every job and how far it is.")] = False,
    site: SiteOption = HERE,
) -> None:
    """Propose labels for a worklist with the champion. Follows the job; Ctrl-C leaves it running."""
    if sum((protocol is not None, pause is not None, resume is not None, cancel is not None, show)) != 1:
        raise typer.BadParameter("expected a protocol, or one of --pause, --resume, --cancel and --list")
    from apps import prelabel_job
    from apps.jobs import Jobs

    opened = Site(site)
    jobs = Jobs(opened)
    if show:
        console.print(_table(jobs))
    elif pause is not None:
        prelabel_job.pause(jobs, pause)
        lines.print(f"Job {pause} pauses after the case it is at. Go on with: overread prelabel --resume {pause}")
    elif cancel is not None:
        prelabel_job.cancel(jobs, cancel)
        lines.print(f"Job {cancel} ends after the case it is at; what it proposed is kept.")
    elif resume is not None:
        prelabel_job.resume(jobs, resume)
        _follow_to_the_end(opened, jobs, resume)
    elif protocol is not None:
        request = prelabel_job.PrelabelRequest(protocol=protocol, cases=prelabel_job.Which(cases), limit=limit)
        _follow_to_the_end(opened, jobs, _started(opened, jobs, request))


def _started(site: Site, jobs: "Jobs", request: "PrelabelRequest") -> str:
    """The job's id; raises `UnknownError` or `NoChampionError` before anything is started."""
    from apps.prelabel_job import start_prelabelling
    from apps.training_site import registry_of

    with opened_store(site.root) as (_, store):
        store.protocol(request.protocol)
    registry_of(site).champion(request.protocol)
    return start_prelabelling(jobs, request, requested_by=_NOBODY)


def _follow_to_the_end(site: Site, jobs: "Jobs", job_id: str) -> None:
    """Show a job until it ends, working on it here where no worker runs; ends with code 1 unless all went well."""
    from apps.jobs import launch_worker, sole_worker

    lines.print(f"Job {job_id} waits for the worker.")
    with sole_worker(site) as alone:
        if alone:
            from apps.worker import register

            lines.print("No worker runs for this site: this command works on its jobs until this one is done.")
            launch_worker(site, register)
        try:
            well, words = _follow(jobs, job_id)
        except KeyboardInterrupt:
            goes_on = "waits for the next worker" if alone else "goes on in the worker"
            lines.print(f"Job {job_id} {goes_on}. Pause it with: overread prelabel --pause {job_id}")
            os._exit(
                _INTERRUPTED
            )  # as a worker ends: what runs is durable, and waiting for it would be no interruption
    lines.print(words, markup=False)
    if not well:
        raise typer.Exit(1)


def _follow(jobs: "Jobs", job_id: str) -> tuple[bool, str]:
    """Whether every case was proposed for, and what to tell the person."""
    from apps.prelabel_job import outcome_of, words_of

    with progress_bar() as bar:
        task = bar.add_task("waiting", total=None)
        while (job := jobs.find(job_id)) is not None:
            said = outcome_of(jobs, job)
            if said:
                bar.update(task, description=_description(said), completed=said["done"], total=said["cases"])
            if not job.active:
                break
            time.sleep(_FOLLOW_S)
    if job is None:
        return False, "The job vanished from the site's job database."
    if job.state == "SUCCESS":
        return not said["failed"], outcome_words(said)
    if job.paused:
        return True, f"Job {job_id} is paused: {_standing(said)}. Go on with: overread prelabel --resume {job_id}"
    return False, f"Job {job_id} {words_of(job)}: {job.error or _standing(said)}"


def outcome_words(said: Mapping[str, Any]) -> str:
    """What a prelabelling came to, with the cases that nothing was proposed for."""
    failed = said["failed"]
    return "\n".join(
        [
            f"{said['model']} proposed for {said['made']} case(s); {said['known']} had its prelabel already,"
            f" {len(failed)} failed.",
            *(f"  failed {case}: {reason}" for case, reason in failed.items()),
        ]
    )


def _description(said: Mapping[str, Any]) -> str:
    failed = len(said["failed"])
    return f"{said['model']}{f', {failed} failed' if failed else ''}"


def _standing(said: Mapping[str, Any]) -> str:
    return f"{said['done']} of {said['cases']} case(s) done" if said else "it had not begun"


def _table(jobs: "Jobs") -> Table:
    from apps.prelabel_job import WORKFLOW, outcome_of, protocol_of, words_of

    table = Table("Job", "Protocol", "Model", "State", "Done", "Cases", "Failed")
    for job in jobs.all(WORKFLOW):
        said = outcome_of(jobs, job)
        numbers = (said["done"], said["cases"], len(said["failed"])) if said else ("", "", "")
        table.add_row(job.id, protocol_of(job), said.get("model", ""), words_of(job), *map(str, numbers))
    return table
