"""Simulated annotation: a reader's seconds by hand, one purse for every strategy, runs that go on after a stop."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labeling_protocols.geometry import Geometry, Volume
from training.annotation_cost import LESION_S, OPENING_S, SURFACE_S_PER_MM2, reading_seconds, surface_mm2
from training.annotation_runs import SIMULATED, Bench, OtherSettingsError, Source, make_runs, worker_processes
from training.annotation_sets import AnnotationSet, LabelledCase
from training.annotation_simulation import Settings, Simulation, affordable, dice_by_structure
from training.drawn_archive import drawn_archive
from training.learning_curves import Run

FLIPPED = Geometry(
    shape_ZYX=(6, 7, 8),
    spacing_mm_XYZ=(0.5, 1.0, 3.0),
    origin_mm_LPS=(-4.0, 12.0, 7.0),
    direction_LPS=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
)
TINY = Settings(rounds=2, start_cases=2, round_cases=2, start_steps=4, round_steps=2, views=2)
STRATEGIES = ("random", "foreground_random", "hybrid")
BENCH = Bench(sources=(Source(pool=10, test=3),), strategies=STRATEGIES, seeds=1, settings=TINY)


def label_of(*boxes: tuple[int, tuple[slice, slice, slice]]) -> Volume:
    array_ZYX = np.zeros(FLIPPED.shape_ZYX, dtype=np.uint8)
    for value, box in boxes:
        array_ZYX[box] = value
    return Volume(array_ZYX=array_ZYX, geometry=FLIPPED)


@pytest.fixture(scope="module")
def archive() -> AnnotationSet:
    return drawn_archive(pool=10, test=3)


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    """One thread of this process: what the worker processes do, without starting any."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture(scope="module")
def runs(executor: Executor, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return make_runs(BENCH, tmp_path_factory.mktemp("runs"), executor)


def test_a_box_has_the_surface_of_its_six_faces_in_millimetres() -> None:
    # 2 × 3 × 4 voxels of 3 × 1 × 0.5 mm: 6 × 3 × 2 mm, at the volume's edge and away from it alike.
    inside = label_of((1, (slice(1, 3), slice(2, 5), slice(1, 5))))
    corner = label_of((1, (slice(0, 2), slice(0, 3), slice(0, 4))))
    for label in (inside, corner):
        assert surface_mm2(label) == pytest.approx(2 * (6 * 3 + 6 * 2 + 3 * 2))


def test_a_reader_takes_time_to_open_a_case_to_go_round_structures_and_for_each_lesion() -> None:
    # The organ is a box of 72 mm²; the lesions are single voxels of 2 × (3 × 1 + 3 × 0.5 + 1 × 0.5) = 10 mm².
    organ = (1, (slice(1, 3), slice(2, 5), slice(1, 5)))
    lesions = [(2, (slice(5, 6), slice(0, 1), slice(x, x + 1))) for x in (0, 4)]
    seconds = reading_seconds(label_of(organ, *lesions), {"organ": 1, "lesion": 2}, {"lesion"})
    assert seconds == pytest.approx(OPENING_S + 2 * LESION_S + SURFACE_S_PER_MM2 * (72 + 2 * 10))


def test_lesions_that_touch_by_a_corner_are_one() -> None:
    touching = label_of((1, (slice(0, 1), slice(0, 1), slice(0, 1))), (1, (slice(1, 2), slice(1, 2), slice(1, 2))))
    values = {"lesion": 1}
    counted, not_counted = (reading_seconds(touching, values, names) for names in ({"lesion"}, set[str]()))
    assert counted - not_counted == pytest.approx(LESION_S)


def test_an_empty_case_takes_the_time_to_look_through_it() -> None:
    assert reading_seconds(label_of(), {"organ": 1}, {"organ"}) == OPENING_S


def test_a_reader_stops_before_the_case_that_his_time_does_not_pay_for() -> None:
    seconds = {"a": 40.0, "b": 70.0, "c": 5.0}
    assert affordable(["a", "b", "c"], seconds, 109.0) == ("a",)
    assert affordable(["a", "b", "c"], seconds, 110.0) == ("a", "b")


def test_every_strategy_gets_the_same_start_and_the_same_seconds(runs: list[Run], archive: AnnotationSet) -> None:
    assert [run.strategy for run in runs] == list(STRATEGIES)
    assert len({run.standings[0].cases for run in runs}) == 1
    assert len({tuple(standing.seconds for standing in run.standings) for run in runs}) == 1
    dearest_s = max(Simulation(archive, TINY).seconds.values())
    for run in runs:
        for standing in run.standings:
            assert 0 <= standing.seconds - standing.spent_s < dearest_s


def test_what_was_read_stays_read_and_nothing_is_read_twice(runs: list[Run], archive: AnnotationSet) -> None:
    seconds = Simulation(archive, TINY).seconds
    for run in runs:
        for before, after in zip(run.standings, run.standings[1:], strict=False):
            assert after.cases[: len(before.cases)] == before.cases
            assert len(set(after.cases)) == len(after.cases)
            assert after.spent_s == pytest.approx(sum(seconds[case] for case in after.cases))


def test_a_benchmark_that_is_taken_up_again_comes_to_the_same_numbers(
    runs: list[Run], executor: Executor, tmp_path: Path
) -> None:
    make_runs(replace(BENCH, strategies=STRATEGIES[:2]), tmp_path, executor)
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    told: list[tuple[int, int]] = []
    again = make_runs(BENCH, tmp_path, executor, tell=lambda done, of: told.append((done, of)))
    assert again == runs
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == kept
    assert told[-1] == (7, 7)


@pytest.mark.slow
def test_worker_processes_come_to_the_same_numbers(runs: list[Run], tmp_path: Path) -> None:
    with worker_processes(2) as processes:
        assert make_runs(BENCH, tmp_path, processes) == runs


def test_a_folder_of_other_settings_is_refused(executor: Executor, tmp_path: Path) -> None:
    nothing = replace(BENCH, seeds=0)
    make_runs(nothing, tmp_path, executor)
    with pytest.raises(OtherSettingsError, match="Nothing was run"):
        make_runs(replace(nothing, settings=replace(TINY, rounds=3)), tmp_path, executor)


def test_all_strategies_but_the_one_that_needs_disagreeing_readers_are_simulated() -> None:
    assert "reader_disagreement" not in SIMULATED
    assert {"random", "foreground_random", "k_centre", "hybrid", "clasp_pe"} < set(SIMULATED)


def test_misses_and_inventions_score_nothing_and_what_neither_side_has_is_not_scored() -> None:
    here, there = (slice(0, 1), slice(0, 1), slice(0, 4)), (slice(5, 6), slice(6, 7), slice(0, 2))
    half = (slice(0, 1), slice(0, 1), slice(0, 2))
    truths = {"right": label_of((1, here)), "half": label_of((1, here), (2, there)), "healthy": label_of((1, here))}
    answers = {"right": label_of((1, here)), "half": label_of((1, half)), "healthy": label_of((1, here), (2, there))}
    cases = [LabelledCase(case=case, image=answers[case], label=truths[case]) for case in truths]
    found = dice_by_structure(lambda image: image, cases, {"organ": 1, "lesion": 2, "cyst": 3})
    # The organ: 1, 2·2 / (4 + 2) and 1; the lesion: one miss and one invention, and one case where it is nowhere.
    assert found == pytest.approx({"organ": (1 + 2 / 3 + 1) / 3, "lesion": 0.0})
