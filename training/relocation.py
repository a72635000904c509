"""MLflow's database of a site whose folder lies elsewhere now in; the same, its artifacts where they are, out."""

import contextlib
import sqlite3
from pathlib import Path

_PLACES = {  # where MLflow keeps an artifact's whole URI
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "model_versions": ("source", "storage_location"),
    "logged_models": ("artifact_location",),
}


def follow_artifacts(database: Path, old: Path, new: Path) -> int:
    """Make every URI under the folder `old` one under `new`: how many there were. No process may have it open."""
    before, after = old.as_uri() + "/", new.as_uri() + "/"
    moved = 0
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        for table, columns in _PLACES.items():
            there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
            for column in there.intersection(columns):
                words = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"  # noqa: S608  names of ours
                moved += connection.execute(words, (after, len(before) + 1, len(before), before)).rowcount
    return moved
