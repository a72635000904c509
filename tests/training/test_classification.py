"""Classification of whole cases: it learns, from answers only, and gives each option a probability."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from labeling_protocols.strata import Strata
from labeling_protocols.volumes import read_volume, write_volume
from tests.training.drawn import STRAIGHT, turned
from tests.training.drawn_pairs import classification_plan, counted_balls
from training.bundle import BundleError
from training.checkpoint import Epoch
from training.classification import (
    CaseExample,
    ClassificationLearner,
    UnansweredError,
    class_weights,
    target_of,
)
from training.classification_evaluation import Answers, answered_cases, classification_statistic
from training.classification_inference import Classifier, classification_config
from training.classification_kit import ClassificationKit
from training.classification_network import CLASSIFICATION_NETWORKS, classification_network_config
from training.classification_plan import coarse_fingerprint, plan_classification
from training.loop import fit
from training.plan import CPU_BUDGET, Fingerprint, ModelTask, Plan, PlanError, Precision, make_plan
from training.task_kit import TestCase

CPU = torch.device("cpu")
PLAN = classification_plan(epochs=8, validate_every=8)
TURNED = turned(np.array([[0.0, 0.8, 0.6], [1.0, 0.0, 0.0], [0.0, 0.6, -0.8]]), (1.0, 2.0, 1.5))


def example(learner: ClassificationLearner, seed: int) -> CaseExample:
    return learner.prepare(f"case{seed}", *counted_balls(seed, 1 + seed % 2))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Epoch]:
    learner, told = ClassificationLearner(PLAN), list[Epoch]()
    weights = fit(
        PLAN,
        learner,
        [example(learner, seed) for seed in range(24)],
        [example(learner, seed) for seed in range(24, 30)],
        folder=tmp_path_factory.mktemp("classification"),
        device=CPU,
        tell=told.append,
    )
    return weights, told[-1]


@pytest.fixture(scope="module")
def classifier(trained: tuple[dict[str, Tensor], Epoch]) -> Classifier:
    return Classifier(classification_config(PLAN), trained[0], CPU)


def test_one_ball_or_two_is_told_on_unseen_cases_however_they_lie(classifier: Classifier) -> None:
    """Cases of every grid together, scored as the pipeline scores them."""
    cases = [
        TestCase(case=f"c{seed}", patient=f"P{seed}", strata=Strata(), image=image, label=label)
        for seed in range(100, 140)
        for image, label in [counted_balls(seed, 1 + seed % 2, TURNED if seed % 4 < 2 else STRAIGHT)]
    ]
    kit = ClassificationKit()
    answers = Answers.from_json(kit.score(classifier, cases, PLAN, None))  # type: ignore[arg-type]  # not asked
    scored = answered_cases(answers, {one.case: one for one in cases})
    found = classification_statistic(PLAN.targets, ordinal=False)(scored)
    assert found["auc/yes"] is not None
    assert found["auc/yes"] >= 0.9
    assert answers.unanswered == 0


def test_probabilities_are_of_the_options_and_add_up(classifier: Classifier) -> None:
    image, _ = counted_balls(50, 2)
    found = classifier.predict(image)
    assert list(found) == ["no", "yes"]
    assert sum(found.values()) == pytest.approx(1.0)
    assert classifier.question == "pair"
    assert classifier.predict(image) == found


def test_several_networks_answer_by_the_mean_of_their_probabilities(trained: tuple[dict[str, Tensor], Epoch]) -> None:
    torch.manual_seed(1)
    other = ClassificationLearner(PLAN).network().state_dict()
    image, _ = counted_balls(51, 1)
    alone = [Classifier(classification_config(PLAN), weights, CPU).predict(image) for weights in (trained[0], other)]
    both = {f"{n}.{name}": tensor for n, one in enumerate((trained[0], other)) for name, tensor in one.items()}
    together = Classifier(classification_config(PLAN, 2), both, CPU).predict(image)
    for option in ("no", "yes"):
        assert together[option] == pytest.approx(sum(one[option] for one in alone) / 2, abs=1e-6)


def test_cases_without_an_answer_are_left_out_and_counted(classifier: Classifier) -> None:
    image, label = counted_balls(52, 2)
    silent = Label(geometry=label.geometry, layers_LZYX=label.layers_LZYX)
    cases = [
        TestCase(case=case, patient=case, strata=Strata(), image=image, label=of)
        for case, of in (("a", label), ("b", silent))
    ]
    answers = Answers.from_json(ClassificationKit().score(classifier, cases, PLAN, None))  # type: ignore[arg-type]
    assert list(answers.of) == ["a"]
    assert answers.of["a"][0] == "yes"
    assert answers.unanswered == 1
    pooled = Answers.from_json(ClassificationKit().pooled([answers.as_json(), answers.as_json()]))
    assert (list(pooled.of), pooled.unanswered) == (["a"], 2)


def test_an_answer_is_found_among_the_targets_whatever_its_type() -> None:
    numbers = classification_plan(question="balls", targets=("1", "2", "3"))
    choices = classification_plan(question="shape", targets=("round", "no"))
    assert [target_of(PLAN, {"pair": answer}) for answer in (False, True)] == [0, 1]
    assert [target_of(numbers, {"balls": answer}) for answer in (1, 3, 4)] == [0, 2, None]
    assert [target_of(choices, {"shape": answer}) for answer in ("round", "no", "other")] == [0, 1, None]
    assert target_of(PLAN, {"balls": 2}) is None


def test_an_unanswered_case_is_refused_in_words() -> None:
    image, label = counted_balls(1, 2)
    with pytest.raises(UnansweredError, match="case c: found 2 as the answer to balls; expected one of 3, 4"):
        ClassificationLearner(classification_plan(question="balls", targets=("3", "4"))).prepare("c", image, label)


def test_rare_answers_weigh_as_much_as_frequent_ones() -> None:
    """Three of 0 and one of 2: 4 / (2 × 3) and 4 / (2 × 1); all examples together weigh as many as they are."""
    weights = class_weights([0, 0, 2, 0], 3)
    assert weights.tolist() == pytest.approx([2 / 3, 0, 2])
    assert float(weights[torch.tensor([0, 0, 2, 0])].sum()) == pytest.approx(4)


def test_the_loss_is_the_mean_over_examples_whatever_the_batch() -> None:
    """Also where the weights of the answers differ, which torch's own weighted mean would divide out."""
    learner = ClassificationLearner(PLAN)
    learner.load([example(learner, seed) for seed in (0, 2, 4, 1)], CPU)
    torch.manual_seed(0)
    network = learner.network()
    with torch.no_grad():
        together = float(learner.loss(network, [0, 1, 3], [7, 8, 9]))
        alone = [float(learner.loss(network, [place], [seed])) for place, seed in ((0, 7), (1, 8), (3, 9))]
    assert together == pytest.approx(np.mean(alone), rel=1e-4)
    assert alone[2] > 1.5 * max(alone[:2])


def test_the_whole_case_is_cut_or_padded_about_its_middle_to_the_patch() -> None:
    image, label = counted_balls(3, 2)
    learner = ClassificationLearner(classification_plan(patch_RAS=(12, 20, 32)))
    cut = learner.prepare("c", image, label).image
    whole = ClassificationLearner(classification_plan(patch_RAS=(20, 20, 18))).prepare("c", image, label).image
    assert cut.shape == (1, 12, 20, 32)
    assert torch.equal(cut[:, :, :, 7:25], whole[:, 4:16])
    assert float(cut[:, :, :, :7].abs().sum() + cut[:, :, :, 25:].abs().sum()) == 0.0


@pytest.mark.parametrize("network", CLASSIFICATION_NETWORKS)
@pytest.mark.parametrize("patch", [(20, 20, 20), (64, 48, 16)])
def test_every_network_gives_a_score_an_option_and_depends_on_no_batch(
    network: str, patch: tuple[int, int, int]
) -> None:
    plan = classification_plan(network=network, patch_RAS=patch, targets=("a", "b", "c"), channels=(12, 24, 24))
    built = ClassificationLearner(plan).network().train()
    images = torch.randn(2, 1, *patch)
    with torch.no_grad():
        assert torch.allclose(built(images)[:1], built(images[:1]), atol=1e-4)
        assert built(images).shape == (2, 3)
    assert not any(isinstance(part, nn.BatchNorm3d) for part in built.modules())


def test_an_encoder_divides_each_axis_as_the_plan_does() -> None:
    plan = classification_plan(network="Classifier", strides=((1, 1, 1), (2, 2, 1), (2, 2, 2)), channels=(4, 8, 8))
    network = ClassificationLearner(plan).network()
    assert network.final_size == (5, 5, 10)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"network": "UNet"}, "unknown network 'UNet' for a classification; expected one of DenseNet, Classifier"),
        ({"network": "DenseNet", "patch_RAS": (32, 32, 12)}, "a DenseNet needs 16 voxels along each axis"),
    ],
)
def test_networks_that_cannot_be_are_refused_in_words(values: dict[str, object], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        ClassificationLearner(classification_plan(**values)).network()


def test_weights_of_another_network_are_refused(trained: tuple[dict[str, Tensor], Epoch]) -> None:
    with pytest.raises(BundleError, match="not those of the configured network"):
        Classifier(classification_config(replace(PLAN, targets=("a", "b", "c"))), trained[0], CPU)


def test_a_constant_image_gets_probabilities_and_no_error(classifier: Classifier) -> None:
    flat = Volume(array_ZYX=np.full(STRAIGHT.shape_ZYX, 7, dtype=np.int16), geometry=STRAIGHT)
    assert all(np.isfinite(value) for value in classifier.predict(flat).values())


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [((512, 512, 300), (0.7, 0.7, 1.0)), ((512, 512, 40), (0.4, 0.4, 5.0)), ((30, 30, 20), (1.0, 1.0, 1.0))],
)
def test_a_plan_of_the_coarse_fingerprint_covers_the_whole_volume(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> None:
    fingerprint = Fingerprint(
        cases=50,
        spacing_mm_RAS=spacing_mm,
        shape_RAS=shape,
        shape_max_RAS=shape,
        intensity_mean=0.0,
        intensity_std=1.0,
        intensity_low=0.0,
        intensity_high=1.0,
    )
    coarse = coarse_fingerprint(fingerprint)
    plan: Plan = plan_classification(
        make_plan(
            coarse,
            values={"no": 1, "yes": 2},
            modality="CT",
            precision=Precision.FP32,
            task=ModelTask.CLASSIFICATION,
            question="pair",
        )
    )
    assert np.prod(plan.patch_RAS) <= CPU_BUDGET.patch_voxels
    covered_mm, extent_mm = np.multiply(plan.patch_RAS, plan.spacing_mm_RAS), np.multiply(shape, spacing_mm)
    assert (covered_mm >= 0.999 * extent_mm).all()
    if np.prod(shape) < CPU_BUDGET.patch_voxels / 2:
        assert coarse.spacing_mm_RAS == spacing_mm
    assert classification_network_config(plan)["out_channels"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 2])
def test_monai_alone_runs_the_bundle(members: int, trained: tuple[dict[str, Tensor], Epoch], tmp_path: Path) -> None:
    weights = trained[0]
    if members > 1:
        weights = {f"{n}.{name}": tensor for n in range(members) for name, tensor in trained[0].items()}
    for folder in ("in", "configs", "models"):
        (tmp_path / folder).mkdir()
    for seed in (60, 61):
        write_volume(counted_balls(seed, 1 + seed % 2, TURNED)[0], tmp_path / "in" / f"{seed}.nii.gz")
    (tmp_path / "configs" / "inference.json").write_text(json.dumps(classification_config(PLAN, members)))
    torch.save(weights, tmp_path / "models" / "model.pt")
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
    classifier = Classifier(classification_config(PLAN, members), weights, CPU)
    rows = list(csv.reader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    assert [Path(row[0]).name for row in rows] == ["60.nii.gz", "61.nii.gz"]
    for row in rows:
        expected = classifier.predict(read_volume(tmp_path / "in" / Path(row[0]).name))
        assert [float(value) for value in row[1:]] == pytest.approx(list(expected.values()), abs=1e-5)
