"""All readers' outlines of a structure, told apart into lesions and counted: labels in, tables of voxels out.

A lesion is a connected component (26 neighbours) of what any reader outlined; lesions that touch are told apart where
readers boxed them apart (`boxed_apart.py`). With few readers a voxel can show few patterns of who outlined it, and
every number of lesions and of all readers together comes from the patterns' counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from labeling_protocols.boxed_apart import boxed_apart
from labeling_protocols.compiled import compiled
from labeling_protocols.findings import boxes_of
from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Box, Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.surfaces import NEIGHBOURS_26, Mask, Region, union_of, value_regions

OUTLINED_AT_MOST = 100  # the largest outlined lesions of a structure are told apart; stray voxels can make thousands

_ALL_PATTERNS = 8  # with more readers, only the patterns that occur have a place in the table


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlines:
    """All readers' outlines of one structure within the box that holds them, split into lesions.

    `lesion_ZYX` is 0 where nobody outlined anything, otherwise the lesion's number, largest first. `voxels` (lesion,
    reader) counts how much each reader outlined of each; row 0 is lesion 1. `patterns` are the sets of readers that
    occur, as bits (bit 0 the first reader), and `pattern_voxels` (lesion, pattern) counts these in the
    `OUTLINED_AT_MOST` largest lesions and, in one last row, in all the others together.
    """

    readers: tuple[str, ...]
    region: Region
    readers_ZYX: tuple[Mask, ...]
    lesion_ZYX: NDArray[np.int32]
    voxels: NDArray[np.int64]
    patterns: NDArray[np.int64]
    pattern_voxels: NDArray[np.int64]

    @property
    def told_apart(self) -> int:
        """How many lesions have a row of their own in `pattern_voxels`."""
        return len(self.pattern_voxels) - 1

    def outlined_by(self, number: int) -> tuple[str, ...]:
        """The readers who outlined any of a lesion."""
        voxels = self.voxels[number - 1].tolist()
        return tuple(reader for reader, outlined in zip(self.readers, voxels, strict=True) if outlined)

    @cached_property
    def has(self) -> NDArray[np.bool_]:
        """Which reader is in which pattern, (pattern, reader)."""
        bits: NDArray[np.bool_] = (self.patterns[:, np.newaxis] >> np.arange(len(self.readers)) & 1).astype(np.bool_)
        return bits

    @cached_property
    def dice_min(self) -> tuple[float, ...]:
        """The lowest Dice of any two readers within each lesion that is told apart; 0 where one has nothing there."""
        each = self.has.astype(np.int64)
        shared = np.einsum("lp,pa,pb->lab", self.pattern_voxels[:-1], each, each)
        own = np.diagonal(shared, axis1=1, axis2=2)
        total = own[:, :, np.newaxis] + own[:, np.newaxis, :]
        dice = np.divide(2.0 * shared, total, out=np.zeros(shared.shape), where=total > 0)
        lowest: list[float] = dice.min(axis=(1, 2), initial=1.0).tolist()
        return tuple(lowest)

    @cached_property
    def votes(self) -> NDArray[np.int64]:
        """How many voxels so many readers outlined, from none of them (always 0) to all."""
        numbers = self.has.sum(axis=1)
        counted = np.bincount(numbers, weights=self.pattern_voxels.sum(axis=0), minlength=len(self.readers) + 1)
        return counted.astype(np.int64)


def outlines_of(protocol: Protocol, labels: Mapping[str, Label]) -> dict[str, Outlines]:
    """Every outlined structure's outlines, by its name."""
    readers = tuple(sorted(labels))
    regions: dict[int, list[Region]] = {}
    for reader in readers:
        for layer_ZYX in labels[reader].layers_LZYX:
            for value, region in value_regions(layer_ZYX).items():
                regions.setdefault(value, []).append(region)
    layers = [labels[reader].layers_LZYX for reader in readers]
    boxes = {s.name: [boxes_of(labels[reader], s.name) for reader in readers] for s in protocol.outlined}
    geometry = next(iter(labels.values())).geometry
    return {
        structure.name: _outlines(
            readers,
            layers,
            structure.value,
            union_of(regions.get(structure.value, [])),
            boxes[structure.name],
            geometry,
        )
        for structure in protocol.outlined
    }


def _outlines(
    readers: tuple[str, ...],
    readers_LZYX: Sequence[NDArray[np.uint8]],
    value: int,
    region: Region,
    boxes: Sequence[Sequence[Box]],
    geometry: Geometry,
) -> Outlines:
    masks_ZYX = [_mask(layers_LZYX, value, region) for layers_LZYX in readers_LZYX]
    patterns, code_ZYX = _patterns(masks_ZYX)
    component_ZYX, count = np.zeros(code_ZYX.shape, np.int32), 0
    if code_ZYX.size:
        component_ZYX, count = ndimage.label(code_ZYX, NEIGHBOURS_26)
    if any(boxes):
        component_ZYX, count = boxed_apart(component_ZYX, masks_ZYX, boxes, geometry, region)
    number, voxels, counted = _counted(component_ZYX, code_ZYX, count, patterns, len(readers))
    occur = counted.any(axis=0)
    return Outlines(
        readers=readers,
        region=region,
        readers_ZYX=tuple(masks_ZYX),
        lesion_ZYX=number[component_ZYX],
        voxels=voxels,
        patterns=patterns[occur],
        pattern_voxels=counted[:, occur],
    )


def _counted(
    component_ZYX: NDArray[np.int32],
    code_ZYX: NDArray[np.uint32],
    count: int,
    patterns: NDArray[np.int64],
    readers: int,
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Each component's number (0 for no component), and by that number `voxels` and `pattern_voxels` of `Outlines`."""
    component, code = component_ZYX.ravel(), code_ZYX.ravel()
    first, voxels = np.full(count + 1, -1), np.zeros((count + 1, readers), np.int64)
    sizes = _count(component, code, patterns, first, voxels)
    order = np.lexsort((first[1:], -sizes[1:])) + 1
    number = np.zeros(count + 1, np.int32)
    number[order] = np.arange(1, count + 1)
    told_apart = min(count, OUTLINED_AT_MOST)
    counted = np.zeros((told_apart + 1, len(patterns)), np.int64)
    _tabulate(component, code, np.minimum(number.astype(np.int64) - 1, told_apart), counted)
    return number, voxels[order], counted


def _mask(layers_LZYX: NDArray[np.uint8], value: int, region: Region) -> Mask:
    mask_ZYX = np.zeros([side.stop - side.start for side in region], np.bool_)
    for layer_ZYX in layers_LZYX:
        mask_ZYX |= layer_ZYX[region] == value
    return mask_ZYX


def _patterns(masks_ZYX: Sequence[Mask]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Sets of readers as bits, and for each voxel which of these it shows; the first set is empty."""
    code_ZYX = np.zeros(masks_ZYX[0].shape, np.uint32)
    for reader, mask_ZYX in enumerate(masks_ZYX):
        code_ZYX |= mask_ZYX.astype(np.uint32) << np.uint32(reader)
    if len(masks_ZYX) <= _ALL_PATTERNS:
        return np.arange(1 << len(masks_ZYX)), code_ZYX
    outlined = code_ZYX > 0
    occurring, codes = np.unique(code_ZYX[outlined], return_inverse=True)
    code_ZYX[outlined] = codes.reshape(-1) + 1
    return np.array([0, *occurring.tolist()]), code_ZYX


@compiled
def _count(
    component: NDArray[np.int32],
    code: NDArray[np.uint32],
    patterns: NDArray[np.int64],
    first: NDArray[np.int64],
    voxels: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The voxels of each component; write where each begins, and how many voxels of it each reader has."""
    sizes = np.zeros(first.size, np.int64)
    for place in range(component.size):
        of = component[place]
        if of:
            if not sizes[of]:
                first[of] = place
            sizes[of] += 1
            pattern = patterns[code[place]]
            for reader in range(voxels.shape[1]):
                voxels[of, reader] += pattern >> reader & 1
    return sizes


@compiled
def _tabulate(
    component: NDArray[np.int32], code: NDArray[np.uint32], row: NDArray[np.int64], counted: NDArray[np.int64]
) -> None:
    """Count each pattern in its component's row."""
    for place in range(component.size):
        if component[place]:
            counted[row[component[place]], code[place]] += 1
