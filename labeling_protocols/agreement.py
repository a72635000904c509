"""How far labels agree: label arrays of one grid in, numbers and a verdict with its reasons out. Pure functions.

A structure that one label has and the other lacks is scored, not dropped: Dice 0 and HD95 None, which counts as a miss.
A structure that neither label has is agreement: Dice 1 and HD95 0.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from labeling_protocols.protocol import AgreementLimits, Protocol
from labeling_protocols.records import PairAgreement, Verdict

Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]

_FACES = ndimage.generate_binary_structure(3, 1)


def dice(a_ZYX: Mask, b_ZYX: Mask) -> float:
    """Dice's coefficient, 2|A∩B| / (|A|+|B|); 1 where both masks are empty (Dice 1945)."""
    total = np.count_nonzero(a_ZYX) + np.count_nonzero(b_ZYX)
    return 2.0 * np.count_nonzero(a_ZYX & b_ZYX) / total if total else 1.0


def hd95_mm(a_ZYX: Mask, b_ZYX: Mask, spacing_mm_ZYX: Spacing) -> float | None:
    """Robust Hausdorff distance in mm: the larger of the two directed 95th percentiles between surface voxels.

    A surface voxel is one of the mask with a face neighbour outside it. 0 if both masks are empty, None if one is.
    """
    a_any, b_any = bool(a_ZYX.any()), bool(b_ZYX.any())
    if not (a_any and b_any):
        return 0.0 if a_any == b_any else None
    crop = _bounding_box(a_ZYX | b_ZYX)
    surfaces = [_surface(mask[crop]) for mask in (a_ZYX, b_ZYX)]
    directed = []
    for here, there in (surfaces, surfaces[::-1]):
        distance_mm = ndimage.distance_transform_edt(~there, sampling=spacing_mm_ZYX)
        directed.append(float(np.percentile(distance_mm[here], 95)))
    return max(directed)


def assess(protocol: Protocol, reads: Mapping[str, NDArray[np.uint8]], spacing_mm_ZYX: Spacing) -> Verdict:
    """The verdict over every pair of readers and every structure; `reads` maps reader to label on one grid.

    Severity is the largest shortfall of any pair, 1 meaning that a reader left out what another outlined.
    """
    pairs: list[PairAgreement] = []
    reasons: list[str] = []
    severity = 0.0
    for structure in protocol.structures:
        limits = protocol.agreement[structure.name]
        masks = {reader: label == structure.value for reader, label in reads.items()}
        for a, b in combinations(sorted(masks), 2):
            pair = PairAgreement(
                structure=structure.name,
                reader_a=a,
                reader_b=b,
                dice=dice(masks[a], masks[b]),
                hd95_mm=hd95_mm(masks[a], masks[b], spacing_mm_ZYX),
            )
            pairs.append(pair)
            shortfall = _shortfall(pair, limits)
            severity = max(severity, shortfall)
            if shortfall > 0:
                reasons.append(_reason(pair, limits))
    return Verdict(pairs=tuple(pairs), reasons=tuple(reasons), severity=severity)


def _shortfall(pair: PairAgreement, limits: AgreementLimits) -> float:
    if pair.hd95_mm is None:
        return 1.0
    by_dice = (limits.dice_min - pair.dice) / limits.dice_min if limits.dice_min else 0.0
    by_distance = 1.0 - limits.hd95_mm_max / pair.hd95_mm if pair.hd95_mm > limits.hd95_mm_max else 0.0
    return max(by_dice, by_distance, 0.0)


def _reason(pair: PairAgreement, limits: AgreementLimits) -> str:
    if pair.hd95_mm is None:
        return f"{pair.structure}: outlined by one reader and left out by the other"
    found = []
    if pair.dice < limits.dice_min:
        found.append(f"Dice {pair.dice:.2f} < {limits.dice_min:.2f}")
    if pair.hd95_mm > limits.hd95_mm_max:
        found.append(f"HD95 {pair.hd95_mm:.1f} mm > {limits.hd95_mm_max:.1f} mm")
    return f"{pair.structure}: {', '.join(found)}"


def _bounding_box(mask_ZYX: Mask) -> tuple[slice, ...]:
    box: tuple[slice, ...] = ndimage.find_objects(mask_ZYX.astype(np.uint8))[0]
    return box


def _surface(mask_ZYX: Mask) -> Mask:
    """Voxels of the mask with a face neighbour outside it; the volume's edge counts as outside."""
    return mask_ZYX & ~ndimage.binary_erosion(mask_ZYX, _FACES)
