"""What a segmentation is read onto in, slices or multi-frame images or a bare grid; grid and references out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from labeling_protocols.dicom_frames import macro
from labeling_protocols.dicom_items import SegError, items_of, numbers, text_of, whole_number
from labeling_protocols.geometry import Geometry
from labeling_protocols.series import geometry_of
from labeling_protocols.stack import ANGLE_TOLERANCE

_SAME_PLACE_MM = 1e-3
_FRAMES_MAX = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Onto:
    """A grid and, where it is a series', the UIDs by which a segmentation may refer to it."""

    geometry: Geometry
    series: str = ""
    instances: frozenset[str] = frozenset()
    frame_of_reference: str = ""


def onto_of(onto: Geometry | Sequence[Dataset]) -> Onto:
    """The grid of ordered slices, or of one series' multi-frame images whose frames lie at the places of one grid.

    Frames of several volumes in one object (echoes, directions, times) share their places and are one grid. Raises
    `SeriesError` where the places make no regular grid, `SegError` where a frame has no place.
    """
    if isinstance(onto, Geometry):
        return Onto(geometry=onto)
    images = list(onto)
    multi_frame = any(items_of(image, "PerFrameFunctionalGroupsSequence") for image in images)
    return Onto(
        geometry=_grid_of_frames(images) if multi_frame else geometry_of(images),
        series=text_of(images[0], "SeriesInstanceUID"),
        instances=frozenset(text_of(image, "SOPInstanceUID") for image in images),
        frame_of_reference=text_of(images[0], "FrameOfReferenceUID"),
    )


def frames_of_others(seg: Dataset, onto: Onto) -> list[bool]:
    """For each frame, whether it was drawn on another series than the one wanted.

    A frame tells by the instances it was derived from (PS3.3 C.7.6.16.2.6); one that refers to none, or to instances
    that no series of the file lists, is judged by its place. So is every frame of a file that does not refer to the
    wanted series at all: it was drawn on another series of the same frame of reference, and means the same place.
    Raises `SegError` where it is of another frame of reference; early 3D Slicer gave its segmentations one of their
    own, so a file that refers to the series' own slices is taken at its word and its places are compared.
    """
    groups = items_of(seg, "PerFrameFunctionalGroupsSequence")
    others, ours = _listed_instances(seg, onto)
    shared = _derived_from(items_of(seg, "SharedFunctionalGroupsSequence"))
    derived = [_derived_from([own]) or shared for own in groups] if onto.series and (others or not ours) else []
    ours = ours or any(instances & onto.instances for instances in derived)
    theirs = text_of(seg, "FrameOfReferenceUID")
    if theirs and onto.frame_of_reference and theirs != onto.frame_of_reference and not ours:
        raise SegError(
            "the segmentation has another frame of reference than the series and does not refer to it, so their places"
            " cannot be compared; a segmentation of this series was expected"
        )
    if not ours or not others or not derived:
        return [False] * len(groups)
    return [not instances & onto.instances and bool(instances & others) for instances in derived]


def _listed_instances(seg: Dataset, onto: Onto) -> tuple[frozenset[str], bool]:
    """The instances the file lists of other series, and whether it lists the wanted series (PS3.3 C.12.1.2)."""
    studies = items_of(seg, "StudiesContainingOtherReferencedInstancesSequence")
    listed = [series for item in (seg, *studies) for series in items_of(item, "ReferencedSeriesSequence")]
    others: set[str] = set()
    ours = False
    for series in listed:
        instances = {
            text_of(item, "ReferencedSOPInstanceUID") for item in items_of(series, "ReferencedInstanceSequence")
        }
        if text_of(series, "SeriesInstanceUID") == onto.series or instances & onto.instances:
            ours = True
        else:
            others |= instances
    return frozenset(others), ours


def _derived_from(groups: Sequence[Dataset]) -> frozenset[str]:
    return frozenset(
        text_of(source, "ReferencedSOPInstanceUID")
        for group in groups
        for derivation in items_of(group, "DerivationImageSequence")
        for source in items_of(derivation, "SourceImageSequence")
    )


def _grid_of_frames(images: Sequence[Dataset]) -> Geometry:
    planes = [plane for image in images for plane in _planes(image)]
    turned = np.array([list(plane.ImageOrientationPatient) for plane in planes], float)
    sizes = np.array([[*plane.PixelSpacing, plane.Rows, plane.Columns] for plane in planes], float)
    if np.ptp(turned, axis=0).max() > ANGLE_TOLERANCE or np.ptp(sizes, axis=0).max() > ANGLE_TOLERANCE * sizes.max():
        raise SegError("the image's frames have several orientations or sizes; one grid was expected")
    normal = np.cross(turned[0, :3], turned[0, 3:])
    along_mm = np.array([list(plane.ImagePositionPatient) for plane in planes], float) @ normal
    order = np.argsort(along_mm, kind="stable")
    distinct = [
        int(here) for k, here in enumerate(order) if k == 0 or along_mm[here] - along_mm[order[k - 1]] > _SAME_PLACE_MM
    ]
    if len(distinct) < 2:
        raise SegError("the image's frames lie at one place; its spacing cannot be known, at least 2 were expected")
    return geometry_of([planes[k] for k in distinct])


def _planes(image: Dataset) -> list[Dataset]:
    """A multi-frame image's frames as the few elements that say where a slice lies (PS3.3 C.7.6.16)."""
    planes = []
    rows = whole_number(image, "Rows", "the image", 1, 65535)
    columns = whole_number(image, "Columns", "the image", 1, 65535)
    for number, groups in enumerate(items_of(image, "PerFrameFunctionalGroupsSequence"), start=1):
        where = f"frame {number} of the image"
        plane = Dataset()
        plane.Rows, plane.Columns = rows, columns
        for sequence, keyword, count in (
            ("PlanePositionSequence", "ImagePositionPatient", 3),
            ("PlaneOrientationSequence", "ImageOrientationPatient", 6),
            ("PixelMeasuresSequence", "PixelSpacing", 2),
        ):
            setattr(plane, keyword, list(numbers(macro(image, groups, sequence, where), keyword, count, where)))
        planes.append(plane)
    return planes
