"""`overread trace`: a UID or a model version in; the chain from a result to readers, or the studies it read, out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from apps.console import HERE, SiteOption, console, lines, opened_store

if TYPE_CHECKING:
    from apps.endpoint.trace import Traced

_SHORT = 12


def trace_command(
    uid: Annotated[str, typer.Argument(help="Of a study, a series or a result's object.")] = "",
    model: Annotated[str, typer.Option(help='A model version instead: "hippocampus-segmentation 1.0.3".')] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Everything, for programs.")] = False,
    site: SiteOption = HERE,
) -> None:
    """Follow a result back to model, gate, run, snapshot and readers; or list every study that a version read."""
    if bool(uid) == bool(model):
        raise ValueError("give a UID, or a model version with --model. Nothing was traced.")
    from apps.endpoint.trace import read_by, trace
    from apps.training_site import registry_of

    with opened_store(site) as (opened, store):
        if model:
            found = read_by(store, model)
            told = [{"study": one.study, "series": one.series, "result": one.id, "state": one.state} for one in found]
            _print_studies(told) if not as_json else lines.print_json(json.dumps(told))
            return
        traced = trace(store, registry_of(opened), uid)
    if not traced:
        raise LookupError("the endpoint has no result of this UID. Nothing was traced.")
    if as_json:
        lines.print_json(json.dumps([asdict(one) for one in traced], default=_plain))
        return
    for one in traced:
        console.print(_tree(one))


def _print_studies(told: Sequence[Mapping[str, object]]) -> None:
    table = Table("Study", "Series", "Result", "State")
    for one in told:
        table.add_row(*(str(one[name]) for name in ("study", "series", "result", "state")))
    console.print(table)
    lines.print(f"{len({one['study'] for one in told})} studies, {len(told)} series.")


def _tree(traced: "Traced") -> Tree:
    one = traced.result
    superseded = f", superseded by result {one.superseded_by}" if one.superseded_by else ""
    tree = Tree(f"[bold]Result {one.id}[/]: {one.state}, {one.stage}{superseded}")
    tree.add(f"study {one.study}")
    tree.add(f"series {one.series}, instances {one.instances[:_SHORT]}")
    for name in one.files:
        tree.add(f"object {name.removesuffix('.dcm')}")
    for way in traced.deliveries:
        tree.add(f"{way.destination}: {way.state}" + (f" ({escape(way.reason)})" if way.reason else ""))
    if one.reason:
        tree.add(escape(one.reason))
    branch = tree
    if traced.version is not None:
        version = traced.version
        branch = branch.add(f"[bold]{version.name}[/], bundle {version.bundle_sha256[:_SHORT]}")
        branch.add(f"gate {escape(traced.gate)}, report {version.gate_report[:_SHORT]}")
        branch = branch.add(f"MLflow run {version.run_id}")
    if traced.learned is not None:
        learned = traced.learned
        settled = ", ".join(f"{count} by {how}" for how, count in sorted(learned.settled.items()))
        branch = branch.add(f"snapshot {learned.snapshot[:_SHORT]}: {learned.cases} truths, {settled}")
        branch.add(f"protocol {learned.protocol}, version {learned.protocol_version}; {learned.held_out} held out")
        branch.add(f"{learned.reads} reads by {_people(learned.readers)}")
        if learned.adjudicators:
            branch.add(f"signed by {_people(learned.adjudicators)}")
    for words in traced.wanting:
        tree.add(f"[red]wanting:[/] {escape(words)}")
    return tree


def _people(counts: dict[str, int]) -> str:
    return ", ".join(f"{who} ({count})" for who, count in counts.items()) or "nobody"


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else str(value)
