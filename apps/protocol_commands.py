"""The commands `overread protocol`: a protocol file in; what it says, or what it changes, in words out."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from apps.console import COMMAND_LINE, HERE, SiteOption, console, lines, opened_store
from labeling_protocols.protocol import Protocol, ProtocolError, json_schema, load_protocol
from labeling_protocols.protocol_diff import ProtocolDiff, diff
from labeling_protocols.store import Store

protocol_app = typer.Typer(no_args_is_help=True, help="Check, compare, add and list labelling protocols.")

FileArgument = Annotated[Path, typer.Argument(help="A protocol file.")]


@protocol_app.command("check")
def protocol_check(path: FileArgument) -> None:
    """Check a protocol file and say what it asks for; it changes nothing."""
    protocol = load_protocol(path)
    lines.print(f"{path} is protocol {protocol.name} version {protocol.version}: {protocol.title}.", markup=False)
    table = Table("Structure", "Value", "Task", "Agreement")
    for structure in protocol.structures:
        limits = protocol.agreement[structure.name]
        named = {
            "Dice ≥": limits.dice_min,
            "HD95 mm ≤": limits.hd95_mm_max,
            "F1 ≥": limits.f1_min,
            "match mm ≤": limits.match_mm_max,
            "match IoU ≥": limits.match_iou_min,
            "surface Dice ≥": limits.surface_dice_min,
            "surface mm ≤": limits.surface_tolerance_mm,
            "volume difference ≤": limits.volume_difference_max,
            "F1 of lesions ≥": limits.lesion_f1_min,
        }
        shown = ", ".join(f"{name} {limit:g}" for name, limit in named.items() if limit is not None)
        table.add_row(escape(structure.title), str(structure.value), ", ".join(structure.tasks), shown)
    console.print(table)
    for question in protocol.questions:
        due = "must be answered" if question.required else "may be left open"
        lines.print(f"Asked ({question.kind}, {due}): {question.title}", markup=False)
    seats = ", ".join(group or "anyone" for group in protocol.seat_groups)
    lines.print(f"Readers a case: {protocol.readers_per_case} ({seats}). Prelabels: {protocol.prelabels}.")
    found_by = protocol.consensus.found_by_min
    least = "" if found_by is None else f", boxes and points that at least {found_by} found"
    lines.print(f"Consensus: {protocol.consensus.rule}{least}. Adjudicators a dispute: {_adjudicators(protocol)}.")


@protocol_app.command("diff")
def protocol_diff(
    path: FileArgument,
    newer: Annotated[Path | None, typer.Argument(help="A second file: PATH is then the old one.")] = None,
    site: SiteOption = HERE,
) -> None:
    """Say what a changed protocol means for the reads made before, against the site's version or between two files."""
    if newer is not None:
        old, new = load_protocol(path), load_protocol(newer)
    else:
        new = load_protocol(path)
        with opened_store(site) as (_, store):
            old = store.protocol(new.name)
    _show(old, new, diff(old, new))


@protocol_app.command("schema")
def protocol_schema() -> None:
    """Print the JSON Schema of protocol files, which lets an editor complete and check them."""
    print(json.dumps(json_schema(), indent=2))


@protocol_app.command("add")
def protocol_add(
    path: FileArgument,
    begin_anew: Annotated[
        bool, typer.Option("--begin-anew", help="Also where reads made before do not count under it.")
    ] = False,
    site: SiteOption = HERE,
) -> None:
    """Check a protocol file and add it, or its new version, to the site."""
    protocol = load_protocol(path)
    with opened_store(site) as (_, store):
        if not begin_anew:
            _refuse_to_lose_reads(store, protocol)
        store.add_protocol(protocol, actor=COMMAND_LINE)
    lines.print(f"Protocol {protocol.name} version {protocol.version} is in use.")


@protocol_app.command("list")
def protocol_list(site: SiteOption = HERE) -> None:
    """List the site's protocols."""
    table = Table("Protocol", "Version", "Structures", "Questions", "Readers a case")
    with opened_store(site) as (_, store):
        for protocol in store.protocols():
            table.add_row(
                protocol.name,
                str(protocol.version),
                ", ".join(structure.name for structure in protocol.structures),
                ", ".join(question.name for question in protocol.questions),
                str(protocol.readers_per_case),
            )
    console.print(table)


def _adjudicators(protocol: Protocol) -> str:
    rule = protocol.adjudication
    return f"{rule.adjudicators} ({rule.group or 'anyone'})"


def _show(old: Protocol, new: Protocol, found: ProtocolDiff) -> None:
    if not found.changes:
        lines.print(f"Protocol {new.name}: versions {old.version} and {new.version} ask for the same.")
        return
    table = Table(
        Column("Change", overflow="fold"), "What it means", title=f"{new.name}: version {old.version} to {new.version}"
    )
    for change in found.changes:
        style = "" if change.reads_count_on else "bold red"
        table.add_row(escape(change.what), escape(change.meaning), style=style)
    console.print(table)
    if found.reads_count_on:
        lines.print("Reads made before count on.")
    else:
        lines.print("Reads made before are kept and do not count under the new version: its cases are read again.")
    if new.version <= old.version:
        lines.print(f"Before it can be added, give it a version above {old.version}.")


def _refuse_to_lose_reads(store: Store, protocol: Protocol) -> None:
    """Raise `ProtocolError` where this version would make reads of the site void."""
    old = next((known for known in store.protocols() if known.name == protocol.name), None)
    if old is None or old.version >= protocol.version:
        return  # nothing to lose, or for the store to refuse
    void = [str(change) for change in diff(old, protocol).changes if not change.reads_count_on]
    reads = store.progress(protocol.name).reads
    if void and reads:
        raise ProtocolError(
            f"{reads} read(s) made under {protocol.name} version {old.version} would not count any more:\n  "
            + "\n  ".join(void)
            + "\nNothing was added; to begin anew, add it with --begin-anew."
        )
