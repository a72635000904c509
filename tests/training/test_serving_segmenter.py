"""The segmenter that serves: as plain MONAI answers, stopped when asked to, its images and answers kept."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import Tensor

from labeling_protocols.agreement import dice
from labeling_protocols.geometry import Volume
from tests.training.conftest import KEY
from tests.training.drawn import draw, turned
from tests.training.test_serving_preparation import turn
from training.bundle import open_bundle
from training.bundle_run import network_with_weights
from training.inference import InferenceStopped, Predictor
from training.model_card import Candidate, inference_config
from training.preparation import as_tensor
from training.prepared_images import PreparedImages, image_digest
from training.segmentation_inference import Segmenter

CPU = torch.device("cpu")
OBLIQUE = turned(turn(30, 1) @ np.diag([1.0, -1.0, -1.0]), (1.0, 2.0, 1.5))


def plain_monai(config: Mapping[str, Any], weights: Mapping[str, Tensor], image: Volume) -> np.ndarray:
    """The bundle's own configuration, step by step, and nothing of ours."""
    parser = ConfigParser(dict(config))
    network = network_with_weights(parser, weights, CPU)
    data = parser.get_parsed_content("prepare")({"image": as_tensor(image)})
    with torch.inference_mode():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], network)[0]
        restored = parser.get_parsed_content("restore")(data)["pred"]
    return np.asarray(restored.numpy()[0].T.astype(np.uint8))


@pytest.mark.parametrize("patch", [(16, 16, 16), (24, 12, 20)])
def test_the_answer_is_plain_monais(candidate: Candidate, patch: tuple[int, int, int]) -> None:
    config = inference_config(replace(candidate.plan, patch_RAS=patch, window_overlap=0.5))
    image, _ = draw(31, OBLIQUE)
    expected = plain_monai(config, candidate.weights, image)
    found = Segmenter(config, candidate.weights, CPU).predict(image).array_ZYX
    assert expected.any()
    for value in (1, 2):
        assert dice(found == value, expected == value) >= 0.998


def test_a_foreign_inferer_and_foreign_transforms_go_through_monai(candidate: Candidate) -> None:
    config = inference_config(candidate.plan)
    config["inferer"] = {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "padding_mode": "reflect"}
    config["prepare"]["transforms"][1]["padding_mode"] = "reflection"
    image, _ = draw(32, OBLIQUE)
    found = Segmenter(config, candidate.weights, CPU).predict(image).array_ZYX
    np.testing.assert_array_equal(found, plain_monai(config, candidate.weights, image))


@pytest.mark.parametrize("padding", ["constant", "reflect"])
def test_nothing_is_proposed_once_nobody_waits(candidate: Candidate, padding: str) -> None:
    config = inference_config(replace(candidate.plan, patch_RAS=(8, 8, 8)))
    if padding == "reflect":
        config["inferer"]["padding_mode"] = padding
    segmenter = Segmenter(config, candidate.weights, CPU)
    answered: list[int] = []
    segmenter.members[0].register_forward_hook(lambda *_: answered.append(1))
    with pytest.raises(InferenceStopped):
        segmenter.predict(draw(33)[0], stopped=lambda: len(answered) >= 5)
    assert 5 <= len(answered) < 12


def test_probabilities_choose_what_the_label_shows(candidate: Candidate) -> None:
    segmenter = Segmenter(inference_config(candidate.plan), candidate.weights, CPU)
    image, _ = draw(34, OBLIQUE)
    label = segmenter.predict(image).array_ZYX
    shares = dict(segmenter.probabilities(image, ["anterior", "posterior"]))
    background = 1 - shares["anterior"] - shares["posterior"]
    chosen = np.argmax([background, shares["anterior"], shares["posterior"]], axis=0)
    assert np.count_nonzero(chosen != label) <= 2


def test_each_member_can_be_asked_alone_and_together_they_answer_by_their_mean(candidate: Candidate) -> None:
    config = inference_config(candidate.plan, members=2)
    other = {name: weight + 0.02 * torch.randn_like(weight) for name, weight in candidate.weights.items()}
    members = (candidate.weights, other)
    weights = {f"{number}.{name}": w for number, one in enumerate(members) for name, w in one.items()}
    together = Segmenter(config, weights, CPU)
    assert len(together.members) == 2
    prepared = together.prepared(draw(35)[0])
    alone = [Segmenter(inference_config(candidate.plan), one, CPU).scores(prepared) for one in members]
    for number, scores in enumerate(alone):
        torch.testing.assert_close(together.scores(prepared, member=number), scores)
    mean = torch.stack([scores.softmax(dim=0) for scores in alone]).mean(dim=0)
    torch.testing.assert_close(together.scores(prepared), mean)


def test_an_image_is_prepared_once_and_known_by_its_content(candidate: Candidate) -> None:
    images = PreparedImages()
    segmenter = Segmenter(inference_config(candidate.plan), candidate.weights, CPU, images=images)
    image, _ = draw(36)
    first = segmenter.prepared(image)
    assert isinstance(first, MetaTensor)
    assert segmenter.prepared(Volume(array_ZYX=image.array_ZYX.copy(), geometry=image.geometry)) is first
    assert segmenter.prepared(image, "the case's digest") is not first
    second = Segmenter(inference_config(candidate.plan), candidate.weights, CPU, images=images)
    assert second.prepared(image) is first
    other = inference_config(replace(candidate.plan, spacing_mm_RAS=(2.0, 2.0, 2.0)))
    assert Segmenter(other, candidate.weights, CPU, images=images).prepared(image) is not first


def test_without_a_place_to_keep_images_none_is_kept(candidate: Candidate) -> None:
    segmenter = Segmenter(inference_config(candidate.plan), candidate.weights, CPU)
    image, _ = draw(37)
    assert segmenter.prepared(image) is not segmenter.prepared(image)


def test_a_second_request_for_an_image_gets_the_kept_answer(bundle_path: Path) -> None:
    images = PreparedImages()
    predictor = Predictor(open_bundle(bundle_path, KEY.public_key()), "cpu", images)
    image, _ = draw(38, OBLIQUE)
    first = predictor.predict(image)
    assert predictor.predict(image, stopped=lambda: pytest.fail("nothing is computed")) is first
    assert images.known((image_digest(image), "label", predictor.bundle.sha256))
    with pytest.raises(ValueError, match="read-only"):
        first.array_ZYX[0, 0, 0] = 1
    alone = Predictor(open_bundle(bundle_path, KEY.public_key()), "cpu")
    np.testing.assert_array_equal(alone.predict(image).array_ZYX, first.array_ZYX)
