"""The commands `overread export` and `overread adopt`: labels and studies out of a site, labels from elsewhere in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from apps.accounts import AccountError, Accounts
from apps.console import COMMAND_LINE, HERE, SiteOption, console, lines, opened_store, progress_bar
from apps.export import Form, What, export
from labeling_protocols.records import Account

if TYPE_CHECKING:
    from apps.adopt import Readers


class _LabelsFirst(TyperGroup):
    """`overread export PROTOCOL FOLDER` means labels, as it did before there were studies."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # typer does not name its context's class
        named = bool(args) and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named or not args else ["labels", *args])


export_app = typer.Typer(cls=_LabelsFirst, no_args_is_help=True, help="Write labels, or a whole reader study.")


@export_app.command("labels")
def export_labels(
    protocol: Annotated[str, typer.Argument(help="Name of the protocol.")],
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    form: Annotated[Form, typer.Option("--format", help="What labels are written as.")] = Form.SEG_NRRD,
    what: Annotated[What, typer.Option(help="What counts for each case, or each reader's newest read.")] = What.TRUTHS,
    reader: Annotated[str | None, typer.Option(help="Reads of this account only.")] = None,
    images: Annotated[bool, typer.Option("--images", help="Write the images too.")] = False,
    site: SiteOption = HERE,
) -> None:
    """Write labels into a folder, with a manifest of whose they are. Code 1 where any could not be written."""
    with opened_store(site) as (opened, store), progress_bar() as bar:
        only = _account(Accounts(store, opened), reader).id if reader is not None else None
        task = bar.add_task("export", total=None)
        report = export(
            store,
            opened,
            protocol=protocol,
            folder=folder,
            form=form,
            what=what,
            reader=only,
            images=images,
            actor=COMMAND_LINE,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    lines.print(f"{report.labels} label(s) and {report.images} image(s) in {folder}, {len(report.skipped)} left out.")
    for skipped in report.skipped:
        lines.print(f"  left out {skipped.case}: {skipped.reason}", markup=False)
    if report.skipped:
        raise typer.Exit(1)


@export_app.command("study")
def export_study(
    protocol: Annotated[str, typer.Argument(help="Name of the protocol.")],
    out: Annotated[Path, typer.Option("--out", help="A new or empty folder.")],
    site: SiteOption = HERE,
) -> None:
    """Write a reader study: reads, agreement, adjudications and truths as CSV and JSON, with a codebook."""
    from apps.study_export import export_study as write_study

    with opened_store(site) as (opened, store), console.status("Gathering …"):
        report = write_study(store, opened, protocol=protocol, folder=out, actor=COMMAND_LINE)
    counted = (f"{report.rows[name]} {name}" for name in ("cases", "reads", "truths", "adjudications"))
    lines.print(f"{', '.join(counted)} in {out}: {report.files} files; codebook.md says what each column means.")
    if report.broken is not None:
        lines.print(f"The audit chain is broken at entry {report.broken}: look at `overread audit verify`.")
        raise typer.Exit(1)


def adopt_command(
    folder: Annotated[Path, typer.Argument(help="A studies folder of MONAI Label (it holds datastore_v2.json).")],
    protocol: Annotated[str, typer.Option(help="The protocol its images are labelled under.")],
    reader: Annotated[str | None, typer.Option(help="The account whose reads the labels become.")] = None,
    readers_by_client: Annotated[
        bool, typer.Option("--readers-by-client", help="Take the account named as each label's client_id instead.")
    ] = False,
    site_name: Annotated[str | None, typer.Option(help="Where the images come from, for evaluation by site.")] = None,
    strata_file: Annotated[
        Path | None, typer.Option(help="CSV of scanner, sex and age band of NIfTI and NRRD.")
    ] = None,
    site: SiteOption = HERE,
) -> None:
    """Take images and labels over from MONAI Label, leaving its folder as it is. Code 1 where anything was refused."""
    from apps.adopt import ByClient, adopt  # imports pydicom: slow

    if (reader is None) != readers_by_client:
        raise AccountError("give either --reader or --readers-by-client. Nothing was taken.")
    with opened_store(site) as (opened, store), progress_bar() as bar:
        accounts = Accounts(store, opened)
        readers: Readers = _account(accounts, reader) if reader is not None else ByClient(accounts.find)
        task = bar.add_task("adopt", total=None)
        report = adopt(
            store,
            opened,
            folder,
            protocol_name=protocol,
            readers=readers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            site_name=site_name,
            strata_file=strata_file,
        )
    lines.print(
        f"{report.cases} case(s), {report.reads} revision(s) of reads and {report.prelabels} prelabel(s) taken,"
        f" {report.known} known already, {len(report.refused)} refused."
    )
    for refusal in report.refused:
        lines.print(f"  refused {refusal.where}: {refusal.reason}", markup=False)
    if report.refused:
        raise typer.Exit(1)


def _account(accounts: Accounts, name: str) -> Account:
    account = accounts.find(name)
    if account is None:
        raise AccountError("no account of this name. Nothing was done.")
    return account
