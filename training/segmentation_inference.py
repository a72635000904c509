"""A segmentation's configuration and weights in; labels and probabilities on the image's own grid out."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from labeling_protocols.geometry import Volume
from training.backends import Ask, Backend, fastest, plain
from training.bundle_run import members_of, network_with_weights, run_config
from training.fast_preparation import preparation_of
from training.networks import network_config
from training.plan import Plan
from training.preparation import channel_files, prepare_config, require_inputs, restore_config
from training.prepared_images import PreparedImages, digest_of
from training.stopping import InferenceStopped, Stopped, go_on, never
from training.windows import Windows, cores

__all__ = ["Config", "InferenceStopped", "Segmenter", "segmentation_config"]

Config = dict[str, Any]
Images = Volume | Sequence[Volume]


class Segmenter:
    """The served half of a bundle's configuration (`prepare`, `network_def`, `inferer`, `restore`) with its weights.

    An image is a volume, or the channels of a case on one grid. Several threads may ask at once.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        device: torch.device,
        *,
        images: PreparedImages | None = None,
        measured: bool = False,
    ) -> None:
        """Raises `BundleError` where the weights are not exactly those of the network: none stays random.

        `images` is where prepared images are kept; without it none is. `measured` answers with whatever is fastest on
        this machine within rounding errors; otherwise the figures are the same on each.
        """
        parser = ConfigParser(dict(config))
        self.device = device
        self.members: Sequence[torch.nn.Module] = members_of(network_with_weights(parser, weights, device))
        self.inferer = parser.get_parsed_content("inferer")
        self._preparation = preparation_of(config)
        self._prepare_key = hashlib.sha256(json.dumps(config["prepare"], sort_keys=True).encode()).hexdigest()
        self._windows = Windows.of(config["inferer"])
        self._config = config
        self._images = images
        self._backends = [
            fastest(member, self._windows.size, device) if measured and self._windows else plain(member)
            for member in self.members
        ]

    @property
    def backend(self) -> Backend:
        """What answers windows, of several networks the first's."""
        return self._backends[0]

    def prepared(self, image: Images, digest: str | None = None) -> MetaTensor:
        """The image on the network's grid, (C, X, Y, Z) with its affine in RAS; shared, not to be written into.

        `digest` names the content where it is known, as `Case.digest` does.
        """
        volumes = _volumes(image)
        require_inputs(self._config, volumes)
        if self._images is None:
            return self._preparation.prepare(volumes)
        digest = digest or digest_of(volumes)
        key = (digest, "prepared", self._prepare_key)
        return self._images.get(key, lambda: self._preparation.prepare(volumes), lambda tensor: int(tensor.nbytes))

    def scores(self, prepared: Tensor, *, member: int | None = None, stopped: Stopped = never) -> Tensor:
        """What the networks say of each voxel of their grid, (C, X, Y, Z), background first.

        Of one network its raw scores, as of `member` alone; of several the mean of their probabilities. Raises
        `InferenceStopped` between windows.
        """
        image = prepared.as_tensor() if isinstance(prepared, MetaTensor) else prepared
        if member is not None or len(self._backends) == 1:
            return self._scores_of(self._backends[member or 0].ask, image, stopped)
        joint: Tensor | None = None
        for backend in self._backends:
            shares = self._scores_of(backend.ask, image, stopped).softmax(dim=0)
            joint = shares if joint is None else joint.add_(shares)
        assert joint is not None  # noqa: S101  there is at least one network
        return joint.div_(len(self._backends))

    def predict(self, image: Images, *, digest: str | None = None, stopped: Stopped = never) -> Volume:
        """The label on the image's grid, uint8, in voxel values of the protocol."""
        geometry = _volumes(image)[0].geometry
        with torch.inference_mode():
            prepared = self.prepared(image, digest)
            scores = self.scores(prepared, stopped=stopped)
            return Volume(array_ZYX=self._preparation.label(scores, prepared, geometry), geometry=geometry)

    def probabilities(self, image: Images, names: list[str]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """How probable each structure is, 0 to 1 by voxel of the image's grid; `names` are the network's, in order."""
        with torch.inference_mode():
            prepared = self.prepared(image)
            scores = self._preparation.on_image(self.scores(prepared), prepared, _volumes(image)[0].geometry)
            shares = scores if len(self._backends) > 1 else scores.softmax(dim=0)
        for channel, name in enumerate(names, start=1):
            yield name, np.ascontiguousarray(shares[channel].numpy().T)

    def _scores_of(self, ask: Ask, image: Tensor, stopped: Stopped) -> Tensor:
        with torch.inference_mode():
            if self._windows is not None:
                return self._windows.scores(image, ask, device=self.device, crew=cores(), stopped=stopped)
            scores: Tensor = self.inferer(image[None].to(self.device), _stoppable(ask, stopped))[0]
            return scores.cpu()


def _stoppable(ask: Ask, stopped: Stopped) -> Callable[[Tensor], Tensor]:
    def asked(windows: Tensor) -> Tensor:
        go_on(stopped)
        return ask(windows)

    return asked


def _volumes(image: Images) -> Sequence[Volume]:
    return (image,) if isinstance(image, Volume) else image


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
    return {**config, **channel_files(plan), "restore": {"_target_": "Compose", "transforms": restore_config(plan)}}
