"""STOW-RS (PS3.18 10.5): files that somebody stored in, a read or cases out, and what became of each in DICOM JSON.

A reader's segmentation becomes his read (`submissions.py`); engineers' images become cases once nothing names their
patients (`apps/stowed_images.py`). All else is refused, each instance with a reason in its code and in words.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, SegmentationStorage
from sqlalchemy.exc import OperationalError

from apps.annotation.main import OverreadApp
from apps.annotation.submissions import submit
from apps.identity import Caller
from apps.settings import Site
from apps.stowed_images import site_uid, take_in
from labeling_protocols.records import Role

LABELMAP_SEGMENTATION = UID("1.2.840.10008.5.1.4.1.1.66.7")
_SEGMENTATIONS = (SegmentationStorage, LABELMAP_SEGMENTATION)
_ENGINEER = (Role.ENGINEER, Role.ADMINISTRATOR)
_IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID")
_OURS = ("apps.", "labeling_protocols.", "training.")  # whose errors are words for whoever called
_COMMENT_MAX = 64  # characters of a LO

log = logging.getLogger("overread.dicomweb")


class Failure(IntEnum):
    """Failure Reason (0008,1197), PS3.18 table 10.5.3-1 and PS3.7 annex C."""

    PROCESSING = 0x0110
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    NOT_AUTHORIZED = 0x0124
    OUT_OF_RESOURCES = 0xA700
    DOES_NOT_MATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one file; `sop_class` and `instance` are as they were sent, empty where it is no DICOM file."""

    sop_class: str = ""
    instance: str = ""
    address: str = ""
    failure: Failure | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Status, body and the reasons in words of an answer (PS3.18 10.5.3)."""

    status: int
    body: dict[str, Any]
    reasons: tuple[str, ...]


def store(
    overread: OverreadApp,
    site: Site,
    caller: Caller,
    files: Sequence[Path],
    *,
    study: str | None,
    protocol: str,
    base: str,
) -> Answer:
    """Keep what may be kept of the files; `base` is this gateway's address. All of it is durable on return."""
    images: dict[Path, Dataset] = {}
    outcomes: list[Outcome] = []
    for path in files:
        header = _identity_of(path)
        if header is None:
            outcomes.append(Outcome(failure=Failure.CANNOT_UNDERSTAND, reason="a part is no DICOM file"))
        elif study is not None and header.StudyInstanceUID != study:
            outcomes.append(
                _refused(header, Failure.DOES_NOT_MATCH, "it is of another study than the request's address")
            )
        elif header.SOPClassUID in _SEGMENTATIONS:
            outcomes.append(_segmentation(overread, caller, header, path))
        elif not caller.has(*_ENGINEER):
            outcomes.append(_refused(header, Failure.NOT_AUTHORIZED, _refusal_of_images(header)))
        else:
            images[path] = header
    outcomes += _images(overread, site, caller, images, protocol, base)
    return _answer(outcomes)


def _identity_of(path: Path) -> Dataset | None:
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=list(_IDENTITY))
    except (InvalidDicomError, OSError, ValueError, EOFError, KeyError, NotImplementedError, TypeError, AttributeError):
        return None
    return header if all(header.get(keyword) for keyword in _IDENTITY) else None


def _refusal_of_images(header: Dataset) -> str:
    kind = UID(str(header.SOPClassUID)).name
    return f"{kind}: readers store segmentations; images are brought in by engineers and administrators"


def _segmentation(overread: OverreadApp, caller: Caller, header: Dataset, path: Path) -> Outcome:
    try:
        submit(overread, caller.account, path.read_bytes())
    except Exception as error:  # noqa: BLE001  whatever fails becomes this instance's status, and is logged there
        return _failed(header, error)
    return Outcome(sop_class=str(header.SOPClassUID), instance=str(header.SOPInstanceUID))


def _images(
    overread: OverreadApp, site: Site, caller: Caller, images: dict[Path, Dataset], protocol: str, base: str
) -> Iterator[Outcome]:
    if not images:
        return
    try:
        taken = take_in(overread.store, site, list(images), protocol, actor=caller.account.id)
    except Exception as error:  # noqa: BLE001  as above
        yield from (_failed(header, error) for header in images.values())
        return
    for one in taken:
        for path in one.files:
            header = images[path]
            if one.case is None:
                yield _refused(header, Failure.CANNOT_UNDERSTAND, one.reason)
            else:
                yield Outcome(
                    sop_class=str(header.SOPClassUID),
                    instance=str(header.SOPInstanceUID),
                    address=f"{base}/studies/{site_uid(site, str(header.StudyInstanceUID))}",
                )


def _failed(header: Dataset, error: Exception) -> Outcome:
    words = str(error.args[0]) if error.args else ""
    if isinstance(error, OSError | OperationalError) and not isinstance(error, PermissionError | TimeoutError):
        log.error("an instance could not be stored: %s", type(error).__name__)
        return _refused(header, Failure.OUT_OF_RESOURCES, "the site's disk or database takes nothing now; try again")
    if not type(error).__module__.startswith(_OURS):
        log.error("an instance could not be stored: %s", type(error).__name__)
        return _refused(header, Failure.PROCESSING, "something went wrong here; the server's log says what")
    if isinstance(error, PermissionError):
        return _refused(header, Failure.NOT_AUTHORIZED, words)
    return _refused(header, Failure.CANNOT_UNDERSTAND, words)


def _refused(header: Dataset, failure: Failure, reason: str) -> Outcome:
    return Outcome(
        sop_class=str(header.SOPClassUID), instance=str(header.SOPInstanceUID), failure=failure, reason=reason
    )


def _answer(outcomes: Sequence[Outcome]) -> Answer:
    stored = [one for one in outcomes if one.failure is None]
    failed = [one for one in outcomes if one.failure is not None and one.instance]
    others = [one for one in outcomes if one.failure is not None and not one.instance]
    body = Dataset()
    addresses = sorted({one.address for one in stored} - {""})
    if len(addresses) == 1:
        body.RetrieveURL = addresses[0]
    for keyword, chosen in (
        ("ReferencedSOPSequence", stored),
        ("FailedSOPSequence", failed),
        ("OtherFailuresSequence", others),
    ):
        if chosen:
            setattr(body, keyword, [_item(one) for one in chosen])
    status = 200 if not failed and not others else 202 if stored else 409
    reasons = tuple(dict.fromkeys(one.reason for one in outcomes if one.reason))
    return Answer(status=status if outcomes else 400, body=body.to_json_dict(), reasons=reasons)


def _item(one: Outcome) -> Dataset:
    item = Dataset()
    if one.instance:
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class, one.instance
    if one.address:
        item.RetrieveURL = one.address
    if one.failure is not None:
        item.FailureReason = int(one.failure)
        # The whole reason is in the answer's Warning header; here dcm4chee puts its own, too.
        item.add_new(0x00000902, "LO", one.reason[:_COMMENT_MAX])
    return item
