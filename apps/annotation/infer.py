"""The champion as monailabel's model: a case or an image in, the label the released model proposes out.

Only a bundle whose signature and digests verify is loaded. Before there is a champion there is no model.
"""

import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from apps.annotation.visible import LABEL_SUFFIX, counted, names_present
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Case
from labeling_protocols.store import Store, UnknownError
from labeling_protocols.volumes import write_volume
from training.inference import Predictor
from training.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a model version proposed for an image; `params` is what viewers are told beside the label."""

    label: Volume
    model: str
    params: dict[str, Any]


class Champions:
    """The champions of all protocols, each loaded once, verified, and replaced when another is released."""

    def __init__(self, registry: Registry, device: str) -> None:
        self._registry = registry
        self._device = device
        self._loaded: dict[str, Predictor] = {}
        self._lock = threading.Lock()

    def exists(self, protocol: str) -> bool:
        return self._registry.champion_or_none(protocol) is not None

    def name(self, protocol: str) -> str:
        """The champion's name and version; raises `NoChampionError`."""
        return self._registry.champion(protocol).name

    def predictor(self, protocol: str) -> Predictor:
        """The present champion, ready; raises `NoChampionError` or `BundleError`, and then serves nothing."""
        version = self._registry.champion(protocol)
        with self._lock:
            loaded = self._loaded.get(protocol)
            if loaded is None or loaded.bundle.sha256 != version.bundle_sha256:
                loaded = Predictor(self._registry.bundle(version), self._device)
                self._loaded[protocol] = loaded
        return loaded


class ChampionInfer(InferTask):
    """The automatic segmentation model of one protocol."""

    def __init__(self, protocol: Protocol, store: Store, champions: Champions) -> None:
        super().__init__(
            type=InferType.SEGMENTATION,
            labels=dict(protocol.values),
            dimension=3,
            description=f"{protocol.title}: the released model",
        )
        self._protocol = protocol
        self._store = store
        self._champions = champions

    @property
    def protocol(self) -> Protocol:
        return self._protocol

    def is_valid(self) -> bool:
        """Without a champion the model is not offered: viewers run every offered model on each new case."""
        return self._champions.exists(self._protocol.name)

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """monailabel's own way in: the proposal as a file, for a case of this protocol."""
        proposal = self.for_case(self._store.case(str(request["image"])))
        with tempfile.NamedTemporaryFile(suffix=LABEL_SUFFIX, delete=False) as file:
            write_volume(proposal.label, Path(file.name))
        return file.name, proposal.params

    def for_case(self, case: Case) -> Proposal:
        """What the champion proposes for a case, kept as its prelabel; proposed once for each model version."""
        if case.protocol != self._protocol.name:
            raise UnknownError("this case is labelled under another protocol than this model's; nothing was done")
        began = time.monotonic()
        known = self._store.prelabel(case.id)
        if known is None or known.model != self._champions.name(self._protocol.name):
            predictor = self._champions.predictor(self._protocol.name)
            proposed = Label.of(predictor.predict(self._store.image(case)))
            known = self._store.save_prelabel(case.id, predictor.name, proposed)
        names = names_present(self._protocol, counted(self._store, case, known))
        return _proposal(self._store.label(known.label).volume(), names, known.model, began)

    def for_image(self, image: Volume) -> Proposal:
        """What the champion proposes for an image that is no case; nothing is kept."""
        began = time.monotonic()
        predictor = self._champions.predictor(self._protocol.name)
        label = Label.of(predictor.predict(image)).volume()
        found = np.bincount(label.array_ZYX.ravel(), minlength=256)
        names = {name: value for name, value in self._protocol.values.items() if found[value]}
        return _proposal(label, names, predictor.name, began)


def _proposal(label: Volume, names: dict[str, int], model: str, began: float) -> Proposal:
    params = {
        "label_names": names,
        "model": model,
        "latencies": {"total": round(time.monotonic() - began, 3)},
        "centroids": {},
    }
    return Proposal(label=label, model=model, params=params)
