"""What a colleague reads first on a run's MLflow page: how far the training is in, its Markdown out.

At the top stand the verdict and the figures with their intervals, the champion's and the readers' beside them; then
what was learned from what; then curves and the worst case as pictures, and links to what to look at next.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from training.plan import Plan
from training.report import EvaluationReport, Figure
from training.report_tables import champions
from training.run_log import RunLog, judged_by
from training.snapshot import Snapshot

_PICTURES = ("pictures/summary.png", "pictures/worst.png", "pictures/curves.png")  # those that there are, in this order
_FIGURES_MAX = 16  # rows; all of them are in figures.csv
_WARNINGS_MAX = 6
_GAP = "&emsp;"  # MLflow sets a table's columns without any space between
_COUNTS = ("missed", "invented")
_NEXT = (
    ("cases, worst first", "evaluation/{}/cases.csv"),
    ("all figures", "evaluation/{}/figures.csv"),
    ("subgroups", "evaluation/{}/subgroups.csv"),
    ("all pictures", "pictures"),
    ("gate report", "gate.json"),
    ("plan", "plan.yaml"),
    ("snapshot", "snapshot.json"),
    ("packages", "environment/packages.txt"),
)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training is. What is not known yet is None or empty.

    `stage` says in words what happens now. `override` says who released a refused version, and why.
    """

    snapshot: Snapshot
    plan: Plan
    stage: str
    report: EvaluationReport | None = None
    passed: bool | None = None
    reasons: Sequence[str] = ()
    model_version: str = ""
    override: str = ""


def tell(run: RunLog, progress: Progress) -> None:
    """Put the page's Markdown at the top of the run."""
    drawn = {file.path for file in run.client.list_artifacts(run.id, "pictures")}
    pictures = [path for path in _PICTURES if path in drawn]
    experiment = run.client.get_run(run.id).info.experiment_id
    run.note(markdown(progress, experiment=experiment, run=run.id, pictures=pictures))


def markdown(progress: Progress, *, experiment: str, run: str, pictures: Sequence[str] = ()) -> str:
    """The page; pictures and links are the run's own artifacts."""
    parts = [_verdict(progress)]
    if progress.report is not None:
        parts += [_figures(progress.report, progress.snapshot), *_warnings(progress.report)]
    parts.append(_learned(progress))
    address = f"#/experiments/{experiment}/runs/{run}/artifacts"
    parts += [f"![{path}](get-artifact?path={path}&run_uuid={run})" for path in pictures]
    parts.append("Look next at: " + " · ".join(f"[{words}]({address}/{path})" for words, path in _next(progress)))
    return "\n\n".join(parts) + "\n"


def _verdict(progress: Progress) -> str:
    """One line, which the page shows even while it is folded, then reasons."""
    words = {None: progress.stage, True: "Passed its gate", False: "Refused by its gate"}[progress.passed]
    said = [f"### {words}{_headline(progress.report)}", *(f"- {reason}" for reason in progress.reasons)]
    said += [f"\n**Released all the same:** {progress.override}"] if progress.override else []
    return "\n".join(said)


def _headline(report: EvaluationReport | None) -> str:
    """The principal figure with its interval, and what it is to be compared with."""
    if report is None or (figure := report.figure(report.principal)) is None:
        return ""
    said = f": {_words(figure)} {_number(figure, figure.value)}"
    said += f" ({_interval(figure)})" if figure.interval else ""
    if report.comparison is not None:
        said += f", champion {report.comparison.champion} {_number(figure, champions(report, figure))}"
    if (human := report.human_figure(figure.name)) is not None:
        said += f", readers {_number(human, human.value)}"
    return f"{said}, {report.missed} missed"


def _figures(report: EvaluationReport, snapshot: Snapshot) -> str:
    """The principal figure first; counts and the others as the report has them."""
    ordered = sorted(report.figures, key=lambda figure: figure.name != report.principal)
    heads = [f"On the {snapshot.judged_on}", "Model", "95 % interval", "n"]
    heads += [f"Champion {report.comparison.champion}"] if report.comparison else []
    heads += ["Readers among each other"] if report.human else []
    rows = [
        [head + _GAP for head in heads],
        ["---"] * len(heads),
        *(_row(report, figure) for figure in ordered[:_FIGURES_MAX]),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(report: EvaluationReport, figure: Figure) -> list[str]:
    row = [
        _words(figure),
        f"**{_number(figure, figure.value)}**",
        _interval(figure),
        str(figure.n),
    ]
    row += [_number(figure, champions(report, figure))] if report.comparison else []
    human = report.human_figure(figure.name)
    row += [_number(figure, human.value) if human else ""] if report.human else []
    return [cell + _GAP for cell in row]


def _warnings(report: EvaluationReport) -> list[str]:
    found = report.warnings()
    more = [f"and {len(found) - _WARNINGS_MAX} more"] if len(found) > _WARNINGS_MAX else []
    return ["Little is known where cases are few: " + "; ".join([*found[:_WARNINGS_MAX], *more]) + "."] if found else []


def _learned(progress: Progress) -> str:
    snapshot, plan, report = progress.snapshot, progress.plan, progress.report
    patients = len({case.patient for case in snapshot.training})
    scored = f", scored on {report.cases} {snapshot.judged_on}" if report else ""
    version = f"`{progress.model_version}`: " if progress.model_version else ""
    return (
        f"{version}{plan.task} by {plan.network}, protocol {snapshot.protocol} version"
        f" {snapshot.protocol_version}, up to {plan.epochs} epochs. Learned from {len(snapshot.training)} cases of"
        f" {patients} patients{scored}; snapshot `{snapshot.digest[:12]}`."
    )


def _next(progress: Progress) -> list[tuple[str, str]]:
    """What there is already."""
    evaluated, judged = progress.report is not None, progress.passed is not None
    late = {"evaluation": evaluated, "pictures": evaluated, "gate.json": judged}
    where = judged_by(progress.snapshot)
    return [(words, path.format(where)) for words, path in _NEXT if late.get(path.partition("/")[0], True)]


def _words(figure: Figure) -> str:
    """'dice/anterior' as 'dice: anterior', 'dice_mean' as 'dice mean'."""
    return figure.name.replace("/", ": ").replace("_", " ")


def _interval(figure: Figure) -> str:
    interval = figure.interval
    return f"{_number(figure, interval.low)} – {_number(figure, interval.high)}" if interval else ""


def _number(figure: Figure, value: float | None) -> str:
    if value is None:
        return "not defined"
    return f"{value:.0f}" if figure.name in _COUNTS else f"{value:.3f}"
