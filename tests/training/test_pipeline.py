"""The whole training: one run and one version however often it is run again, kept when refused, released if not."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
from torch import Tensor

from apps.accounts import Accounts
from apps.settings import Site
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account
from labeling_protocols.store import Store
from tests.training.drawn import anything_passes, draw, job_of, settle_cases, workplace
from training import pipeline
from training.bundle import BundleError
from training.inference import Predictor
from training.loop import TrainingCancelled
from training.pipeline import Workplace, assess, release, take_snapshot, train, train_candidate
from training.plan import Plan
from training.registry import ModelVersion, NoChampionError
from training.snapshot import SnapshotError

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
    outcome = train_candidate(place, "hippocampus", JOB, tell=lambda progress: said.append(progress["stage"]))
    assert outcome.passed
    assert outcome.promoted
    assert list(dict.fromkeys(said)) == ["preparing", "training", "evaluating", "releasing"]
    champion = place.registry.champion("hippocampus")
    assert champion.name == outcome.model_version == "hippocampus-segmentation 2.0.1"
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
    assert (run.data.params["epochs"], run.data.params["network"]) == ("2", "UNet")
    assert {"loss", "dice_anterior", "dice_posterior", "held_out_dice_mean", "held_out_missed"} <= set(run.data.metrics)
    assert [metric.step for metric in client.get_metric_history(champion.run_id, "loss")] == [1, 2]
    assert run.data.tags["overread.snapshot"] == champion.snapshot
    assert run.data.tags["overread.bundle_sha256"] == champion.bundle_sha256
    assert run.data.tags["mlflow.source.git.commit"]
    (dataset,) = run.inputs.dataset_inputs
    assert json.loads(dataset.dataset.source) == {"snapshot": champion.snapshot}
    listed = [client.list_artifacts(champion.run_id, folder) for folder in ("", "pictures", "bundle")]
    files = {file.path for folder in listed for file in folder}
    assert {"plan.json", "snapshot.json", "evaluation.json", "gate.json", "bundle/manifest.sig"} <= files
    assert {f"pictures/{name}.png" for name in ("curves", "worst", "median", "best")} <= files
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
    first = train_candidate(place, "hippocampus", JOB)
    again = train_candidate(place, "hippocampus", JOB)
    assert again == first
    assert runs(place) == [first.run_id]
    assert [version.number for version in place.registry.versions("hippocampus")] == [1]
    history = place.tracking.client.get_metric_history(first.run_id, "loss")
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
        train_candidate(place, "hippocampus", JOB, tell=die)
    train_candidate(place, "hippocampus", JOB)
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

    monkeypatch.setattr(pipeline.Registry, method, die)
    with pytest.raises(Killed):
        train_candidate(place, "hippocampus", JOB)
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
    outcome = train_candidate(place, "hippocampus", JOB)
    assert not outcome.passed
    assert not outcome.promoted
    assert outcome.reasons[0].startswith("mean Dice 0.")
    (kept,) = place.registry.versions("hippocampus")
    assert (kept.gate_passed, kept.aliases) == (False, {"candidate"})
    assert place.registry.bundle(kept).metadata["version"] == "2.0.1"
    with pytest.raises(NoChampionError, match="no model of protocol hippocampus has passed the gate"):
        place.registry.champion("hippocampus")


def test_a_later_candidate_is_compared_with_the_champion_on_the_same_cases(released: Workplace) -> None:
    second = json.loads(released.tracking.run(ANOTHER_JOB, "hippocampus").read_text("gate.json"))
    assert second["champion"] == 1
    assert second["champion_dice_mean"] == pytest.approx(second["dice_mean"])  # the same data, plan and seed
    assert released.registry.champion("hippocampus").number == 3


def test_a_snapshot_is_taken_once_a_job_whatever_is_settled_later(place: Workplace, site: Site) -> None:
    first = take_snapshot(place, "hippocampus", JOB)
    readers = [account for account in Accounts(place.store, site).all() if account.name in ("ann", "ben")]
    settle_cases(place.store, place.store.protocol("hippocampus"), readers, range(6, 8))
    assert take_snapshot(place, "hippocampus", JOB) == first
    assert take_snapshot(place, "hippocampus", ANOTHER_JOB) != first


def test_without_settled_cases_nothing_is_trained(site: Site, store: Store) -> None:
    with pytest.raises(SnapshotError, match="0 settled case"):
        train_candidate(workplace(site, store), "hippocampus", JOB)


def test_a_cancelled_training_ends_its_run_and_registers_nothing(place: Workplace) -> None:
    take_snapshot(place, "hippocampus", JOB)
    with pytest.raises(TrainingCancelled):
        train(place, JOB, cancelled=lambda: True)
    (run,) = runs(place)
    assert place.tracking.client.get_run(run).info.status == "KILLED"
    assert place.registry.versions("hippocampus") == []


def test_a_training_cancelled_while_it_is_evaluated_releases_nothing(place: Workplace) -> None:
    take_snapshot(place, "hippocampus", JOB)
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
        take_snapshot(place, "hippocampus", "../elsewhere")


def test_a_bundle_tampered_with_after_its_release_is_not_served(released: Workplace) -> None:
    champion = released.registry.champion("hippocampus")
    path = released.bundles / f"{champion.bundle_sha256}.zip"
    content = path.read_bytes()
    path.write_bytes(content[:-30] + bytes([content[-30] ^ 1]) + content[-29:])
    with pytest.raises(BundleError):
        released.registry.bundle(champion)
