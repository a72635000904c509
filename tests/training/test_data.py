"""Examples and their augmentation: image and label stay together, and a seed gives the same again."""

import numpy as np
import torch

from labeling_protocols.geometry import Volume
from tests.training.drawn import STRAIGHT, draw, small_plan
from training.augmentation import augment
from training.data import Bank, Example, prepare_example
from training.loop import passes

CPU = torch.device("cpu")


def test_intensities_of_any_scale_are_prepared_alike() -> None:
    small, large = (prepare_example(small_plan(), "c", *draw(1, scale=scale)) for scale in (0.01, 10_000.0))
    assert torch.allclose(small.image, large.image, atol=1e-4)
    assert abs(float(small.image.mean())) < 1e-4


def test_values_of_the_protocol_become_channels_of_the_network() -> None:
    image, label = draw(1)
    gaps = Volume(
        array_ZYX=np.where(label.array_ZYX == 2, 200, label.array_ZYX * 7).astype(np.uint8), geometry=STRAIGHT
    )
    example = prepare_example(small_plan(values=(0, 7, 200)), "c", image, gaps)
    for channel in (1, 2):
        assert int((example.label == channel).sum()) == np.count_nonzero(label.array_ZYX == channel)


def test_another_spacing_is_resampled_to_the_plans() -> None:
    example = prepare_example(small_plan(spacing_mm_RAS=(3.0, 1.5, 0.75)), "c", *draw(1))
    x, y, z = example.label.shape
    assert (x, y) == (10, 20)
    assert 35 <= z <= 36


def test_image_and_label_are_bent_by_the_same_field() -> None:
    """A label that is also its own image must come out on the image's bright voxels."""
    ball = torch.zeros(16, 1, 24, 20, 16)
    ball[:, :, 6:14, 8:16, 3:10] = 1
    image, label = augment(ball, ball.long(), (1.0, 1.0, 2.0), range(16))
    for one_image, one_label in zip(image, label, strict=True):
        inside, outside = one_image[one_label == 1], one_image[one_label == 0]
        assert float(inside.mean()) > float(outside.mean()) + 0.5
    bent = sum(not torch.equal(one, of) for one, of in zip(label, ball.long(), strict=True))
    assert 2 <= bent <= 8, "some are bent, most are shown as they are"


def test_augmentation_never_mirrors() -> None:
    """The marked corner stays in its octant whatever is drawn: left does not become right."""
    marked = torch.zeros(64, 1, 16, 16, 16)
    marked[:, :, 2:6, 2:6, 2:6] = 1
    _, label = augment(marked, marked.long(), (1.0, 1.0, 1.0), range(64))
    for one in label:
        where = one[0].nonzero().float().mean(dim=0)
        assert bool((where < 7.5).all())


def test_a_seed_gives_the_same_patches_and_another_seed_others(examples: list[Example]) -> None:
    bank = Bank(small_plan(), examples, CPU)
    first, again, other = (bank.patches([0, 3], [seed, seed + 1])[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_patch_is_the_same_in_any_batch(examples: list[Example]) -> None:
    bank = Bank(small_plan(mirror_axes=(0,)), examples, CPU)
    images, labels = bank.patches([2, 0, 5], [7, 8, 9])
    for place, (index, seed) in enumerate(((2, 7), (0, 8), (5, 9))):
        image, label = bank.patches([index], [seed])
        assert torch.allclose(images[place], image[0], atol=1e-6)
        assert torch.equal(labels[place], label[0])


def test_only_the_axes_that_are_named_are_mirrored() -> None:
    marked = torch.zeros(64, 1, 16, 16, 16)
    marked[:, :, 2:6, 2:6, 2:6] = 1
    _, label = augment(marked, marked.long(), (1.0, 1.0, 1.0), range(64), mirror_axes=(1,))
    where = torch.stack([one[0].nonzero().float().mean(dim=0) for one in label])
    assert bool((where[:, [0, 2]] < 7.5).all())
    assert 16 < int((where[:, 1] > 7.5).sum()) < 48


def test_a_pass_shows_every_example_once_in_an_order_of_its_own() -> None:
    plan = small_plan(batch=4)
    first, second = passes(plan, 6, 1), passes(plan, 6, 2)
    assert [len(batch) for batch in first] == [4, 2]
    assert sorted(place for batch in first for place in batch) == list(range(6))
    assert first != second


def test_patches_of_a_larger_volume_show_its_structures_often(examples: list[Example]) -> None:
    bank = Bank(small_plan(patch_RAS=(8, 8, 8)), examples, CPU)
    shown = [
        bool((label > 0).any())
        for seed in range(10)
        for label in bank.patches(range(6), range(6 * seed, 6 * seed + 6))[1]
    ]
    assert bank.patches([0], [0])[0].shape == (1, 1, 8, 8, 8)
    assert sum(shown) > 0.45 * len(shown)


def test_a_volume_smaller_than_the_patch_is_padded_around(examples: list[Example]) -> None:
    image, label = Bank(small_plan(patch_RAS=(32, 24, 24)), examples, CPU).patches([0, 1], [0, 1])
    assert image.shape == (2, 1, 32, 24, 24)
    assert label.dtype == torch.int64
