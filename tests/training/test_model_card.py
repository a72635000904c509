"""A bundle's words: the model card, its pictures and the metadata say what was measured, of whom, and what follows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labeling_protocols.protocol import Protocol
from labeling_protocols.strata import Strata
from tests.training.drawn import STRAIGHT, small_plan
from training.bundle import CONFIG, METADATA, PLAN
from training.bundle_metadata import metadata
from training.candidate import Candidate
from training.card_text import model_card
from training.change_control import SHIPPED, load_change_plan
from training.gate import Decision
from training.model_card import bundle_parts
from training.plan import ModelTask
from training.report import EvaluationReport, Figure, Interval, Subgroup
from training.snapshot import Exclusion, Snapshot, SnapshotCase

PLAN_FILE = SHIPPED / "hippocampus.yaml"


def case(number: int, *, held_out: bool, maker: str | None, settled: str = "consensus") -> SnapshotCase:
    return SnapshotCase(
        case=f"c{number}",
        patient=f"P{number}",
        image="0" * 64,
        label="1" * 64,
        settled=settled,
        reads=(1, 2),
        adjudication=7 if settled == "adjudication" else None,
        geometry=STRAIGHT,
        held_out=held_out,
        strata=Strata(maker=maker),
    )


@pytest.fixture(scope="module")
def told(protocol: Protocol) -> Candidate:
    """Four training cases of two makers and two held-out ones, refused by its gate, with everything known of it."""
    training = [case(n, held_out=False, maker="ACME" if n < 3 else "Other") for n in range(4)]
    held_out = [case(4, held_out=True, maker="ACME", settled="adjudication"), case(5, held_out=True, maker=None)]
    figures = (
        Figure(name="dice_mean", value=0.8125, interval=Interval(low=0.75, high=0.9), n=2),
        Figure(name="dice/anterior", value=0.75, interval=None, n=2),
        Figure(name="hd95_mm/anterior", value=None, interval=None, n=0),
    )
    report = EvaluationReport(
        task="segmentation",
        model="candidate",
        test_set="a" * 64,
        cases=2,
        patients=2,
        figures=figures,
        missed=1,
        invented=3,
        subgroups=(
            Subgroup(attribute="maker", value="ACME", n=30, patients=30, small=False, figures={"dice_mean": 0.9}),
            Subgroup(attribute="maker", value="unknown", n=1, patients=1, small=True, figures={"dice_mean": 0.5}),
        ),
        human=(Figure(name="dice_mean", value=0.88, interval=None, n=2),),
        comparison=None,
        principal="dice_mean",
        by_case=(("c5", 0.5), ("c4", 0.9)),
        notes=("surface Dice of anterior: surfaces within 1 mm count as the same",),
    )
    return Candidate(
        protocol=protocol,
        snapshot=Snapshot(
            protocol=protocol.name,
            protocol_version=1,
            protocol_digest=protocol.digest,
            cases=(*training, *held_out),
            exclusions=(Exclusion(case="c9", reason="read under protocol version 3"),),
        ),
        plan=small_plan(),
        run_id="a-run",
        version="1.2.3",
        changelog={"1.2.3": "trained on 4 case(s) of snapshot x (+1)", "1.2.2": "trained on 3 case(s) of snapshot y"},
        weights={},
        report=report,
        decision=Decision(
            passed=False, reasons=("mean Dice 0.812 < 0.900",), notes=("sex F: 3 case(s) decide nothing",)
        ),
        change_plan=load_change_plan(PLAN_FILE),
    )


@pytest.fixture(scope="module")
def parts(told: Candidate) -> dict[str, bytes]:
    return bundle_parts(told)


@pytest.fixture(scope="module")
def card(parts: dict[str, bytes]) -> str:
    return parts["docs/README.md"].decode()


def test_the_card_begins_with_what_the_model_is_for(card: str) -> None:
    assert card.startswith(
        "# hippocampus-segmentation 1.2.3\n\nOutlines anterior hippocampus, posterior hippocampus on MR images"
    )
    assert "Not a medical device" in card


def test_the_card_counts_cases_by_side_kind_and_stratum(card: str) -> None:
    assert "4 training and 2 held-out cases" in card
    assert "settled 1 by adjudication, 5 by consensus" in card
    assert "Left out: 1 read under protocol version 3." in card
    assert "| maker ACME | 3 | 1 |" in card
    assert "| maker Other | 1 | 0 |" in card
    assert "| maker unknown | 0 | 1 |" in card
    assert "| sex" not in card  # of which nothing is known


def test_the_card_has_figures_with_intervals_beside_what_readers_reach(card: str) -> None:
    assert "| mean Dice | 0.812 | 0.750 to 0.900 | 0.880 |" in card
    assert "| anterior: Dice | 0.750 | – | – |" in card
    assert "| anterior: median HD95 (mm) | – | – | – |" in card
    assert "Over 2 held-out cases; 2 patient(s)" in card
    assert "1 missed, 3 invented" in card
    assert "surfaces within 1 mm count as the same" in card


def test_the_card_warns_of_what_is_small(card: str) -> None:
    assert "| maker ACME | 30 | 0.900 |  |" in card
    assert "| maker unknown | 1 | 0.500 | too few to tell |" in card
    assert "- 2 patient(s) only: intervals are too narrow." in card


def test_the_card_says_what_the_gate_said_and_by_which_plan(card: str, told: Candidate) -> None:
    assert "Gate: not passed:\n- mean Dice 0.812 < 0.900\n- sex F: 3 case(s) decide nothing" in card
    assert told.change_plan is not None
    assert f"change control plan version 1, “{told.change_plan.title}” (`{told.change_plan.digest}`)" in card


def test_a_card_without_plan_subgroups_or_changelog_says_so(told: Candidate) -> None:
    bare = replace(
        told,
        change_plan=None,
        changelog={},
        decision=Decision(passed=True, reasons=()),
        report=replace(told.report, subgroups=()),
    )
    text = model_card(bare, {})
    assert "Gate: passed.\n\nNo change control plan was in force." in text
    assert "Nothing is known of the cases that they could be divided by." in text
    assert "## Versions" not in text


def test_every_picture_the_card_shows_is_in_the_bundle(card: str, parts: dict[str, bytes]) -> None:
    shown = [line.rpartition("(")[2].rstrip(")") for line in card.splitlines() if line.startswith("![")]
    assert shown == ["summary.png", "cases.png", "subgroups.png"]
    assert all(parts[f"docs/{name}"].startswith(b"\x89PNG") for name in shown)


def test_the_changelog_accumulates_in_card_and_metadata(card: str, parts: dict[str, bytes]) -> None:
    stored = json.loads(parts[METADATA])
    assert list(stored["changelog"]) == ["1.2.3", "1.2.2"]
    assert "- 1.2.3: trained on 4 case(s) of snapshot x (+1)\n- 1.2.2: trained on 3" in card


def test_the_metadata_say_where_the_model_comes_from(parts: dict[str, bytes], told: Candidate) -> None:
    stored = json.loads(parts[METADATA])
    origin = stored["overread"]
    assert stored["version"] == "1.2.3"
    assert stored["eval_metrics"] == {"dice_mean": 0.8125, "dice/anterior": 0.75}
    assert (origin["training_cases"], origin["snapshot"]) == (4, told.snapshot.digest)
    assert origin["evaluation"] == told.report.digest
    assert EvaluationReport.from_json(parts["docs/evaluation.json"].decode()) == told.report
    assert origin["change_plan"] == load_change_plan(PLAN_FILE).digest
    assert json.loads(parts[PLAN]) == json.loads(told.plan.as_json())


def test_no_patient_is_named_in_any_part(parts: dict[str, bytes]) -> None:
    assert not any(b"P4" in content for name, content in parts.items() if name.endswith((".json", ".md")))


def test_monai_is_told_to_run_inference_by_that_name(parts: dict[str, bytes], card: str) -> None:
    config = json.loads(parts[CONFIG])
    assert config["inference"] == config["run"]
    assert "python -m monai.bundle run inference --config_file configs/inference.json" in card


@pytest.mark.parametrize(
    ("task", "values", "words", "answer"),
    [
        (ModelTask.INTERACTIVE, {}, "corrected by clicks", {"format": "segmentation", "num_channels": 3}),
        (ModelTask.DETECTION, {"values": (1, 2)}, "Draws boxes around anterior", {"type": "object", "num_channels": 2}),
        (
            ModelTask.CLASSIFICATION,
            {"targets": ("no", "yes"), "values": (), "question": "atrophy"},
            "Answers “atrophy”",
            {"type": "probabilities", "num_channels": 2, "channel_def": {"0": "no", "1": "yes"}},
        ),
    ],
)
def test_each_task_says_what_it_does_and_what_comes_out(
    task: ModelTask, values: dict[str, Any], words: str, answer: dict[str, Any], told: Candidate
) -> None:
    plan = replace(told.plan, task=task, **values)
    found = metadata(replace(told, plan=plan))
    assert found["name"] == f"hippocampus-{task}"
    assert words in found["intended_use"]
    assert answer.items() <= found["network_data_format"]["outputs"]["pred"].items()


def test_the_licence_is_the_projects(parts: dict[str, bytes]) -> None:
    assert parts["LICENSE"] == (Path(__file__).parents[2] / "LICENSE").read_bytes()
