"""Labels for agreement and consensus: rows of values, boxes and points on a small grid of 1 mm."""

from collections.abc import Iterable, Mapping

import numpy as np

from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Answer, Box, Label, Point

Row = tuple[int, int, int]


def label(
    *layers: Iterable[Row],
    array_ZYX: np.ndarray | None = None,
    spacing_mm_XYZ: tuple[float, float, float] = (1.0, 1.0, 1.0),
    boxes: Iterable[Box] = (),
    points: Iterable[Point] = (),
    answers: Mapping[str, Answer] | None = None,
) -> Label:
    """Each layer holds (value, start, stop): that value along x from start to stop, three voxels thick."""
    if array_ZYX is not None:
        layers_LZYX = array_ZYX[np.newaxis]
    else:
        layers_LZYX = np.zeros((len(layers) or 1, 5, 5, 12), dtype=np.uint8)
        for layer_ZYX, rows in zip(layers_LZYX, layers, strict=False):
            for value, start, stop in rows:
                layer_ZYX[1:4, 1:4, start:stop] = value
    geometry = Geometry(
        shape_ZYX=layers_LZYX.shape[1:],
        spacing_mm_XYZ=spacing_mm_XYZ,
        origin_mm_LPS=(0.0, 0.0, 0.0),
        direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )
    return Label(
        geometry=geometry, layers_LZYX=layers_LZYX, boxes=tuple(boxes), points=tuple(points), answers=answers or {}
    )


def box(x_mm: float, size_mm: float = 4.0, y_mm: float = 0.0) -> Box:
    return Box(structure="nodule", centre_mm_LPS=(x_mm, y_mm, 0.0), size_mm_XYZ=(size_mm,) * 3)


def point(x_mm: float) -> Point:
    return Point(structure="micronodule", position_mm_LPS=(x_mm, 0.0, 0.0))
