"""Pictures for the MLflow page: curves of a training, and overlays of truth and prediction on a case's image."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from labeling_protocols.geometry import Volume
from labeling_protocols.protocol import Protocol
from training.checkpoint import Epoch
from training.drawing import canvas


def curves(history: Sequence[Epoch]) -> Figure:
    """Loss on the training cases, and the figures of the validation cases, over the epochs."""
    figure = canvas(9, 3.5)
    left, right = figure.subplots(1, 2)
    left.plot([epoch.number for epoch in history], [epoch.loss for epoch in history], color="#3d6be9")
    left.set(title="Loss on the training cases", xlabel="epoch")
    looked_at = [epoch for epoch in history if epoch.figures]
    for name in dict.fromkeys(name for epoch in looked_at for name in epoch.figures):
        points = [(epoch.number, epoch.figures[name]) for epoch in looked_at if name in epoch.figures]
        right.plot(*zip(*points, strict=True), marker="o", ms=3, label=name)
    right.set(title="Figures of the validation cases", xlabel="epoch", ylim=(0, 1))
    if looked_at:
        right.legend()
    return figure


def overlay(protocol: Protocol, title: str, image: Volume, truth: Volume, predicted: Volume) -> Figure:
    """Three planes through the middle of the truth: the truth's outline dashed, the prediction's solid."""
    figure = canvas(10, 4)
    centre = _centre(truth.array_ZYX)
    low, high = np.percentile(image.array_ZYX.astype(np.float32), (0.5, 99.5))
    spacing = image.geometry.spacing_mm_ZYX
    for axis, panel in enumerate(figure.subplots(1, 3)):
        rows, columns = (n for n in range(3) if n != axis)
        panel.imshow(
            image.array_ZYX.take(centre[axis], axis),
            cmap="gray",
            vmin=low,
            vmax=high,
            aspect=spacing[rows] / spacing[columns],
            origin="upper" if axis == 0 else "lower",  # head up, where slices are stacked from the feet
        )
        for structure in protocol.structures:
            for label, style in ((truth, "dashed"), (predicted, "solid")):
                mask = label.array_ZYX.take(centre[axis], axis) == structure.value
                if mask.any() and not mask.all():
                    panel.contour(mask, [0.5], colors=structure.color, linestyles=style, linewidths=1.2)
        panel.set_axis_off()
    names = ", ".join(structure.title for structure in protocol.structures)
    figure.suptitle(f"{title}\n{names}: truth dashed, model solid", fontsize=10)
    return figure


def _centre(label_ZYX: NDArray[np.generic]) -> tuple[int, ...]:
    """Middle of what is outlined, or of the volume where nothing is."""
    found = np.argwhere(label_ZYX != 0)
    return tuple(int(n) for n in (found.mean(axis=0) if len(found) else np.array(label_ZYX.shape) // 2))
