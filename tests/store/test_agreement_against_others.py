"""Agreement of outlines beside second implementations, where they define the same and where they knowingly do not."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import SimpleITK as sitk
import surface_distance
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
)
from scipy.spatial.distance import cdist
from sklearn.metrics import f1_score, jaccard_score

from labeling_protocols.agreement import (
    average_surface_distance_mm,
    dice,
    hd95_mm,
    iou,
    surface_dice,
    volume_difference_ml,
)
from labeling_protocols.surfaces import surface_of

Spacing = tuple[float, float, float]
Case = tuple[np.ndarray, np.ndarray]

SPACINGS: list[Spacing] = [(1.0, 1.0, 1.0), (2.0, 1.0, 0.5), (5.0, 0.7, 0.7)]
TOLERANCES_MM = (0.0, 0.7, 2.1)


def box(*sides: tuple[int, int], shape: tuple[int, int, int] = (12, 11, 10)) -> np.ndarray:
    array = np.zeros(shape, dtype=bool)
    array[tuple(slice(*side) for side in sides)] = True
    return array


def ball(centre: tuple[float, float, float], radius: float, side: int = 32) -> np.ndarray:
    z, y, x = np.ogrid[:side, :side, :side]
    inside: np.ndarray = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2
    return inside


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((9, 8, 7)) < 0.3


CASES: dict[str, Case] = {
    "overlapping": (box((2, 8), (2, 8), (2, 8)), box((4, 10), (1, 7), (3, 9))),
    "touching by a face": (box((2, 5), (2, 8), (2, 8)), box((5, 9), (2, 8), (2, 8))),
    "apart": (box((0, 2), (0, 2), (0, 2)), box((9, 12), (8, 11), (8, 10))),
    "one within the other": (box((1, 11), (1, 10), (1, 9)), box((4, 7), (4, 7), (4, 6))),
    "at the volume's edges": (box((0, 12), (0, 6), (0, 10)), box((0, 12), (5, 11), (0, 10))),
    "the whole volume": (box((0, 12), (0, 11), (0, 10)), box((3, 4), (0, 11), (0, 10))),
    "one voxel each": (box((3, 4), (3, 4), (3, 4)), box((5, 6), (2, 3), (7, 8))),
    "one voxel and many": (box((11, 12), (10, 11), (9, 10)), box((0, 6), (0, 6), (0, 6))),
    "a plane and a line": (box((4, 5), (0, 11), (0, 10)), box((0, 12), (5, 6), (9, 10))),
    "noise": (noise(1), noise(2)),
    "far apart": (ball((4, 4, 4), 3.5), ball((24, 25, 26), 5.0)),
}
named = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
spaced = pytest.mark.parametrize("spacing", SPACINGS, ids=str)


def batch(mask_ZYX: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(mask_ZYX))[None, None]


def monais(compute: Callable[..., torch.Tensor], a: np.ndarray, b: np.ndarray, *given: object, **how: object) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of masks that are empty
        return float(compute(batch(a), batch(b), *given, include_background=True, **how))


def assert_monais(a: np.ndarray, b: np.ndarray, spacing: Spacing) -> None:
    """Within 1e-6, and 1e-4 mm: MONAI works in single precision."""
    where = {"spacing": list(spacing)}
    hd95 = monais(compute_hausdorff_distance, a, b, percentile=95, **where)
    mean = monais(compute_average_surface_distance, a, b, symmetric=True, **where)
    assert dice(a, b) == pytest.approx(monais(compute_dice, a, b), abs=1e-6)
    assert iou(a, b) == pytest.approx(monais(compute_iou, a, b), abs=1e-6)
    assert hd95_mm(a, b, spacing) == pytest.approx(hd95, abs=1e-4)
    assert average_surface_distance_mm(a, b, spacing) == pytest.approx(mean, abs=1e-4)
    for tolerance_mm in TOLERANCES_MM:
        theirs = monais(compute_surface_dice, a, b, [tolerance_mm], **where)
        assert surface_dice(a, b, spacing, tolerance_mm) == pytest.approx(theirs, abs=1e-6)


@named
@spaced
def test_all_are_monais(case: Case, spacing: Spacing) -> None:
    assert_monais(*case, spacing)


@settings(max_examples=25, deadline=None)
@given(arrays(bool, (4, 5, 6)), arrays(bool, (4, 5, 6)), st.sampled_from(SPACINGS))
def test_all_are_monais_on_any_masks(a: np.ndarray, b: np.ndarray, spacing: Spacing) -> None:
    a[1, 1, 1] = b[2, 3, 4] = True
    assert_monais(a, b, spacing)


def test_empty_masks_are_scored_where_monai_gives_no_number() -> None:
    nothing, something = box((0, 0), (0, 0), (0, 0)), box((2, 4), (2, 4), (2, 4))
    one_mm = {"spacing": [1.0, 1.0, 1.0]}
    assert np.isnan(monais(compute_dice, nothing, nothing))
    assert np.isnan(monais(compute_surface_dice, nothing, nothing, [1.0], **one_mm))
    assert not np.isfinite(monais(compute_hausdorff_distance, something, nothing, percentile=95, **one_mm))
    assert monais(compute_surface_dice, something, nothing, [1.0], **one_mm) == 0.0
    assert surface_dice(something, nothing, SPACINGS[0], 1.0) == 0.0


@named
@spaced
def test_distances_are_those_between_all_surface_voxels_by_brute_force(case: Case, spacing: Spacing) -> None:
    a, b = case
    between_mm = cdist(*(surface_of(mask) * np.array(spacing) for mask in case))
    ways = between_mm.min(axis=1), between_mm.min(axis=0)
    assert hd95_mm(a, b, spacing) == pytest.approx(max(np.percentile(way, 95) for way in ways))
    assert average_surface_distance_mm(a, b, spacing) == pytest.approx(np.concatenate(ways).mean())
    assert surface_dice(a, b, spacing, 1.05) == np.mean(np.concatenate(ways) <= 1.05)


@named
def test_dice_and_iou_are_scikit_learns_f1_and_jaccard_score(case: Case) -> None:
    a, b = (mask.ravel() for mask in case)
    assert dice(*case) == pytest.approx(f1_score(a, b))
    assert iou(*case) == pytest.approx(jaccard_score(a, b))


def image(mask_ZYX: np.ndarray, spacing: Spacing) -> sitk.Image:
    found = sitk.GetImageFromArray(mask_ZYX.astype(np.uint8))
    found.SetSpacing(spacing[::-1])
    return found


@named
def test_dice_iou_and_volumes_are_simpleitks(case: Case) -> None:
    spacing = (5.0, 0.7, 0.7)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*(image(mask, spacing) for mask in case))
    volumes_ml = []
    for mask in case:
        shapes = sitk.LabelShapeStatisticsImageFilter()
        shapes.Execute(image(mask, spacing))
        volumes_ml.append(shapes.GetPhysicalSize(1) / 1000)
    assert dice(*case) == pytest.approx(overlap.GetDiceCoefficient())
    assert iou(*case) == pytest.approx(overlap.GetJaccardCoefficient())
    assert volume_difference_ml(*case, spacing) == pytest.approx(volumes_ml[0] - volumes_ml[1])


def simpleitks_surface(mask_ZYX: np.ndarray, spacing: Spacing) -> sitk.Image:
    """The contour in a volume with room around: SimpleITK's does not take the volume's edge for outside."""
    return sitk.BinaryContour(image(np.pad(mask_ZYX, 1), spacing), fullyConnected=False)


@named
@spaced
def test_surfaces_and_distances_are_simpleitks_contours_and_distance_maps(case: Case, spacing: Spacing) -> None:
    contours = [simpleitks_surface(mask, spacing) for mask in case]
    surfaces = [sitk.GetArrayFromImage(contour) == 1 for contour in contours]
    for mask, surface in zip(case, surfaces, strict=True):
        assert np.array_equal(surface_of(mask) + 1, np.argwhere(surface))
    maps = [
        np.maximum(0, sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(c, False, False, True))) for c in contours
    ]
    ways = [maps[1][surfaces[0]], maps[0][surfaces[1]]]
    assert hd95_mm(*case, spacing) == pytest.approx(max(np.percentile(way, 95) for way in ways), abs=1e-4)
    assert average_surface_distance_mm(*case, spacing) == pytest.approx(np.concatenate(ways).mean(), abs=1e-4)


def simpleitks_hausdorff(a: np.ndarray, b: np.ndarray, spacing: Spacing) -> float:
    measured = sitk.HausdorffDistanceImageFilter()
    measured.Execute(image(a, spacing), image(b, spacing))
    return float(measured.GetHausdorffDistance())


@spaced
def test_the_distance_of_single_voxels_is_simpleitks_hausdorff_distance(spacing: Spacing) -> None:
    case = CASES["one voxel each"]
    assert hd95_mm(*case, spacing) == pytest.approx(simpleitks_hausdorff(*case, spacing), abs=1e-4)


def test_a_cavity_is_near_the_whole_mask_for_simpleitk_and_far_from_its_surface_here() -> None:
    # A cube of 11 voxels without the middle 3: its centre is 2 from the rest, the wall of the hole 3 from the surface.
    solid = box((1, 12), (1, 12), (1, 12), shape=(13, 13, 13))
    holed = solid & ~box((5, 8), (5, 8), (5, 8), shape=(13, 13, 13))
    assert simpleitks_hausdorff(solid, holed, SPACINGS[0]) == 2.0
    assert hd95_mm(solid, holed, SPACINGS[0]) == 3.0


def deepminds(a: np.ndarray, b: np.ndarray, spacing: Spacing) -> dict[str, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the names that it has SciPy's functions by
        found: dict[str, np.ndarray] = surface_distance.compute_surface_distances(a, b, spacing)
    return found


@spaced
def test_surfaces_that_moved_in_parallel_are_equally_far_apart_for_deepmind(spacing: Spacing) -> None:
    a, b = box((3, 8), (1, 10), (1, 9)), box((4, 9), (1, 10), (1, 9))
    theirs = deepminds(a, b, spacing)
    hd95 = surface_distance.compute_robust_hausdorff(theirs, 95)
    assert hd95_mm(a, b, spacing) == hd95 == spacing[0]


@named
@spaced
def test_surfaces_that_are_the_same_are_the_same_for_deepmind(case: Case, spacing: Spacing) -> None:
    for mask in case:
        theirs = deepminds(mask, mask, spacing)
        assert surface_distance.compute_robust_hausdorff(theirs, 95) == hd95_mm(mask, mask, spacing) == 0.0
        assert surface_distance.compute_surface_dice_at_tolerance(theirs, 0.0) == 1.0
        assert surface_dice(mask, mask, spacing, 0.0) == 1.0


def test_single_voxels_are_measured_between_centres_here_and_between_corners_by_deepmind() -> None:
    # Of a voxel's 8 corners, 4 are 1 from the other voxel's and 4 are 2.
    a, b = box((3, 4), (3, 4), (3, 4)), box((3, 4), (3, 4), (5, 6))
    assert average_surface_distance_mm(a, b, SPACINGS[0]) == 2.0
    theirs = deepminds(a, b, SPACINGS[0])
    assert surface_distance.compute_average_surface_distance(theirs) == pytest.approx((1.5, 1.5))
    assert surface_dice(a, b, SPACINGS[0], 1.0) == 0.0
    assert surface_distance.compute_surface_dice_at_tolerance(theirs, 1.0) == pytest.approx(0.5)


@pytest.mark.parametrize("other", [ball((16, 16, 17), 10), ball((16, 16, 16), 12), ball((14, 17, 18), 9)])
def test_round_outlines_differ_from_deepminds_by_less_than_a_voxel(other: np.ndarray) -> None:
    one = ball((16, 16, 16), 10)
    theirs = deepminds(one, other, SPACINGS[0])
    hd95 = surface_distance.compute_robust_hausdorff(theirs, 95)
    mean = np.mean(surface_distance.compute_average_surface_distance(theirs))
    less, more = (surface_distance.compute_surface_dice_at_tolerance(theirs, 2.0 + voxel) for voxel in (-1.0, 1.0))
    assert hd95_mm(one, other, SPACINGS[0]) == pytest.approx(hd95, abs=1.0)
    assert average_surface_distance_mm(one, other, SPACINGS[0]) == pytest.approx(mean, abs=0.5)
    assert less <= surface_dice(one, other, SPACINGS[0], 2.0) <= more


@named
def test_dice_is_deepminds(case: Case) -> None:
    assert dice(*case) == pytest.approx(surface_distance.compute_dice_coefficient(*case))
