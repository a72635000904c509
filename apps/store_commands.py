"""The commands `overread store` and `overread audit`: a site in; whether it is whole, a backup, or itself again out."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from apps.console import COMMAND_LINE, HERE, SiteOption, console, lines, opened_store, progress_bar
from labeling_protocols import audit
from labeling_protocols.backup import back_up, opened
from labeling_protocols.engine import parse_url
from labeling_protocols.restoring import CONFIG, content, restore
from labeling_protocols.verification import Verification, repair, verify
from training.relocation import follow_artifacts

store_app = typer.Typer(no_args_is_help=True, help="Verify, back up and restore what a site holds.")
audit_app = typer.Typer(no_args_is_help=True, help="Show and verify what was done, by whom.")

_SHOWN = 40

FolderArgument = Annotated[Path, typer.Argument(help="The backups' folder; each run adds one and copies what is new.")]


@store_app.command("verify")
def store_verify(
    repaired: Annotated[
        bool, typer.Option("--repair", help="Count tallies and outcomes anew; no read changes.")
    ] = False,
    site: SiteOption = HERE,
) -> None:
    """Re-hash every blob and check every row, also while the site runs. Ends with code 1 where anything is wrong."""
    if repaired:
        with opened_store(site) as (_, store):
            repair(store)
        lines.print("Counted every case's reads and outcome, and the tallies, anew.")
    if not _verified(site):
        raise typer.Exit(1)


@store_app.command("backup")
def store_backup(folder: FolderArgument, site: SiteOption = HERE) -> None:
    """Copy a site, also while it runs: rows of one moment, blobs, keys, settings, models, archive and results."""
    with opened_store(site) as (opened_site, store), progress_bar() as bar:
        made = back_up(store, opened_site.root, folder, actor=COMMAND_LINE, progress=_told(bar, "copy"))
    rows = sum(made.rows.values())
    lines.print(f"Backup {made.name}: {rows} rows, {len(made.blobs)} blobs, {len(made.files)} files in {folder}.")
    lines.print("It holds the site's keys and every account: keep it where only you can read it.")
    if made.missing:
        lines.print(f"[red]{len(made.missing)} blob(s) are gone or damaged and not in it:[/]")
        for digest in made.missing[:_SHOWN]:
            lines.print(f"  {digest}")
        raise typer.Exit(1)


@store_app.command("restore")
def store_restore(
    folder: Annotated[Path, typer.Argument(help="The backups' folder.")],
    to: Annotated[Path, typer.Option("--to", help="The new site's folder: new or empty.")],
    database: Annotated[str, typer.Option(help="An empty database's URL; a SQLite file of the site without it.")] = "",
    blobs: Annotated[str, typer.Option(help="Where its blobs go: a folder or URL; in the site without it.")] = "",
    backup: Annotated[str | None, typer.Option(help="Which backup; the newest without it.")] = None,
) -> None:
    """Make a site again from a backup, every file verified first; also how a site moves to PostgreSQL and back."""
    if database and parse_url(database).password is not None:
        raise typer.BadParameter("it holds a password; give that in PGPASSWORD, ~/.pgpass or ?passfile=PATH.")
    with progress_bar() as bar:
        found = opened(folder, backup, _told(bar, "verify"))
        root = to.resolve()
        restore(
            folder,
            found,
            root,
            database=database or f"sqlite:///{root / 'overread.db'}",
            blobs=blobs if "://" in blobs else root / (blobs or "blobs"),
            config=_with_store(content(folder, found, CONFIG).decode(), database, blobs).encode(),
            actor=COMMAND_LINE,
            progress=_told(bar, "restore"),
        )
    if (tracking := root / "mlflow" / "mlflow.db").is_file():
        follow_artifacts(tracking, Path(found.root), root)
    lines.print(f"Restored backup {found.name} as the site {root}.")
    if not _verified(root):
        raise typer.Exit(1)


@audit_app.command("verify")
def audit_verify(
    head: Annotated[str | None, typer.Option(help="A hash noted earlier, which must be in the chain.")] = None,
    site: SiteOption = HERE,
) -> None:
    """Recompute the chain of everything that was done and name the first entry that is not what was written."""
    with opened_store(site) as (_, store), store.engine.connect() as connection:
        report = audit.verify(connection, head=head)
    if report.broken is not None:
        lines.print(f"[red]Broken at entry {report.broken}:[/] {report.reason}.")
        raise typer.Exit(1)
    lines.print(f"{report.entries} entries, none changed. Head {report.head}: note it elsewhere to show later that")
    lines.print("nothing was cut off (`overread audit verify --head …`).")


@audit_app.command("show")
def audit_show(
    last: Annotated[int, typer.Option(min=1, help="How many, from the end.")] = 20,
    of: Annotated[str, typer.Option("--of", help="Only what has this as its actor, action or subject.")] = "",
    site: SiteOption = HERE,
) -> None:
    """Show what was done last. Actors and subjects are ids; `overread account list` says whose."""
    with opened_store(site) as (_, store), store.engine.connect() as connection:
        entries = [
            entry for entry in audit.entries(connection) if not of or of in (entry.actor, entry.action, entry.subject)
        ]
    table = Table("Entry", "At (UTC)", "Actor", "Action", "Subject", "Details")
    for entry in entries[-last:]:
        says = ", ".join(f"{name} {str(value)[:16]}" for name, value in json.loads(entry.details).items())
        table.add_row(str(entry.id), entry.at[:19].replace("T", " "), entry.actor, entry.action, entry.subject, says)
    console.print(table)


def _verified(folder: Path) -> bool:
    """Verify a site and say what was found; whether it is whole."""
    with opened_store(folder) as (site, store), progress_bar() as bar:
        found = verify(store, site.public_key, _told(bar, "verify"))
    _say(found)
    return not found.findings


def _say(found: Verification) -> None:
    for finding in found.findings[:_SHOWN]:
        hint = " (`--repair` counts it anew)" if finding.cache else ""
        lines.print(f"[red]wrong:[/] {finding.words}{hint}")
    if len(found.findings) > _SHOWN:
        lines.print(f"… and {len(found.findings) - _SHOWN} more.")
    rest = f"; {found.leftovers} blob(s) that no row refers to, which do no harm" if found.leftovers else ""
    lines.print(f"{found.rows} rows, {found.blobs} blobs re-hashed{rest}. {found.chain.entries} audit entries.")
    lines.print(f"{len(found.findings)} thing(s) are wrong." if found.findings else "Everything is whole.")


def _told(bar: Progress, what: str) -> Callable[[int, int], None]:
    task = bar.add_task(what, total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)


def _with_store(config: str, database: str, blobs: str) -> str:
    """Settings with another `[store]`, since the old one names the old site's."""
    kept, inside = [], False
    for line in config.splitlines():
        if re.match(r"\s*\[", line):
            inside = line.split("#")[0].strip() == "[store]"
        if not inside:
            kept.append(line)
    values = {"database": database, "blobs": blobs}
    given = [f"{name} = {json.dumps(value)}" for name, value in values.items() if value]  # TOML's strings are JSON's
    if given:
        kept += ["", "[store]", *given]
    return "\n".join(kept) + "\n"
