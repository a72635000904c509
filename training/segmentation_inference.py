"""A segmentation's configuration and weights in; labels and probabilities on the image's own grid out."""

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from torch import Tensor

from labeling_protocols.geometry import Volume
from training.bundle_run import joint_scores, members_of, network_with_weights, run_config
from training.networks import network_config
from training.plan import Plan
from training.preparation import as_tensor, prepare_config, restore_config

Config = dict[str, Any]


class Segmenter:
    """The served half of a bundle's configuration (`prepare`, `network_def`, `inferer`, `restore`) with its weights."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device) -> None:
        """Raises `BundleError` where the weights are not exactly those of the network: none stays random."""
        parser = ConfigParser(dict(config))
        self._device = device
        self._prepare = parser.get_parsed_content("prepare")
        self._restore = parser.get_parsed_content("restore")
        self._inferer = parser.get_parsed_content("inferer")
        self._members = members_of(network_with_weights(parser, weights, device))
        self._lock = threading.Lock()  # MONAI's transforms keep state while they are inverted

    def predict(self, image: Volume) -> Volume:
        """The label on the image's grid, uint8, in voxel values of the protocol."""
        with self._lock, torch.inference_mode():
            restored = self._restore(self._answered(image))["pred"].numpy()[0]
        return Volume(array_ZYX=np.ascontiguousarray(restored.T.astype(np.uint8)), geometry=image.geometry)

    def probabilities(self, image: Volume, names: list[str]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """How probable each structure is, 0 to 1 by voxel of the image's grid; `names` are the network's, in order."""
        with self._lock, torch.inference_mode():
            scores = self._restore.transforms[0](self._answered(image))["pred"].as_tensor()
            shares = scores if len(self._members) > 1 else scores.softmax(dim=0)
        for channel, name in enumerate(names, start=1):
            yield name, np.ascontiguousarray(shares[channel].numpy().T)

    def _answered(self, image: Volume) -> dict[str, Any]:
        """The prepared image and the network's answer to it; of several networks the mean of their probabilities."""
        data = self._prepare({"image": as_tensor(image)})
        prepared = data["image"][None].to(self._device)
        data["pred"] = joint_scores(self._members, lambda member: self._inferer(prepared, member)[0]).cpu()
        return data


def segmentation_config(plan: Plan, members: int = 1) -> Config:
    """The bundle's `configs/inference.json`, which labels every volume of `dataset_dir` into `output_dir`.

    `members` networks answer together, by the mean of their probabilities.
    """
    config = run_config(
        network=network_config(plan),
        prepare=prepare_config(plan),
        inferer={
            "_target_": "SlidingWindowInferer",
            "roi_size": list(plan.patch_RAS),
            "sw_batch_size": 1,
            "overlap": plan.window_overlap,
            "mode": "gaussian",
        },
        postprocessing=[
            "@restore",
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_dtype": "$numpy.uint8"},
        ],
        members=members,
    )
    return {**config, "restore": {"_target_": "Compose", "transforms": restore_config(plan)}}
