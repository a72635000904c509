"""What our extension in OHIF asks beside monailabel's routes: a case or a series in, what is to be drawn there out.

And what it sends: a reader's outlines, saved as any viewer's are.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, File, Form, UploadFile

from apps.annotation import label_params
from apps.annotation.dependencies import Anyone, Drawer, Overread
from apps.annotation.dicomweb import TheArchive
from apps.annotation.edits import edit_of
from apps.annotation.main import OverreadApp
from apps.annotation.saving import Upload, save
from apps.annotation.submissions import CLIENT, cases_of, has_seat
from apps.annotation.wire import params_of
from apps.archive import Archive
from apps.reasons import reason_of
from labeling_protocols.case_scores import offers
from labeling_protocols.protocol import Protocol, Task
from labeling_protocols.records import Account, Case

router = APIRouter(prefix="/ohif/cases")

_STUDY = "0020000D"
_ONLY_SLICER = "Open it in 3D Slicer instead, with Next Sample of its MONAI Label module."


@router.get("")
def cases_of_series(series: str, caller: Anyone, overread: Overread, archive: TheArchive) -> dict[str, Any]:
    """The cases made of a series: one for each protocol it is labelled under."""
    return {"cases": [_told(overread, archive, caller.account, case) for case in cases_of(overread.store, series)]}


@router.get("/{case}")
def one_case(case: str, caller: Anyone, overread: Overread, archive: TheArchive) -> dict[str, Any]:
    """A case as OHIF needs it; `address` is where OHIF opens it, None where it cannot, and `why` then says why not."""
    return _told(overread, archive, caller.account, overread.store.case(case))


@router.put("/{case}/label")
def save_label(
    case: str,
    label: Annotated[UploadFile, File()],
    caller: Drawer,
    overread: Overread,
    params: Annotated[str, Form(description=label_params.__doc__ or "")] = "{}",
) -> dict[str, Any]:
    """Keep outlines drawn in OHIF as the caller's next revision; they are durable before this answers."""
    upload = Upload(content=label.file.read(), name="label.nrrd")
    saved = save(
        overread.store,
        overread.reads.visible,
        caller.account,
        case,
        upload,
        params=params_of(params),
        client=CLIENT,
    )
    version = {} if saved.version is None else {"version": saved.version}
    return {"image": saved.case, "revision": saved.revision, **version}


def _told(overread: OverreadApp, archive: Archive, account: Account, case: Case) -> dict[str, Any]:
    protocol = overread.store.protocol(case.protocol)
    address, why = _address(archive, case)
    z, y, x = case.geometry.shape_ZYX
    return {
        "case": case.id,
        "protocol": protocol.name,
        "title": protocol.title,
        "structures": [
            {"name": each.name, "title": each.title, "value": each.value, "color": each.color}
            for each in protocol.outlined
        ],
        "questions": [asdict(question) for question in protocol.questions],
        "series": case.series,
        "grid": {"size_XYZ": [x, y, z], "affine_LPS": case.geometry.affine_LPS().tolist()},
        "yours": has_seat(overread.store, account, case) or edit_of(overread.store, account, case) is not None,
        "chosen": reason_of(protocol, offers(overread.store, account.id, [case.id]).get(case.id)),
        "notes": list(_notes(protocol)),
        "address": address,
        "why": why,
    }


def _address(archive: Archive, case: Case) -> tuple[str | None, str]:
    """Where OHIF opens the case's series, or None and the reason in words."""
    if case.series is None:
        return None, f"This case came as a volume file and not as DICOM, which is all that OHIF shows. {_ONLY_SLICER}"
    filters = {"SeriesInstanceUID": case.series}
    found = archive.ask(lambda client: client.search_for_series(search_filters=filters))
    if not found:
        return None, f"The archive does not have this case's series any more. {_ONLY_SLICER}"
    study = str(found[0][_STUDY]["Value"][0])
    asked = {"StudyInstanceUIDs": study, "initialSeriesInstanceUID": case.series, "case": case.id}
    return f"/ohif/segmentation?{urlencode(asked)}", ""


def _notes(protocol: Protocol) -> Iterator[str]:
    """What of a read cannot be given in OHIF."""
    for task, what in ((Task.BOXES, "boxes"), (Task.POINTS, "points")):
        marked = [each.title for each in protocol.structures if task in each.tasks]
        if marked:
            yield f"This protocol also asks for {what} ({', '.join(marked)}): set them in 3D Slicer."
    for a, b in protocol.overlaps:
        titles = protocol.structure(a).title, protocol.structure(b).title
        yield f"{titles[0]} and {titles[1]} may overlap, which only 3D Slicer can draw."
