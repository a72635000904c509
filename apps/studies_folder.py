"""A studies folder of MONAI Label in, its images and their labels out; nothing in it is opened but its index.

The folder is what monailabel's `LocalDatastore` keeps: images, `labels/<tag>/` and an index, `datastore_v2.json`.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from labeling_protocols.volumes import suffix_of

INDEX = "datastore_v2.json"
FINAL, ORIGINAL = "final", "original"
_VERSION = re.compile(r"version_(\d{1,9})")
_OTHER = 3


class StudiesError(ValueError):
    """A folder that is none of monailabel's; nothing was taken."""


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """One label of the folder; `info` is what its client told monailabel."""

    tag: str
    path: Path
    info: Mapping[str, Any]

    @property
    def created(self) -> datetime:
        told = self.info.get("ts")
        plausible = isinstance(told, int | float) and 0 < told < 1e11
        return datetime.fromtimestamp(told if plausible and told is not None else self.path.stat().st_mtime, UTC)

    @property
    def order(self) -> tuple[int, int]:
        """The prelabel, then the versions by number, then what is final; other tags after them."""
        if version := _VERSION.fullmatch(self.tag):
            return (1, int(version[1]))
        return ({ORIGINAL: 0, FINAL: 2}.get(self.tag, _OTHER), 0)

    @property
    def known(self) -> bool:
        """Whether its tag is one of monailabel's."""
        return self.order[0] != _OTHER

    def told(self, name: str) -> Any:
        """An entry of a label's info, where viewers put it or where monailabel's Reviewer moves it."""
        params = self.info.get("params")
        return self.info.get(name) or (params.get(name) if isinstance(params, dict) else None)


@dataclass(frozen=True, kw_only=True)
class StudiesImage:
    """One image of the folder and all its labels."""

    path: Path
    labels: tuple[LabelFile, ...]


class _Data(BaseModel):
    ext: str = ""
    info: dict[str, Any] = {}


class _Object(BaseModel):
    image: _Data
    labels: dict[str, _Data] = {}


class _Index(BaseModel):
    images_dir: str = ""
    labels_dir: str = "labels"
    objects: dict[str, _Object] = {}


def read_studies(folder: Path) -> list[StudiesImage]:
    """What the index lists, and what lies beside it unlisted: monailabel loses entries when two save at once."""
    index = _read_index(folder)
    images_folder, labels_folder = _inside(folder, index.images_dir), _inside(folder, index.labels_dir)
    objects = dict(index.objects)
    for file in _files(images_folder):
        objects.setdefault(_stem(file), _Object(image=_Data(ext=suffix_of(file.name))))
    unlisted: dict[str, dict[str, _Data]] = {}
    for tag in sorted(path.name for path in labels_folder.glob("*/")):
        for file in _files(labels_folder / tag):
            unlisted.setdefault(_stem(file), {})[tag] = _Data(ext=suffix_of(file.name))
    return [
        StudiesImage(
            path=_within(images_folder, name + entry.image.ext),
            labels=tuple(
                LabelFile(tag=tag, path=_within(labels_folder, tag, name + label.ext), info=label.info)
                for tag, label in {**unlisted.get(name, {}), **entry.labels}.items()
            ),
        )
        for name, entry in sorted(objects.items())
    ]


def _read_index(folder: Path) -> _Index:
    try:
        return _Index.model_validate_json((folder / INDEX).read_bytes())
    except OSError:
        raise StudiesError(
            f"{folder} has no {INDEX}, so it is no studies folder of MONAI Label. Nothing was taken."
        ) from None
    except ValidationError:
        raise StudiesError(f"{INDEX} of {folder} cannot be read, or was cut short. Nothing was taken.") from None


def _inside(folder: Path, name: str) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise StudiesError(f"{INDEX} names a folder outside {folder}. Nothing was taken.")
    return folder / name


def _within(folder: Path, *names: str) -> Path:
    """A file by names from the index, none of which may lead elsewhere."""
    for name in names:
        if name in ("", ".", "..") or os.sep in name or "\0" in name:
            raise StudiesError(f"{INDEX} has a name that leads elsewhere, {ascii(name)[:40]}. Nothing was taken.")
    return folder.joinpath(*names)


def _files(folder: Path) -> list[Path]:
    """The volumes that lie in a folder, by name."""
    return sorted(path for path in folder.glob("[!.]*") if suffix_of(path.name) and path.is_file())


def _stem(path: Path) -> str:
    return path.name.removesuffix(suffix_of(path.name))
