"""A DICOM Segmentation that a reader stored over DICOMweb in, the next revision of his read of that case out."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian

from apps.annotation.main import OverreadApp
from apps.annotation.saving import save
from apps.annotation.visible import RefusedError
from labeling_protocols import schema, seats
from labeling_protocols.dicom_seg import SegError, label_from_seg
from labeling_protocols.label import Label, LabelError
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account, Case, Role
from labeling_protocols.store import Store, UnknownError

CLIENT = "OHIF"

_DRAWS = frozenset({Role.READER, Role.ADJUDICATOR, Role.ADMINISTRATOR})
_GRID_MARGIN = 2  # frames may repeat places; more of them than this is no segmentation of the image
_UNREADABLE = (OSError, ValueError, AttributeError, KeyError, TypeError, IndexError, EOFError, NotImplementedError)


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """What was kept: the case, and which revision it is of the caller's read, or of the edit he goes on with."""

    case: str
    revision: int


def submit(overread: OverreadApp, account: Account, content: bytes) -> Submitted:
    """Keep one DICOM SEG (Part 10) of one of the archive's series as the account's next revision; durable on return.

    A series may be a case of several protocols: the one is taken whose structures the segments are, and of several
    such the one the account has a seat on. Raises `LabelError`, `UnknownError`, `RefusedError` or what else
    `saving.save` raises, having kept nothing.
    """
    if not account.roles & _DRAWS:
        raise RefusedError("only readers and adjudicators save segmentations. Nothing was saved.")
    seg = _seg(content)
    cases = cases_of(overread.store, _series_of(seg))
    if not cases:
        raise UnknownError("the segmentation is of a series that is no case here. Nothing was saved.")
    case, label = _the_one(overread.store, account, seg, cases)
    saved = save(overread.store, overread.reads.visible, account, case.id, label, params={}, client=CLIENT)
    return Submitted(case=saved.case, revision=saved.revision)


def cases_of(store: Store, series: str) -> list[Case]:
    """The cases made of a de-identified series, one for each protocol it is labelled under."""
    table = schema.cases
    with store.engine.connect() as connection:
        found = connection.execute(sa.select(table.c.id).where(table.c.series == series).order_by(table.c.id)).scalars()
        ids = list(found)
    return [store.case(case) for case in ids]


def has_seat(store: Store, account: Account, case: Case) -> bool:
    """Whether the account has, or had filled, a seat on the case under what is asked now."""
    since_version = store.asked(case.protocol).since_version
    with store.engine.connect() as connection:
        return seats.held(connection, case.id, since_version, account.id) is not None


# Which case


def _the_one(store: Store, account: Account, seg: Dataset, cases: Sequence[Case]) -> tuple[Case, Label]:
    """The one case whose protocol reads the segmentation, with what it draws there."""
    drawn: list[tuple[Case, Label]] = []
    reasons = []
    for case in cases:
        try:
            drawn.append((case, _label(seg, store.protocol(case.protocol), case)))
        except SegError as error:
            reasons.append(str(error))
    if len(drawn) > 1:
        drawn = [(case, label) for case, label in drawn if has_seat(store, account, case)] or drawn
    if not drawn:
        raise LabelError(f"{'; '.join(dict.fromkeys(reasons))}. Nothing was saved.")
    if len(drawn) > 1:
        names = ", ".join(case.protocol for case, _ in drawn)
        raise LabelError(f"this series is a case of several protocols ({names}); ask for your next case first."
                         " Nothing was saved.")  # fmt: skip
    return drawn[0]


def _label(seg: Dataset, protocol: Protocol, case: Case) -> Label:
    z, y, x = case.geometry.shape_ZYX
    voxels = int(seg.get("NumberOfFrames") or 1) * int(seg.Rows) * int(seg.Columns)
    most = _GRID_MARGIN * max(1, len(seg.SegmentSequence)) * z * y * x
    if voxels > most:
        raise SegError(f"the segmentation has {voxels} pixels; at most {most} were expected of this image")
    try:
        return label_from_seg(seg, protocol, case.geometry)
    except SegError:
        raise
    except (*_UNREADABLE, RuntimeError) as error:
        raise SegError(f"the segmentation cannot be read ({type(error).__name__})") from error


# Reading


def _seg(content: bytes) -> Dataset:
    """The segmentation object; one that would have to be inflated first is refused unread."""
    try:
        if _syntax(content) == DeflatedExplicitVRLittleEndian:
            raise LabelError("a deflated object is not taken; send it uncompressed. Nothing was saved.")
        seg = dcmread(io.BytesIO(content))
        complete = (
            seg.get("Modality") == "SEG" and bool(seg.get("SegmentSequence")) and int(seg.Rows) * int(seg.Columns)
        )
    except LabelError:
        raise
    except Exception as error:  # whatever pydicom makes of bytes that are no DICOM
        raise LabelError(f"the object cannot be read as DICOM ({type(error).__name__}). Nothing was saved.") from error
    if not complete:
        raise LabelError("the object is no DICOM Segmentation with segments; one was expected. Nothing was saved.")
    return seg


def _syntax(content: bytes) -> str:
    file = io.BytesIO(content)
    read_preamble(file, force=False)
    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group != 2)
    return str(meta.TransferSyntaxUID)


def _series_of(seg: Dataset) -> str:
    """The one series that the segmentation says it is of (PS3.3 C.7.6.16.1.2, Referenced Series Sequence)."""
    referenced = {str(item.get("SeriesInstanceUID", "")) for item in seg.get("ReferencedSeriesSequence") or ()}
    if len(referenced) != 1:
        raise LabelError(f"the segmentation refers to {len(referenced)} series; one was expected. Nothing was saved.")
    return referenced.pop()
