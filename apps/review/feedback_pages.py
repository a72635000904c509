"""A reader's feedback: own reads beside the truth, once the protocol has unblinded a case, and nothing before that.

What is not unblinded, is somebody else's, or is no case at all is answered alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from apps.review.access import TheSite, TheStore
from apps.review.chart_frame import few
from apps.review.frame import page
from apps.review.overlays import slices_of_difference, slices_picture
from apps.review.work_pages import Reader
from labeling_protocols.blinding import OwnLifted, own_lifted
from labeling_protocols.comparisons import Comparison, comparisons
from labeling_protocols.feedback import Feedback, feedback
from labeling_protocols.protocol import Protocol
from labeling_protocols.pseudonyms import keyed_order
from labeling_protocols.reading_figures import ScoreSummary, scores_against_truth, summaries
from labeling_protocols.records import Account, PairAgreement
from labeling_protocols.store import Store, UnknownError

router = APIRouter(prefix="/work/feedback")

_PAGE = 50
_COMPARED_AT_ONCE = 8  # reads: each may take half a second


@dataclass(frozen=True, kw_only=True)
class OwnFeedback:
    """A reader's unblinded cases under one protocol, newest read first.

    `compared` goes by case; cases that are `waiting` are not in it yet. `before` goes on with older ones, where there
    are any.
    """

    protocol: Protocol
    cases: Sequence[OwnLifted]
    compared: dict[str, Comparison]
    summaries: Sequence[ScoreSummary]
    waiting: int
    before: int | None


@dataclass(frozen=True, kw_only=True)
class StructureRow:
    """One structure of the reader's read beside the truth; volumes in ml, None where it is not outlined."""

    title: str
    pair: PairAgreement
    mine_ml: float | None
    truth_ml: float | None

    @property
    def words(self) -> str:
        """What the numbers do not say."""
        if not self.pair.missed:
            return ""
        return "you left it out" if not self.mine_ml else "not in the truth"


@router.get("")
def own_feedback(
    request: Request,
    caller: Reader,
    store: TheStore,
    protocol: Annotated[str, Query(max_length=64, pattern=r"^[a-z0-9_]*$")] = "",
    before: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
) -> Response:
    """Every case of the caller's that is unblinded, fifty at a time."""
    protocols = [store.protocol(protocol)] if protocol else store.protocols()
    groups = [_own(store, one, caller.account, before) for one in protocols]
    return page(request, "feedback.html", caller, groups=[group for group in groups if group.cases], few=few)


@router.get("/{case}")
def case_feedback(request: Request, case: str, caller: Reader, store: TheStore, site: TheSite) -> Response:
    """One case: the caller's read beside the truth."""
    found = _unblinded(store, caller.account, case)
    letters = dict(zip(keyed_order(site.secret, found.case.id, found.decided_over), ascii_uppercase, strict=False))
    return page(
        request,
        "feedback_case.html",
        caller,
        found=found,
        rows=_rows(found),
        letter=letters.get(caller.account.id, ""),
        slices=slices_of_difference(found.protocol, found.mine, found.truth),
        same=all(pair.dice in (None, 1.0) and pair.f1 in (None, 1.0) for pair in found.pairs),
    )


@router.get("/{case}/slices.png")
def case_slices(case: str, caller: Reader, store: TheStore) -> Response:
    """The three slices that differ most, the caller's outline and the truth's drawn into the image."""
    found = _unblinded(store, caller.account, case)
    content = slices_picture(found.protocol, store.image(found.case), found.mine, found.truth)
    return Response(content, media_type="image/png", headers={"Cache-Control": "private, no-store"})


def _unblinded(store: Store, account: Account, case: str) -> Feedback:
    found = feedback(store, account.id, case)
    if found is None:
        raise UnknownError("there is no feedback on such a case")
    return found


def _own(store: Store, protocol: Protocol, account: Account, before: int | None) -> OwnFeedback:
    cases = own_lifted(store, protocol.name, account.id, limit=_PAGE + 1, before=before)
    shown = cases[:_PAGE]
    ids = [one.case for one in shown]
    found = comparisons(store, protocol.name, cases=ids, reader=account.id, at_most=_COMPARED_AT_ONCE)
    return OwnFeedback(
        protocol=protocol,
        cases=shown,
        compared={one.of.case: one for one in found.found},
        summaries=summaries(scores_against_truth(found.found)),
        waiting=found.waiting,
        before=shown[-1].read if len(cases) > _PAGE else None,
    )


def _rows(found: Feedback) -> list[StructureRow]:
    rows = []
    for pair in found.pairs:
        structure = found.protocol.structure(pair.structure)
        voxel_ml = found.case.geometry.voxel_ml
        outlined = pair.dice is not None
        mine, truth = (int((label.layers_LZYX == structure.value).sum()) for label in (found.mine, found.truth))
        rows.append(
            StructureRow(
                title=structure.title,
                pair=pair,
                mine_ml=mine * voxel_ml if outlined else None,
                truth_ml=truth * voxel_ml if outlined else None,
            )
        )
    return rows
