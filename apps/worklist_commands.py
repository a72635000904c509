"""The commands `overread seats` and `overread calibration`: who reads which case, and how well, shown or changed."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from apps.accounts import AccountError, Accounts
from apps.console import COMMAND_LINE, HERE, SiteOption, console, lines, opened_store
from apps.settings import Site
from labeling_protocols import calibration, worklist
from labeling_protocols.label_files import read_label
from labeling_protocols.occupancy import given_back
from labeling_protocols.store import Store

seats_app = typer.Typer(no_args_is_help=True, help="Show and change who reads which case.")
calibration_app = typer.Typer(no_args_is_help=True, help="Cases whose truth is known, and how readers read them.")

CaseArgument = Annotated[str, typer.Argument(help="The case's id.")]
ReaderOption = Annotated[str, typer.Option(help="Name of the reader's account.")]
ReasonOption = Annotated[str, typer.Option(help="Why; it is kept with the change.")]

_UNNAMED = "–"


@seats_app.command("list")
def seats_list(case: CaseArgument, site: SiteOption = HERE) -> None:
    """List the seats of a case, free ones too."""
    with opened_store(site) as (opened, store):
        names = _names(store, opened)
        table = Table("Place", "Group", "State", "Reader", "Since (UTC)", "Lease until (UTC)")
        for seat in worklist.seats(store, case):
            reader = names.get(seat.reader or "", seat.reader or _UNNAMED)
            lease = seat.lease_until if seat.state == "claimed" else None
            table.add_row(
                str(seat.place + 1), seat.group or "anyone", seat.state, escape(reader), _at(seat.opened), _at(lease)
            )
    console.print(table)


@seats_app.command("returned")
def seats_returned(
    protocol: Annotated[str, typer.Argument(help="Name of the protocol.")], site: SiteOption = HERE
) -> None:
    """List the newest seats that readers skipped, lost to time or to an administrator, newest first."""
    with opened_store(site) as (opened, store):
        names = _names(store, opened)
        table = Table("When (UTC)", "Case", "Reader", "How", Column("Reason", overflow="fold"), "By")
        for entry in given_back(store, store.protocol(protocol).name).entries:
            reader, actor = (names.get(one, one) for one in (entry.reader, entry.actor))
            table.add_row(
                _at(entry.created), entry.case, escape(reader), entry.why, escape(entry.reason), escape(actor)
            )
    console.print(table)


@seats_app.command("reassign")
def seats_reassign(
    case: CaseArgument,
    from_: Annotated[str | None, typer.Option("--from", help="The reader who gives up an unread seat.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="The reader who gets it; without, whoever comes next.")] = None,
    reason: ReasonOption = "",
    site: SiteOption = HERE,
) -> None:
    """Take an unread seat from a reader, or a free one, and give it to another, or to whoever comes next."""
    with opened_store(site) as (opened, store):
        from_reader, to_reader = (_account(store, opened, name) if name else None for name in (from_, to))
        worklist.reassign(store, case, from_reader=from_reader, to_reader=to_reader, actor=COMMAND_LINE, reason=reason)
    lines.print(f"The seat of case {case} is {f'given to {to}' if to else 'free'}.", markup=False)


@seats_app.command("skip")
def seats_skip(case: CaseArgument, reader: ReaderOption, reason: ReasonOption, site: SiteOption = HERE) -> None:
    """Give a reader's unread case back on their behalf; it is not offered to them again."""
    with opened_store(site) as (opened, store):
        worklist.skip(store, case, _account(store, opened, reader), reason, actor=COMMAND_LINE)
    lines.print(f"Case {case} is given back and not offered to {reader} again.", markup=False)


@seats_app.command("withdraw")
def seats_withdraw(case: CaseArgument, reader: ReaderOption, reason: ReasonOption, site: SiteOption = HERE) -> None:
    """Take a reader's read of a case back; it stays on record, and the seat is theirs to read anew."""
    with opened_store(site) as (opened, store):
        account = _account(store, opened, reader)
        read = store.withdraw(case_id=case, reader=account, actor=COMMAND_LINE, reason=reason)
    lines.print(f"Revision {read.revision} of {reader}'s read of case {case} is withdrawn.", markup=False)


@calibration_app.command("add")
def calibration_add(
    case: CaseArgument,
    labels: Annotated[list[Path], typer.Argument(help="The known truth: a label volume, markups, or both.")],
    site: SiteOption = HERE,
) -> None:
    """Make a case that nobody has begun a calibration case: every reader reads it, and it never becomes truth."""
    with opened_store(site) as (_, store):
        known = store.case(case)
        label = read_label(labels, store.protocol(known.protocol), known.geometry)
        store.set_calibration(case, label, actor=COMMAND_LINE)
        every = store.protocol(known.protocol).calibration
    lines.print(f"Case {case} is a calibration case.", markup=False)
    if every is None:
        lines.print(
            f"Protocol {known.protocol} hands out no calibration cases: give it a section `calibration` with `every`.",
            markup=False,
        )


@calibration_app.command("results")
def calibration_results(
    protocol: Annotated[str, typer.Argument(help="Name of the protocol.")], site: SiteOption = HERE
) -> None:
    """Compare each reader's calibration cases with what is known of them."""
    with opened_store(site) as (opened, store):
        asked = store.protocol(protocol)
        names = _names(store, opened)
        with console.status("Comparing reads with what is known …"):
            found = calibration.results(store, asked.name).results
    titles = (Column(escape(structure.title), justify="right") for structure in asked.structures)
    table = Table("Reader", Column("Cases", justify="right"), Column("Within limits", justify="right"), *titles)
    for reader in sorted({result.read.reader for result in found}):
        own = tuple(result for result in found if result.read.reader == reader)
        within = sum(result.verdict.agreed for result in own)
        scores = (_score(standing) for standing in calibration.standings(asked, own))
        table.add_row(escape(names.get(reader, reader)), str(len(own)), str(within), *scores)
    console.print(table)
    lines.print("Mean Dice, or F1 of boxes and points; what was left out or invented counts as 0.")


def _score(standing: calibration.Standing) -> str:
    if standing.score is None:
        return _UNNAMED
    return f"{standing.score:.2f}" + (f" ({standing.missed} missed)" if standing.missed else "")


def _names(store: Store, site: Site) -> dict[str, str]:
    return {account.id: account.name for account in Accounts(store, site).all()}


def _account(store: Store, site: Site, name: str) -> str:
    account = Accounts(store, site).find(name)
    if account is None:
        raise AccountError("no account of this name. Nothing was changed.")
    return account.id


def _at(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M") if moment is not None else _UNNAMED
