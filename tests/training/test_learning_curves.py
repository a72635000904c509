"""Areas, bands and differences of learning curves worked out by hand; a picture and a table with every strategy."""

import pytest
from matplotlib.axes import Axes

from training.acquisition_pictures import learning_curves, learning_table, spoken, verdicts
from training.drawing import png
from training.learning_curves import Run, Standing, area_of, band_of, by_strategy, difference

SECONDS = (100.0, 200.0, 400.0)
START = (0.2, 0.2)


def run(strategy: str, seed: int, *dice: tuple[float, float], archive: str = "drawn") -> Run:
    """A run from the common start; each standing's Dice of two structures."""
    return Run(
        archive=archive,
        strategy=strategy,
        seed=seed,
        standings=tuple(
            Standing(
                seconds=seconds,
                spent_s=seconds - 5,
                cases=tuple("abc"[: number + 1]),
                dice={"organ": organ, "lesion": lesion},
            )
            for number, (seconds, (organ, lesion)) in enumerate(zip(SECONDS, (START, *dice), strict=True))
        ),
    )


@pytest.fixture
def runs() -> list[Run]:
    """Entropy is better than both baselines by about 0.1 for every seed; diversity now better, now worse."""
    found = []
    for seed, luck in enumerate((0.0, 0.01, -0.01, 0.02)):
        found += [
            run("random", seed, (0.4 + luck, 0.2), (0.5, 0.3)),
            run("foreground_random", seed, (0.4, 0.2 + luck), (0.5, 0.3)),
            run("predictive_entropy", seed, (0.6 + luck, 0.3), (0.7, 0.5)),
            run("k_centre", seed, (0.4 + 10 * luck, 0.1), (0.5, 0.3)),
        ]
    return found


def test_the_area_is_the_mean_dice_over_the_seconds_with_both_structures_counting_the_same() -> None:
    # Means of structures 0.2, 0.4, 0.6: trapezoids of 100 s · 0.3 and 200 s · 0.5 over 300 s.
    assert run("random", 0, (0.5, 0.3), (0.7, 0.5)).area == pytest.approx((100 * 0.3 + 200 * 0.5) / 300)


def test_a_network_that_never_changes_has_its_dice_as_area() -> None:
    assert run("random", 0, START, START).area == pytest.approx(0.2)


def test_differences_are_paired_by_seed_and_have_students_interval() -> None:
    # Areas differ by 0.01, 0.02 and 0.03: mean 0.02, deviation 0.01, t of 2 degrees of freedom 4.303.
    flat = [run("random", seed, START, START) for seed in range(3)]
    # Dice 0.2 + d at 200 s and 400 s: area 0.2 + (100 · d / 2 + 200 · d) / 300, which is 0.2 + d · 5 / 6.
    steps = [0.012, 0.024, 0.036]
    better = [run("bald", seed, (0.2 + d, 0.2 + d), (0.2 + d, 0.2 + d)) for seed, d in enumerate(steps)]
    found = difference(better[::-1], flat)
    assert found.interval is not None
    assert (found.mean, found.seeds) == (pytest.approx(0.02), 3)
    reach = 4.302653 * 0.01 / 3**0.5
    assert (found.interval.low, found.interval.high) == pytest.approx((0.02 - reach, 0.02 + reach))
    assert not found.clear


def test_one_seed_alone_gives_a_difference_without_an_interval() -> None:
    found = difference([run("bald", 0, (0.9, 0.9), (0.9, 0.9))], [run("random", 0, START, START)])
    assert found.interval is None
    assert not found.clear


def test_seeds_that_only_one_of_both_has_are_left_out() -> None:
    bald = [run("bald", seed, (0.3, 0.3), (0.3, 0.3)) for seed in (0, 1, 2)]
    assert difference(bald, [run("random", seed, START, START) for seed in (1, 2)]).seeds == 2


def test_a_band_holds_its_mean_and_is_narrow_where_all_seeds_agree(runs: list[Run]) -> None:
    band = band_of(by_strategy(runs, "drawn")["k_centre"])
    assert band.seconds == SECONDS
    assert band.mean == pytest.approx((0.2, (0.4 + 0.05 + 0.1) / 2, 0.4))
    assert band.low[1] < band.mean[1] < band.high[1]
    for place in (0, 2):
        assert band.low[place] == pytest.approx(band.high[place])


def test_the_verdict_names_what_is_clear_and_how_many_were_looked_at(runs: list[Run]) -> None:
    against_random, against_foreground = verdicts(runs)
    assert against_random.startswith("drawn, against random: predictive entropy clearly better. 3 were looked at")
    assert against_foreground.startswith("drawn, against foreground-aware random: predictive entropy clearly better.")
    assert "k centre" not in against_random


def test_a_set_without_clear_differences_says_so(runs: list[Run]) -> None:
    kept = [one for one in runs if one.strategy != "predictive_entropy"]
    assert all("no difference is larger than its interval" in words for words in verdicts(kept))


def test_the_table_has_a_row_a_strategy_the_largest_area_first(runs: list[Run]) -> None:
    rows = [line for line in learning_table(runs).splitlines() if line.startswith("| ") and "Strategy" not in line]
    assert len(rows) == 4
    assert rows[0].startswith(f"| predictive entropy | {area_of(by_strategy(runs, 'drawn')['predictive_entropy']):.3f}")
    assert "**+0." in rows[0]
    assert rows[0].endswith("| 0.600 | 3.0 |")


def test_the_picture_has_a_curve_and_a_band_a_strategy_and_a_column_a_set(runs: list[Run]) -> None:
    others = [run(one.strategy, one.seed, (0.3, 0.3), (0.4, 0.4), archive="hippocampus") for one in runs]
    picture = learning_curves([*runs, *others])
    upper, lower = picture.axes[:2], picture.axes[2:]
    for panel in upper:
        assert labels_of(panel) == {"random", "foreground-aware random", "predictive entropy", "k centre"}
        assert len(panel.collections) == 4
    for panel in lower:
        assert {label.get_text() for label in panel.get_yticklabels()} == {"random", "predictive entropy", "k centre"}
    assert png(picture).startswith(b"\x89PNG")


def test_no_two_strategies_look_alike(runs: list[Run]) -> None:
    names = ["random", "foreground_random", *(f"strategy_{number}" for number in range(10))]
    panel = learning_curves([run(name, 0, (0.3, 0.3), (0.4, 0.4)) for name in names]).axes[0]
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in panel.get_lines()}
    assert len(looks) == len(names)


def test_strategies_are_spoken_of_in_words() -> None:
    assert spoken("foreground_random") == "foreground-aware random"
    assert spoken("predictive_entropy") == "predictive entropy"


def labels_of(panel: Axes) -> set[str]:
    return {str(line.get_label()) for line in panel.get_lines()}
