"""A dispute as JSON, for the adjudicator's page and for programs: what he may see of it in, numbers and addresses out.

No word of it tells who the readers are or when they read.
"""

from dataclasses import asdict
from typing import Any
from urllib.parse import urlencode

from apps.identity import Caller, Identities
from apps.review.decisions import adjudicator_names
from apps.review.disputes import AgreementRow, ShownDispute, edit_shown, held_words
from apps.review.focus import focus_mm_RAS
from apps.review.signing import needs_password
from labeling_protocols.dispute_states import Standing
from labeling_protocols.disputes import claimable, escalated_because
from labeling_protocols.protocol_parts import ConsensusRule
from labeling_protocols.records import LesionAgreement
from labeling_protocols.store import Store

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


def detail(store: Store, identities: Identities, dispute: ShownDispute, caller: Caller) -> dict[str, Any]:
    """All that the page shows: addresses of the image and of each read, agreement, and where to look first."""
    folder = f"/review/disputes/{dispute.case.id}"
    volumes, rule = dispute.volumes_ml(), dispute.protocol.adjudication
    rules = {name: f"{folder}/consensus-{name}.nii.gz" for name in ConsensusRule}
    taking = claimable(store, dispute.standing, caller.account.id)
    return {
        **standing_told(dispute.standing, caller, identities),
        "protocol": dispute.protocol.name,
        "severity": dispute.verdict.severity,
        "reasons": dispute.reasons(),
        "image": f"{folder}/image.nii.gz",
        "channels": {name: f"{folder}/image.nii.gz?{urlencode({'channel': name})}" for name in dispute.channels},
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
        "adjudicators": 1 if dispute.standing.group else rule.adjudicators,
        "decided": taking.decided,
        "not_yours": taking.refusal or None,
        "escalated_because": escalated_because(store, dispute.standing) or None,
        "may_escalate": rule.escalate_to is not None and not dispute.standing.group,
        "password": needs_password(identities, caller),
        "focus_mm_RAS": focus_mm_RAS(store, dispute),
    }


def standing_told(standing: Standing, caller: Caller, identities: Identities) -> dict[str, Any]:
    """Where a dispute stands, and who has it."""
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
