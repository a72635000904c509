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
from training.prepared_images import PreparedImages, digest_of, volume_bytes
from training.segmentation_inference import Images, Segmenter
from training.stopping import InferenceStopped, Stopped, never
from training.task_kit import TaskKit
from training.tasks import kit_of

__all__ = ["InferenceStopped", "Predictor", "bundle_weights", "model_of"]


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

    `values` maps each structure's name to its voxel value, `name` is the model version as results carry it. `images`
    is where prepared images and answers are kept, shared with other models; without it nothing is.
    """

    def __init__(self, bundle: Bundle, device: str = "auto", images: PreparedImages | None = None) -> None:
        self.bundle = bundle
        self.name = bundle.name
        self.values: dict[str, int] = dict(bundle.metadata["overread"]["values"])
        self._images = images
        self.segmenter = Segmenter(
            json.loads(bundle.read(CONFIG)),
            bundle_weights(bundle),
            choose_device(device),
            images=images,
            measured=True,
        )

    def predict(self, image: Images, *, digest: str | None = None, stopped: Stopped = never) -> Volume:
        """The label on the image's grid, uint8, in voxel values of the protocol; shared, not to be written into.

        `digest` names the image's content where it is known, as `Case.digest` does. Raises `InferenceStopped` once
        nobody waits any more.
        """
        if self._images is None:
            return self.segmenter.predict(image, stopped=stopped)
        digest = digest or digest_of(image)
        return self._images.get(
            (digest, "label", self.bundle.sha256),
            lambda: self._answered(image, digest, stopped),
            volume_bytes,
        )

    def _answered(self, image: Images, digest: str, stopped: Stopped) -> Volume:
        label = self.segmenter.predict(image, digest=digest, stopped=stopped)
        label.array_ZYX.flags.writeable = False
        return label
