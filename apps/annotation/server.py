"""monailabel's wire contract, as its unmodified client and 3D Slicer speak it, with an account behind every call.

HTTP in, JSON and volumes out. Paths, parameters and answers are those of monailabel 0.8.5's endpoints, except that no
path of this machine is answered, identity is never taken from `client_id`, and errors are words.
"""

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Body, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import FileResponse, Response

from apps.annotation import infer_routes, refusals, train_routes
from apps.annotation.calling import calling
from apps.annotation.datastore import IMAGE_SUFFIX, LABEL_SUFFIX
from apps.annotation.dependencies import Anyone, Overread, Reader
from apps.annotation.wire import attachment, params_of
from apps.identity import Identities, at_address, same_origin
from labeling_protocols import settlement
from labeling_protocols.records import Role
from labeling_protocols.store import UnknownError
from labeling_protocols.volumes import read_volume_bytes, suffix_of, volume_bytes

router = APIRouter()

_DEFAULT_CLIENT = "monailabel client"  # 3D Slicer's module sends no name

# monailabel knows four roles; an account's own are the ones that count.
_MONAILABEL_ROLES = {
    Role.ADMINISTRATOR: "monailabel-admin",
    Role.ADJUDICATOR: "monailabel-reviewer",
    Role.READER: "monailabel-annotator",
}

# Sign-in


@router.get("/auth/")
def auth(request: Request) -> dict[str, Any]:
    """Whether a viewer must ask for a password; at a personal address it need not."""
    return {"enabled": not at_address(request), "client_id": "overread", "realm": "overread"}


@router.post("/auth/token")
def auth_token(request: Request, username: Annotated[str, Form()], password: Annotated[str, Form()]) -> dict[str, str]:
    """A token for a name and password."""
    identities: Identities = request.app.state.identities
    account = identities.accounts.sign_in(username, password) if same_origin(request) else None
    if account is None:
        raise HTTPException(401, "unknown name or wrong password", headers={"WWW-Authenticate": "Bearer"})
    return {"access_token": identities.accounts.token(account), "token_type": "bearer"}


@router.get("/auth/token/valid")
def auth_token_valid(caller: Anyone) -> dict[str, Any]:
    roles = {"monailabel-user"} | {_MONAILABEL_ROLES[r] for r in caller.account.roles if r in _MONAILABEL_ROLES}
    return {"username": caller.account.name, "email": None, "name": caller.account.name, "roles": sorted(roles)}


# The app and its worklist


@router.get("/info/")
def info(caller: Anyone, overread: Overread) -> dict[str, Any]:
    with calling(caller.account):
        return overread.info()


@router.post("/activelearning/{strategy}")
def next_sample(
    strategy: str, caller: Reader, overread: Overread, params: Annotated[dict[str, Any] | None, Body()] = None
) -> dict[str, Any]:
    """The caller's next case, or `{}` when nothing is left: viewers show their own words for that."""
    task = overread.strategy(strategy)
    if task is None:
        raise UnknownError("unknown strategy; expected worklist")
    with calling(caller.account):
        chosen = task({**(params or {}), "strategy": strategy}, overread.reads)
        return {**chosen, **overread.reads.get_image_info(chosen["id"])} if chosen else {}


# Images and labels


class Listing(StrEnum):
    """What `/datastore/` lists."""

    TRAIN = "train"
    STATS = "stats"
    ALL = "all"


@router.get("/datastore/")
def datastore(caller: Anyone, overread: Overread, output: Listing = Listing.STATS) -> Any:
    with calling(caller.account):
        match output:
            case Listing.ALL:
                return overread.reads.json()
            case Listing.TRAIN:
                return overread.reads.datalist()
            case _:
                return overread.reads.status()


@router.head("/datastore/image")
@router.get("/datastore/image")
def download_image(image: str, caller: Anyone, overread: Overread, check_sum: str | None = None) -> Response:
    """The image, named by its case; `check_sum` (HEAD) asks whether it has this SHA-256."""
    case = overread.store.case(image)
    if check_sum is not None and check_sum.rpartition(":")[2].lower() != case.image:
        raise UnknownError("the image has another checksum")
    return FileResponse(
        overread.store.image_path(case), media_type="application/gzip", filename=f"{case.id}{IMAGE_SUFFIX}"
    )


@router.get("/datastore/image/info")
def image_info(image: str, caller: Anyone, overread: Overread) -> dict[str, Any]:
    return overread.reads.get_image_info(image)


@router.put("/datastore/label")
def save_label(
    request: Request,
    background: BackgroundTasks,
    image: str,
    label: Annotated[UploadFile, File()],
    caller: Reader,
    overread: Overread,
    params: Annotated[str, Form()] = "{}",
    tag: str = "",
) -> dict[str, Any]:
    """Keep a label as the caller's next revision; it is durable before this answers.

    Agreement is judged after the answer, so that its time does not tell a reader whether he was the last one.
    """
    volume = read_volume_bytes(label.file.read(), suffix_of(label.filename or ""))
    client = request.headers.get("user-agent") or _DEFAULT_CLIENT
    with calling(caller.account):
        read = overread.reads.save(image, volume, tag, params_of(params), client)
    background.add_task(settlement.settle, overread.store, read.case)
    return {"image": read.case, "label": read.case, "revision": read.revision}


@router.head("/datastore/label")
@router.get("/datastore/label")
def download_label(label: str, caller: Anyone, overread: Overread, tag: str = "") -> Response:
    """The caller's own read, the truth for who may see it, or the prelabel (`original`)."""
    case = overread.store.case(label)
    with calling(caller.account):
        stored = overread.reads.label(case, tag)
    if stored is None:
        raise UnknownError("there is no such label for you")
    content = volume_bytes(overread.reads.label_volume(stored), LABEL_SUFFIX)
    return attachment(content, f"{case.id}{LABEL_SUFFIX}")


@router.get("/datastore/label/info")
def label_info(label: str, caller: Anyone, overread: Overread, tag: str = "") -> dict[str, Any]:
    with calling(caller.account):
        return overread.reads.get_label_info(label, tag)


for _routes in (infer_routes, train_routes, refusals):
    router.include_router(_routes.router)
