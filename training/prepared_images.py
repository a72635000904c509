"""What was made of images, kept in bounded memory: a key that begins with an image's content in, the kept thing out."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from labeling_protocols.geometry import Volume

Key = tuple[str, ...]

_T = TypeVar("_T")


class _Kept(NamedTuple):
    made: Any
    bytes: int


class PreparedImages:
    """What was made of images, by content, in bounded memory; the least recently used goes first.

    Thread-safe. Each thing is made once, even when several ask for it at once: the others wait for it.
    """

    def __init__(self, bytes_max: int = 2 * 2**30) -> None:
        self._bytes_max = bytes_max
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._bytes = 0
        self._making: dict[Key, threading.Event] = {}
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """How much is kept at this moment."""
        with self._lock:
            return self._bytes

    def get(self, key: Key, make: Callable[[], _T], size_of: Callable[[_T], int]) -> _T:
        """What is kept under the key, or made and kept now.

        `size_of` says its bytes; what is larger than the whole memory is handed over and not kept. What is handed over
        is shared: nobody may write into it. Where `make` raises, nothing is kept, and whoever waited tries himself.
        """
        while True:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    made: _T = self._kept[key].made
                    return made
                others = self._making.get(key)
                if others is None:
                    done = self._making[key] = threading.Event()
                    break
            others.wait()
        try:
            made = make()
            self._keep(key, made, size_of(made))
            return made
        finally:
            with self._lock:
                del self._making[key]
            done.set()

    def known(self, key: Key) -> bool:
        """Whether this is kept; asking is no use of it."""
        with self._lock:
            return key in self._kept

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def _keep(self, key: Key, made: object, size: int) -> None:
        if size > self._bytes_max:
            return
        with self._lock:
            self._kept[key] = _Kept(made, size)
            self._bytes += size
            while self._bytes > self._bytes_max:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= oldest.bytes


def image_digest(volume: Volume) -> str:
    """SHA-256 of an image's voxels, their type and their grid: the key of an image that is no case."""
    content = hashlib.sha256(repr((volume.geometry, volume.array_ZYX.dtype.str)).encode())
    content.update(np.ascontiguousarray(volume.array_ZYX).data)
    return content.hexdigest()


def digest_of(image: Volume | Sequence[Volume]) -> str:
    """The same of an image that may have several channels."""
    return image_digest(image) if isinstance(image, Volume) else ".".join(map(image_digest, image))


def volume_bytes(volume: Volume) -> int:
    """What a decoded volume takes."""
    return int(volume.array_ZYX.nbytes)
