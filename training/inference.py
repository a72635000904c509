"""A verified bundle and an image in, the label on the image's own grid out, wherever and however the image lies."""

import json
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from monai.bundle import ConfigParser
from torch import Tensor

from labeling_protocols.geometry import Volume
from training.bundle import CONFIG, WEIGHTS, Bundle, BundleError
from training.group import choose_device
from training.preparation import as_tensor


class Segmenter:
    """The served half of a bundle's configuration (`prepare`, `network_def`, `inferer`, `restore`) with its weights."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device) -> None:
        """Raises `BundleError` where the weights are not exactly those of the network: none stays random."""
        parser = ConfigParser(dict(config))
        self._device = device
        self._prepare = parser.get_parsed_content("prepare")
        self._restore = parser.get_parsed_content("restore")
        self._inferer = parser.get_parsed_content("inferer")
        self._network = parser.get_parsed_content("network_def")
        try:
            self._network.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise BundleError(
                f"the weights are not those of the configured network: {error}. Nothing is served."
            ) from error
        self._network.to(device).eval()
        self._lock = threading.Lock()  # MONAI's transforms keep state while they are inverted

    def predict(self, image: Volume) -> Volume:
        """The label on the image's grid, uint8, in voxel values of the protocol."""
        with self._lock, torch.inference_mode():
            data = self._prepare({"image": as_tensor(image)})
            data["pred"] = self._inferer(data["image"][None].to(self._device), self._network)[0].cpu()
            label_XYZ = self._restore(data)["pred"].numpy()[0]
        return Volume(array_ZYX=np.ascontiguousarray(label_XYZ.T.astype(np.uint8)), geometry=image.geometry)


class Predictor:
    """A bundle's model, ready to predict; safe to use from several threads.

    `values` maps each structure's name to its voxel value, `name` is the model version as results carry it.
    """

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        self.bundle = bundle
        self.name = bundle.name
        self.values: dict[str, int] = dict(bundle.metadata["overread"]["values"])
        config = json.loads(bundle.read(CONFIG))
        try:
            weights = safetensors.torch.load(bundle.read(WEIGHTS))
        except safetensors.SafetensorError as error:
            raise BundleError(f"{WEIGHTS} is not a safetensors file: {error}. Nothing is served.") from error
        self._segmenter = Segmenter(config, weights, choose_device(device))

    def predict(self, image: Volume) -> Volume:
        """The label on the image's grid, uint8, in voxel values of the protocol."""
        return self._segmenter.predict(image)
