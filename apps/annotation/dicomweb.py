"""The DICOMweb gateway: QIDO-RS, WADO-RS and STOW-RS over the site's archive, for OHIF and any other client.

Everybody with an account sees the series that are cases here, de-identified, whether their pixels lie in the site's
folder or in an archive server. The same routes answer where monailabel's plug-ins look for them (`MonaiLabelPaths`).
"""

import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial, wraps
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydicom.uid import UID, ExplicitVRLittleEndian
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from apps.annotation import dicomweb_store
from apps.annotation.dependencies import Anyone, Overread, Worker
from apps.annotation.dicomweb_asked import (
    Place,
    anywhere,
    in_frames,
    in_instance,
    in_series,
    in_study,
    rendering_of,
    search_of,
    wants_one_file,
    wants_uncompressed,
)
from apps.annotation.dicomweb_frames import file_of, frames, pixel_data
from apps.annotation.dicomweb_multipart import Part, multipart, part_files
from apps.annotation.dicomweb_rendered import Rendering, rendered
from apps.archive import Archive
from apps.archive_index import Found, Index, Slice
from apps.incoming import incoming
from apps.settings import Site
from labeling_protocols.store import UnknownError

__all__ = ["Archive", "MonaiLabelPaths", "TheArchive", "router"]

ADDRESS = "/dicomweb"
router = APIRouter(prefix=ADDRESS)
_MONAILABEL = re.compile(r"^/proxy/dicom/(qido|wado|stow)(?=/)")

_JSON = "application/dicom+json"
_DICOM = "application/dicom"
_AT_ONCE = 50  # headers between two pieces of an answer
_THUMBNAIL_XY = (128, 128)
_PIXEL_DATA = "7FE00010"


def _archive(request: Request) -> Archive:
    archive: Archive = request.app.state.archive
    return archive


TheArchive = Annotated[Archive, Depends(_archive)]


# QIDO-RS


async def search_studies(request: Request, caller: Anyone, archive: TheArchive, where: Place) -> Response:
    asked = search_of(request)
    return await _found(request, archive, lambda index: index.studies(**asked))


async def search_series(request: Request, caller: Anyone, archive: TheArchive, where: Place) -> Response:
    asked = search_of(request)
    return await _found(request, archive, lambda index: index.series(where.study, **asked))


async def search_instances(request: Request, caller: Anyone, archive: TheArchive, where: Place) -> Response:
    asked = search_of(request)
    return await _found(request, archive, lambda index: index.instances(where.study, where.series, **asked))


# WADO-RS


async def metadata(request: Request, caller: Anyone, archive: TheArchive, where: Place) -> Response:
    """Headers of a study, a series or an instance, without pixel data: that is in frames, and in bulk data."""
    slices = await _slices(archive, where)

    def told(start: int) -> bytes:
        some = slices[start : start + _AT_ONCE]
        return ",".join(json.dumps(_header(archive, one)) for one in some).encode()

    first = await archive.within(lambda: told(0))

    async def body() -> AsyncIterator[bytes]:
        yield b"[" + first
        for start in range(_AT_ONCE, len(slices), _AT_ONCE):
            yield b"," + await archive.within(partial(told, start))
        yield b"]"

    return StreamingResponse(body(), media_type=_JSON)


async def retrieve(request: Request, caller: Anyone, archive: TheArchive, where: Place) -> Response:
    """The DICOM files of a study, a series or an instance, one after another."""
    slices = await _slices(archive, where)
    uncompressed = wants_uncompressed(request)

    def file(one: Slice) -> bytes | Path:
        whole = None if uncompressed else archive.whole_file(one)
        return whole or file_of(archive.image(one), uncompressed=uncompressed)

    async def parts() -> AsyncIterator[Part]:
        for one in slices:
            yield _DICOM, await archive.within(partial(file, one))

    if where.instance is not None and wants_one_file(request):
        content = await archive.within(lambda: file(slices[0]))
        if isinstance(content, Path):
            return FileResponse(content, media_type=_DICOM)
        return Response(content, media_type=_DICOM)
    return await multipart(_DICOM, parts())


async def retrieve_frames(request: Request, caller: Anyone, archive: TheArchive, where: Place) -> Response:
    """Frames (1-based, comma-separated) as they are stored, uncompressed ones as Explicit VR Little Endian."""
    [one] = await _slices(archive, where)
    uncompressed = wants_uncompressed(request)
    return await _several(
        await archive.within(lambda: frames(archive.image(one), where.frames, uncompressed=uncompressed))
    )


async def retrieve_bulkdata(caller: Anyone, archive: TheArchive, where: Place, tag: str) -> Response:
    """The pixel data of an instance as a whole, compressed frames one by one; all else is in its metadata."""
    if tag.upper() != _PIXEL_DATA:
        raise UnknownError(f"this instance has no bulk data but {_PIXEL_DATA}")
    [one] = await _slices(archive, where)
    return await _several(await archive.within(lambda: pixel_data(archive.image(one))))


async def retrieve_rendered(request: Request, caller: Anyone, archive: TheArchive, where: Place) -> Response:
    """One frame as a JPEG or PNG (PS3.18 8.3.5): `window`, `viewport`, `quality`, `accept`."""
    return await _picture(archive, where, rendering_of(request))


async def retrieve_thumbnail(request: Request, caller: Anyone, archive: TheArchive, where: Place) -> Response:
    """A small picture of an instance, or of the middle of a series or study (PS3.18 10.4.1.1.5)."""
    return await _picture(archive, where, rendering_of(request, viewport_XY=_THUMBNAIL_XY))


# STOW-RS


async def store(request: Request, caller: Worker, overread: Overread, where: Place, protocol: str = "") -> Response:
    """A reader's segmentations, or series of an engineer: `protocol` names what they are labelled under."""
    site: Site = request.app.state.site
    base = _base(request)
    with incoming(site) as folder:
        files = await part_files(request, folder)
        if not files:
            raise HTTPException(400, "the body has no parts. Nothing was stored.")
        answer = await run_in_threadpool(
            lambda: dicomweb_store.store(overread, site, caller, files, study=where.study, protocol=protocol, base=base)
        )
    headers = {"Warning": _warning("; ".join(answer.reasons))} if answer.reasons else {}
    return Response(json.dumps(answer.body), answer.status, headers, media_type=_JSON)


# What each answer is made with


async def _slices(archive: Archive, where: Place) -> list[Slice]:
    """The images that the request's address names, at least one."""
    study = where.study or ""
    return await archive.within(lambda: archive.slices(study, where.series, where.instance))


async def _found(request: Request, archive: Archive, question: Callable[[Index], Found]) -> Response:
    found = await archive.within(lambda: archive.ask(question))
    headers = {}
    if found.more:
        headers["Warning"] = _warning("There are additional results that can be requested")
    elif found.passed_over:
        headers["Warning"] = _warning(f"not matched here: {', '.join(found.passed_over)}")
    rows = [{**row, "00081190": {"vr": "UR", "Value": [_address(_base(request), row)]}} for row in found.rows]
    return Response(json.dumps(rows).encode(), headers=headers, media_type=_JSON)


async def _several(found: Sequence[tuple[str, bytes]]) -> Response:
    async def parts() -> AsyncIterator[Part]:
        for part in found:
            yield part

    return await multipart(found[0][0].partition(";")[0], parts())


async def _picture(archive: Archive, where: Place, asked: Rendering) -> Response:
    if len(where.frames) > 1:
        raise HTTPException(400, "one frame is rendered at a time")
    slices = await _slices(archive, where)
    one = slices[len(slices) // 2]
    content = await archive.within(lambda: rendered(archive.image(one), where.frames[0], asked))
    return Response(content, media_type=asked.media_type)


def _header(archive: Archive, one: Slice) -> dict[str, Any]:
    header = archive.header(one)
    # OHIF 3.13 takes the first letter of this word for the word and then shows nothing; PS3.3 C.11.2.1.3: it is the
    # default, so without it nothing is said otherwise.
    if header.get("VOILUTFunction") == "LINEAR":
        del header.VOILUTFunction
    syntax = header.file_meta.TransferSyntaxUID
    header.AvailableTransferSyntaxUID = syntax if UID(syntax).is_encapsulated else ExplicitVRLittleEndian
    told: dict[str, Any] = header.to_json_dict(suppress_invalid_tags=True)
    return told


def _base(request: Request) -> str:
    return f"{str(request.base_url).rstrip('/')}{ADDRESS}"


def _address(base: str, row: dict[str, Any]) -> str:
    """Where what a row tells of is retrieved."""
    parts = (("studies", "0020000D"), ("series", "0020000E"), ("instances", "00080018"))
    return base + "".join(f"/{part}/{row[tag]['Value'][0]}" for part, tag in parts if tag in row)


def _warning(words: str) -> str:
    """A Warning header (PS3.18 8.3.4.4, 10.5.3); headers are ASCII."""
    plain = re.sub(r"[^ !#-\[\]-~]", "?", words)
    return f'299 overread "{plain}"'


_STUDY = "/studies/{study}"
_SERIES = f"{_STUDY}/series/{{series}}"
_INSTANCE = f"{_SERIES}/instances/{{instance}}"
_FRAMES = f"{_INSTANCE}/frames/{{numbers}}"
_WITHIN = ((_STUDY, in_study), (_SERIES, in_series), (_INSTANCE, in_instance))
_Route = tuple[str, str, Callable[..., Any], Callable[..., Place]]
ROUTES: tuple[_Route, ...] = (
    ("GET", "/studies", search_studies, anywhere),
    ("GET", "/series", search_series, anywhere),
    ("GET", f"{_STUDY}/series", search_series, in_study),
    ("GET", "/instances", search_instances, anywhere),
    ("GET", f"{_STUDY}/instances", search_instances, in_study),
    ("GET", f"{_SERIES}/instances", search_instances, in_series),
    *(("GET", path, retrieve, place) for path, place in _WITHIN),
    *(("GET", f"{path}/metadata", metadata, place) for path, place in _WITHIN),
    *(("GET", f"{path}/thumbnail", retrieve_thumbnail, place) for path, place in _WITHIN),
    ("GET", f"{_INSTANCE}/rendered", retrieve_rendered, in_instance),
    ("GET", f"{_INSTANCE}/bulkdata/{{tag}}", retrieve_bulkdata, in_instance),
    ("GET", _FRAMES, retrieve_frames, in_frames),
    ("GET", f"{_FRAMES}/rendered", retrieve_rendered, in_frames),
    ("GET", f"{_FRAMES}/thumbnail", retrieve_thumbnail, in_frames),
    ("POST", "/studies", store, anywhere),
    ("POST", _STUDY, store, in_study),
)


def _at(place: Callable[..., Place], handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler with its `where` from this part of a path, which is looked at once the caller is known."""

    @wraps(handler)
    async def placed(**given: Any) -> Response:
        return await handler(**given)

    asks = signature(handler)
    where = asks.parameters["where"].replace(annotation=Annotated[Place, Depends(place)])
    parameters = [where if one.name == "where" else one for one in asks.parameters.values()]
    placed.__signature__ = asks.replace(parameters=parameters)  # type: ignore[attr-defined]
    return placed


for _method, _path, _handler, _place in ROUTES:
    router.add_api_route(_path, _at(_place, _handler), methods=[_method])


class MonaiLabelPaths:
    """Answers at `/proxy/dicom/{qido,wado,stow}/…`, where OHIF with monailabel's plug-in asks, as at `/dicomweb/…`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = _MONAILABEL.sub(ADDRESS, scope["path"])
        await self._app(scope, receive, send)
