"""A verified bundle in, its model ready to answer out, whatever its task."""

import json

import safetensors
import safetensors.torch
from torch import Tensor

from labeling_protocols.geometry import Volume
from training.bundle import CONFIG, WEIGHTS, Bundle, BundleError
from training.group import choose_device
from training.segmentation_inference import Segmenter


def bundle_weights(bundle: Bundle) -> dict[str, Tensor]:
    """The weights of a bundle, re-hashed as they are read."""
    try:
        return safetensors.torch.load(bundle.read(WEIGHTS))
    except safetensors.SafetensorError as error:
        raise BundleError(f"{WEIGHTS} is not a safetensors file: {error}. Nothing is served.") from error


class Predictor:
    """A segmentation bundle's model, ready to predict; safe to use from several threads.

    `values` maps each structure's name to its voxel value, `name` is the model version as results carry it.
    """

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        self.bundle = bundle
        self.name = bundle.name
        self.values: dict[str, int] = dict(bundle.metadata["overread"]["values"])
        self._segmenter = Segmenter(json.loads(bundle.read(CONFIG)), bundle_weights(bundle), choose_device(device))

    def predict(self, image: Volume) -> Volume:
        """The label on the image's grid, uint8, in voxel values of the protocol."""
        return self._segmenter.predict(image)
