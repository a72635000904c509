"""Slices of one stack in, their order and regular grid out, or a refusal in words.

Order and spacing come from Image Position (Patient) alone: SliceThickness and SpacingBetweenSlices are wrong often
enough to be useless, and instance numbers and file names say nothing about the patient. Refusals name places in
millimetres along the slice normal, never an identifier, so that they can be logged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.geometry import Geometry

# How far a slice may lie from the regular grid, and a direction from a right angle.
POSITION_TOLERANCE_MM = 0.1
ANGLE_TOLERANCE = 1e-3


class SeriesError(ValueError):
    """A series that does not give one volume: what was found, where along the stack, what was expected."""


class Placed(Protocol):
    """A slice and its place in the patient (PS3.3 C.7.6.2)."""

    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def position_mm_LPS(self) -> tuple[float, float, float]: ...
    @property
    def orientation_LPS(self) -> tuple[float, float, float, float, float, float]: ...
    @property
    def spacing_mm_YX(self) -> tuple[float, float]: ...
    @property
    def frame_of_reference(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A slice's place, by itself."""

    rows: int
    columns: int
    position_mm_LPS: tuple[float, float, float]
    orientation_LPS: tuple[float, float, float, float, float, float]
    spacing_mm_YX: tuple[float, float]
    frame_of_reference: str


def require_one_stack(slices: Sequence[Placed]) -> None:
    """Raise `SeriesError` unless the slices are at least two, alike and parallel."""
    for found, what in (
        ({one.frame_of_reference for one in slices}, "frames of reference"),
        ({one.rows for one in slices}, "image heights"),
        ({one.columns for one in slices}, "image widths"),
    ):
        if len(found) > 1:
            raise SeriesError(f"{len(found)} different {what} in one stack of {len(slices)} slices, one was expected")
    spacings = np.array([one.spacing_mm_YX for one in slices])
    if spacings.min() <= 0:
        raise SeriesError(f"Pixel Spacing must be positive, found {spacings.min():g} mm")
    if np.ptp(spacings, axis=0).max() > ANGLE_TOLERANCE * spacings.max():
        raise SeriesError("the slices have different Pixel Spacings, one was expected")
    if len(slices) == 1:
        raise SeriesError("one slice is no volume: its spacing cannot be known; at least 2 were expected")
    orientations = np.array([one.orientation_LPS for one in slices])
    apart = np.abs(orientations - orientations[0]).max(axis=1) > ANGLE_TOLERANCE
    if apart.any():
        raise SeriesError(
            f"mixed orientations: {int(apart.sum())} of {len(slices)} slices are turned against the first"
            " (a localizer or a second stack in the same series?)"
        )


def order_along_normal(slices: Sequence[Placed]) -> list[int]:
    """Which slice comes first along row × column, which second and so on."""
    along_mm = np.array([one.position_mm_LPS for one in slices]) @ _axes(slices[0].orientation_LPS)[:, 2]
    return [int(i) for i in np.argsort(along_mm, kind="stable")]


def grid_of(ordered: Sequence[Placed]) -> Geometry:
    """The grid of slices in order along their normal; raises `SeriesError` where they make no regular one."""
    first = ordered[0]
    axes = _axes(first.orientation_LPS)
    positions_mm = np.array([one.position_mm_LPS for one in ordered])
    spacing_z_mm = _regular_spacing_mm(positions_mm, axes[:, 2])
    row_mm, column_mm = first.spacing_mm_YX
    return Geometry(
        shape_ZYX=(len(ordered), first.rows, first.columns),
        spacing_mm_XYZ=(float(column_mm), float(row_mm), spacing_z_mm),
        origin_mm_LPS=(float(positions_mm[0, 0]), float(positions_mm[0, 1]), float(positions_mm[0, 2])),
        direction_LPS=tuple(float(v) for v in axes.ravel()),
    )


def _regular_spacing_mm(positions_mm: NDArray[np.float64], normal: NDArray[np.float64]) -> float:
    """The distance from slice to slice of a stack that is regular within the tolerance; refuses any other."""
    along_mm = positions_mm @ normal
    gaps_mm = np.diff(along_mm)
    usual_mm = float(np.median(gaps_mm))
    touching = np.flatnonzero(gaps_mm < 1e-3)
    if touching.size:
        raise SeriesError(
            f"{touching.size + 1} or more of {len(along_mm)} slices share a place (duplicate positions, first at"
            f" {along_mm[touching[0]]:.1f} mm): several volumes in one series, or slices sent twice under new UIDs"
        )
    tolerance_mm = min(POSITION_TOLERANCE_MM, 0.1 * usual_mm)
    widest = int(np.argmax(gaps_mm))
    if gaps_mm[widest] > 1.5 * usual_mm:
        missing = round(float(gaps_mm[widest]) / usual_mm) - 1
        raise SeriesError(
            f"missing slice: {missing} or more between {along_mm[widest]:.1f} and {along_mm[widest + 1]:.1f} mm along"
            f" the normal, where the slices are otherwise {usual_mm:.2f} mm apart ({len(along_mm)} slices)"
        )
    spacing_mm = float(along_mm[-1] - along_mm[0]) / (len(along_mm) - 1)
    off_mm = np.abs(along_mm - (along_mm[0] + spacing_mm * np.arange(len(along_mm))))
    if off_mm.max() > tolerance_mm:
        raise SeriesError(
            f"uneven spacing: gaps from {gaps_mm.min():.2f} to {gaps_mm.max():.2f} mm, a slice lies"
            f" {off_mm.max():.2f} mm off the regular grid; at most {tolerance_mm:.2f} mm was expected"
        )
    _refuse_shear(positions_mm, normal)
    return spacing_mm


def _refuse_shear(positions_mm: NDArray[np.float64], normal: NDArray[np.float64]) -> None:
    steps_mm = positions_mm - positions_mm[0]
    aside_mm = np.linalg.norm(steps_mm - np.outer(steps_mm @ normal, normal), axis=1)
    if aside_mm.max() > POSITION_TOLERANCE_MM:
        degrees = float(np.degrees(np.arctan2(aside_mm[-1], abs(steps_mm[-1] @ normal))))
        raise SeriesError(
            f"sheared stack: the slices drift {aside_mm.max():.1f} mm sideways, {degrees:.1f}° from their normal"
            f" (gantry tilt?); at most {POSITION_TOLERANCE_MM} mm was expected"
        )


def _axes(orientation_LPS: Sequence[float]) -> NDArray[np.float64]:
    """3×3 matrix whose columns are the x (along a row), y (down a column) and z (row × column) directions."""
    row, column = np.reshape(np.array(orientation_LPS, dtype=np.float64), (2, 3))
    lengths = (float(np.linalg.norm(row)), float(np.linalg.norm(column)))
    if max(abs(length - 1) for length in lengths) > ANGLE_TOLERANCE or abs(float(row @ column)) > ANGLE_TOLERANCE:
        raise SeriesError(
            "Image Orientation (Patient) is no pair of unit vectors at right angles: lengths"
            f" {lengths[0]:.4f} and {lengths[1]:.4f}, product {float(row @ column):.4f}"
        )
    x = row / lengths[0]
    y = column - (column @ x) * x
    y /= np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y)], axis=1)
