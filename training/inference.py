"""A verified bundle in, its model ready to answer out, whatever its task."""

import json
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from labeling_protocols.geometry import Volume
from training.bundle import CONFIG, PLAN, WEIGHTS, Bundle, BundleError
from training.group import choose_device
from training.plan import Plan
from training.segmentation_inference import Segmenter
from training.task_kit import TaskKit
from training.tasks import kit_of


def bundle_weights(bundle: Bundle) -> dict[str, Tensor]:
    """The weights of a bundle, re-hashed as they are read."""
    try:
        return safetensors.torch.load(bundle.read(WEIGHTS))
    except safetensors.SafetensorError as error:
        raise BundleError(f"{WEIGHTS} is not a safetensors file: {error}. Nothing is served.") from error


def model_of(bundle: Bundle, device: torch.device) -> tuple[TaskKit, Plan, Any]:
    """What is done for the bundle's task, its plan, and its model as that task's kit makes it."""
    plan = Plan.from_json(bundle.read(PLAN).decode())
    kit = kit_of(plan.task)
    return kit, plan, kit.model(json.loads(bundle.read(CONFIG)), bundle_weights(bundle), device)


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
