"""`overread score`: a protocol in, its waiting cases looked at and put in order; or what was scored, shown."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from apps.console import HERE, SiteOption, console, lines, opened_store, progress_bar
from apps.settings import Site
from labeling_protocols.case_scores import orders
from labeling_protocols.store import Store

if TYPE_CHECKING:
    from apps.jobs import Jobs

_FOLLOW_S = 0.5
_S_PER_H = 3600
_NOBODY = "command line"


def score_command(
    protocol: Annotated[str | None, typer.Argument(help="The protocol whose waiting cases are put in order.")] = None,
    strategy: Annotated[str | None, typer.Option(help="By what; as the protocol or the site says without it.")] = None,
    budget_hours: Annotated[
        float | None, typer.Option(min=0.01, help="Hours of reading: the cases that fit into them come first.")
    ] = None,
    cancel: Annotated[str | None, typer.Option(metavar="JOB", help="End this job; the order stays.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the orders there are, and the jobs.")] = False,
    strategies: Annotated[bool, typer.Option("--strategies", help="Show the strategies there are.")] = False,
    site: SiteOption = HERE,
) -> None:
    """Have the champion look at the cases that wait for readers, and put them in order. Follows the job."""
    if sum((protocol is not None, cancel is not None, show, strategies)) != 1:
        raise typer.BadParameter("expected a protocol, or one of --cancel, --list and --strategies")
    if strategies:
        console.print(_strategies())
    elif protocol is not None:
        _score(Site(site), protocol, strategy, budget_hours)
    elif cancel is not None:
        _cancel(Site(site), cancel)
    else:
        _list(site)


def _score(site: Site, protocol: str, strategy: str | None, budget_hours: float | None) -> None:
    from apps.acquisition_ordering import strategy_of
    from apps.acquisition_start import ScoringRequest, start_scoring
    from apps.jobs import Jobs, launch_worker, sole_worker
    from apps.training_site import registry_of

    jobs = Jobs(site)
    with opened_store(site.root) as (_, store):
        request = ScoringRequest(
            protocol=protocol,
            strategy=strategy or strategy_of(store.protocol(protocol), site),
            budget_s=None if budget_hours is None else budget_hours * _S_PER_H,
        )
        job_id = start_scoring(jobs, store, registry_of(site), request, _NOBODY)
    lines.print(f"Job {job_id} waits for the worker.")
    with sole_worker(site) as alone:
        if alone:
            from apps.worker import register

            lines.print("No worker runs for this site: this command works on its jobs until this one is done.")
            launch_worker(site, register)
        well, words = _follow(jobs, job_id)
    lines.print(words, markup=False)
    if not well:
        raise typer.Exit(1)


def _follow(jobs: "Jobs", job_id: str) -> tuple[bool, str]:
    """Whether the cases were put in order, and what to tell the person."""
    with progress_bar() as bar:
        task = bar.add_task("waiting", total=None)
        while (job := jobs.find(job_id)) is not None:
            said = jobs.progress(job_id) or {}
            bar.update(task, description=str(said.get("stage", "waiting")))
            if "case" in said:
                bar.update(task, completed=said["case"], total=said["cases"])
            if not job.active:
                break
            time.sleep(_FOLLOW_S)
    if job is None:
        return False, "The job vanished from the site's job database."
    if job.state == "SUCCESS":
        return True, outcome_words(job.result)
    return False, f"Job {job_id} ended as {job.state}: {job.error or 'no reason was recorded'}"


def outcome_words(result: dict[str, Any]) -> str:
    """What a scoring came to."""
    by = result["model"] or "no model"
    said = [f"{result['scored']} case(s) were looked at by {by}, {len(result['failed'])} could not be."]
    if result["strategy"] != result["asked"]:
        said.append(f"{result['asked']} needs a champion, and there is none yet: the cases are shuffled instead.")
    said.append(f"{result['cases']} waiting case(s) are in the order of {result['strategy']}.")
    if result["batch"]:
        said.append(f"The first {result['batch']} of them fit into the hours that were given.")
    said += [f"  comes last, as it could not be looked at: {case}: {why}" for case, why in result["failed"].items()]
    return "\n".join(said)


def _cancel(site: Site, job_id: str) -> None:
    from apps.acquisition_start import WORKFLOW
    from apps.jobs import Jobs

    jobs = Jobs(site)
    job = jobs.find(job_id)
    if job is None or job.name != WORKFLOW:
        raise LookupError("there is no such scoring; `overread score --list` names them. Nothing was changed.")
    if not job.active:
        raise ValueError(f"job {job_id} neither waits nor runs: it is {job.state}. Nothing was changed.")
    jobs.cancel(job_id)
    lines.print(f"Job {job_id} ends after the case it is at; the worklist's order stays as it was.")


def _strategies() -> Table:
    from training.acquisition import STRATEGIES

    table = Table("Strategy", Column("What comes first", overflow="fold"), "Needs a champion")
    for strategy in STRATEGIES.values():
        table.add_row(strategy.name, strategy.title, "yes" if strategy.needs_model else "no")
    return table


def _list(folder: Any) -> None:
    from apps.acquisition_start import WORKFLOW
    from apps.jobs import Jobs

    with opened_store(folder) as (site, store):
        console.print(_orders(store))
        table = Table("Job", "State", "Model", "Done", "Cases")
        jobs = Jobs(site)
        for job in jobs.all(WORKFLOW):
            said = jobs.progress(job.id) or {}
            told = (said.get(name, "") for name in ("model", "case", "cases"))
            table.add_row(job.id, job.state.lower(), *map(str, told))
    console.print(table)


def _orders(store: Store) -> Table:
    table = Table("Protocol", "Strategy", "Model", Column("Cases", justify="right"), "Made (UTC)", "Worklist")
    for protocol in store.protocols():
        for one in orders(store, protocol.name):
            made = one.created.strftime("%Y-%m-%d %H:%M")
            follows = "follows it" if one.stands else ""
            table.add_row(protocol.name, one.strategy, one.model or "none", str(one.cases), made, follows)
    return table
