"""How much a request may carry: a request in, 413 in words out where its body is larger than its route takes.

Uploads may be large, and only from somebody who is known; whoever else calls may send a form, no volume.
"""

from fastapi import FastAPI, HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.accounts import TokenError

# Of one form: each file is one that this server has open, and each field is held in memory.
FORM_FILES_MAX = 4
FORM_FIELDS_MAX = 32
FORM_FIELD_BYTES_MAX = 4 << 20

_SMALL = 1 << 20
_UPLOADS = ("/datastore/label", "/infer/", "/session/", "/ohif/cases/")
_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class BodyLimit:
    """Counts a request's body as it comes, and refuses the rest of one that is too large."""

    def __init__(self, app: ASGIApp, upload_max_mb: int) -> None:
        self._app = app
        self._upload_max = upload_max_mb << 20

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in _WITH_BODY:
            await self._app(scope, receive, send)
            return
        limit = self._upload_max if await self._may_upload(scope, receive) else _SMALL
        if _declared(scope) > limit:
            await JSONResponse({"detail": _words(limit)}, status_code=413)(scope, receive, send)
            return
        came = 0

        async def counting() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > limit:
                raise HTTPException(413, _words(limit))
            return message

        await self._app(scope, counting, send)

    async def _may_upload(self, scope: Scope, receive: Receive) -> bool:
        if not scope["path"].startswith(_UPLOADS):
            return False
        app: FastAPI = scope["app"]
        try:
            return await run_in_threadpool(app.state.identities.caller, Request(scope, receive)) is not None
        except TokenError:
            return False


def _declared(scope: Scope) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() and len(length) < 20 else 0


def _words(limit: int) -> str:
    return f"the request is larger than the {limit >> 20} MB that are taken here. Nothing was kept."
