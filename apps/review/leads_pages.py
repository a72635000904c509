"""Leads' pages: how far protocols are, and figures on how they are read, with charts and their data to take along.

Administrators see readers by name. Other leads see all readers together: a reader's own line would tell which of a
case's letters is whom in the next. Who reads cases himself sees how far the work is and no figure of other readers'.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import Response

from apps.identity import Caller, Identities
from apps.review import leads_charts
from apps.review.api import Lead, TheStore
from apps.review.chart_frame import DARK, PAPER, Form, drawn, few
from apps.review.frame import may_see_figures, page
from apps.review.leads_charts import Chart, Readers, Scores
from apps.review.remembered import Remembered
from labeling_protocols import calibration, reading_rows
from labeling_protocols.protocol import Protocol
from labeling_protocols.reading_figures import FEW, WINDOW, summaries, taken_from, times_in_all
from labeling_protocols.records import Account, Outcome, Progress, Role
from labeling_protocols.store import Store, UnknownError

router = APIRouter(prefix="/review")

Name = Annotated[str, Query(max_length=64, pattern=r"^[a-z0-9_]*$")]
Id = Annotated[str, Query(max_length=32, pattern=r"^[0-9a-z]*$")]

_TYPES = {Form.SVG: "image/svg+xml", Form.PNG: "image/png", Form.CSV: "text/csv; charset=utf-8"}


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
class ProtocolProgress:
    """How far one protocol is; `groups` and `readers` are empty for who reads cases himself."""

    protocol: Protocol
    counts: Progress
    unjudged: int
    sources: Sequence[reading_rows.SourceCount]
    groups: Sequence[reading_rows.GroupCount]
    readers: Sequence[reading_rows.ReaderCount]

    @property
    def reads(self) -> int:
        """Of ordinary cases; a protocol's counts have those of calibration cases among them."""
        return sum(source.reads for source in self.sources)

    @property
    def planned(self) -> int:
        return self.counts.cases * self.protocol.readers_per_case


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


@router.get("/progress")
def progress(request: Request, caller: Lead, store: TheStore) -> Response:
    """How far each protocol is: by reader, by where cases came from, by group."""
    may_see = may_see_figures(caller)
    rows = [_progress(store, protocol, caller) for protocol in store.protocols()]
    names = _names(request) if caller.has(Role.ADMINISTRATOR) else {}
    shown = []
    for row in rows:
        asked = _asked(request, caller, store, row.protocol, "", "")
        shown.append(
            (row, ShownChart(asked=asked, name="reads", words=_reads_words(row)) if may_see and row.sources else None)
        )
    return page(request, "progress.html", caller, rows=shown, names=names, topics=TITLES, topic="progress")


@router.get("/figures/{topic}")
def figures(
    request: Request,
    topic: str,
    caller: Lead,
    store: TheStore,
    protocol: Name = "",
    reader: Id = "",
    structure: Name = "",
) -> Response:
    """One topic's charts and tables under one protocol."""
    _require_sight(caller)
    if topic not in list(Topic):
        raise UnknownError(f"no such page; there are {', '.join(Topic)}")
    chosen = _chosen(store, protocol)
    everybody = _readers(request) if caller.has(Role.ADMINISTRATOR) else []
    values: dict[str, Any] = {
        "topics": TITLES,
        "topic": topic,
        "title": TITLES[Topic(topic)],
        "protocols": store.protocols(),
        "protocol": chosen,
        "readers": everybody,
        "reader": reader if everybody else "",
        "few": few,
        "few_below": FEW,
        "window": WINDOW,
    }
    if chosen is not None:
        asked = _asked(request, caller, store, chosen, reader, structure)
        values |= {"who": asked.readers, **_SHOWN[Topic(topic)](asked)}
    return page(request, "figures.html", caller, **values)


@router.get("/charts/{chart}.{form}")
def chart_file(
    request: Request,
    chart: str,
    form: str,
    caller: Lead,
    store: TheStore,
    protocol: Name = "",
    reader: Id = "",
    structure: Name = "",
    paper: bool = False,
) -> Response:
    """A chart as a picture, or the rows it is drawn from."""
    if chart not in _CHARTS or form not in list(Form):
        raise UnknownError(f"no such chart; there are {', '.join(_CHARTS)}, each as {', '.join(Form)}")
    _require_sight(caller)
    asked = _asked(request, caller, store, store.protocol(protocol), reader, structure)
    made = _CHARTS[chart](asked)
    form = Form(form)
    content = made.csv() if form is Form.CSV else drawn(made.draw, form, PAPER if paper else DARK)
    headers = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}
    if paper:
        name = "-".join(part for part in (asked.protocol.name, chart, asked.structure) if part)
        headers["Content-Disposition"] = f'attachment; filename="{name}.{form.value}"'
    return Response(content, media_type=_TYPES[form], headers=headers)


def _progress(store: Store, protocol: Protocol, caller: Caller) -> ProtocolProgress:
    may_see = may_see_figures(caller)
    sources = reading_rows.by_source(store, protocol.name)
    return ProtocolProgress(
        protocol=protocol,
        counts=store.progress(protocol.name),
        unjudged=sum(row.outcomes.get(Outcome.UNJUDGED, 0) for row in sources),
        sources=sources,
        groups=reading_rows.by_group(store, protocol.name) if may_see else [],
        readers=reading_rows.by_reader(store, protocol.name) if may_see and caller.has(Role.ADMINISTRATOR) else [],
    )


def _reads_words(row: ProtocolProgress) -> str:
    return f"Reads of {row.protocol.title} over time: {row.reads} of {row.planned} planned."


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


_SHOWN: Mapping[Topic, Callable[[Asked], dict[str, Any]]] = {
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


_CHARTS: Mapping[str, Callable[[Asked], Chart]] = {
    "reads": _reads_chart,
    "agreement": _agreement_chart,
    "disputes": _disputes_chart,
    "calibration": _calibration_chart,
    "time": _times_chart,
    "reliability": _volumes_chart,
}


def _asked(request: Request, caller: Caller, store: Store, protocol: Protocol, reader: str, structure: str) -> Asked:
    names = _names(request) if caller.has(Role.ADMINISTRATOR) else None
    only = reader if names is not None else ""
    return Asked(
        store=store,
        protocol=protocol,
        readers=Readers(names=names, only=only),
        structure=structure,
        remembered=request.app.state.remembered,
    )


def _chosen(store: Store, name: str) -> Protocol | None:
    """The protocol asked for, else the first that has cases, else the first; None where a site has none."""
    if name:
        return store.protocol(name)
    known = store.protocols()
    with_cases = (one for one in known if store.progress(one.name).cases)
    return next(with_cases, next(iter(known), None))


def _names(request: Request) -> dict[str, str]:
    return {account.id: account.name for account in _accounts(request)}


def _readers(request: Request) -> list[Account]:
    return [account for account in _accounts(request) if Role.READER in account.roles]


def _accounts(request: Request) -> list[Account]:
    identities: Identities = request.app.state.identities
    return identities.accounts.all()


def _require_sight(caller: Caller) -> None:
    if not may_see_figures(caller):
        raise HTTPException(403, "you read cases yourself; these figures would tell of other readers' work.")
