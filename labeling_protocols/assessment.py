"""How far readers agree on a case, and why they do not: their labels in, a verdict with its reasons out.

Pure functions. Every pair of readers is compared on every structure; the verdict does not depend on the readers' order.
A structure or lesion that one reader left out and another found is scored as a miss, never dropped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.agreement import OutlineAgreement, outline_agreements
from labeling_protocols.answers import answer_dispute
from labeling_protocols.disagreement import Compared, Grounds, answer_grounds, structure_grounds
from labeling_protocols.findings import FindingAgreement, boxes_of, compared, points_of, sameness
from labeling_protocols.label import Label
from labeling_protocols.lesion_outlines import Outlines, outlines_of
from labeling_protocols.lesions import Lesion, structure_lesions
from labeling_protocols.protocol import AgreementLimits, Protocol, Structure, Task
from labeling_protocols.records import LesionAgreement, LesionKind, PairAgreement, StructureAgreement, Verdict
from labeling_protocols.reliability import fleiss_kappa, krippendorff_alpha

_Outlined = Mapping[tuple[int, int], OutlineAgreement]


def assess(
    protocol: Protocol, labels: Mapping[str, Label], limits: Mapping[str, AgreementLimits] | None = None
) -> Verdict:
    """The verdict over every pair of readers, structure, lesion and question; `labels` maps reader to label.

    All labels lie on one grid. `limits` stand in for the protocol's, as those of its calibration do against a known
    truth. Severity is the largest shortfall of any pair, 1 meaning that a reader left out what another found. The
    reasons that weigh most stand first.
    """
    asked = protocol.agreement if limits is None else limits
    drawn = outlines_of(protocol, labels)
    measured = _measured(protocol, labels, asked)
    pairs: list[PairAgreement] = []
    lesions: list[LesionAgreement] = []
    grounds: list[Grounds] = []
    for structure in protocol.structures:
        least, outlines = asked[structure.name], drawn.get(structure.name)
        found = structure_lesions(structure, least, outlines, labels)
        compared_pairs = list(_pairs(structure, least, labels, outlines, measured.get(structure.value, {})))
        lesions += _lesions(found, outlines, labels)
        pairs += [one.pair for one in compared_pairs]
        grounds += structure_grounds(structure.name, least, compared_pairs, found, outlines, labels)
    for question in protocol.questions:
        given = [label.answers[question.name] for label in labels.values() if question.name in label.answers]
        grounds += answer_grounds(answer_dispute(question, given))
    grounds.sort(key=lambda ground: -ground.shortfall)  # what stands at equal weight keeps the protocol's order
    return Verdict(
        pairs=tuple(pairs),
        reasons=tuple(ground.reason for ground in grounds),
        severity=max((ground.shortfall for ground in grounds), default=0.0),
        lesions=tuple(lesions),
        structures=tuple(_together(name, outlines) for name, outlines in drawn.items()),
    )


def _measured(
    protocol: Protocol, labels: Mapping[str, Label], limits: Mapping[str, AgreementLimits]
) -> dict[int, dict[tuple[int, int], OutlineAgreement]]:
    """Every outlined structure's numbers by its value, then by the places of two readers among all in order of name."""
    readers = sorted(labels)
    tolerance_mm = {
        structure.value: tolerance
        for structure in protocol.outlined
        if (tolerance := limits[structure.name].surface_tolerance_mm) is not None
    }
    return outline_agreements(
        [labels[reader].layers_LZYX for reader in readers],
        [structure.value for structure in protocol.outlined],
        labels[readers[0]].geometry.spacing_mm_ZYX,
        tolerance_mm,
    )


def _pairs(
    structure: Structure,
    limits: AgreementLimits,
    labels: Mapping[str, Label],
    outlines: Outlines | None,
    measured: _Outlined,
) -> Iterator[Compared]:
    """Each two readers on one structure, with what is compared beside the numbers that are kept."""
    readers = sorted(labels)
    for a, b in combinations(range(len(readers)), 2):
        in_common = None if outlines is None else _lesions_in_common(outlines, a, b)
        findings = _findings(structure, limits, labels[readers[a]], labels[readers[b]])
        numbers = asdict(measured[a, b]) if (a, b) in measured else {}
        if shown := findings or in_common:
            numbers |= {"f1": shown.f1, "findings_a": shown.a, "findings_b": shown.b, "findings_matched": shown.matched}
        yield Compared(
            pair=PairAgreement(structure=structure.name, reader_a=readers[a], reader_b=readers[b], **numbers),
            finding_f1=findings.f1 if findings else None,
            lesion_f1=in_common.f1 if in_common else None,
            volume_difference=None if outlines is None else _volume_difference(outlines, a, b),
        )


def _findings(structure: Structure, limits: AgreementLimits, a: Label, b: Label) -> FindingAgreement | None:
    """Boxes or points of two readers, the ones that agree less where both are asked for; None where neither is."""
    same = sameness(limits, a.geometry)
    found = []
    if Task.BOXES in structure.tasks:
        found.append(compared(boxes_of(a, structure.name), boxes_of(b, structure.name), same))
    if Task.POINTS in structure.tasks:
        found.append(compared(points_of(a, structure.name), points_of(b, structure.name), same.of_points))
    return min(found, key=lambda agreement: agreement.f1, default=None)


def _lesions_in_common(outlines: Outlines, a: int, b: int) -> FindingAgreement:
    """Which of all readers' outlined lesions two of them have; what another reader's outline joins is one lesion."""
    has_a, has_b = outlines.voxels[:, a] > 0, outlines.voxels[:, b] > 0
    return FindingAgreement(
        a=int(np.count_nonzero(has_a)),
        b=int(np.count_nonzero(has_b)),
        matched=int(np.count_nonzero(has_a & has_b)),
    )


def _volume_difference(outlines: Outlines, a: int, b: int) -> float:
    """How much two readers' volumes differ, as a share of their mean."""
    voxels = outlines.voxels.sum(axis=0)
    mean = (int(voxels[a]) + int(voxels[b])) / 2.0
    return abs(int(voxels[a]) - int(voxels[b])) / mean if mean else 0.0


def _lesions(
    lesions: Sequence[Lesion], outlines: Outlines | None, labels: Mapping[str, Label]
) -> Iterator[LesionAgreement]:
    voxel_ml = next(iter(labels.values())).geometry.voxel_ml
    for lesion in lesions:
        outlined = outlines if lesion.kind is LesionKind.OUTLINE else None
        yield LesionAgreement(
            structure=lesion.structure,
            number=lesion.number,
            kind=lesion.kind,
            centre_mm_LPS=lesion.centre_mm_LPS,
            found_by=lesion.found_by,
            volumes_ml={} if outlined is None else _volumes_ml(outlined, lesion.number, voxel_ml),
            dice_min=None if outlined is None else outlined.dice_min[lesion.number - 1],
        )


def _volumes_ml(outlines: Outlines, number: int, voxel_ml: float) -> dict[str, float]:
    """How much each reader outlined of a lesion, 0 for one who did not."""
    of_lesion = outlines.voxels[number - 1].tolist()
    return {reader: voxels * voxel_ml for reader, voxels in zip(outlines.readers, of_lesion, strict=True)}


def _together(structure: str, outlines: Outlines) -> StructureAgreement:
    """All readers over the voxels that any of them outlined: inside or not is each one's answer.

    The background that nobody outlined is left out, or any two outlines of something small would agree. With two
    readers the kappa of what is left is 0 at most; compare it between cases of as many readers.
    """
    readers = len(outlines.readers)
    inside = np.arange(readers + 1)
    table: NDArray[np.int64] = np.stack([inside, readers - inside], axis=1)
    return StructureAgreement(
        structure=structure,
        fleiss_kappa=fleiss_kappa(table, outlines.votes),
        krippendorff_alpha=krippendorff_alpha(table, outlines.votes),
    )
