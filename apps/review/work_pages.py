"""A reader's own page: what they hold, what they read and how they go on; nothing of anybody else's work."""

from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from apps.identity import Caller, Means, requires
from apps.reasons import reason_of
from apps.review.access import TheStore
from apps.review.frame import page, sentence
from labeling_protocols import calibration, worklist
from labeling_protocols.case_scores import offers
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import BlindingLifts
from labeling_protocols.records import Case, Role, SeatState, Work
from labeling_protocols.store import SeatError, Store, UnknownError, WithdrawalError, now
from labeling_protocols.worklist import WorklistError

router = APIRouter(prefix="/work")

Reader = Annotated[Caller, requires(Role.READER, means=(Means.COOKIE,))]
Reason = Annotated[str, Form(max_length=1000, pattern=r"^[^\x00]*$")]

_PAGE = 50
_DAYS = 28
_COMPARED_AT_ONCE = 8  # calibration reads: each may take half a second
_STUDY = "0020000D"  # Study Instance UID, as DICOMweb's JSON names it
_DONE = {
    "skipped": "You gave the case back. It is not offered to you again.",
    "withdrawn": "Your read is withdrawn and kept on record. The case is yours again, to read anew.",
}


@dataclass(frozen=True, kw_only=True)
class Day:
    """How many cases the reader saved last on a day."""

    day: date
    reads: int


@dataclass(frozen=True, kw_only=True)
class Held:
    """A case the reader has not read yet; `left` is None where the lease ended, `ohif` an address or empty.

    `why` is the sentence on why he was given this one, empty where there is none.
    """

    work: Work
    left: timedelta | None
    ohif: str
    why: str


@dataclass(frozen=True, kw_only=True)
class OwnProgress:
    """A reader's work under one protocol; `more` reads are not shown, `unread` cases of all may yet come to them."""

    protocol: Protocol
    held: tuple[Held, ...]
    read: tuple[Work, ...]
    more: int
    reads: int
    seconds: float
    unread: int
    days: tuple[Day, ...]
    standings: tuple[calibration.Standing, ...]
    compared: int


@router.get("", include_in_schema=False)
def without_slash(caller: Reader) -> Response:
    return RedirectResponse("/work/", status_code=303)


@router.get("/")
def own_work(
    request: Request,
    caller: Reader,
    store: TheStore,
    done: str = "",
    shown: Annotated[int, Query(ge=0, le=100_000)] = 0,
) -> Response:
    return _page(request, caller, store, done=_DONE.get(done, ""), shown=shown)


@router.post("/{case}/skip")
def skip(request: Request, case: str, caller: Reader, store: TheStore, reason: Reason = "") -> Response:
    """Give a case back, with a reason."""
    try:
        worklist.skip(store, case, caller.account.id, reason)
    except (WorklistError, SeatError, UnknownError) as error:
        return _page(request, caller, store, problem=sentence(error))
    return RedirectResponse("/work/?done=skipped", status_code=303)


@router.post("/{case}/withdraw")
def withdraw(request: Request, case: str, caller: Reader, store: TheStore, reason: Reason = "") -> Response:
    """Take one's own read back, with a reason."""
    try:
        store.withdraw(case_id=case, reader=caller.account.id, actor=caller.account.id, reason=reason)
    except (WithdrawalError, UnknownError) as error:
        return _page(request, caller, store, problem=sentence(error))
    return RedirectResponse("/work/?done=withdrawn", status_code=303)


def _page(
    request: Request, caller: Caller, store: Store, *, done: str = "", problem: str = "", shown: int = 0
) -> Response:
    groups = [_progress(request, store, protocol, caller, max(_PAGE, shown)) for protocol in store.protocols()]
    return page(
        request,
        "work.html",
        caller,
        status=409 if problem else 200,
        groups=[group for group in groups if group is not None],
        shown=max(_PAGE, shown),
        page_size=_PAGE,
        done=done,
        problem=problem,
    )


def _progress(request: Request, store: Store, protocol: Protocol, caller: Caller, shown: int) -> OwnProgress | None:
    """The caller's work under a protocol; None where there is none, and no case either."""
    reader, at = caller.account.id, now()
    work = worklist.own_work(store, protocol.name, reader, limit=shown)
    counts = store.progress(protocol.name)
    reads = counts.by_reader.get(reader, 0)
    seconds, saved = worklist.own_totals(store, protocol.name, reader, since=at - timedelta(days=_DAYS))
    total = counts.cases + counts.calibration_cases
    if not work and not total:
        return None
    read = tuple(one for one in work if one.state == SeatState.READ)
    unread = [one for one in work if one.state != SeatState.READ]
    given = offers(store, reader, (one.case for one in unread))
    held = tuple(_held(request, store, one, at, reason_of(protocol, given.get(one.case))) for one in unread)
    standings, compared = _calibration(store, protocol, reader)
    return OwnProgress(
        protocol=protocol,
        held=held,
        read=read,
        more=max(0, reads - len(read)),
        reads=reads,
        seconds=seconds,
        unread=max(0, total - reads),
        days=_days(saved, at.date()),
        standings=standings,
        compared=compared,
    )


def _held(request: Request, store: Store, work: Work, at: datetime, why: str) -> Held:
    left = work.lease_until - at if work.lease_until is not None and work.lease_until > at else None
    return Held(work=work, left=left, ohif=_ohif(request, store.case(work.case)), why=why)


def _ohif(request: Request, case: Case) -> str:
    """Where OHIF opens the case to be drawn; empty where the archive has no such series."""
    if case.series is None:
        return ""
    filters = {"SeriesInstanceUID": case.series}
    found = request.app.state.archive.ask(lambda client: client.search_for_series(search_filters=filters))
    if not found:
        return ""
    study = str(found[0][_STUDY]["Value"][0])
    asked = {"StudyInstanceUIDs": study, "initialSeriesInstanceUID": case.series, "case": case.id}
    return f"/ohif/segmentation?{urlencode(asked)}"


def _calibration(store: Store, protocol: Protocol, reader: str) -> tuple[tuple[calibration.Standing, ...], int]:
    """The reader's standing against known truths, without a word on which cases those are, once blinding may lift."""
    if protocol.calibration is None or protocol.blinding.lifts == BlindingLifts.NEVER:
        return (), 0
    found = calibration.results(store, protocol.name, reader, at_most=_COMPARED_AT_ONCE).results
    return (calibration.standings(protocol, found), len(found)) if found else ((), 0)


def _days(saved: list[datetime], today: date) -> tuple[Day, ...]:
    """The last four weeks, oldest first."""
    by_day = Counter(moment.date() for moment in saved)
    last = (today - timedelta(days=back) for back in reversed(range(_DAYS)))
    return tuple(Day(day=day, reads=by_day[day]) for day in last)
