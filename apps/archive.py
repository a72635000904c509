"""The site's archive: what is asked of it in, de-identified images out, wherever their pixels lie.

A series lies in the site's folder, whole or as de-identified headers whose pixels are in a DICOMweb server (`pacs.py`,
`pacs_links.py`). Searches and headers are answered from the folder alone, and of what the server sends only pixels are
used: no header of its goes further. Both kinds answer alike.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from pydicom import Dataset, dcmread

from apps.archive_index import Index, Slice, header_of
from apps.pacs import Pacs, PacsError
from apps.pacs_links import FILE, Link, read_link

_LOOK_AGAIN_S = (
    1.0  # at the latest, and sooner where looking takes little: a twentieth of the time goes into it at most
)
_LOOKING = 0.05
_AT_ONCE = 8
_OPEN_LINKS = 64
# What pixels mean; a header is only put before pixels that agree in all of it.
_SHAPE = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel")

_Answer = TypeVar("_Answer")


class Archive:
    """One site's archive, shared by all requests of a server."""

    def __init__(self, folder: Path, secret: bytes, pacs: Pacs | None = None) -> None:
        self._folder = folder
        self._pacs = pacs
        self._index = Index(folder)
        self._looking = threading.Lock()
        self._looked = self._rest_s = 0.0
        # Threads of its own: were the server to hang, nothing but images would wait for it.
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="archive")
        self._link = lru_cache(maxsize=_OPEN_LINKS)(lambda of, changed: read_link(of, secret))

    def ask(self, question: Callable[[Index], _Answer]) -> _Answer:
        """The answer of the index, which follows the folder."""
        with self._looking:
            began = time.monotonic()
            if not self._looked or began - self._looked > self._rest_s:
                self._index.refresh()
                self._looked = time.monotonic()
                self._rest_s = min(_LOOK_AGAIN_S, (self._looked - began) / _LOOKING)
        return question(self._index)

    def slices(self, study: str, series: str | None = None, instance: str | None = None) -> list[Slice]:
        """The images of a study, a series or an instance; raises `UnknownError` where there is none."""
        return self.ask(lambda index: index.slices(study, series, instance))

    def header(self, one: Slice) -> Dataset:
        """An image's de-identified header, without pixels."""
        return header_of(one.path)

    def whole_file(self, one: Slice) -> Path | None:
        """The file of an image whose pixels are in it."""
        return one.path if self._link_of(one) is None else None

    def image(self, one: Slice) -> Dataset:
        """The de-identified image with its pixels, in the transfer syntax they are stored in.

        Raises `PacsError` or `UnknownError` where the archive server has them no more, or others.
        """
        link = self._link_of(one)
        if link is None:
            return dcmread(one.path)
        if self._pacs is None:
            raise PacsError("this series' pixels are in an archive server that the settings name no more (archive.url)")
        return _with_pixels(header_of(one.path), self._pacs.image(link.study, link.series, link.images[one.instance]))

    async def within(self, work: Callable[[], _Answer]) -> _Answer:
        """What the work gives, done beside the event loop in the archive's own threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _link_of(self, one: Slice) -> Link | None:
        path = one.path.parent / FILE
        return self._link(one.path.parent, path.stat().st_mtime_ns) if path.is_file() else None


def _with_pixels(header: Dataset, image: Dataset) -> Dataset:
    """The header before the pixels of another copy of the same image; nothing else of that copy is kept."""
    if "PixelData" not in image or any(image.get(name) != header.get(name) for name in _SHAPE):
        raise PacsError("the archive server's image is not the one that was taken in here. It is not shown.")
    header.file_meta.TransferSyntaxUID = image.file_meta.TransferSyntaxUID
    header.add_new("PixelData", image["PixelData"].VR, image.PixelData)
    header["PixelData"].is_undefined_length = image["PixelData"].is_undefined_length
    header.set_original_encoding(*image.original_encoding)
    return header
