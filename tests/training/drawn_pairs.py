"""Balls: two that look alike of which one is the lesion, which no image tells; or one or two, which is the answer."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Label
from tests.training.drawn import STRAIGHT, small_plan
from training.plan import ModelTask, Plan

Point = tuple[float, float, float]

_RADIUS_MM = 4.0
_APART_MM = 11.0
_BRIGHT = 40.0
_NOISE = 5.0


def two_balls(seed: int, geometry: Geometry = STRAIGHT) -> tuple[Volume, Volume, tuple[Point, Point]]:
    """Image, label and the two centres (LPS mm): the first ball is the lesion (value 1), the other looks the same."""
    random = np.random.default_rng(seed)
    centres = _centres(random)
    away_mm = _away_mm(geometry, centres)
    image = random.normal(0, _NOISE, geometry.shape_ZYX) + _BRIGHT * (away_mm < _RADIUS_MM).any(axis=0)
    lesion = (away_mm[0] < _RADIUS_MM).astype(np.uint8)
    return _volume(image.astype(np.float32), geometry), _volume(lesion, geometry), centres


def with_ball(image: Volume, centre: Point) -> Volume:
    """The image with one more ball that looks as the others do."""
    inside = _away_mm(image.geometry, (centre,))[0] < _RADIUS_MM
    return _volume(image.array_ZYX + np.float32(_BRIGHT) * inside, image.geometry)


def counted_balls(seed: int, count: int, geometry: Geometry = STRAIGHT) -> tuple[Volume, Label]:
    """A bright ball and, of two, a dark one; and a label without outlines that answers "balls" (1, 2) and "pair"."""
    random = np.random.default_rng(seed)
    bright, dark = _away_mm(geometry, _centres(random)) < _RADIUS_MM
    image = random.normal(0, _NOISE, geometry.shape_ZYX) + _BRIGHT * bright - _BRIGHT * (dark & (count == 2))
    layers = np.zeros((0, *geometry.shape_ZYX), np.uint8)
    label = Label(geometry=geometry, layers_LZYX=layers, answers={"balls": count, "pair": count == 2})
    return _volume(image.astype(np.float32), geometry), label


def interactive_plan(**values: Any) -> Plan:
    return small_plan(**{"task": ModelTask.INTERACTIVE, "targets": ("lesion",), "values": (0, 1), **values})


def classification_plan(**values: Any) -> Plan:
    return small_plan(
        **{
            "task": ModelTask.CLASSIFICATION,
            "question": "pair",
            "targets": ("no", "yes"),
            "values": (),
            "network": "DenseNet",
            "learning_rate": 0.001,
            "batch": 4,
            "mirror_axes": (0, 1, 2),
            **values,
        }
    )


def _centres(random: np.random.Generator) -> tuple[Point, Point]:
    while True:
        first, second = random.uniform(-7, 7, 3), random.uniform(-7, 7, 3)
        if np.linalg.norm(first - second) > _APART_MM:
            (a, b, c), (d, e, f) = first.tolist(), second.tolist()
            return (a, b, c), (d, e, f)


def _away_mm(geometry: Geometry, centres: tuple[Point, ...]) -> NDArray[np.float64]:
    """How far each voxel lies from each centre, (centre, z, y, x)."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in geometry.shape_ZYX), indexing="ij")
    point_mm = (np.stack([x, y, z, np.ones_like(x)], axis=-1) @ geometry.affine_LPS().T)[..., :3]
    away_mm: NDArray[np.float64] = np.stack([np.linalg.norm(point_mm - centre, axis=-1) for centre in centres])
    return away_mm


def _volume(array_ZYX: NDArray[Any], geometry: Geometry) -> Volume:
    return Volume(array_ZYX=array_ZYX, geometry=geometry)
