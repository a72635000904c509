"""Figures on how a protocol is read, worked out by hand from a few rows."""

from datetime import UTC, date, datetime, timedelta

import pytest

from labeling_protocols.comparisons import TRUTH, Comparison, SettledRead
from labeling_protocols.reading_figures import (
    POOLED,
    Score,
    counts_by_period,
    disputes_by_period,
    pooled_scores,
    rolling,
    scores_against_truth,
    summaries,
    taken_from,
    times_by_period,
    times_in_all,
)
from labeling_protocols.reading_rows import Decision, Spent, Taken
from labeling_protocols.records import PairAgreement, Settled

MONDAY = datetime(2026, 3, 2, 8, tzinfo=UTC)


def day(number: int) -> datetime:
    return MONDAY + timedelta(days=number)


def score(value: float, *, reader: str = "ann", case: str = "1", at: int = 0) -> Score:
    return Score(reader=reader, structure="anterior", case=case, at=day(at), score=value, missed=value == 0)


def spent(seconds: float, *, reader: str = "ann", case: str = "1", at: int = 0) -> Spent:
    return Spent(reader=reader, case=case, seconds=seconds, saved=day(at))


def decision(taken: Taken, *readers: str, at: int = 0) -> Decision:
    return Decision(case="1", at=day(at), taken=taken, readers=readers)


def test_a_score_is_dice_or_else_f1_and_what_was_left_out_is_a_missed_nought() -> None:
    of = SettledRead(case="1", reader="ann", read=7, truth="t", settled=Settled.CONSENSUS, at=day(3))
    pairs = (
        PairAgreement(structure="a", reader_a="ann", reader_b=TRUTH, dice=0.9, hd95_mm=1.0, f1=0.0),
        PairAgreement(structure="b", reader_a="ann", reader_b=TRUTH, dice=0.0, hd95_mm=None),
        PairAgreement(structure="c", reader_a="ann", reader_b=TRUTH, f1=0.5),
        PairAgreement(structure="d", reader_a="ann", reader_b=TRUTH, f1=0.0),
        PairAgreement(structure="e", reader_a="ann", reader_b=TRUTH),
    )
    found = scores_against_truth([Comparison(of=of, pairs=pairs)])
    assert [(one.structure, one.score, one.missed) for one in found] == [
        ("a", 0.9, False),
        ("b", 0.0, True),
        ("c", 0.5, False),
        ("d", 0.0, True),
    ]
    assert {(one.reader, one.case, one.at) for one in found} == {("ann", "1", day(3))}


def test_a_rolling_mean_is_of_the_readers_own_last_scores() -> None:
    scores = [score(1.0), score(0.0, reader="ben"), score(0.5, at=1), score(0.3, at=2)]
    rolled = [(one.of_read.reader, one.rolling_mean, one.of) for one in rolling(scores, window=2)]
    assert rolled == [("ann", 1.0, 1), ("ben", 0.0, 1), ("ann", 0.75, 2), ("ann", pytest.approx(0.4), 2)]


def test_pooled_scores_name_neither_reader_nor_case() -> None:
    scores = [score(1.0), score(0.5, reader="ben"), score(0.2, case="2", at=1)]
    pooled = pooled_scores(scores)
    assert [(one.reader, one.case, one.score, one.at) for one in pooled] == [
        (POOLED, "", 0.75, day(0)),
        (POOLED, "", 0.2, day(1)),
    ]


def test_a_summary_has_mean_quartiles_and_misses() -> None:
    ann, ben = summaries([score(value) for value in (0.0, 0.5, 0.7, 0.8, 1.0)] + [score(0.4, reader="ben")])
    assert (ann.n, ann.mean, ann.low, ann.high, ann.missed) == (5, pytest.approx(0.6), 0.5, 0.8, 1)
    assert (ben.n, ben.mean, ben.low, ben.high, ben.missed) == (1, 0.4, 0.4, 0.4, 0)


def test_times_are_told_by_week_over_a_short_span_and_by_month_over_a_long_one() -> None:
    weekly = times_by_period([spent(60), spent(180, at=6), spent(90, at=7), spent(30, reader="ben")], pooled=False)
    assert [(row.reader, row.begins, row.n, row.median_s) for row in weekly] == [
        ("ann", date(2026, 3, 2), 2, 120),
        ("ann", date(2026, 3, 9), 1, 90),
        ("ben", date(2026, 3, 2), 1, 30),
    ]
    monthly = times_by_period([spent(60), spent(180, reader="ben", at=20), spent(100, at=200)], pooled=True)
    assert [(row.reader, row.begins, row.n, row.median_s) for row in monthly] == [
        (POOLED, date(2026, 3, 1), 2, 120),
        (POOLED, date(2026, 9, 1), 1, 100),
    ]
    in_all = times_in_all([spent(10), spent(20), spent(30), spent(40), spent(1000)], pooled=False)
    assert [(row.reader, row.n, row.median_s, row.low_s, row.high_s) for row in in_all] == [("ann", 5, 30, 20, 40)]


def test_a_week_without_a_dispute_is_a_week_of_noughts() -> None:
    decided = [decision(Taken.READER, "ann", at=15), decision(Taken.EDIT, at=15)]
    rows = disputes_by_period([day(0), day(1)], decided)
    assert [(row.begins, row.raised) for row in rows] == [
        (date(2026, 3, 2), 2),
        (date(2026, 3, 9), 0),
        (date(2026, 3, 16), 0),
    ]
    assert rows[2].taken == {**dict.fromkeys(Taken, 0), Taken.READER: 1, Taken.EDIT: 1}
    assert disputes_by_period([], []) == []


def test_a_decision_in_parts_counts_for_each_reader_it_took_from() -> None:
    decided = [decision(Taken.SEVERAL, "ann", "ben"), decision(Taken.READER, "ann"), decision(Taken.CONSENSUS)]
    assert taken_from(decided) == {"ann": 2, "ben": 1}


def test_counts_go_on_through_months_without_any() -> None:
    rows = counts_by_period([day(0), day(0), day(190)])
    assert [(row.begins.month, row.reads, row.total) for row in rows] == [
        *((3, 2, 2), (4, 0, 2), (5, 0, 2), (6, 0, 2), (7, 0, 2), (8, 0, 2)),
        (9, 1, 3),
    ]
