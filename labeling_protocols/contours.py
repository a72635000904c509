"""A closed line through pixel centres in, the pixels it encloses and those it runs through out. Pure functions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """What a line draws within its bounding box: `region` says where that box lies in the image (rows, columns)."""

    region: tuple[slice, slice]
    inside_YX: NDArray[np.bool_]
    line_YX: NDArray[np.bool_]


def drawn(points_XY: Sequence[tuple[int, int]]) -> Drawn:
    """The polygon through these pixel centres (column, row), closed from the last to the first.

    Inside is where a ray to the left crosses the line an odd number of times, so that a loop which the line draws
    beside itself is not filled by it; a pixel whose centre lies on the line is not inside. All is done in whole
    numbers: rounding decides no pixel.
    """
    left, top = np.min(points_XY, axis=0).tolist()
    columns, rows = (np.ptp(points_XY, axis=0) + 1).tolist()
    crossed_YX = np.zeros((rows, columns + 1), np.int32)
    line_YX = np.zeros((rows, columns), np.bool_)
    for x0, y0, x1, y1 in _sides([(x - left, y - top) for x, y in points_XY]):
        if y0 == y1:
            line_YX[y0, min(x0, x1) : max(x0, x1) + 1] = True
            continue
        along = np.arange(y1 - y0 + 1)
        x, beyond = np.divmod((x1 - x0) * along, y1 - y0)
        x += x0
        line_YX[y0 + along[beyond == 0], x[beyond == 0]] = True
        # A side has its upper end and not its lower one: a corner is crossed once, a peak twice or not at all.
        np.add.at(crossed_YX, (y0 + along[:-1], x[:-1] + 1), 1)
    odd_YX = crossed_YX.cumsum(axis=1)[:, :columns] % 2 == 1
    return Drawn(
        region=(slice(top, top + rows), slice(left, left + columns)), inside_YX=odd_YX & ~line_YX, line_YX=line_YX
    )


def _sides(points_XY: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int, int]]:
    """The sides from point to point and back to the first, each from its upper end to its lower."""
    for (x0, y0), (x1, y1) in zip(points_XY, [*points_XY[1:], points_XY[0]], strict=True):
        yield (x0, y0, x1, y1) if y0 <= y1 else (x1, y1, x0, y0)
