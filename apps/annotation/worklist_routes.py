"""`/activelearning/` and `/worklist/`: a reader's next case, own work, and cases given back."""

from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field

from apps.annotation.calling import calling
from apps.annotation.dependencies import Drawer, Overread, Reader
from labeling_protocols import worklist
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
    """The caller's next case, or `{}` when nothing is left: viewers show their own words for that.

    An adjudicator's is the case he edits for a decision; one who is no reader has no other.
    """
    task = overread.strategy(strategy)
    if task is None:
        raise UnknownError("unknown strategy; expected worklist")
    with calling(caller.account):
        chosen = task({**(params or {}), "strategy": strategy}, overread.reads)
        return {**chosen, **overread.reads.get_image_info(chosen["id"])} if chosen else {}


@router.get("/worklist/")
def own_work(caller: Reader, overread: Overread) -> dict[str, Any]:
    """What the caller reads and has read, by protocol: cases held unread first, then the newest saves."""
    store, reader = overread.store, caller.account.id
    told = []
    for protocol in store.protocols():
        progress = store.progress(protocol.name)
        work = [
            {
                "case": one.case,
                "state": one.state.value,
                "revision": one.revision,
                "saved": one.saved.isoformat() if one.saved else None,
                "seconds": one.seconds,
                "yours_until": one.lease_until.isoformat() if one.lease_until else None,
            }
            for one in worklist.own_work(store, protocol.name, reader)
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
