"""The registry: the champion moves on the word of a passed gate report about exactly its bundle, and back again."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.training.drawn import job_of
from training.bundle import BundleError
from training.gate import Decision, GateReport
from training.pipeline import Workplace
from training.registry import GATE_REPORT, NoChampionError, Registry, ReleaseError


def report_of(place: Workplace, number: int) -> GateReport:
    return GateReport.from_json(place.tracking.run(job_of(number), "hippocampus").read_text(GATE_REPORT))


def test_before_the_first_training_there_is_no_champion_and_no_version(place: Workplace) -> None:
    registry = place.registry
    assert registry.versions("hippocampus") == []
    assert registry.champion_or_none("hippocampus") is None
    with pytest.raises(NoChampionError, match="train one once enough cases are settled"):
        registry.champion("hippocampus")
    with pytest.raises(NoChampionError):
        registry.rollback("hippocampus")


def test_each_reason_against_a_release_is_refused_and_the_champion_stays(released: Workplace) -> None:
    registry = released.registry
    assert registry.rollback("hippocampus").number == 2
    good = report_of(released, 3)
    refusals = {
        "another bundle": replace(good, bundle_sha256=report_of(released, 1).bundle_sha256),
        "another bundle than": replace(good, protocol="liver"),
        "did not pass its gate: worse": replace(good, decision=Decision(passed=False, reasons=("worse",))),
        "did not pass its gate: late": replace(good, decision=Decision(passed=True, reasons=("late",))),
        "compares with version 7, but version 2 is champion": replace(good, champion=7),
        "compares with no version, but version 2 is champion": replace(good, champion=None),
    }
    for words, report in refusals.items():
        with pytest.raises(ReleaseError, match=words):
            registry.promote("hippocampus", 3, report)
        assert registry.champion("hippocampus").number == 2
    with pytest.raises(ReleaseError, match="no version number 4"):
        registry.promote("hippocampus", 4, good)
    assert registry.promote("hippocampus", 3, good).number == 3


def test_a_version_whose_bundle_was_touched_cannot_be_released(released: Workplace) -> None:
    registry = released.registry
    registry.rollback("hippocampus")
    third = report_of(released, 3)
    path = released.bundles / f"{third.bundle_sha256}.zip"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError):
        registry.promote("hippocampus", 3, third)
    assert registry.champion("hippocampus").number == 2


def test_one_versions_bundle_in_anothers_place_is_refused(released: Workplace) -> None:
    """Rightly signed, but not what was registered under this number."""
    first, _, champion = released.registry.versions("hippocampus")
    (released.bundles / f"{champion.bundle_sha256}.zip").write_bytes(
        (released.bundles / f"{first.bundle_sha256}.zip").read_bytes()
    )
    with pytest.raises(BundleError, match="was registered"):
        released.registry.bundle(champion)


def test_rollback_goes_back_champion_by_champion_and_forward_again(released: Workplace) -> None:
    registry = released.registry
    assert registry.rollback("hippocampus").number == 2
    assert registry.rollback("hippocampus").number == 1
    with pytest.raises(ReleaseError, match=r"hippocampus-segmentation 2.0.1 has no predecessor"):
        registry.rollback("hippocampus")
    assert registry.promote("hippocampus", 3, replace(report_of(released, 3), champion=1)).number == 3
    assert registry.rollback("hippocampus").number == 1


def test_a_move_that_was_not_noted_before_a_crash_can_still_be_undone(
    released: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = released.registry
    registry.rollback("hippocampus")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry._client, "set_registered_model_tag", crash)
    with pytest.raises(KeyboardInterrupt):
        registry.promote("hippocampus", 3, report_of(released, 3))
    monkeypatch.undo()
    assert registry.champion("hippocampus").number == 3
    assert registry.rollback("hippocampus").number == 2


def test_promoting_the_champion_again_changes_nothing(released: Workplace) -> None:
    registry = released.registry
    assert registry.promote("hippocampus", 3, report_of(released, 3)).aliases == {"champion"}
    assert registry.rollback("hippocampus").number == 2


def test_a_registry_with_another_key_serves_no_bundle(released: Workplace) -> None:
    stranger = Registry(released.tracking_uri, released.bundles, Ed25519PrivateKey.generate().public_key())
    with pytest.raises(BundleError, match="another key"):
        stranger.bundle(stranger.champion("hippocampus"))


@pytest.mark.slow
def test_several_processes_may_open_a_new_mlflow_database_at_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    program = f"from training.tracking import open_client; open_client({uri!r}).search_registered_models()"
    processes = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()[-1000:]
