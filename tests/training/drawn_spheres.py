"""Bright spheres in noise with their boxes, drawn in the patient's millimetres on any grid; a plan that finds them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Box, Label
from training.detection_boxes import sizes_mm_RAS
from training.detection_plan import plan_detection
from training.plan import ModelTask, Normalisation, Plan, Precision

VALUES = {"nodule": 1}
_RADIUS_MM = (2.5, 5.0)
_APART_MM = 2.0

CUBE = Geometry(
    shape_ZYX=(32, 32, 32),
    spacing_mm_XYZ=(1.0, 1.0, 1.0),
    origin_mm_LPS=(-15.5, -15.5, -15.5),
    direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
)


def draw_spheres(seed: int, geometry: Geometry = CUBE, *, count: int | None = None) -> tuple[Volume, Label]:
    """One patient with `count` spheres (otherwise 0 to 3 of them), brighter than the noise but not by much."""
    random = np.random.default_rng((4, seed))
    middle_mm = geometry.corners_mm_LPS().mean(axis=0)
    half_mm = np.multiply(geometry.shape_ZYX[::-1], geometry.spacing_mm_XYZ) / 2
    direction = np.reshape(geometry.direction_LPS, (3, 3))
    image = random.normal(0, 1, geometry.shape_ZYX)
    spheres: list[tuple[np.ndarray, float]] = []
    wanted = int(random.integers(0, 4)) if count is None else count
    while len(spheres) < wanted:
        radius = random.uniform(*_RADIUS_MM)
        centre = middle_mm + direction @ random.uniform(radius - half_mm, half_mm - radius)
        if all(np.linalg.norm(centre - other) > radius + far + _APART_MM for other, far in spheres):
            spheres.append((centre, radius))
            image[sphere(geometry, centre, radius)] += 3.0
    boxes = tuple(
        Box(
            structure="nodule",
            centre_mm_LPS=(float(centre[0]), float(centre[1]), float(centre[2])),
            size_mm_XYZ=(2 * radius, 2 * radius, 2 * radius),
        )
        for centre, radius in spheres
    )
    empty = np.zeros((1, *geometry.shape_ZYX), dtype=np.uint8)
    label = Label(geometry=geometry, layers_LZYX=empty, boxes=boxes)
    return Volume(array_ZYX=image.astype(np.float32), geometry=geometry), label


def sphere(geometry: Geometry, centre_mm_LPS: Sequence[float], radius_mm: float) -> NDArray[np.bool_]:
    """The voxels (z, y, x) of a grid whose middles lie in a sphere."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in geometry.shape_ZYX), indexing="ij")
    point_mm = (np.stack([x, y, z, np.ones_like(x)], axis=-1) @ geometry.affine_LPS().T)[..., :3]
    inside: NDArray[np.bool_] = np.linalg.norm(point_mm - centre_mm_LPS, axis=-1) < radius_mm
    return inside


def sphere_plan(**values: Any) -> Plan:
    """A plan that a core trains in about a minute."""
    plan = Plan(
        task=ModelTask.DETECTION,
        targets=tuple(VALUES),
        values=tuple(VALUES.values()),
        spacing_mm_RAS=(1.0, 1.0, 1.0),
        patch_RAS=(32, 32, 32),
        normalisation=Normalisation.ZSCORE,
        intensity_mean=0.0,
        intensity_std=1.0,
        intensity_low=0.0,
        intensity_high=1.0,
        network="UNet",
        channels=(8, 8, 16, 32),
        strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
        batch=2,
        epochs=20,
        learning_rate=5e-3,
        weight_decay=1e-2,
        validate_every=10,
        mirror_axes=(0, 1, 2),
        precision=Precision.FP32,
        window_overlap=0.5,
        seed=3,
    )
    boxes = [size for seed in range(16) for size in sizes_mm_RAS(draw_spheres(seed)[1].boxes, CUBE)]
    return replace(plan_detection(plan, boxes), **values)
