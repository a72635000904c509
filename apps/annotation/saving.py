"""One save from a viewer: an uploaded file and what is said beside it in, the next revision of a read or an edit out.

A viewer sends what it can draw: 3D Slicer outlines in one file and boxes in another, and no answers. What a save does
not speak of is therefore taken over from the caller's newest revision, so that no save takes anything away unsaid.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apps.annotation.edits import begun, edits_instead, save_edit
from apps.annotation.label_params import LabelParams, label_params_of
from apps.annotation.label_values import in_protocol_values, label_info_of
from apps.annotation.visible import FINAL, ORIGINAL, RefusedError, Visible, version_number
from labeling_protocols.bounded_files import names_segments, require_bounded, uploaded_suffix
from labeling_protocols.label import Label, LabelError
from labeling_protocols.label_codec import encode_label
from labeling_protocols.label_files import MARKUPS, read_label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account, Case, Provenance, Read
from labeling_protocols.store import Store
from labeling_protocols.volumes import UnreadableVolumeError, read_volume_bytes

_MARKUPS_BYTES_MAX = 4 << 20
_GRID_MARGIN = 2  # a segmentation may be larger than its image, where it is zero outside


class VersionError(ValueError):
    """A version that exists, or is not the next one; it stays as it is and nothing was saved."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file as it came: its bytes, and the name its viewer gave it, of which only the suffix counts."""

    content: bytes
    name: str


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What was kept; `version` is which of the caller's versions a read is, None for an edit."""

    case: str
    revision: int
    version: int | None = None


def save(
    store: Store,
    visible: Visible,
    account: Account,
    case_id: str,
    upload: Upload | Label,
    *,
    tag: str = "",
    params: Mapping[str, Any],
    client: str,
) -> Saved:
    """Keep a label as the caller's next revision of his read, or of the edit that he began of a dispute.

    An upload is a file with what its viewer calls its values; a `Label` is outlines in the protocol's own values.
    Raises `RefusedError`, `VersionError`, `LabelError`, `UnreadableVolumeError`, `SeatError` or `EditError`, having
    stored nothing.
    """
    if tag == ORIGINAL:
        raise RefusedError("a prelabel is what this server's model proposed; a viewer cannot save one.")
    number = version_number(tag)
    if tag not in ("", FINAL) and number is None:
        raise LabelError(f"unknown tag; save without a tag, as {FINAL} or as your next version. Nothing was saved.")
    case = store.case(case_id)
    said = label_params_of(params)
    if edits_instead(store, account, case):
        return _save_edit(store, account, case, upload, number, params, client)
    newest = visible.newest_own(account, case)
    drawn = _drawn(store.protocol(case.protocol), case, upload, params)
    label = _with_what_was_said(drawn, said, store.label(newest.label) if newest else None, upload)
    if number is not None:
        _require_next(visible.versions(account, case), number, label)
    read = store.save_read(
        case_id=case_id,
        reader=account.id,
        label=label,
        provenance=Provenance(client=client, seconds=said.seconds),
    )
    kept = [found.id for found in visible.versions(account, case)]
    return Saved(case=read.case, revision=read.revision, version=kept.index(read.id) + 1)


def _save_edit(
    store: Store,
    account: Account,
    case: Case,
    upload: Upload | Label,
    number: int | None,
    params: Mapping[str, Any],
    client: str,
) -> Saved:
    if number is not None:
        raise VersionError("versions are readers' reads; save your edit without a tag. Nothing was saved.")
    known = store.label(begun(store, account, case).label)
    drawn = _drawn(store.protocol(case.protocol), case, upload, params)
    label = _with_what_was_said(drawn, label_params_of(params), known, upload)
    edit = save_edit(store, account, case, label, client)
    return Saved(case=edit.case, revision=edit.revision)


def _drawn(protocol: Protocol, case: Case, upload: Upload | Label, params: Mapping[str, Any]) -> Label:
    """The label in the file, in the protocol's values."""
    if isinstance(upload, Label):
        return upload
    if _is_markups(upload):
        if len(upload.content) > _MARKUPS_BYTES_MAX:
            raise UnreadableVolumeError("the markups file is larger than any that was expected here")
        return _read(protocol, case, upload.content, MARKUPS)
    suffix = uploaded_suffix(upload.name)
    z, y, x = case.geometry.shape_ZYX
    layers = max(1, len(protocol.outlined)) if suffix.endswith("nrrd") else 1
    require_bounded(upload.content, suffix, layers * _GRID_MARGIN * z * y * x)
    if suffix.endswith("nrrd") and names_segments(upload.content):
        return _read(protocol, case, upload.content, ".seg.nrrd")
    volume = read_volume_bytes(upload.content, ".nrrd" if suffix.endswith("nrrd") else suffix)
    return Label.of(in_protocol_values(protocol, volume, label_info_of(params)))


def _is_markups(upload: Upload) -> bool:
    """By its suffix: ".mrk.json", or the bare ".json" under which monailabel's module for 3D Slicer saves boxes."""
    return upload.name.lower().endswith(".json")


def _read(protocol: Protocol, case: Case, content: bytes, suffix: str) -> Label:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"label{suffix}"
        path.write_bytes(content)
        return read_label([path], protocol, case.geometry)


def _with_what_was_said(drawn: Label, said: LabelParams, newest: Label | None, upload: Upload | Label) -> Label:
    marked = isinstance(upload, Upload) and _is_markups(upload)
    known_boxes = drawn.boxes if marked else newest.boxes if newest else ()
    known_points = drawn.points if marked else newest.points if newest else ()
    return replace(
        drawn,
        layers_LZYX=newest.layers_LZYX if marked and newest else drawn.layers_LZYX,
        boxes=known_boxes if said.boxes is None else said.boxes,
        points=known_points if said.points is None else said.points,
        answers=(newest.answers if newest else {}) if said.answers is None else said.answers,
    )


def _require_next(versions: list[Read], number: int, label: Label) -> None:
    """Raise `VersionError` unless this is the next version, or the newest one sent once more."""
    following = len(versions) + 1
    if number == following:
        return
    if number == len(versions) and _digest(label) == versions[-1].label:
        return
    if number < following:
        raise VersionError(
            f"version_{number} exists and is not overwritten; your next one is version_{following}. Nothing was saved."
        )
    raise VersionError(f"your next version is version_{following}, found version_{number}. Nothing was saved.")


def _digest(label: Label) -> str:
    return hashlib.sha256(encode_label(label).content).hexdigest()
