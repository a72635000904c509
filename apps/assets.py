"""Where the fetched front-end assets (OHIF, NiiVue) lie, and the words for who finds them missing."""

import os
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


class AssetsMissingError(RuntimeError):
    """Front-end files that were not fetched yet."""


def assets_folder() -> Path:
    """The folder `scripts/setup` fills; OVERREAD_ASSETS names another."""
    return Path(os.environ.get("OVERREAD_ASSETS") or _ROOT / ".assets")


def asset(*parts: str) -> Path:
    """An asset's path; raises `AssetsMissingError` where its package was not fetched."""
    folder = assets_folder()
    if not (folder / parts[0]).is_dir():
        raise AssetsMissingError(f"the front-end package {parts[0]} is not here; run scripts/setup, which fetches it.")
    return folder.joinpath(*parts)
