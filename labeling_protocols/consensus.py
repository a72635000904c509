"""One label from several: reads of one grid in, their consensus and what it leaves open out. Pure functions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.answers import common_answers
from labeling_protocols.findings import boxes_of, common_boxes, common_points, points_of
from labeling_protocols.label import Box, Label, Point
from labeling_protocols.patterns import Patterns, patterns_of
from labeling_protocols.protocol import Protocol, Structure, Task, Ties
from labeling_protocols.protocol_parts import ConsensusRule
from labeling_protocols.staple import Estimate, Performance, label_staple, staple
from labeling_protocols.surfaces import Region, Spacing, region_of
from labeling_protocols.votes import Choice, chosen, deepest, intersection_of_all, majority_of, union_of_all

Array = NDArray[np.uint8]

_VOTES: Mapping[ConsensusRule, Callable[[Array, Sequence[int]], Choice]] = {
    ConsensusRule.MAJORITY: majority_of,
    ConsensusRule.INTERSECTION: intersection_of_all,
    ConsensusRule.UNION: union_of_all,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Formed:
    """A consensus, and what the rule alone did not decide.

    `tied_voxels` counts, by structure, voxels where it led beside something else; the protocol's `ties` settled them.
    `clashing_voxels` counts voxels where the rule gave a structure as well as another that it may not overlap.
    `undefined` says in words what the rule has no result for. `performance` goes by reader and structure, for STAPLE.
    """

    label: Label
    tied_voxels: Mapping[str, int] = field(default_factory=dict)
    clashing_voxels: Mapping[str, int] = field(default_factory=dict)
    undefined: tuple[str, ...] = ()
    performance: Mapping[str, Mapping[str, Performance]] | None = None


def form_consensus(protocol: Protocol, labels: Mapping[str, Label], rule: ConsensusRule | None = None) -> Formed:
    """What readers drew, boxed, pointed at and answered, made one by the protocol's rule or this one.

    Structures that may overlap are decided apart from each other; of those that may not, a voxel gets one. Under
    `union` a voxel that readers gave to several of these goes to the one with the most votes, otherwise it is a tie.
    STAPLE takes structures that exclude each other together. A box or point counts where as many readers found it as
    the protocol's `found_by_min` says; without one, all readers under `intersection`, any under `union`, otherwise more
    than half. Answers are the majority's whatever the rule; a question without one stays open.
    Raises `ValueError` without labels, or where their grids differ.
    """
    _require_one_grid([label.geometry.shape_ZYX for label in labels.values()])
    rule = rule or protocol.consensus.rule
    ordered = {reader: labels[reader] for reader in sorted(labels)}
    forming = _Forming(protocol, rule, ordered)
    layers_LZYX = forming.outlines()
    read = list(ordered.values())
    label = Label(
        geometry=read[0].geometry,
        layers_LZYX=layers_LZYX,
        boxes=_boxes(protocol, read, rule),
        points=_points(protocol, read, rule),
        answers=common_answers(protocol, [label.answers for label in read]),
    )
    return Formed(
        label=label,
        tied_voxels=forming.tied,
        clashing_voxels=forming.clashing,
        undefined=(*forming.undefined, *_out_of_reach(protocol, len(read))),
        performance=forming.performance if rule is ConsensusRule.STAPLE else None,
    )


def consensus(protocol: Protocol, labels: Sequence[Label]) -> Label:
    """The label of `form_consensus` by the protocol's rule."""
    return form_consensus(protocol, {f"{number:06}": label for number, label in enumerate(labels)}).label


def majority(protocol: Protocol, labels_ZYX: Sequence[Array], spacing_mm_ZYX: Spacing) -> Array:
    """The value most readers gave each voxel; voxels where several values lead are settled by the protocol's `ties`.

    Raises `ValueError` without labels, or where their shapes differ.
    """
    _require_one_grid([label.shape for label in labels_ZYX])
    readers_LZYX = [label_ZYX[np.newaxis] for label_ZYX in labels_ZYX]
    values = [structure.value for structure in protocol.outlined]
    patterns = patterns_of(readers_LZYX, values)
    choice = majority_of(patterns.answers_PK, values)
    return _painted(protocol.consensus.ties, patterns, choice, readers_LZYX, spacing_mm_ZYX)


class _Forming:
    """One consensus of outlines on its way: what it counts and leaves undefined while it forms them."""

    def __init__(self, protocol: Protocol, rule: ConsensusRule, labels: Mapping[str, Label]) -> None:
        self._protocol, self._rule, self._labels = protocol, rule, labels
        self.tied: dict[str, int] = {}
        self.clashing: dict[str, int] = {}
        self.undefined: list[str] = []
        self.performance: dict[str, dict[str, Performance]] = {reader: {} for reader in labels}

    def outlines(self) -> Array:
        """The layers: one, unless structures really overlap; none where no label has any."""
        first = next(iter(self._labels.values()))
        groups = _exclusive_groups(self._protocol)
        readers_LZYX = [label.layers_LZYX for label in self._labels.values()]
        if not groups or not any(len(layers_LZYX) for layers_LZYX in readers_LZYX):
            return np.zeros((0, *first.geometry.shape_ZYX), np.uint8)
        formed = []
        for group in groups:
            patterns = patterns_of(readers_LZYX, [structure.value for structure in group])
            choice = self._choice(group, patterns)
            self._count(group, patterns, choice)
            ties, spacing = self._protocol.consensus.ties, first.geometry.spacing_mm_ZYX
            formed.append(_painted(ties, patterns, choice, readers_LZYX, spacing))
        if len(formed) == 1:
            return formed[0][np.newaxis]
        region = region_of(formed)
        self._part(groups, [layer_ZYX[region] for layer_ZYX in formed], region)
        return _flattened(formed, region)

    def _choice(self, group: Sequence[Structure], patterns: Patterns) -> Choice:
        values = [structure.value for structure in group]
        if self._rule in _VOTES:
            return _VOTES[self._rule](patterns.answers_PK, values)
        values_V = np.array([0, *values], np.uint8)
        given_VPK = patterns.answers_PK[np.newaxis] == values_V[:, np.newaxis, np.newaxis]
        if len(group) == 1:
            estimate = staple(given_VPK[1], patterns.counts_P)
        else:
            estimate = label_staple(given_VPK, patterns.counts_P)
        self._tell(group, estimate, given_VPK.any(axis=(1, 2)))
        voted = majority_of(patterns.answers_PK, values)
        explained_P = estimate.weights_PV.any(axis=1)  # otherwise no truth would have given these answers
        return chosen(values_V, np.where(explained_P, estimate.leading_VP, voted.leading_VP))

    def _tell(self, group: Sequence[Structure], estimate: Estimate, drawn_V: NDArray[np.bool_]) -> None:
        """Each reader's performance, and what STAPLE could not find out."""
        for index, structure in enumerate(group, 1):
            for reader, performance in zip(self._labels, estimate.performance_VK[index], strict=True):
                self.performance[reader][structure.name] = performance
            if not drawn_V[index]:
                self.undefined.append(f"{structure.name}: no reader outlined it, so STAPLE has nothing to estimate")
        if not estimate.settled:
            names = ", ".join(structure.name for structure in group)
            self.undefined.append(
                f"{names}: STAPLE still moved after {estimate.rounds} rounds; the last estimate stands"
            )

    def _count(self, group: Sequence[Structure], patterns: Patterns, choice: Choice) -> None:
        for index, structure in enumerate(group, 1):
            led_P = choice.leading_VP[index] & choice.tied_P
            given_P = (patterns.answers_PK == structure.value).any(axis=1) & choice.clashes_P
            _add(self.tied, structure.name, int(patterns.counts_P[led_P].sum()))
            _add(self.clashing, structure.name, int(patterns.counts_P[given_P].sum()))

    def _part(self, groups: Sequence[Sequence[Structure]], formed: Sequence[Array], region: Region) -> None:
        """Take voxels from one of two structures that may not overlap and that were both decided on there.

        Groups are decided on apart, so it takes a tie, a lead without a majority, or a rule other than majority. The
        one with fewer votes loses the voxel, the later in the protocol at equal votes.
        """
        cut = [label.layers_LZYX[:, *region] for label in self._labels.values()]
        for (a_ZYX, of_a), (b_ZYX, of_b) in combinations(zip(formed, groups, strict=True), 2):
            both_ZYX = np.nonzero(np.logical_and(a_ZYX, b_ZYX))
            for a, b in product(of_a, of_b):
                clash = np.logical_and(a_ZYX[both_ZYX] == a.value, b_ZYX[both_ZYX] == b.value)
                if clash.any() and not self._protocol.may_overlap(a.name, b.name):
                    where_ZYX = tuple(axis[clash] for axis in both_ZYX)
                    votes = [
                        sum((layers_LZYX == value).any(axis=0)[where_ZYX].astype(int) for layers_LZYX in cut)
                        for value in (a.value, b.value)
                    ]
                    b_wins = votes[1] > votes[0]
                    a_ZYX[where_ZYX] = np.where(b_wins, 0, a.value)
                    b_ZYX[where_ZYX] = np.where(b_wins, b.value, 0)
                    for structure in (a, b):
                        _add(self.clashing, structure.name, int(np.count_nonzero(clash)))


def _add(counts: dict[str, int], name: str, count: int) -> None:
    if count:
        counts[name] = counts.get(name, 0) + count


def _painted(
    ties: Ties, patterns: Patterns, choice: Choice, readers_LZYX: Sequence[Array], spacing_mm_ZYX: Spacing
) -> Array:
    """What was chosen, painted; ties are background, or go to the leading value that a voxel lies deepest in."""
    painted_ZYX = patterns.painted(choice.values_P)
    if ties is Ties.NEAREST_BOUNDARY and patterns.counts_P[choice.tied_P].any():
        places, numbers = patterns.places(choice.tied_P)
        layers_ZYX = (layer_ZYX for layers_LZYX in readers_LZYX for layer_ZYX in layers_LZYX)
        region = region_of(layers_ZYX, margin=1)
        readers_ZYX = [_of_values(layers_LZYX[:, *region], choice.values_V) for layers_LZYX in readers_LZYX]
        start_ZYX = [side.start for side in region]
        leading_VN = choice.leading_VP[:, numbers]
        found = deepest(choice.values_V, leading_VN, readers_ZYX, places - start_ZYX, spacing_mm_ZYX)
        painted_ZYX[tuple(places.T)] = found
    return painted_ZYX


def _of_values(layers_LZYX: Array, values_V: Array) -> Array:
    """What a label has of these values, which exclude each other, in one volume."""
    kept = np.zeros(256, dtype=np.uint8)
    kept[values_V] = values_V
    return np.maximum.reduce(kept[layers_LZYX], axis=0, initial=0)


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


def _flattened(formed: Sequence[Array], region: Region) -> Array:
    """One layer where nothing overlaps, otherwise those that have voxels; none has any outside the region."""
    cuts = [layer_ZYX[region] for layer_ZYX in formed]
    drawn = [number for number, cut_ZYX in enumerate(cuts) if cut_ZYX.any()] or [0]
    if any(np.logical_and(cuts[a], cuts[b]).any() for a, b in combinations(drawn, 2)):
        return np.stack([formed[number] for number in drawn])
    first_ZYX = formed[drawn[0]]
    first_ZYX[region] = np.maximum.reduce([cuts[number] for number in drawn])
    return first_ZYX[np.newaxis]


def _boxes(protocol: Protocol, labels: Sequence[Label], rule: ConsensusRule) -> tuple[Box, ...]:
    boxes: list[Box] = []
    for structure in protocol.structures:
        if Task.BOXES in structure.tasks:
            limits = protocol.agreement[structure.name]
            boxes += common_boxes(
                [boxes_of(label, structure.name) for label in labels],
                limits.match_mm_max,
                match_iou_min=limits.match_iou_min,
                found_by_min=_found_by_min(protocol, rule, len(labels)),
                direction_LPS=labels[0].geometry.direction_LPS,
            )
    return tuple(boxes)


def _points(protocol: Protocol, labels: Sequence[Label], rule: ConsensusRule) -> tuple[Point, ...]:
    points: list[Point] = []
    for structure in protocol.structures:
        if Task.POINTS in structure.tasks:
            points += common_points(
                [points_of(label, structure.name) for label in labels],
                protocol.agreement[structure.name].match_mm_max,
                found_by_min=_found_by_min(protocol, rule, len(labels)),
            )
    return tuple(points)


def _found_by_min(protocol: Protocol, rule: ConsensusRule, readers: int) -> int:
    by_rule = {ConsensusRule.INTERSECTION: readers, ConsensusRule.UNION: 1}
    return protocol.consensus.found_by_min or by_rule.get(rule, readers // 2 + 1)


def _out_of_reach(protocol: Protocol, readers: int) -> list[str]:
    """The structures whose boxes or points more readers would have to find than there are."""
    least = protocol.consensus.found_by_min or 0
    return [
        f"{structure.name}: {least} readers must have found a box or point for it to count, and {readers} read the case"
        for structure in protocol.structures
        if least > readers and {Task.BOXES, Task.POINTS} & {*structure.tasks}
    ]


def _require_one_grid(shapes: Sequence[tuple[int, ...]]) -> None:
    if not shapes:
        raise ValueError("a consensus needs at least one read, found none")
    if len(set(shapes)) != 1:
        raise ValueError(f"reads of one case share a grid, found shapes {sorted(set(shapes))}")
