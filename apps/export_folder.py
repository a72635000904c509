"""A folder that is to be exported into, in; one beside it that takes its place when everything is there, out."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MANIFEST = "manifest.json"


class ExportError(ValueError):
    """An export that cannot be made; nothing was written."""


@contextmanager
def unfinished_folder(folder: Path) -> Iterator[Path]:
    """A folder beside this one to write into, which the caller renames when all is there; else it vanishes.

    Raises `ExportError` where `folder` holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} is not an empty folder. Nothing was written.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".export-"))
    try:
        unfinished.chmod(0o755)
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
