"""A model that answers a question about a case: an image in, the probability of each answer out."""

import threading
from collections.abc import Mapping
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from labeling_protocols.geometry import Volume
from training.bundle_run import joint_scores, members_of, network_with_weights, run_config
from training.classification import whole_volume_config
from training.classification_network import classification_network_config
from training.plan import Plan
from training.preparation import as_tensor

Config = dict[str, Any]


class Classifier:
    """The served half of a classification bundle's configuration with its weights; several threads may ask at once."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device) -> None:
        """Raises `BundleError` where the weights are not exactly those of the network: none stays random."""
        parser = ConfigParser(dict(config))
        self._device = device
        self._prepare = parser.get_parsed_content("prepare")
        self._members = members_of(network_with_weights(parser, weights, device))
        self.question: str = config["answers"]["question"]
        self.options: tuple[str, ...] = tuple(config["answers"]["options"])
        self._lock = threading.Lock()  # MONAI's transforms are not known to bear several threads

    def predict(self, image: Volume) -> dict[str, float]:
        """The probability of each option; they add up to 1."""
        with self._lock:
            prepared = self._prepare({"image": as_tensor(image)})["image"].as_tensor()
        with torch.inference_mode():
            image = prepared[None].to(self._device)
            scores = joint_scores(self._members, lambda member: member(image)[0].double())
            probabilities = scores if len(self._members) > 1 else scores.softmax(dim=0)
        return dict(zip(self.options, probabilities.tolist(), strict=True))


def classification_config(plan: Plan, members: int = 1) -> Config:
    """The bundle's `configs/inference.json`: run by MONAI alone it writes `predictions.csv`.

    A line there is a file's name and the probability of each of `answers.options`, in that order. `members` networks
    answer together.
    """
    config = run_config(
        network=classification_network_config(plan),
        prepare=whole_volume_config(plan),
        inferer={"_target_": "SimpleInferer"},
        members=members,
        postprocessing=[{"_target_": "Activationsd", "keys": "pred", "softmax": True}] if members == 1 else [],
        val_handlers=[
            {
                "_target_": "ClassificationSaver",
                "output_dir": "@output_dir",
                "filename": "predictions.csv",
                "batch_transform": "$lambda batch: [case['image'].meta for case in batch]",
                "output_transform": "$lambda output: [case['pred'] for case in output]",
            }
        ],
    )
    return {
        **config,
        "answers": {"question": plan.question, "options": list(plan.targets)},
    }
