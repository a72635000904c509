"""A dispute's figures as its page shows them: a verdict, the protocol's limits and letters in, rows of text out.

What lies outside the limits is said by a sign and a word, not by colour alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import AgreementLimits, Structure
from labeling_protocols.records import LesionAgreement, PairAgreement, Read, StructureAgreement, Verdict


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number as text; `outside` the protocol's limits."""

    text: str
    outside: bool = False


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measure of agreement: its limit in words, empty where there is none, and a figure for each pair."""

    name: str
    limit: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True)
class ShownLesion:
    """One lesion, with its readers as letters; `volumes` by letter, in the readers' order."""

    structure: str
    number: int
    title: str
    centre_mm_RAS: tuple[float, float, float]
    found_by: str
    volumes: tuple[str, ...]
    dice_min: Figure


@dataclass(frozen=True, kw_only=True)
class ShownStructure:
    """One structure's agreement: volumes by reader, measures by pair, agreement of all, and its lesions."""

    structure: Structure
    outside: bool
    pairs: tuple[str, ...]
    volumes: tuple[str, ...]
    measures: tuple[Measure, ...]
    of_all: str
    lesions: tuple[ShownLesion, ...]


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """A measure: the field of a pair's agreement, how it is printed, and the field of its limit with its sense."""

    name: str
    field: str
    form: str
    limit: str = ""
    sense: str = ""

    def passes(self, value: float, limit: float) -> bool:
        return value >= limit if self.sense == "≥" else value <= limit


_KINDS = (
    _Kind(name="Dice", field="dice", form=".2f", limit="dice_min", sense="≥"),
    _Kind(name="IoU", field="iou", form=".2f"),
    _Kind(name="Surface Dice", field="surface_dice", form=".2f", limit="surface_dice_min", sense="≥"),
    _Kind(name="HD95, mm", field="hd95_mm", form=".1f", limit="hd95_mm_max", sense="≤"),
    _Kind(name="Mean distance, mm", field="average_surface_distance_mm", form=".1f"),
    _Kind(name="Findings, F1", field="f1", form=".2f", limit="f1_min", sense="≥"),
)


def structures_shown(protocol: Protocol, verdict: Verdict, reads: Mapping[str, Read]) -> tuple[ShownStructure, ...]:
    """Every structure of the protocol, as the readers of these letters agree on it."""
    letters = {read.reader: letter for letter, read in reads.items()}
    known = {}
    for pair in verdict.pairs:
        if pair.reader_a in letters and pair.reader_b in letters:
            turned = letters[pair.reader_a] > letters[pair.reader_b]
            first, second = sorted((letters[pair.reader_a], letters[pair.reader_b]))
            known[pair.structure, first, second] = (pair, turned)
    return tuple(_structure(protocol, structure, verdict, reads, known) for structure in protocol.structures)


_Known = Mapping[tuple[str, str, str], tuple[PairAgreement, bool]]


def _structure(
    protocol: Protocol, structure: Structure, verdict: Verdict, reads: Mapping[str, Read], known: _Known
) -> ShownStructure:
    limits = protocol.agreement[structure.name]
    pairs = [pair for pair in combinations(reads, 2) if (structure.name, *pair) in known]
    agreements = {pair: known[structure.name, *pair] for pair in pairs}
    measures = [
        _measure(kind, limits, [agreement for agreement, _ in agreements.values()])
        for kind in _KINDS
        if any(getattr(agreement, kind.field) is not None for agreement, _ in agreements.values())
    ]
    if any(agreement.volume_difference_ml is not None for agreement, _ in agreements.values()):
        measures += _volume_measures(limits, reads, structure.name, agreements)
    letters = {read.reader: letter for letter, read in reads.items()}
    return ShownStructure(
        structure=structure,
        outside=any(figure.outside for measure in measures for figure in measure.figures),
        pairs=tuple(f"{first}–{second}" for first, second in pairs),
        volumes=tuple(f"{read.volumes_ml.get(structure.name, 0.0):.2f}" for read in reads.values()),
        measures=tuple(measures),
        of_all=_of_all([one for one in verdict.structures if one.structure == structure.name]),
        lesions=tuple(
            _lesion(lesion, structure, letters, reads, limits)
            for lesion in verdict.lesions
            if lesion.structure == structure.name
        ),
    )


def _measure(kind: _Kind, limits: AgreementLimits, agreements: list[PairAgreement]) -> Measure:
    limit: float | None = getattr(limits, kind.limit) if kind.limit else None
    if limit is None and kind.field == "f1":
        limit = limits.lesion_f1_min
    figures = []
    for agreement in agreements:
        value: float | None = getattr(agreement, kind.field)
        if value is None:
            left_out = agreement.missed and kind.form == ".1f"
            figures.append(Figure(text="left out" if left_out else "–", outside=left_out and limit is not None))
        else:
            outside = limit is not None and not kind.passes(value, limit)
            figures.append(Figure(text=f"{value:{kind.form}}", outside=outside))
    return Measure(
        name=kind.name,
        limit="" if limit is None else f"{kind.sense} {limit:{kind.form}}",
        figures=tuple(figures),
    )


def _volume_measures(
    limits: AgreementLimits,
    reads: Mapping[str, Read],
    structure: str,
    agreements: Mapping[tuple[str, str], tuple[PairAgreement, bool]],
) -> list[Measure]:
    """The first letter's volume less the second's, and its share of their mean, which is what the limit is for."""
    differences, shares = [], []
    limit = limits.volume_difference_max
    for pair, (agreement, turned) in agreements.items():
        if agreement.volume_difference_ml is None:
            differences.append(Figure(text="–"))
            shares.append(Figure(text="–"))
            continue
        difference = -agreement.volume_difference_ml if turned else agreement.volume_difference_ml
        mean = sum(reads[letter].volumes_ml.get(structure, 0.0) for letter in pair) / 2
        share = abs(difference) / mean if mean else 0.0
        differences.append(Figure(text=f"{difference:+.2f}" if abs(difference) >= 0.005 else "0.00"))
        shares.append(Figure(text=f"{share:.0%}", outside=limit is not None and share > limit))
    words = "" if limit is None else f"≤ {limit:.0%}"
    return [
        Measure(name="Volume difference, ml", limit="", figures=tuple(differences)),
        Measure(name="Volume difference", limit=words, figures=tuple(shares)),
    ]


def _of_all(found: list[StructureAgreement]) -> str:
    """Fleiss' κ and Krippendorff's α in words."""
    if not found:
        return ""
    kappa, alpha = (
        "not defined" if value is None else f"{value:.2f}"
        for value in (found[0].fleiss_kappa, found[0].krippendorff_alpha)
    )
    return f"All readers: Fleiss’ κ {kappa}, Krippendorff’s α {alpha}"


def _lesion(
    lesion: LesionAgreement,
    structure: Structure,
    letters: Mapping[str, str],
    reads: Mapping[str, Read],
    limits: AgreementLimits,
) -> ShownLesion:
    x, y, z = lesion.centre_mm_LPS
    below = lesion.dice_min is not None and limits.dice_min is not None and lesion.dice_min < limits.dice_min
    return ShownLesion(
        structure=lesion.structure,
        number=lesion.number,
        title=f"{structure.title} {lesion.number}",
        centre_mm_RAS=(-x, -y, z),
        found_by=", ".join(sorted(letters[reader] for reader in lesion.found_by if reader in letters)),
        volumes=tuple(
            f"{lesion.volumes_ml[read.reader]:.2f}" if read.reader in lesion.volumes_ml else "–"
            for read in reads.values()
        ),
        dice_min=Figure(text="–" if lesion.dice_min is None else f"{lesion.dice_min:.2f}", outside=below),
    )
