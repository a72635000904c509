"""A CSV file that tells of images without headers in; the strata of each image out, or a refusal with its line.

Its columns are `COLUMNS`, of which only `file`, a path relative to the folder, has to be there; an empty cell says
nothing. Refusals name lines and columns, never a file or what stands in a cell, which may be a patient's.
"""

import csv
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from apps.ingest.header_strata import maker_of, words_of
from labeling_protocols.strata import Strata, StrataError

COLUMNS = ("file", "maker", "model", "slice_thickness_mm", "sex", "age_band", "site")


class StrataFileError(ValueError):
    """A strata file that cannot be used: the line, what was found, what was expected; nothing was read in."""


def read_strata_file(path: Path, base: Path, volumes: Collection[Path] | None) -> dict[Path, Strata]:
    """What a file tells of the volumes below `base`, by volume.

    Every line has to name one of `volumes`, or any file that is there where they are None: one of several is taken in.
    Raises `StrataFileError`.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file, strict=True))
    except OSError as error:
        raise _refused(f"it could not be read ({error.strerror or type(error).__name__})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise _refused("it is no CSV file in UTF-8") from error
    columns = _columns(rows)
    told: dict[Path, Strata] = {}
    for line, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(columns):
            raise _refused(f"line {line} has {len(row)} cells, its first line {len(columns)}")
        cells = dict(zip(columns, (cell.strip() for cell in row), strict=True))
        volume = base / PurePosixPath(cells["file"])
        if not (volume in volumes if volumes is not None else volume.is_file()):
            raise _refused(f"line {line} names no NIfTI or NRRD image that is taken in; a path from the folder on")
        if volume in told:
            raise _refused(f"line {line} names an image that a line before names already")
        told[volume] = _strata(cells, line)
    return told


def _columns(rows: list[list[str]]) -> list[str]:
    columns = [cell.strip() for cell in rows[0]] if rows else []
    if "file" not in columns or len(set(columns)) < len(columns) or not set(columns) <= set(COLUMNS):
        raise _refused("its first line has other columns")
    return columns


def _strata(cells: dict[str, str], line: int) -> Strata:
    try:
        return Strata(
            maker=maker_of(cells.get("maker", "")),
            model=words_of(cells.get("model", "")),
            slice_thickness_mm=_millimetres(cells.get("slice_thickness_mm", "")),
            sex=cells.get("sex") or None,
            age_band=cells.get("age_band") or None,
            site=cells.get("site") or None,
        )
    except StrataError as error:
        raise _refused(f"line {line}: {error}") from error


def _millimetres(cell: str) -> float | None:
    try:
        return float(cell) if cell else None
    except ValueError as error:
        raise StrataError("found a slice thickness that is no number; expected millimetres, such as 2.5") from error


def _refused(what: str) -> StrataFileError:
    return StrataFileError(
        f"the strata file cannot be used: {what}. Expected the columns {','.join(COLUMNS)}, of which file has to be"
        " there. No case was made."
    )
