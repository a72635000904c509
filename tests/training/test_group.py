"""Several processes train one model: torchrun starts them, and they come to one run and one network."""

import json
import shutil

import pytest

from apps.settings import Site
from apps.training_group import train_in_group
from tests.training.drawn import HIPPOCAMPUS, SMALL, job_of
from training.checkpoint import TrainingError
from training.loop import TrainingCancelled
from training.pipeline import assess, release, take_snapshot, train
from training.request import TrainingRequest
from training.workplace import Workplace

LONG = 40  # epochs: enough for both to have learned the drawn balls
LEARNING = {**SMALL, "epochs": LONG, "validate_every": LONG, "learning_rate": 0.02}
APART, TOGETHER = job_of(1), job_of(2)


@pytest.fixture
def on_the_cpu(place: Workplace) -> Site:
    root = place.folder.parent
    (root / "config.toml").write_text('[training]\ndevice = "cpu"\n')
    return Site(root)


def request(**overrides: object) -> TrainingRequest:
    return TrainingRequest(protocol=HIPPOCAMPUS.protocol, overrides={**LEARNING, **overrides})


@pytest.mark.slow
def test_two_processes_train_one_model_in_one_run_as_well_as_one(place: Workplace, on_the_cpu: Site) -> None:
    take_snapshot(place, request(), APART)
    train(place, APART)
    shutil.copytree(place.folder / APART, place.folder / TOGETHER, ignore=shutil.ignore_patterns("weights*", "check*"))
    told: list[dict[str, object]] = []
    train_in_group(on_the_cpu, TOGETHER, 2, told.append, lambda: False)
    assert [said["epoch"] for said in told if said["stage"] == "training"] == list(range(1, LONG + 1))
    for job in (APART, TOGETHER):
        assess(place, job)
    alone, together = (json.loads((place.folder / job / "evaluation.json").read_text()) for job in (APART, TOGETHER))
    dice = [
        next(figure["value"] for figure in json.loads(one["report"])["figures"] if figure["name"] == "dice_mean")
        for one in (alone, together)
    ]
    assert dice[0] > 0.6, dice
    assert dice[1] == pytest.approx(dice[0], abs=0.05)
    outcome = release(place, TOGETHER)
    assert [version.number for version in place.registry.versions("hippocampus")] == [outcome.number]
    runs = place.tracking.client.search_runs(["1"], f"tags.`overread.job` = '{TOGETHER}'")
    assert [run.info.run_id for run in runs] == [outcome.run_id]
    assert runs[0].data.params["processes"] == "2"


@pytest.mark.slow
def test_a_group_stops_when_the_training_is_cancelled_and_leaves_its_checkpoint(
    place: Workplace, on_the_cpu: Site
) -> None:
    take_snapshot(place, request(epochs=100_000), TOGETHER)
    told: list[dict[str, object]] = []
    with pytest.raises(TrainingCancelled):
        train_in_group(on_the_cpu, TOGETHER, 2, told.append, lambda: any("epoch" in said for said in told))
    assert (place.folder / TOGETHER / "checkpoints" / "last").exists()


@pytest.mark.slow
def test_what_ends_a_process_of_a_group_is_told_in_words(place: Workplace, on_the_cpu: Site) -> None:
    take_snapshot(place, request(network="ResUNet"), TOGETHER)
    with pytest.raises(TrainingError, match=r"2 processes trained together and one ended with 1: unknown network"):
        train_in_group(on_the_cpu, TOGETHER, 2, lambda said: None, lambda: False)
