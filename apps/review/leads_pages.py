"""Leads' pages: how far protocols are, and figures on how they are read, with charts and their data to take along.

Administrators see readers by name. Other leads see all readers together: a reader's own line would tell which of a
case's letters is whom in the next. Who reads cases himself sees how far the work is and no figure of other readers'.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import Response

from apps.identity import Caller, Identities
from apps.review.access import Lead, TheStore
from apps.review.chart_frame import DARK, PAPER, Form, drawn, few
from apps.review.frame import may_see_figures, page
from apps.review.leads_charts import Readers
from apps.review.leads_topics import CHARTS, SHOWN, TITLES, Asked, ShownChart, Topic
from labeling_protocols import reading_rows
from labeling_protocols.protocol import Protocol
from labeling_protocols.reading_figures import FEW, WINDOW
from labeling_protocols.records import Account, Outcome, Progress, Role
from labeling_protocols.store import Store, UnknownError

router = APIRouter(prefix="/review")

Name = Annotated[str, Query(max_length=64, pattern=r"^[a-z0-9_]*$")]
Id = Annotated[str, Query(max_length=32, pattern=r"^[0-9a-z]*$")]

_TYPES = {Form.SVG: "image/svg+xml", Form.PNG: "image/png", Form.CSV: "text/csv; charset=utf-8"}


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
        values |= {"who": asked.readers, **SHOWN[Topic(topic)](asked)}
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
    if chart not in CHARTS or form not in list(Form):
        raise UnknownError(f"no such chart; there are {', '.join(CHARTS)}, each as {', '.join(Form)}")
    _require_sight(caller)
    asked = _asked(request, caller, store, store.protocol(protocol), reader, structure)
    made = CHARTS[chart](asked)
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
