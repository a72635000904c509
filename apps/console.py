"""What every command shares: where its words go, the site it is for, and a bar for long work."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from apps.settings import Site
from labeling_protocols.store import Store

_WIDE = 240

# A terminal has its width; a file or a pipe takes whole tables.
console = Console(width=None if sys.stdout.isatty() else _WIDE)
# Sentences are never broken in two, whatever the terminal's width: people copy from them.
lines = Console(soft_wrap=True, highlight=False)
errors = Console(stderr=True, soft_wrap=True)

SiteOption = Annotated[Path, typer.Option("--site", help="The site's folder.", envvar="OVERREAD_SITE")]
HERE = Path("site")
COMMAND_LINE = "command line"  # the actor of what is done there: whoever may read the site's keys


@contextmanager
def opened_store(folder: Path) -> Iterator[tuple[Site, Store]]:
    """The site in this folder and its store, closed at the end."""
    site = Site(folder)
    store = Store(site.database_url, site.blobs)
    try:
        yield site, store
    finally:
        store.close()


def progress_bar() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
