"""Disputes and decisions as JSON, for the adjudicator's page and for programs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.concurrency import run_in_threadpool

from apps.identity import Caller, Identities, Means, requires
from apps.review.disputes import (
    AgreementRow,
    ShownDispute,
    edit_shown,
    find_dispute,
    focus_mm_RAS,
    held_words,
    listed,
    parts_of,
    queue_of,
    require_not_own,
)
from apps.review.signing import needs_password, require_signature
from apps.settings import Site
from labeling_protocols import disputes as acts
from labeling_protocols import edits, settlement
from labeling_protocols.adjudications import adjudicate
from labeling_protocols.dispute_states import UNSETTLED, Standing, TakenError, taken_words
from labeling_protocols.protocol_parts import ConsensusRule
from labeling_protocols.records import DisputeState, LesionAgreement, Role
from labeling_protocols.store import Store

router = APIRouter(prefix="/review")

# A reader's personal address opens his viewer, not these pages.
_MEANS = (Means.TOKEN, Means.COOKIE)
Adjudicator = Annotated[Caller, requires(Role.ADJUDICATOR, Role.ADMINISTRATOR, means=_MEANS)]
Lead = Annotated[Caller, requires(Role.ADJUDICATOR, Role.ADMINISTRATOR, Role.ENGINEER, means=_MEANS)]

_NUMBERS = (
    "structure",
    "dice",
    "iou",
    "surface_dice",
    "hd95_mm",
    "average_surface_distance_mm",
    "volume_difference_ml",
    "f1",
    "findings_a",
    "findings_b",
    "findings_matched",
)


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def _site(request: Request) -> Site:
    site: Site = request.app.state.site
    return site


def _identities(request: Request) -> Identities:
    identities: Identities = request.app.state.identities
    return identities


TheStore = Annotated[Store, Depends(_store)]
TheSite = Annotated[Site, Depends(_site)]
TheIdentities = Annotated[Identities, Depends(_identities)]


def _dispute(case: str, caller: Adjudicator, store: TheStore, site: TheSite) -> ShownDispute:
    return find_dispute(store, site.secret, case, caller.account)


TheDispute = Annotated[ShownDispute, Depends(_dispute)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DecisionPart(_Asked):
    """What is taken for a structure or one of its lesions; without either, for the whole case."""

    structure: Annotated[str | None, Field(max_length=64)] = None
    lesion: Annotated[int | None, Field(ge=1, le=100_000)] = None
    take: Annotated[str, Field(max_length=16)]


class Decision(_Asked):
    """What an adjudicator decides, why, and his password: one choice for the whole case, or parts.

    A choice is a reader's letter, a consensus rule, "edit" (his own) or "none".
    """

    choice: Annotated[str | None, Field(max_length=16)] = None
    parts: Annotated[list[DecisionPart] | None, Field(max_length=1000)] = None
    rationale: Annotated[str, Field(max_length=10_000)]
    password: Annotated[str, Field(max_length=1000, repr=False)] = ""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.choice is None) == (self.parts is None):
            raise ValueError("give either a choice or parts")
        return self

    @property
    def taken(self) -> list[tuple[str | None, int | None, str]]:
        if self.parts is None:
            return [(None, None, self.choice or "")]
        return [(part.structure, part.lesion, part.take) for part in self.parts]


class Reasoned(_Asked):
    """An act that needs a reason."""

    reason: Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")]


class Taken(_Asked):
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
    names = adjudicator_names(identities)
    return {
        "disputes": [
            listed(site.secret, known[dispute.protocol], dispute, caller.account, names) for dispute in queue.disputes
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
    request: Request, decision: Decision, dispute: TheDispute, caller: Adjudicator, store: TheStore, site: TheSite
) -> dict[str, Any]:
    """Decide on a dispute, signed with the adjudicator's password and the site's key."""
    await require_signature(request, caller, decision.password)
    return await run_in_threadpool(decide, store, site, _identities(request), dispute, caller, decision)


@router.post("/api/disputes/{case}/claim")
def claim(dispute: TheDispute, caller: Adjudicator, store: TheStore, identities: TheIdentities) -> dict[str, Any]:
    """Take a dispute, or keep it for longer."""
    with holders_named(identities):
        return _standing(acts.claim(store, dispute.case.id, caller.account.id), caller, identities)


@router.post("/api/disputes/{case}/release")
def release(dispute: TheDispute, caller: Adjudicator, store: TheStore, identities: TheIdentities) -> dict[str, Any]:
    """Give a dispute back undecided."""
    with holders_named(identities):
        return _standing(acts.release(store, dispute.case.id, caller.account.id), caller, identities)


@router.post("/api/disputes/{case}/escalate")
def escalate(
    asked: Reasoned, dispute: TheDispute, caller: Adjudicator, store: TheStore, identities: TheIdentities
) -> dict[str, Any]:
    """Hand a dispute to the group that the protocol escalates to."""
    with holders_named(identities):
        found = acts.escalate(store, dispute.case.id, caller.account.id, asked.reason)
    return _standing(found, caller, identities)


@router.post("/api/disputes/{case}/reopen")
def reopen(
    case: str, asked: Reasoned, caller: Adjudicator, store: TheStore, identities: TheIdentities
) -> dict[str, Any]:
    """Open a settled dispute again."""
    store.case(case)
    require_not_own(store, case, caller.account)
    found = acts.reopen(store, case, caller.account.id, asked.reason)
    settlement.settle(store, case)
    return _standing(acts.standing_over(store, case) or found, caller, identities)


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
    """Counts of one protocol, or the sum over all."""
    counts = [counts_of(store, name) for name in ([protocol] if protocol else [p.name for p in store.protocols()])]
    return {
        "protocol": protocol,
        **{key: sum(c[key] for c in counts) for key in ("cases", "reads", "reads_planned", "disputes", "truths")},
    }


def detail(store: Store, identities: Identities, dispute: ShownDispute, caller: Caller) -> dict[str, Any]:
    """A dispute for a page or a program, without a word on who the readers are or when they read."""
    folder = f"/review/disputes/{dispute.case.id}"
    volumes, rule = dispute.volumes_ml(), dispute.protocol.adjudication
    rules = {name: f"{folder}/consensus-{name}.nii.gz" for name in ConsensusRule}
    return {
        **_standing(dispute.standing, caller, identities),
        "protocol": dispute.protocol.name,
        "severity": dispute.verdict.severity,
        "reasons": dispute.reasons(),
        "image": f"{folder}/image.nii.gz",
        "reads": [
            {"letter": letter, "label": f"{folder}/reader-{letter}.nii.gz", "volumes_ml": volumes[letter]}
            for letter in dispute.reads
        ],
        "consensus": rules,
        "sources": dispute.sources,
        "edit": edit_shown(store, dispute, caller.account),
        "structures": [
            {"name": s.name, "title": s.title, "value": s.value, "color": s.color} for s in dispute.structures
        ],
        "agreement": [_as_json(row) for row in dispute.rows()],
        "lesions": [_lesion(lesion, dispute.letters) for lesion in dispute.verdict.lesions],
        "reliability": [asdict(structure) for structure in dispute.verdict.structures],
        "rationale_min_characters": rule.rationale_min_characters,
        "adjudicators": rule.adjudicators,
        "may_escalate": rule.escalate_to is not None and not dispute.standing.group,
        "password": needs_password(identities, caller),
        "focus_mm_RAS": focus_mm_RAS(store, dispute),
    }


def decide(
    store: Store, site: Site, identities: Identities, dispute: ShownDispute, caller: Caller, decision: Decision
) -> dict[str, Any]:
    """Sign and keep a decision of a caller whose password was checked; raises `DisputeError`, having kept nothing."""
    with holders_named(identities):
        made = adjudicate(
            store,
            case_id=dispute.case.id,
            adjudicator=caller.account.id,
            parts=parts_of(store, dispute, caller.account, decision.taken),
            rationale=decision.rationale,
            signing_key=site.signing_key,
        )
    chosen = (
        {"choice": decision.choice} if decision.parts is None else {"parts": [p.model_dump() for p in decision.parts]}
    )
    told = {"adjudication": made.id, "settles": made.settles, "basis": made.basis, "signature": made.signature}
    return {"case": made.case, **chosen, **told}


def begin_edit(store: Store, dispute: ShownDispute, caller: Caller, take: str) -> None:
    """Begin an edit from a source as the adjudicator names it."""
    edits.begin_edit(store, dispute.case.id, caller.account.id, dispute.source(take, None))


def adjudicator_names(identities: Identities) -> dict[str, str]:
    """Everybody's name by account id, to say who has a dispute; never to be looked up for a reader's id."""
    return {account.id: account.name for account in identities.accounts.all()}


@contextmanager
def holders_named(identities: Identities) -> Iterator[None]:
    """Tell an adjudicator by name who has the dispute that he cannot have."""
    try:
        yield
    except TakenError as error:
        holder = identities.accounts.get(error.holder)
        words = taken_words(holder.name if holder is not None else "another adjudicator", error.since)
        raise HTTPException(409, words) from error


def counts_of(store: Store, protocol_name: str) -> dict[str, int]:
    """How far a protocol is; disputes and truths are counted as they are, not as they were last judged."""
    protocol = store.protocol(protocol_name)
    settlement.judge(store, protocol.name)
    kept = store.progress(protocol.name)
    return {
        "cases": kept.cases,
        "reads": kept.reads,
        "reads_planned": kept.cases * protocol.readers_per_case,
        "disputes": kept.disputes,
        "truths": kept.truths,
    }


def _standing(standing: Standing, caller: Caller, identities: Identities) -> dict[str, Any]:
    return {
        "case": standing.case,
        "state": standing.state,
        "round": standing.round,
        "group": standing.group or None,
        **held_words(standing, caller.account, adjudicator_names(identities)),
    }


def _as_json(row: AgreementRow) -> dict[str, Any]:
    """A pair's numbers, and the protocol's limits under their own names."""
    numbers = {name: getattr(row.agreement, name) for name in _NUMBERS}
    return {"title": row.title, "pair": row.pair, **numbers, **asdict(row.limits), "within": row.within}


def _lesion(lesion: LesionAgreement, letters: dict[str, str]) -> dict[str, Any]:
    x, y, z = lesion.centre_mm_LPS
    return {
        "structure": lesion.structure,
        "number": lesion.number,
        "kind": lesion.kind,
        "centre_mm_RAS": (-x, -y, z),
        "found_by": sorted(letters[reader] for reader in lesion.found_by if reader in letters),
        "volumes_ml": {
            letters[r]: volume
            for r, volume in sorted(lesion.volumes_ml.items(), key=lambda item: letters.get(item[0], ""))
            if r in letters
        },
        "dice_min": lesion.dice_min,
    }
