"""An evaluation report as tables, which MLflow's page shows as such: a report in, CSV text by name out."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from training.report import EvaluationReport, Figure

_DIGITS = 4


def tables(report: EvaluationReport) -> dict[str, str]:
    """`figures` with intervals, the champion's and the readers' beside them; `cases`, worst first; `subgroups`."""
    names = list(dict.fromkeys(name for group in report.subgroups for name in group.figures))
    return {
        "figures": _csv(
            ("figure", "value", "low", "high", "n", "champion", "difference", "p", "readers"),
            (_figure_row(report, figure) for figure in report.figures),
        ),
        "cases": _csv(("case", report.principal), report.worst_first()),
        "subgroups": _csv(
            ("attribute", "value", "cases", "patients", "few", *names),
            (
                (g.attribute, g.value, g.n, g.patients, "few" if g.small else "", *(g.figures.get(n) for n in names))
                for g in report.subgroups
            ),
        ),
    }


def champions(report: EvaluationReport, figure: Figure) -> float | None:
    """What the champion reaches on a figure: the candidate's value less the difference."""
    difference = _difference(report, figure)
    return None if figure.value is None or difference is None else figure.value - difference


def _figure_row(report: EvaluationReport, figure: Figure) -> tuple[object, ...]:
    interval, human = figure.interval, report.human_figure(figure.name)
    p_values: Mapping[str, float | None] = report.comparison.p_values if report.comparison else {}
    return (
        figure.name,
        figure.value,
        interval and interval.low,
        interval and interval.high,
        figure.n,
        champions(report, figure),
        _difference(report, figure),
        p_values.get(figure.name),
        human and human.value,
    )


def _difference(report: EvaluationReport, figure: Figure) -> float | None:
    differences = report.comparison.differences if report.comparison else ()
    return next((one.value for one in differences if one.name == figure.name), None)


def _csv(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([round(cell, _DIGITS) if isinstance(cell, float) else cell for cell in row] for row in rows)
    return text.getvalue()
