"""A reading of the LIDC-IDRI and the slices it was made on in, the label its radiologist would have saved here out.

The LIDC's contours run through the first pixels outside the nodule: a contour's own pixels are never part of it,
whether the contour is round the nodule or round a hole in it (so does pylidc; Hancock and Magnan 2016, J Med Imaging
3:044504). Pixels count from 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.contours import drawn
from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Answer, Box, Label, Point
from labeling_protocols.lidc import Contour, LidcError, Nodule, Reading
from labeling_protocols.protocol import Protocol, Task
from labeling_protocols.protocol_parts import IntegerQuestion
from labeling_protocols.series import Series

# The structures of a protocol that LIDC's marks become.
NODULE, MICRONODULE = "nodule", "micronodule"


@dataclass(frozen=True, kw_only=True)
class Slices:
    """Where a series' images lie: their grid, the place of each SOP Instance UID on its z axis, each place's z."""

    geometry: Geometry
    places: Mapping[str, int]
    z_mm: tuple[float, ...]

    @classmethod
    def of(cls, series: Series) -> "Slices":
        return cls(
            geometry=series.volume.geometry,
            places={str(source.SOPInstanceUID): place for place, source in enumerate(series.sources)},
            z_mm=tuple(float(source.ImagePositionPatient[2]) for source in series.sources),
        )

    def place(self, contour: Contour) -> int | None:
        """Which slice a contour lies on, None beyond the series' ends; raises `LidcError` where UID and z disagree."""
        place, half_mm = self.places.get(contour.sop_uid), self.geometry.spacing_mm_XYZ[2] / 2
        if place is None:
            if self.beyond(contour.z_mm):
                return None
            raise LidcError(
                f"an image is marked at z {contour.z_mm:.2f} mm that the series, from {min(self.z_mm):.2f} to"
                f" {max(self.z_mm):.2f} mm, does not have: images are missing, or it is another series"
            )
        if abs(contour.z_mm - self.z_mm[place]) > half_mm:
            raise LidcError(
                f"an image is marked as lying at z {contour.z_mm:.2f} mm, and lies at {self.z_mm[place]:.2f} mm;"
                f" at most {half_mm:.2f} mm apart was expected"
            )
        return place

    def beyond(self, z_mm: float) -> bool:
        """Whether a place lies beyond the ends of the series."""
        half_mm = self.geometry.spacing_mm_XYZ[2] / 2
        return not min(self.z_mm) - half_mm < z_mm < max(self.z_mm) + half_mm


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What became of a reading's marks."""

    nodules: int = 0
    micronodules: int = 0
    non_nodules: int = 0  # left out: no findings of the radiologist's
    beyond: int = 0  # left out: nodules and micronodules on no image of the series
    cut: int = 0  # nodules some of whose slices are not in the series
    without_outline: int = 0  # nodules whose contours enclose no pixel: boxed, not outlined
    slices_beyond_mm: frozenset[float] = frozenset()  # z of the slices that are marked and not in the series


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadingLabel:
    """One radiologist's label, and what became of his marks."""

    label: Label
    tally: Tally


@dataclass(frozen=True, kw_only=True, eq=False)
class _Solid:
    """One nodule on the grid; `mask_ZYX` is what its contours enclose within `region`, and may be empty."""

    region: tuple[slice, slice, slice]
    mask_ZYX: NDArray[np.bool_]
    box: Box
    ratings: Mapping[str, int]

    @property
    def suspicion(self) -> tuple[int, int]:
        """Orders nodules by malignancy, one that was not rated last, and then by size."""
        return self.ratings.get("malignancy", 0), int(self.mask_ZYX.sum())


_Placed = Sequence[tuple[int, Contour]]  # contours with the slices they lie on


def require_nodules(protocol: Protocol) -> None:
    """Refuse a protocol that has no place for what the LIDC marked."""
    if not {Task.BOXES, Task.SEGMENTATION} & _tasks(protocol, NODULE):
        raise LidcError(
            f"protocol {protocol.name} has no structure {NODULE!r} to outline or box; one like lung_nodule was expected"
        )


def label_of(reading: Reading, slices: Slices, protocol: Protocol) -> ReadingLabel:
    """What this radiologist marked on these slices, as the protocol asks for it.

    A nodule becomes its outline and a box round it; one whose contours enclose no pixel (a single point, a line) a box
    round the contours themselves: that he found it is kept, and no voxel is made up. A nodule below 3 mm becomes a
    point. The answers are the ratings of his most suspicious nodule. What lies on no slice of the series is left out
    and counted. Raises `LidcError` where marks and slices do not belong together.
    """
    placed = [(nodule, _placed(nodule, slices)) for nodule in reading.nodules]
    outlined = [(nodule, on) for nodule, on in placed if on and not nodule.below_3_mm]
    solids = [_solid(nodule, on, slices.geometry) for nodule, on in outlined]
    small = [_middle(on, slices.geometry) for nodule, on in placed if on and nodule.below_3_mm]
    label = Label(
        geometry=slices.geometry,
        layers_LZYX=_layers_LZYX(solids, slices.geometry, protocol),
        boxes=tuple(solid.box for solid in solids) if Task.BOXES in _tasks(protocol, NODULE) else (),
        points=tuple(small) if Task.POINTS in _tasks(protocol, MICRONODULE) else (),
        answers=_answers(max(solids, key=lambda solid: solid.suspicion, default=None), protocol),
    )
    marked_mm = [contour.z_mm for nodule in reading.nodules for contour in nodule.contours]
    tally = Tally(
        nodules=len(solids),
        micronodules=len(small),
        non_nodules=len(reading.non_nodules_mm),
        beyond=sum(not on for _, on in placed),
        cut=sum(len(on) < len(nodule.contours) for nodule, on in outlined),
        without_outline=sum(not solid.mask_ZYX.any() for solid in solids),
        slices_beyond_mm=frozenset(filter(slices.beyond, [*marked_mm, *reading.non_nodules_mm])),
    )
    return ReadingLabel(label=label, tally=tally)


def _tasks(protocol: Protocol, name: str) -> set[Task]:
    return {task for structure in protocol.structures if structure.name == name for task in structure.tasks}


# Where it lies


def _placed(nodule: Nodule, slices: Slices) -> _Placed:
    """The nodule's contours that lie on slices of the series."""
    _, rows, columns = slices.geometry.shape_ZYX
    found = [(place, contour) for contour in nodule.contours if (place := slices.place(contour)) is not None]
    for _, contour in found:
        low, high = np.min(contour.points_XY, axis=0), np.max(contour.points_XY, axis=0)
        if low.min() < 0 or high[0] >= columns or high[1] >= rows:
            raise LidcError(
                f"a contour at z {contour.z_mm:.2f} mm reaches column {high[0]}, row {high[1]};"
                f" images of {columns} columns and {rows} rows were expected"
            )
    return found


def _solid(nodule: Nodule, on: _Placed, geometry: Geometry) -> _Solid:
    lines = [(place, contour.inclusion, drawn(contour.points_XY)) for place, contour in on]
    region = _bounds([(slice(place, place + 1), *line.region) for place, _, line in lines])
    first = tuple(side.start for side in region)
    mask_ZYX = np.zeros([side.stop - side.start for side in region], np.bool_)
    line_ZYX = np.zeros_like(mask_ZYX)
    # Holes last: one contour may lie in the other whatever their order in the file.
    for place, inclusion, line in sorted(lines, key=lambda each: not each[1]):
        rows, columns = (
            slice(side.start - begun, side.stop - begun) for side, begun in zip(line.region, first[1:], strict=True)
        )
        here = (place - first[0], rows, columns)
        line_ZYX[here] |= line.line_YX
        if inclusion:
            mask_ZYX[here] |= line.inside_YX
        else:
            mask_ZYX[here] &= ~(line.inside_YX | line.line_YX)
    box = _box(mask_ZYX if mask_ZYX.any() else line_ZYX, first, geometry)
    return _Solid(region=region, mask_ZYX=mask_ZYX, box=box, ratings=nodule.ratings)


def _bounds(regions: Sequence[tuple[slice, slice, slice]]) -> tuple[slice, slice, slice]:
    """The smallest region that all of these lie in."""
    z, y, x = (
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*regions, strict=True)
    )
    return (z, y, x)


def _box(mask_ZYX: NDArray[np.bool_], first_ZYX: Sequence[int], geometry: Geometry) -> Box:
    """The box round these voxels, to their outer edges."""
    found_ZYX = np.argwhere(mask_ZYX) + first_ZYX
    low_XYZ, high_XYZ = found_ZYX.min(axis=0)[::-1], found_ZYX.max(axis=0)[::-1]
    x_mm, y_mm, z_mm = ((high_XYZ - low_XYZ + 1) * geometry.spacing_mm_XYZ).tolist()
    centre = _mm_LPS((low_XYZ + high_XYZ) / 2, geometry)
    return Box(structure=NODULE, centre_mm_LPS=centre, size_mm_XYZ=(x_mm, y_mm, z_mm))


def _middle(on: _Placed, geometry: Geometry) -> Point:
    """The point of a nodule below 3 mm; of several slices, the one in the middle."""
    place, contour = sorted(on, key=lambda each: each[0])[len(on) // 2]
    index_XYZ = np.array([*contour.points_XY[0], place], float)
    return Point(structure=MICRONODULE, position_mm_LPS=_mm_LPS(index_XYZ, geometry))


def _mm_LPS(index_XYZ: NDArray[np.float64], geometry: Geometry) -> tuple[float, float, float]:
    x, y, z = (geometry.affine_LPS() @ [*index_XYZ, 1.0])[:3].tolist()
    return (x, y, z)


def _layers_LZYX(solids: Sequence[_Solid], geometry: Geometry, protocol: Protocol) -> NDArray[np.uint8]:
    if Task.SEGMENTATION not in _tasks(protocol, NODULE):
        return np.zeros((0, *geometry.shape_ZYX), np.uint8)
    layer_ZYX = np.zeros(geometry.shape_ZYX, np.uint8)
    for solid in solids:
        layer_ZYX[solid.region][solid.mask_ZYX] = protocol.values[NODULE]
    return layer_ZYX[np.newaxis]


# What he said of it


def _answers(solid: _Solid | None, protocol: Protocol) -> dict[str, Answer]:
    """The ratings of a nodule, as answers to the questions of the same names."""
    ratings = {} if solid is None else solid.ratings
    asked = {question.name: question for question in protocol.questions if isinstance(question, IntegerQuestion)}
    return {
        name: rating
        for name, rating in ratings.items()
        if name in asked and asked[name].min <= rating <= asked[name].max
    }
