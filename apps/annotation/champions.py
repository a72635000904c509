"""The champions of a site: a protocol and a task in, its released model out, verified, loaded once and ready to answer.

A champion that is replaced is replaced here too, without a restart.
"""

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.bundle import CONFIG, Bundle
from training.detection_inference import Detector
from training.group import choose_device
from training.inference import Predictor, bundle_weights
from training.interactive_inference import Interactor
from training.model_versions import SEGMENTATION, ModelVersion
from training.prepared_images import PreparedImages
from training.registry import Registry

INTERACTIVE, DETECTION = "interactive", "detection"
TASKS = (SEGMENTATION, INTERACTIVE, DETECTION)  # that viewers are served
_CLOCK_NS = 50_000_000  # a file system's clock is coarse: two writes within this may bear the same time

_Moment = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    bundle: Bundle
    model: Any  # what its task's models are


class Champions:
    """The champions of all protocols and tasks; `images` is where they keep what they made of images.

    `database` is the registry's file, where it is one: as long as nothing is written there, no champion changes.
    """

    def __init__(
        self, registry: Registry, device: str, images: PreparedImages | None = None, database: Path | None = None
    ) -> None:
        self.images = PreparedImages() if images is None else images
        self.device = str(choose_device(device))
        self._registry = registry
        self._database = database
        self._loaded: dict[tuple[str, str], _Loaded] = {}
        self._loading: dict[tuple[str, str], threading.Lock] = {}
        self._known: dict[tuple[str, str], tuple[_Moment | None, ModelVersion | None]] = {}
        self._lock = threading.Lock()

    def exists(self, protocol: str, task: str = SEGMENTATION) -> bool:
        return self._champion(protocol, task) is not None

    def name(self, protocol: str, task: str = SEGMENTATION) -> str:
        """The champion's name and version; raises `NoChampionError`."""
        return self._required(protocol, task).name

    def predictor(self, protocol: str) -> Predictor:
        """The present champion, ready; raises `NoChampionError` or `BundleError`, and then serves nothing."""
        predictor: Predictor = self._ready(protocol, SEGMENTATION).model
        return predictor

    def interactor(self, protocol: str) -> tuple[str, Interactor]:
        """The champion that clicks correct, with its name; raises as `predictor` does."""
        loaded = self._ready(protocol, INTERACTIVE)
        return loaded.bundle.name, loaded.model

    def interactor_or_none(self, protocol: str) -> Interactor | None:
        """The champion that clicks correct, where it is loaded already."""
        version, loaded = self._champion(protocol, INTERACTIVE), self._loaded.get((protocol, INTERACTIVE))
        if version is None or loaded is None or loaded.bundle.sha256 != version.bundle_sha256:
            return None
        interactor: Interactor = loaded.model
        return interactor

    def detector(self, protocol: str) -> tuple[str, Detector]:
        """The champion that draws boxes, with its name; raises as `predictor` does."""
        loaded = self._ready(protocol, DETECTION)
        return loaded.bundle.name, loaded.model

    def load(self, protocol: str, task: str) -> None:
        """Make the present champion ready; raises `NoChampionError` or `BundleError`."""
        self._ready(protocol, task)

    def _ready(self, protocol: str, task: str) -> _Loaded:
        version, key = self._required(protocol, task), (protocol, task)
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            loaded = self._loaded.get(key)
            if loaded is None or loaded.bundle.sha256 != version.bundle_sha256:
                bundle = self._registry.bundle(version)
                loaded = _Loaded(bundle=bundle, model=self._model(bundle, task))
                self._loaded[key] = loaded
        return loaded

    def _model(self, bundle: Bundle, task: str) -> Predictor | Interactor | Detector:
        if task == SEGMENTATION:
            return Predictor(bundle, self.device, self.images)
        config, weights, device = json.loads(bundle.read(CONFIG)), bundle_weights(bundle), choose_device(self.device)
        if task == INTERACTIVE:
            return Interactor(config, weights, device, self.images, measured=True)
        return Detector(config, weights, device, self.images)

    def _required(self, protocol: str, task: str) -> ModelVersion:
        found = self._champion(protocol, task)
        return self._registry.champion(protocol, task) if found is None else found

    def _champion(self, protocol: str, task: str) -> ModelVersion | None:
        """The champion, asked of the registry only where that was written to since: viewers ask for all, and often."""
        moment, key = self._last_written(), (protocol, task)
        known = self._known.get(key)
        if known is None or moment is None or known[0] != moment:
            known = moment, self._registry.champion_or_none(protocol, task)
            self._known[key] = known
        return known[1]

    def _last_written(self) -> _Moment | None:
        """When the registry was written to and its size then; None where that cannot be told, or was just now."""
        if self._database is None:
            return None
        found = []
        for path in (self._database, Path(f"{self._database}-wal")):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if abs(time.time_ns() - stat.st_mtime_ns) < _CLOCK_NS:
                return None
            found.append((stat.st_mtime_ns, stat.st_size))
        return tuple(found)
