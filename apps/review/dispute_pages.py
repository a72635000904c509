"""One dispute in a browser: opened and claimed, looked at, edited elsewhere, decided and signed; then to the next."""

from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from apps.identity import Caller
from apps.review.access import Adjudicator, TheDispute, TheSite, TheStore
from apps.review.decisions import Decision, decide, parts_of_form
from apps.review.disputes import ShownDispute, require_not_own
from apps.review.frame import sentence
from apps.review.queue_pages import Wanted, claim_next, how_of, name_of, queue_page
from apps.review.signing import require_signature
from apps.review.workbench import edit_panel, notice, workbench
from apps.settings import Site
from labeling_protocols import disputes, edits, settlement
from labeling_protocols.adjudications import AdjudicationError
from labeling_protocols.dispute_states import DisputeError, TakenError, taken_words
from labeling_protocols.store import Store, now

router = APIRouter(prefix="/review/disputes")

Reason = Annotated[str, Form(max_length=1000, pattern=r"^[^\x00]*$")]


@router.get("/{case}")
def dispute_page(
    request: Request,
    dispute: TheDispute,
    caller: Adjudicator,
    store: TheStore,
    settled: str = "",
    how: str = "settled",
) -> Response:
    """The case and everything to decide it, for whoever has it; for others, who that is."""
    held = disputes.standing_over(store, dispute.case.id)
    if held is None or not (held.held_at(now()) and held.holder == caller.account.id):
        return notice(request, caller, store, dispute.case.id, held)
    return workbench(request, caller, store, dispute, held, settled=settled, how=how)


@router.post("/{case}/claim")
def claim(request: Request, dispute: TheDispute, caller: Adjudicator, store: TheStore) -> Response:
    """Open a dispute: from now on it is the caller's."""
    try:
        disputes.claim(store, dispute.case.id, caller.account.id)
    except DisputeError as error:
        return _refused(request, caller, store, dispute, error)
    return RedirectResponse(f"/review/disputes/{dispute.case.id}", status_code=303)


@router.post("/{case}/release")
def release(request: Request, dispute: TheDispute, caller: Adjudicator, store: TheStore) -> Response:
    """Give a dispute back undecided."""
    try:
        disputes.release(store, dispute.case.id, caller.account.id)
    except DisputeError as error:
        return _refused(request, caller, store, dispute, error)
    return RedirectResponse(f"/review/?settled={dispute.case.id}&how=released", status_code=303)


@router.post("/{case}/escalate")
def escalate(
    request: Request, dispute: TheDispute, caller: Adjudicator, store: TheStore, reason: Reason = ""
) -> Response:
    """Hand a dispute to those whom the protocol names."""
    try:
        disputes.escalate(store, dispute.case.id, caller.account.id, reason)
    except DisputeError as error:
        return _refused(request, caller, store, dispute, error)
    return RedirectResponse(f"/review/?settled={dispute.case.id}&how=escalated", status_code=303)


@router.post("/{case}/reopen")
def reopen(
    request: Request, case: str, caller: Adjudicator, store: TheStore, site: TheSite, reason: Reason = ""
) -> Response:
    """Open a settled dispute again."""
    try:
        store.case(case)
        require_not_own(store, case, caller.account)
        disputes.reopen(store, case, caller.account.id, reason)
        settlement.settle(store, case)
    except DisputeError as error:
        return queue_page(request, caller, store, site, Wanted(state="settled"), problem=sentence(error))
    return RedirectResponse(f"/review/?settled={case}&how=reopened", status_code=303)


@router.get("/{case}/edit")
def edit_arrived(
    request: Request, dispute: TheDispute, caller: Adjudicator, store: TheStore, revision: int = -1
) -> Response:
    """What the page says of the caller's edit; nothing (204) while that is the revision it knows."""
    edit = edits.newest_edit(store, dispute.case.id, caller.account.id)
    if edit is not None and edit.revision == revision:
        return Response(status_code=204)
    return edit_panel(request, caller, store, dispute, edit)


@router.post("/{case}/edit")
def begin_edit(
    request: Request, dispute: TheDispute, caller: Adjudicator, store: TheStore, take: Annotated[str, Form()] = ""
) -> Response:
    """Put the case, with a chosen outline, into the caller's own worklist in 3D Slicer."""
    known = edits.newest_edit(store, dispute.case.id, caller.account.id)
    try:
        edit = edits.begin_edit(store, dispute.case.id, caller.account.id, dispute.source(take[:16], None))
    except DisputeError as error:
        return edit_panel(request, caller, store, dispute, known, problem=_said(request, error))
    return edit_panel(request, caller, store, dispute, edit)


@router.post("/{case}")
async def settle(
    request: Request, dispute: TheDispute, caller: Adjudicator, store: TheStore, site: TheSite
) -> Response:
    """Sign a decision with the adjudicator's password, then go on to the worst dispute that is left."""
    form = {name: str(value) for name, value in (await request.form()).items()}
    try:
        asked = Decision(
            parts=parts_of_form(form), rationale=form.get("rationale", ""), password=form.get("password", "")[:1000]
        )
        await require_signature(request, caller, asked.password)
        return await run_in_threadpool(_settle, request, dispute, caller, store, site, asked)
    except ValidationError:
        error: Exception = AdjudicationError(
            "a rationale has at most 10,000 characters, and what is taken must be on offer. Nothing was decided."
        )
        status = 422
    except HTTPException as refused:
        error, status = AdjudicationError(refused.detail), refused.status_code
    except DisputeError as refused:
        error, status = refused, 409
    return await run_in_threadpool(_undecided, request, dispute, caller, store, form, sentence(error), status)


def _settle(
    request: Request, dispute: ShownDispute, caller: Caller, store: Store, site: Site, asked: Decision
) -> Response:
    made = decide(store, site, request.app.state.identities, dispute, caller, asked)
    told = f"settled={dispute.case.id}&how={how_of(made)}"
    following = claim_next(store, caller)
    return RedirectResponse(f"/review/disputes/{following}?{told}" if following else f"/review/?{told}", 303)


def _undecided(
    request: Request, dispute: ShownDispute, caller: Caller, store: Store, form: dict[str, str], words: str, status: int
) -> Response:
    """The page as it was filled in, with why nothing was decided; no longer, where somebody else has the dispute."""
    held = disputes.standing_over(store, dispute.case.id)
    if held is not None and held.held_at(now()) and held.holder != caller.account.id:
        return notice(request, caller, store, dispute.case.id, held, problem=words, status=status)
    filled = {name: value for name, value in form.items() if name != "password"}
    return workbench(
        request, caller, store, dispute, held or dispute.standing, form=filled, problem=words, status=status
    )


def _refused(request: Request, caller: Caller, store: Store, dispute: ShownDispute, error: DisputeError) -> Response:
    """The notice again, with why; who has it is said there already."""
    held = disputes.standing_over(store, dispute.case.id)
    words = "" if isinstance(error, TakenError) else sentence(error)
    return notice(request, caller, store, dispute.case.id, held, problem=words, status=409)


def _said(request: Request, error: DisputeError) -> str:
    """An error in words, with the name of who has the dispute."""
    if isinstance(error, TakenError):
        return taken_words(name_of(request, error.holder), error.since)
    return sentence(error)
