"""The command `overread ingest`: a folder of images, or what an archive server has, in; cases of this site out."""

from pathlib import Path
from typing import Annotated

import typer

from apps.console import HERE, SiteOption, lines, opened_store, progress_bar


def ingest(
    protocol: Annotated[str, typer.Option(help="The protocol its cases are labelled under.")],
    path: Annotated[
        Path | None, typer.Argument(help="A folder of NIfTI or NRRD volumes or DICOM series, or one file.")
    ] = None,
    from_archive: Annotated[
        bool, typer.Option("--from-archive", help="Take series of the DICOMweb server named in config.toml instead.")
    ] = False,
    study: Annotated[str, typer.Option(help="With --from-archive: the Study Instance UID there.")] = "",
    series: Annotated[str, typer.Option(help="With --from-archive: the Series Instance UID there.")] = "",
    modality: Annotated[str, typer.Option(help="With --from-archive: one modality; else all of the protocol's.")] = "",
    site_name: Annotated[str | None, typer.Option(help="Where the images come from, for evaluation by site.")] = None,
    strata_file: Annotated[
        Path | None, typer.Option(help="CSV of scanner, sex and age band of NIfTI and NRRD.")
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option(help="NAME=_SUFFIX of files or NAME=Keyword:PATTERN of DICOM headers; repeat it."),
    ] = None,
    site: SiteOption = HERE,
) -> None:
    """Bring images in as cases; DICOM headers are de-identified first. Ends with code 1 where anything was refused."""
    from apps.ingest.archive import Wanted, ingest_from_archive  # imports pydicom: slow
    from apps.ingest.folder import ingest as ingest_folder

    if (path is None) != from_archive or (path is not None and (study or series or modality)):
        raise typer.BadParameter("give a PATH, or --from-archive with --study, --series or --modality if you like")
    with opened_store(site) as (opened, store), progress_bar() as bar:
        task = bar.add_task("ingest", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if path is None:
            wanted = Wanted(study=study, series=series, modality=modality)
            report = ingest_from_archive(store, opened, wanted, protocol, show, site_name=site_name)
        else:
            report = ingest_folder(
                store,
                opened,
                path,
                protocol,
                show,
                site_name=site_name,
                strata_file=strata_file,
                channels=channel or (),
            )
    lines.print(f"{len(report.added)} case(s) added, {len(report.known)} known already, {len(report.refused)} refused.")
    for refusal in report.refused:
        lines.print(f"  refused {refusal.where}: {refusal.reason}", markup=False)
    if report.refused:
        raise typer.Exit(1)
