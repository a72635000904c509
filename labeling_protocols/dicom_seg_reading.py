"""A DICOM Segmentation and the grid it is read onto in; the label it draws, and what else it states, out.

Reads BINARY, FRACTIONAL and LABELMAP (PS3.3 C.8.20.2). Each segment becomes the structure of its codes
(`dicom_seg_codes.py`), each frame lands where it lies in the patient (`dicom_frames.py`), and frames of other series
that the file also covers stay out (`dicom_grids.py`). What cannot be mapped is refused with the reason.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from labeling_protocols.dicom_frames import FramePart, macro, place_frame, spoken_mm
from labeling_protocols.dicom_grids import Onto, frames_of_others, onto_of
from labeling_protocols.dicom_items import SegError, items_of, numbers, text_of, value_of, whole_number
from labeling_protocols.dicom_seg_codes import is_background, structure_of
from labeling_protocols.dicom_seg_pixels import FrameFormat, frame_format, frames_of
from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Label, whole_structures
from labeling_protocols.protocol import Protocol

# A voxel of a FRACTIONAL segment belongs to the structure from this part of Maximum Fractional Value on.
FRACTION_MIN = 0.5

_SEGMENT_NUMBER_MAX = 65535
_UNDESCRIBED = -1

_Frame = tuple[NDArray[np.unsignedinteger[Any]], Dataset, str]  # as stored, its groups, and its name in refusals


class Fraction(StrEnum):
    """What the numbers of a FRACTIONAL segmentation are (PS3.3 C.8.20.2.3.2), in DICOM's words."""

    PROBABILITY = "PROBABILITY"  # that the structure is there
    OCCUPANCY = "OCCUPANCY"  # the part of the voxel that it fills


@dataclass(frozen=True, kw_only=True)
class SegReading:
    """What a segmentation says of one series in a protocol's words.

    `empty` are structures that have a segment without voxels here: said to be absent. `unstated` are outlined
    structures that no segment speaks of, which in the label look the same. `frames_of_others` were drawn on other
    series and left out. `fraction` is None unless the numbers were cut at `FRACTION_MIN`: of PROBABILITY that gives
    voxels at least as likely the structure as not, of OCCUPANCY those at least half filled.
    """

    label: Label
    empty: tuple[str, ...]
    unstated: tuple[str, ...]
    frames_of_others: int
    fraction: Fraction | None


def label_from_seg(seg: Dataset, protocol: Protocol, onto: Geometry | Sequence[Dataset]) -> Label:
    """The label a segmentation draws on a grid, or on that of a series, in the protocol's values; as `read_seg`."""
    return read_seg(seg, protocol, onto).label


def read_seg(seg: Dataset, protocol: Protocol, onto: Geometry | Sequence[Dataset]) -> SegReading:
    """What a segmentation says on a grid, or on the grid of a series' ordered slices or multi-frame images.

    Structures that overlap come into different layers. Raises `SegError` for a segment that is no structure of the
    protocol, two segments of one structure, structures that overlap and may not, a frame that does not lie on the grid
    within `dicom_frames.TOLERANCE_MM`, another frame of reference, or a file that contradicts itself; `SeriesError`
    for a series that has no grid.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote the values they complain of, which belong in no log
        return _read(seg, protocol, onto_of(onto))


def _read(seg: Dataset, protocol: Protocol, target: Onto) -> SegReading:
    kind = text_of(seg, "SegmentationType")
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise SegError(f"segmentation type {kind[:16] or 'missing'}; BINARY, FRACTIONAL or LABELMAP was expected")
    values = _values_by_number(seg, protocol)
    form = frame_format(seg)
    others = frames_of_others(seg, target)
    if all(others):
        raise SegError(f"none of the {len(others)} frames was drawn on this series; nothing was read")
    canvas = _Canvas(seg, target.geometry, protocol)
    frames = _wanted_frames(seg, form, others)
    fraction = None
    if kind == "LABELMAP":
        _draw_label_map(canvas, frames, _labelmap_table(seg, values, form.bits))
    elif kind == "BINARY":
        if form.bits > 8:
            raise SegError(f"a BINARY segmentation with {form.bits} bits a pixel; 1 was expected")
        _draw_segments(canvas, frames, values, 1)
    else:
        fraction, highest = _fraction_of(seg)
        _draw_segments(canvas, frames, values, highest)
    stated = set(values.values())
    return SegReading(
        label=canvas.label(),
        empty=tuple(name for name, value in protocol.values.items() if value in stated - canvas.present),
        unstated=tuple(name for name, value in protocol.values.items() if value not in stated),
        frames_of_others=sum(others),
        fraction=fraction,
    )


# Segments


def _values_by_number(seg: Dataset, protocol: Protocol) -> dict[int, int]:
    """The voxel value of the structure that each segment number stands for, 0 for the background."""
    segments = items_of(seg, "SegmentSequence")
    if not segments:
        raise SegError("the segmentation has no Segment Sequence, which says what its segments are; nothing was read")
    values: dict[int, int] = {}
    names = {value: name for name, value in protocol.values.items()}
    for segment in segments:
        number = whole_number(segment, "SegmentNumber", "a segment", 0, _SEGMENT_NUMBER_MAX)
        if number in values:
            raise SegError(f"two segments have the number {number}; nothing was read")
        value = 0 if is_background(segment) else structure_of(segment, protocol).value
        if value and value in values.values():
            raise SegError(f"two segments are coded as {names[value]}; one segment a structure was expected")
        values[number] = value
    return values


def _segment_number(seg: Dataset, own: Dataset, values: dict[int, int], where: str) -> int:
    item = macro(seg, own, "SegmentIdentificationSequence", where)
    number = whole_number(item, "ReferencedSegmentNumber", where, 0, _SEGMENT_NUMBER_MAX)
    if not values.get(number):
        raise SegError(f"{where} is of segment {number}, which the file does not describe; nothing was read")
    return number


def _labelmap_table(seg: Dataset, values: dict[int, int], bits: int) -> NDArray[np.int16]:
    """The voxel value for each pixel value of a label map, and -1 for one that means nothing.

    Pixel Padding Value designates the background (PS3.3 C.8.20.2.3.3); older files describe it as a segment, and where
    neither is there, 0 is it.
    """
    if bits == 1:
        raise SegError("a LABELMAP segmentation with 1 bit a pixel; 8 or 16 were expected")
    table = np.full(1 << bits, _UNDESCRIBED, np.int16)
    padding = value_of(seg, "PixelPaddingValue")
    if padding is None:
        table[0] = 0
    for number, value in values.items():
        if number < table.size:
            table[number] = value
    if padding is not None:
        table[whole_number(seg, "PixelPaddingValue", "the segmentation", 0, table.size - 1)] = 0
    return table


def _labelled(frame_YX: NDArray[np.unsignedinteger[Any]], table: NDArray[np.int16], where: str) -> NDArray[np.uint8]:
    values_YX = table[frame_YX]
    if values_YX.min() == _UNDESCRIBED:
        unknown = np.unique(frame_YX[values_YX == _UNDESCRIBED])[:8].tolist()
        raise SegError(f"{where} of the label map holds the values {unknown}, which no segment describes")
    return values_YX.astype(np.uint8)


def _fraction_of(seg: Dataset) -> tuple[Fraction, int]:
    kind = text_of(seg, "SegmentationFractionalType")
    if kind not in tuple(Fraction):
        raise SegError(
            f"a FRACTIONAL segmentation of type {kind[:16] or 'missing'}; PROBABILITY or OCCUPANCY was expected"
        )
    return Fraction(kind), whole_number(seg, "MaximumFractionalValue", "the segmentation", 1, 65535)


def _refuse_faint(numbers_: set[int], highest: int) -> None:
    """Refuse what would come to nothing unsaid: a writer that stores 1 for "drawn" and calls the maximum 255."""
    if numbers_:
        raise SegError(
            f"segments {sorted(numbers_)} have pixels, and none of them reaches half of Maximum Fractional Value"
            f" ({highest}); nothing was read"
        )


# Frames


def _wanted_frames(seg: Dataset, form: FrameFormat, others: Sequence[bool]) -> Iterator[_Frame]:
    """The frames that were not drawn on other series, each with its groups and a name for refusals."""
    groups = items_of(seg, "PerFrameFunctionalGroupsSequence")
    for index, (frame_YX, own) in enumerate(zip(frames_of(seg, form), groups, strict=True)):
        if not others[index]:
            yield frame_YX, own, _where(index, own)


def _draw_label_map(canvas: "_Canvas", frames: Iterator[_Frame], table: NDArray[np.int16]) -> None:
    for frame_YX, own, where in frames:
        values_YX = _labelled(frame_YX, table, where)
        canvas.draw(values_YX, set(np.unique(values_YX).tolist()) - {0}, own, where)


def _draw_segments(canvas: "_Canvas", frames: Iterator[_Frame], values: dict[int, int], highest: int) -> None:
    """Draw frames of one segment each, whose pixels belong to it from half of the highest value on."""
    drawn: set[int] = set()
    faint: set[int] = set()
    for frame_YX, own, where in frames:
        most = int(frame_YX.max())
        number = _segment_number(canvas.seg, own, values, where)
        if most > highest:
            raise SegError(f"{where} has the value {most}; at most {highest} was expected")
        if most >= FRACTION_MIN * highest:
            mask_YX = frame_YX >= FRACTION_MIN * highest
            canvas.draw(mask_YX * np.uint8(values[number]), {values[number]}, own, where)
            drawn.add(number)
        elif most:
            faint.add(number)
    _refuse_faint(faint - drawn, highest)


class _Canvas:
    """A grid's layers, to which frames are drawn one after the other; `present` are the values that were drawn."""

    def __init__(self, seg: Dataset, geometry: Geometry, protocol: Protocol) -> None:
        self.seg = seg
        self.present: set[int] = set()
        self._geometry = geometry
        self._protocol = protocol
        self._names = {value: name for name, value in protocol.values.items()}
        self._layers = [np.zeros(geometry.shape_ZYX, np.uint8)]

    def draw(self, values_YX: NDArray[np.uint8], found: set[int], own: Dataset, where: str) -> None:
        """Draw a frame's values, those `found` in it and 0, where its groups place it. Raises `SegError`."""
        if found:
            self._draw(place_frame(self.seg, own, self._geometry, values_YX, where), where)
            self.present |= found

    def _draw(self, part: FramePart, where: str) -> None:
        """Put a frame's values into the first layer with room for them, or into a new one where they may overlap."""
        drawn = part.values_2D
        shared_by: set[tuple[int, int]] = set()
        for layer_ZYX in self._layers:
            before = layer_ZYX[part.index_ZYX]
            shared = (before != 0) & (drawn != 0) & (before != drawn)
            if not shared.any():
                np.copyto(before, drawn, where=drawn != 0)
                return
            shared_by |= {(int(a), int(b)) for a, b in np.unique(np.stack([before[shared], drawn[shared]]), axis=1).T}
            for a, b in shared_by:
                if not self._protocol.may_overlap(self._names[a], self._names[b]):
                    raise SegError(
                        f"two segments of the protocol overlap, {self._names[a]} and {self._names[b]} ({where});"
                        " one structure a voxel was expected"
                    )
        self._layers.append(np.zeros_like(self._layers[0]))
        self._layers[-1][part.index_ZYX] = drawn

    def label(self) -> Label:
        if len(self._layers) == 1:
            return Label(geometry=self._geometry, layers_LZYX=self._layers[0][np.newaxis])
        return Label(geometry=self._geometry, layers_LZYX=whole_structures(np.stack(self._layers)))


def _where(index: int, own: Dataset) -> str:
    """A frame in words: its number, and its first pixel's place where it has one of its own."""
    positions = items_of(own, "PlanePositionSequence")
    if not positions or value_of(positions[0], "ImagePositionPatient") is None:
        return f"frame {index + 1}"
    return f"frame {index + 1} at {spoken_mm(numbers(positions[0], 'ImagePositionPatient', 3, f'frame {index + 1}'))}"
