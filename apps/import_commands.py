"""The command `overread import`: what was read elsewhere in, cases and reads of this site out."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apps.console import HERE, SiteOption, lines, opened_store, progress_bar

if TYPE_CHECKING:
    from apps.lidc_import import ImportedScan
    from labeling_protocols.lidc_labels import Tally

import_app = typer.Typer(no_args_is_help=True, help="Bring in what was read elsewhere.")


@import_app.callback()
def _several() -> None:
    """Without this, typer makes a single command the whole group and its name goes unsaid."""


@import_app.command("lidc")
def lidc_command(
    xml: Annotated[list[Path], typer.Argument(help="XML files of the LIDC-IDRI, or folders of them.")],
    series: Annotated[Path, typer.Option(help="A folder with the DICOM series they are about.")],
    protocol: Annotated[str, typer.Option(help="The protocol their cases are labelled under.")] = "lung_nodule",
    site_name: Annotated[str | None, typer.Option(help="Where the images come from, for evaluation by site.")] = None,
    site: SiteOption = HERE,
) -> None:
    """Make scans of the LIDC-IDRI cases, and their radiologists' readings reads. Code 1 where any was refused."""
    from apps.lidc_import import import_lidc  # imports pydicom: slow

    with opened_store(site) as (opened, store), progress_bar() as bar:
        task = bar.add_task("import", total=None)
        report = import_lidc(
            store,
            opened,
            xml,
            series,
            protocol,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            site_name=site_name,
        )
        expected = store.protocol(protocol).readers_per_case
    added = sum(scan.is_new for scan in report.scans)
    lines.print(
        f"{added} case(s) and {sum(scan.reads for scan in report.scans)} read(s) added,"
        f" {len(report.scans) - added} case(s) known already, {len(report.refused)} file(s) refused."
    )
    for scan in report.scans:
        lines.print(f"  case {scan.case}: {_words(scan, expected)}", markup=False)
    if any(scan.reads for scan in report.scans):
        lines.print(
            "The accounts lidc_reader_1, 2 … are the order of the readings in each file: who read one scan as number 1"
            " need not be who read another so. Nobody can sign in to them."
        )
    for refusal in report.refused:
        lines.print(f"  refused {refusal.where}: {refusal.reason}. Nothing was taken of it.", markup=False)
    if report.refused:
        raise typer.Exit(1)


def _words(scan: "ImportedScan", expected: int) -> str:
    """What was found in a scan and what was left out."""

    def count(of: "Callable[[Tally], int]") -> int:
        return sum(of(tally) for tally in scan.tallies)

    beyond_mm = frozenset[float]().union(*(tally.slices_beyond_mm for tally in scan.tallies))
    found = f"{count(lambda tally: tally.nodules)} nodule(s), {count(lambda tally: tally.micronodules)} below 3 mm"
    told = {
        "boxed and not outlined, because their contours enclose no pixel": count(lambda tally: tally.without_outline),
        "cut where the series ends": count(lambda tally: tally.cut),
        "mark(s) of other lesions left out": count(lambda tally: tally.non_nodules),
        "marked slice(s) beyond the series left out": len(beyond_mm),
        "nodule(s) beyond the series left out": count(lambda tally: tally.beyond),
        f"of {expected} seats still free": max(0, expected - len(scan.tallies)),
    }
    return "; ".join(
        [f"{len(scan.tallies)} reading(s) with {found}", *(f"{many} {words}" for words, many in told.items() if many)]
    )
