"""Figures on how a protocol is read: rows of the store in, tables to draw and to export out. Pure functions.

A row's `reader` is an account id, or `POOLED` where readers are not told apart.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from statistics import quantiles

from labeling_protocols.calibration import Result
from labeling_protocols.comparisons import Comparison
from labeling_protocols.reading_rows import Decision, Spent, Taken
from labeling_protocols.records import PairAgreement

POOLED = ""
WINDOW = 20  # reads in a rolling mean
FEW = 10  # below this many, a mean says little
_WEEKS_UP_TO = timedelta(days=140)  # longer spans are told by month


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well a reader read one structure of one case, as of a date: Dice of outlines, else F1 of findings.

    What was left out or invented scores 0 and is `missed`.
    """

    reader: str
    structure: str
    case: str
    at: datetime
    score: float
    missed: bool = False


@dataclass(frozen=True, kw_only=True)
class RolledScore:
    """A score, and the mean of it and of those before it of the same reader and structure: `of` so many."""

    of_read: Score
    rolling_mean: float
    of: int


@dataclass(frozen=True, kw_only=True)
class ScoreSummary:
    """All scores of one reader and structure: mean and quartiles."""

    reader: str
    structure: str
    n: int
    mean: float
    low: float
    high: float
    missed: int


@dataclass(frozen=True, kw_only=True)
class TimeInAll:
    """Seconds a case took one reader: median and quartiles over `n` cases."""

    reader: str
    n: int
    median_s: float
    low_s: float
    high_s: float


@dataclass(frozen=True, kw_only=True)
class TimeInPeriod:
    """Seconds a case took in the week or month that begins on `begins`: median and quartiles over `n` cases."""

    reader: str
    begins: date
    n: int
    median_s: float
    low_s: float
    high_s: float


@dataclass(frozen=True, kw_only=True)
class DisputesInPeriod:
    """Disputes raised, and decided by what was taken, in the week or month that begins on `begins`."""

    begins: date
    raised: int
    taken: dict[Taken, int]


@dataclass(frozen=True, kw_only=True)
class CountInPeriod:
    """First saves in the week or month that begins on `begins`, and all up to its end."""

    begins: date
    reads: int
    total: int


def scores_against_truth(found: Iterable[Comparison]) -> list[Score]:
    """Scores of settled reads, by date of settlement."""
    return [score for one in found for score in _scores(one.of.reader, one.of.case, one.of.at, one.pairs)]


def scores_of_calibration(found: Iterable[Result]) -> list[Score]:
    """Scores of calibration reads against the known truths, by date of the read."""
    by_date = sorted(found, key=lambda one: (one.read.created, one.read.id))
    return [
        score for one in by_date for score in _scores(one.read.reader, one.case, one.read.created, one.verdict.pairs)
    ]


def pooled_scores(scores: Sequence[Score]) -> list[Score]:
    """One score a case and structure, the mean of its readers', who are told apart no more; nor are the cases."""
    groups: dict[tuple[str, str], list[Score]] = defaultdict(list)
    for score in scores:
        groups[score.case, score.structure].append(score)
    pooled = [
        Score(
            reader=POOLED,
            structure=structure,
            case="",
            at=max(one.at for one in group),
            score=sum(one.score for one in group) / len(group),
            missed=any(one.missed for one in group),
        )
        for (_, structure), group in groups.items()
    ]
    return sorted(pooled, key=lambda one: one.at)


def rolling(scores: Iterable[Score], window: int = WINDOW) -> list[RolledScore]:
    """Scores in their order, each with the mean over the last `window` of its reader and structure."""
    last: dict[tuple[str, str], deque[float]] = defaultdict(lambda: deque(maxlen=window))
    rolled = []
    for score in scores:
        recent = last[score.reader, score.structure]
        recent.append(score.score)
        rolled.append(RolledScore(of_read=score, rolling_mean=sum(recent) / len(recent), of=len(recent)))
    return rolled


def summaries(scores: Iterable[Score]) -> list[ScoreSummary]:
    """By reader and structure."""
    groups: dict[tuple[str, str], list[Score]] = defaultdict(list)
    for score in scores:
        groups[score.reader, score.structure].append(score)
    rows = []
    for (reader, structure), group in sorted(groups.items()):
        values = [one.score for one in group]
        low, _, high = _quartiles(values)
        mean, missed = sum(values) / len(values), sum(one.missed for one in group)
        rows.append(
            ScoreSummary(
                reader=reader, structure=structure, n=len(values), mean=mean, low=low, high=high, missed=missed
            )
        )
    return rows


def times_in_all(spent: Sequence[Spent], *, pooled: bool) -> list[TimeInAll]:
    """Median seconds a case by reader, or of all together."""
    groups: dict[str, list[float]] = defaultdict(list)
    for one in spent:
        groups[POOLED if pooled else one.reader].append(one.seconds)
    rows = []
    for reader, seconds in sorted(groups.items()):
        low, middle, high = _quartiles(seconds)
        rows.append(TimeInAll(reader=reader, n=len(seconds), median_s=middle, low_s=low, high_s=high))
    return rows


def times_by_period(spent: Sequence[Spent], *, pooled: bool) -> list[TimeInPeriod]:
    """Median seconds a case by reader, or of all together, by week or, over a longer span, by month."""
    weekly = _weekly([one.saved for one in spent])
    groups: dict[tuple[str, date], list[float]] = defaultdict(list)
    for one in spent:
        groups[POOLED if pooled else one.reader, _begins(one.saved, weekly)].append(one.seconds)
    rows = []
    for (reader, begins), seconds in sorted(groups.items()):
        low, middle, high = _quartiles(seconds)
        rows.append(TimeInPeriod(reader=reader, begins=begins, n=len(seconds), median_s=middle, low_s=low, high_s=high))
    return rows


def disputes_by_period(raised: Sequence[datetime], decided: Sequence[Decision]) -> list[DisputesInPeriod]:
    """Disputes raised and decided, every week or month from the first to the last; quiet ones with zeros."""
    moments = [*raised, *(one.at for one in decided)]
    weekly = _weekly(moments)
    rows = {
        begins: DisputesInPeriod(begins=begins, raised=0, taken=dict.fromkeys(Taken, 0))
        for begins in _periods(moments, weekly)
    }
    for moment in raised:
        begins = _begins(moment, weekly)
        rows[begins] = replace(rows[begins], raised=rows[begins].raised + 1)
    for one in decided:
        rows[_begins(one.at, weekly)].taken[one.taken] += 1
    return list(rows.values())


def taken_from(decided: Iterable[Decision]) -> dict[str, int]:
    """How many decisions took all or a part of each reader's work."""
    counts: dict[str, int] = defaultdict(int)
    for one in decided:
        for reader in one.readers:
            counts[reader] += 1
    return dict(counts)


def counts_by_period(moments: Sequence[datetime]) -> list[CountInPeriod]:
    """How many fall into each week or month from the first to the last, and how many there were by its end."""
    weekly = _weekly(moments)
    counts = dict.fromkeys(_periods(moments, weekly), 0)
    for moment in moments:
        counts[_begins(moment, weekly)] += 1
    rows, total = [], 0
    for begins, reads in counts.items():
        total += reads
        rows.append(CountInPeriod(begins=begins, reads=reads, total=total))
    return rows


def _scores(reader: str, case: str, at: datetime, pairs: Iterable[PairAgreement]) -> list[Score]:
    """A structure that is neither outlined nor has findings to compare has no score."""
    return [
        Score(
            reader=reader,
            structure=pair.structure,
            case=case,
            at=at,
            score=value,
            missed=pair.missed or (pair.dice is None and value == 0),
        )
        for pair in pairs
        if (value := pair.dice if pair.dice is not None else pair.f1) is not None
    ]


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile; one value is all three."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _weekly(moments: Sequence[datetime]) -> bool:
    return not moments or max(moments) - min(moments) <= _WEEKS_UP_TO


def _begins(moment: datetime, weekly: bool) -> date:
    """The Monday of its week, or the first of its month."""
    day = moment.date()
    return day - timedelta(days=day.weekday()) if weekly else day.replace(day=1)


def _periods(moments: Sequence[datetime], weekly: bool) -> list[date]:
    if not moments:
        return []
    begins, last = _begins(min(moments), weekly), max(moments).date()
    found = []
    while begins <= last:
        found.append(begins)
        begins = begins + timedelta(days=7) if weekly else (begins + timedelta(days=31)).replace(day=1)
    return found
