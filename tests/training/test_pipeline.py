"""The whole training: one run and one version however often it is run again, kept when refused, released if not."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from apps.accounts import Accounts
from apps.settings import Site
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account
from labeling_protocols.store import Store
from tests.training.drawn import HIPPOCAMPUS, anything_passes, draw, job_of, settle_cases, workplace
from training.bundle import BundleError
from training.inference import Predictor
from training.loop import TrainingCancelled
from training.pipeline import Workplace, assess, release, take_snapshot, train, train_candidate
from training.plan import Plan
from training.registry import ModelVersion, NoChampionError, Registry
from training.segmentation_inference import Segmenter, segmentation_config
from training.snapshot import SnapshotError
from training.workplace import TrainingJob

JOB, ANOTHER_JOB = job_of(1), job_of(2)


def runs(place: Workplace) -> list[str]:
    client = place.tracking.client
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return [run.info.run_id for run in client.search_runs(experiments)]


def artifacts_of(place: Workplace, version: ModelVersion) -> Path:
    return Path(place.tracking.client.get_run(version.run_id).info.artifact_uri.removeprefix("file://"))


def weights_of(place: Workplace, job: str) -> dict[str, Tensor]:
    return safetensors.torch.load((place.folder / job / "weights.safetensors").read_bytes())


def test_a_candidate_that_passes_becomes_champion_and_predicts(place: Workplace) -> None:
    said: list[str] = []
    outcome = train_candidate(place, HIPPOCAMPUS, JOB, tell=lambda progress: said.append(progress["stage"]))
    assert outcome.passed
    assert outcome.promoted
    assert list(dict.fromkeys(said)) == ["preparing", "training", "evaluating", "releasing"]
    champion = place.registry.champion("hippocampus")
    assert champion.name == outcome.model_version == "hippocampus-segmentation 2.0.0"
    assert champion.aliases == {"champion"}
    assert champion.bundle_sha256 == outcome.bundle_sha256
    image, _ = draw(30)
    label = Predictor(place.registry.bundle(champion), "cpu").predict(image)
    assert label.geometry == image.geometry


def test_the_run_holds_what_a_colleague_looks_for(released: Workplace) -> None:
    client = released.tracking.client
    champion = released.registry.champion("hippocampus")
    run = client.get_run(champion.run_id)
    assert run.info.status == "FINISHED"
    assert (run.data.params["epochs"], run.data.params["network"]) == ("2", "DynUNet")
    metrics = {"epoch/train_loss", "epoch/validation/dice/anterior", "held_out/dice_mean", "held_out/missed"}
    assert metrics <= set(run.data.metrics)
    assert [metric.step for metric in client.get_metric_history(champion.run_id, "epoch/train_loss")] == [1, 2]
    assert run.data.tags["overread.snapshot"] == champion.snapshot
    assert run.data.tags["overread.bundle_sha256"] == champion.bundle_sha256
    assert run.data.tags["mlflow.source.git.commit"]
    for dataset in run.inputs.dataset_inputs:
        assert json.loads(dataset.dataset.source) == {"snapshot": champion.snapshot}
    listed = [client.list_artifacts(champion.run_id, folder) for folder in ("", "pictures", "bundle")]
    files = {file.path for folder in listed for file in folder}
    assert {"plan.json", "plan.yaml", "snapshot.json", "evaluation", "gate.json", "bundle/manifest.sig"} <= files
    assert {f"pictures/{name}.png" for name in ("curves", "worst", "median", "best", "summary", "cases")} <= files
    picture = artifacts_of(released, champion) / "pictures" / "worst.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_no_identifier_of_a_person_reaches_the_run_or_the_bundle(released: Workplace) -> None:
    store = released.store
    readers = {read.reader for case in store.cases("hippocampus") for read in store.reads(case.id)}
    champion = released.registry.champion("hippocampus")
    folders = [released.registry.bundle(champion).folder, artifacts_of(released, champion)]
    texts = [file.read_text() for folder in folders for file in folder.rglob("*") if file.suffix in (".json", ".md")]
    assert readers
    assert len(texts) > 8
    for text in texts:
        assert not any(reader in text for reader in readers)
        assert not re.search(r"\b(ann|ben)\b", text)


def test_a_training_done_again_with_the_same_job_changes_nothing(place: Workplace) -> None:
    first = train_candidate(place, HIPPOCAMPUS, JOB)
    again = train_candidate(place, HIPPOCAMPUS, JOB)
    assert again == first
    assert runs(place) == [first.run_id]
    assert [version.number for version in place.registry.versions("hippocampus")] == [1]
    history = place.tracking.client.get_metric_history(first.run_id, "epoch/train_loss")
    assert [metric.step for metric in history] == [1, 2]
    assert len(list(place.bundles.glob("*.zip"))) == 1


@pytest.mark.parametrize("stage", ["preparing", "training", "evaluating", "releasing"])
def test_a_job_killed_in_any_stage_and_started_again_ends_like_an_undisturbed_one(
    stage: str, place: Workplace, released: Workplace
) -> None:
    class Killed(BaseException):
        pass

    def die(progress: dict[str, object]) -> None:
        if progress["stage"] == stage:
            raise Killed

    with pytest.raises(Killed):
        train_candidate(place, HIPPOCAMPUS, JOB, tell=die)
    train_candidate(place, HIPPOCAMPUS, JOB)
    ours, theirs = weights_of(place, JOB), weights_of(released, JOB)
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)
    assert len(runs(place)) == 1
    assert [version.number for version in place.registry.versions("hippocampus")] == [1]


@pytest.mark.parametrize("method", ["register", "promote"])
def test_a_job_killed_within_the_release_registers_one_version(
    method: str, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(Registry, method, die)
    with pytest.raises(Killed):
        train_candidate(place, HIPPOCAMPUS, JOB)
    monkeypatch.undo()
    with pytest.raises(NoChampionError):
        place.registry.champion("hippocampus")
    outcome = release(place, JOB)
    assert outcome.promoted
    (version,) = place.registry.versions("hippocampus")
    assert version.number == 1
    assert len(list(place.bundles.glob("*.zip"))) == 1


def test_a_candidate_that_fails_its_gate_is_kept_and_not_released(
    site: Site, store: Store, protocol: Protocol, readers: tuple[Account, Account]
) -> None:
    strict = replace(anything_passes(protocol, dice_mean_min=1.0), version=2)
    store.add_protocol(strict)
    settle_cases(store, strict, readers, range(6))
    place = workplace(site, store)
    outcome = train_candidate(place, HIPPOCAMPUS, JOB)
    assert not outcome.passed
    assert not outcome.promoted
    assert outcome.reasons[0].startswith("mean Dice 0.")
    (kept,) = place.registry.versions("hippocampus")
    assert (kept.gate_passed, kept.aliases) == (False, {"candidate"})
    assert place.registry.bundle(kept).metadata["version"] == "2.0.0"
    with pytest.raises(NoChampionError, match="no model of protocol hippocampus has passed the gate"):
        place.registry.champion("hippocampus")


def test_a_later_candidate_is_compared_with_the_champion_on_the_same_cases(released: Workplace) -> None:
    second = json.loads(released.tracking.run(ANOTHER_JOB, "hippocampus").read_text("gate.json"))
    assert second["champion"] == 1
    assert second["champion_figures"] == pytest.approx(second["figures"])  # the same data, plan and seed
    assert released.registry.champion("hippocampus").number == 3


def test_a_snapshot_is_taken_once_a_job_whatever_is_settled_later(place: Workplace, site: Site) -> None:
    first = take_snapshot(place, HIPPOCAMPUS, JOB)
    readers = [account for account in Accounts(place.store, site).all() if account.name in ("ann", "ben")]
    settle_cases(place.store, place.store.protocol("hippocampus"), readers, range(6, 8))
    assert take_snapshot(place, HIPPOCAMPUS, JOB) == first
    assert take_snapshot(place, HIPPOCAMPUS, ANOTHER_JOB) != first


def test_without_settled_cases_nothing_is_trained(site: Site, store: Store) -> None:
    with pytest.raises(SnapshotError, match="0 settled case"):
        train_candidate(workplace(site, store), HIPPOCAMPUS, JOB)


def test_a_cancelled_training_ends_its_run_and_registers_nothing(place: Workplace) -> None:
    take_snapshot(place, HIPPOCAMPUS, JOB)
    with pytest.raises(TrainingCancelled):
        train(place, JOB, cancelled=lambda: True)
    (run,) = runs(place)
    assert place.tracking.client.get_run(run).info.status == "KILLED"
    assert place.registry.versions("hippocampus") == []


def test_a_training_cancelled_while_it_is_evaluated_releases_nothing(place: Workplace) -> None:
    take_snapshot(place, HIPPOCAMPUS, JOB)
    train(place, JOB)
    with pytest.raises(TrainingCancelled, match="during the evaluation"):
        assess(place, JOB, cancelled=lambda: True)
    assert place.registry.versions("hippocampus") == []


def test_the_plan_comes_from_the_training_cases_and_is_kept(released: Workplace) -> None:
    plan = Plan.from_json((released.folder / JOB / "plan.json").read_text())
    assert plan.spacing_mm_RAS == (1.5, 1.5, 1.5)
    assert plan.values == (0, 1, 2)
    assert plan.epochs == 2


def test_a_jobs_id_cannot_leave_its_folder(place: Workplace) -> None:
    with pytest.raises(ValueError, match="a training job's id"):
        take_snapshot(place, HIPPOCAMPUS, "../elsewhere")


def test_a_bundle_tampered_with_after_its_release_is_not_served(released: Workplace) -> None:
    champion = released.registry.champion("hippocampus")
    path = released.bundles / f"{champion.bundle_sha256}.zip"
    content = path.read_bytes()
    path.write_bytes(content[:-30] + bytes([content[-30] ^ 1]) + content[-29:])
    with pytest.raises(BundleError):
        released.registry.bundle(champion)


def test_folds_are_runs_within_the_run_and_their_networks_answer_together(place: Workplace) -> None:
    request = replace(HIPPOCAMPUS, folds=2)
    outcome = train_candidate(place, request, JOB)
    assert outcome.promoted
    client = place.tracking.client
    parent = client.get_run(outcome.run_id)
    folds = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{outcome.run_id}'")
    assert sorted(run.info.run_name for run in folds) == ["fold-1", "fold-2"]
    assert {run.info.status for run in folds} == {"FINISHED"}
    pooled, (one, other) = parent.data.metrics["cross_validation/dice_mean"], folds
    between = sorted(run.data.metrics["cross_validation/dice_mean"] for run in (one, other))
    assert between[0] <= pooled <= between[1]
    assert outcome.cross_validation["dice_mean"] == pooled
    bundle = place.registry.bundle(place.registry.champion("hippocampus"))
    image, _ = draw(31)
    together = Predictor(bundle, "cpu").predict(image)
    work = TrainingJob(place, JOB)
    parts = work.parts(work.plan())
    trained = [{case.patient for case in part.training} for part in parts]
    looked_at = [{case.patient for case in part.validation} for part in parts]
    assert all(not (on & off) for on, off in zip(trained, looked_at, strict=True))
    assert set.union(*looked_at) == {case.patient for case in work.snapshot.training}
    config = segmentation_config(work.plan())
    each = [Segmenter(config, part.weights(), torch.device("cpu")).probabilities(image, ["a", "p"]) for part in parts]
    means = [(first + second) / 2 for (_, first), (_, second) in zip(*each, strict=True)]
    expected = np.argmax([1 - sum(means), *means], axis=0)
    assert np.mean(together.array_ZYX == expected) > 0.999  # ties of the mean may fall either way


def test_with_no_case_held_out_a_model_is_judged_by_what_each_fold_had_not_learned_from(place: Workplace) -> None:
    everybody = replace(place, held_out_share=0.0)
    with pytest.raises(SnapshotError, match="holds no case out to judge a model on; a cross-validation"):
        train_candidate(everybody, HIPPOCAMPUS, ANOTHER_JOB)
    outcome = train_candidate(everybody, replace(HIPPOCAMPUS, folds=2), JOB)
    work = TrainingJob(place, JOB)
    assert not work.snapshot.held_out
    assert outcome.cases == len(work.snapshot.cases)
    assert outcome.figures == outcome.cross_validation
    assert outcome.judged_on == "cases, each by the fold's network that had not learned from it"
    assert outcome.promoted
    run = place.tracking.client.get_run(outcome.run_id)
    assert run.data.metrics["cross_validation/dice_mean"] == outcome.figures["dice_mean"]
    assert not [name for name in run.data.metrics if name.startswith("held_out/")]
    assert "evaluation/cross_validation/cases.csv" in run.data.tags["mlflow.note.content"]


def test_a_training_begins_from_the_champions_weights_where_asked(released: Workplace) -> None:
    request = replace(HIPPOCAMPUS, warm_start=True, overrides={"learning_rate": 1e-9, "epochs": 1, "average": 0.0})
    train_candidate(released, request, job_of(9))
    champion = weights_of(released, job_of(3))
    ours = weights_of(released, job_of(9))
    assert all(torch.allclose(ours[name], champion[name], atol=1e-4) for name in champion)


def test_a_snapshot_that_is_kept_can_be_trained_on_again(place: Workplace) -> None:
    digest = take_snapshot(place, HIPPOCAMPUS, JOB)
    assert take_snapshot(place, replace(HIPPOCAMPUS, snapshot=digest), ANOTHER_JOB) == digest


def test_a_cancelled_fold_ends_its_own_run_as_well(place: Workplace) -> None:
    take_snapshot(place, replace(HIPPOCAMPUS, folds=2), JOB)
    with pytest.raises(TrainingCancelled):
        train(place, JOB, cancelled=lambda: True)
    states = {place.tracking.client.get_run(run).info.status for run in runs(place)}
    assert (len(runs(place)), states) == (2, {"KILLED"})
