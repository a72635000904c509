"""Two snapshots of one protocol, put side by side."""

from dataclasses import replace

import pytest

from labeling_protocols.strata import Strata
from tests.training.drawn import STRAIGHT
from training.snapshot import Exclusion, Snapshot, SnapshotCase, SnapshotError
from training.snapshot_diff import What, diff


def case(name: str, **values: object) -> SnapshotCase:
    of_case = SnapshotCase(
        case=name,
        patient=f"P{name}",
        image="0" * 64,
        label="1" * 64,
        settled="consensus",
        reads=(1, 2),
        adjudication=None,
        geometry=STRAIGHT,
        held_out=False,
        fold_value=0.25,
    )
    return replace(of_case, **values)  # type: ignore[arg-type]


BEFORE = Snapshot(
    protocol="hippocampus",
    protocol_version=1,
    protocol_digest="d" * 64,
    cases=(case("a"), case("b"), case("c", held_out=True)),
    exclusions=(Exclusion(case="x", reason="motion"), Exclusion(case="y", reason="motion")),
)


def changes(**values: object) -> list[tuple[What, str, str]]:
    """What is otherwise in the snapshot with these values."""
    after = replace(BEFORE, **values)  # type: ignore[arg-type]
    return [(change.what, change.case, change.words) for change in diff(BEFORE, after)]


def test_equal_snapshots_differ_in_nothing() -> None:
    assert changes() == []


def test_cases_come_and_go_and_one_left_out_says_why() -> None:
    new = case("d", held_out=True, settled="adjudication", adjudication=7)
    left_out = (*BEFORE.exclusions, Exclusion(case="a", reason="its image is damaged"))
    assert changes(cases=(BEFORE.cases[2], new), exclusions=left_out) == [
        (What.ADDED, "d", "held out, adjudication 7"),
        (What.REMOVED, "a", "its image is damaged"),
        (What.REMOVED, "b", "it has no truth any more"),
        (What.EXCLUSION, "a", "not left out → its image is damaged"),
    ]


def test_another_label_other_reads_and_more_that_is_known_are_told() -> None:
    cases = (
        case("a", label="2" * 64, settled="adjudication", adjudication=7),
        case("b", reads=(1, 3), strata=Strata(sex="F", slice_thickness_mm=2.5)),
        BEFORE.cases[2],
    )
    assert changes(cases=cases) == [
        (What.TRUTH, "a", "consensus of reads 1, 2 → adjudication 7, another label"),
        (What.TRUTH, "b", "consensus of reads 1, 2 → consensus of reads 1, 3, the same label"),
        (What.STRATA, "b", "slice_thickness_mm unknown → 2.5, sex unknown → F"),
    ]


def test_exclusions_that_end_or_have_another_reason_are_told() -> None:
    assert changes(exclusions=(Exclusion(case="y", reason="calibration"),)) == [
        (What.EXCLUSION, "x", "motion → not left out"),
        (What.EXCLUSION, "y", "motion → calibration"),
    ]


def test_another_version_of_the_protocol_is_told() -> None:
    assert changes(protocol_version=2, protocol_digest="e" * 64) == [(What.PROTOCOL, "", "version 1 → 2")]
    assert changes(protocol_digest="e" * 64) == [(What.PROTOCOL, "", "version 1 says something else")]


def test_a_patient_who_changed_sides_or_folds_is_told() -> None:
    moved = (case("a", held_out=True), case("b", fold_value=0.75), BEFORE.cases[2])
    assert changes(cases=moved) == [
        (What.SIDE, "", "patient Pa was trained on and is held out"),
        (What.SIDE, "", "patient Pb lies elsewhere among the folds"),
    ]
    assert changes(cases=tuple(replace(one, fold_value=None) for one in BEFORE.cases)) == []


def test_snapshots_of_two_protocols_are_not_compared() -> None:
    with pytest.raises(SnapshotError, match="one snapshot is of protocol hippocampus, the other of liver"):
        changes(protocol="liver")
