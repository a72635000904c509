"""Patterns of several readers' answers in, the value each comes to by counting votes out; and who wins a tie. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.surfaces import Mask, Points, Spacing, Surface, region_of, surface_of

_Array = NDArray[np.uint8]
_Flags = NDArray[np.bool_]

# Stands for "infinitely deep" where a mask has no boundary; far beyond any patient, and unlike inf it can be averaged.
_NO_BOUNDARY_MM = 1e6


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """What a rule chose for each of P patterns.

    `values_P` is 0 where several values lead; `leading_VP` says which of `values_V` (0 and the structures') lead in
    each pattern, one of them unless it is a tie. `clashes_P` marks patterns in which structures that exclude each other
    were both claimed under a rule that lets each claim stand.
    """

    values_P: _Array
    values_V: _Array
    leading_VP: _Flags
    clashes_P: _Flags

    @property
    def tied_P(self) -> _Flags:
        tied: _Flags = self.leading_VP.sum(axis=0) > 1
        return tied


def majority_of(answers_PK: _Array, values: Sequence[int]) -> Choice:
    """The value that more readers gave than any other, background included."""
    values_V = _with_background(values)
    votes_VP = _votes(answers_PK, values_V)
    return chosen(values_V, votes_VP == votes_VP.max(axis=0))


def union_of_all(answers_PK: _Array, values: Sequence[int]) -> Choice:
    """The value that any reader gave; where structures clash, the one that more of them gave than any other."""
    values_V = _with_background(values)
    votes_VP = _votes(answers_PK, values_V)
    given_VP = votes_VP > 0
    given_VP[0] = ~given_VP[1:].any(axis=0)  # background only where nobody drew
    claims_VP = np.where(given_VP, votes_VP, 0)
    return chosen(values_V, claims_VP == claims_VP.max(axis=0), clashes_P=given_VP.sum(axis=0) > 1)


def intersection_of_all(answers_PK: _Array, values: Sequence[int]) -> Choice:
    """The value that all readers gave, otherwise background."""
    values_V = _with_background(values)
    leading_VP = _votes(answers_PK, values_V) == answers_PK.shape[1]
    leading_VP[0] = ~leading_VP[1:].any(axis=0)
    return chosen(values_V, leading_VP)


def chosen(values_V: _Array, leading_VP: _Flags, clashes_P: _Flags | None = None) -> Choice:
    """The choice of what leads; at least one value leads in each pattern."""
    values_P = values_V[leading_VP.argmax(axis=0)]
    values_P[leading_VP.sum(axis=0) > 1] = 0
    if clashes_P is None:
        clashes_P = np.zeros(len(values_P), np.bool_)
    return Choice(values_P=values_P, values_V=values_V, leading_VP=leading_VP, clashes_P=clashes_P)


def deepest(
    values_V: _Array, leading_VN: _Flags, readers_ZYX: Sequence[_Array], places: Points, spacing_mm_ZYX: Spacing
) -> _Array:
    """Among each place's leading values, the one with the deepest mean signed distance (Rohlfing & Maurer 2007).

    Equal depths go to the earlier value, background first, so a rim one voxel wide that only half of the readers drew
    is background.
    """
    depth_mm = np.full(leading_VN.shape, -np.inf)
    for index, (value, leads) in enumerate(zip(values_V, leading_VN, strict=True)):
        if leads.any():
            depths = [_signed_depth_mm(one_ZYX == value, places[leads], spacing_mm_ZYX) for one_ZYX in readers_ZYX]
            depth_mm[index, leads] = np.mean(depths, axis=0)
    found: _Array = values_V[depth_mm.argmax(axis=0)]
    return found


def _with_background(values: Sequence[int]) -> _Array:
    return np.array([0, *values], dtype=np.uint8)


def _votes(answers_PK: _Array, values_V: _Array) -> NDArray[np.intp]:
    votes: NDArray[np.intp] = (answers_PK[np.newaxis] == values_V[:, np.newaxis, np.newaxis]).sum(axis=2)
    return votes


def _signed_depth_mm(mask_ZYX: Mask, places: Points, spacing_mm_ZYX: Spacing) -> NDArray[np.float64]:
    """Distance of each place to the mask's boundary, positive inside; a mask without one lies infinitely far."""
    if mask_ZYX.all() or not mask_ZYX.any():
        return np.full(len(places), _NO_BOUNDARY_MM if mask_ZYX.all() else -_NO_BOUNDARY_MM)
    inside = mask_ZYX[tuple(places.T)]
    region = region_of([mask_ZYX.view(np.uint8)], margin=1)  # holds the mask, and around it what is nearest outside it
    near_ZYX, start_ZYX = mask_ZYX[region], [side.start for side in region]
    depth_mm = np.empty(len(places))
    for chosen_places, beyond_ZYX, sign in ((inside, ~near_ZYX, 1.0), (~inside, near_ZYX, -1.0)):
        if chosen_places.any():
            boundary = Surface(points=surface_of(beyond_ZYX), spacing_mm_ZYX=spacing_mm_ZYX)
            depth_mm[chosen_places] = sign * boundary.distance_mm(places[chosen_places] - start_ZYX)
    return depth_mm
