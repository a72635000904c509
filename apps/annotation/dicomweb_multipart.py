"""Multipart bodies of DICOMweb (PS3.18 8.6): parts streamed out, or an uploaded body's parts streamed into files."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from fastapi import HTTPException, Request
from fastapi.responses import StreamingResponse
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

Part = tuple[str, bytes | Path]

PARTS_MAX = 10_000
_CHUNK_BYTES = 1 << 20


async def multipart(kind: str, parts: AsyncIterator[Part]) -> StreamingResponse:
    """An answer whose parts are made while it is sent; the first is awaited, so that its failure is still a status."""
    boundary = secrets.token_hex(16)
    first = await anext(parts)
    media_type = f'multipart/related; type="{kind}"; boundary={boundary}'
    return StreamingResponse(_body(boundary, first, parts), media_type=media_type)


async def _body(boundary: str, first: Part, rest: AsyncIterator[Part]) -> AsyncIterator[bytes]:
    async for chunk in _part(boundary, first):
        yield chunk
    async for part in rest:
        async for chunk in _part(boundary, part):
            yield chunk
    yield f"--{boundary}--\r\n".encode()


async def _part(boundary: str, part: Part) -> AsyncIterator[bytes]:
    media, content = part
    head = f"--{boundary}\r\nContent-Type: {media}\r\n\r\n".encode()
    if isinstance(content, bytes):
        yield head + content + b"\r\n"
        return
    yield head
    with content.open("rb") as file:
        while chunk := await run_in_threadpool(file.read, _CHUNK_BYTES):
            yield chunk
    yield b"\r\n"


async def part_files(request: Request, folder: Path) -> list[Path]:
    """Each DICOM file of an uploaded multipart/related body, in `folder`; raises an `HTTPException` in words."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    told = options.get(b"type", b"application/dicom").decode("latin-1").lower()
    if kind != b"multipart/related" or b"boundary" not in options or told != "application/dicom":
        raise HTTPException(
            415, 'expected multipart/related; type="application/dicom"; boundary=…. Nothing was stored.'
        )
    waiting = bytearray()
    try:
        writing = _Writing(folder, options[b"boundary"])
        try:
            async for chunk in request.stream():
                waiting += chunk
                if len(waiting) >= _CHUNK_BYTES:
                    await run_in_threadpool(writing.write, bytes(waiting))
                    waiting.clear()
            await run_in_threadpool(writing.write, bytes(waiting))
        finally:
            writing.close()
    except FormParserError as error:
        raise HTTPException(400, "the body is not what multipart/related has to be. Nothing was stored.") from error
    if not writing.ended:
        raise HTTPException(400, "the body ends within a part: some of it is missing. Nothing was stored.")
    return writing.paths


class _Writing:
    """Parts written into numbered files while the body comes."""

    def __init__(self, folder: Path, boundary: bytes) -> None:
        self.paths: list[Path] = []
        self.ended = False
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._name, self._value = bytearray(), bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._header,
                "on_part_data": self._write,
                "on_part_end": self.close,
                "on_end": self._end,
            },
        )

    def write(self, data: bytes) -> None:
        self._parser.write(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self) -> None:
        if len(self.paths) >= PARTS_MAX:
            raise HTTPException(413, f"more than {PARTS_MAX} instances in one request. Nothing was stored.")
        self.paths.append(self._folder / f"{len(self.paths):05d}")
        self._file = self.paths[-1].open("xb")

    def _header(self) -> None:
        name, value = bytes(self._name).strip().lower(), bytes(self._value).strip().lower()
        self._name.clear()
        self._value.clear()
        if name == b"content-type" and value.partition(b";")[0].strip() != b"application/dicom":
            raise HTTPException(415, "a part is no application/dicom, which is all that is taken. Nothing was stored.")

    def _write(self, data: bytes, start: int, end: int) -> None:
        assert self._file is not None  # noqa: S101  the parser begins a part before it gives its data
        self._file.write(data[start:end])

    def _end(self) -> None:
        self.ended = True
