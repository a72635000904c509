"""nnInteractive (Isensee et al. 2025, arXiv 2503.08373) as a model: clicks and a box in, the outline of one object out.

Its package (`pip install nninteractive`) and its weights are the site's to bring: a trained model folder in the site's
`models/nninteractive/`. The public weights are licensed CC BY-NC-SA 4.0, so that they are neither shipped nor fetched.
Without package or weights the model is not offered. Its checkpoint is loaded as the package loads it: put there only
what you trust.
"""

import importlib
import importlib.util
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monailabel.interfaces.tasks.infer_v2 import InferType

from apps.annotation.served_model import Asked, Proposal, ServedModel, label_proposal, names_in
from labeling_protocols.geometry import Volume
from labeling_protocols.store import Store, UnknownError
from training.box_prompts import Bounds, bounds_of
from training.clicks import BACKGROUND, FOREGROUND, ClickError
from training.prepared_images import PreparedImages
from training.stopping import go_on

KEY = "nninteractive"
_PACKAGE = "nnInteractive"
_SESSION = "nnInteractive.inference.inference_session"
_PLANS = "plans.json"  # every trained model folder of nnU-Net has one
_LICENCE = "Creative Commons BY-NC-SA 4.0 for the public weights: no commercial use"
_LINE_MAX = 120


class NnInteractiveInfer(ServedModel):
    """nnInteractive with the weights of this site; one image at a time, which it keeps until it is asked of another."""

    def __init__(self, folder: Path, store: Store, images: PreparedImages, device: str) -> None:
        self._folder = folder
        super().__init__(
            key=KEY,
            protocol=None,
            kind=InferType.DEEPGROW,
            labels={},
            description=f"nnInteractive: outlines what is clicked, of any kind. Licence: {self._licence()}",
            store=store,
            images=images,
        )
        self._device = device
        self._session: Any = None
        self._shown = ""
        self._lock = threading.Lock()

    def is_valid(self) -> bool:
        return _installed() and self._weights() is not None

    @property
    def version(self) -> str:
        weights = self._weights()
        return f"nninteractive {weights.name}" if weights is not None else ""

    def is_quick(self, asked: Asked) -> bool:
        return self._shown == asked.digest

    def propose(self, asked: Asked) -> Proposal:
        began = time.monotonic()
        weights = self._weights()
        if not _installed() or weights is None:
            raise UnknownError(
                "nnInteractive is not set up on this site: it needs its package (pip install nninteractive) and a"
                " trained model folder in the site's models/nninteractive. Nothing was outlined."
            )
        image = asked.image
        name = str(asked.params.get("label") or FOREGROUND)
        points = [(point, True) for point in self._points(asked, {FOREGROUND, name} - {BACKGROUND})]
        points += [(point, False) for point in self._points(asked, {BACKGROUND})]
        bounds = bounds_of(asked.params, (), image.geometry)
        if not points and bounds is None:
            raise ClickError("nnInteractive outlines what is clicked or boxed; there is neither. Nothing was outlined.")
        with self._lock:
            go_on(asked.stopped)
            mask_ZYX = self._outlined(weights, image, asked.digest, points, bounds)
        values = self.store.protocol(asked.case.protocol).values if asked.case is not None else {}
        value = values.get(name, 1)
        label = Volume(array_ZYX=mask_ZYX.astype(np.uint8) * np.uint8(value), geometry=image.geometry)
        return label_proposal(label, self.version, names_in(label, {name: value}), began)

    def _outlined(
        self, weights: Path, image: Volume, digest: str, points: list[tuple[list[int], bool]], bounds: Bounds | None
    ) -> np.ndarray[Any, np.dtype[Any]]:
        """Every interaction anew, the answer worked out with the last; axes are those of the array it is given."""
        session = self._session_of(weights)
        if self._shown != digest:
            self._shown = ""
            session.set_image(image.array_ZYX[np.newaxis].astype(np.float32))
            session.set_target_buffer(torch.zeros(image.geometry.shape_ZYX, dtype=torch.uint8))
            self._shown = digest
        session.reset_interactions()
        if bounds is not None:
            session.add_bbox_interaction(_box(session, bounds), include_interaction=True, run_prediction=not points)
        for number, ((i, j, k), include) in enumerate(points, start=1):
            session.add_point_interaction((k, j, i), include_interaction=include, run_prediction=number == len(points))
        return np.asarray(session.target_buffer) > 0

    def _session_of(self, weights: Path) -> Any:
        if self._session is None:
            kind = importlib.import_module(_SESSION).nnInteractiveInferenceSession
            threads = torch.get_num_threads()  # the package would set another number for the whole process
            session = kind(device=torch.device(self._device), torch_n_threads=threads)
            session.initialize_from_trained_model_folder(str(weights))
            self._session = session
        return self._session

    def _points(self, asked: Asked, names: set[str]) -> list[list[int]]:
        """Voxels (i, j, k) clicked under these names; raises `ClickError` for one that lies outside the image."""
        found = [point for name in sorted(names) for point in asked.params.get(name) or []]
        size = asked.image.geometry.shape_ZYX[::-1]
        for point in found:
            whole = isinstance(point, list) and len(point) == 3 and all(isinstance(n, int | float) for n in point)
            if not whole or not all(0 <= round(n) < edge for n, edge in zip(point, size, strict=True)):
                raise ClickError(
                    f"a click is {str(point)[:60]}; expected a voxel (i, j, k) of an image of {size}."
                    " Nothing was outlined."
                )
        return [[round(n) for n in point] for point in found]

    def _weights(self) -> Path | None:
        """The trained model folder: the site's folder itself, or the only one in it."""
        candidates = [self._folder, *(sorted(self._folder.iterdir()) if self._folder.is_dir() else [])]
        return next((folder for folder in candidates if (folder / _PLANS).is_file()), None)

    def _licence(self) -> str:
        """The first line of the licence beside the weights, or that of the public ones."""
        path = (self._weights() or self._folder) / "LICENSE"
        text = path.read_text(errors="replace") if path.is_file() else ""
        return text.strip().partition("\n")[0][:_LINE_MAX] or _LICENCE


def _installed() -> bool:
    """Whether the whole package is there; its client alone shares the name."""
    return importlib.util.find_spec(_PACKAGE) is not None and importlib.util.find_spec(_SESSION) is not None


def _box(session: Any, bounds: Bounds) -> list[list[int]]:
    """The box as the loaded model takes it: whole where it knows boxes in 3D, otherwise its middle slice."""
    z, y, x = ([edge.start, edge.stop] for edge in bounds.slices_ZYX)
    if not getattr(session, "supported_interactions", {}).get("bbox3d"):
        middle = (z[0] + z[1] - 1) // 2
        z = [middle, middle + 1]
    return [z, y, x]
