"""What a model says of an image that nobody has read: a segmenter and an image in, evidence or its summary out.

Views are the image as it is, and mirrored along the axes that its training mirrored, or varied a little in intensity
(test-time augmentation, Wang et al. 2019, Neurocomputing 338:34); each network of an ensemble gives views of its own.
All of it happens on the network's own grid: nothing is brought back to the image's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.acquisition_cases import CaseEvidence, CaseSummary
from training.acquisition_uncertainty import Views
from training.segmentation_inference import Images, Segmenter
from training.stopping import Stopped, go_on, never

VIEWS = 4
# A third of what training varies them by: a view must stay an image the model can be asked about.
_CONTRAST, _BRIGHTNESS, _NOISE = 0.1, 0.07, 0.05


@dataclass(frozen=True, kw_only=True)
class View:
    """One way to look at the prepared image: with which network, mirrored along which axes, varied by which seed."""

    member: int
    mirrored: tuple[int, ...] = ()
    seed: int | None = None


def evidence_of(
    segmenter: Segmenter, image: Images, *, views: int, seed: int, case: str = "", mirror_axes: Sequence[int] = ()
) -> CaseEvidence:
    """All samples of an image at once, for small images; `summary_of` needs memory for no more than two.

    `mirror_axes` (of R, A, S) are the plan's, along which the model was trained mirrored: along others left may not be
    right. Equal seeds give equal evidence.
    """
    prepared = segmenter.prepared(image).as_tensor()
    samples = list(_samples(segmenter, prepared, views=views, seed=seed, mirror_axes=mirror_axes, stopped=never))
    return CaseEvidence(case=case, samples=np.stack(samples), features=bottleneck_features(segmenter, prepared))


def summary_of(
    segmenter: Segmenter,
    image: Images,
    structures: Sequence[str],
    *,
    case: str,
    views: int = VIEWS,
    seed: int = 0,
    mirror_axes: Sequence[int] = (),
    digest: str | None = None,
    stopped: Stopped = never,
) -> CaseSummary:
    """`summarise(evidence_of(…))`, one view after the other; raises `InferenceStopped` between two of them."""
    found = Views(structures)
    prepared = segmenter.prepared(image, digest).as_tensor()
    for sample in _samples(segmenter, prepared, views=views, seed=seed, mirror_axes=mirror_axes, stopped=stopped):
        found.add(sample)
    features = bottleneck_features(segmenter, prepared)
    return found.summary(case, features=tuple(float(f"{value:.5g}") for value in features))


def views_of(count: int, members: int, mirror_axes: Sequence[int], seed: int) -> list[View]:
    """At least `count` views, every network's plain one first; then mirrored ones, then such as differ in intensity."""
    mirrors = [axes for size in range(1, len(mirror_axes) + 1) for axes in combinations(sorted(mirror_axes), size)]
    found = [View(member=member) for member in range(members)]
    while len(found) < count:
        member, turn = len(found) % members, len(found) // members
        mirrored = mirrors[turn - 1] if turn <= len(mirrors) else ()
        found.append(View(member=member, mirrored=mirrored, seed=None if mirrored else seed * 1000 + turn))
    return found


def bottleneck_features(segmenter: Segmenter, prepared: Tensor) -> NDArray[np.float32]:
    """(F,) the first network's deepest layer, its mean over the prepared image brought to the size of one patch."""
    network, patch = segmenter.members[0], list(segmenter.inferer.roi_size)
    with torch.inference_mode():
        whole = prepared[None].to(segmenter.device, torch.float32)
        small = F.interpolate(whole, size=patch, mode="trilinear", align_corners=False)
        deepest = _Deepest(network)
        try:
            network(small)
        finally:
            deepest.close()
    return deepest.mean()


class _Deepest:
    """A forward hook that keeps what the network's coarsest layer of convolution made, the widest of several."""

    def __init__(self, network: torch.nn.Module) -> None:
        self._found: Tensor | None = None
        convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv3d)]
        self._hooks = [module.register_forward_hook(self._look) for module in convolutions]

    def _look(self, module: torch.nn.Module, given: Any, made: Tensor) -> None:
        if self._found is None or _coarse(made) > _coarse(self._found):
            self._found = made

    def mean(self) -> NDArray[np.float32]:
        if self._found is None:
            raise ValueError("the network has no 3D convolution, so that it has no features. Nothing was measured.")
        features: NDArray[np.float32] = self._found[0].float().mean(dim=(1, 2, 3)).cpu().numpy()
        return features

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _coarse(made: Tensor) -> tuple[int, int]:
    return -int(made[0, 0].numel()), int(made.shape[1])


def _samples(
    segmenter: Segmenter, prepared: Tensor, *, views: int, seed: int, mirror_axes: Sequence[int], stopped: Stopped
) -> Iterator[NDArray[np.float32]]:
    for view in views_of(views, len(segmenter.members), mirror_axes, seed):
        go_on(stopped)
        dims = [axis + 1 for axis in view.mirrored]
        seen = _varied(prepared, view.seed) if view.seed is not None else prepared
        scores = segmenter.scores(seen.flip(dims) if dims else seen, member=view.member, stopped=stopped)
        yield (scores.flip(dims) if dims else scores).softmax(dim=0).float().cpu().numpy()


def _varied(prepared: Tensor, seed: int) -> Tensor:
    """The prepared image with a little other contrast and brightness, and a little noise; as the seed draws them."""
    generator = torch.Generator().manual_seed(seed)
    contrast, brightness = (
        (torch.rand(2, generator=generator) * 2 - 1) * torch.tensor([_CONTRAST, _BRIGHTNESS])
    ).tolist()
    noise = torch.randn(tuple(prepared.shape), generator=generator).to(prepared.device)
    spread = float(prepared.float().std())
    return prepared * (1.0 + contrast) + spread * (brightness + _NOISE * noise)
