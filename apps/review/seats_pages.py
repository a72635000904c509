"""Who reads which case: seats, what was given back, calibration and the audit's end, for administrators.

Adjudicators who read no cases may look at seats and at what was given back, without a word on who read what or when.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import RedirectResponse, Response

from apps.identity import Caller, Identities
from apps.review.access import Adjudicator, TheStore
from apps.review.account_pages import Administrator
from apps.review.frame import may_see_seats, page, sentence
from labeling_protocols import audit, calibration, schema, worklist
from labeling_protocols.occupancy import Show, given_back, held_now, occupied
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account, Returned, Role
from labeling_protocols.store import SeatError, Store, WithdrawalError, now
from labeling_protocols.worklist import WorklistError

router = APIRouter(prefix="/review/seats")

Reason = Annotated[str, Form(max_length=1000, pattern=r"^[^\x00]*$")]
Id = Annotated[str, Query(max_length=32, pattern=r"^\s*[0-9a-z]*\s*$")]

_COMPARED_AT_ONCE = 20  # calibration reads: each may take half a second
_AUDIT_ENTRIES = 50
_DONE = {"reassigned": "The seat is reassigned.", "withdrawn": "The read is withdrawn and kept on record."}


@dataclass(frozen=True, kw_only=True)
class CalibratedReader:
    """One reader's calibration results, and how they stand on each structure."""

    reader: str
    results: tuple[calibration.Result, ...]
    standings: tuple[calibration.Standing, ...]

    @property
    def within(self) -> int:
        return sum(result.verdict.agreed for result in self.results)


@router.get("")
def without_slash(caller: Adjudicator) -> Response:
    return RedirectResponse("/review/seats/", status_code=303)


@router.get("/")
def seats(
    request: Request,
    caller: Adjudicator,
    store: TheStore,
    protocol: str = "",
    show: Show = Show.ALL,
    reader: Id = "",
    case: Id = "",
    after: Id = "",
) -> Response:
    """Cases with their seats, fifty at a time."""
    _require_sight(caller)
    chosen = _chosen(store, protocol)
    sought = reader if caller.has(Role.ADMINISTRATOR) else ""
    values: dict[str, Any] = {"show": show, "reader": sought, "case": case.strip(), "shows": list(Show), "at": now()}
    if chosen is not None:
        found = occupied(store, chosen.name, show=show, reader=sought, case=case.strip(), after=after)
        claimed, lapsed = held_now(store, chosen.name)
        values |= {"found": found, "claimed": claimed, "lapsed": lapsed, "counts": store.progress(chosen.name)}
        values["first_page"] = not after
    return _page(request, "seats.html", caller, store, chosen, **values)


@router.get("/returned")
def returned(
    request: Request,
    caller: Adjudicator,
    store: TheStore,
    protocol: str = "",
    why: Returned | None = None,
    before: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> Response:
    """How readers lost seats, newest first."""
    _require_sight(caller)
    chosen = _chosen(store, protocol)
    found = given_back(store, chosen.name, why=why, before=before) if chosen is not None else None
    return _page(request, "seats_returned.html", caller, store, chosen, found=found, why=why, whys=list(Returned))


@router.get("/calibration")
def calibrated(request: Request, caller: Administrator, store: TheStore, protocol: str = "") -> Response:
    """How each reader's calibration cases compare with what is known of them."""
    chosen = _chosen(store, protocol)
    rows, waiting = [], 0
    if chosen is not None:
        found = calibration.results(store, chosen.name, at_most=_COMPARED_AT_ONCE)
        waiting = found.waiting
        for reader in sorted({result.read.reader for result in found.results}):
            own = tuple(result for result in found.results if result.read.reader == reader)
            rows.append(CalibratedReader(reader=reader, results=own, standings=calibration.standings(chosen, own)))
    return _page(request, "seats_calibration.html", caller, store, chosen, rows=rows, waiting=waiting)


@router.get("/audit")
def audit_tail(request: Request, caller: Administrator, store: TheStore) -> Response:
    """The end of the audit's chain, newest first."""
    with store.engine.connect() as connection:
        last = connection.execute(sa.select(sa.func.max(schema.audit.c.id))).scalar() or 0
        entries = list(audit.entries(connection, after=max(0, last - _AUDIT_ENTRIES)))
    return _page(request, "seats_audit.html", caller, store, None, entries=entries[::-1])


@router.get("/cases/{case}")
def case_seats(request: Request, case: str, caller: Administrator, store: TheStore, done: str = "") -> Response:
    """One case: its seats, how they changed hands, and every revision of its reads."""
    return _case_page(request, case, caller, store, done=_DONE.get(done, ""))


@router.post("/cases/{case}/reassign")
def reassign(
    request: Request,
    case: str,
    caller: Administrator,
    store: TheStore,
    from_reader: Annotated[str, Form()] = "",
    to_reader: Annotated[str, Form()] = "",
    reason: Reason = "",
) -> Response:
    """Take an unread seat from a reader, or a free one, and give it to another, or to whoever comes next."""

    def change() -> None:
        if from_reader and not reason.strip():
            raise WorklistError("taking a seat from a reader needs a reason. Nothing was changed.")
        worklist.reassign(
            store,
            case,
            from_reader=from_reader or None,
            to_reader=to_reader or None,
            actor=caller.account.id,
            reason=reason,
        )

    return _changed(request, case, caller, store, change, "reassigned")


@router.post("/cases/{case}/withdraw")
def withdraw(
    request: Request,
    case: str,
    caller: Administrator,
    store: TheStore,
    reader: Annotated[str, Form()] = "",
    reason: Reason = "",
) -> Response:
    """Take a reader's read back, with a reason."""

    def change() -> None:
        store.withdraw(case_id=case, reader=reader, actor=caller.account.id, reason=reason)

    return _changed(request, case, caller, store, change, "withdrawn")


def _changed(
    request: Request, case: str, caller: Caller, store: Store, change: Callable[[], None], done: str
) -> Response:
    try:
        change()
    except (WorklistError, SeatError, WithdrawalError) as error:
        return _case_page(request, case, caller, store, problem=sentence(error))
    return RedirectResponse(f"/review/seats/cases/{store.case(case).id}?done={done}", status_code=303)


def _case_page(
    request: Request, case_id: str, caller: Caller, store: Store, *, done: str = "", problem: str = ""
) -> Response:
    case = store.case(case_id)
    protocol = store.protocol(case.protocol)
    return _page(
        request,
        "seats_case.html",
        caller,
        store,
        protocol,
        status=409 if problem else 200,
        case=case,
        seats=worklist.seats(store, case_id),
        returned=given_back(store, protocol.name, case=case_id).entries,
        reads=store.reads(case_id)[::-1],
        at=now(),
        done=done,
        problem=problem,
    )


def _page(
    request: Request,
    template: str,
    caller: Caller,
    store: Store,
    protocol: Protocol | None,
    *,
    status: int = 200,
    **values: Any,
) -> Response:
    """A page of this section; readers have names on it for administrators only."""
    everybody = _everybody(request) if caller.has(Role.ADMINISTRATOR) else []
    return page(
        request,
        template,
        caller,
        status=status,
        protocols=store.protocols(),
        protocol=protocol,
        names={account.id: account.name for account in everybody},
        readers=[account for account in everybody if Role.READER in account.roles and not account.disabled],
        **values,
    )


def _chosen(store: Store, name: str) -> Protocol | None:
    """The protocol asked for, else the first that has cases, else the first; None where a site has none."""
    if name:
        return store.protocol(name)
    known = store.protocols()
    counts = ((protocol, store.progress(protocol.name)) for protocol in known)
    with_cases = (protocol for protocol, count in counts if count.cases + count.calibration_cases)
    return next(with_cases, next(iter(known), None))


def _everybody(request: Request) -> list[Account]:
    identities: Identities = request.app.state.identities
    return identities.accounts.all()


def _require_sight(caller: Caller) -> None:
    if not may_see_seats(caller):
        raise HTTPException(403, "you read cases yourself; who sits where would tell how far other readers are.")
