"""`overread evaluate`: a model version and a folder of images with their truths in; its report on them out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from apps.console import HERE, SiteOption, console, lines, opened_store, progress_bar

if TYPE_CHECKING:
    from training.report import EvaluationReport, Figure

_EXTERNAL = "external"


def evaluate(
    protocol: Annotated[str, typer.Argument(help="Name of the protocol.")],
    folder: Annotated[Path, typer.Argument(help="images/ and labels/ of equal names; strata.csv where it is known.")],
    number: Annotated[int | None, typer.Option(help="The version's number; the champion without it.")] = None,
    task: Annotated[str, typer.Option(help="segmentation or interactive.")] = "segmentation",
    out: Annotated[Path | None, typer.Option(help="Write the report here, as JSON.")] = None,
    site: SiteOption = HERE,
) -> None:
    """Score a model version on cases from elsewhere; the report is kept with the version's MLflow run too."""
    from apps.training_site import registry_of
    from training.external import open_test_set
    from training.external_evaluation import evaluate_externally
    from training.run_log import RunLog
    from training.tracking import open_client

    with opened_store(site) as (opened, store), progress_bar() as bar:
        asked = store.protocol(protocol)
        registry = registry_of(opened)
        version = registry.champion(protocol, task) if number is None else registry.version(protocol, number, task)
        test_set = open_test_set(folder, asked)
        row = bar.add_task("evaluate", total=len(test_set.cases))
        report, step = evaluate_externally(
            registry.bundle(version),
            test_set,
            asked,
            device=opened.config.training.device,
            done=lambda: bar.advance(row),
        )
        run = RunLog(client=open_client(opened.tracking_uri), id=version.run_id)
        run.evaluation(report, step=step, name=f"{_EXTERNAL}_{report.test_set[:12]}")
    console.print(_table(report))
    for words in report.warnings():
        lines.print(f"  {words}", markup=False)
    if out is not None:
        out.write_text(report.as_json() + "\n", encoding="utf-8")
    lines.print(f"{version.name} on test set {report.test_set[:12]}: kept with MLflow run {version.run_id[:12]}.")


def _table(report: "EvaluationReport") -> Table:
    title = f"{report.cases} cases of {report.patients} patients, {report.missed} missed, {report.invented} invented"
    table = Table("Figure", "Value", "95 % interval", "n", title=title)
    for figure in report.figures:
        table.add_row(figure.name, _number(figure.value), _interval(figure), str(figure.n))
    return table


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _interval(figure: "Figure") -> str:
    return "" if figure.interval is None else f"{figure.interval.low:.3f} to {figure.interval.high:.3f}"
