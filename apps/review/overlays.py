"""A read beside the truth as a picture: an image and two labels on its grid in, the slices that differ most out.

The read is drawn in a broad line, the truth in a dashed one; letters at the edges say where the patient's sides lie
(DICOM PS3.3 C.7.6.1.1.1).
"""

import io
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from apps.review.chart_frame import drawing
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Box, Label, Point
from labeling_protocols.protocol import Protocol, Task

SLICES = 3
_MARGIN_MM = 15.0
_GROUND, _INK = "#000000", "#e4e9ec"
_SIDES = (("L", "R"), ("P", "A"), ("H", "F"))  # towards which an LPS axis grows, and where it comes from
_RIGHT_OR_BELOW = "LPF"  # as radiologists hang pictures: the patient's left right, back and feet below


@dataclass(frozen=True, kw_only=True)
class _Pen:
    """How one of the two is drawn; the broad line still shows where the dashed one lies on it."""

    color: str
    style: str
    width: float
    point: str

    def piece(self, name: str) -> Line2D:
        return Line2D([], [], color=self.color, ls=self.style, lw=self.width, label=name)


_MINE = _Pen(color="#ffb000", style="solid", width=3.2, point="+")
_TRUTH = _Pen(color="#4cc9f0", style="dashed", width=1.5, point="o")


def slices_of_difference(protocol: Protocol, mine: Label, truth: Label) -> tuple[int, ...]:
    """Up to three slices (z, from 0) where the two differ most, apart from each other; the fullest where none does."""
    differs_Z = np.zeros(mine.geometry.shape_ZYX[0])
    drawn_Z = np.zeros_like(differs_Z)
    for structure in protocol.structures:
        if Task.SEGMENTATION in structure.tasks:
            a, b = mine.mask_ZYX(structure.value), truth.mask_ZYX(structure.value)
            differs_Z += (a ^ b).sum(axis=(1, 2))
            drawn_Z += (a | b).sum(axis=(1, 2))
    ours, theirs = ({*_findings(label)} for label in (mine, truth))
    for counts_Z, findings in ((differs_Z, ours ^ theirs), (drawn_Z, ours | theirs)):
        for finding in findings:
            z = round(_index_XYZ(mine.geometry, finding)[2])
            counts_Z[min(max(z, 0), len(counts_Z) - 1)] += 1
    return _peaks(differs_Z, SLICES) or _peaks(drawn_Z, 1) or (len(differs_Z) // 2,)


def slices_picture(protocol: Protocol, image: Volume, mine: Label, truth: Label) -> bytes:
    """Those slices as a PNG, cut to what was drawn and some room around it."""
    slices = slices_of_difference(protocol, mine, truth)
    rows, columns = _region_YX(mine, truth)
    content = io.BytesIO()
    with drawing(_INK):
        figure = Figure(figsize=(3.9 * len(slices), 4.4), layout="constrained", facecolor=_GROUND)
        FigureCanvasAgg(figure)
        shown = np.stack([image.array_ZYX[z, rows, columns] for z in slices]).astype(np.float32)
        low, high = np.percentile(shown, (0.5, 99.5))
        for panel, z, pixels_YX in zip(figure.subplots(1, len(slices), squeeze=False).flat, slices, shown, strict=True):
            spacing = image.geometry.spacing_mm_XYZ
            extent = (columns.start - 0.5, columns.stop - 0.5, rows.stop - 0.5, rows.start - 0.5)
            panel.imshow(
                pixels_YX,
                cmap="gray",
                vmin=low,
                vmax=max(high, low + 1e-6),
                extent=extent,
                aspect=spacing[1] / spacing[0],
            )
            for label, line in ((mine, _MINE), (truth, _TRUTH)):
                _draw(panel, protocol, label, z, line)
            panel.set_title(f"slice {z + 1} of {image.geometry.shape_ZYX[0]}", color=_INK, fontsize=10)
            panel.set_axis_off()
            _sides(panel, image.geometry, extent)
        lines = [_MINE.piece("your read"), _TRUTH.piece("truth")]
        figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, labelcolor=_INK, fontsize=10)
        figure.savefig(content, format="png", dpi=110, facecolor=_GROUND, metadata={"Software": None})
    return content.getvalue()


def _peaks(counts_Z: NDArray[np.float64], most: int) -> tuple[int, ...]:
    """The fullest slices in order of place; each keeps a sixth of the whole extent free of others."""
    left = counts_Z.copy()
    found = np.flatnonzero(left)
    apart = max(1, (int(found[-1] - found[0]) + 1) // 6) if found.size else 1
    peaks: list[int] = []
    while len(peaks) < most and left.any():
        z = int(left.argmax())
        peaks.append(z)
        left[max(0, z - apart + 1) : z + apart] = 0
    return tuple(sorted(peaks))


def _region_YX(mine: Label, truth: Label) -> tuple[slice, slice]:
    """Rows and columns that hold what either drew, with a margin; all of the image where neither drew anything."""
    geometry = mine.geometry
    drawn_YX = np.zeros(geometry.shape_ZYX[1:], dtype=bool)
    for label in (mine, truth):
        drawn_YX |= (label.layers_LZYX != 0).any(axis=(0, 1))
        for finding in _findings(label):
            x, y, _ = _index_XYZ(geometry, finding)
            half_x, half_y = _half_size_XY(geometry, finding)
            drawn_YX[
                max(0, round(y - half_y)) : max(0, round(y + half_y)) + 1,
                max(0, round(x - half_x)) : max(0, round(x + half_x)) + 1,
            ] = True
    if not drawn_YX.any():
        return slice(0, drawn_YX.shape[0]), slice(0, drawn_YX.shape[1])
    spans = []
    for axis, spacing_mm in ((0, geometry.spacing_mm_XYZ[1]), (1, geometry.spacing_mm_XYZ[0])):
        found = np.flatnonzero(drawn_YX.any(axis=1 - axis))
        margin = round(_MARGIN_MM / spacing_mm)
        spans.append(slice(max(0, int(found[0]) - margin), min(drawn_YX.shape[axis], int(found[-1]) + margin + 1)))
    return spans[0], spans[1]


def _draw(panel: Axes, protocol: Protocol, label: Label, z: int, pen: _Pen) -> None:
    for structure in protocol.structures:
        mask_YX = (label.layers_LZYX[:, z] == structure.value).any(axis=0)
        if mask_YX.any():
            panel.contour(
                mask_YX.astype(np.float32), [0.5], colors=pen.color, linestyles=pen.style, linewidths=pen.width
            )
    for finding in _findings(label):
        x, y, centre_z = _index_XYZ(label.geometry, finding)
        half_x, half_y = _half_size_XY(label.geometry, finding)
        half_z = finding.size_mm_XYZ[2] / label.geometry.spacing_mm_XYZ[2] / 2 if isinstance(finding, Box) else 0.5
        if abs(centre_z - z) > half_z:
            continue
        if isinstance(finding, Box):
            box = Rectangle((x - half_x, y - half_y), 2 * half_x, 2 * half_y, fill=False, ec=pen.color)
            box.set(linestyle=pen.style, linewidth=pen.width)
            panel.add_patch(box)
        else:
            panel.plot([x], [y], ls="none", marker=pen.point, ms=11, mew=pen.width, mfc="none", color=pen.color)


def _sides(panel: Axes, geometry: Geometry, extent: tuple[float, float, float, float]) -> None:
    """Turn the picture as radiologists hang it, with letters at its edges, by the axes its own lie nearest to."""
    direction = np.reshape(geometry.direction_LPS, (3, 3))
    left, right, bottom, top = extent
    for axis, places in ((0, ((0.98, 0.5), (0.02, 0.5))), (1, ((0.5, 0.03), (0.5, 0.97)))):
        patient = int(np.abs(direction[:, axis]).argmax())
        towards, away = _SIDES[patient] if direction[patient, axis] > 0 else _SIDES[patient][::-1]
        if towards not in _RIGHT_OR_BELOW:
            towards, away = away, towards
            left, right, bottom, top = (right, left, bottom, top) if axis == 0 else (left, right, top, bottom)
        for letter, place in zip((towards, away), places, strict=True):
            panel.text(*place, letter, transform=panel.transAxes, color=_INK, fontsize=10, ha="center", va="center")
    panel.set(xlim=(left, right), ylim=(bottom, top))


def _findings(label: Label) -> tuple[Box | Point, ...]:
    return (*label.boxes, *label.points)


def _index_XYZ(geometry: Geometry, finding: Box | Point) -> tuple[float, float, float]:
    place = finding.centre_mm_LPS if isinstance(finding, Box) else finding.position_mm_LPS
    x, y, z, _ = np.linalg.solve(geometry.affine_LPS(), np.array([*place, 1.0]))
    return float(x), float(y), float(z)


def _half_size_XY(geometry: Geometry, finding: Box | Point) -> tuple[float, float]:
    if isinstance(finding, Point):
        return 0.0, 0.0
    x, y, _ = np.asarray(finding.size_mm_XYZ) / np.asarray(geometry.spacing_mm_XYZ) / 2
    return float(x), float(y)
