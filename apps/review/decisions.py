"""What an adjudicator decides, parsed and kept: choices, a rationale and a password in, the signed decision out."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Self

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field, model_validator

from apps.identity import Caller, Identities
from apps.review.disputes import ShownDispute, parts_of
from apps.settings import Site
from labeling_protocols.adjudications import adjudicate
from labeling_protocols.dispute_states import TakenError, taken_words
from labeling_protocols.disputes import claimable, standing_over
from labeling_protocols.store import Store

_TAKE = "take"


class Asked(BaseModel):
    """What a program or a page says, and nothing beside it."""

    model_config = ConfigDict(extra="forbid")


class DecisionPart(Asked):
    """What is taken for a structure or one of its lesions; without either, for the whole case."""

    structure: Annotated[str | None, Field(max_length=64)] = None
    lesion: Annotated[int | None, Field(ge=1, le=100_000)] = None
    take: Annotated[str, Field(max_length=16)]


class Decision(Asked):
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


def parts_of_form(form: Mapping[str, str]) -> list[DecisionPart]:
    """What was chosen on a page, wider parts first: the whole case, then structures, then lesions."""
    parts = []
    for name, take in form.items():
        kind, *place = name.split(".")
        if kind != _TAKE or not take or len(place) > 2 or (len(place) == 2 and not place[1].isdecimal()):
            continue
        structure = place[0] if place else None
        parts.append(DecisionPart(structure=structure, lesion=int(place[1]) if len(place) == 2 else None, take=take))
    return sorted(parts, key=lambda part: (part.structure is not None, part.lesion is not None))


def decide(
    store: Store, site: Site, identities: Identities, dispute: ShownDispute, caller: Caller, decision: Decision
) -> dict[str, Any]:
    """Sign and keep a decision of a caller whose password was checked; raises `DisputeError`, having kept nothing.

    `state` and `decided` tell where the dispute stands after it, and how many decided in its round.
    """
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
    after = standing_over(store, made.case) or dispute.standing
    stands = {"state": after.state, "decided": claimable(store, after, caller.account.id).decided}
    told = {"adjudication": made.id, "settles": made.settles, "basis": made.basis, "signature": made.signature}
    return {"case": made.case, **chosen, **told, **stands}


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
