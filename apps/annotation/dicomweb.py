"""A read-only DICOMweb gateway over the site's archive of de-identified series: QIDO-RS and WADO-RS for OHIF.

dicomweb-client's `DICOMfileClient` keeps the index and answers searches; roles are enforced here.
"""

import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import requests
from dicomweb_client import DICOMfileClient
from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.uid import UID, ExplicitVRLittleEndian

from apps.annotation.dependencies import Anyone
from labeling_protocols.store import UnknownError

router = APIRouter(prefix="/dicomweb")

# Its messages repeat what was searched for, which can be a patient's name typed into the wrong box.
logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL)

_UID = re.compile(r"^[0-9.]{1,64}$")
_LOOK_AGAIN_S = 1.0
_JSON = "application/dicom+json"
_CONTROL = {"limit", "offset", "fuzzymatching", "includefield"}
# PS3.18 table 8.7.3-2: what a compressed frame is called on the wire.
_MEDIA_TYPES = {
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}

_Answer = TypeVar("_Answer")


class Archive:
    """The archive's index. SQLite's connection stays in one thread, so every question is asked there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="archive")
        self._client: DICOMfileClient | None = None
        self._seen: object = None
        self._looked = 0.0

    def ask(self, question: Callable[[DICOMfileClient], _Answer]) -> _Answer:
        """The answer of the index, which is made anew where the folder has changed."""
        try:
            return self._thread.submit(lambda: question(self._current())).result()
        except requests.HTTPError as error:  # what the client makes of any mistake in a search
            raise HTTPException(400, "this search cannot be answered") from error

    def path(self, study: str, series: str, instance: str) -> Path:
        """The file of an instance; raises `UnknownError`."""
        try:
            # The client's own retrieval knows no implicit VR, the most common syntax, so only its index is used.
            return self.ask(lambda client: client._db_manager.get_instance_file_path(study, series, instance))
        except OSError as error:
            raise UnknownError("no such instance in this archive") from error

    def close(self) -> None:
        self._thread.shutdown()

    def _current(self) -> DICOMfileClient:
        if self._client is None or time.monotonic() - self._looked > _LOOK_AGAIN_S:
            state = sorted((entry.name, entry.stat().st_mtime_ns) for entry in self._folder.iterdir())
            if self._client is None or state != self._seen:
                self._client = DICOMfileClient(self._folder.as_uri(), in_memory=True, readonly=True)
                self._seen = state
            self._looked = time.monotonic()
        return self._client


def _archive(request: Request) -> Archive:
    archive: Archive = request.app.state.archive
    return archive


TheArchive = Annotated[Archive, Depends(_archive)]


@router.get("/studies")
def search_studies(request: Request, caller: Anyone, archive: TheArchive) -> Response:
    asked = _search(request)
    return _as_json(archive.ask(lambda client: client.search_for_studies(**asked)))


@router.get("/studies/{study}/series")
def search_series(study: str, request: Request, caller: Anyone, archive: TheArchive) -> Response:
    asked = _search(request)
    return _as_json(archive.ask(lambda client: client.search_for_series(_uid(study), **asked)))


@router.get("/studies/{study}/series/{series}/instances")
def search_instances(study: str, series: str, request: Request, caller: Anyone, archive: TheArchive) -> Response:
    asked = _search(request)
    return _as_json(archive.ask(lambda client: client.search_for_instances(_uid(study), _uid(series), **asked)))


@router.get("/studies/{study}/metadata")
def study_metadata(study: str, caller: Anyone, archive: TheArchive) -> Response:
    found = archive.ask(lambda client: client.search_for_instances(_uid(study)))
    return _metadata([archive.path(study, _value(i, "0020000E"), _value(i, "00080018")) for i in found])


@router.get("/studies/{study}/series/{series}/metadata")
def series_metadata(study: str, series: str, caller: Anyone, archive: TheArchive) -> Response:
    found = archive.ask(lambda client: client.search_for_instances(_uid(study), _uid(series)))
    return _metadata([archive.path(study, series, _value(instance, "00080018")) for instance in found])


@router.get("/studies/{study}/series/{series}/instances/{instance}/metadata")
def instance_metadata(study: str, series: str, instance: str, caller: Anyone, archive: TheArchive) -> Response:
    return _metadata([archive.path(_uid(study), _uid(series), _uid(instance))])


@router.get("/studies/{study}/series/{series}/instances/{instance}")
def retrieve_instance(study: str, series: str, instance: str, caller: Anyone, archive: TheArchive) -> Response:
    content = archive.path(_uid(study), _uid(series), _uid(instance)).read_bytes()
    return _multipart([("application/dicom", content)])


@router.get("/studies/{study}/series/{series}/instances/{instance}/frames/{numbers}")
def retrieve_frames(
    study: str, series: str, instance: str, numbers: str, caller: Anyone, archive: TheArchive
) -> Response:
    """Frames (1-based, comma-separated) as they are stored, uncompressed ones as Explicit VR Little Endian."""
    if not re.fullmatch(r"\d{1,6}(,\d{1,6}){0,999}", numbers):
        raise HTTPException(400, "expected frame numbers separated by commas")
    image = dcmread(archive.path(_uid(study), _uid(series), _uid(instance)))
    return _multipart([_frame(image, int(number)) for number in numbers.split(",")])


def _frame(image: Dataset, number: int) -> tuple[str, bytes]:
    count = int(image.get("NumberOfFrames") or 1)
    if not 1 <= number <= count or "PixelData" not in image:
        raise UnknownError(f"no such frame; this instance has {count if 'PixelData' in image else 0}")
    syntax = UID(image.file_meta.TransferSyntaxUID)
    if syntax.is_encapsulated:
        media = _MEDIA_TYPES.get(syntax, "application/octet-stream")
        return f"{media}; transfer-syntax={syntax}", get_frame(image.PixelData, number - 1, number_of_frames=count)
    bits = image.Rows * image.Columns * image.SamplesPerPixel * image.BitsAllocated
    if bits % 8:
        raise HTTPException(406, "frames that do not end on a whole byte are only served with their instance")
    content = image.PixelData[(number - 1) * bits // 8 : number * bits // 8]
    if not syntax.is_little_endian and image.BitsAllocated == 16:
        content = np.frombuffer(content, ">u2").astype("<u2").tobytes()
    return f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}", content


def _search(request: Request) -> dict[str, Any]:
    """QIDO-RS parameters as the client takes them; keys it cannot match on are passed over, as PS3.18 allows."""
    query = request.query_params
    try:
        counts = {name: int(query[name]) for name in ("limit", "offset") if name in query}
    except ValueError as error:
        raise HTTPException(400, "limit and offset must be whole numbers") from error
    if any(not 0 <= count < 2**31 for count in counts.values()):
        raise HTTPException(400, "limit and offset must not be negative")
    filters = {key: value for key, value in query.items() if key.lower() not in _CONTROL and value}
    return {**counts, "fuzzymatching": query.get("fuzzymatching") == "true", "search_filters": filters}


def _uid(text: str) -> str:
    if not _UID.match(text):
        raise UnknownError("a UID has digits and dots only, 64 at most")
    return text


def _value(found: dict[str, Any], tag: str) -> str:
    return str(found[tag]["Value"][0])


def _metadata(paths: Sequence[Path]) -> Response:
    if not paths:
        raise UnknownError("nothing of this is in the archive")
    answers = []
    for path in paths:
        image = dcmread(path, stop_before_pixels=True)
        syntax = image.file_meta.TransferSyntaxUID
        # OHIF 3.13 takes the first letter of this word for the word and then shows nothing; PS3.3 C.11.2.1.3: it is the
        # default, so without it nothing is said otherwise.
        if image.get("VOILUTFunction") == "LINEAR":
            del image.VOILUTFunction
        image.AvailableTransferSyntaxUID = syntax if UID(syntax).is_encapsulated else ExplicitVRLittleEndian
        answers.append(image.to_json_dict(suppress_invalid_tags=True))
    return _as_json(answers)


def _as_json(content: Any) -> Response:
    return Response(json.dumps(content).encode(), media_type=_JSON)


def _multipart(parts: Sequence[tuple[str, bytes]]) -> Response:
    boundary = secrets.token_hex(16)
    body = b"".join(
        f"--{boundary}\r\nContent-Type: {media}\r\n\r\n".encode() + content + b"\r\n" for media, content in parts
    )
    kind = parts[0][0].partition(";")[0]
    media_type = f'multipart/related; type="{kind}"; boundary={boundary}'
    return Response(body + f"--{boundary}--\r\n".encode(), media_type=media_type)
