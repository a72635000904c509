"""A model that clicks correct: an image, clicks and a box in the patient in, the label on the image's own grid out.

What the model answers without clicks is worked out once for an image and kept, unless clicks come with a label that
they are to correct. Of a large image only the part around the clicks is answered anew, and laid over that.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from labeling_protocols.channels import Images, channels_of
from labeling_protocols.geometry import Geometry, Volume
from training.box_prompts import Bounds
from training.bundle_run import run_config
from training.clicks import BACKGROUND, Click, ClickError, Guide, PointsByName, moved, parts_around
from training.fast_preparation import preparation_of
from training.interactive import guide_of, interactive_network_config
from training.laying_back import LaidBack, chosen, lay_back
from training.plan import Plan
from training.preparation import prepare_config, restore_config
from training.prepared_images import PreparedImages, digest_of
from training.segmentation_inference import Segmenter
from training.stopping import Stopped, never

Config = dict[str, Any]
_Label = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """The voxel values of a part of an image."""

    values_ZYX: _Label
    slices_ZYX: tuple[slice, slice, slice]


class Interactor:
    """The served half of an interactive bundle's configuration with its weights; several threads may ask at once."""

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        device: torch.device,
        images: PreparedImages | None = None,
        *,
        measured: bool = False,
    ) -> None:
        """Raises `BundleError` where the weights are not exactly those of the network: none stays random.

        `images` is where prepared images and answers are kept; `measured` is as of `Segmenter`.
        """
        self._segmenter = Segmenter(config, weights, device, measured=measured)
        self._preparation = preparation_of(config)
        self._prepare_key = hashlib.sha256(json.dumps(config["prepare"], sort_keys=True).encode()).hexdigest()
        stored = config["clicks"]
        x, y, z = stored["spacing_mm_RAS"]
        self._guide = Guide(structures=len(stored["structures"]), spacing_mm=(x, y, z), sigma_mm=stored["sigma_mm"])
        self._values = np.array([0, *stored["values"]], dtype=np.uint8)
        self._channels = {name: channel for channel, name in enumerate([BACKGROUND, *stored["structures"]])}
        self._patch = config["inferer"]["roi_size"]
        self._images = PreparedImages() if images is None else images
        self._own = uuid.uuid4().hex  # another model's answers are kept beside this one's

    @property
    def structures(self) -> list[str]:
        return [name for name in self._channels if name != BACKGROUND]

    def knows(self, digest: str) -> bool:
        """Whether the image of this content was answered before, so that a click takes a moment."""
        return self._images.known(self._automatic_key(digest))

    def predict(
        self,
        image: Images,
        clicks: PointsByName | None = None,
        *,
        bounds: Bounds | None = None,
        digest: str | None = None,
        base: Volume | None = None,
        stopped: Stopped = never,
    ) -> Volume:
        """The label on the image's grid, uint8, in voxel values of the protocol.

        `clicks` are points in LPS millimetres by structure, or under "background" where no structure is. Of what
        `bounds` names nothing lies outside; where that is one structure without a click, the box's middle is one.
        `digest` names the image's content, where it is known. `base` is what clicks correct, instead of what this
        model says without them. Raises `ClickError` for another name and for a point
        outside the image, `InferenceStopped` once nobody waits any more.
        """
        geometry = channels_of(image)[0].geometry
        points = _with_middle(clicks or {}, bounds, geometry)
        self._require_within(geometry, points)
        digest = digest or digest_of(image)
        with torch.inference_mode():
            corrects = any(points.values()) or bounds is not None
            if corrects and base is not None:
                label_ZYX = base.array_ZYX.astype(np.uint8)
            else:
                label_ZYX = self._automatic(image, digest, stopped).copy()
            if corrects:
                self._correct(label_ZYX, image, digest, points, bounds, stopped)
        return Volume(array_ZYX=label_ZYX, geometry=geometry)

    def _automatic(self, image: Images, digest: str, stopped: Stopped) -> _Label:
        """What the network says without clicks; shared, not to be written into."""

        def answer() -> _Label:
            prepared = self._prepared(image, digest)
            scores = self._scores(prepared.as_tensor(), [], stopped)
            return self._preparation.label(scores, prepared, channels_of(image)[0].geometry)

        return self._images.get(self._automatic_key(digest), answer, lambda label: label.nbytes)

    def _prepared(self, image: Images, digest: str) -> MetaTensor:
        """The image as the network sees it, (C, X, Y, Z) with its affine; shared, not to be written into."""
        key = (digest, "prepared", self._prepare_key)
        prepare = partial(self._preparation.prepare, channels_of(image))
        return self._images.get(key, prepare, lambda tensor: int(tensor.nbytes))

    def _correct(
        self,
        label_ZYX: _Label,
        image: Images,
        digest: str,
        points: PointsByName,
        bounds: Bounds | None,
        stopped: Stopped,
    ) -> None:
        """Lay what the network says around clicks and box over the label."""
        geometry = channels_of(image)[0].geometry
        prepared = self._prepared(image, digest)
        clicks = self._placed(prepared, points)
        corners = self._placed(prepared, {BACKGROUND: bounds.corners_mm_LPS(geometry)}) if bounds else []
        for box, nearby in parts_around(clicks, prepared.shape[1:], self._patch, corners):
            here = [click for click in clicks if click in nearby]
            key = (digest, "part", self._own, repr((box, here, bounds)))  # most clicks are those of the request before
            answer = partial(self._part, prepared, geometry, box, here, bounds, stopped)
            part = self._images.get(key, answer, lambda one: one.values_ZYX.nbytes)
            label_ZYX[part.slices_ZYX] = part.values_ZYX
        if bounds is not None:
            self._clear_beyond(label_ZYX, bounds)

    def _part(
        self,
        prepared: MetaTensor,
        geometry: Geometry,
        box: tuple[slice, slice, slice],
        clicks: Sequence[Click],
        bounds: Bounds | None,
        stopped: Stopped,
    ) -> _Part:
        """What the network says of one part of its grid, on the image's grid."""
        scores = self._scores(prepared.as_tensor()[:, *box], moved(clicks, box), stopped)
        to_network = np.linalg.inv(prepared.affine.numpy()) @ geometry.affine_RAS()
        laid = lay_back(scores, [edge.start for edge in box], to_network, geometry.shape_ZYX)
        if bounds is not None:
            laid = self._bounded(laid, bounds)
        return _Part(values_ZYX=self._values[chosen(laid.scores).numpy()], slices_ZYX=laid.slices_ZYX)

    def _scores(self, image: Tensor, clicks: Sequence[Click], stopped: Stopped) -> Tensor:
        """What the networks say of each channel (C, X, Y, Z), on the CPU."""
        return self._segmenter.scores(self._guide.join(image[None], [clicks])[0], stopped=stopped)

    def _bounded(self, laid: LaidBack, bounds: Bounds) -> LaidBack:
        """The scores with no chance for what is bounded outside its box."""
        scores = laid.scores.clone()
        inside = tuple(
            slice(max(edge.start - part.start, 0), max(edge.stop - part.start, 0))
            for edge, part in zip(bounds.slices_ZYX, laid.slices_ZYX, strict=True)
        )
        for name in bounds.structures:
            channel = self._channels[name]
            scores[channel] = -torch.inf
            scores[channel][inside] = laid.scores[channel][inside]
        return LaidBack(scores=scores, slices_ZYX=laid.slices_ZYX)

    def _clear_beyond(self, label_ZYX: _Label, bounds: Bounds) -> None:
        """Take away what is bounded and lies outside its box, far from it too."""
        values = [self._values[self._channels[name]] for name in bounds.structures]
        beyond_ZYX = np.isin(label_ZYX, values)
        beyond_ZYX[bounds.slices_ZYX] = False
        label_ZYX[beyond_ZYX] = 0

    def _require_within(self, geometry: Geometry, points: PointsByName) -> None:
        to_image = np.linalg.inv(geometry.affine_LPS())
        for name, of_name in points.items():
            if name not in self._channels:
                expected = ", ".join(self._channels)
                raise ClickError(f"found clicks for {name!r}; expected one of {expected}. Nothing was outlined.")
            for point in of_name:
                index_XYZ = (to_image @ [*point, 1.0])[:3]
                if (index_XYZ < -0.5).any() or (index_XYZ > np.array(geometry.shape_ZYX[::-1]) - 0.5).any():
                    shown = ", ".join(f"{n:.0f}" for n in index_XYZ)
                    raise ClickError(
                        f"a click for {name} lies at voxel ({shown}), outside the image of"
                        f" {geometry.shape_ZYX[::-1]} voxels (x, y, z). Nothing was outlined."
                    )

    def _placed(self, prepared: MetaTensor, points: PointsByName) -> list[Click]:
        """The clicks on the network's grid."""
        to_network = np.linalg.inv(prepared.affine.numpy()) @ np.diag([-1.0, -1.0, 1.0, 1.0])
        last = np.array(prepared.shape[1:]) - 1
        clicks = []
        for name, of_name in points.items():
            for point in of_name:
                x, y, z = np.clip(np.rint((to_network @ [*point, 1.0])[:3]), 0, last).astype(int).tolist()
                clicks.append(Click(channel=self._channels[name], voxel_XYZ=(x, y, z)))
        return clicks

    def _automatic_key(self, digest: str) -> tuple[str, ...]:
        return digest, "automatic", self._own


def interactive_config(plan: Plan, members: int = 1) -> Config:
    """The bundle's `configs/inference.json`: run by MONAI alone it answers without clicks, its guidance channels 0.

    `clicks` is what `Interactor` needs to show clicks as in training. `members` networks answer together.
    """
    guide = guide_of(plan)
    config = run_config(
        network=interactive_network_config(plan),
        members=members,
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
        prepare_batch=(
            "$lambda batch, device, non_blocking, **kwargs:"
            f" (torch.nn.functional.pad(batch['image'].to(device), (0, 0, 0, 0, 0, 0, 0, {guide.channels})), None)"
        ),
    )
    return {
        **config,
        "restore": {"_target_": "Compose", "transforms": restore_config(plan)},
        "clicks": {
            "structures": list(plan.targets),
            "values": list(plan.values[1:]),
            "spacing_mm_RAS": list(guide.spacing_mm),
            "sigma_mm": guide.sigma_mm,
        },
    }


def _with_middle(points: PointsByName, bounds: Bounds | None, geometry: Geometry) -> PointsByName:
    """The clicks, and a box's middle where it bounds one structure that has none."""
    if bounds is None or len(bounds.structures) != 1 or points.get(bounds.structures[0]):
        return points
    return {**points, bounds.structures[0]: [bounds.middle_mm_LPS(geometry)]}
