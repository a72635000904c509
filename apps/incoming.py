"""A folder for files that still name their patients, for as long as a block takes: a site in, the folder out."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from apps.settings import Site

_LEFT_BEHIND_S = 24 * 3600.0  # what a process that was killed left is older than this


@contextmanager
def incoming(site: Site) -> Iterator[Path]:
    """An empty folder that nobody else may read, gone afterwards, with what others before it left behind."""
    folder = site.folder("incoming")
    for left in folder.iterdir():
        if time.time() - left.stat().st_mtime > _LEFT_BEHIND_S:
            shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(dir=folder) as name:
        yield Path(name)
