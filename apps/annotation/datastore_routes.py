"""`/datastore/`: cases, images and labels out, reads in; what is seen depends on who calls."""

import json
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import FileResponse, Response

from apps.annotation import label_params
from apps.annotation.calling import calling
from apps.annotation.dependencies import Anyone, Drawer, Overread
from apps.annotation.edits import go_on
from apps.annotation.label_params import as_params
from apps.annotation.listing import IMAGE_SUFFIX
from apps.annotation.saving import Upload, save
from apps.annotation.visible import StoredLabel
from apps.annotation.wire import attachment, label_content, params_of
from apps.identity import Caller
from labeling_protocols import worklist
from labeling_protocols.records import Case, Role
from labeling_protocols.store import UnknownError

router = APIRouter(prefix="/datastore")

_DEFAULT_CLIENT = "monailabel client"  # 3D Slicer's module sends no name


class Listing(StrEnum):
    """What `/datastore/` lists."""

    TRAIN = "train"
    STATS = "stats"
    ALL = "all"


@router.get("/")
def datastore(caller: Anyone, overread: Overread, output: Listing = Listing.STATS) -> Response:
    """Counts (`stats`), or every case with the labels the caller may see (`all`), or has (`train`)."""
    reads = overread.reads
    with calling(caller.account):
        # Encoded here: FastAPI would look at each of a million values first.
        match output:
            case Listing.ALL:
                text = reads.as_text()
            case Listing.TRAIN:
                text = json.dumps(reads.datalist())
            case _:
                text = json.dumps(reads.status())
    return Response(text.encode(), media_type="application/json")


@router.head("/image")
def check_image(image: str, caller: Anyone, overread: Overread, check_sum: str | None = None) -> Response:
    """Whether there is this image, and whether it has this SHA-256."""
    case = overread.store.case(image)
    if check_sum is not None and check_sum.rpartition(":")[2].lower() != case.image:
        raise UnknownError("the image has another checksum")
    return _image(overread, case)


@router.get("/image")
def download_image(image: str, caller: Anyone, overread: Overread, channel: str = "") -> Response:
    """The image, named by its case; of several channels the first, which labels lie on, or the one that is named."""
    case = overread.store.case(image)
    _renew(overread, case, caller)
    return _image(overread, case, channel)


@router.get("/image/info")
def image_info(image: str, caller: Anyone, overread: Overread) -> dict[str, Any]:
    """Name, checksum, modality and protocol of an image."""
    return overread.reads.get_image_info(image)


@router.put("/label")
def save_label(
    request: Request,
    image: str,
    label: Annotated[UploadFile, File()],
    caller: Drawer,
    overread: Overread,
    params: Annotated[str, Form(description=label_params.__doc__ or "")] = "{}",
    tag: str = "",
) -> dict[str, Any]:
    """Keep a label as the caller's next revision; it is durable before this answers.

    An adjudicator's becomes the next revision of the edit that he began on the dispute's review page, never a read.
    Whether readers agree is judged elsewhere and later, so that no answer's time tells a reader who came last.
    """
    saved = save(
        overread.store,
        overread.reads.visible,
        caller.account,
        image,
        Upload(content=label.file.read(), name=label.filename or ""),
        tag=tag,
        params=params_of(params),
        client=request.headers.get("user-agent") or _DEFAULT_CLIENT,
    )
    version = {} if saved.version is None else {"version": saved.version}
    return {"image": saved.case, "label": saved.case, "revision": saved.revision, **version}


@router.head("/label")
def check_label(label: str, caller: Anyone, overread: Overread, tag: str = "") -> Response:
    """Whether there is a label of this tag that the caller may see."""
    _stored(overread, overread.store.case(label), tag, caller)
    return Response()


@router.get("/label")
def download_label(label: str, caller: Anyone, overread: Overread, tag: str = "") -> Response:
    """The caller's own read, a truth or another reader's for those who may see them, or the prelabel (`original`).

    Of a dispute that the caller edits it is the edit, as `final` and as `original`.
    """
    case = overread.store.case(label)
    _renew(overread, case, caller)
    stored = _stored(overread, case, tag, caller)
    if stored.model is not None:
        overread.store.prelabel_shown(case.id, caller.account.id, stored.model)
    content, suffix = label_content(overread.store.label(stored.digest), overread.store.protocol(case.protocol))
    return attachment(content, f"{case.id}{suffix}")


@router.get("/label/info")
def label_info(label: str, caller: Anyone, overread: Overread, tag: str = "") -> dict[str, Any]:
    """What is known of a label; its boxes, points and answers in the form in which they are saved."""
    case = overread.store.case(label)
    stored = _stored(overread, case, tag, caller)
    if stored.model is not None:
        overread.store.prelabel_shown(case.id, caller.account.id, stored.model)
    return {**stored.info, **as_params(overread.store.label(stored.digest))}


def _stored(overread: Overread, case: Case, tag: str, caller: Caller) -> StoredLabel:
    with calling(caller.account):
        return overread.reads.stored(case, tag)


def _image(overread: Overread, case: Case, channel: str = "") -> Response:
    path = overread.store.image_path(case, channel)
    name = f"{case.id}_{channel}" if channel else case.id
    return FileResponse(path, media_type="application/gzip", filename=f"{name}{IMAGE_SUFFIX}")


def _renew(overread: Overread, case: Case, caller: Caller) -> None:
    """Who fetches something of a case works on it: a seat, or a dispute he has, is held for longer."""
    go_on(overread.store, caller.account, case.id)
    if caller.has(Role.READER):
        worklist.renew(overread.store, case.id, caller.account.id)
