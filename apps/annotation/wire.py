"""The odd corners of monailabel's wire format: multipart answers in, and uploads whose headers lie, read."""

import json
import secrets
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.datastructures import FormData, Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from apps.annotation.served_model import Proposal
from apps.limits import FORM_FIELDS_MAX, FORM_FILES_MAX
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label, LabelError
from labeling_protocols.label_files import MARKUPS, LabelFormat, write_label
from labeling_protocols.protocol import Protocol
from labeling_protocols.volumes import volume_bytes

_PIECE_BYTES = 1 << 20
_RESULT_SUFFIXES = (".nrrd", ".nii.gz", ".nii")


def params_of(text: str) -> dict[str, Any]:
    """The form field `params`, a JSON object; raises `LabelError`."""
    try:
        params = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise LabelError("params is not valid JSON. Nothing was done.") from error
    if not isinstance(params, dict):
        raise LabelError("params must be a JSON object. Nothing was done.")
    return params


def result_suffix(params: dict[str, Any]) -> str:
    """The file suffix a viewer asks the result in, `.nrrd` where it asks for none."""
    suffix = params.get("result_extension") or ".nrrd"
    if suffix not in _RESULT_SUFFIXES:
        raise LabelError(f"result_extension must be one of {', '.join(_RESULT_SUFFIXES)}. Nothing was done.")
    return str(suffix)


def infer_answer(proposal: Proposal, name: str, suffix: str, output: str) -> Response:
    """A proposal as monailabel answers it: `image`, `json`, or both in one multipart body (`all`).

    Markups are one file whatever suffix was asked for. Where nothing was found the body has none: 3D Slicer takes a
    file without any markup for a damaged one.
    """
    if output == "json":
        return JSONResponse(dict(proposal.params))
    if proposal.label is None:
        content, suffix = proposal.markups, MARKUPS
    else:
        content = result_bytes(proposal.label, suffix)
    # Viewers store the result under this name: two at once must not collide.
    filename = f"{name}_{secrets.token_hex(4)}{suffix}"
    if output == "image":
        return _streamed([content], "application/octet-stream", **_disposition(filename))
    boundary = secrets.token_hex(16)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n'
        f"{json.dumps(proposal.params)}\r\n".encode()
    ]
    if not proposal.empty:
        parts += [
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{filename}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n".encode(),
            content,
            b"\r\n",
        ]
    parts.append(f"--{boundary}--\r\n".encode())
    return _streamed(parts, f"multipart/form-data; boundary={boundary}")


def result_bytes(label: Volume, suffix: str) -> bytes:
    """A label as a file. ITK's fastest gzip takes milliseconds, makes it a hundred times smaller, and reads as fast."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"label{suffix}"
        sitk.WriteImage(label.to_sitk(), str(path), useCompression=suffix != ".nii", compressionLevel=1)
        return path.read_bytes()


def _streamed(parts: Sequence[bytes], media_type: str, **headers: str) -> Response:
    """A body handed on piece by piece: it never stands in memory twice, and others are served between the pieces."""

    async def pieces() -> AsyncIterator[bytes]:
        for part in parts:
            for start in range(0, len(part), _PIECE_BYTES):
                yield part[start : start + _PIECE_BYTES]

    length = str(sum(map(len, parts)))
    return StreamingResponse(pieces(), media_type=media_type, headers={"Content-Length": length, **headers})


def label_content(label: Label, protocol: Protocol) -> tuple[bytes, str]:
    """A label as a file and its suffix: a plain volume, or 3D Slicer's segmentation where structures overlap."""
    if len(label.layers_LZYX) < 2:
        return volume_bytes(label.volume(), ".nrrd"), ".nrrd"
    with tempfile.TemporaryDirectory() as folder:
        [path] = write_label(replace(label, boxes=(), points=()), protocol, Path(folder), "label", LabelFormat.SEG_NRRD)
        return path.read_bytes(), ".seg.nrrd"


def attachment(content: bytes, filename: str) -> Response:
    """A file to save under this name, which is one of ours."""
    return Response(content, media_type="application/octet-stream", headers=_disposition(filename))


def _disposition(filename: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{filename}"'}


async def uploaded(request: Request) -> FormData:
    """The fields of a multipart upload, its boundary taken from the body.

    monailabel's client keeps the content type of its last request in its headers, once it has a token, and sends it
    with the next upload. Raises `LabelError` for a body that is no multipart form.
    """
    stream = request.stream()
    head = b""
    async for chunk in stream:
        head += chunk
        if b"\n" in head:
            break
    first = head.partition(b"\n")[0].strip()
    if not first.startswith(b"--") or not 3 <= len(first) <= 202:
        raise LabelError("expected a multipart upload with one volume file. Nothing was kept.")
    headers = Headers({"content-type": f"multipart/form-data; boundary={first[2:].decode('latin-1')}"})

    async def whole() -> AsyncGenerator[bytes, None]:
        yield head
        async for chunk in stream:
            yield chunk

    try:
        return await MultiPartParser(headers, whole(), max_files=FORM_FILES_MAX, max_fields=FORM_FIELDS_MAX).parse()
    except MultiPartException as error:
        raise LabelError("the multipart upload is damaged. Nothing was kept.") from error
