"""The interactive model: it answers by itself, and clicks correct it, wherever and however the image lies."""

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import Tensor

from labeling_protocols.agreement import dice
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Label
from labeling_protocols.volumes import read_volume, write_volume
from tests.training.drawn import STRAIGHT, turned
from tests.training.drawn_pairs import Point, interactive_plan, two_balls, with_ball
from training.box_prompts import Bounds
from training.bundle import BundleError
from training.checkpoint import Epoch
from training.clicks import BACKGROUND, Click, ClickError
from training.data import Example
from training.interactive import InteractiveLearner, habit_of, interactive_network_config
from training.interactive_inference import Interactor, interactive_config
from training.laying_back import chosen, lay_back
from training.loop import fit
from training.plan import Plan
from training.preparation import as_tensor
from training.prepared_images import PreparedImages
from training.stopping import InferenceStopped, Stopped, never

CPU = torch.device("cpu")
PLAN = interactive_plan(epochs=18, validate_every=18)
TURN = np.array([[0.0, 0.8, 0.6], [1.0, 0.0, 0.0], [0.0, 0.6, -0.8]])
GRIDS = {
    "straight": STRAIGHT,
    "flipped": turned(np.diag([-1.0, 1.0, -1.0]), (1.5, 1.5, 1.5)),
    "oblique and anisotropic": turned(TURN, (1.0, 2.0, 1.5)),
}
WIDE = Geometry(
    shape_ZYX=(30, 44, 24),
    spacing_mm_XYZ=(1.5, 1.5, 1.5),
    origin_mm_LPS=(-16.0, -16.0, -16.0),
    direction_LPS=STRAIGHT.direction_LPS,
)


def example(learner: InteractiveLearner, seed: int) -> Example:
    image, label, _ = two_balls(seed)
    return learner.prepare(f"case{seed}", image, Label.of(label))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Epoch]:
    learner, told = InteractiveLearner(PLAN), list[Epoch]()
    weights = fit(
        PLAN,
        learner,
        [example(learner, seed) for seed in range(12)],
        [example(learner, seed) for seed in range(12, 18)],
        folder=tmp_path_factory.mktemp("interactive"),
        device=CPU,
        tell=told.append,
    )
    return weights, told[-1]


@pytest.fixture
def interactor(trained: tuple[dict[str, Tensor], Epoch]) -> Interactor:
    return Interactor(interactive_config(PLAN), trained[0], CPU)


def found(label: Volume, truth: Volume) -> float:
    return dice(label.array_ZYX == 1, truth.array_ZYX == 1)


def test_clicks_improve_dice_on_unseen_cases(trained: tuple[dict[str, Tensor], Epoch]) -> None:
    """Two balls look alike and one is the lesion: without a click one cannot know which."""
    figures = trained[1].figures
    assert figures["dice_0_clicks"] < 0.7
    assert figures["dice_1_clicks"] > figures["dice_0_clicks"] + 0.15
    assert figures["dice_5_clicks"] > 0.8
    assert figures["dice_5_clicks/lesion"] == figures["dice_5_clicks"]


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_clicks_in_the_patient_tell_which_ball_is_meant(grid: Geometry, interactor: Interactor) -> None:
    for seed in (20, 21, 22):
        image, truth, (lesion, other) = two_balls(seed, grid)
        label = interactor.predict(image, {"lesion": [lesion], BACKGROUND: [other]})
        swapped = interactor.predict(image, {"lesion": [other], BACKGROUND: [lesion]})
        assert label.geometry == image.geometry
        assert label.array_ZYX.dtype == np.uint8
        assert found(label, truth) > 0.6
        assert found(swapped, truth) < 0.3


def test_a_click_on_a_missed_structure_makes_it_appear(interactor: Interactor) -> None:
    """Whichever ball clicks took away comes back with one more click on it."""
    image, truth, (lesion, other) = two_balls(23)
    missed = interactor.predict(image, {"lesion": [other], BACKGROUND: [lesion]})
    inside = truth.array_ZYX == 1
    assert np.mean(missed.array_ZYX[inside] == 1) < 0.2
    after = interactor.predict(image, {"lesion": [lesion]})
    assert np.mean(after.array_ZYX[inside] == 1) > 0.6


def test_of_a_large_image_only_the_part_around_the_clicks_changes(
    interactor: Interactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, truth, (lesion, other) = two_balls(24, WIDE)
    automatic = interactor.predict(image)
    answered: list[Sequence[int]] = []
    ask = interactor._scores

    def watched(part: Tensor, clicks: Sequence[Click], stopped: Stopped) -> Tensor:
        answered.append(part.shape[1:])
        return ask(part, clicks, stopped)

    monkeypatch.setattr(interactor, "_scores", watched)
    label = interactor.predict(image, {"lesion": [lesion], BACKGROUND: [other]})
    ((x, y, z),) = answered
    assert x * y * z < 24 * 44 * 30
    assert found(label, truth) > 0.6
    centres_mm = np.array([lesion, other])
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (24, 44, 30)), indexing="ij"), axis=-1) * 1.5 - 16.0
    beyond = ((index < centres_mm.min(axis=0) - 16.6) | (index > centres_mm.max(axis=0) + 16.6)).any(axis=-1).T
    assert beyond.any()
    assert np.array_equal(label.array_ZYX[beyond], automatic.array_ZYX[beyond])


def test_scores_come_back_where_monai_brings_them(trained: tuple[dict[str, Tensor], Epoch]) -> None:
    """The same scores by MONAI's inversion and by ours, on a turned and resampled grid, in the whole and in part."""
    image, _, _ = two_balls(25, GRIDS["oblique and anisotropic"])
    config = interactive_config(PLAN)
    parser = ConfigParser(config)
    prepare, restore = parser.get_parsed_content("prepare"), parser.get_parsed_content("restore")
    interactor = Interactor(config, trained[0], CPU)
    with torch.inference_mode():
        prepared = prepare({"image": as_tensor(image)})["image"]
        scores = interactor._scores(prepared.as_tensor(), [], never)
        restored = restore({"image": prepared, "pred": MetaTensor(scores)})["pred"].numpy()[0].T
        to_network = np.linalg.inv(prepared.affine.numpy()) @ image.geometry.affine_RAS()
        whole = lay_back(scores, (0, 0, 0), to_network, image.geometry.shape_ZYX)
        part = lay_back(scores[:, 3:15, 2:18, 5:16], (3, 2, 5), to_network, image.geometry.shape_ZYX)
    assert restored.any()
    assert whole.slices_ZYX == tuple(slice(0, size) for size in image.geometry.shape_ZYX)
    assert np.mean(chosen(whole.scores).numpy() != restored) < 0.002
    assert dice(interactor.predict(image).array_ZYX == 1, restored == 1) > 0.98
    inner = tuple(slice(edge.start + 2, edge.stop - 2) for edge in part.slices_ZYX)
    assert np.mean(chosen(part.scores).numpy()[2:-2, 2:-2, 2:-2] != restored[inner]) < 0.002


def test_what_is_answered_does_not_depend_on_what_was_asked_before(interactor: Interactor) -> None:
    images = [two_balls(seed) for seed in (26, 27, 28)]
    alone = [interactor.predict(image, {"lesion": [lesion]}).array_ZYX for image, _, (lesion, _) in images]
    interactor.predict(images[0][0]).array_ZYX[:] = 9

    def ask(place: int) -> tuple[np.ndarray, np.ndarray]:
        image, _, (lesion, _) = images[place % 3]
        return interactor.predict(image, {"lesion": [lesion]}).array_ZYX, interactor.predict(image).array_ZYX

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(ask, range(9)))
    assert all(np.array_equal(clicked, alone[n % 3]) for n, (clicked, _) in enumerate(together))
    assert all(automatic.max() <= 1 for _, automatic in together)


def test_nothing_of_a_structure_lies_outside_its_box(interactor: Interactor) -> None:
    """The box is drawn around either ball on a turned grid; its middle says which of the two is the lesion."""
    image, truth, (lesion, other) = two_balls(24, GRIDS["oblique and anisotropic"])
    to_image = np.linalg.inv(image.geometry.affine_LPS())
    for centre, lies_there in ((lesion, True), (other, False)):
        middle_XYZ = np.rint((to_image @ [*centre, 1.0])[:3]).astype(int)
        reach_XYZ = np.ceil(9 / np.array(image.geometry.spacing_mm_XYZ)).astype(int)
        low, high = np.maximum(middle_XYZ - reach_XYZ, 0), middle_XYZ + reach_XYZ + 1
        high = np.minimum(high, image.geometry.shape_ZYX[::-1])
        bounds = Bounds(structures=("lesion",), low_XYZ=tuple(low), high_XYZ=tuple(high))
        label = interactor.predict(image, bounds=bounds)
        outside = label.array_ZYX.copy()
        outside[bounds.slices_ZYX] = 0
        assert label.array_ZYX.any()
        assert not outside.any()
        assert (found(label, truth) > 0.5) == lies_there


def test_an_image_is_prepared_once_for_all_clicks(trained: tuple[dict[str, Tensor], Epoch]) -> None:
    images = PreparedImages()
    interactor = Interactor(interactive_config(PLAN), trained[0], CPU, images)
    image, _, (lesion, _) = two_balls(24, WIDE)
    assert not interactor.knows("an image")
    interactor.predict(image, digest="an image")
    assert interactor.knows("an image")
    kept = images.bytes
    interactor.predict(image, {"lesion": [lesion]}, digest="an image")
    assert 0 < images.bytes - kept <= 20**3  # the voxels of one part, where the prepared image has four bytes each
    assert kept > 4 * image.array_ZYX.size


def test_clicks_far_apart_are_answered_apart_and_only_new_ones_anew(
    trained: tuple[dict[str, Tensor], Epoch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clicks lie more than a patch of 20 voxels apart; so each has a part of its own, as large as a patch."""
    first, second = (0.0, -2.0, 0.0), (0.0, 62.0, 0.0)
    image = with_ball(two_balls(24, replace(WIDE, shape_ZYX=(30, 60, 24)))[0], second)
    interactor = Interactor(interactive_config(PLAN), trained[0], CPU)
    automatic = interactor.predict(image).array_ZYX
    answered: list[Sequence[int]] = []
    ask = interactor._scores

    def watched(part: Tensor, clicks: Sequence[Click], stopped: Stopped) -> Tensor:
        answered.append(part.shape[1:])
        return ask(part, clicks, stopped)

    monkeypatch.setattr(interactor, "_scores", watched)
    one = interactor.predict(image, {"lesion": [first]}).array_ZYX
    both = interactor.predict(image, {"lesion": [first, second]}).array_ZYX
    assert answered == [(20, 20, 20), (20, 20, 20)]
    assert np.array_equal(both[:, :40], one[:, :40])
    assert np.array_equal(one[:, 40:], automatic[:, 40:])
    assert not np.array_equal(both[:, 40:], automatic[:, 40:])


def test_nobody_waits_for_an_answer_to_somebody_who_left(trained: tuple[dict[str, Tensor], Epoch]) -> None:
    interactor = Interactor(interactive_config(PLAN), trained[0], CPU)
    with pytest.raises(InferenceStopped):
        interactor.predict(two_balls(24, WIDE)[0], digest="an image", stopped=lambda: True)
    assert not interactor.knows("an image")


def test_labels_come_back_in_the_values_of_the_protocol(trained: tuple[dict[str, Tensor], Epoch]) -> None:
    image, _, (lesion, _) = two_balls(24, WIDE)
    interactor = Interactor(interactive_config(interactive_plan(values=(0, 200))), trained[0], CPU)
    for clicks in ({}, {"lesion": [lesion]}):
        assert set(np.unique(interactor.predict(image, clicks).array_ZYX)) == {0, 200}


@pytest.mark.parametrize(
    ("clicks", "said"),
    [
        ({"liver": [(0.0, 0.0, 0.0)]}, "found clicks for 'liver'; expected one of background, lesion"),
        (
            {"lesion": [(0.0, 0.0, 0.0), (-16.0, 0.0, 0.0)]},
            r"at voxel \(-1, 10, 8\), outside the image of \(20, 20, 18\)",
        ),
    ],
)
def test_clicks_that_cannot_be_used_are_refused_in_words(
    clicks: dict[str, list[Point]], said: str, interactor: Interactor
) -> None:
    with pytest.raises(ClickError, match=said):
        interactor.predict(two_balls(24)[0], clicks)


def test_several_networks_answer_by_the_mean_of_their_probabilities(trained: tuple[dict[str, Tensor], Epoch]) -> None:
    """Two equal networks answer as one does, in the whole and in part."""
    both = {f"{member}.{name}": tensor for member in (0, 1) for name, tensor in trained[0].items()}
    alone, together = (
        Interactor(interactive_config(PLAN, members), weights, CPU) for members, weights in ((1, trained[0]), (2, both))
    )
    image, _, (lesion, _) = two_balls(24, WIDE)
    for clicks in ({}, {"lesion": [lesion]}):
        ours, theirs = together.predict(image, clicks).array_ZYX, alone.predict(image, clicks).array_ZYX
        assert theirs.any()
        assert np.mean(ours != theirs) < 0.001


def test_weights_of_another_network_are_refused(trained: tuple[dict[str, Tensor], Epoch]) -> None:
    weights = dict(trained[0])
    del weights[sorted(weights)[0]]
    with pytest.raises(BundleError, match="not those of the configured network"):
        Interactor(interactive_config(PLAN), weights, CPU)


@pytest.mark.parametrize("network", ["UNet", "DynUNet", "SegResNet"])
def test_any_network_takes_the_image_with_its_guidance(network: str) -> None:
    plan = interactive_plan(network=network, targets=("a", "b"), values=(0, 1, 2))
    assert interactive_network_config(plan)["in_channels"] == 4
    learner = InteractiveLearner(plan)
    assert learner.network()(torch.zeros(1, 4, 20, 20, 20)).shape == (1, 3, 20, 20, 20)


def test_the_loss_of_an_example_depends_on_its_seed_alone() -> None:
    plan = interactive_plan()
    learner = InteractiveLearner(plan)
    learner.load([example(learner, seed) for seed in range(4)], CPU)
    torch.manual_seed(0)
    network = learner.network()
    seeds = [11, 12, 13, 14]
    together = learner.loss(network, [0, 1, 2, 3], seeds).item()
    torch.manual_seed(99)
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(lambda n: learner.loss(network, [n], [seeds[n]]).item(), range(4)))
    assert np.mean(alone) == pytest.approx(together, rel=1e-4)
    assert learner.loss(network, [0], [15]).item() != pytest.approx(alone[0], rel=1e-4)


def test_half_of_the_patches_are_shown_without_a_click() -> None:
    """Of the others half have every structure clicked at first, and at most five errors are clicked."""
    habits = [habit_of(seed) for seed in range(1000)]
    clicked = [habit for habit in habits if habit.first or habit.errors]
    assert 0.45 < len(clicked) / len(habits) < 0.55
    assert 0.45 < sum(habit.first for habit in clicked) / len(clicked) < 0.55
    assert {habit.errors for habit in clicked if habit.first} == {0, 1, 2, 3, 4, 5}
    assert {habit.errors for habit in clicked if not habit.first} == {1, 2, 3, 4, 5}


def test_simulated_clicks_are_as_many_as_the_habit_and_say_what_is_true() -> None:
    learner = InteractiveLearner(interactive_plan())
    learner.load([example(learner, seed) for seed in range(4)], CPU)
    torch.manual_seed(0)
    network, seeds = learner.network(), [2, 3, 4, 5]
    image, label = learner._bank.patches([0, 1, 2, 3], seeds)
    simulated = learner._simulate(network, image, label[:, 0], seeds)
    habits = [habit_of(seed) for seed in seeds]
    assert [len(clicks) for clicks in simulated] == [habit.first + habit.errors for habit in habits]
    assert any(simulated)
    for truth, clicks in zip(label[:, 0], simulated, strict=True):
        assert all(int(truth[click.voxel_XYZ]) == click.channel for click in clicks)


def test_a_network_with_deep_supervision_learns_from_clicks_too() -> None:
    plan: Plan = interactive_plan(network="DynUNet", deep_supervision=True)
    learner = InteractiveLearner(plan)
    learner.load([example(learner, 0)], CPU)
    network = learner.network().train()
    loss = learner.loss(network, [0, 0], [3, 4])
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    assert bool(torch.isfinite(loss))
    assert all(gradient is not None for gradient in gradients)


@pytest.mark.slow
def test_monai_alone_runs_the_bundle_without_clicks(
    trained: tuple[dict[str, Tensor], Epoch], interactor: Interactor, tmp_path: Path
) -> None:
    image, _, _ = two_balls(29, GRIDS["oblique and anisotropic"])
    for folder in ("in", "configs", "models"):
        (tmp_path / folder).mkdir()
    write_volume(image, tmp_path / "in" / "drawn.nii.gz")
    (tmp_path / "configs" / "inference.json").write_text(json.dumps(interactive_config(PLAN)))
    torch.save(trained[0], tmp_path / "models" / "model.pt")
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"),
            *("--bundle_root", ".", "--dataset_dir", "in", "--output_dir", "out"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    (written,) = (tmp_path / "out").rglob("*.nii.gz")
    label = read_volume(written)
    assert image.geometry.difference(label.geometry) is None
    expected = interactor.predict(read_volume(tmp_path / "in" / "drawn.nii.gz"))
    assert expected.array_ZYX.any()
    assert np.mean(label.array_ZYX != expected.array_ZYX) < 0.001
