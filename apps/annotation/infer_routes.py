"""`/infer/` and `/session/`: a case, an uploaded file or an uploaded session in, the champion's proposal out."""

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from apps.annotation.dependencies import Overread, TheQueue, TheSessions, Worker
from apps.annotation.infer import Proposal
from apps.annotation.sessions import Session
from apps.annotation.wire import infer_answer, params_of, result_suffix, uploaded
from labeling_protocols.store import LabelError, UnknownError
from labeling_protocols.volumes import read_volume_bytes, suffix_of

router = APIRouter()


class InferOutput(StrEnum):
    """What `/infer/` answers: the label, what is said about it, or both."""

    IMAGE = "image"
    JSON = "json"
    ALL = "all"


@router.post("/infer/{model}")
async def infer(
    model: str,
    caller: Worker,
    overread: Overread,
    sessions: TheSessions,
    queue: TheQueue,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    output: InferOutput = InferOutput.ALL,
) -> Response:
    """The champion's proposal; a session goes before a file, a file before a case."""
    suffix = result_suffix(params_of(params))
    content = (await file.read(), suffix_of(file.filename or "")) if file else None

    def propose() -> Proposal:
        task = overread.model(model)
        if task is None:
            raise UnknownError("unknown model; /info/ names the models there are")
        if session_id:
            return task.for_image(sessions.get(session_id, caller.account.id).image())
        if content is not None:
            return task.for_image(read_volume_bytes(*content))
        return task.for_case(overread.store.case(image))

    proposal = await queue.run(propose)
    named = image if image and not session_id and content is None else "result"
    return await run_in_threadpool(infer_answer, proposal, named, suffix, output.value)


@router.put("/session/")
async def create_session(request: Request, caller: Worker, sessions: TheSessions, expiry: int = 0) -> dict[str, Any]:
    """Keep one uploaded volume for inference."""
    form = await uploaded(request)
    files = [value for value in form.values() if not isinstance(value, str)]
    if len(files) != 1:
        raise LabelError(f"expected one volume file for a session, found {len(files)}. Nothing was kept.")
    content, suffix = await files[0].read(), suffix_of(files[0].filename or "")
    image = await run_in_threadpool(read_volume_bytes, content, suffix)
    session = await run_in_threadpool(sessions.create, caller.account.id, image, expiry)
    return {"session_id": session.id, "session_info": _told(session)}


@router.get("/session/{session_id}")
def get_session(session_id: str, caller: Worker, sessions: TheSessions) -> dict[str, Any]:
    return _told(sessions.get(session_id, caller.account.id))


@router.delete("/session/{session_id}")
def remove_session(session_id: str, caller: Worker, sessions: TheSessions) -> dict[str, Any]:
    return _told(sessions.remove(session_id, caller.account.id))


def _told(session: Session) -> dict[str, Any]:
    """A session as monailabel's client knows it, without the paths of this machine."""
    return {
        "name": session.id,
        "image": "",
        "path": "",
        "meta": {},
        "create_ts": session.created,
        "last_access_ts": session.created,
        "expiry": session.expiry_s,
    }
