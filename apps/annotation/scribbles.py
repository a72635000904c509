"""monailabel's scribbles: an image and what somebody scribbled on it in, the structure he means out.

The viewer sends a volume in which one value is foreground and another background, named in `label_info` as
"foreground_scribbles" and "background_scribbles", may be a box as `roi`, and the structure as `selected_label_name`.
monailabel's own transforms do the work: likelihoods from the scribbled intensities, then a graph cut (Wang et al. 2018,
IEEE TMI 37:1562). Window and spacing follow the image, where monailabel has those of abdominal CT for all.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import EnsureChannelFirstd, LoadImaged
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.scribbles.infer import GMMBasedGraphCut, HistogramBasedGraphCut, ScribblesLikelihoodInferTask
from numpy.typing import NDArray

from apps.annotation.served_model import Asked, Proposal, ServedModel, label_proposal, names_in
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import LabelError
from labeling_protocols.store import Store
from training.box_prompts import ROI, Bounds, bounds_of
from training.preparation import as_tensor
from training.prepared_images import PreparedImages
from training.stopping import go_on

HISTOGRAM, GMM = "Histogram+GraphCut", "GMM+GraphCut"
_METHODS: Mapping[str, type[ScribblesLikelihoodInferTask]] = {
    HISTOGRAM: HistogramBasedGraphCut,
    GMM: GMMBasedGraphCut,
}
_FOREGROUND, _BACKGROUND = "foreground_scribbles", "background_scribbles"
_VALUES = {_BACKGROUND: 2, _FOREGROUND: 3}  # monailabel's, where a viewer names none
_VOXELS_MAX = 2_000_000  # of the grid that is cut; more takes minutes
_WINDOW_PERCENTILES = (0.5, 99.5)
_MARGIN = 8  # voxels about the scribbles whose intensities make the window


class ScribblesInfer(ServedModel):
    """One of monailabel's scribbles methods, for the cases of any protocol."""

    def __init__(self, method: str, store: Store, images: PreparedImages) -> None:
        super().__init__(
            key=method,
            protocol=None,
            kind=InferType.SCRIBBLES,
            labels={},
            description=f"What scribbles mean, by {method.replace('+', ' and ')}: no trained model",
            store=store,
            images=images,
        )

    def is_valid(self) -> bool:
        """MONAI's Gaussian mixtures are compiled for a GPU; without one only histograms work."""
        return self.key != GMM or torch.cuda.is_available()

    @property
    def version(self) -> str:
        return f"monailabel {self.key}"

    def propose(self, asked: Asked) -> Proposal:
        began = time.monotonic()
        if not self.is_valid():
            raise LabelError(f"{self.key} needs a GPU, which this server has not; use {HISTOGRAM}. Nothing was done.")
        if asked.scribbles is None:
            raise LabelError(f"{self.key} needs scribbles: a volume sent as `label`. Nothing was done.")
        image = asked.image
        if difference := image.geometry.difference(asked.scribbles.geometry):
            raise LabelError(f"the scribbles do not lie on the image's grid: {difference}. Nothing was done.")
        bounds = bounds_of({ROI: asked.params.get(ROI)}, (), image.geometry)
        scribbles = _in_our_values(asked.scribbles, asked.params)
        if bounds is not None:
            scribbles = _boxed(scribbles, bounds)
        if not (scribbles.array_ZYX == _VALUES[_FOREGROUND]).any():
            raise LabelError("the scribbles have no foreground, and there is no box. Nothing was done.")
        mask_ZYX = self._cut(image, scribbles, bounds, asked)
        name, value = self._meant(asked)
        label = Volume(array_ZYX=mask_ZYX.astype(np.uint8) * np.uint8(value), geometry=image.geometry)
        return label_proposal(label, self.version, names_in(label, {name: value}), began)

    def _cut(self, image: Volume, scribbles: Volume, bounds: Bounds | None, asked: Asked) -> NDArray[np.bool_]:
        low, high = _window(image, scribbles, bounds)
        task = _METHODS[self.key](
            intensity_range=(low, high, 0.0, 1.0, True), pix_dim=_spacing_mm(image.geometry), labels=None
        )
        data: dict[str, Any] = {"image": _with_shape(as_tensor(image)), "label": as_tensor(scribbles)}
        loaded = (LoadImaged, EnsureChannelFirstd)  # done already
        steps = [step for step in task.pre_transforms(data) if not isinstance(step, loaded)]
        for step in [
            *steps,
            task.inferer(data),
            *task.post_transforms(data)[:-1],
        ]:  # the last one draws a box around it
            go_on(asked.stopped)
            data = step(data)
        return np.ascontiguousarray(np.asarray(data["pred"]).reshape(image.geometry.shape_ZYX[::-1]).T > 0.5)

    def _meant(self, asked: Asked) -> tuple[str, int]:
        """The structure that is outlined, with the value that the case's protocol has for it, otherwise 1."""
        name = str(asked.params.get("selected_label_name") or asked.params.get("label") or "foreground")
        values = self.store.protocol(asked.case.protocol).values if asked.case is not None else {}
        return name, values.get(name, 1)


def _in_our_values(scribbles: Volume, params: Mapping[str, Any]) -> Volume:
    """Scribbles alone, foreground and background in monailabel's own values, whatever numbers the viewer gave them."""
    info = params.get("label_info") or []
    if not isinstance(info, list) or not all(isinstance(entry, dict) for entry in info):
        raise LabelError("label_info must be a list of {name, id}. Nothing was done.")
    told = {entry.get("name"): entry.get("id", entry.get("idx")) for entry in info}
    ours_ZYX = np.zeros(scribbles.geometry.shape_ZYX, np.uint8)
    for name, value in _VALUES.items():
        sent = told.get(name, value) if info else value
        if not isinstance(sent, int):
            raise LabelError(f"label_info gives {name} no number. Nothing was done.")
        ours_ZYX[scribbles.array_ZYX == sent] = value
    return Volume(array_ZYX=ours_ZYX, geometry=scribbles.geometry)


def _boxed(scribbles: Volume, bounds: Bounds) -> Volume:
    """Scribbles with background everywhere outside the box, and its middle as foreground where there is none.

    monailabel does so too, but takes eleven voxels along each axis for the middle, which small boxes have not.
    """
    ours_ZYX = np.full_like(scribbles.array_ZYX, _VALUES[_BACKGROUND])
    ours_ZYX[bounds.slices_ZYX] = scribbles.array_ZYX[bounds.slices_ZYX]
    if not (ours_ZYX == _VALUES[_FOREGROUND]).any():
        thirds = [(edge.start, edge.stop, (edge.stop - edge.start) // 3) for edge in bounds.slices_ZYX]
        ours_ZYX[tuple(slice(start + third, stop - third) for start, stop, third in thirds)] = _VALUES[_FOREGROUND]
    return Volume(array_ZYX=ours_ZYX, geometry=scribbles.geometry)


def _window(image: Volume, scribbles: Volume, bounds: Bounds | None) -> tuple[float, float]:
    """The intensities that are told apart: those in and about the box, or about the scribbles."""
    if bounds is not None:
        first_ZYX, last_ZYX = np.array(bounds.low_XYZ[::-1]), np.array(bounds.high_XYZ[::-1])
    else:
        found = np.argwhere(scribbles.array_ZYX)
        first_ZYX, last_ZYX = found.min(axis=0), found.max(axis=0) + 1
    low, high = np.maximum(first_ZYX - _MARGIN, 0), last_ZYX + _MARGIN
    about = image.array_ZYX[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.float32)
    first, last = (float(value) for value in np.percentile(about, _WINDOW_PERCENTILES))
    return first, max(last, first + 1e-3)


def _spacing_mm(geometry: Geometry) -> Sequence[float]:
    """The image's own spacing, or coarser in equal measure where it has too many voxels to cut."""
    coarser = max(1.0, (float(np.prod(geometry.shape_ZYX)) / _VOXELS_MAX) ** (1 / 3))
    return [spacing * coarser for spacing in geometry.spacing_mm_XYZ]


def _with_shape(image: MetaTensor) -> MetaTensor:
    """The image knowing its own size, to which monailabel restores the answer."""
    image.meta["spatial_shape"] = np.array(image.shape[1:])
    return image
