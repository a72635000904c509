"""The site's web server: annotation, review pages, OHIF and its DICOMweb gateway in one ASGI application.

`python -m apps.web --site DIR` serves a site until SIGTERM. Every error is an answer in words: JSON for programs, a
page for browsers; never a traceback, a path of this machine or a patient's identifier.
"""

import argparse
import errno
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from socket import socket
from typing import Any

from apps import compat

compat.mend()

import uvicorn  # noqa: E402  after mending, as everything below leads to monailabel
from fastapi import FastAPI, Request  # noqa: E402
from fastapi.exceptions import RequestValidationError  # noqa: E402
from fastapi.responses import JSONResponse, RedirectResponse, Response  # noqa: E402
from fastapi.routing import APIRoute  # noqa: E402
from sqlalchemy.exc import DataError, OperationalError  # noqa: E402
from starlette.exceptions import HTTPException as StarletteHTTPException  # noqa: E402

import apps.annotation.dicomweb  # noqa: E402
import apps.annotation.ohif  # noqa: E402
import apps.annotation.server  # noqa: E402
import apps.review.api  # noqa: E402
import apps.review.pages  # noqa: E402
from apps.accounts import AccountError, Accounts, OneTimePasswordError, TokenError  # noqa: E402
from apps.addresses import AddressError  # noqa: E402
from apps.annotation.calling import NobodyError  # noqa: E402
from apps.annotation.dicomweb import MonaiLabelPaths  # noqa: E402
from apps.annotation.edits import EditError  # noqa: E402
from apps.annotation.inference_queue import BusyError, InferenceQueue, TooLongError  # noqa: E402
from apps.annotation.main import OverreadApp  # noqa: E402
from apps.annotation.saving import VersionError  # noqa: E402
from apps.annotation.sessions import Sessions  # noqa: E402
from apps.annotation.strategy import StrategyError  # noqa: E402
from apps.annotation.visible import RefusedError  # noqa: E402
from apps.annotation.warming import Warming  # noqa: E402
from apps.archive import Archive  # noqa: E402
from apps.assets import AssetsMissingError  # noqa: E402
from apps.door import Door, TooManyTriesError  # noqa: E402
from apps.identity import Identities, IdentityMiddleware  # noqa: E402
from apps.limits import FORM_FIELD_BYTES_MAX, FORM_FIELDS_MAX, FORM_FILES_MAX, BodyLimit  # noqa: E402
from apps.pacs import PacsError, PacsTimeoutError, pacs_of  # noqa: E402
from apps.pacs_links import LinkError  # noqa: E402
from apps.prelabel_job import PrelabellingError  # noqa: E402
from apps.provider_accounts import NoRoleError  # noqa: E402
from apps.provider_keys import ProviderUnreachableError  # noqa: E402
from apps.provider_sign_in import provider_sign_in  # noqa: E402
from apps.review.disputes import OwnCaseError  # noqa: E402
from apps.review.frame import error_page, sign_in_address, wants_page  # noqa: E402
from apps.review.remembered import Remembered  # noqa: E402
from apps.settings import Site  # noqa: E402
from labeling_protocols.channels import ChannelsError  # noqa: E402
from labeling_protocols.disputes import DisputeError  # noqa: E402
from labeling_protocols.reviews import ReviewError  # noqa: E402
from labeling_protocols.store import LabelError, SeatError, Store, UnknownError  # noqa: E402
from labeling_protocols.volumes import UnreadableVolumeError  # noqa: E402
from labeling_protocols.worklist import WorklistError  # noqa: E402
from training.bundle import BundleError  # noqa: E402
from training.clicks import ClickError  # noqa: E402
from training.registry import NoChampionError  # noqa: E402
from training.stopping import InferenceStopped  # noqa: E402

# What an error of ours is on the wire; its message is the answer.
_STATUS: dict[type[Exception], int] = {
    UnknownError: 404,
    NoChampionError: 409,
    DisputeError: 409,
    VersionError: 409,
    EditError: 409,
    WorklistError: 409,
    StrategyError: 409,
    ReviewError: 422,
    LabelError: 422,
    PrelabellingError: 422,
    ChannelsError: 422,
    UnreadableVolumeError: 422,
    ClickError: 422,
    SeatError: 403,
    RefusedError: 403,
    OwnCaseError: 403,
    NobodyError: 401,
    TokenError: 401,
    NoRoleError: 403,
    OneTimePasswordError: 403,
    TooManyTriesError: 429,
    AccountError: 409,
    AddressError: 404,
    ProviderUnreachableError: 503,
    PacsError: 502,
    PacsTimeoutError: 504,
    LinkError: 503,
    BusyError: 503,
    TooLongError: 504,
    InferenceStopped: 499,  # as nginx says that a client went away
    AssetsMissingError: 503,
    BundleError: 503,
}

_SHOWN = 8
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

log = logging.getLogger("overread.web")


def create_app(site: Site) -> FastAPI:
    """The ASGI application of a site; its store, jobs and index are opened now and closed at shutdown."""
    store = Store(site.database_url, site.blobs)
    annotation = OverreadApp(str(Path(apps.annotation.server.__file__).parent), str(site.root), {}, store)
    archive = Archive(site.folder("archive"), site.secret, pacs_of(site))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        warming = Warming(store, annotation.champions)
        warming.start()
        yield
        warming.close()
        app.state.inference.close()
        archive.close()
        annotation.close()

    app = FastAPI(
        title="Overread",
        version=version("overread"),
        lifespan=lifespan,
        openapi_url=None,  # a route without a role; ours is below
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        form_limits={
            "max_files": FORM_FILES_MAX,
            "max_fields": FORM_FIELDS_MAX,
            "max_part_size": FORM_FIELD_BYTES_MAX,
        },
    )
    app.state.site = site
    app.state.store = store
    accounts = Accounts(store, site)
    app.state.identities = Identities(accounts, site.secret, provider_sign_in(site, store, accounts))
    app.state.door = Door(accounts, site.config.accounts)
    app.state.annotation = annotation
    app.state.archive = archive
    app.state.sessions = Sessions(site.folder("sessions"))
    queue = site.config.inference
    app.state.inference = InferenceQueue(
        at_once=queue.at_once, waiting_max=queue.waiting_max, timeout_s=queue.timeout_seconds
    )
    app.state.remembered = Remembered()
    for module in (apps.review.pages, apps.review.api, apps.annotation.server, apps.annotation.dicomweb):
        app.include_router(module.router)
    app.include_router(apps.annotation.ohif.router)
    app.add_api_route("/healthz", _healthy, methods=["GET"])
    app.add_api_route("/openapi.json", _openapi, methods=["GET"], include_in_schema=False)
    _answer_errors(app)
    app.add_middleware(MonaiLabelPaths)
    app.add_middleware(BodyLimit, upload_max_mb=site.config.web.upload_max_mb)
    app.add_middleware(IdentityMiddleware)
    return app


def _healthy() -> dict[str, str]:
    return {"status": "ok"}


def _openapi(request: Request) -> JSONResponse:
    """What this server's routes take, for programs and for tests that send them nonsense."""
    app: FastAPI = request.app
    return JSONResponse(app.openapi())


def _operation_id(route: APIRoute) -> str:
    return re.sub(r"\W", "_", f"{'_'.join(sorted(route.methods or ()))}{route.path}".lower())


def _answer_errors(app: FastAPI) -> None:
    for error, status in _STATUS.items():
        app.add_exception_handler(error, _own_error(status))
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(OperationalError, _database_error)
    app.add_exception_handler(DataError, _no_text)
    app.add_exception_handler(UnicodeError, _no_text)
    app.add_exception_handler(OSError, _disk_error)
    app.add_exception_handler(Exception, _unexpected)


def _own_error(status: int) -> Callable[[Request, Exception], Response]:
    def answer(request: Request, error: Exception) -> Response:
        return _answer(request, status, str(error.args[0]) if error.args else "")

    return answer


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)  # noqa: S101
    return _answer(request, error.status_code, str(error.detail), dict(error.headers or {}))


def _invalid(request: Request, error: Exception) -> Response:
    """What of a request is missing or wrong, without repeating what was sent."""
    assert isinstance(error, RequestValidationError)  # noqa: S101
    words = "; ".join(f"{_place(e)}: {e['msg']}" for e in error.errors()[:_SHOWN])
    return _answer(request, 422, f"{words}. Nothing was done.")


def _place(error: Any) -> str:
    """Where in a request, by names of ours: a field that is not expected has the caller's own."""
    known = error["loc"][:-1] if error["type"] == "extra_forbidden" else error["loc"]
    return ".".join(ascii(part).strip("'")[:40] for part in known)


def _no_text(request: Request, error: Exception) -> Response:
    """A NUL, half a surrogate pair, a number beyond the database's: no such thing is kept here under any name."""
    log.info("a request was refused: %s", type(error).__name__)
    return _answer(request, 422, "the request has text that is not valid Unicode, or a number out of range.")


def _database_error(request: Request, error: Exception) -> Response:
    log.error("the database refused: %s", type(getattr(error, "orig", error)).__name__)
    return _answer(request, 503, "the site's database is busy, full or out of reach. Nothing was saved; try again.")


def _disk_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)  # noqa: S101
    log.error("the file system refused: %s", error.strerror)
    if error.errno in _NO_ROOM:
        return _answer(request, 507, "there is no room on the site's disk. Nothing was saved.")
    return _unexpected(request, error)


def _unexpected(request: Request, error: Exception) -> Response:
    return _answer(request, 500, "something went wrong here; the server's log says what. Nothing was acknowledged.")


def _answer(request: Request, status: int, words: str, headers: dict[str, str] | None = None) -> Response:
    if wants_page(request):
        if status == 401:
            return RedirectResponse(sign_in_address(request), status_code=303)
        return error_page(request, status, words)
    return JSONResponse({"detail": words}, status_code=status, headers=headers)


def main() -> None:
    """Serve a site; prints one line once it answers."""
    parser = argparse.ArgumentParser(prog="apps.web", description="Serve a site's annotation and review pages.")
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()
    site = Site(arguments.site)
    host, port = arguments.host or site.config.web.host, arguments.port or site.config.web.port
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    for noisy in ("alembic", "dbos", "monailabel", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    config = uvicorn.Config(
        create_app(site), host=host, port=port, access_log=False, log_level="warning", lifespan="on"
    )
    _Server(config).run()


class _Server(uvicorn.Server):
    """uvicorn, saying when it answers."""

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"web: ready on http://{self.config.host}:{self.config.port}", flush=True)


if __name__ == "__main__":
    main()
