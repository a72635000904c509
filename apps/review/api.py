"""Disputes and decisions as JSON and volume files, for the adjudicator's page and for programs."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from apps.identity import Caller, Means, requires
from apps.review.disputes import (
    MAJORITY,
    AgreementRow,
    ShownDispute,
    find_dispute,
    focus_mm_RAS,
    majority_of,
    open_disputes,
)
from apps.settings import Site
from labeling_protocols import settlement
from labeling_protocols.records import Role
from labeling_protocols.store import Store, UnknownError
from labeling_protocols.volumes import volume_bytes

router = APIRouter(prefix="/review")

# A reader's personal address opens his viewer, not these pages.
_MEANS = (Means.TOKEN, Means.COOKIE)
Adjudicator = Annotated[Caller, requires(Role.ADJUDICATOR, Role.ADMINISTRATOR, means=_MEANS)]
Lead = Annotated[Caller, requires(Role.ADJUDICATOR, Role.ADMINISTRATOR, Role.ENGINEER, means=_MEANS)]

_FILE = {"Cache-Control": "private, no-store"}


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def _site(request: Request) -> Site:
    site: Site = request.app.state.site
    return site


TheStore = Annotated[Store, Depends(_store)]
TheSite = Annotated[Site, Depends(_site)]


def _dispute(case: str, caller: Adjudicator, store: TheStore, site: TheSite) -> ShownDispute:
    return find_dispute(store, site.secret, case, caller.account)


TheDispute = Annotated[ShownDispute, Depends(_dispute)]


class Decision(BaseModel):
    """What an adjudicator decides: a reader's letter, or 'majority', and why."""

    model_config = ConfigDict(extra="forbid")

    choice: Annotated[str, Field(max_length=16)]
    rationale: Annotated[str, Field(max_length=10_000)]


@router.get("/api/disputes")
def disputes(caller: Adjudicator, store: TheStore, protocol: str | None = None) -> dict[str, Any]:
    """The open disputes, worst first."""
    names = [store.protocol(protocol).name] if protocol else [known.name for known in store.protocols()]
    listed, hidden = [], 0
    for name in names:
        found, mine = open_disputes(store, name, caller.account)
        listed += found
        hidden += mine
    listed.sort(key=lambda dispute: (-dispute.verdict.severity, dispute.case))
    return {
        "disputes": [
            {
                "case": dispute.case,
                "protocol": dispute.protocol,
                "severity": dispute.verdict.severity,
                "reasons": dispute.verdict.reasons,
            }
            for dispute in listed
        ],
        "kept_from_you": hidden,
    }


@router.get("/api/disputes/{case}")
def dispute_detail(dispute: TheDispute, caller: Adjudicator, store: TheStore) -> dict[str, Any]:
    """All that the page shows: addresses of the image and of each read, agreement, and where to look first."""
    return detail(store, dispute)


@router.post("/api/disputes/{case}")
def settle(
    decision: Decision, dispute: TheDispute, caller: Adjudicator, store: TheStore, site: TheSite
) -> dict[str, Any]:
    """Settle a dispute by a decision signed with the site's key."""
    return decide(store, site, dispute, caller, decision)


@router.get("/api/progress")
def progress(caller: Lead, store: TheStore, protocol: str | None = None) -> dict[str, Any]:
    """Counts of one protocol, or the sum over all."""
    counts = [counts_of(store, name) for name in ([protocol] if protocol else [p.name for p in store.protocols()])]
    return {
        "protocol": protocol,
        **{key: sum(c[key] for c in counts) for key in ("cases", "reads", "reads_planned", "disputes", "truths")},
    }


@router.get("/disputes/{case}/image.nii.gz")
def image_file(dispute: TheDispute, caller: Adjudicator, store: TheStore) -> Response:
    return FileResponse(store.image_path(dispute.case), media_type="application/gzip", headers=_FILE)


@router.get("/disputes/{case}/reader-{letter}.nii.gz")
def reader_file(letter: str, dispute: TheDispute, caller: Adjudicator, store: TheStore) -> Response:
    if letter not in dispute.reads:
        raise UnknownError(f"no such reader; this case has {', '.join(dispute.reads)}")
    label = store.label(dispute.reads[letter].label).volume()
    return Response(volume_bytes(label, ".nii.gz"), media_type="application/gzip", headers=_FILE)


@router.get("/disputes/{case}/majority.nii.gz")
def majority_file(dispute: TheDispute, caller: Adjudicator, store: TheStore) -> Response:
    content = volume_bytes(majority_of(store, dispute), ".nii.gz")
    return Response(content, media_type="application/gzip", headers=_FILE)


def detail(store: Store, dispute: ShownDispute) -> dict[str, Any]:
    """A dispute for a page or a program, without a word on who the readers are or when they read."""
    folder = f"/review/disputes/{dispute.case.id}"
    volumes = dispute.volumes_ml()
    return {
        "case": dispute.case.id,
        "protocol": dispute.protocol.name,
        "severity": dispute.verdict.severity,
        "reasons": dispute.verdict.reasons,
        "image": f"{folder}/image.nii.gz",
        "reads": [
            {"letter": letter, "label": f"{folder}/reader-{letter}.nii.gz", "volumes_ml": volumes[letter]}
            for letter in dispute.reads
        ],
        "majority": f"{folder}/{MAJORITY}.nii.gz",
        "structures": [
            {"name": s.name, "title": s.title, "value": s.value, "color": s.color} for s in dispute.structures
        ],
        "agreement": [_as_json(row) for row in dispute.rows()],
        "focus_mm_RAS": focus_mm_RAS(store, dispute),
    }


def decide(store: Store, site: Site, dispute: ShownDispute, caller: Caller, decision: Decision) -> dict[str, Any]:
    """Sign and keep a decision; raises `AdjudicationError`, having kept nothing."""
    made = settlement.adjudicate(
        store,
        case_id=dispute.case.id,
        adjudicator=caller.account.id,
        choice=dispute.reader(decision.choice),
        rationale=decision.rationale,
        signing_key=site.signing_key,
    )
    return {"case": made.case, "choice": decision.choice, "adjudication": made.id, "signature": made.signature}


def counts_of(store: Store, protocol_name: str) -> dict[str, int]:
    """How far a protocol is; disputes and truths are counted as they are, not as they were last judged."""
    protocol = store.protocol(protocol_name)
    kept = store.progress(protocol.name)
    return {
        "cases": kept.cases,
        "reads": kept.reads,
        "reads_planned": kept.cases * protocol.readers_per_case,
        "disputes": len(settlement.disputes(store, protocol.name)),
        "truths": len(settlement.truths(store, protocol.name)),
    }


def _as_json(row: AgreementRow) -> dict[str, Any]:
    return {
        "structure": row.structure,
        "title": row.title,
        "pair": row.pair,
        "dice": row.dice,
        "hd95_mm": row.hd95_mm,
        "dice_min": row.dice_min,
        "hd95_mm_max": row.hd95_mm_max,
        "within": row.within,
    }
