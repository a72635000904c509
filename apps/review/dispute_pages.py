"""One dispute in a browser: opened and claimed, looked at, edited elsewhere, decided and signed; then to the next."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from apps.identity import Caller
from apps.review.api import Adjudicator, Decision, DecisionPart, TheDispute, TheSite, TheStore, decide
from apps.review.dispute_view import structures_shown
from apps.review.disputes import EDIT, NONE, ShownDispute, edit_shown, require_not_own
from apps.review.frame import page, sentence
from apps.review.queue_pages import HOW, Wanted, claim_next, clock, name_of, queue_page
from apps.review.signing import needs_password, require_signature
from apps.settings import Site
from labeling_protocols import disputes, edits, settlement
from labeling_protocols.adjudications import AdjudicationError
from labeling_protocols.dispute_states import DisputeError, Standing, TakenError, taken_words
from labeling_protocols.protocol_parts import ConsensusRule
from labeling_protocols.records import Edit
from labeling_protocols.store import Store, now

router = APIRouter(prefix="/review/disputes")

Reason = Annotated[str, Form(max_length=1000, pattern=r"^[^\x00]*$")]

_TAKE = "take"
_RULES = {
    ConsensusRule.MAJORITY: "Majority",
    ConsensusRule.INTERSECTION: "Intersection",
    ConsensusRule.UNION: "Union",
    ConsensusRule.STAPLE: "STAPLE",
}
_WINDOWS = {
    "CT": (("soft", "Soft tissue"), ("lung", "Lung"), ("bone", "Bone"), ("brain", "Brain"), ("auto", "Auto")),
}
_ANY_WINDOW = (("auto", "Auto"), ("full", "Full range"))


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
        return _notice(request, caller, dispute.case.id, held)
    return _workbench(request, caller, store, dispute, held, settled=settled, how=how)


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
def edit_panel(
    request: Request, dispute: TheDispute, caller: Adjudicator, store: TheStore, revision: int = -1
) -> Response:
    """What the page says of the caller's edit; nothing (204) while that is the revision it knows."""
    edit = edits.newest_edit(store, dispute.case.id, caller.account.id)
    if edit is not None and edit.revision == revision:
        return Response(status_code=204)
    return _edit_panel(request, caller, store, dispute, edit)


@router.post("/{case}/edit")
def begin_edit(
    request: Request, dispute: TheDispute, caller: Adjudicator, store: TheStore, take: Annotated[str, Form()] = ""
) -> Response:
    """Put the case, with a chosen outline, into the caller's own worklist in 3D Slicer."""
    known = edits.newest_edit(store, dispute.case.id, caller.account.id)
    try:
        edit = edits.begin_edit(store, dispute.case.id, caller.account.id, dispute.source(take[:16], None))
    except DisputeError as error:
        return _edit_panel(request, caller, store, dispute, known, problem=_said(request, error))
    return _edit_panel(request, caller, store, dispute, edit)


@router.post("/{case}")
async def settle(
    request: Request, dispute: TheDispute, caller: Adjudicator, store: TheStore, site: TheSite
) -> Response:
    """Sign a decision with the adjudicator's password, then go on to the worst dispute that is left."""
    form = {name: str(value) for name, value in (await request.form()).items()}
    try:
        asked = Decision(
            parts=_parts(form), rationale=form.get("rationale", ""), password=form.get("password", "")[:1000]
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
    told = f"settled={dispute.case.id}&how={'settled' if made['settles'] else 'decided'}"
    following = claim_next(store, caller)
    return RedirectResponse(f"/review/disputes/{following}?{told}" if following else f"/review/?{told}", 303)


def _undecided(
    request: Request, dispute: ShownDispute, caller: Caller, store: Store, form: dict[str, str], words: str, status: int
) -> Response:
    """The page as it was filled in, with why nothing was decided; no longer, where somebody else has the dispute."""
    held = disputes.standing_over(store, dispute.case.id)
    if held is not None and held.held_at(now()) and held.holder != caller.account.id:
        return _notice(request, caller, dispute.case.id, held, problem=words, status=status)
    filled = {name: value for name, value in form.items() if name != "password"}
    return _workbench(
        request, caller, store, dispute, held or dispute.standing, form=filled, problem=words, status=status
    )


def _notice(
    request: Request, caller: Caller, case: str, held: Standing | None, *, problem: str = "", status: int = 200
) -> Response:
    """Who has a dispute, or that nobody has it; nothing that could be decided."""
    someone = held.holder if held is not None and held.held_at(now()) else None
    return page(
        request,
        "dispute_notice.html",
        caller,
        status=status,
        case=case,
        held_by=name_of(request, someone) if someone else "",
        held_since=clock(held.held_since) if held else "",
        held_until=clock(held.held_until) if held else "",
        may_claim=held is not None and not problem,
        problem=problem,
    )


def _refused(request: Request, caller: Caller, store: Store, dispute: ShownDispute, error: DisputeError) -> Response:
    """The notice again, with why; who has it is said there already."""
    held = disputes.standing_over(store, dispute.case.id)
    words = "" if isinstance(error, TakenError) else sentence(error)
    return _notice(request, caller, dispute.case.id, held, problem=words, status=409)


def _said(request: Request, error: DisputeError) -> str:
    """An error in words, with the name of who has the dispute."""
    if isinstance(error, TakenError):
        return taken_words(name_of(request, error.holder), error.since)
    return sentence(error)


def _edit_panel(
    request: Request, caller: Caller, store: Store, dispute: ShownDispute, edit: Edit | None, *, problem: str = ""
) -> Response:
    values = {**_edit_values(store, dispute, caller, edit), "offered": _offered(dispute, edit)}
    return page(
        request,
        "edit_panel.html",
        caller,
        status=409 if problem else 200,
        dispute=dispute,
        edit_problem=problem,
        **values,
    )


def _edit_values(store: Store, dispute: ShownDispute, caller: Caller, edit: Edit | None) -> dict[str, Any]:
    shown = edit_shown(store, dispute, caller.account)
    base = dict(_offered(dispute, edit)).get(shown["source"], "nothing drawn") if shown else ""
    return {"edit": edit, "edit_saved": edit is not None and edits.is_saved(edit), "edit_base": base}


def _offered(dispute: ShownDispute, edit: Edit | None) -> list[tuple[str, str]]:
    """What an outline can be taken from, with its title; an edit is offered before it has come, and hidden."""
    readers = [(letter, f"Reader {letter}") for letter in dispute.reads]
    revision = f"My edit, revision {edit.revision}" if edit is not None and edits.is_saved(edit) else "My edit"
    return [*readers, *((str(rule), title) for rule, title in _RULES.items()), (EDIT, revision), (NONE, "None of it")]


def _workbench(
    request: Request,
    caller: Caller,
    store: Store,
    dispute: ShownDispute,
    held: Standing,
    *,
    form: Mapping[str, str] | None = None,
    problem: str = "",
    status: int = 200,
    settled: str = "",
    how: str = "settled",
) -> Response:
    """The page on which a dispute is decided; `form` is what was filled in before it was refused."""
    edit = edits.newest_edit(store, dispute.case.id, caller.account.id)
    filled = dict(form or {})
    rule = dispute.protocol.adjudication
    structures = structures_shown(dispute.protocol, dispute.verdict, dispute.reads)
    return page(
        request,
        "dispute.html",
        caller,
        status=status,
        dispute=dispute,
        structures=structures,
        lesions=[lesion for one in structures for lesion in one.lesions],
        reasons=dispute.reasons(),
        rules=[(str(rule), title) for rule, title in _RULES.items()],
        own_rule=str(dispute.protocol.consensus.rule),
        offered=_offered(dispute, edit),
        chosen=filled,
        opened={name.split(".")[1] for name, value in filled.items() if name.count(".") == 2 and value},
        windows=_WINDOWS.get(dispute.case.modality, _ANY_WINDOW),
        rationale=filled.get("rationale", ""),
        rationale_min=rule.rationale_min_characters,
        adjudicators=rule.adjudicators,
        escalates=rule.escalate_to is not None and not held.group,
        has_password=needs_password(request.app.state.identities, caller),
        held_since=clock(held.held_since),
        held_until=clock(held.held_until),
        problem=problem,
        settled=settled,
        settled_how=HOW.get(how, ""),
        shown=_shown(dispute),
        edit_problem="",
        **_edit_values(store, dispute, caller, edit),
    )


def _shown(dispute: ShownDispute) -> dict[str, Any]:
    """What the page's script is told."""
    return {
        "folder": f"/review/disputes/{dispute.case.id}",
        "readers": list(dispute.reads),
        "rule": str(dispute.protocol.consensus.rule),
        "structures": [{"name": s.name, "title": s.title, "value": s.value} for s in dispute.structures],
    }


def _parts(form: Mapping[str, str]) -> list[DecisionPart]:
    """What was chosen, wider parts first: the whole case, then structures, then lesions."""
    parts = []
    for name, take in form.items():
        kind, *place = name.split(".")
        if kind != _TAKE or not take or len(place) > 2 or (len(place) == 2 and not place[1].isdecimal()):
            continue
        structure = place[0] if place else None
        parts.append(DecisionPart(structure=structure, lesion=int(place[1]) if len(place) == 2 else None, take=take))
    return sorted(parts, key=lambda part: (part.structure is not None, part.lesion is not None))
