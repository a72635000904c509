"""Why readers are in dispute: compared pairs and lesions of a structure in, grounds in words and their weight out.

Pure functions. Readers stand in the words as place-holders, so that each page can name them as it may.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Label
from labeling_protocols.lesion_outlines import Outlines
from labeling_protocols.lesions import Lesion
from labeling_protocols.protocol import AgreementLimits
from labeling_protocols.records import LesionKind, PairAgreement, Reason
from labeling_protocols.surfaces import Mask

_LESIONS_SHOWN = 10  # of a structure, by their number; further ones are counted
_SIDE_SHARE_MIN = 0.1  # of an outline must lie on a side for another reader's absence there to be worth a word

_ON_MIDLINE = 1e-3  # of a voxel: nearer to the midline is neither side

# Along LPS x. An image's other halves are not the patient's: where a scan begins and ends is the operator's choice.
_SIDES = ("right of the midline", "left of the midline")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two readers on one structure: what is kept, and what else the limits look at.

    `finding_f1` is of boxes or points, `lesion_f1` of outlined lesions, each None where there is no such task;
    `volume_difference` is a share of the mean volume.
    """

    pair: PairAgreement
    finding_f1: float | None
    lesion_f1: float | None
    volume_difference: float | None


@dataclass(frozen=True, kw_only=True)
class Grounds:
    """One reason, and how far what it speaks of is from its limit: above 0, and 1 where a reader left something out."""

    reason: Reason
    shortfall: float


@dataclass(frozen=True, kw_only=True)
class _Beyond:
    """A number of two readers beyond its limit, and what it is of."""

    words: str
    shortfall: float
    of: str


_OUTLINE, _FINDINGS, _LESIONS = "outline", "findings", "lesions"


def structure_grounds(
    structure: str,
    limits: AgreementLimits,
    pairs: Sequence[Compared],
    lesions: Sequence[Lesion],
    outlines: Outlines | None,
    labels: Mapping[str, Label],
) -> list[Grounds]:
    """Why the readers are in dispute over a structure; nothing where every pair is within its limits."""
    beyond = [(one.pair, found) for one in pairs if (found := tuple(_beyond(one, limits)))]
    grounds: list[Grounds] = []
    if outlines is not None:
        grounds += _left_out(structure, outlines)
    named = _not_found_by_all(structure, beyond, lesions, outlines, sorted(labels))
    grounds += _of_pairs(structure, beyond, [_LESIONS] if named else [])
    grounds += named
    if outlines is not None and any(number.of == _OUTLINE for _, found in beyond for number in found):
        grounds += _absent_from_a_side(structure, beyond, outlines, next(iter(labels.values())).geometry)
    return grounds


def answer_grounds(dispute: tuple[str, float] | None) -> list[Grounds]:
    """Why the readers are in dispute over a question: the words and the weight that `answer_dispute` gives."""
    if dispute is None:
        return []
    words = dispute[0].replace("{", "{{").replace("}", "}}")  # an answer may hold what looks like a place-holder
    return [Grounds(reason=Reason(text=words), shortfall=dispute[1])]


def _beyond(one: Compared, limits: AgreementLimits) -> Iterator[_Beyond]:
    """What is beyond its limit; where one reader left the structure out, nothing of outlines is: that is told apart."""
    pair = one.pair
    if not pair.missed:
        yield from _below("Dice", pair.dice, limits.dice_min, _OUTLINE)
        yield from _above_mm("HD95", pair.hd95_mm, limits.hd95_mm_max)
        at = f" at {limits.surface_tolerance_mm:g} mm" if limits.surface_tolerance_mm is not None else ""
        yield from _below(f"surface Dice{at}", pair.surface_dice, limits.surface_dice_min, _OUTLINE)
        yield from _apart("volumes differ by", one.volume_difference, limits.volume_difference_max)
        yield from _below("F1 of outlined lesions", one.lesion_f1, limits.lesion_f1_min, _LESIONS)
    yield from _below("F1 of findings", one.finding_f1, limits.f1_min, _FINDINGS)


def _below(name: str, value: float | None, limit: float | None, of: str) -> Iterator[_Beyond]:
    if value is not None and limit is not None and value < limit:
        shown = _told_apart(value, limit, 2)
        yield _Beyond(words=f"{name} {shown[0]} < {shown[1]}", shortfall=(limit - value) / limit, of=of)


def _above_mm(name: str, value: float | None, limit: float | None) -> Iterator[_Beyond]:
    if value is not None and limit is not None and value > limit:
        shown = _told_apart(value, limit, 1)
        yield _Beyond(words=f"{name} {shown[0]} mm > {shown[1]} mm", shortfall=1.0 - limit / value, of=_OUTLINE)


def _apart(name: str, value: float | None, limit: float | None) -> Iterator[_Beyond]:
    if value is not None and limit is not None and value > limit:
        shown = _told_apart(100.0 * value, 100.0 * limit, 0)
        yield _Beyond(words=f"{name} {shown[0]} % > {shown[1]} %", shortfall=1.0 - limit / value, of=_OUTLINE)


def _told_apart(value: float, limit: float, decimals: int) -> tuple[str, str]:
    """Both with so many decimals, or with as many more as it takes to see which is larger."""
    shown = [f"{number:.{decimals}f}" for number in (value, limit)]
    return (shown[0], shown[1]) if shown[0] != shown[1] or decimals > 9 else _told_apart(value, limit, decimals + 1)


def _left_out(structure: str, outlines: Outlines) -> Iterator[Grounds]:
    drawn = dict(zip(outlines.readers, outlines.voxels.sum(axis=0).tolist(), strict=True))
    without, having = ([reader for reader in drawn if bool(drawn[reader]) is has] for has in (False, True))
    if without and having:
        words = f"{structure}: {_listed(without)} left it out and {_listed(having, len(without))} outlined it"
        yield Grounds(reason=Reason(text=words, readers=(*without, *having)), shortfall=1.0)


def _of_pairs(
    structure: str, beyond: Sequence[tuple[PairAgreement, Sequence[_Beyond]]], named: Sequence[str]
) -> list[Grounds]:
    """What each two readers' numbers say; not of what is `named` elsewhere.

    Pairs that are as far apart stand in the order of their words: that of readers' names is the same in every case.
    """
    told = []
    for pair, found in beyond:
        numbers = [number for number in found if number.of not in named]
        if numbers:
            words = f"{structure}: {', '.join(number.words for number in numbers)} ({{0}} and {{1}})"
            reason = Reason(text=words, readers=(pair.reader_a, pair.reader_b))
            told.append(Grounds(reason=reason, shortfall=max(number.shortfall for number in numbers)))
    return sorted(told, key=lambda ground: (-ground.shortfall, ground.reason.text))


def _not_found_by_all(
    structure: str,
    beyond: Sequence[tuple[PairAgreement, Sequence[_Beyond]]],
    lesions: Sequence[Lesion],
    outlines: Outlines | None,
    readers: Sequence[str],
) -> list[Grounds]:
    """Which lesions some readers lack, where that brings a pair beyond its limit."""
    weight = {
        of: max((number.shortfall for _, found in beyond for number in found if number.of == of), default=0.0)
        for of in (_LESIONS, _FINDINGS)
    }
    grounds: list[Grounds] = []
    for lesion in lesions:
        drawn = outlines if lesion.kind is LesionKind.OUTLINE else None
        drawn_by = drawn.outlined_by(lesion.number) if drawn else ()
        if weight[_LESIONS] and drawn and len(drawn_by) < len(readers):
            verb = "found" if drawn_by == lesion.found_by else "outlined"
            grounds.append(_of_lesion(lesion, verb, drawn_by, len(readers), max(weight.values())))
        elif weight[_FINDINGS] and len(lesion.found_by) < len(readers):
            grounds.append(_of_lesion(lesion, "found", lesion.found_by, len(readers), weight[_FINDINGS]))
    further = len(grounds[_LESIONS_SHOWN:])
    if weight[_LESIONS] and outlines is not None:
        small = outlines.voxels[outlines.told_apart :]
        further += int(np.count_nonzero((small > 0).sum(axis=1) < len(readers)))
    if further:
        lesions_were = "lesion was" if further == 1 else "lesions were"
        reason = Reason(text=f"{structure}: {further} further {lesions_were} not found by all readers")
        grounds[_LESIONS_SHOWN:] = [Grounds(reason=reason, shortfall=max(weight.values()))]
    return grounds


def _of_lesion(lesion: Lesion, verb: str, by: tuple[str, ...], readers: int, shortfall: float) -> Grounds:
    who = f" ({_listed(by)})" if by else ""
    words = f"{lesion.structure}: lesion {lesion.number} was {verb} by {len(by)} of {readers} readers{who}"
    return Grounds(reason=Reason(text=words, readers=by), shortfall=shortfall)


def _absent_from_a_side(
    structure: str,
    beyond: Sequence[tuple[PairAgreement, Sequence[_Beyond]]],
    outlines: Outlines,
    geometry: Geometry,
) -> Iterator[Grounds]:
    """Who has nothing on a side of the patient where another's outline lies, among those whose outlines disagree."""
    shares = np.array([_shares_of_sides(mask_ZYX, outlines, geometry) for mask_ZYX in outlines.readers_ZYX])
    for on_side, words in zip(shares.T, _SIDES, strict=True):
        for reader, share in zip(outlines.readers, on_side.tolist(), strict=True):
            shortfalls = [
                number.shortfall
                for pair, found in beyond
                for number in found
                if number.of == _OUTLINE and reader in (pair.reader_a, pair.reader_b)
            ]
            if shortfalls and share == 0.0 and on_side.max() >= _SIDE_SHARE_MIN:
                reason = Reason(text=f"{structure}: {{0}} has no voxels {words}", readers=(reader,))
                yield Grounds(reason=reason, shortfall=max(shortfalls))


def _shares_of_sides(mask_ZYX: Mask, outlines: Outlines, geometry: Geometry) -> tuple[float, float]:
    """The shares of an outline's voxels right and left of the image's middle; LPS x grows to the patient's left."""
    index_ZYX = np.argwhere(mask_ZYX)
    if not len(index_ZYX):
        return (0.0, 0.0)
    middle_ZYX = (np.array(geometry.shape_ZYX) - 1) / 2.0 - [side.start for side in outlines.region]
    left_mm = (index_ZYX - middle_ZYX)[:, ::-1] @ geometry.affine_LPS()[0, :3]
    on_it = _ON_MIDLINE * min(geometry.spacing_mm_XYZ)
    return (float((left_mm < -on_it).mean()), float((left_mm > on_it).mean()))


def _listed(readers: Sequence[str], first: int = 0) -> str:
    """Place-holders for so many readers: "{0}, {1} and {2}"."""
    places = [f"{{{first + index}}}" for index in range(len(readers))]
    return " and ".join([", ".join(places[:-1]), places[-1]]) if len(places) > 1 else places[0]
