"""Two readers' outlines of five organs measured, beside MONAI's metrics, whose values ours must equal."""

import numpy as np
import torch
from bench_labels import LABEL_SHAPE_ZYX, organs
from measuring import Row, compare
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from numpy.typing import NDArray

from labeling_protocols.agreement import OutlineAgreement, outline_agreements

VALUES = (1, 2, 3, 4, 5)
SPACING_MM_ZYX = (1.0, 0.8, 0.8)
TOLERANCE_MM = 2.0
_DIFFERENCE_MAX, _DIFFERENCE_MM_MAX = 1e-6, 1e-4  # MONAI works in single precision


def metric_rows(shape_ZYX: tuple[int, int, int] = LABEL_SHAPE_ZYX, repeats: int = 2) -> list[Row]:
    """Dice, HD95 and surface Dice of all five organs of one pair of readers, on one thread.

    MONAI is given its one-hot tensors ready-made; ours starts from the label volumes and also finds IoU, the average
    surface distance and the difference in volume. Raises `AssertionError` where a value differs from MONAI's.
    """
    first = organs(shape_ZYX)
    readers_ZYX = (first, another_reader(first))
    one_hot = tuple(torch.stack([torch.from_numpy(layer == value) for value in VALUES])[None] for layer in readers_ZYX)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _assert_equal(_ours(readers_ZYX), _monais(one_hot))
        row = compare("dice hd95 surface-dice", lambda: _ours(readers_ZYX), lambda: _monais(one_hot), 20, repeats)
    finally:
        torch.set_num_threads(threads)
    return [row]


def another_reader(volume_ZYX: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same organs by somebody who is a slice off and swerves by up to two voxels in y and three in x."""
    depth, height, width = volume_ZYX.shape
    y, x = np.ogrid[:height, :width]
    drawn_ZYX = np.empty_like(volume_ZYX)
    for z in range(depth):
        from_y = np.rint(y + 2 * np.sin(z / 15)).astype(np.intp).clip(0, height - 1)
        from_x = np.rint(x + 3 * np.sin(y / 20 + z / 17)).astype(np.intp).clip(0, width - 1)
        drawn_ZYX[z] = volume_ZYX[max(0, z - 1)][from_y, from_x]
    return drawn_ZYX


def _ours(readers_ZYX: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> list[OutlineAgreement]:
    layers = [volume_ZYX[np.newaxis] for volume_ZYX in readers_ZYX]
    found = outline_agreements(layers, VALUES, SPACING_MM_ZYX, dict.fromkeys(VALUES, TOLERANCE_MM))
    return [found[value][0, 1] for value in VALUES]


def _monais(one_hot: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
    """Dice, HD95 and surface Dice, each of the five; one organ at a time, as all at once ask for 20 GB of memory."""
    every, spacing = {"include_background": True}, list(SPACING_MM_ZYX)
    found = []
    for channel in range(len(VALUES)):
        pair = tuple(of_reader[:, channel : channel + 1] for of_reader in one_hot)
        found.append(
            [
                compute_dice(*pair, **every)[0],
                compute_hausdorff_distance(*pair, percentile=95, spacing=spacing, **every)[0],
                compute_surface_dice(*pair, [TOLERANCE_MM], spacing=spacing, **every)[0],
            ]
        )
    return [torch.cat(column) for column in zip(*found, strict=True)]


def _assert_equal(ours: list[OutlineAgreement], theirs: list[torch.Tensor]) -> None:
    dice, hd95_mm, surface_dice = (column.tolist() for column in theirs)
    np.testing.assert_allclose([value.dice for value in ours], dice, rtol=0, atol=_DIFFERENCE_MAX)
    np.testing.assert_allclose([value.surface_dice for value in ours], surface_dice, rtol=0, atol=_DIFFERENCE_MAX)
    np.testing.assert_allclose([value.hd95_mm for value in ours], hd95_mm, rtol=0, atol=_DIFFERENCE_MM_MAX)
