"""Tables in, the files of a study out: each table as CSV (RFC 4180) and JSON, and a codebook of all columns.

A spreadsheet takes a cell that begins with =, +, -, @, a tab or a line end for a formula: in CSV an apostrophe is put
before such a text, in JSON it stands as it is. Equal tables give equal bytes.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from functools import cache
from pathlib import Path

import yaml

from labeling_protocols.blobs import write_durably

Cell = str | int | float | bool | datetime | None
Row = Mapping[str, Cell]

_CODEBOOK = Path(__file__).with_name("study_codebook.yaml")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_PREAMBLE = """# Codebook

Every table is in `csv/` (RFC 4180, UTF-8) and in `json/` (a list of objects), one fact a row. An empty cell, in JSON
null, is not defined, not asked or not known, as the column says. In CSV an apostrophe stands before a text that a
spreadsheet would take for a formula; JSON has it as it was written. Readers and adjudicators go by the site's
pseudonyms, patients by pseudonyms made at ingest. Places are in the patient's LPS frame."""


class CodebookError(RuntimeError):
    """A row that has other columns than the codebook defines; nothing was exported."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column as the codebook defines it; `type` is text, integer, number, boolean or time."""

    table: str
    column: str
    type: str
    meaning: str
    unit: str = ""
    range: str = ""
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class TableDefinition:
    """A table: what one row is, and its columns in order."""

    name: str
    about: str
    columns: tuple[Column, ...]


@cache
def codebook() -> tuple[TableDefinition, ...]:
    """The tables of a study, in the order in which they are written."""
    content = yaml.safe_load(_CODEBOOK.read_text(encoding="utf-8"))
    return tuple(
        TableDefinition(
            name=name,
            about=table["about"],
            columns=tuple(Column(table=name, column=column, **defined) for column, defined in table["columns"].items()),
        )
        for name, table in content.items()
    )


def write_tables(folder: Path, tables: Mapping[str, Sequence[Row]]) -> None:
    """Write csv/TABLE.csv and json/TABLE.json for each table of the codebook, and the codebook as CSV and Markdown.

    Raises `CodebookError` where a table or column is not in the codebook, or is missing.
    """
    defined = codebook()
    if {*tables} != {table.name for table in defined}:
        odd = ", ".join(sorted({*tables} ^ {table.name for table in defined}))
        raise CodebookError(f"the codebook and the tables differ in {odd}. Nothing was exported.")
    (folder / "csv").mkdir()
    (folder / "json").mkdir()
    for table in defined:
        columns = tuple(column.column for column in table.columns)
        rows = [_checked(table, columns, row) for row in tables[table.name]]
        write_durably(folder / "csv" / f"{table.name}.csv", _csv(columns, rows))
        write_durably(folder / "json" / f"{table.name}.json", _json(columns, rows))
    names = tuple(field.name for field in fields(Column))
    every = [tuple(asdict(column).values()) for table in defined for column in table.columns]
    write_durably(folder / "codebook.csv", _csv(names, every))
    write_durably(folder / "codebook.md", _markdown(defined).encode())


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder by its path in it, by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _checked(table: TableDefinition, columns: tuple[str, ...], row: Row) -> tuple[Cell, ...]:
    if {*row} != {*columns}:
        odd = ", ".join(sorted({*row} ^ {*columns}))
        raise CodebookError(f"the codebook and the rows of {table.name} differ in {odd}. Nothing was exported.")
    return tuple(_plain(row[column]) for column in columns)


def _plain(cell: Cell) -> Cell:
    """A number that is none (an interval without an end) is not defined; a time is text."""
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    return cell.isoformat() if isinstance(cell, datetime) else cell


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_in_csv(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


def _in_csv(cell: Cell) -> Cell:
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _json(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> bytes:
    """A list of objects, one on each line."""
    lines = [json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False, allow_nan=False) for row in rows]
    return f"[{','.join(chr(10) + line for line in lines)}\n]\n".encode()


def _markdown(tables: Iterable[TableDefinition]) -> str:
    parts = [_PREAMBLE]
    for table in tables:
        parts += ["", f"## {table.name}", "", table.about, "", "| Column | Type | Unit | Range | Meaning | Source |"]
        parts.append("|---|---|---|---|---|---|")
        for column in table.columns:
            cells = (column.type, column.unit, column.range, column.meaning, column.source)
            parts.append(f"| `{column.column}` | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(parts) + "\n"
