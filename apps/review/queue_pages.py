"""The queue of disputes: what stands how, worst first, who has what, and which one an adjudicator gets next."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from apps.identity import Caller, Identities
from apps.review.access import Adjudicator, TheSite, TheStore
from apps.review.disputes import listed, queue_of
from apps.review.frame import page
from apps.settings import Site
from labeling_protocols import disputes, settlement
from labeling_protocols.dispute_states import UNSETTLED, DisputeError
from labeling_protocols.disputes import Claimable
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Dispute, DisputeState
from labeling_protocols.store import Store, now

router = APIRouter(prefix="/review")

_SHOWN = 200
HOW = {
    "settled": "is settled and signed.",
    "decided": "is signed by you. It is settled once another adjudicator decides the same.",
    "differs": "is signed by you. The decisions so far differ: another adjudicator decides next.",
    "differs-escalated": "is signed by you. The two decisions differ, so it is escalated.",
    "escalated": "is escalated.",
    "released": "is given back undecided.",
    "reopened": "is open again.",
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the queue is filtered by; empty for everything that is to be settled."""

    protocol: str = ""
    state: str = ""
    structure: str = ""


@router.get("", include_in_schema=False)
def without_slash(caller: Adjudicator) -> Response:
    return RedirectResponse("/review/", status_code=303)


@router.get("/")
def queue(
    request: Request,
    caller: Adjudicator,
    store: TheStore,
    site: TheSite,
    protocol: Annotated[str, Query(max_length=64)] = "",
    state: Annotated[str, Query(max_length=16)] = "",
    structure: Annotated[str, Query(max_length=64)] = "",
    settled: str = "",
    how: str = "settled",
) -> Response:
    """The disputes of every protocol, worst first, or those asked for."""
    wanted = Wanted(protocol=protocol, state=state, structure=structure)
    return queue_page(request, caller, store, site, wanted, settled=settled, how=how)


def queue_page(
    request: Request,
    caller: Caller,
    store: Store,
    site: Site,
    wanted: Wanted,
    *,
    settled: str = "",
    how: str = "settled",
    problem: str = "",
) -> Response:
    protocols = store.protocols()
    asked = {one.name: one for one in protocols if wanted.protocol in ("", one.name)}
    found = queue_of(store, list(asked), caller.account, _states(wanted.state))
    taking = disputes.claimables(store, found.disputes, caller.account.id)
    rows = [_row(request, site, asked[one.protocol], caller, one, taking[one.case]) for one in found.disputes]
    rows = [row for row in rows if wanted.structure in ("", *row["structures"])]
    counts = settlement.counts(store, list(asked))
    return page(
        request,
        "queue.html",
        caller,
        status=409 if problem else 200,
        rows=rows[:_SHOWN],
        more=max(0, len(rows) - _SHOWN),
        kept=found.kept_from_you,
        counts={str(state): count for state, count in counts.items()},
        states=[str(state) for state in DisputeState],
        protocols=protocols,
        structures=sorted({(s.name, s.title) for one in asked.values() for s in one.structures}),
        wanted=wanted,
        settled=settled,
        settled_how=HOW.get(how, ""),
        problem=problem,
    )


def claim_next(store: Store, caller: Caller) -> str | None:
    """Give the caller the worst dispute that nobody else has: its case, or None where there is none left."""
    at = now()
    for dispute in queue_of(store, [protocol.name for protocol in store.protocols()], caller.account).disputes:
        if dispute.holder not in (None, caller.account.id) and dispute.held_until and dispute.held_until > at:
            continue
        try:
            disputes.claim(store, dispute.case, caller.account.id)
        except DisputeError:  # another group's, or somebody was faster
            continue
        return dispute.case
    return None


def how_of(made: Mapping[str, Any]) -> str:
    """Which of `HOW` tells what became of a dispute by a decision, as `decide` tells of it."""
    if made["settles"]:
        return "settled"
    if made["state"] == DisputeState.ESCALATED:
        return "differs-escalated"
    return "decided" if made["decided"] == 1 else "differs"


def name_of(request: Request, account_id: str) -> str:
    """What an adjudicator is called; never asked for a reader."""
    identities: Identities = request.app.state.identities
    account = identities.accounts.get(account_id)
    return account.name if account else "somebody"


def clock(moment: datetime | None) -> str:
    """A time of today, or a day and a time, in words."""
    if moment is None:
        return ""
    today = moment.date() == now().date()
    return f"{moment:%H:%M} UTC" if today else f"{moment:%d %b %H:%M} UTC"


def _states(wanted: str) -> tuple[DisputeState, ...]:
    return (DisputeState(wanted),) if wanted in list(DisputeState) else tuple(UNSETTLED)


def _row(
    request: Request, site: Site, protocol: Protocol, caller: Caller, dispute: Dispute, taking: Claimable
) -> dict[str, Any]:
    """A dispute's line, as programs get it, with its protocol's title and times that people read."""
    held = dispute.holder is not None and dispute.held_until is not None and dispute.held_until > now()
    names = {dispute.holder: name_of(request, dispute.holder)} if held and dispute.holder else {}
    return {
        **listed(site.secret, protocol, dispute, caller.account, names, taking),
        "title": protocol.title,
        "percent": round(100 * dispute.verdict.severity),
        "since": clock(dispute.held_since) if held else "",
        "settled": dispute.state is DisputeState.SETTLED,
    }
