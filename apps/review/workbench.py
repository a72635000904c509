"""What an adjudicator sees of a dispute: where it stands and what was filled in, in; the page to decide it on out.

Whoever cannot decide it gets a notice of who has it, or of whose it is, instead.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from apps.identity import Caller
from apps.review.dispute_view import structures_shown
from apps.review.disputes import EDIT, NONE, ShownDispute, edit_shown
from apps.review.frame import page, sentence_of
from apps.review.queue_pages import HOW, clock, name_of
from apps.review.signing import needs_password
from labeling_protocols import edits
from labeling_protocols.dispute_states import LEASE, Standing
from labeling_protocols.disputes import claimable, escalated_because
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import ConsensusRule
from labeling_protocols.records import Case, Edit
from labeling_protocols.store import Store, now

_RULES = {
    ConsensusRule.MAJORITY: "Majority",
    ConsensusRule.INTERSECTION: "Intersection",
    ConsensusRule.UNION: "Union",
    ConsensusRule.STAPLE: "STAPLE",
}
_WINDOWS_CT = {"soft": "Soft tissue", "lung": "Lung", "bone": "Bone", "brain": "Brain", "auto": "Auto"}
_WINDOWS = {"auto": "Auto", "full": "Full range"}
# Body parts (SNOMED CT, DICOM PS3.16 CID 4) whose CT is not looked at in the soft-tissue window first.
_FIRST_WINDOW = {
    "816094009": "lung",  # thorax
    "39607008": "lung",
    "86598002": "lung",  # its apex
    "12738006": "brain",
    "69536005": "brain",  # head
}


def workbench(
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
        chosen=filled,
        opened={name.split(".")[1] for name, value in filled.items() if name.count(".") == 2 and value},
        windows=windows_of(dispute.case, dispute.protocol),
        rationale=filled.get("rationale", ""),
        has_password=needs_password(request.app.state.identities, caller),
        problem=problem,
        settled=settled,
        settled_how=HOW.get(how, ""),
        shown=_shown(dispute),
        edit_problem="",
        **_rules_values(store, dispute, held, caller),
        **_edit_values(store, dispute, caller, edit),
    )


def notice(
    request: Request,
    caller: Caller,
    store: Store,
    case: str,
    held: Standing | None,
    *,
    problem: str = "",
    status: int = 200,
) -> Response:
    """Who has a dispute, whose it is, or that nobody has it; nothing that could be decided."""
    someone = held.holder if held is not None and held.held_at(now()) else None
    refusal = claimable(store, held, caller.account.id).refusal if held is not None else ""
    return page(
        request,
        "dispute_notice.html",
        caller,
        status=status,
        case=case,
        held_by=name_of(request, someone) if someone else "",
        held_since=clock(held.held_since) if held else "",
        held_until=clock(held.held_until) if held else "",
        refusal=sentence_of(refusal),
        escalated_because=escalated_because(store, held) if held is not None else "",
        may_claim=held is not None and not refusal and not problem,
        problem=problem,
    )


def edit_panel(
    request: Request, caller: Caller, store: Store, dispute: ShownDispute, edit: Edit | None, *, problem: str = ""
) -> Response:
    """What the page says of an adjudicator's edit: how to begin one, that it waits in his viewer, that it came."""
    return page(
        request,
        "edit_panel.html",
        caller,
        status=409 if problem else 200,
        dispute=dispute,
        edit_problem=problem,
        **_edit_values(store, dispute, caller, edit),
    )


def windows_of(case: Case, protocol: Protocol) -> list[tuple[str, str]]:
    """The grey-value windows a case can be looked at in, by name and title; the first is the one it opens in."""
    titles = _WINDOWS_CT if case.modality == "CT" else _WINDOWS
    code = protocol.body_part
    first = _FIRST_WINDOW.get(code.value) if code.scheme == "SCT" else None
    return sorted(titles.items(), key=lambda window: window[0] != first)


def _rules_values(store: Store, dispute: ShownDispute, held: Standing, caller: Caller) -> dict[str, Any]:
    """What the protocol asks of a decision, what there is of it, and for how long the dispute is the caller's."""
    rule = dispute.protocol.adjudication
    return {
        "rationale_min": rule.rationale_min_characters,
        "adjudicators": 1 if held.group else rule.adjudicators,
        "decided": claimable(store, held, caller.account.id).decided,
        "escalate_to": rule.escalate_to if not held.group else None,
        "escalated_to": held.group,
        "escalated_because": escalated_because(store, held),
        "held_since": clock(held.held_since),
        "held_until": clock(held.held_until),
        "left_s": _seconds_until(held.held_until),
        "lease_s": round(LEASE.total_seconds()),
    }


def _seconds_until(moment: datetime | None) -> int:
    return max(0, round((moment - now()).total_seconds())) if moment is not None else 0


def _edit_values(store: Store, dispute: ShownDispute, caller: Caller, edit: Edit | None) -> dict[str, Any]:
    shown, offered = edit_shown(store, dispute, caller.account), _offered(dispute, edit)
    return {
        "edit": edit,
        "edit_saved": edit is not None and edits.is_saved(edit),
        "edit_source": shown["source"] if shown else "",
        "edit_base": dict(offered).get(shown["source"], "nothing drawn") if shown else "",
        "offered": offered,
    }


def _offered(dispute: ShownDispute, edit: Edit | None) -> list[tuple[str, str]]:
    """What an outline can be taken from, with its title; an edit is offered before it has come, and hidden."""
    readers = [(letter, f"Reader {letter}") for letter in dispute.reads]
    revision = f"My edit, revision {edit.revision}" if edit is not None and edits.is_saved(edit) else "My edit"
    return [*readers, *((str(rule), title) for rule, title in _RULES.items()), (EDIT, revision), (NONE, "None of it")]


def _shown(dispute: ShownDispute) -> dict[str, Any]:
    """What the page's script is told."""
    return {
        "folder": f"/review/disputes/{dispute.case.id}",
        "readers": list(dispute.reads),
        "rule": str(dispute.protocol.consensus.rule),
        "structures": [{"name": s.name, "title": s.title, "value": s.value} for s in dispute.structures],
    }
