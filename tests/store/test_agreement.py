"""Agreement by hand-worked numbers, and against MONAI's definitions where both define them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_hausdorff_distance

from labeling_protocols.agreement import assess, dice, hd95_mm
from labeling_protocols.consensus import majority
from labeling_protocols.protocol import Protocol

SPACING = (2.0, 1.0, 0.5)


def mask(*voxels: tuple[int, int, int]) -> np.ndarray:
    array = np.zeros((5, 5, 5), dtype=bool)
    for voxel in voxels:
        array[voxel] = True
    return array


def test_dice_of_two_voxels_of_which_one_is_shared_is_a_half() -> None:
    assert dice(mask((0, 0, 0), (0, 0, 1)), mask((0, 0, 1), (0, 0, 2))) == 0.5


def test_two_empty_masks_agree_and_one_empty_mask_is_a_miss() -> None:
    assert (dice(mask(), mask()), hd95_mm(mask(), mask(), SPACING)) == (1.0, 0.0)
    assert (dice(mask(), mask((1, 1, 1))), hd95_mm(mask(), mask((1, 1, 1)), SPACING)) == (0.0, None)


def test_hd95_counts_millimetres_along_each_axis() -> None:
    origin = mask((0, 0, 0))
    assert hd95_mm(origin, mask((2, 0, 0)), SPACING) == 4.0
    assert hd95_mm(origin, mask((0, 2, 0)), SPACING) == 2.0
    assert hd95_mm(origin, mask((0, 0, 2)), SPACING) == 1.0


@settings(max_examples=60, deadline=None)
@given(arrays(bool, (4, 5, 6)), arrays(bool, (4, 5, 6)))
def test_hd95_is_monais_where_both_masks_have_voxels(a: np.ndarray, b: np.ndarray) -> None:
    a[1, 1, 1] = b[2, 3, 4] = True
    ours = hd95_mm(a, b, SPACING)
    batch = [torch.from_numpy(np.pad(x, 1).astype(np.float32))[None, None] for x in (a, b)]
    theirs = compute_hausdorff_distance(*batch, include_background=True, percentile=95, spacing=list(SPACING))
    assert ours == pytest.approx(float(theirs), abs=1e-4)


def label(*boxes: tuple[int, int, int]) -> np.ndarray:
    """Rows of x from start to stop with a value, three voxels thick."""
    array = np.zeros((5, 5, 12), dtype=np.uint8)
    for value, start, stop in boxes:
        array[1:4, 1:4, start:stop] = value
    return array


def test_reads_within_the_limits_have_no_reasons(protocol: Protocol) -> None:
    verdict = assess(protocol, {"a": label((1, 1, 5), (2, 5, 9)), "b": label((1, 1, 5), (2, 5, 10))}, (1, 1, 1))
    assert verdict.agreed
    assert {pair.structure: round(pair.dice, 3) for pair in verdict.pairs} == {"anterior": 1.0, "posterior": 0.889}


def test_reads_beyond_the_limits_are_disputed_with_the_numbers_in_words(protocol: Protocol) -> None:
    verdict = assess(protocol, {"a": label((1, 1, 5), (2, 5, 9)), "b": label((1, 1, 5), (2, 7, 11))}, (1, 1, 1))
    assert verdict.reasons == ("posterior: Dice 0.50 < 0.75",)


def test_a_structure_left_out_is_the_severest_dispute(protocol: Protocol) -> None:
    verdict = assess(protocol, {"a": label((1, 1, 5), (2, 5, 9)), "b": label((1, 1, 5))}, (1, 1, 1))
    assert verdict.severity == 1.0
    assert "left out" in verdict.reasons[0]


def test_two_of_three_readers_decide_a_voxel(protocol: Protocol) -> None:
    labels = [label((1, 1, 4)), label((1, 2, 5)), label((1, 3, 6))]
    assert np.array_equal(majority(protocol, labels, (1, 1, 1)), label((1, 2, 5)))


def test_an_even_split_goes_to_the_nearest_boundary(protocol: Protocol) -> None:
    # The readers end 4 voxels apart; halfway between them is the boundary that is nearest to both.
    consensus = majority(protocol, [label((1, 1, 5)), label((1, 1, 9))], (9.0, 9.0, 1.0))
    assert np.array_equal(consensus, label((1, 1, 7)))


def test_an_even_split_can_be_background_by_protocol(protocol: Protocol) -> None:
    text = protocol.as_json().replace("nearest_boundary", "background")
    consensus = majority(Protocol.from_json(text), [label((1, 1, 5)), label((1, 1, 9))], (9.0, 9.0, 1.0))
    assert np.array_equal(consensus, label((1, 1, 5)))


def test_a_consensus_of_labels_on_different_grids_is_refused(protocol: Protocol) -> None:
    with pytest.raises(ValueError, match="share a grid"):
        majority(protocol, [label(), label()[1:]], (1, 1, 1))


@settings(max_examples=50, deadline=None)
@given(st.lists(arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 2)), min_size=1, max_size=4))
def test_a_consensus_never_invents_a_value_nobody_gave(protocol: Protocol, labels: list[np.ndarray]) -> None:
    consensus = majority(protocol, labels, (1.0, 1.0, 1.0))
    assert np.any([consensus == one for one in labels] + [consensus == 0], axis=0).all()
