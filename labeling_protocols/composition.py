"""What an adjudicator's parts come to: labels of a case and what is taken from which in, one label out. Pure functions.

The narrower part counts: one for a lesion over one for its structure, and that over one for the whole case.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from labeling_protocols.findings import assigned, boxes_of, centre_mm_LPS, matched, points_of, sameness
from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Box, Label, Point
from labeling_protocols.lesions import Lesion
from labeling_protocols.part_sources import EDIT, NONE, READER, CompositionError, Sources
from labeling_protocols.protocol import Protocol, Structure, Task
from labeling_protocols.records import Part
from labeling_protocols.surfaces import NEIGHBOURS_26, Mask, Region, region_of

__all__ = ["Composed", "CompositionError", "compose"]

_WHOLE, _STRUCTURE, _LESION = 1, 2, 3  # how narrow the part is that a voxel comes from; 0 for no voxel
_NO_EDITS: Mapping[str, Label] = MappingProxyType({})

_Finding = TypeVar("_Finding", Box, Point)


@dataclass(frozen=True, kw_only=True, eq=False)
class Composed:
    """The label, and how many voxels two structures claimed that may not overlap: the narrower part's has them, and of
    equally narrow ones the structure that comes first in the protocol."""

    label: Label
    clashing_voxels: int


def compose(
    protocol: Protocol, labels: Mapping[str, Label], parts: Sequence[Part], edits: Mapping[str, Label] = _NO_EDITS
) -> Composed:
    """The label of these parts, in any order; `labels` goes by reader, `edits` by source ("edit:7").

    Every structure has to come from somewhere: from a part for the whole case, from one of its own, or each of its
    lesions from a part. Answers are those of the whole case's source; where it has none (no such part, "none", or an
    edit in a program without questions), those that most readers gave. Of an edit, a lesion is what hangs together with
    it and is no other lesion's, though no reader outlined it.
    Raises `CompositionError`, in words that name no reader.
    """
    sources = Sources(protocol, labels, parts, edits)
    sources.check()
    whole = sources.of.get((None, None))
    if len(parts) == 1 and whole is not None and whole != NONE:
        label = sources.label(whole)
        return Composed(label=replace(label, answers=sources.answers()), clashing_voxels=0)
    region = _region(sources)
    width_SZYX = {structure.name: _outline(sources, structure, region) for structure in protocol.outlined}
    clashing_voxels = _part(protocol, width_SZYX)
    layers_LZYX = _layers(protocol, width_SZYX, region, sources.geometry.shape_ZYX)
    if not any(len(label.layers_LZYX) for label in sources.used()):
        layers_LZYX = layers_LZYX[:0]
    label = Label(
        geometry=sources.geometry,
        layers_LZYX=layers_LZYX,
        boxes=tuple(box for structure in protocol.structures for box in _boxes(sources, structure)),
        points=tuple(point for structure in protocol.structures for point in _points(sources, structure)),
        answers=sources.answers(),
    )
    return Composed(label=label, clashing_voxels=clashing_voxels)


def _outline(sources: Sources, structure: Structure, region: Region) -> NDArray[np.uint8]:
    """Within the region, 0 where the structure is not, otherwise how narrow the part is that put it there."""
    source, width = _base(sources, structure)
    base_ZYX = _mask(sources, source, structure.value, region)
    width_ZYX = base_ZYX.astype(np.uint8) * np.uint8(width)
    lesions = {one.number: _mask_in(one, region) for one in sources.lesions_in_parts(structure.name)}
    for number, taken in sources.lesion_parts(structure.name):
        others_ZYX = np.logical_or.reduce([mask for other, mask in lesions.items() if other != number], axis=0)
        width_ZYX[_of_lesion(source, base_ZYX, lesions[number], others_ZYX)] = 0
        taken_ZYX = _mask(sources, taken, structure.value, region)
        width_ZYX[_of_lesion(taken, taken_ZYX, lesions[number], others_ZYX)] = _LESION
    return width_ZYX


def _boxes(sources: Sources, structure: Structure) -> list[Box]:
    if Task.BOXES not in structure.tasks:
        return []
    return _findings(
        sources,
        structure,
        {source: boxes_of(sources.label(source), structure.name) for source in dict.fromkeys(sources.of.values())},
        {lesion.number: lesion.boxes for lesion in sources.lesions_in_parts(structure.name)},
    )


def _points(sources: Sources, structure: Structure) -> list[Point]:
    if Task.POINTS not in structure.tasks:
        return []
    return _findings(
        sources,
        structure,
        {source: points_of(sources.label(source), structure.name) for source in dict.fromkeys(sources.of.values())},
        {lesion.number: lesion.points for lesion in sources.lesions_in_parts(structure.name)},
    )


def _findings(
    sources: Sources,
    structure: Structure,
    of_source: Mapping[str, Sequence[_Finding]],
    of_lesion: Mapping[int, Mapping[str, _Finding]],
) -> list[_Finding]:
    """The base's boxes or points but for those of lesions that have a part, and these parts' own."""
    source, _ = _base(sources, structure)
    base = of_source.get(source, ())
    parts = sources.lesion_parts(structure.name)
    if not parts:
        return list(base)
    home = _homes(sources, structure, source, base, of_lesion)
    decided = {number for number, _ in parts}
    findings = [finding for finding, number in zip(base, home, strict=True) if number not in decided]
    for number, taken in parts:
        homes = _homes(sources, structure, taken, of_source[taken], of_lesion)
        findings += [finding for finding, home in zip(of_source[taken], homes, strict=True) if home == number]
    return findings


def _homes(
    sources: Sources,
    structure: Structure,
    source: str,
    findings: Sequence[_Finding],
    of_lesion: Mapping[int, Mapping[str, _Finding]],
) -> list[int | None]:
    """The number of the lesion that each of a source's boxes or points belongs to, None for none.

    A reader's are known. Those of a consensus or an edit belong, one to one, to the nearest lesion of which any
    reader has the same, or in whose box or match distance they lie.
    """
    kind, _, reader = source.partition(":")
    if kind == READER:
        known = {of_reader[reader]: number for number, of_reader in of_lesion.items() if reader in of_reader}
        return [known.get(finding) for finding in findings]
    lesions: tuple[Lesion, ...] = sources.lesions[structure.name]
    if not (lesions and findings):
        return [None] * len(findings)
    same = sameness(sources.protocol.agreement[structure.name], sources.geometry)
    same = same if isinstance(findings[0], Box) else same.of_points
    places_mm = np.array([centre_mm_LPS(finding) for finding in findings])
    apart_mm = np.array([np.linalg.norm(places_mm - lesion.centre_mm_LPS, axis=1) for lesion in lesions])
    near = apart_mm <= (same.mm_max or 0.0)
    near |= np.array([_in_region(lesion, places_mm, sources.geometry) for lesion in lesions])
    of_readers = [list(of_lesion[number].values()) for number in range(1, len(lesions) + 1)]
    near |= np.array([[bool(matched([finding], theirs, same)) for finding in findings] for theirs in of_readers])
    homes: list[int | None] = [None] * len(findings)
    for row, index in assigned(apart_mm, near):
        homes[index] = lesions[row].number
    return homes


def _base(sources: Sources, structure: Structure) -> tuple[str, int]:
    """Where a structure comes from but for its lesions' own parts, and how narrow that part is."""
    if (structure.name, None) in sources.of:
        return sources.of[structure.name, None], _STRUCTURE
    return sources.of.get((None, None), NONE), _WHOLE


def _region(sources: Sources) -> Region:
    """The box around all that any source outlined."""
    return region_of([layer_ZYX for label in sources.used() for layer_ZYX in label.layers_LZYX])


def _mask(sources: Sources, source: str, value: int, region: Region) -> Mask:
    mask: Mask = (sources.label(source).layers_LZYX[:, *region] == value).any(axis=0)
    return mask


def _mask_in(lesion: Lesion, region: Region) -> Mask:
    """Where readers outlined a lesion, within the region; what lies outside it no source outlined."""
    mask_ZYX = np.zeros([side.stop - side.start for side in region], np.bool_)
    if lesion.region is None or lesion.mask_ZYX is None:
        return mask_ZYX
    into: list[slice] = []
    out_of: list[slice] = []
    for side, own in zip(region, lesion.region, strict=True):
        start, stop = max(side.start, own.start), max(min(side.stop, own.stop), max(side.start, own.start))
        into.append(slice(start - side.start, stop - side.start))
        out_of.append(slice(start - own.start, stop - own.start))
    mask_ZYX[tuple(into)] = lesion.mask_ZYX[tuple(out_of)]
    return mask_ZYX


def _of_lesion(source: str, mask_ZYX: Mask, lesion_ZYX: Mask, others_ZYX: Mask) -> Mask:
    """What of a source's outline belongs to a lesion: of an edit also what hangs together with it and is no other's."""
    within: Mask = mask_ZYX & lesion_ZYX
    if source.partition(":")[0] != EDIT:
        return within
    component_ZYX, _ = ndimage.label(mask_ZYX & ~others_ZYX, NEIGHBOURS_26)
    touched = np.unique(component_ZYX[within & ~others_ZYX])
    return within | np.isin(component_ZYX, touched[touched > 0])


def _in_region(lesion: Lesion, places_mm: NDArray[np.float64], geometry: Geometry) -> NDArray[np.bool_]:
    """Which places lie in the box around a lesion's outline."""
    if lesion.region is None:
        return np.zeros(len(places_mm), np.bool_)
    affine = geometry.affine_LPS()
    index_ZYX = (np.linalg.inv(affine[:3, :3]) @ (places_mm - affine[:3, 3]).T).T[:, ::-1]
    low, high = (np.array([getattr(side, end) for side in lesion.region]) - 0.5 for end in ("start", "stop"))
    within: NDArray[np.bool_] = ((index_ZYX >= low) & (index_ZYX <= high)).all(axis=1)
    return within


def _part(protocol: Protocol, width_SZYX: Mapping[str, NDArray[np.uint8]]) -> int:
    """Leave each voxel to one of two structures that may not overlap; returns how many voxels were claimed so."""
    clashing: Mask | None = None
    for (a, a_ZYX), (b, b_ZYX) in combinations(width_SZYX.items(), 2):
        if not protocol.may_overlap(a, b):
            both_ZYX = (a_ZYX > 0) & (b_ZYX > 0)
            clashing = both_ZYX if clashing is None else clashing | both_ZYX
            a_wins = a_ZYX >= b_ZYX
            b_ZYX[both_ZYX & a_wins] = 0
            a_ZYX[both_ZYX & ~a_wins] = 0
    return 0 if clashing is None else int(np.count_nonzero(clashing))


def _layers(
    protocol: Protocol,
    width_SZYX: Mapping[str, NDArray[np.uint8]],
    region: Region,
    shape_ZYX: tuple[int, int, int],
) -> NDArray[np.uint8]:
    """The structures in as few layers as they fit in one after the other; at least one layer."""
    cuts = [np.zeros([side.stop - side.start for side in region], np.uint8)]
    for structure in protocol.outlined:
        drawn_ZYX = width_SZYX[structure.name] > 0
        fits = next((cut_ZYX for cut_ZYX in cuts if not cut_ZYX[drawn_ZYX].any()), None)
        if fits is None:
            fits = np.zeros_like(cuts[0])
            cuts.append(fits)
        fits[drawn_ZYX] = structure.value
    layers_LZYX = np.zeros((len(cuts), *shape_ZYX), np.uint8)
    layers_LZYX[:, *region] = cuts
    return layers_LZYX
