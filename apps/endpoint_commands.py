"""The commands `overread endpoint`: which models would read a series and why, what was made of those that came, and
what waits to go out.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from apps.console import HERE, SiteOption, console, lines, opened_store

endpoint_app = typer.Typer(no_args_is_help=True, help="The DICOM endpoint: its rules, results and deliveries.")

# DICOM's libraries are imported by the commands that need them, so that the others answer at once.

_COLOURS = {"done": "green", "delivered": "green", "refused": "yellow", "waiting": "yellow"}
_UID_SHOWN = 18


@endpoint_app.command("explain")
def explain(
    path: Annotated[Path, typer.Argument(help="A DICOM file, or a folder with series.", exists=True)],
    sender: Annotated[str, typer.Option(help="The AE title that would send it.")] = "",
    site: SiteOption = HERE,
) -> None:
    """Say which rule would take each series, which rules would not, and why."""
    from apps.endpoint.router import Router
    from labeling_protocols.series import scan

    with opened_store(site) as (opened, store):
        router = Router(opened, store)
        found = scan(path if path.is_dir() else [path])
        if not found:
            raise ValueError(f"{path} holds no DICOM series that could be read. Nothing was explained.")
        for series in found:
            route = router.explain(series.files[0], slices=len(series.files), sender=sender, repeat=True)
            lines.print(f"[bold]{series.uid}[/] ({len(series.files)} of {escape(series.kind)})")
            for reason in route.reasons:
                lines.print(f"  {escape(reason)}")
            if route.models:
                lines.print(f"  {route.priority} priority; outside what a model was trained on: {route.outside}.")


@endpoint_app.command("results")
def list_results(
    series: Annotated[str, typer.Option(help="Only those of this Series Instance UID.")] = "",
    last: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 30,
    site: SiteOption = HERE,
) -> None:
    """List what was made of the series that came, by which model version, and where it is on its way."""
    from apps.endpoint.results import deliveries, results

    table = Table("Result", "Arrived as", "State", "Stage", "Model version", "Seconds", "Deliveries", "Reason")
    with opened_store(site) as (_, store):
        for one in reversed(results(store, series or None)[-last:]):
            ways = [f"{way.destination} {_coloured(way.state)}" for way in deliveries(store, one.id)]
            superseded = f"superseded by {one.superseded_by}" if one.superseded_by else ""
            table.add_row(
                str(one.id),
                f"…{one.series[-_UID_SHOWN:]}",
                _coloured(one.state),
                str(one.stage),
                one.model,
                f"{sum(one.seconds.values()):.1f}" if one.seconds else "",
                ", ".join(ways),
                escape("; ".join(part for part in (one.reason, superseded) if part)),
            )
    console.print(table)


@endpoint_app.command("deliveries")
def list_deliveries(site: SiteOption = HERE) -> None:
    """List what has not reached its destination: how often it was tried, why it failed, and when it goes out again."""
    from apps.endpoint.results import DeliveryState, deliveries

    table = Table("Delivery", "Result", "Destination", "State", "Attempts", "Next", "Reason")
    with opened_store(site) as (_, store):
        for state in (DeliveryState.DEAD, DeliveryState.WAITING):
            for one in deliveries(store, state=state):
                following = one.due.strftime("%Y-%m-%d %H:%M:%S UTC") if state is DeliveryState.WAITING else ""
                told = (str(one.id), str(one.result), one.destination, _coloured(one.state), str(one.attempts))
                table.add_row(*told, following, escape(one.reason))
    console.print(table)


@endpoint_app.command("send-again")
def send_again(
    delivery: Annotated[int | None, typer.Argument(help="Its number; all that were given up without it.")] = None,
    site: SiteOption = HERE,
) -> None:
    """Send a result again now, whether it waits, was given up or was delivered."""
    from apps.endpoint import results

    with opened_store(site) as (_, store):
        known = results.deliveries(store)
        dead = [one for one in known if one.state is results.DeliveryState.DEAD]
        chosen = dead if delivery is None else [one for one in known if one.id == delivery]
        if delivery is not None and not chosen:
            raise LookupError(f"there is no delivery {delivery}; `overread endpoint deliveries` lists them")
        for one in chosen:
            results.send_again(store, one)
    lines.print(f"{len(chosen)} go out again." if len(chosen) != 1 else "1 goes out again.")


def _coloured(state: str) -> str:
    return f"[{_COLOURS.get(state, 'red')}]{state}[/]"
