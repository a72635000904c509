"""Clicks: simulated ones fall where somebody would click, and sent ones land where they were meant in the patient."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from labeling_protocols.geometry import Geometry
from tests.training.drawn import STRAIGHT, turned
from training.clicks import (
    BACKGROUND,
    Click,
    ClickError,
    Guide,
    box_around,
    clicks_of,
    error_click,
    first_clicks,
    moved,
    parts_around,
    sigma_mm,
)

MM = (1.0, 1.0, 1.0)
NAMES = ("anterior", "posterior")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def volume(*boxes: tuple[int, tuple[slice, slice, slice]]) -> Tensor:
    channels = torch.zeros(16, 12, 10, dtype=torch.uint8)
    for channel, box in boxes:
        channels[box] = channel
    return channels


LARGE = (slice(1, 6), slice(1, 6), slice(1, 6))  # 125 voxels, its middle (3, 3, 3)
SMALL = (slice(10, 13), slice(8, 11), slice(6, 9))  # 27 voxels, its middle (11, 9, 7)


def test_the_click_falls_into_the_middle_of_the_largest_error() -> None:
    truth = volume((1, LARGE), (2, SMALL))
    click = error_click(truth, torch.zeros_like(truth), MM, seeded())
    assert click == Click(channel=1, voxel_XYZ=(3, 3, 3))


def test_what_is_drawn_on_background_is_clicked_as_background() -> None:
    truth, predicted = volume((2, SMALL)), volume((1, LARGE), (2, SMALL))
    assert error_click(truth, predicted, MM, seeded()) == Click(channel=0, voxel_XYZ=(3, 3, 3))


def test_one_structure_drawn_as_the_other_is_clicked_as_what_it_is() -> None:
    truth, predicted = volume((2, LARGE)), volume((1, LARGE))
    assert error_click(truth, predicted, MM, seeded()) == Click(channel=2, voxel_XYZ=(3, 3, 3))


def test_nothing_is_clicked_where_nothing_is_wrong() -> None:
    truth = volume((1, LARGE))
    assert error_click(truth, truth.clone(), MM, seeded()) is None


def test_two_small_errors_do_not_count_as_a_large_one() -> None:
    """80 voxels in two parts lose against 50 in one."""
    parts = (slice(0, 2), slice(0, 4), slice(0, 5)), (slice(4, 6), slice(0, 4), slice(0, 5))
    truth = volume((1, parts[0]), (1, parts[1]), (2, (slice(10, 12), slice(5, 10), slice(0, 5))))
    click = error_click(truth, torch.zeros_like(truth), MM, seeded())
    assert click is not None
    assert click.channel == 2


def test_depth_is_in_millimetres() -> None:
    """Of a slab of 3 × 8 × 8 voxels and 9 mm slices, the voxels of the middle slice are not the only deep ones."""
    slab = (slice(4, 7), slice(2, 10), slice(1, 9))
    truth = volume((1, slab))
    places = {error_click(truth, torch.zeros_like(truth), (9.0, 1.0, 1.0), seeded(n)) for n in range(60)}
    assert {click.voxel_XYZ[0] for click in places if click} == {4, 5, 6}
    assert {click.voxel_XYZ[1:] for click in places if click} == {(y, z) for y in (5, 6) for z in (4, 5)}


def test_the_border_of_the_volume_is_a_border_of_the_error() -> None:
    truth = volume((1, (slice(0, 5), slice(0, 5), slice(0, 5))))
    click = error_click(truth, torch.zeros_like(truth), MM, seeded())
    assert click == Click(channel=1, voxel_XYZ=(2, 2, 2))


@given(st.integers(0, 2**32), st.floats(0, 1))
def test_a_jittered_click_stays_within_the_error_as_deep_as_it_says(seed: int, jitter: float) -> None:
    mask = np.random.default_rng(seed).random((7, 6, 5)) < 0.6
    mask[3, 3, 3] = True
    truth = torch.from_numpy(mask.astype(np.uint8))
    click = error_click(truth, torch.zeros_like(truth), (1.0, 2.0, 0.5), seeded(seed), jitter=jitter)
    assert click is not None
    parts, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    largest = parts == np.bincount(parts[parts > 0]).argmax()
    depth_mm = ndimage.distance_transform_edt(np.pad(largest, 1), sampling=(1.0, 2.0, 0.5))[1:-1, 1:-1, 1:-1]
    assert largest[click.voxel_XYZ]
    assert depth_mm[click.voxel_XYZ] >= (1 - jitter) * depth_mm.max()


def test_a_seed_gives_the_same_click_and_seeds_give_several() -> None:
    truth = volume((1, LARGE))
    clicks = [error_click(truth, torch.zeros_like(truth), MM, seeded(n % 20), jitter=1.0) for n in range(40)]
    assert clicks[:20] == clicks[20:]
    assert len(set(clicks)) > 10


def test_first_clicks_are_one_for_each_structure_that_is_there() -> None:
    truth = volume((2, LARGE), (3, SMALL))
    assert first_clicks(truth, MM, seeded()) == [
        Click(channel=2, voxel_XYZ=(3, 3, 3)),
        Click(channel=3, voxel_XYZ=(11, 9, 7)),
    ]
    assert first_clicks(torch.zeros_like(truth), MM, seeded()) == []


def test_a_click_shows_as_a_gaussian_in_millimetres_in_the_channel_of_its_structure() -> None:
    guide = Guide(structures=2, spacing_mm=(1.0, 2.0, 4.0), sigma_mm=3.0)
    shown = guide.shown([Click(channel=2, voxel_XYZ=(8, 6, 4))], (16, 12, 10), torch.device("cpu"))
    assert shown.shape == (3, 16, 12, 10)
    assert float(shown[1, 8, 6, 4]) == 1.0
    for place, away_mm in {(5, 6, 4): 3.0, (8, 9, 4): 6.0, (8, 6, 5): 4.0, (9, 7, 3): math.sqrt(1 + 4 + 16)}.items():
        assert float(shown[1][place]) == pytest.approx(math.exp(-(away_mm**2) / 18), rel=1e-5)
    assert float(shown[0].abs().sum() + shown[2].abs().sum()) == 0.0


def test_background_has_the_last_channel_and_the_nearest_click_counts() -> None:
    guide = Guide(structures=2, spacing_mm=MM, sigma_mm=2.0)
    clicks = [Click(channel=0, voxel_XYZ=(2, 2, 2)), Click(channel=0, voxel_XYZ=(6, 2, 2))]
    shown = guide.shown(clicks, (16, 12, 10), torch.device("cpu"))
    assert [float(shown[2, x, 2, 2]) for x in (2, 6)] == [1.0, 1.0]
    assert float(shown[2, 4, 2, 2]) == pytest.approx(math.exp(-0.5))
    assert float(shown.max()) == 1.0
    assert float(shown[:2].abs().sum()) == 0.0


def test_without_clicks_the_network_is_shown_nothing_beside_the_image() -> None:
    guide = Guide(structures=1, spacing_mm=MM, sigma_mm=2.0)
    image = torch.randn(2, 1, 4, 5, 6)
    joined = guide.join(image, [[], [Click(channel=1, voxel_XYZ=(3, 4, 5))]])
    assert torch.equal(joined[:, :1], image)
    assert float(joined[0, 1:].abs().sum()) == 0.0
    assert float(joined[1, 1, 3, 4, 5]) == 1.0


def test_the_width_of_a_click_follows_the_grid() -> None:
    assert sigma_mm((1.0, 1.0, 1.0)) == pytest.approx(2.0)
    assert sigma_mm((0.5, 0.5, 4.0)) == pytest.approx(2.0)


def test_clicks_are_answered_half_a_patch_around() -> None:
    clicks = [Click(channel=1, voxel_XYZ=(50, 20, 3)), Click(channel=0, voxel_XYZ=(54, 22, 5))]
    box = box_around(clicks, (100, 40, 30), (16, 16, 16))
    assert box == (slice(42, 62), slice(12, 30), slice(0, 16))
    assert [click.voxel_XYZ for click in moved(clicks, box)] == [(8, 8, 3), (12, 10, 5)]
    assert box_around([Click(channel=1, voxel_XYZ=(99, 0, 29))], (100, 8, 30), (16, 16, 16)) == (
        slice(84, 100),
        slice(0, 8),
        slice(14, 30),
    )


@given(st.lists(st.tuples(*[st.integers(0, 19)] * 3), min_size=1, max_size=4), st.tuples(*[st.integers(1, 30)] * 3))
def test_every_click_lies_in_the_part_that_is_answered(
    places: list[tuple[int, int, int]], patch: tuple[int, int, int]
) -> None:
    clicks = [Click(channel=1, voxel_XYZ=place) for place in places]
    box = box_around(clicks, (20, 20, 20), patch)
    for click in clicks:
        assert all(edge.start <= n < edge.stop for n, edge in zip(click.voxel_XYZ, box, strict=True))
    assert all(edge.stop - edge.start >= min(size, 20) for edge, size in zip(box, patch, strict=True))


OBLIQUE = turned(
    np.array([[0.0, 0.8, 0.6], [1.0, 0.0, 0.0], [0.0, 0.6, -0.8]]),
    (1.0, 2.0, 3.0),
)


@pytest.mark.parametrize("geometry", [STRAIGHT, OBLIQUE])
def test_a_viewers_voxel_indices_become_points_in_the_patient(geometry: Geometry) -> None:
    sent = {"label": "anterior", "anterior": [[3, 4, 5]], "posterior": [], "background": [[0, 0, 1], [1, 0, 0]]}
    points = clicks_of(sent, NAMES, geometry)
    assert set(points) == {"anterior", BACKGROUND}
    index = np.linalg.inv(geometry.affine_LPS()) @ [*points["anterior"][0], 1.0]
    assert index[:3] == pytest.approx([3, 4, 5])
    assert len(points[BACKGROUND]) == 2


def test_a_deepgrow_request_names_its_structure_once() -> None:
    sent = {"foreground": [[1, 2, 3]], "background": [[4, 5, 6]], "label": "posterior"}
    assert set(clicks_of(sent, NAMES, STRAIGHT)) == {"posterior", BACKGROUND}
    assert set(clicks_of({"foreground": [[1, 2, 3]]}, ("lesion",), STRAIGHT)) == {"lesion"}


def test_a_request_without_clicks_has_none() -> None:
    assert clicks_of({"model": "x", "anterior": [], "foreground": []}, NAMES, STRAIGHT) == {}


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"foreground": [[1, 2, 3]]}, "the label 'None'; expected one of anterior, posterior"),
        ({"foreground": [[1, 2, 3]], "label": "liver"}, "the label 'liver'"),
        ({"anterior": [[1, 2]]}, r"a click for anterior is \[1, 2\]; expected three voxel indices"),
        ({"anterior": [["1", "2", "3"]]}, "expected three voxel indices"),
        ({"anterior": [[1, 2, float("nan")]]}, "expected three voxel indices"),
        ({"anterior": "all of it"}, "expected a list of clicks"),
    ],
)
def test_clicks_that_cannot_be_are_refused_in_words(sent: dict[str, object], said: str) -> None:
    with pytest.raises(ClickError, match=said):
        clicks_of(sent, NAMES, STRAIGHT)


def test_clicks_share_a_part_where_their_patches_meet() -> None:
    """Patches of 10 voxels: the first two meet, the third meets the second's alone, the fourth none."""
    places = [(5, 5, 5), (14, 5, 5), (23, 5, 5), (60, 5, 5)]
    clicks = [Click(channel=1, voxel_XYZ=place) for place in places]
    (first, near), (second, far) = parts_around(clicks, (100, 10, 10), (10, 10, 10))
    assert (near, far) == (clicks[:3], clicks[3:])
    assert first == (slice(0, 28), slice(0, 10), slice(0, 10))
    assert second == (slice(55, 65), slice(0, 10), slice(0, 10))
    [(whole, all_)] = parts_around(clicks, (100, 10, 10), (10, 10, 10), corners=[clicks[0], clicks[3]])
    assert whole == (slice(0, 65), slice(0, 10), slice(0, 10))
    assert set(all_) == set(clicks)
