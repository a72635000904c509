"""What a page of figures shows: its topic, or a chart, and who asks for it in; charts and tables out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlencode

from fastapi import HTTPException

from apps.review import leads_charts
from apps.review.chart_frame import Form
from apps.review.leads_charts import Chart, Readers, Scores
from apps.review.remembered import Remembered
from labeling_protocols import calibration, reading_rows
from labeling_protocols.protocol import Protocol
from labeling_protocols.reading_figures import summaries, taken_from, times_in_all
from labeling_protocols.store import Store, UnknownError


class Topic(StrEnum):
    """What a page of figures is about."""

    AGREEMENT = "agreement"
    DISPUTES = "disputes"
    CALIBRATION = "calibration"
    TIME = "time"
    RELIABILITY = "reliability"


TITLES = {
    Topic.AGREEMENT: "Against truth",
    Topic.DISPUTES: "Disputes",
    Topic.CALIBRATION: "Calibration",
    Topic.TIME: "Time",
    Topic.RELIABILITY: "Reliability",
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a page or a chart is asked for, by whom."""

    store: Store
    protocol: Protocol
    readers: Readers
    structure: str
    remembered: Remembered

    def address(self, chart: str, form: Form, *, paper: bool = False, **more: str) -> str:
        """Where the chart is, drawn for the page or, as `paper`, for taking along."""
        values = {"protocol": self.protocol.name, "reader": self.readers.only, "structure": self.structure, **more}
        given = {name: value for name, value in values.items() if value} | ({"paper": "1"} if paper else {})
        return f"/review/charts/{chart}.{form.value}?{urlencode(given)}"


@dataclass(frozen=True, kw_only=True)
class ShownChart:
    """A chart on a page: its addresses, and what it shows in words."""

    asked: Asked
    name: str
    words: str
    structure: str = ""

    @property
    def picture(self) -> str:
        return self._address(Form.SVG)

    @property
    def files(self) -> list[tuple[str, str]]:
        return [(form.name, self._address(form, paper=True)) for form in Form]

    def _address(self, form: Form, *, paper: bool = False) -> str:
        return self.asked.address(self.name, form, paper=paper, structure=self.structure)


# What the page of each topic shows


def _agreement(asked: Asked) -> dict[str, Any]:
    found = leads_charts.agreement_scores(asked.store, asked.protocol, asked.readers, asked.remembered)
    return _scores(asked, found, "agreement", "the truth")


def _calibration(asked: Asked) -> dict[str, Any]:
    found = leads_charts.calibration_scores(asked.store, asked.protocol, asked.readers)
    within: dict[str, tuple[int, int]] = {}
    if not asked.readers.pooled:
        for result in calibration.results(asked.store, asked.protocol.name, at_most=0).results:
            good, of = within.get(result.read.reader, (0, 0))
            within[result.read.reader] = (good + result.verdict.agreed, of + 1)
    return _scores(asked, found, "calibration", "what was known") | {"within": within}


def _scores(asked: Asked, found: Scores, chart: str, against: str) -> dict[str, Any]:
    made = leads_charts.scores_chart(asked.protocol, found.scores, asked.readers, against=against)
    return {
        "charts": [ShownChart(asked=asked, name=chart, words=made.words)] if found.scores else [],
        "summaries": sorted(summaries(found.scores), key=lambda row: (asked.readers.name(row.reader), row.structure)),
        "waiting": found.waiting,
        "against": against,
    }


def _time(asked: Asked) -> dict[str, Any]:
    spent = leads_charts.spent_times(asked.store, asked.protocol, asked.readers, asked.remembered)
    made = leads_charts.times_chart(spent, asked.readers)
    return {
        "charts": [ShownChart(asked=asked, name="time", words=made.words)] if spent else [],
        "times": times_in_all(spent, pooled=asked.readers.pooled),
    }


def _disputes(asked: Asked) -> dict[str, Any]:
    raised = reading_rows.raised(asked.store, asked.protocol.name)
    decided = reading_rows.decisions(asked.store, asked.protocol.name)
    made = leads_charts.disputes_chart(raised, decided)
    counts = {taken: sum(one.taken is taken for one in decided) for taken in reading_rows.Taken}
    return {
        "charts": [ShownChart(asked=asked, name="disputes", words=made.words)] if raised or decided else [],
        "raised": len(raised),
        "decided": len(decided),
        "taken": {taken.value: count for taken, count in counts.items() if count},
        "taken_from": {} if asked.readers.pooled else taken_from(decided),
    }


def _reliability(asked: Asked) -> dict[str, Any]:
    common, found = leads_charts.reliability(asked.store, asked.protocol, asked.remembered)
    shown = [] if asked.readers.pooled else [volumes for volumes in found.volumes if volumes.pairs]
    return {
        "charts": [
            ShownChart(
                asked=asked,
                name="reliability",
                structure=volumes.structure,
                words=f"Bland and Altman's chart of volumes of {asked.protocol.structure(volumes.structure).title}.",
            )
            for volumes in shown
        ],
        "found": found,
        "common": common,
        "questions": {question.name: question.title for question in asked.protocol.questions},
    }


SHOWN: Mapping[Topic, Callable[[Asked], dict[str, Any]]] = {
    Topic.AGREEMENT: _agreement,
    Topic.DISPUTES: _disputes,
    Topic.CALIBRATION: _calibration,
    Topic.TIME: _time,
    Topic.RELIABILITY: _reliability,
}


# Charts by themselves


def _reads_chart(asked: Asked) -> Chart:
    return leads_charts.reads_chart(asked.store, asked.protocol)


def _agreement_chart(asked: Asked) -> Chart:
    found = leads_charts.agreement_scores(asked.store, asked.protocol, asked.readers, asked.remembered)
    return leads_charts.scores_chart(asked.protocol, found.scores, asked.readers, against="the truth")


def _calibration_chart(asked: Asked) -> Chart:
    found = leads_charts.calibration_scores(asked.store, asked.protocol, asked.readers)
    return leads_charts.scores_chart(asked.protocol, found.scores, asked.readers, against="what was known")


def _times_chart(asked: Asked) -> Chart:
    return leads_charts.times_chart(
        leads_charts.spent_times(asked.store, asked.protocol, asked.readers, asked.remembered), asked.readers
    )


def _disputes_chart(asked: Asked) -> Chart:
    name = asked.protocol.name
    return leads_charts.disputes_chart(
        reading_rows.raised(asked.store, name), reading_rows.decisions(asked.store, name)
    )


def _volumes_chart(asked: Asked) -> Chart:
    if asked.readers.pooled:
        raise HTTPException(403, "volumes by reader and case are for administrators: they would tell readers apart.")
    outlined = [structure.name for structure in asked.protocol.outlined]
    if asked.structure not in outlined:
        raise UnknownError(f"expected one of the outlined structures: {', '.join(outlined) or 'none'}")
    common, found = leads_charts.reliability(asked.store, asked.protocol, asked.remembered)
    return leads_charts.volumes_chart(asked.protocol, asked.structure, common, found, asked.readers)


CHARTS: Mapping[str, Callable[[Asked], Chart]] = {
    "reads": _reads_chart,
    "agreement": _agreement_chart,
    "disputes": _disputes_chart,
    "calibration": _calibration_chart,
    "time": _times_chart,
    "reliability": _volumes_chart,
}
