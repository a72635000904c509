"""What is drawn of a dispute: a case and some of its labels in, NIfTI files out that say nothing of who or when.

Programs get each label as a volume of its own. The page gets the image under the encoding it is stored in, so that
nothing is packed anew, and the readers' outlines together (`outline_files.py`). A browser keeps what it was sent, and
asks each time whether it may still show it: the answer to that is short.
"""

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import zstandard
from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from apps.identity import Caller
from apps.review.access import Adjudicator, TheDispute, TheSite, TheStore
from apps.review.disputes import ShownDispute
from apps.review.outline_files import outline_file
from labeling_protocols.consensus import form_consensus
from labeling_protocols.edits import newest_edit
from labeling_protocols.label import Label
from labeling_protocols.protocol_parts import ConsensusRule
from labeling_protocols.pseudonyms import keyed_digest
from labeling_protocols.store import Store, UnknownError
from labeling_protocols.volumes import volume_bytes

router = APIRouter(prefix="/review/disputes")

_NIFTI = "application/octet-stream"
_GZIP = "application/gzip"
_ZSTD_LEVEL, _ZLIB_LEVEL = 1, 1
_READERS, EDIT = "readers", "edit"


@router.get("/{case}/image.nii")
def image(
    request: Request, dispute: TheDispute, caller: Adjudicator, store: TheStore, site: TheSite, channel: str = ""
) -> Response:
    """The image as NIfTI, sent as it is stored: compressed; of several channels the first, or the one named."""
    path = store.image_path(dispute.case, channel)
    tag = _tag(site.secret, dispute, [path.name])
    return _unless_known(request, tag, lambda headers: _Blob(path, {**headers, "Content-Encoding": "gzip"}))


@router.get("/{case}/image.nii.gz")
def image_file(
    request: Request, dispute: TheDispute, caller: Adjudicator, store: TheStore, site: TheSite, channel: str = ""
) -> Response:
    path = store.image_path(dispute.case, channel)
    tag = _tag(site.secret, dispute, [path.name, _GZIP])
    return _unless_known(request, tag, lambda headers: _Blob(path, headers))


@router.get("/{case}/outlines-{name}.nii")
def outlines(
    request: Request, name: str, dispute: TheDispute, caller: Adjudicator, store: TheStore, site: TheSite
) -> Response:
    """All readers' outlines in one file ("readers"), or those of one source: a consensus rule, or the caller's edit."""
    sources = list(dispute.reads) if name == _READERS else [name]
    digests = _digests(store, dispute, caller, sources)
    coding = "zstd" if "zstd" in request.headers.get("accept-encoding", "") else "gzip"
    tag = _tag(site.secret, dispute, [*digests, coding])

    def answer(headers: dict[str, str]) -> Response:
        labels = {source: _label(store, dispute, caller, source) for source in sources}
        packed = _packed(outline_file(labels, dispute.case.geometry), coding)
        headers |= {"Content-Encoding": coding, "Vary": "Accept-Encoding"}
        return Response(packed, media_type=_NIFTI, headers=headers)

    return _unless_known(request, tag, answer)


@router.get("/{case}/{source}.nii.gz")
def label_file(source: str, dispute: TheDispute, caller: Adjudicator, store: TheStore) -> Response:
    """One label as a volume: reader-A, consensus-staple, edit."""
    kind, _, name = source.partition("-")
    if kind not in ("reader", "consensus", "edit"):
        raise UnknownError("no such file; there are image, reader-…, consensus-… and edit")
    label = _label(store, dispute, caller, name or kind)
    content = volume_bytes(label.volume(), ".nii.gz")
    return Response(content, media_type=_GZIP, headers={"Cache-Control": "private, no-store"})


class _Blob(FileResponse):
    """A stored file, in pieces large enough for volumes; the time it was written stays here."""

    chunk_size = 1 << 20

    def __init__(self, path: Path, headers: Mapping[str, str]) -> None:
        super().__init__(path, media_type=_NIFTI, headers=headers, stat_result=path.stat())
        del self.headers["last-modified"]


def _unless_known(request: Request, tag: str, answer: Callable[[dict[str, str]], Response]) -> Response:
    """The answer, or that the browser's copy is still the same."""
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return answer(headers)


def _tag(secret: bytes, dispute: ShownDispute, parts: list[str]) -> str:
    """A name for a content that only the site's key can make: who knows a label elsewhere does not know it by this."""
    return f'"{keyed_digest(secret, "volume file", dispute.case.id, *parts)[:32]}"'


def _packed(content: bytes, coding: str) -> bytes:
    if coding == "zstd":
        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(content)
    packer = zlib.compressobj(_ZLIB_LEVEL, wbits=31)  # gzip's header, without a time
    return packer.compress(content) + packer.flush()


def _digests(store: Store, dispute: ShownDispute, caller: Caller, sources: list[str]) -> list[str]:
    """What the labels of these sources are made from."""
    edit = newest_edit(store, dispute.case.id, caller.account.id) if EDIT in sources else None
    reads = [f"{letter} {read.label}" for letter, read in dispute.reads.items()]
    return [*sources, *reads, *([edit.label] if edit else [])]


def _label(store: Store, dispute: ShownDispute, caller: Caller, source: str) -> Label:
    """The label of a reader's letter, of a consensus rule, or the caller's own edit."""
    if source in dispute.reads:
        return store.label(dispute.reads[source].label)
    if source in list(ConsensusRule):
        labels = {read.reader: store.label(read.label) for read in dispute.reads.values()}
        return form_consensus(dispute.protocol, labels, ConsensusRule(source)).label
    edit = newest_edit(store, dispute.case.id, caller.account.id) if source == EDIT else None
    if edit is None:
        sources = [*dispute.reads, *ConsensusRule, EDIT]
        raise UnknownError(f"there is no such label of this case; expected one of {', '.join(sources)}")
    return store.label(edit.label)
