"""Voxels and places on one grid in, how many millimetres each voxel lies from the nearest place out; exact.

What is near is found by trying the steps from a voxel in the order of their length; the rest by lower envelopes of
parabolas, slice by slice (Felzenszwalb and Huttenlocher 2012), which takes no longer for what is very far.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.compiled import compiled

Points = NDArray[np.intp]  # voxel indices (z, y, x), shape (n, 3)
Spacing = tuple[float, float, float]

_NEAR_STEPS = 2000  # tried one by one from a voxel
_Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Steps:
    """Whole steps (z, y, x) on a grid, the shortest first, and the most of them along each axis."""

    steps: Points
    length_mm: _Numbers
    margin: NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, eq=False)
class Near:
    """Places as 1 in a box with room for two near steps on each side, where it begins, and those steps."""

    places_ZYX: NDArray[np.uint8]
    start: NDArray[np.intp]
    steps: _Steps


def near(places: Points, spacing_mm_ZYX: Spacing) -> Near:
    """These places, at least one, made ready for `near_mm`."""
    steps = _near_steps(spacing_mm_ZYX)
    start, stop = places.min(axis=0) - 2 * steps.margin, places.max(axis=0) + 1 + 2 * steps.margin
    places_ZYX = np.zeros(stop - start, np.uint8)
    places_ZYX[tuple((places - start).T)] = 1
    return Near(places_ZYX=places_ZYX, start=start, steps=steps)


def near_mm(points: Points, places: Near) -> _Numbers:
    """How far each voxel lies from the nearest place, or -1 where no near step leads to one.

    Mirrored steps have the same length to the last bit, so places that mirror each other are equally far.
    """
    distance_mm = np.empty(len(points), np.float64)
    steps = places.steps
    _find_near(points - places.start, places.places_ZYX, steps.steps, steps.margin, steps.length_mm, distance_mm)
    return distance_mm


def far_mm(points: Points, places: Points, spacing_mm_ZYX: Spacing) -> _Numbers:
    """How far each voxel, of at least one, lies from the nearest place, of at least one."""
    start = np.minimum(points.min(axis=0), places.min(axis=0))
    shape = np.maximum(points.max(axis=0), places.max(axis=0)) + 1 - start
    order = np.argsort(points[:, 0], kind="stable")
    ordered = places[np.argsort(places[:, 0], kind="stable")]
    distance_mm = np.empty(len(points), np.float64)
    distance_mm[order] = _find_far(points[order] - start, ordered - start, shape, np.array(spacing_mm_ZYX))
    return distance_mm


@lru_cache(maxsize=64)
def _near_steps(spacing_mm_ZYX: Spacing) -> _Steps:
    """Some `_NEAR_STEPS` steps; none that is left out is shorter than one of them."""
    reach_mm = float(np.cbrt(_NEAR_STEPS * np.prod(spacing_mm_ZYX) * 3 / (4 * np.pi)))  # the radius of their ball
    z, y, x = (np.arange(-most, most + 1) for most in (int(np.ceil(reach_mm / length)) for length in spacing_mm_ZYX))
    steps = np.stack(np.meshgrid(z, y, x, indexing="ij"), axis=-1).reshape(-1, 3)
    length_mm = np.sqrt(np.square(steps * np.array(spacing_mm_ZYX)).sum(axis=1))
    order = np.argsort(length_mm, kind="stable")
    order = order[length_mm[order] <= reach_mm][:_NEAR_STEPS]
    return _Steps(steps=steps[order], length_mm=length_mm[order], margin=np.abs(steps[order]).max(axis=0))


@compiled
def _find_near(
    points: Points,
    places_ZYX: NDArray[np.uint8],
    steps: Points,
    margin: NDArray[np.intp],
    length_mm: _Numbers,
    distance_mm: _Numbers,
) -> None:
    """Write the length of the first step from each voxel that leads to a place, or -1."""
    depth, height, width = places_ZYX.shape
    places = places_ZYX.ravel()
    jumps = (steps[:, 0] * height + steps[:, 1]) * width + steps[:, 2]
    for index in range(len(points)):
        z, y, x = points[index]
        distance_mm[index] = -1.0
        if z < margin[0] or y < margin[1] or x < margin[2]:
            continue
        if z >= depth - margin[0] or y >= height - margin[1] or x >= width - margin[2]:
            continue
        here = (z * height + y) * width + x
        for step in range(len(jumps)):
            if places[here + jumps[step]]:
                distance_mm[index] = length_mm[step]
                break


@compiled
def _find_far(points: Points, places: Points, shape: NDArray[np.intp], spacing_mm: _Numbers) -> _Numbers:
    """The distance of each voxel to the nearest place in a box of this shape; both come slice by slice, upwards."""
    next_z = np.full((shape[2], shape[1]), -1)  # by x and y: the place above along z, -1 for none
    above = np.empty(len(places), np.int64)  # and above each place
    for index in range(len(places) - 1, -1, -1):
        z, y, x = places[index]
        above[index] = next_z[x, y]
        next_z[x, y] = z
    last_z = np.full((shape[2], shape[1]), -1)
    passed, slice_z = 0, -1
    squares = np.empty((shape[2], shape[1]))
    distance_mm = np.empty(len(points))
    for index in range(len(points)):
        z, y, x = points[index]
        if z != slice_z:
            while passed < len(places) and places[passed, 0] <= z:
                last_z[places[passed, 2], places[passed, 1]] = places[passed, 0]
                next_z[places[passed, 2], places[passed, 1]] = above[passed]
                passed += 1
            _measure_slice(squares, last_z, next_z, z, spacing_mm)
            slice_z = z
        distance_mm[index] = np.sqrt(_least(squares[:, y], x, spacing_mm[2]))
    return distance_mm


@compiled
def _measure_slice(
    squares: _Numbers, last_z: NDArray[np.int64], next_z: NDArray[np.int64], z: int, spacing_mm: _Numbers
) -> None:
    """Write the squared distance in mm of each voxel (x, y) of a slice to the nearest place of the same x."""
    width, height = squares.shape
    column, vertices, begins = np.empty(height), np.empty(height, np.int64), np.empty(height)
    for x in range(width):
        for y in range(height):
            column[y] = np.inf
            if last_z[x, y] >= 0:
                column[y] = ((z - last_z[x, y]) * spacing_mm[0]) ** 2
            if next_z[x, y] >= 0:
                column[y] = min(column[y], ((next_z[x, y] - z) * spacing_mm[0]) ** 2)
        _spread(column, spacing_mm[1], vertices, begins, squares[x])


@compiled
def _spread(given: _Numbers, step_mm: float, vertices: NDArray[np.int64], begins: _Numbers, squares: _Numbers) -> None:
    """Write at each place the least of what is given anywhere plus the squared way from there.

    That is the lower envelope of parabolas: their vertices are kept with where each begins to be the lowest.
    """
    count = 0
    for place in range(given.size):
        if given[place] == np.inf:
            continue
        begin = -np.inf
        while count:
            vertex = vertices[count - 1]
            rise = (given[place] - given[vertex]) / (step_mm * step_mm)
            begin = (rise + place * place - vertex * vertex) / (2 * (place - vertex))
            if begin > begins[count - 1]:
                break
            count -= 1
            begin = -np.inf
        vertices[count], begins[count] = place, begin
        count += 1
    if not count:
        squares[:] = np.inf
        return
    lowest = 0
    for place in range(given.size):
        square = given[vertices[lowest]] + ((place - vertices[lowest]) * step_mm) ** 2
        while lowest + 1 < count:
            following = given[vertices[lowest + 1]] + ((place - vertices[lowest + 1]) * step_mm) ** 2
            if following > square:
                break
            lowest, square = lowest + 1, following
        squares[place] = square


@compiled
def _least(squares: _Numbers, place: int, step_mm: float) -> float:
    """The least of these plus the squared way to each."""
    least = squares[place]
    for steps in range(1, squares.size):
        way = (steps * step_mm) ** 2
        if way >= least:
            break
        if place - steps >= 0:
            least = min(least, squares[place - steps] + way)
        if place + steps < squares.size:
            least = min(least, squares[place + steps] + way)
    return least
