"""Orders of cases: what must hold for any evidence, and small worklists worked out by hand."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from labeling_protocols.protocol_parts import AcquisitionStrategy
from training.acquisition import STRATEGIES, AcquisitionError, CaseEvidence, CaseSummary, rank, summarise

NAMES = ["anterior", "posterior"]
EVERY = sorted(STRATEGIES)


def maps(*answers: list[int], sure: float = 1.0, channels: int = 3) -> NDArray[np.float32]:
    """Views of a row of voxels: each one's answer by voxel, with this probability, the rest shared by the others."""
    samples = np.full((len(answers), channels, 1, 1, len(answers[0])), (1 - sure) / (channels - 1), dtype=np.float32)
    for view, answer in enumerate(answers):
        for voxel, channel in enumerate(answer):
            samples[view, channel, 0, 0, voxel] = sure
    return samples


def of(samples: NDArray[np.float32]) -> CaseSummary:
    return summarise(CaseEvidence(case="a", samples=samples), NAMES)


def case(name: str, *entropy: float, **known: object) -> CaseSummary:
    """A case whose every measure of uncertainty is this, by structure."""
    values: Mapping[str, float] = dict(zip(NAMES, entropy or (0.0, 0.0), strict=True))
    fields = {
        "entropy": values,
        "mutual_information": values,
        "disagreement": values,
        "voxels": {n: 9.0 for n in NAMES},
    }
    return CaseSummary(case=name, **{**fields, "features": (0.0, 0.0), **known})  # type: ignore[arg-type]


def ids(strategy: str, cases: list[CaseSummary], **how: object) -> list[str]:
    return [scored.case for scored in rank(strategy, cases, seed=how.pop("seed", 1), **how)]  # type: ignore[arg-type]


fractions = st.floats(0, 1, allow_nan=False)
summaries = st.lists(
    st.tuples(fractions, fractions, st.floats(-9, 9), st.one_of(st.none(), st.floats(1, 900)), st.booleans()),
    min_size=1,
    max_size=14,
).map(
    lambda rows: [
        case(
            f"case{number}",
            a,
            b,
            features=(x, -a),
            seconds=seconds,
            voxels={"anterior": float(seen), "posterior": float(not seen)},
            reader_disagreement=a if seen else None,
        )
        for number, (a, b, x, seconds, seen) in enumerate(rows)
    ]
)


@pytest.mark.parametrize("strategy", EVERY)
@settings(deadline=None, max_examples=25)
@given(cases=summaries, seed=st.integers(0, 9), data=st.data())
def test_an_order_has_every_case_once_and_does_not_depend_on_how_they_were_given(
    strategy: str, cases: list[CaseSummary], seed: int, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(cases))
    ordered = rank(strategy, cases, seed=seed)
    assert ordered == rank(strategy, shuffled, seed=seed)
    assert sorted(scored.case for scored in ordered) == sorted(summary.case for summary in cases)
    assert all(math.isfinite(scored.score) for scored in ordered)
    scores = [scored.score for scored in ordered]
    assert scores == sorted(scores, reverse=True)
    assert all(scored.why.endswith(".") for scored in ordered)


@pytest.mark.parametrize("strategy", EVERY)
@settings(deadline=None, max_examples=25)
@given(cases=summaries, budget_s=st.floats(0, 3000))
def test_a_batch_keeps_to_its_budget_and_leaves_nothing_out_that_would_fit(
    strategy: str, cases: list[CaseSummary], budget_s: float
) -> None:
    known = [summary.seconds for summary in cases if summary.seconds]
    seconds = {s.case: s.seconds or (float(np.median(known)) if known else 1.0) for s in cases}
    batch = [scored.case for scored in rank(strategy, cases, seed=3, budget_s=budget_s)]
    spent = sum(seconds[name] for name in batch)
    assert spent <= budget_s + 1e-6
    left_out = [seconds[name] for name in seconds if name not in batch]
    assert all(spent + one > budget_s - 1e-6 for one in left_out)


@settings(deadline=None, max_examples=40)
@given(
    answers=st.lists(st.lists(st.integers(0, 2), min_size=5, max_size=5), min_size=1, max_size=3),
    sure=st.floats(0.34, 1.0),
)
def test_numbers_of_a_case_are_finite_and_between_nothing_and_one(answers: list[list[int]], sure: float) -> None:
    summary = of(maps(*answers, sure=sure))
    measured = (summary.entropy, summary.mutual_information, summary.disagreement)
    assert all(0.0 <= value <= 1.0 for values in measured for value in values.values())
    same = of(maps(*[answers[0]] * 3, sure=sure))
    assert max(same.mutual_information.values()) == pytest.approx(0.0, abs=1e-6)
    assert max(same.disagreement.values()) == 0.0
    certain = of(maps(answers[0]))
    assert max(certain.entropy.values()) == 0.0


def test_entropy_is_that_of_the_views_mean_over_the_voxels_of_each_structure() -> None:
    """Two views that share one voxel evenly between background and posterior, beside a sure voxel of anterior.

    There the mean has ln 2 of at most ln 3 nats; its weight is the mean probability 1/2, of which 1/2 + 1 is 1/3.
    """
    summary = of(maps([1, 0], [1, 2]))
    share = math.log(2) / math.log(3)
    assert summary.entropy["posterior"] == pytest.approx(share * 0.5 / 1.5, rel=1e-5)
    assert summary.entropy["anterior"] == 0.0
    # Each view is certain of its own, so that all of the entropy is what they do not share.
    assert summary.mutual_information["posterior"] == pytest.approx(summary.entropy["posterior"], rel=1e-5)
    assert (summary.disagreement["anterior"], summary.disagreement["posterior"]) == (0.0, 1.0)
    assert (summary.voxels["anterior"], summary.voxels["posterior"]) == (1.0, 0.0)


def test_disagreement_is_the_mean_over_pairs_of_views() -> None:
    """Masks of 2, 2 and 1 voxels: Dice 1/2, 0 and 2/3."""
    summary = of(maps([1, 1, 0], [0, 1, 1], [1, 0, 0]))
    assert summary.disagreement["anterior"] == pytest.approx(1 - (1 / 2 + 2 / 3 + 0) / 3)


def test_a_small_structure_counts_as_much_as_a_large_one() -> None:
    """But for the one voxel of nothing that is added to both: weights of 240 in 241, and of 24 in 25."""
    large, small = [1] * 400, [1] * 40
    unsure = [of(maps(answer, sure=0.6)).entropy["anterior"] for answer in (large, small)]
    assert unsure[0] / (240 / 241) == pytest.approx(unsure[1] / (24 / 25), rel=1e-4)


def test_a_case_without_any_structure_has_zeros_and_is_ordered() -> None:
    empty = of(maps([0, 0, 0], [0, 0, 0]))
    assert {*empty.entropy.values(), *empty.disagreement.values(), *empty.voxels.values()} == {0.0}
    other = replace(empty, case="b", features=(1.0,))
    for strategy in EVERY:
        assert sorted(ids(strategy, [replace(empty, features=(0.0,)), other])) == ["a", "b"], strategy


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (maps([0, 1], channels=2), "expected"),
        (maps([0, 1]) * 2, "sum of 1"),
        (maps([0, 1])[:, :, 0], "expected"),
    ],
)
def test_what_is_no_probability_of_the_structures_is_refused(samples: NDArray[np.float32], words: str) -> None:
    with pytest.raises(AcquisitionError, match=words):
        of(samples)


def test_protocols_and_settings_name_the_strategies_there_are() -> None:
    assert [strategy.value for strategy in AcquisitionStrategy] == [*STRATEGIES]


def test_unknown_strategies_and_missing_evidence_are_refused_in_words() -> None:
    bare = CaseSummary(case="a")
    with pytest.raises(AcquisitionError, match="expected one of foreground_random, random"):
        rank("best", [bare], seed=1)
    for strategy in EVERY:
        needs = STRATEGIES[strategy]
        if needs.needs_samples or needs.needs_features:
            with pytest.raises(AcquisitionError, match="of every case"):
                rank(strategy, [bare], seed=1)
        else:
            assert [scored.case for scored in rank(strategy, [bare], seed=1)] == ["a"]
    with pytest.raises(AcquisitionError, match="given twice"):
        rank("random", [bare, bare], seed=1)
    assert rank("random", [], seed=1) == []


@pytest.mark.parametrize("strategy", ["predictive_entropy", "bald", "ensemble_disagreement"])
def test_the_most_uncertain_case_comes_first_and_its_structure_is_named(strategy: str) -> None:
    """Means 0.2, 0.35 and 0.35: the tie goes by the case's id."""
    cases = [case("c", 0.1, 0.6), case("b", 0.3, 0.4), case("a", 0.4, 0.0)]
    found = rank(strategy, cases, seed=1, titles={"posterior": "Posterior hippocampus"})
    assert [scored.case for scored in found] == ["b", "c", "a"]
    assert "Posterior hippocampus" in found[0].why
    assert "anterior" in found[2].why


def test_random_orders_stay_when_a_case_is_added() -> None:
    cases = [case(f"c{number}") for number in range(30)]
    before = ids("random", cases)
    after = ids("random", [*cases, case("new")])
    assert [name for name in after if name != "new"] == before
    assert before != ids("random", cases, seed=2)
    assert before != sorted(before)


def test_foreground_random_favours_cases_with_a_rare_structure() -> None:
    """20 of 200 cases hold a structure: two of three draws are among them, so about 2/3 + 1/30 of the first 15."""
    cases = [case(f"c{number:03}", voxels={"anterior": float(number < 20)}) for number in range(200)]
    first = [ids("foreground_random", cases, seed=seed)[:15] for seed in range(40)]
    share = np.mean([name < "c020" for batch in first for name in batch])
    assert 0.6 < share < 0.8
    plain = [ids("random", cases, seed=seed)[:15] for seed in range(40)]
    assert np.mean([name < "c020" for batch in plain for name in batch]) < 0.2


def test_clasp_pe_without_noise_serves_each_structure_in_turn() -> None:
    """At the end of annotation noise is a hundredth: places go to one structure, the other, and both together."""
    cases = [
        case("a1", 0.9, 0.0),
        case("a2", 0.8, 0.0),
        case("p1", 0.0, 0.5),
        case("p2", 0.0, 0.3),
        case("w", 0.4, 0.4),
    ]
    order = ids("clasp_pe", cases, progress=1.0)
    assert {*order[:2]} == {"a1", "p1"}
    assert order[2] in ("a2", "w")  # both have 0.4 in the mean
    assert ids("predictive_entropy", cases)[:3] == ["a1", "a2", "w"]


def test_clasp_pe_leaves_more_to_chance_at_the_beginning() -> None:
    cases = [case(f"c{number}", 0.02 * number, 0.02 * number) for number in range(30)]
    changed = [
        np.mean([ids("clasp_pe", cases, seed=seed, progress=progress)[0] == "c29" for seed in range(40)])
        for progress in (0.0, 1.0)
    ]
    assert changed[0] < 0.3
    assert changed[1] > 0.7


def test_k_centre_goes_to_the_farthest_case_from_all_before_it() -> None:
    """On a line at 0, 1, 2, 9 and 10 with 0 read: 10 is farthest, then 2 and so on."""
    cases = [case(f"x{x:02}", features=(float(x), 0.0)) for x in (1, 2, 9, 10)]
    assert ids("k_centre", cases, read=[case("r", features=(0.0, 0.0))]) == ["x10", "x02", "x01", "x09"]
    assert ids("k_centre", cases)[0] == "x02"  # nearest to the middle, 5.5 less than 3.5 away: x02 and x09 tie
    with pytest.raises(AcquisitionError, match="features of 1, 2"):
        rank("k_centre", [*cases, case("y", features=(1.0,))], seed=1)


def test_typicality_begins_with_the_middle_of_each_cluster() -> None:
    """Two heaps of three on a line, of which one was read."""
    heaps = {"a": (0.0, 0.1, 0.3), "b": (50.0, 50.1, 50.3)}
    cases = [case(f"{heap}{n}", features=(x, 0.0)) for heap, xs in heaps.items() for n, x in enumerate(xs)]
    order = ids("typicality", cases, budget_s=2.0)
    assert {*order} == {"a1", "b1"}
    read = [case("r", features=(0.15, 0.0))]
    assert ids("typicality", cases, read=read, budget_s=1.0)[0].startswith("b")


def test_reader_disagreement_puts_unknown_cases_in_the_middle_and_says_nothing_of_readers() -> None:
    cases = [case("a", reader_disagreement=0.1), case("b"), case("c", reader_disagreement=0.7)]
    found = rank("reader_disagreement", cases, seed=1)
    assert [scored.case for scored in found] == ["c", "b", "a"]
    assert not any(word in scored.why.lower() for scored in found for word in ("reader", "agree", "read", "0."))
    assert ["difficult" in scored.why for scored in found] == [True, False, True]


def test_the_hybrid_takes_what_is_worth_most_a_second() -> None:
    """0.6 in 100 s is worth less a second than 0.3 in 30 s; the twin of what was taken is worth nothing any more."""
    cases = [
        case("slow", 0.6, 0.6, features=(1.0, 0.0), seconds=100.0),
        case("quick", 0.3, 0.3, features=(0.0, 1.0), seconds=30.0),
        case("twin", 0.29, 0.29, features=(0.0, 1.0), seconds=30.0),
    ]
    assert ids("hybrid", cases) == ["quick", "slow", "twin"]
    assert ids("hybrid", cases, budget_s=70.0) == ["quick", "twin"]
    assert ids("hybrid", cases, budget_s=10.0) == []


@pytest.mark.parametrize("strategy", ["clasp_pe", "k_centre", "hybrid", "foreground_random"])
def test_a_long_worklist_is_ordered_in_seconds(strategy: str) -> None:
    rng = np.random.default_rng(1)
    cases = [
        case(f"c{n}", *rng.random(2), features=tuple(rng.random(8)), seconds=float(rng.integers(20, 200)))
        for n in range(3000)
    ]
    assert len({*ids(strategy, cases)}) == 3000
