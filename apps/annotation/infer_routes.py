"""`/infer/` and `/session/`: a case, an uploaded file or an uploaded session in, the champion's proposal out."""

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from apps.annotation.dependencies import Overread, TheQueue, TheSessions, Worker
from apps.annotation.infer import ChampionInfer, Proposal
from apps.annotation.sessions import Session
from apps.annotation.visible import RefusedError
from apps.annotation.wire import infer_answer, params_of, result_suffix, uploaded
from apps.identity import Caller
from labeling_protocols import worklist
from labeling_protocols.bounded_files import require_bounded, uploaded_suffix
from labeling_protocols.geometry import Volume
from labeling_protocols.protocol import PrelabelPolicy
from labeling_protocols.records import Role
from labeling_protocols.store import LabelError, UnknownError
from labeling_protocols.volumes import read_volume_bytes

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
    voxels_max = overread.site.config.web.upload_max_voxels
    content = (await file.read(), uploaded_suffix(file.filename or "")) if file else None

    def propose() -> Proposal:
        task = overread.model(model)
        if task is None:
            raise UnknownError("unknown model; /info/ names the models there are")
        if session_id or content is not None:
            _require_always(task, caller)
        if session_id:
            return task.for_image(sessions.get(session_id, caller.account.id).image())
        if content is not None:
            return task.for_image(_volume(*content, voxels_max))
        case = overread.store.case(image)
        overread.reads.visible.prelabel(caller.account, case)
        worklist.renew(overread.store, case.id, caller.account.id)
        proposal = task.for_case(case)
        overread.store.prelabel_shown(case.id, caller.account.id, proposal.model)
        return proposal

    proposal = await queue.run(propose)
    named = image if image and not session_id and content is None else "result"
    return await run_in_threadpool(infer_answer, proposal, named, suffix, output.value)


@router.put("/session/")
async def create_session(
    request: Request, caller: Worker, overread: Overread, sessions: TheSessions, expiry: int = 0
) -> dict[str, Any]:
    """Keep one uploaded volume for inference."""
    form = await uploaded(request)
    files = [value for value in form.values() if not isinstance(value, str)]
    if len(files) != 1:
        raise LabelError(f"expected one volume file for a session, found {len(files)}. Nothing was kept.")
    content, suffix = await files[0].read(), uploaded_suffix(files[0].filename or "")
    image = await run_in_threadpool(_volume, content, suffix, overread.site.config.web.upload_max_voxels)
    session = await run_in_threadpool(sessions.create, caller.account.id, image, expiry)
    return {"session_id": session.id, "session_info": _told(session)}


@router.get("/session/{session_id}")
def get_session(session_id: str, caller: Worker, sessions: TheSessions) -> dict[str, Any]:
    return _told(sessions.get(session_id, caller.account.id))


@router.delete("/session/{session_id}")
def remove_session(session_id: str, caller: Worker, sessions: TheSessions) -> dict[str, Any]:
    return _told(sessions.remove(session_id, caller.account.id))


def _require_always(task: ChampionInfer, caller: Caller) -> None:
    """Where readers do not always see prelabels, they get none by way of an uploaded image either."""
    if caller.has(Role.READER) and task.protocol.prelabels is not PrelabelPolicy.ALWAYS:
        raise RefusedError(
            "readers of this protocol are not shown what a model proposes of any image. Nothing was done."
        )


def _volume(content: bytes, suffix: str, voxels_max: int) -> Volume:
    require_bounded(content, suffix, voxels_max)
    return read_volume_bytes(content, ".nrrd" if suffix.endswith("nrrd") else suffix)


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
