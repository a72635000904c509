"""A MONAI bundle from elsewhere, verified: an image in, the label that its own configuration makes of it out.

Its `configs/inference.json` says how, in the words of MONAI's model zoo: `preprocessing` of an image by its path,
`network_def`, `inferer` and `postprocessing`. What its values mean stands in its metadata, `network_data_format`.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, SaveImage, SaveImaged
from numpy.typing import NDArray
from torch import Tensor

from labeling_protocols.geometry import Volume
from labeling_protocols.volumes import write_volume
from training.bundle import CONFIG, Bundle, BundleError
from training.bundle_run import network_with_weights
from training.inference import bundle_weights
from training.stopping import Stopped, go_on, never

BACKGROUND = "background"
_FILE = "image.nii"  # zoo bundles read NIfTI


def bundle_values(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Each structure's value in the bundle's answer; raises `BundleError` where that is no segmentation we can tell."""
    ours = metadata.get("overread") if isinstance(metadata, Mapping) else None
    if isinstance(ours, Mapping):
        if ours.get("task") != "segmentation":
            raise BundleError(f"it is for {ours.get('task')}; by file only segmentation is served. It is not offered.")
        return {str(name): int(value) for name, value in ours["values"].items()}
    try:
        answer = metadata["network_data_format"]["outputs"]["pred"]
        channels = {int(channel): str(name) for channel, name in answer["channel_def"].items()}
        kind = str(answer.get("format", "")).lower()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            "its metadata does not name its structures: expected network_data_format.outputs.pred.channel_def."
            " It is not offered."
        ) from error
    values = {name: channel for channel, name in channels.items() if channel and name.lower() != BACKGROUND}
    if kind not in ("segmentation", "labels", "") or not values or max(values.values()) > np.iinfo(np.uint8).max:
        raise BundleError(
            f"its answer is {kind or 'unnamed'} of {len(values)} structures, no segmentation. It is not offered."
        )
    return values


class ForeignModel:
    """One such bundle with its weights; it answers one image at a time."""

    def __init__(self, bundle: Bundle, device: torch.device) -> None:
        """Raises `BundleError` where the configuration lacks a part or the weights are not the network's."""
        config = json.loads(bundle.read(CONFIG))
        missing = [part for part in ("network_def", "preprocessing", "inferer", "postprocessing") if part not in config]
        if missing:
            raise BundleError(f"{CONFIG} has no {', '.join(missing)}. Nothing is served.")
        network = config["network_def"]
        shown = network.get("in_channels") if isinstance(network, Mapping) else None
        if isinstance(shown, int) and shown != 1:
            raise BundleError(
                f"its network is shown {shown} images together; by file it is shown one. Nothing is served."
            )
        parser = ConfigParser({**config, "bundle_root": str(bundle.folder)})
        self._network = network_with_weights(parser, bundle_weights(bundle), device)
        self._preprocessing: Compose = parser.get_parsed_content("preprocessing")
        self._inferer = parser.get_parsed_content("inferer")
        saving = (SaveImage, SaveImaged)
        steps = parser.get_parsed_content("postprocessing").transforms
        self._postprocessing = [step for step in steps if not isinstance(step, saving)]
        self._device = device

    def predict(self, image: Volume, *, stopped: Stopped = never) -> Volume:
        """The label on the image's grid, uint8, in the bundle's own values.

        Raises `BundleError` where what comes out does not lie on the image's grid, `InferenceStopped` once nobody
        waits any more.
        """
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            path = Path(folder) / _FILE
            write_volume(image, path)
            data = self._preprocessing({"image": str(path)})
            go_on(stopped)

            def ask(windows: Tensor) -> Tensor:
                go_on(stopped)
                answer: Tensor = self._network(windows)
                return answer

            data["pred"] = self._inferer(data["image"][None].to(self._device), ask)[0]
            for step in self._postprocessing:
                go_on(stopped)
                data = step(data)
        return Volume(array_ZYX=_label(data["pred"], image), geometry=image.geometry)


def _label(answer: Tensor, image: Volume) -> NDArray[np.uint8]:
    """Values of an answer (1, X, Y, Z), or (C, X, Y, Z) of scores."""
    found = np.asarray(answer.detach().cpu() if isinstance(answer, Tensor) else answer)
    if found.ndim != 4 or found.shape[1:] != image.geometry.shape_ZYX[::-1]:
        raise BundleError(
            f"the bundle's answer has shape {found.shape}, the image {image.geometry.shape_ZYX[::-1]} (x, y, z);"
            " its postprocessing does not bring it back to the image. Nothing was proposed."
        )
    chosen = found[0] if found.shape[0] == 1 else found.argmax(axis=0)
    return np.ascontiguousarray(chosen.T.astype(np.uint8))
