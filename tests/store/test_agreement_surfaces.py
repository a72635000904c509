"""Where something is drawn, its surface and the way to it: by hand, and against SciPy's distance transform."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from labeling_protocols.nearest import far_mm, near, near_mm
from labeling_protocols.surfaces import Surface, region_of, surface_of, union_of, value_regions

SPACINGS = st.sampled_from([(1.0, 1.0, 1.0), (2.5, 0.7, 0.7), (0.3, 5.0, 1.1), (200.0, 1.0, 1.0)])


def volume(**values: tuple[int, int, int]) -> np.ndarray:
    array = np.zeros((4, 5, 6), np.uint8)
    for value, voxel in values.items():
        array[voxel] = int(value.removeprefix("v"))
    return array


def test_a_region_holds_all_that_is_drawn_in_any_volume() -> None:
    volumes = [volume(v1=(1, 2, 5)), volume(v2=(3, 0, 4)), volume()]
    assert region_of(volumes) == (slice(1, 4), slice(0, 3), slice(4, 6))


def test_a_margin_ends_at_the_volumes_edge() -> None:
    assert region_of([volume(v1=(1, 2, 5))], margin=2) == (slice(0, 4), slice(0, 5), slice(3, 6))


def test_the_region_of_nothing_is_empty() -> None:
    nowhere = (slice(0, 0), slice(0, 0), slice(0, 0))
    assert (region_of([]), region_of([volume()]), union_of([])) == (nowhere, nowhere, nowhere)


def test_a_box_around_boxes_reaches_from_the_first_start_to_the_last_stop() -> None:
    boxes = [(slice(2, 3), slice(4, 9), slice(1, 2)), (slice(0, 1), slice(5, 7), slice(6, 8))]
    assert union_of(boxes) == (slice(0, 3), slice(4, 9), slice(1, 8))


def test_values_are_boxed_each_for_itself() -> None:
    drawn = volume(v7=(1, 2, 5))
    drawn[0, 4, 0:3] = (7, 255, 255)
    drawn[3, 1, 2:6] = (255, 7, 1, 255)
    assert value_regions(drawn) == {
        1: (slice(3, 4), slice(1, 2), slice(4, 5)),
        7: (slice(0, 4), slice(1, 5), slice(0, 6)),
        255: (slice(0, 4), slice(1, 5), slice(1, 6)),
    }
    assert value_regions(volume()) == {}
    assert value_regions(np.zeros((0, 0, 0), np.uint8)) == {}


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3)))
def test_values_are_boxed_as_scipy_boxes_them(drawn: np.ndarray) -> None:
    theirs = {value: region for value, region in enumerate(ndimage.find_objects(drawn), 1) if region}
    assert value_regions(drawn) == theirs
    assert value_regions(drawn.T) == {value: region[::-1] for value, region in theirs.items()}


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 5)] * 2, st.integers(1, 10)).flatmap(lambda shape: arrays(bool, shape)))
def test_a_surface_is_what_erosion_takes_away(mask: np.ndarray) -> None:
    assert np.array_equal(surface_of(mask), np.argwhere(mask & ~ndimage.binary_erosion(mask)))


def test_the_surface_of_a_full_volume_is_its_hull_in_the_volumes_order() -> None:
    full = np.ones((3, 4, 17), bool)
    hull = full.copy()
    hull[1:-1, 1:-1, 1:-1] = False
    assert np.array_equal(surface_of(full), np.argwhere(hull))
    assert np.array_equal(surface_of(full.T), np.argwhere(hull.T))


@settings(max_examples=40, deadline=None)
@given(st.data(), SPACINGS)
def test_distances_are_those_of_scipys_transform(data: st.DataObject, spacing: tuple[float, float, float]) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 6)] * 3))
    places = data.draw(st.lists(st.tuples(*(st.integers(0, n - 1) for n in shape)), min_size=1, max_size=4))
    outside = np.ones(shape, bool)
    outside[tuple(np.array(places).T)] = False
    transform_mm = ndimage.distance_transform_edt(outside, sampling=spacing)
    points = np.argwhere(np.ones(shape, bool))[:: data.draw(st.sampled_from([1, -1]))]
    expected_mm = transform_mm[tuple(points.T)]
    surface = Surface(points=np.array(places), spacing_mm_ZYX=spacing)
    np.testing.assert_allclose(surface.distance_mm(points), expected_mm, rtol=1e-14)
    np.testing.assert_allclose(far_mm(points, np.array(places), spacing), expected_mm, rtol=1e-14)


def test_voxels_far_beside_a_surface_are_measured_too() -> None:
    surface = Surface(points=np.array([[50, 60, 70], [50, 60, 90]]), spacing_mm_ZYX=(3.0, 2.0, 1.0))
    beside = [[0, 60, 70], [50, 0, 70], [50, 60, 0], [90, 60, 90], [50, 95, 90], [50, 60, 190], [51, 61, 92]]
    expected_mm = [150.0, 120.0, 70.0, 120.0, 70.0, 100.0, 17**0.5]
    assert surface.distance_mm(np.array(beside)).tolist() == expected_mm
    assert surface.distance_mm(np.empty((0, 3), np.intp)).size == 0


def test_the_nearest_place_may_lie_above_below_or_in_another_row() -> None:
    places = np.array([[0, 0, 0], [40, 0, 0], [20, 9, 3]])
    points = np.array([[19, 0, 0], [21, 0, 0], [5, 0, 0], [33, 0, 2], [20, 9, 3]])
    expected_mm = [(1 + 81 + 9) ** 0.5, (1 + 81 + 9) ** 0.5, 5.0, (49 + 4) ** 0.5, 0.0]
    assert far_mm(points, places, (1.0, 1.0, 1.0)).tolist() == expected_mm


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.7), (500.0, 1.0, 1.0)])
def test_what_is_called_near_is_nearer_than_what_is_not(spacing: tuple[float, float, float]) -> None:
    # 10 mm and 40 rows around one place: the steps near it are a ball about it, whole and no more.
    sides = [np.arange(-most, most + 1) for most in (min(12, int(40 / spacing[0])), 40, 40)]
    points = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 3)
    found_mm = near_mm(points, near(np.zeros((1, 3), np.intp), spacing))
    true_mm = np.sqrt(np.square(points * np.array(spacing)).sum(axis=1))
    met = found_mm >= 0
    assert np.array_equal(found_mm[met], true_mm[met])
    assert 1000 < np.count_nonzero(met) <= 2000
    assert true_mm[met].max() <= true_mm[~met].min()
