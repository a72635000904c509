"""`/infer/` and `/session/`: a case, an uploaded file or an uploaded session in, what a model proposes out."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from apps.annotation.bundle_models import SAVE
from apps.annotation.dependencies import Overread, TheQueue, TheSessions, Worker
from apps.annotation.main import OverreadApp
from apps.annotation.model_policy import require_for_upload
from apps.annotation.served_model import Asked, Proposal, ServedModel, case_asked, channels_bytes
from apps.annotation.sessions import Session
from apps.annotation.visible import RefusedError
from apps.annotation.wire import infer_answer, params_of, result_suffix, uploaded
from apps.identity import Caller
from labeling_protocols import worklist
from labeling_protocols.bounded_files import require_bounded, uploaded_suffix
from labeling_protocols.geometry import Volume
from labeling_protocols.records import Role
from labeling_protocols.store import LabelError, UnknownError
from labeling_protocols.volumes import read_volume_bytes
from training.prepared_images import image_digest

router = APIRouter()


class InferOutput(StrEnum):
    """What `/infer/` answers: the label, what is said about it, or both."""

    IMAGE = "image"
    JSON = "json"
    ALL = "all"


@dataclass(frozen=True, kw_only=True)
class _Uploaded:
    """A file as it came: its bytes and the suffix of the name its viewer gave it."""

    content: bytes
    suffix: str


@router.post("/infer/{model}")
async def infer(
    request: Request,
    model: str,
    caller: Worker,
    overread: Overread,
    sessions: TheSessions,
    queue: TheQueue,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
    output: InferOutput = InferOutput.ALL,
) -> Response:
    """What a model proposes; a session goes before a file, a file before a case. `label` holds scribbles."""
    said = params_of(params)
    suffix = result_suffix(said)
    upload, scribbles = await _uploaded(file), await _uploaded(label)

    def what_is_asked() -> tuple[ServedModel, Asked, bool]:
        task = overread.model(model)
        if task is None:
            raise UnknownError("unknown model; /info/ names the models there are. Nothing was done.")
        if session_id or upload is not None:
            require_for_upload(task, caller.account, overread.store.protocols())
            session = sessions.get(session_id, caller.account.id) if session_id else None
            asked = _of_image(overread, session, upload, said)
        else:
            asked = _of_case(overread, task, caller, image, said)
        if said.get(SAVE) and not (caller.has(Role.ENGINEER) or caller.has(Role.ADMINISTRATOR)):
            raise RefusedError("engineers decide what every reader is shown as the prelabel. Nothing was proposed.")
        if scribbles is not None and task.takes_scribbles:
            asked = replace(asked, scribbles=_scribbles(scribbles, overread.site.config.web.upload_max_voxels))
        return task, asked, task.is_quick(asked)

    def answer(proposal: Proposal) -> Response:
        if asked.case is not None:
            for shown in filter(None, (proposal.corrects, proposal.model)):
                overread.store.prelabel_shown(asked.case.id, caller.account.id, shown)
        return infer_answer(proposal, asked.case.id if asked.case is not None else "result", suffix, output.value)

    task, asked, quick = await run_in_threadpool(what_is_asked)
    proposal = await queue.run(
        lambda stopped: task.propose(replace(asked, stopped=stopped)),
        model=task.key,
        device=overread.champions.device,
        gone=request.is_disconnected,
        caller=caller.account.id,
        urgent=quick,
    )
    return await run_in_threadpool(answer, proposal)


@router.put("/session/")
async def create_session(
    request: Request, caller: Worker, overread: Overread, sessions: TheSessions, expiry: int = 0
) -> dict[str, Any]:
    """Keep one uploaded volume for inference."""
    form = await uploaded(request)
    files = [value for value in form.values() if not isinstance(value, str)]
    if len(files) != 1:
        raise LabelError(f"expected one volume file for a session, found {len(files)}. Nothing was kept.")
    upload = _Uploaded(content=await files[0].read(), suffix=uploaded_suffix(files[0].filename or ""))
    image = await run_in_threadpool(_volume, upload, overread.site.config.web.upload_max_voxels)
    session = await run_in_threadpool(sessions.create, caller.account.id, image, expiry)
    return {"session_id": session.id, "session_info": _told(session)}


@router.get("/session/{session_id}")
def get_session(session_id: str, caller: Worker, sessions: TheSessions) -> dict[str, Any]:
    return _told(sessions.get(session_id, caller.account.id))


@router.delete("/session/{session_id}")
def remove_session(session_id: str, caller: Worker, sessions: TheSessions) -> dict[str, Any]:
    return _told(sessions.remove(session_id, caller.account.id))


def _of_case(overread: OverreadApp, task: ServedModel, caller: Caller, image: str, said: dict[str, Any]) -> Asked:
    """What is asked of a case that the caller may be shown proposals of; who asks works on it."""
    case = overread.store.case(image)
    overread.reads.visible.prelabel(caller.account, case)
    worklist.renew(overread.store, case.id, caller.account.id)
    task.require_own(case)
    return case_asked(overread.store, overread.images, case, said)


def _of_image(overread: OverreadApp, session: Session | None, upload: _Uploaded | None, said: dict[str, Any]) -> Asked:
    """What is asked of an image that is no case; a session's is decoded once and kept."""
    if session is not None and session.digest:
        known = session
        return Asked(
            load=lambda: overread.images.get((known.digest, "volume"), lambda: (known.image(),), channels_bytes),
            digest=known.digest,
            params=said,
        )
    if session is not None:
        volume = session.image()
    else:
        assert upload is not None  # noqa: S101  one of both was sent
        volume = _volume(upload, overread.site.config.web.upload_max_voxels)
    return Asked(load=lambda: (volume,), digest=image_digest(volume), params=said)


def _scribbles(upload: _Uploaded, voxels_max: int) -> Volume:
    if not upload.suffix:
        raise LabelError(
            "scribbles are sent as a volume file (.nrrd or .nii.gz) on the image's grid. Nothing was done."
        )
    return _volume(upload, voxels_max)


async def _uploaded(file: UploadFile | None) -> _Uploaded | None:
    return _Uploaded(content=await file.read(), suffix=uploaded_suffix(file.filename or "")) if file else None


def _volume(upload: _Uploaded, voxels_max: int) -> Volume:
    require_bounded(upload.content, upload.suffix, voxels_max)
    return read_volume_bytes(upload.content, ".nrrd" if upload.suffix.endswith("nrrd") else upload.suffix)


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
