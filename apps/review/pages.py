"""The pages people open in a browser: home, the queue of disputes, one dispute, progress."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from apps.accounts import TokenError
from apps.identity import Caller, Identities, Means
from apps.review import account_pages, frame, seats_pages, sign_in, work_pages
from apps.review.api import Adjudicator, Decision, Lead, TheDispute, TheSite, TheStore, counts_of, decide, detail
from apps.review.disputes import open_disputes
from apps.review.frame import page
from labeling_protocols.settlement import AdjudicationError

router = APIRouter()


@router.get("/")
def home(request: Request, store: TheStore) -> Response:
    """Where to go from here; who is not signed in is asked to."""
    caller = _known(request)
    if caller is None:
        return RedirectResponse("/sign-in", status_code=303)
    return page(request, "home.html", caller, server=str(request.base_url).rstrip("/"))


@router.get("/review", include_in_schema=False)
def review_without_slash(caller: Adjudicator) -> Response:
    return RedirectResponse("/review/", status_code=303)


@router.get("/review/")
def queue(request: Request, caller: Adjudicator, store: TheStore, settled: str = "") -> Response:
    """The open disputes of every protocol, worst first."""
    groups = []
    for protocol in store.protocols():
        found, hidden = open_disputes(store, protocol.name, caller.account)
        groups.append({"protocol": protocol, "disputes": found, "hidden": hidden})
    return page(request, "queue.html", caller, groups=groups, settled=settled)


@router.get("/review/progress")
def progress(request: Request, caller: Lead, store: TheStore) -> Response:
    rows = [(protocol, counts_of(store, protocol.name)) for protocol in store.protocols()]
    return page(request, "progress.html", caller, rows=rows)


@router.get("/review/disputes/{case}")
def dispute_page(request: Request, dispute: TheDispute, caller: Adjudicator, store: TheStore) -> Response:
    return _dispute_page(request, dispute, caller, store)


@router.post("/review/disputes/{case}")
def settle(
    request: Request,
    dispute: TheDispute,
    caller: Adjudicator,
    store: TheStore,
    site: TheSite,
    choice: Annotated[str, Form()] = "",
    rationale: Annotated[str, Form()] = "",
) -> Response:
    """Settle, then go on to the worst dispute that is left."""
    try:
        decide(store, site, dispute, caller, Decision(choice=choice[:16], rationale=rationale[:10_000]))
    except AdjudicationError as error:
        return _dispute_page(request, dispute, caller, store, str(error), choice, rationale)
    return RedirectResponse(f"/review/?settled={dispute.case.id}", status_code=303)


def _dispute_page(
    request: Request,
    dispute: TheDispute,
    caller: Caller,
    store: TheStore,
    problem: str = "",
    choice: str = "",
    rationale: str = "",
) -> Response:
    return page(
        request,
        "dispute.html",
        caller,
        status=409 if problem else 200,
        dispute=dispute,
        detail=detail(store, dispute),
        problem=problem,
        choice=choice,
        rationale=rationale,
    )


def _known(request: Request) -> Caller | None:
    """Who a browser is signed in as, if anybody."""
    identities: Identities = request.app.state.identities
    try:
        caller = identities.caller(request)
    except TokenError:
        return None
    return caller if caller is not None and caller.means is Means.COOKIE else None


for _pages in (frame, sign_in, account_pages, work_pages, seats_pages):
    router.include_router(_pages.router)
