"""One label from several: reads of one grid in, their consensus out. Pure functions."""

from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.answers import common_answers
from labeling_protocols.findings import boxes_of, common_boxes, common_points, points_of
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol, Structure, Task, Ties
from labeling_protocols.surfaces import Mask, Points, Spacing, Surface, region_of, surface_of

Array = NDArray[np.uint8]

# Stands for "infinitely deep" where a mask has no boundary; far beyond any patient, and unlike inf it can be averaged.
_NO_BOUNDARY_MM = 1e6


def consensus(protocol: Protocol, labels: Sequence[Label]) -> Label:
    """What most readers drew, boxed, pointed at and answered.

    Voxels are voted on as in `majority`, structures that may overlap apart from each other. A box or point counts where
    more than half of the readers found it, at its mean place. A question without a majority stays open.
    Raises `ValueError` without labels, or where their grids differ.
    """
    _require_one_grid([label.geometry.shape_ZYX for label in labels])
    first = labels[0]
    return Label(
        geometry=first.geometry,
        layers_LZYX=_outlines(protocol, labels),
        boxes=tuple(
            box
            for structure, match_mm_max in _asked_for(protocol, Task.BOXES)
            for box in common_boxes([boxes_of(label, structure.name) for label in labels], match_mm_max)
        ),
        points=tuple(
            point
            for structure, match_mm_max in _asked_for(protocol, Task.POINTS)
            for point in common_points([points_of(label, structure.name) for label in labels], match_mm_max)
        ),
        answers=common_answers(protocol, [label.answers for label in labels]),
    )


def majority(protocol: Protocol, labels_ZYX: Sequence[Array], spacing_mm_ZYX: Spacing) -> Array:
    """The value most readers gave each voxel; voxels where several values lead are settled by the protocol's `ties`.

    Raises `ValueError` without labels, or where their shapes differ.
    """
    _require_one_grid([label.shape for label in labels_ZYX])
    region = region_of(labels_ZYX, margin=1)
    values = [structure.value for structure in protocol.outlined]
    cut = [label[region] for label in labels_ZYX]
    voted = np.zeros_like(labels_ZYX[0])
    voted[region] = _vote(protocol.consensus.ties, values, cut, spacing_mm_ZYX)
    return voted


def _asked_for(protocol: Protocol, task: Task) -> list[tuple[Structure, float]]:
    """The structures with this task, and how near two findings of the same lie."""
    return [
        (structure, protocol.agreement[structure.name].match_mm_max or 0.0)
        for structure in protocol.structures
        if task in structure.tasks
    ]


def _require_one_grid(shapes: Sequence[tuple[int, ...]]) -> None:
    if not shapes:
        raise ValueError("a consensus needs at least one read, found none")
    if len(set(shapes)) != 1:
        raise ValueError(f"reads of one case share a grid, found shapes {sorted(set(shapes))}")


def _outlines(protocol: Protocol, labels: Sequence[Label]) -> NDArray[np.uint8]:
    """The voted layers: one, unless structures really overlap; none where no label has any."""
    if not any(len(label.layers_LZYX) for label in labels):
        return labels[0].layers_LZYX
    region = region_of([layer_ZYX for label in labels for layer_ZYX in label.layers_LZYX], margin=1)
    cut = [label.layers_LZYX[:, *region] for label in labels]
    groups = _exclusive_groups(protocol)
    voted = []
    for group in groups:
        values = [structure.value for structure in group]
        labels_ZYX = [_of_values(layers_LZYX, values, alone=len(groups) == 1) for layers_LZYX in cut]
        voted.append(_vote(protocol.consensus.ties, values, labels_ZYX, labels[0].geometry.spacing_mm_ZYX))
    _part(protocol, groups, cut, voted)
    flat_LZYX = _flattened(voted)
    layers_LZYX = np.zeros((len(flat_LZYX), *labels[0].geometry.shape_ZYX), dtype=np.uint8)
    layers_LZYX[:, *region] = flat_LZYX
    return layers_LZYX


def _exclusive_groups(protocol: Protocol) -> list[list[Structure]]:
    """The outlined structures in as few groups as one pass finds; within a group none may overlap another."""
    groups: list[list[Structure]] = []
    for structure in protocol.outlined:
        fits = (g for g in groups if not any(protocol.may_overlap(structure.name, other.name) for other in g))
        group = next(fits, None)
        if group is None:
            groups.append([structure])
        else:
            group.append(structure)
    return groups


def _of_values(layers_LZYX: Array, values: Sequence[int], *, alone: bool) -> Array:
    """What a label has of these values, which exclude each other, in one volume; `alone`: it has no others."""
    if alone and len(layers_LZYX) == 1:
        only: Array = layers_LZYX[0]
        return only
    kept = np.zeros(256, dtype=np.uint8)
    kept[list(values)] = values
    return np.maximum.reduce(kept[layers_LZYX], axis=0, initial=0)


def _part(
    protocol: Protocol, groups: Sequence[Sequence[Structure]], cut: Sequence[Array], voted: Sequence[Array]
) -> None:
    """Take voxels from one of two structures that may not overlap and were both voted for there.

    Groups are voted on apart, so it takes a tie, or a lead without a majority. The one with fewer votes loses the
    voxel, the later in the protocol at equal votes.
    """
    for (a_ZYX, of_a), (b_ZYX, of_b) in combinations(zip(voted, groups, strict=True), 2):
        both_ZYX = np.nonzero(a_ZYX.astype(bool) & b_ZYX.astype(bool))
        for a, b in product(of_a, of_b):
            clash = (a_ZYX[both_ZYX] == a.value) & (b_ZYX[both_ZYX] == b.value)
            if clash.any() and not protocol.may_overlap(a.name, b.name):
                where_ZYX = tuple(axis[clash] for axis in both_ZYX)
                votes = [
                    sum((layers_LZYX == value).any(axis=0)[where_ZYX].astype(int) for layers_LZYX in cut)
                    for value in (a.value, b.value)
                ]
                b_wins = votes[1] > votes[0]
                a_ZYX[where_ZYX] = np.where(b_wins, 0, a.value)
                b_ZYX[where_ZYX] = np.where(b_wins, b.value, 0)


def _flattened(voted: Sequence[Array]) -> NDArray[np.uint8]:
    """One layer where nothing overlaps, otherwise those that have voxels."""
    drawn = [layer_ZYX for layer_ZYX in voted if layer_ZYX.any()] or [voted[0]]
    if any((a_ZYX.astype(bool) & b_ZYX.astype(bool)).any() for a_ZYX, b_ZYX in combinations(drawn, 2)):
        return np.stack(drawn)
    flat: NDArray[np.uint8] = np.maximum.reduce(drawn)[np.newaxis]
    return flat


def _vote(ties: Ties, structure_values: Sequence[int], labels_ZYX: Sequence[Array], spacing_mm_ZYX: Spacing) -> Array:
    """The leading value of each voxel; only voxels on which the readers differ are voted on."""
    voted: Array = labels_ZYX[0].copy()
    differs_ZYX = np.zeros(voted.shape, dtype=np.bool_)
    for label_ZYX in labels_ZYX[1:]:
        differs_ZYX |= label_ZYX != voted
    where_ZYX = np.nonzero(differs_ZYX)
    if not where_ZYX[0].size:
        return voted
    given = np.stack([label_ZYX[where_ZYX] for label_ZYX in labels_ZYX])
    values = np.array([0, *structure_values], dtype=np.uint8)
    votes = np.stack([(given == value).sum(axis=0) for value in values])
    leading = votes == votes.max(axis=0)
    chosen = values[votes.argmax(axis=0)]
    tied = leading.sum(axis=0) > 1
    chosen[tied] = 0
    if tied.any() and ties is Ties.NEAREST_BOUNDARY:
        places = np.stack(where_ZYX, axis=1)[tied]
        chosen[tied] = _deepest(values, leading[:, tied], labels_ZYX, places, spacing_mm_ZYX)
    voted[where_ZYX] = chosen
    return voted


def _deepest(
    values: Array, leading: NDArray[np.bool_], labels_ZYX: Sequence[Array], places: Points, spacing_mm_ZYX: Spacing
) -> Array:
    """Among each place's leading values, the one with the deepest mean signed distance (Rohlfing & Maurer 2007).

    Equal depths go to the smaller value, so a rim one voxel wide that only half of the readers drew is background.
    """
    depth_mm = np.full(leading.shape, -np.inf)
    for index, value in enumerate(values):
        leads = leading[index]
        if leads.any():
            depths = [_signed_depth_mm(label == value, places[leads], spacing_mm_ZYX) for label in labels_ZYX]
            depth_mm[index, leads] = np.mean(depths, axis=0)
    deepest: Array = values[depth_mm.argmax(axis=0)]
    return deepest


def _signed_depth_mm(mask_ZYX: Mask, places: Points, spacing_mm_ZYX: Spacing) -> NDArray[np.float64]:
    """Distance of each place to the mask's boundary, positive inside; a mask without one lies infinitely far."""
    if mask_ZYX.all() or not mask_ZYX.any():
        return np.full(len(places), _NO_BOUNDARY_MM if mask_ZYX.all() else -_NO_BOUNDARY_MM)
    inside = mask_ZYX[tuple(places.T)]
    region = region_of([mask_ZYX.view(np.uint8)], margin=1)  # holds the mask, and around it what is nearest outside it
    near_ZYX, start_ZYX = mask_ZYX[region], [side.start for side in region]
    depth_mm = np.empty(len(places))
    for chosen, beyond_ZYX, sign in ((inside, ~near_ZYX, 1.0), (~inside, near_ZYX, -1.0)):
        if chosen.any():
            boundary = Surface(points=surface_of(beyond_ZYX), spacing_mm_ZYX=spacing_mm_ZYX)
            depth_mm[chosen] = sign * boundary.distance_mm(places[chosen] - start_ZYX)
    return depth_mm
