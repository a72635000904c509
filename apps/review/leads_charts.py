"""The charts of leads' pages: a store and what a lead may know in; a drawing and the rows it is made from out."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from matplotlib.figure import Figure

from apps.review import charts
from apps.review.chart_frame import Look
from apps.review.charts import VolumePair
from apps.review.remembered import Remembered
from labeling_protocols import calibration, reading_rows
from labeling_protocols.comparisons import comparisons
from labeling_protocols.protocol import Protocol
from labeling_protocols.reading_figures import (
    POOLED,
    Score,
    counts_by_period,
    disputes_by_period,
    pooled_scores,
    rolling,
    scores_against_truth,
    scores_of_calibration,
    times_by_period,
)
from labeling_protocols.reading_rows import CommonVolumes, Decision, Spent, Taken
from labeling_protocols.store import Store
from labeling_protocols.study_reliability import StudyReliability, study_reliability

Cell = str | int | float | date | datetime | None
_COMPARED_AT_ONCE = 8  # reads: each may take half a second
_VOLUMES_OF = 4000  # cases: sixty-six pairs of twelve readers take seconds
_ANSWERS_OF = 1000  # cases: each label's header is read from its file
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run


@dataclass(frozen=True, kw_only=True)
class Readers:
    """What a lead may know of readers: their `names` by account id, or None, where they are not told apart.

    `only` keeps to one of them.
    """

    names: Mapping[str, str] | None
    only: str = ""

    @property
    def pooled(self) -> bool:
        return self.names is None

    def name(self, reader: str) -> str:
        return "all readers" if reader == POOLED or self.names is None else self.names.get(reader, reader)

    def keeps(self, reader: str) -> bool:
        return not self.only or self.pooled or reader == self.only


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing and the rows it was drawn from; `words` say what it shows to who does not see it."""

    draw: Callable[[Look], Figure]
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    words: str

    def csv(self) -> bytes:
        """The rows with their names, as RFC 4180 has it."""
        content = io.StringIO()
        writer = csv.writer(content)
        writer.writerow(self.columns)
        writer.writerows([_cell(cell) for cell in row] for row in self.rows)
        return content.getvalue().encode()


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores that a lead may see; `waiting` reads are not compared yet, `within` and `of` count by reader."""

    scores: tuple[Score, ...]
    waiting: int


def agreement_scores(store: Store, protocol: Protocol, readers: Readers, remembered: Remembered) -> Scores:
    """Every settled read against its truth."""

    def make() -> Scores:
        found = comparisons(store, protocol.name, at_most=_COMPARED_AT_ONCE)
        return Scores(scores=tuple(scores_against_truth(found.found)), waiting=found.waiting)

    found = remembered.recall(store, protocol.name, "agreement", make)
    return _told(found.scores, readers, found.waiting)


def calibration_scores(store: Store, protocol: Protocol, readers: Readers) -> Scores:
    """Every calibration read against what was known."""
    found = calibration.results(store, protocol.name, at_most=_COMPARED_AT_ONCE)
    return _told(scores_of_calibration(found.results), readers, found.waiting)


def scores_chart(protocol: Protocol, scores: Sequence[Score], readers: Readers, *, against: str) -> Chart:
    titles = {structure.name: structure.title for structure in protocol.structures}
    rolled = rolling(scores)
    # Where readers are not told apart, cases are not told either: their reads' dates would tell who was last.
    return Chart(
        draw=charts.scores_chart(rolled, titles, readers.name, against=against),
        columns=(
            *("reader", "structure", "case", "date", "score", "left_out_or_invented"),
            *("rolling_mean", "scores_in_mean"),
        ),
        rows=[
            (
                *(readers.name(row.of_read.reader), row.of_read.structure, row.of_read.case, row.of_read.at),
                *(row.of_read.score, int(row.of_read.missed), row.rolling_mean, row.of),
            )
            for row in rolled
        ],
        words=f"Scores of {len(rolled)} readings against {against}, and their rolling means, over time.",
    )


def spent_times(store: Store, protocol: Protocol, readers: Readers, remembered: Remembered) -> list[Spent]:
    spent = remembered.recall(store, protocol.name, "times", lambda: reading_rows.times(store, protocol.name))
    return [one for one in spent if readers.keeps(one.reader)]


def times_chart(spent: Sequence[Spent], readers: Readers) -> Chart:
    rows = times_by_period(spent, pooled=readers.pooled)
    return Chart(
        draw=charts.times_chart(rows, readers.name),
        columns=("reader", "begins", "cases", "median_seconds", "lower_quartile_seconds", "upper_quartile_seconds"),
        rows=[(readers.name(row.reader), row.begins, row.n, row.median_s, row.low_s, row.high_s) for row in rows],
        words=f"Median time spent on a case over time, of {len(spent)} cases and readers.",
    )


def disputes_chart(raised: Sequence[datetime], decided: Sequence[Decision]) -> Chart:
    rows = disputes_by_period(raised, decided)
    return Chart(
        draw=charts.disputes_chart(rows),
        columns=("begins", "raised", *(f"settled by {taken.value}" for taken in Taken)),
        rows=[(row.begins, row.raised, *row.taken.values()) for row in rows],
        words=f"{len(raised)} disputes raised and {len(decided)} settled, by what was taken, over time.",
    )


def reads_chart(store: Store, protocol: Protocol) -> Chart:
    """First reads of ordinary cases, and how many are planned."""
    rows = counts_by_period(reading_rows.first_reads(store, protocol.name))
    planned = store.progress(protocol.name).cases * protocol.readers_per_case
    return Chart(
        draw=charts.counts_chart(rows, planned),
        columns=("begins", "reads", "reads_so_far"),
        rows=[(row.begins, row.reads, row.total) for row in rows],
        words=f"{rows[-1].total if rows else 0} reads so far, of {planned} planned, over time.",
    )


def reliability(store: Store, protocol: Protocol, remembered: Remembered) -> tuple[CommonVolumes, StudyReliability]:
    """How reliably the newest cases that several have read were read."""

    def make() -> tuple[CommonVolumes, StudyReliability]:
        common = reading_rows.common_volumes(store, protocol.name, at_most=_VOLUMES_OF, answers_of=_ANSWERS_OF)
        return common, study_reliability(protocol, common.cases)

    return remembered.recall(store, protocol.name, "reliability", make)


def volumes_chart(
    protocol: Protocol, structure: str, common: CommonVolumes, found: StudyReliability, readers: Readers
) -> Chart:
    """Bland and Altman's chart of one structure, a panel a pair of readers; for leads who may know readers by name.

    Two volumes and their case tell which of a case's letters is whom in another case.
    """
    of = next(volumes for volumes in found.volumes if volumes.structure == structure)
    pairs, rows = [], []
    for pair in of.pairs:
        a, b = pair.reader_a, pair.reader_b
        if readers.only not in ("", a, b):
            continue
        both = [
            (case.case, case.volumes_ml[a][structure], case.volumes_ml[b][structure])
            for case in common.cases
            if structure in case.volumes_ml.get(a, {}) and structure in case.volumes_ml.get(b, {})
        ]
        names = (readers.name(a), readers.name(b))
        volumes_ml = tuple((one, other) for _, one, other in both)
        pairs.append(VolumePair(names=names, volumes_ml=volumes_ml, agreement=pair))
        rows += [(*names, structure, case, one, other, (one + other) / 2, one - other) for case, one, other in both]
    title = protocol.structure(structure).title
    return Chart(
        draw=charts.bland_altman_chart(pairs, title),
        columns=("reader_a", "reader_b", "structure", "case", "volume_a_ml", "volume_b_ml", "mean_ml", "difference_ml"),
        rows=rows,
        words=f"Differences of the volumes of {title} between two readers over their means, {len(pairs)} pairs.",
    )


def _told(scores: Sequence[Score], readers: Readers, waiting: int) -> Scores:
    told = pooled_scores(scores) if readers.pooled else [one for one in scores if readers.keeps(one.reader)]
    return Scores(scores=tuple(told), waiting=waiting)


def _cell(cell: Cell) -> str | int | float:
    """A cell as a spreadsheet and a program read it alike; text that would be run as a formula stays text."""
    if isinstance(cell, datetime):
        return cell.strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(cell, date):
        return cell.isoformat()
    if isinstance(cell, float):
        return round(cell, 6)
    if isinstance(cell, str) and cell.startswith(_FORMULA):
        return f"'{cell}"
    return "" if cell is None else cell
