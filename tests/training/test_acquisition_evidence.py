"""What a trained network says of drawn images: views, features, and summaries made one view at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from labeling_protocols.geometry import Volume
from tests.training.drawn import draw
from training.acquisition import rank, summarise
from training.acquisition_diversity import image_features
from training.acquisition_evidence import View, bottleneck_features, evidence_of, summary_of, views_of
from training.plan import Plan
from training.segmentation_inference import Segmenter, segmentation_config
from training.stopping import InferenceStopped

NAMES = ["anterior", "posterior"]
Trained = tuple[Plan, dict[str, Tensor]]


@pytest.fixture(scope="module")
def segmenter(trained: Trained) -> Segmenter:
    plan, weights = trained
    return Segmenter(segmentation_config(plan), weights, torch.device("cpu"))


@pytest.fixture(scope="module")
def pair(trained: Trained) -> Segmenter:
    """Two networks that answer together, of which the second is not quite the first."""
    plan, weights = trained
    generator = torch.Generator().manual_seed(1)
    shaken = {
        name: value + 0.1 * value.std() * torch.randn(value.shape, generator=generator)
        if value.is_floating_point() and value.numel() > 1
        else value
        for name, value in weights.items()
    }
    both = {f"{n}.{name}": value for n, one in enumerate((weights, shaken)) for name, value in one.items()}
    return Segmenter(segmentation_config(plan, members=2), both, torch.device("cpu"))


def voxels(image: Volume) -> NDArray[np.float32]:
    return image.array_ZYX.astype(np.float32)


def faint(image: Volume) -> Volume:
    """The same patient with almost nothing to see."""
    noise = np.random.default_rng(9).normal(0, 60, image.array_ZYX.shape)
    return Volume(array_ZYX=(voxels(image) * 0.3 + noise).astype(np.float32), geometry=image.geometry)


def test_views_are_plain_ones_first_then_mirrored_then_varied() -> None:
    assert views_of(2, 1, (), 5) == [View(member=0), View(member=0, seed=5001)]
    assert views_of(6, 2, (0,), 5) == [
        View(member=0),
        View(member=1),
        View(member=0, mirrored=(0,)),
        View(member=1, mirrored=(0,)),
        View(member=0, seed=5002),
        View(member=1, seed=5002),
    ]
    assert [view.mirrored for view in views_of(4, 1, (2, 0), 0)] == [(), (0,), (2,), (0, 2)]
    assert len(views_of(1, 3, (), 0)) == 3


def test_samples_are_probabilities_on_the_networks_grid_and_the_same_for_the_same_seed(segmenter: Segmenter) -> None:
    image, label = draw(40)
    evidence = evidence_of(segmenter, image, views=3, seed=2)
    assert evidence.samples is not None
    assert evidence.samples.shape == (3, 3, 20, 20, 18)
    np.testing.assert_allclose(evidence.samples.sum(axis=1), 1.0, atol=1e-5)
    truth = np.moveaxis(label.array_ZYX, 0, -1).swapaxes(0, 1)[::-1, ::-1]  # from LPS to RAS
    assert (evidence.samples[0].argmax(axis=0) == truth).mean() > 0.97
    again = evidence_of(segmenter, image, views=3, seed=2)
    assert again.samples is not None
    assert np.array_equal(again.samples, evidence.samples)
    assert np.array_equal(again.features, evidence.features)  # type: ignore[arg-type]
    other = evidence_of(segmenter, image, views=3, seed=3)
    assert other.samples is not None
    assert np.array_equal(other.samples[0], evidence.samples[0])
    assert not np.array_equal(other.samples[1], evidence.samples[1])


def test_a_mirrored_view_comes_back_where_it_was(segmenter: Segmenter) -> None:
    """The balls are not symmetric: a view that stayed mirrored would lie elsewhere."""
    image, _ = draw(41)
    samples = evidence_of(segmenter, image, views=2, seed=0, mirror_axes=(1,)).samples
    assert samples is not None
    plain, mirrored = (sample.argmax(axis=0) == 1 for sample in samples)
    assert (plain & mirrored).sum() > 0.5 * plain.sum()
    assert (plain & mirrored[:, ::-1]).sum() < 0.2 * plain.sum()


def test_a_summary_made_view_by_view_is_that_of_all_evidence(segmenter: Segmenter) -> None:
    image, _ = draw(42)
    evidence = evidence_of(segmenter, image, views=4, seed=2, case="a")
    found, whole = summary_of(segmenter, image, NAMES, case="a", views=4, seed=2), summarise(evidence, NAMES)
    assert found.features == pytest.approx(whole.features, rel=1e-4)
    assert replace(found, features=()) == replace(whole, features=())


def test_what_can_hardly_be_seen_is_uncertain_and_comes_first(segmenter: Segmenter) -> None:
    images = {"clear": draw(43)[0], "faint": faint(draw(43)[0])}
    found = [summary_of(segmenter, image, NAMES, case=case) for case, image in images.items()]
    for strategy in ("predictive_entropy", "bald", "ensemble_disagreement", "hybrid"):
        assert rank(strategy, found, seed=1)[0].case == "faint", strategy


def test_networks_of_an_ensemble_are_samples_of_their_own(pair: Segmenter) -> None:
    image, _ = draw(44)
    samples = evidence_of(pair, faint(image), views=2, seed=0).samples
    assert samples is not None
    assert not np.array_equal(samples[0], samples[1])
    assert summary_of(pair, faint(image), NAMES, case="a", views=2).disagreement["posterior"] > 0


def test_features_lie_closer_for_the_same_patient_than_for_another_kind_of_image(segmenter: Segmenter) -> None:
    image, _ = draw(45)
    brighter = Volume(array_ZYX=voxels(image) * 1.5 + 3, geometry=image.geometry)
    for features in (lambda i: bottleneck_features(segmenter, segmenter.prepared(i)), image_features):
        this, same, other = (features(one) for one in (image, brighter, faint(image)))
        assert np.isfinite(this).all()
        assert np.linalg.norm(this - same) < 0.2 * np.linalg.norm(this - other)


def test_an_image_without_contrast_has_features_too() -> None:
    image, _ = draw(46)
    flat = Volume(array_ZYX=np.zeros_like(image.array_ZYX), geometry=image.geometry)
    assert np.isfinite(image_features(flat)).all()
    assert image_features(flat).shape == image_features(image).shape


def test_work_stops_between_two_views(segmenter: Segmenter) -> None:
    asked = iter([False, True])
    with pytest.raises(InferenceStopped):
        summary_of(segmenter, draw(47)[0], NAMES, case="a", stopped=lambda: next(asked))
