"""Pictures of a detection: what it found beside what is there, and how that changes with the score; figures out."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure as Picture
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Box
from training.curve_pictures import Curve, froc_curve
from training.detection_boxes import Finding
from training.detection_evaluation import DetectionScores, curve_of
from training.drawing import HUMAN, MODEL, canvas

_CROSSED = (0.5, 99.5)  # percentiles of the intensities that black and white stand for


def boxed(image: Volume, title: str, true: Sequence[Box], findings: Sequence[Finding]) -> Picture:
    """Three planes through the first true box, or else the first finding: true boxes dashed, findings with scores."""
    picture = canvas(10, 4)
    centre = _centre([*true, *(one.box for one in findings)], image.geometry)
    low, high = np.percentile(image.array_ZYX.astype(np.float32), _CROSSED)
    spacing = image.geometry.spacing_mm_ZYX
    for axis, panel in enumerate(picture.subplots(1, 3)):
        rows, columns = (n for n in range(3) if n != axis)
        panel.imshow(
            image.array_ZYX.take(centre[axis], axis),
            cmap="gray",
            vmin=low,
            vmax=high,
            aspect=spacing[rows] / spacing[columns],
            origin="upper" if axis == 0 else "lower",  # head up, where slices are stacked from the feet
        )
        for box, score in [*((box, None) for box in true), *((one.box, one.score) for one in findings)]:
            first, last = _sides_ZYX(box, image.geometry)
            if first[axis] <= centre[axis] <= last[axis]:
                corner, (width, height) = (first[columns], first[rows]), (last - first)[[columns, rows]]
                color, line = (HUMAN, "dashed") if score is None else (MODEL, "solid")
                panel.add_patch(Rectangle(corner, width, height, fill=False, linewidth=1.4, edgecolor=color, ls=line))
                if score is not None:
                    panel.annotate(f"{score:.2f}", corner, color=MODEL, fontsize=7)
        panel.set_axis_off()
    picture.suptitle(f"{title}\ntruth dashed, model solid with its score", fontsize=10)
    return picture


def charts(scores: DetectionScores) -> Iterator[tuple[str, Picture]]:
    """The FROC curve of each structure that is there to be found, the operating point marked."""
    names = dict.fromkeys(name for of_case in scores.cases.values() for name in of_case)
    curves = []
    for name in names:
        found = curve_of(scores, name)
        if found is not None:
            curves.append(Curve(name=name, x=found.rates, y=found.sensitivity, marked=[found.shown]))
    if curves:
        yield "froc", froc_curve(curves)


def _sides_ZYX(box: Box, geometry: Geometry) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A box's first and last place in voxels, whose middles are whole numbers."""
    affine = geometry.affine_LPS()
    middle = np.linalg.solve(affine[:3, :3], np.asarray(box.centre_mm_LPS) - affine[:3, 3])
    half = np.divide(box.size_mm_XYZ, geometry.spacing_mm_XYZ) / 2.0
    return (middle - half)[::-1], (middle + half)[::-1]


def _centre(boxes: Sequence[Box], geometry: Geometry) -> list[int]:
    """The voxel in the middle of the first box, or of the volume where there is none."""
    if not boxes:
        return [n // 2 for n in geometry.shape_ZYX]
    first, last = _sides_ZYX(boxes[0], geometry)
    return [int(np.clip(round(n), 0, size - 1)) for n, size in zip((first + last) / 2, geometry.shape_ZYX, strict=True)]
