"""A model that clicks correct: an image and clicks in the patient in, the label on the image's own grid out.

What the model answers without clicks is worked out once for an image and kept. Of a large image only the part around
the clicks is answered anew, and laid over that.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from labeling_protocols.geometry import Geometry, Volume
from training.bundle_run import joint_scores, members_of, network_with_weights, run_config
from training.clicks import BACKGROUND, Click, ClickError, Guide, PointsByName, box_around, moved
from training.interactive import guide_of, interactive_network_config
from training.plan import Plan
from training.preparation import as_tensor, prepare_config, restore_config

Config = dict[str, Any]

_KEPT = 2  # images; one of 512 × 512 × 300 takes about a gigabyte


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prepared:
    """An image as the network sees it, (1, X, Y, Z) with its affine, and the label the network alone gives it."""

    tensor: MetaTensor
    automatic_ZYX: NDArray[np.uint8]


class Interactor:
    """The served half of an interactive bundle's configuration with its weights; several threads may ask at once."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device) -> None:
        """Raises `BundleError` where the weights are not exactly those of the network: none stays random."""
        parser = ConfigParser(dict(config))
        self._device = device
        self._prepare = parser.get_parsed_content("prepare")
        self._restore = parser.get_parsed_content("restore")
        self._inferer = parser.get_parsed_content("inferer")
        self._members = members_of(network_with_weights(parser, weights, device))
        stored = config["clicks"]
        x, y, z = stored["spacing_mm_RAS"]
        self._guide = Guide(structures=len(stored["structures"]), spacing_mm=(x, y, z), sigma_mm=stored["sigma_mm"])
        self._values = np.array([0, *stored["values"]], dtype=np.uint8)
        self._channels = {name: channel for channel, name in enumerate([BACKGROUND, *stored["structures"]])}
        self._patch = config["inferer"]["roi_size"]
        self._kept: OrderedDict[str, _Prepared] = OrderedDict()
        self._lock = threading.Lock()  # MONAI's transforms keep state while they are inverted

    def predict(self, image: Volume, clicks: PointsByName | None = None) -> Volume:
        """The label on the image's grid, uint8, in voxel values of the protocol.

        `clicks` are points in LPS millimetres by structure, or under "background" where no structure is. Raises
        `ClickError` for another name and for a point outside the image.
        """
        points = clicks or {}
        self._require_within(image.geometry, points)
        with self._lock, torch.inference_mode():
            prepared = self._prepared(image)
            placed = self._placed(prepared, points)
            label_ZYX = self._corrected(prepared, placed, image.geometry) if placed else prepared.automatic_ZYX.copy()
        return Volume(array_ZYX=label_ZYX, geometry=image.geometry)

    def _prepared(self, image: Volume) -> _Prepared:
        """From the images kept, or made and kept in place of the one that was asked for longest ago."""
        digest = _digest(image)
        known = self._kept.pop(digest, None)
        if known is None:
            tensor = self._prepare({"image": as_tensor(image)})["image"]
            known = _Prepared(tensor=tensor, automatic_ZYX=self._whole(tensor, []))
        self._kept[digest] = known
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return known

    def _corrected(self, prepared: _Prepared, clicks: Sequence[Click], geometry: Geometry) -> NDArray[np.uint8]:
        shape = prepared.tensor.shape[1:]
        box = box_around(clicks, shape, self._patch)
        if all(edge.stop - edge.start == size for edge, size in zip(box, shape, strict=True)):
            return self._whole(prepared.tensor, clicks)
        scores = self._scores(prepared.tensor.as_tensor()[:, *box], moved(clicks, box))
        to_network = np.linalg.inv(prepared.tensor.affine.numpy()) @ geometry.affine_RAS()
        return self._laid_over(prepared.automatic_ZYX, scores, [edge.start for edge in box], to_network)

    def _whole(self, tensor: MetaTensor, clicks: Sequence[Click]) -> NDArray[np.uint8]:
        """The answer to the whole image, brought back to its own grid as the bundle's configuration says."""
        scores = MetaTensor(self._scores(tensor.as_tensor(), clicks).cpu())
        restored = self._restore({"image": tensor, "pred": scores})["pred"]
        return np.ascontiguousarray(restored.numpy()[0].T.astype(np.uint8))

    def _scores(self, image: Tensor, clicks: Sequence[Click]) -> Tensor:
        """What the networks say of each channel (C, X, Y, Z)."""
        shown = self._guide.join(image[None].to(self._device), [clicks])
        return joint_scores(self._members, lambda member: self._inferer(shown, member)[0])

    def _laid_over(
        self, automatic_ZYX: NDArray[np.uint8], scores: Tensor, start: Sequence[int], to_network: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """The label with what the scores (C, X, Y, Z) of a part of the network's grid, beginning at `start`, say there.

        `to_network` leads from the image's voxel indices to the network's. Scores are interpolated before the choice,
        as where the whole image is brought back.
        """
        size = torch.tensor(scores.shape[1:], dtype=torch.float64)
        corners = np.array([[s + (n - 1) * far for s, n, far in zip(start, size, at, strict=True)] for at in _CORNERS])
        in_image = (corners - to_network[:3, 3]) @ np.linalg.inv(to_network[:3, :3]).T
        low = np.clip(np.floor(in_image.min(axis=0)), 0, None).astype(int)
        high = np.minimum(np.ceil(in_image.max(axis=0)).astype(int) + 1, automatic_ZYX.shape[::-1])
        axes = [torch.arange(a, b, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
        index = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        place = (
            index @ torch.from_numpy(to_network[:3, :3].T) + torch.from_numpy(to_network[:3, 3]) - torch.tensor(start)
        )
        covered = ((place >= -0.5) & (place <= size - 0.5)).all(dim=-1)
        grid = (2 * place / (size - 1).clamp_min(1) - 1).flip(-1).to(scores)  # grid_sample speaks of (z, y, x)
        sampled = F.grid_sample(scores[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True)
        values = self._values[sampled[0].argmax(dim=0).cpu().numpy()]
        label_XYZ = automatic_ZYX.copy().T
        part = label_XYZ[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        part[...] = np.where(covered.numpy(), values, part)
        return label_XYZ.T

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

    def _placed(self, prepared: _Prepared, points: PointsByName) -> list[Click]:
        """The clicks on the network's grid."""
        to_network = np.linalg.inv(prepared.tensor.affine.numpy()) @ np.diag([-1.0, -1.0, 1.0, 1.0])
        last = np.array(prepared.tensor.shape[1:]) - 1
        clicks = []
        for name, of_name in points.items():
            for point in of_name:
                x, y, z = np.clip(np.rint((to_network @ [*point, 1.0])[:3]), 0, last).astype(int).tolist()
                clicks.append(Click(channel=self._channels[name], voxel_XYZ=(x, y, z)))
        return clicks


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


_CORNERS = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]


def _digest(image: Volume) -> str:
    content = hashlib.sha256(repr((image.geometry, image.array_ZYX.dtype.str)).encode())
    content.update(np.ascontiguousarray(image.array_ZYX).data)
    return content.hexdigest()
