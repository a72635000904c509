"""The commands `overread snapshot`: truths of a protocol in, a snapshot out; snapshots shown, compared, verified."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Column, Table

from apps.console import COMMAND_LINE, HERE, SiteOption, console, lines, opened_store, progress_bar
from labeling_protocols.blobs import DamagedBlobError
from labeling_protocols.store import Store
from labeling_protocols.strata import ATTRIBUTES
from training import snapshot_index, snapshot_verification
from training.snapshot import Snapshot, SnapshotCase, SnapshotError, open_snapshot
from training.snapshot_diff import Change, What, diff, settled_by

snapshot_app = typer.Typer(no_args_is_help=True, help="What trainings learn from: taken, shown, compared, verified.")

DigestArgument = Annotated[str, typer.Argument(help="The snapshot's digest, or how it begins.")]

_SHORT = 12
_SHOWN = 40
_UNKNOWN = "unknown"
_SIDES: tuple[tuple[str, Callable[[SnapshotCase], bool]], ...] = (
    ("Trained on", lambda case: not case.held_out),
    ("Held out", lambda case: case.held_out),
)


@snapshot_app.command("create")
def snapshot_create(
    protocol: Annotated[str, typer.Argument(help="Name of the protocol.")],
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="CASE=REASON", help="Leave a case out, and say why; repeatable.")
    ] = None,
    site: SiteOption = HERE,
) -> None:
    """Take a snapshot of a protocol's truths as they are now: its digest, and what is in it."""
    excluded = _excluded(exclude or [])
    with opened_store(site) as (opened, store), progress_bar() as bar:
        taken = snapshot_index.take(
            store,
            protocol,
            secret=opened.secret,
            excluded=excluded,
            held_out_share=opened.config.training.held_out_share,
            actor=COMMAND_LINE,
            progress=_told(bar, "verify"),
        )
    _tables(taken.snapshot)
    lines.print(f"Snapshot {taken.digest}{'' if taken.is_new else ', which was taken before: nothing changed since'}.")


@snapshot_app.command("list")
def snapshot_list(
    protocol: Annotated[str | None, typer.Argument(help="Name of the protocol; all of them without it.")] = None,
    site: SiteOption = HERE,
) -> None:
    """List the site's snapshots, newest first."""
    with opened_store(site) as (_, store):
        if protocol is not None:
            store.protocol(protocol)
        found = snapshot_index.listed(store, protocol)
    table = Table("Snapshot", "Protocol", "Version", Column("Cases", justify="right"), "Taken (UTC)", "By")
    for one in reversed(found):
        counts = (str(one.protocol_version), str(one.cases), one.created.strftime("%Y-%m-%d %H:%M"))
        table.add_row(one.digest[:_SHORT], escape(one.protocol), *counts, escape(one.actor))
    console.print(table)


@snapshot_app.command("show")
def snapshot_show(
    digest: DigestArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as it is kept, canonical JSON.")] = False,
    cases: Annotated[bool, typer.Option("--cases", help="List its cases too.")] = False,
    site: SiteOption = HERE,
) -> None:
    """Show what is in a snapshot: sides, how truths were settled, strata, and what was left out and why."""
    with opened_store(site) as (_, store):
        whole = snapshot_index.find(store, digest)
        snapshot = _opened(store, whole)
    if as_json:
        print(snapshot.as_json())
        return
    lines.print(f"Snapshot {whole} of protocol {snapshot.protocol} version {snapshot.protocol_version}.", markup=False)
    lines.print(f"The protocol's digest is {snapshot.protocol_digest}.")
    _tables(snapshot)
    if cases:
        _case_table(snapshot)


@snapshot_app.command("diff")
def snapshot_diff(
    before: Annotated[str, typer.Argument(help="The earlier snapshot's digest, or how it begins.")],
    after: Annotated[str, typer.Argument(help="The later one's.")],
    site: SiteOption = HERE,
) -> None:
    """Say what is otherwise in a later snapshot. Code 1 where a patient changed sides, which must never be."""
    with opened_store(site) as (_, store):
        old, new = (_opened(store, snapshot_index.find(store, digest)) for digest in (before, after))
    changes = diff(old, new)
    _say(changes)
    counts = Counter(change.what.value for change in changes)
    lines.print(", ".join(f"{count} × {what}" for what, count in counts.items()) + "." if counts else "They are equal.")
    if any(change.what is What.SIDE for change in changes):
        lines.print("[red]Patients changed sides: figures of the two snapshots must not be compared.[/]")
        raise typer.Exit(1)


@snapshot_app.command("verify")
def snapshot_verify(digest: DigestArgument, site: SiteOption = HERE) -> None:
    """Re-hash a snapshot's blobs, compute its truths again, say what changed since. Code 1 where anything is wrong."""
    with opened_store(site) as (opened, store), progress_bar() as bar:
        whole = snapshot_index.find(store, digest)
        found = snapshot_verification.verify(store, whole, opened.public_key, _told(bar, "verify"))
    _say(found.changed)
    for words in found.wrong[:_SHOWN]:
        lines.print(f"[red]wrong:[/] {escape(words)}")
    _more(found.wrong)
    lines.print(f"{found.blobs} blobs re-hashed, {found.truths} truths are what their reads and decisions come to.")
    since = f"{len(found.changed)} thing(s) changed since." if found.changed else "Nothing changed since."
    lines.print(f"Snapshot {whole[:_SHORT]}: {len(found.wrong) or 'nothing'} wrong. {since}")
    if found.wrong:
        raise typer.Exit(1)


def _excluded(words: Sequence[str]) -> dict[str, str]:
    """Cases to leave out, and why, from CASE=REASON."""
    excluded: dict[str, str] = {}
    for word in words:
        case, equals, reason = word.partition("=")
        if not equals or case.strip() in excluded:
            raise SnapshotError("--exclude takes CASE=REASON, each case once. No snapshot was taken.")
        excluded[case.strip()] = reason
    return excluded


def _opened(store: Store, digest: str) -> Snapshot:
    try:
        return open_snapshot(digest, store.blobs)
    except (FileNotFoundError, DamagedBlobError) as error:
        state = "missing" if isinstance(error, FileNotFoundError) else "damaged"
        raise SnapshotError(f"snapshot {digest[:_SHORT]} is {state}; restore its blob from a backup") from error


def _tables(snapshot: Snapshot) -> None:
    console.print(_side_table(snapshot))
    console.print(_strata_table(snapshot))
    if snapshot.exclusions:
        table = Table("Left out", Column("Why", overflow="fold"))
        for exclusion in snapshot.exclusions[:_SHOWN]:
            table.add_row(escape(exclusion.case), escape(exclusion.reason))
        console.print(table)
        _more(snapshot.exclusions)


def _side_table(snapshot: Snapshot) -> Table:
    """Cases and patients by side, and how their truths were settled."""
    kinds = sorted({case.settled for case in snapshot.cases})
    titles = ("Cases", "Patients", *(f"By {kind}" for kind in kinds))
    table = Table("Side", *(Column(title, justify="right") for title in titles))
    for title, on_side in (*_SIDES, ("Together", lambda case: True)):
        cases = [case for case in snapshot.cases if on_side(case)]
        settled = Counter(case.settled for case in cases)
        counts = (len(cases), len({case.patient for case in cases}), *(settled[kind] for kind in kinds))
        table.add_row(title, *map(str, counts))
    return table


def _strata_table(snapshot: Snapshot) -> Table:
    """Cases by each attribute that evaluation is broken down by, and side."""
    table = Table("Attribute", "Group", *(Column(title, justify="right") for title, _ in _SIDES))
    for attribute in ATTRIBUTES:
        by_side = [
            Counter(case.strata.group(attribute) or _UNKNOWN for case in snapshot.cases if on_side(case))
            for _, on_side in _SIDES
        ]
        groups = sorted({group for counts in by_side for group in counts}, key=lambda group: (group == _UNKNOWN, group))
        for number, group in enumerate(groups):
            title = attribute.replace("_", " ") if number == 0 else ""
            last = number == len(groups) - 1
            table.add_row(title, escape(group), *(str(counts[group]) for counts in by_side), end_section=last)
    return table


def _case_table(snapshot: Snapshot) -> None:
    table = Table("Case", "Patient", "Side", "Settled", *(attribute.replace("_", " ") for attribute in ATTRIBUTES))
    for case in snapshot.cases:
        side = "held out" if case.held_out else "trained on"
        groups = (escape(case.strata.group(attribute) or "–") for attribute in ATTRIBUTES)
        table.add_row(case.case, escape(case.patient), side, settled_by(case), *groups)
    console.print(table)


def _say(changes: Sequence[Change]) -> None:
    if changes:
        table = Table("What", "Case", Column("How", overflow="fold"))
        for change in changes[:_SHOWN]:
            table.add_row(change.what.value, change.case or "–", escape(change.words))
        console.print(table)
        _more(changes)


def _more(all_of_them: Sequence[object]) -> None:
    if len(all_of_them) > _SHOWN:
        lines.print(f"… and {len(all_of_them) - _SHOWN} more.")


def _told(bar: Progress, what: str) -> Callable[[int, int], None]:
    task = bar.add_task(what, total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)
