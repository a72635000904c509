"""What 3D Slicer's Reviewer module says of a version (`segmentationMeta`): kept as a review, deciding nothing."""

from typing import Annotated, Any

from fastapi import APIRouter, Form
from pydantic import BaseModel, ValidationError

from apps.annotation.dependencies import Adjudicator, Overread
from apps.annotation.visible import RefusedError, sees_truth, version_number
from apps.annotation.wire import params_of
from apps.identity import Caller
from labeling_protocols.reviews import ReviewError, add_review
from labeling_protocols.store import UnknownError

router = APIRouter(prefix="/datastore")


class _Meta(BaseModel):
    """The module also sends `approvedBy` and `editTime`: who calls and when is known here."""

    status: str = ""
    level: str = ""
    comment: str = ""


@router.put("/updatelabelinfo")
def update_label_info(
    label: str, tag: str, caller: Adjudicator, overread: Overread, params: Annotated[str, Form()] = "{}"
) -> dict[str, Any]:
    """Keep what the caller says of a version, as the Reviewer module sends it."""
    return _review(label, tag, caller, overread, params)


@router.put("/label/info")
def put_label_info(
    label: str, tag: str, caller: Adjudicator, overread: Overread, info: Annotated[str, Form()] = "{}"
) -> dict[str, Any]:
    """The same, as monailabel's newer route takes it."""
    return _review(label, tag, caller, overread, info)


def _review(label: str, tag: str, caller: Caller, overread: Overread, said: str) -> dict[str, Any]:
    if not sees_truth(caller.account):
        raise RefusedError("a reader does not review what other readers draw. Nothing was kept.")
    try:
        meta = _Meta.model_validate(params_of(said).get("segmentationMeta"))
    except ValidationError as error:
        raise ReviewError(
            "expected segmentationMeta with status, level and comment as text. Nothing was kept."
        ) from error
    case = overread.store.case(label)
    versions = overread.reads.visible.versions(caller.account, case)
    number = version_number(tag)
    if number is None or number > len(versions):
        raise UnknownError(
            f"reviews are of reads; this case has {len(versions)}, version_1 and so on. Truths are decided on the"
            " review pages. Nothing was kept."
        )
    add_review(
        overread.store,
        read=versions[number - 1],
        reviewer=caller.account.id,
        status=meta.status,
        level=meta.level,
        comment=meta.comment,
    )
    return {}
