"""How far labels agree: labels on one grid in, numbers and a verdict with its reasons out. Pure functions.

A structure that one label has and the other lacks is scored, not dropped: Dice 0 and HD95 None, which counts as a miss.
A structure that neither label has is agreement: Dice 1 and HD95 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from labeling_protocols.answers import answer_dispute
from labeling_protocols.findings import boxes_of, f1, points_of
from labeling_protocols.label import Label
from labeling_protocols.protocol import AgreementLimits, Protocol, Structure, Task
from labeling_protocols.records import PairAgreement, Verdict
from labeling_protocols.surfaces import Mask, Region, Spacing, Surface, region_of, surface_of, union_of


def dice(a_ZYX: Mask, b_ZYX: Mask) -> float:
    """Dice's coefficient, 2|A∩B| / (|A|+|B|); 1 where both masks are empty (Dice 1945)."""
    total = np.count_nonzero(a_ZYX) + np.count_nonzero(b_ZYX)
    return 2.0 * np.count_nonzero(a_ZYX & b_ZYX) / total if total else 1.0


def hd95_mm(a_ZYX: Mask, b_ZYX: Mask, spacing_mm_ZYX: Spacing) -> float | None:
    """Robust Hausdorff distance in mm: the larger of the two directed 95th percentiles between surface voxels.

    A surface voxel is one of the mask with a face neighbour outside it. 0 if both masks are empty, None if one is.
    """
    region = region_of([(a_ZYX | b_ZYX).view(np.uint8)])
    return _hd95_mm(*(_Outline(mask_ZYX=mask[region], spacing_mm_ZYX=spacing_mm_ZYX) for mask in (a_ZYX, b_ZYX)))


def assess(
    protocol: Protocol, labels: Mapping[str, Label], limits: Mapping[str, AgreementLimits] | None = None
) -> Verdict:
    """The verdict over every pair of readers, structure and question; `labels` maps reader to label on one grid.

    `limits` stand in for the protocol's, as those of its calibration do against a known truth.
    Severity is the largest shortfall of any pair, 1 meaning that a reader left out what another found.
    """
    pairs: list[PairAgreement] = []
    reasons: list[str] = []
    severity = 0.0
    drawn = _drawn(labels)
    for structure in protocol.structures:
        least = (limits or protocol.agreement)[structure.name]
        for pair in _pairs(structure, least, drawn):
            pairs.append(pair)
            shortfall = _shortfall(pair, least)
            severity = max(severity, shortfall)
            if shortfall > 0:
                reasons.append(_reason(pair, least))
    for question in protocol.questions:
        given = [label.answers[question.name] for label in labels.values() if question.name in label.answers]
        if dispute := answer_dispute(question, given):
            reasons.append(dispute[0])
            severity = max(severity, dispute[1])
    return Verdict(pairs=tuple(pairs), reasons=tuple(reasons), severity=severity)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Outline:
    """One reader's mask in a box that holds all readers' masks; its surface is found once."""

    mask_ZYX: Mask
    spacing_mm_ZYX: Spacing

    @cached_property
    def empty(self) -> bool:
        return not self.mask_ZYX.any()

    @cached_property
    def surface(self) -> Surface:
        return Surface(points=surface_of(self.mask_ZYX), spacing_mm_ZYX=self.spacing_mm_ZYX)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Drawn:
    """A reader's label with its layers cut to where any reader drew, and each value's place in that."""

    reader: str
    label: Label
    layers_LZYX: NDArray[np.uint8]
    regions: Mapping[int, Region]


def _drawn(labels: Mapping[str, Label]) -> list[_Drawn]:
    region = region_of([layer_ZYX for label in labels.values() for layer_ZYX in label.layers_LZYX])
    drawn = []
    for reader in sorted(labels):
        layers_LZYX = labels[reader].layers_LZYX[:, *region]
        if not len(layers_LZYX):  # a label without outlines has no layer; an empty one says the same
            layers_LZYX = np.zeros((1, *(side.stop - side.start for side in region)), dtype=np.uint8)
        regions = _value_regions(layers_LZYX)
        drawn.append(_Drawn(reader=reader, label=labels[reader], layers_LZYX=layers_LZYX, regions=regions))
    return drawn


def _pairs(structure: Structure, limits: AgreementLimits, drawn: Sequence[_Drawn]) -> list[PairAgreement]:
    outlines = _outlines(structure.value, drawn) if Task.SEGMENTATION in structure.tasks else None
    return [
        PairAgreement(
            structure=structure.name,
            reader_a=drawn[a].reader,
            reader_b=drawn[b].reader,
            dice=dice(outlines[a].mask_ZYX, outlines[b].mask_ZYX) if outlines else None,
            hd95_mm=_hd95_mm(outlines[a], outlines[b]) if outlines else None,
            f1=_worst_f1(structure, limits, drawn[a].label, drawn[b].label),
        )
        for a, b in combinations(range(len(drawn)), 2)
    ]


def _value_regions(layers_LZYX: NDArray[np.uint8]) -> dict[int, Region]:
    """The bounding box of each value, over all layers, found in one pass a layer."""
    regions: dict[int, Region] = {}
    for layer_ZYX in layers_LZYX:
        found = ndimage.find_objects(layer_ZYX) if layer_ZYX.size else ()
        for value, region in enumerate(found, 1):
            if region is not None:
                regions[value] = union_of([regions[value], region]) if value in regions else region
    return regions


def _outlines(value: int, drawn: Sequence[_Drawn]) -> list[_Outline]:
    region = union_of([of_reader.regions[value] for of_reader in drawn if value in of_reader.regions])
    outlines = []
    for of_reader in drawn:
        layers = [layer_ZYX[region] == value for layer_ZYX in of_reader.layers_LZYX]
        mask_ZYX = layers[0] if len(layers) == 1 else np.any(layers, axis=0)
        outlines.append(_Outline(mask_ZYX=mask_ZYX, spacing_mm_ZYX=of_reader.label.geometry.spacing_mm_ZYX))
    return outlines


def _hd95_mm(a: _Outline, b: _Outline) -> float | None:
    if a.empty or b.empty:
        return 0.0 if a.empty == b.empty else None
    directed = (there.surface.distance_mm(here.surface.points) for here, there in ((a, b), (b, a)))
    return max(float(np.percentile(distance_mm, 95)) for distance_mm in directed)


def _worst_f1(structure: Structure, limits: AgreementLimits, a: Label, b: Label) -> float | None:
    """F1 of boxes or points, the lower where both are asked for; None where neither is."""
    if limits.match_mm_max is None:
        return None
    scores = []
    if Task.BOXES in structure.tasks:
        scores.append(f1(boxes_of(a, structure.name), boxes_of(b, structure.name), limits.match_mm_max))
    if Task.POINTS in structure.tasks:
        scores.append(f1(points_of(a, structure.name), points_of(b, structure.name), limits.match_mm_max))
    return min(scores)


def _shortfall(pair: PairAgreement, limits: AgreementLimits) -> float:
    """How far the pair is from its limits: 0 within them, 1 where one has nothing of what the other has."""
    shortfalls = [0.0]
    if pair.dice is not None and pair.hd95_mm is None:
        return 1.0
    if pair.dice is not None and limits.dice_min:
        shortfalls.append((limits.dice_min - pair.dice) / limits.dice_min)
    if pair.hd95_mm is not None and limits.hd95_mm_max is not None and pair.hd95_mm > limits.hd95_mm_max:
        shortfalls.append(1.0 - limits.hd95_mm_max / pair.hd95_mm)
    if pair.f1 is not None and limits.f1_min:
        shortfalls.append((limits.f1_min - pair.f1) / limits.f1_min)
    return max(shortfalls)


def _reason(pair: PairAgreement, limits: AgreementLimits) -> str:
    found = []
    if pair.dice is not None and pair.hd95_mm is None:
        found.append("outlined by one reader and left out by the other")
    elif pair.dice is not None and limits.dice_min is not None and pair.dice < limits.dice_min:
        found.append(f"Dice {pair.dice:.2f} < {limits.dice_min:.2f}")
    if pair.hd95_mm is not None and limits.hd95_mm_max is not None and pair.hd95_mm > limits.hd95_mm_max:
        found.append(f"HD95 {pair.hd95_mm:.1f} mm > {limits.hd95_mm_max:.1f} mm")
    if pair.f1 is not None and limits.f1_min is not None and pair.f1 < limits.f1_min:
        found.append(f"F1 of findings {pair.f1:.2f} < {limits.f1_min:.2f}")
    return f"{pair.structure}: {', '.join(found)}"
