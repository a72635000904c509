"""Disputes and decisions as JSON, for the adjudicator's page and for programs."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from apps.identity import Caller
from apps.review.access import Adjudicator, Lead, TheDispute, TheIdentities, TheSite, TheStore
from apps.review.decisions import Asked, Decision, adjudicator_names, decide, holders_named
from apps.review.dispute_json import detail, standing_told
from apps.review.disputes import ShownDispute, edit_shown, listed, queue_of, require_not_own
from apps.review.frame import may_see_figures
from apps.review.signing import require_signature
from labeling_protocols import disputes as acts
from labeling_protocols import edits, reading_rows, settlement
from labeling_protocols.dispute_states import UNSETTLED
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import DisputeState
from labeling_protocols.store import Store

router = APIRouter(prefix="/review")


class Reasoned(Asked):
    """An act that needs a reason."""

    reason: Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")]


class Taken(Asked):
    """What an edit begins from: a reader's letter, a consensus rule, or "none"."""

    take: Annotated[str, Field(max_length=16)]


@router.get("/api/disputes")
def disputes(
    caller: Adjudicator,
    store: TheStore,
    site: TheSite,
    identities: TheIdentities,
    protocol: str | None = None,
    state: DisputeState | None = None,
) -> dict[str, Any]:
    """The disputes that nobody settled, or those of one state, worst first."""
    known = {one.name: one for one in ([store.protocol(protocol)] if protocol else store.protocols())}
    queue = queue_of(store, list(known), caller.account, UNSETTLED if state is None else (state,))
    names, taking = adjudicator_names(identities), acts.claimables(store, queue.disputes, caller.account.id)
    return {
        "disputes": [
            listed(site.secret, known[one.protocol], one, caller.account, names, taking[one.case])
            for one in queue.disputes
        ],
        "kept_from_you": queue.kept_from_you,
        "counts": settlement.counts(store, known),
    }


@router.get("/api/disputes/{case}")
def dispute_detail(
    dispute: TheDispute, caller: Adjudicator, store: TheStore, identities: TheIdentities
) -> dict[str, Any]:
    """All that the page shows: addresses of the image and of each read, agreement, and where to look first."""
    return detail(store, identities, dispute, caller)


@router.post("/api/disputes/{case}")
async def settle(
    request: Request,
    decision: Decision,
    dispute: TheDispute,
    caller: Adjudicator,
    store: TheStore,
    site: TheSite,
    identities: TheIdentities,
) -> dict[str, Any]:
    """Decide on a dispute, signed with the adjudicator's password and the site's key."""
    await require_signature(request, caller, decision.password)
    return await run_in_threadpool(decide, store, site, identities, dispute, caller, decision)


@router.post("/api/disputes/{case}/claim")
def claim(dispute: TheDispute, caller: Adjudicator, store: TheStore, identities: TheIdentities) -> dict[str, Any]:
    """Take a dispute, or keep it for longer."""
    with holders_named(identities):
        return standing_told(acts.claim(store, dispute.case.id, caller.account.id), caller, identities)


@router.post("/api/disputes/{case}/release")
def release(dispute: TheDispute, caller: Adjudicator, store: TheStore, identities: TheIdentities) -> dict[str, Any]:
    """Give a dispute back undecided."""
    with holders_named(identities):
        return standing_told(acts.release(store, dispute.case.id, caller.account.id), caller, identities)


@router.post("/api/disputes/{case}/escalate")
def escalate(
    asked: Reasoned, dispute: TheDispute, caller: Adjudicator, store: TheStore, identities: TheIdentities
) -> dict[str, Any]:
    """Hand a dispute to the group that the protocol escalates to."""
    with holders_named(identities):
        found = acts.escalate(store, dispute.case.id, caller.account.id, asked.reason)
    return standing_told(found, caller, identities)


@router.post("/api/disputes/{case}/reopen")
def reopen(
    case: str, asked: Reasoned, caller: Adjudicator, store: TheStore, identities: TheIdentities
) -> dict[str, Any]:
    """Open a settled dispute again."""
    store.case(case)
    require_not_own(store, case, caller.account)
    found = acts.reopen(store, case, caller.account.id, asked.reason)
    settlement.settle(store, case)
    return standing_told(acts.standing_over(store, case) or found, caller, identities)


@router.post("/api/disputes/{case}/edit")
def edit(
    asked: Taken, dispute: TheDispute, caller: Adjudicator, store: TheStore, identities: TheIdentities
) -> dict[str, Any]:
    """Begin an edit, which claims the dispute: the case comes to the adjudicator's own viewer."""
    with holders_named(identities):
        begin_edit(store, dispute, caller, asked.take)
    return {"case": dispute.case.id, "edit": edit_shown(store, dispute, caller.account)}


@router.get("/api/progress")
def progress(caller: Lead, store: TheStore, protocol: str | None = None) -> dict[str, Any]:
    """Counts of one protocol, or the sums over all; `disputes` and `truths` are null for who reads cases himself."""
    asked = [store.protocol(protocol)] if protocol else store.protocols()
    counts = [_counts(store, one) for one in asked]
    came_of = [_became(store, one) for one in asked] if may_see_figures(caller) else []
    told = {name: sum(one[name] for one in counts) for name in ("cases", "reads", "reads_planned")}
    became = {name: sum(one[name] for one in came_of) if came_of else None for name in ("disputes", "truths")}
    return {"protocol": protocol, **told, **became}


def begin_edit(store: Store, dispute: ShownDispute, caller: Caller, take: str) -> None:
    """Begin an edit from a source as the adjudicator names it."""
    edits.begin_edit(store, dispute.case.id, caller.account.id, dispute.source(take, None))


def _counts(store: Store, protocol: Protocol) -> dict[str, int]:
    """How far the reading is, of calibration cases aside; it takes as long whatever the reads say."""
    cases = store.progress(protocol.name).cases
    reads = sum(source.reads for source in reading_rows.by_source(store, protocol.name))
    return {"cases": cases, "reads": reads, "reads_planned": cases * protocol.readers_per_case}


def _became(store: Store, protocol: Protocol) -> dict[str, int]:
    """What came of the reads, as it is and not as it was last judged."""
    settlement.judge(store, protocol.name)
    kept = store.progress(protocol.name)
    return {"disputes": kept.disputes, "truths": kept.truths}
