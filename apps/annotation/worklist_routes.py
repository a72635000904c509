"""`/activelearning/` and `/worklist/`: a reader's next case, own work, and cases given back."""

from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field

from apps.annotation.calling import calling
from apps.annotation.dependencies import Drawer, Overread, Reader
from apps.reasons import reason_of
from labeling_protocols import worklist
from labeling_protocols.case_scores import offers
from labeling_protocols.records import SeatState
from labeling_protocols.store import UnknownError

router = APIRouter()


class Skip(BaseModel):
    """Why a reader gives a case back."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\x00]*$")]


@router.post("/activelearning/{strategy}")
def next_sample(
    strategy: str, caller: Drawer, overread: Overread, params: Annotated[dict[str, Any] | None, Body()] = None
) -> dict[str, Any]:
    """The caller's next case and `why` he gets it, or `{}` when nothing is left: viewers show their own words for that.

    An adjudicator's is the case he edits for a decision; one who is no reader has no other.
    """
    task = overread.strategy(strategy)
    if task is None:
        raise UnknownError(f"unknown strategy; expected {', '.join(overread.info()['strategies'])}")
    with calling(caller.account):
        chosen = task({**(params or {}), "strategy": strategy}, overread.reads)
        return {**chosen, **overread.reads.get_image_info(chosen["id"])} if chosen else {}


@router.get("/worklist/")
def own_work(caller: Reader, overread: Overread) -> dict[str, Any]:
    """What the caller reads and has read, by protocol: cases held unread first, then the newest saves.

    `why` is the sentence that goes with a case he holds, empty where there is none.
    """
    store, reader = overread.store, caller.account.id
    told = []
    for protocol in store.protocols():
        progress = store.progress(protocol.name)
        own = worklist.own_work(store, protocol.name, reader)
        given = offers(store, reader, (one.case for one in own if one.state is SeatState.CLAIMED))
        work = [
            {
                "case": one.case,
                "state": one.state.value,
                "revision": one.revision,
                "saved": one.saved.isoformat() if one.saved else None,
                "seconds": one.seconds,
                "yours_until": one.lease_until.isoformat() if one.lease_until else None,
                "why": reason_of(protocol, given.get(one.case)),
            }
            for one in own
        ]
        told.append(
            {
                "protocol": protocol.name,
                "title": protocol.title,
                "cases": progress.cases + progress.calibration_cases,
                "read": progress.by_reader.get(reader, 0),
                "work": work,
            }
        )
    return {"protocols": told}


@router.post("/worklist/skip")
def skip(case: str, said: Skip, caller: Reader, overread: Overread) -> dict[str, Any]:
    """Give an unread case back, with a reason; it is not offered to the caller again."""
    worklist.skip(overread.store, case, caller.account.id, said.reason)
    return {"case": case}
