"""The commands `overread change-control`: a change control plan's file in; what it allows and asks, in words, out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from apps.console import console, lines
from labeling_protocols.blobs import write_durably
from training.change_control import SHIPPED, ChangePlan, ChangePlanError, json_schema, load_change_plan, plan_file

change_control_app = typer.Typer(
    no_args_is_help=True, help="Plans of what may change in a model, how that is verified, and what it comes to."
)


@change_control_app.command("check")
def change_control_check(path: Annotated[Path, typer.Argument(help="A plan's file.")]) -> None:
    """Check a change control plan and say what it allows and what it asks for; it changes nothing."""
    plan = load_change_plan(path)
    lines.print(f"{path} is version {plan.version} for {plan.task} under {plan.protocol}: {plan.title}.", markup=False)
    table = Table("May change", Column("To", overflow="fold"), Column("Why", overflow="fold"))
    for what, to, why in _modifications(plan):
        table.add_row(what, escape(to), escape(why))
    console.print(table)
    for words in _verification(plan):
        lines.print(words, markup=False)
    lines.print(f"Digest {plan.digest}; a site keeps it as change_control/{plan_file(plan.protocol, plan.task)}.")


@change_control_app.command("schema")
def change_control_schema() -> None:
    """Print the JSON Schema of change control plans, which lets an editor complete and check them."""
    print(json.dumps(json_schema(), indent=2))


@change_control_app.command("example")
def change_control_example(
    path: Annotated[Path, typer.Argument(help="Where it is put; nothing may be there yet.")],
) -> None:
    """Write a commented example, that of the hippocampus model, to begin from."""
    if path.exists():
        raise ChangePlanError(f"{path} is there already. Nothing was written.")
    write_durably(path, (SHIPPED / plan_file("hippocampus")).read_bytes())
    lines.print(f"Wrote {path}; make it yours, then: overread change-control check {path}")


def _modifications(plan: ChangePlan) -> Iterator[tuple[str, str, str]]:
    allowed = plan.modifications
    if allowed.protocol_version:
        yield "protocol version", "a later one", ""
    if allowed.data is not None:
        yield "training cases", f"more; up to {allowed.data.cases_removed_max} fewer", allowed.data.description
    for name, change in (allowed.plan or {}).items():
        yield name, "whatever is measured" if change.any else change.range, change.description


def _verification(plan: ChangePlan) -> Iterator[str]:
    asked = plan.verification
    judged = "the worse end of its 95 % interval" if asked.judged_by == "interval" else "the figure itself"
    yield f"On at least {asked.cases_min} held-out cases of {asked.patients_min} patients; what counts is {judged}:"
    yield from (f"  {name} at least {bound:g}" for name, bound in (asked.figures_min or {}).items())
    yield from (f"  {name} at most {bound:g}" for name, bound in (asked.figures_max or {}).items())
    if asked.calibration_error_max is not None:
        yield f"  calibration_error at most {asked.calibration_error_max:g}"
    for name, drop in (asked.drop_max or {}).items():
        yield f"  {name} at most {drop:g} worse than the champion's"
    if asked.subgroups is not None:
        of = ", ".join(asked.subgroups.attributes)
        for name, drop in asked.subgroups.drop_max.items():
            least = asked.subgroups.cases_min
            yield f"  {name} at most {drop:g} worse in each subgroup of {least} or more cases (by {of})"
    yield f"  at most {asked.missed_more_max} more missed than by the champion"
