"""The model card: a candidate in, Markdown for whoever decides whether to use the model out."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from labeling_protocols.strata import ATTRIBUTES
from training.bundle_metadata import intended_use
from training.candidate import Candidate
from training.change_control import ChangePlan
from training.figure_names import spoken
from training.intervals import Figure, Interval
from training.plan import Plan
from training.snapshot import SnapshotCase
from training.subgroups import UNKNOWN, Subgroup

RUN = (
    "python -m monai.bundle run inference --config_file configs/inference.json --bundle_root ."
    " --dataset_dir IN --output_dir OUT"
)


def model_card(candidate: Candidate, pictures: Mapping[str, str]) -> str:
    """`pictures` are captions by file name, beside this card."""
    snapshot, plan = candidate.snapshot, candidate.plan
    sections = {
        "Data": [*_data(candidate)],
        "Figures": [*_figures(candidate)],
        "Subgroups": [*_subgroups(candidate.report.subgroups, candidate.report.principal)],
        "Gate": [*_gate(candidate)],
        "Limits": [*_limits(candidate)],
        "Versions": [f"- {version}: {words}" for version, words in candidate.changelog.items()],
        "Origin": [
            f"MLflow run `{candidate.run_id}`, snapshot `{snapshot.digest}`, {plan.network}, {plan.epochs} epochs,"
            f" seed {plan.seed}{f', {candidate.members} networks together' if candidate.members > 1 else ''}."
        ],
        "Use": [f"`{RUN}`", "", f"in the unpacked bundle's folder, with MONAI alone.{_files_of_channels(plan)}"],
    }
    lines = [f"# {candidate.name} {candidate.version}", "", intended_use(candidate.protocol, plan)]
    for title, words in sections.items():
        if words:
            lines += ["", f"## {title}", *words]
        if title.startswith("Figures"):
            for file, caption in pictures.items():
                lines += ["", f"![{caption}]({file})"]
    return "\n".join(lines) + "\n"


def _files_of_channels(plan: Plan) -> str:
    if not plan.inputs:
        return ""
    files = ", ".join(f"`NAME_{number:04d}.nii.gz` ({name})" for number, name in enumerate(plan.inputs))
    return f" In `IN` lie {files} of each case, on one grid, or one file with a fourth axis in this order."


def _data(candidate: Candidate) -> Iterator[str]:
    snapshot = candidate.snapshot
    settled = Counter(str(case.settled) for case in snapshot.cases)
    kinds = ", ".join(f"{count} by {kind}" for kind, count in sorted(settled.items()))
    yield (
        f"{len(snapshot.training)} training and {len(snapshot.held_out)} held-out cases, split by patient. Truths were"
        f" settled {kinds}. Protocol {snapshot.protocol} version {snapshot.protocol_version}."
    )
    if snapshot.exclusions:
        reasons = Counter(exclusion.reason for exclusion in snapshot.exclusions)
        said = "; ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        yield f"Left out: {said}."
    yield ""
    yield from _table(
        ("", "Training cases", "Held-out cases"),
        (
            (f"{attribute.replace('_', ' ')} {value}", str(training), str(held_out))
            for attribute in ATTRIBUTES
            for value, training, held_out in _counted(snapshot.training, snapshot.held_out, attribute)
        ),
    )


def _counted(
    training: Iterable[SnapshotCase], held_out: Iterable[SnapshotCase], attribute: str
) -> Iterator[tuple[str, int, int]]:
    """Cases of each group on both sides; nothing where an attribute is known of no case."""
    sides = [Counter(case.strata.group(attribute) or UNKNOWN for case in side) for side in (training, held_out)]
    values = sorted({*sides[0], *sides[1]}, key=lambda value: (value == UNKNOWN, value))
    if values != [UNKNOWN]:
        yield from ((value, sides[0][value], sides[1][value]) for value in values)


def _figures(candidate: Candidate) -> Iterator[str]:
    report = candidate.report
    yield from _table(
        ("Figure", "Value", "95 % interval", "Readers among each other"),
        (
            (spoken(figure.name), _number(figure.value), _ends(figure.interval), _human(figure, report.human))
            for figure in report.figures
        ),
    )
    yield ""
    yield (
        f"Over {report.cases} {candidate.snapshot.judged_on}; {report.patients} patient(s), test set"
        f" `{report.test_set}`; {report.missed} missed, {report.invented} invented. Intervals are drawn over patients;"
        " a dash is what cannot be measured."
    )
    yield from (f"- {note}" for note in report.notes)


def _subgroups(groups: Iterable[Subgroup], principal: str) -> Iterator[str]:
    rows = [
        (
            f"{group.attribute.replace('_', ' ')} {group.value}",
            str(group.n),
            _number(group.figures.get(principal)),
            "too few to tell" if group.small else "",
        )
        for group in groups
    ]
    if rows:
        yield from _table(("Subgroup", "Cases", spoken(principal)[:1].upper() + spoken(principal)[1:], ""), rows)
    else:
        yield "Nothing is known of the cases that they could be divided by."


def _gate(candidate: Candidate) -> Iterator[str]:
    decision, plan = candidate.decision, candidate.change_plan
    yield "Gate: passed." if decision.passed else "Gate: not passed:"
    yield from (f"- {reason}" for reason in decision.reasons)
    yield from (f"- {note}" for note in decision.notes)
    yield ""
    yield _planned(plan) if plan is not None else "No change control plan was in force."


def _planned(plan: ChangePlan) -> str:
    return f"Judged by change control plan version {plan.version}, “{plan.title}” (`{plan.digest}`)."


def _limits(candidate: Candidate) -> Iterator[str]:
    known = {group.value for group in candidate.report.subgroups if group.attribute == "site"} - {UNKNOWN}
    sites = f"Images of {len(known)} sites" if len(known) > 1 else "One site's images only"
    yield f"- {sites}; other scanners and protocols were not looked at."
    yield from (f"- {warning}." for warning in candidate.report.warnings())
    yield "- The terms under which the training images were given also bind these weights."


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    found = list(rows)
    if found:
        yield "| " + " | ".join(head) + " |"
        yield "|---" * len(head) + "|"
        yield from ("| " + " | ".join(row) + " |" for row in found)


def _human(figure: Figure, human: Iterable[Figure]) -> str:
    known = next((one for one in human if one.name == figure.name), None)
    return "–" if known is None else _number(known.value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _ends(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"
