"""OHIF at `/ohif/`: the packaged viewer's files out, with our configuration and extension, to whoever is signed in."""

import html
import re
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, RedirectResponse, Response

from apps.annotation import ohif_cases
from apps.annotation.dependencies import Anyone, Drawer
from apps.assets import asset
from apps.identity import Caller
from labeling_protocols.store import UnknownError

router = APIRouter()
router.include_router(ohif_cases.router)  # before the files, whose route takes every other address

_BASE = "/ohif/"
_PATH = re.compile(r"[A-Za-z0-9_@+.-]{1,100}(/[A-Za-z0-9_@+.-]{1,100}){0,9}/?")
_HERE = Path(__file__).parent
_OWN = {
    "app-config.js": _HERE / "ohif_config.js",
    **{f"overread/{path.name}": path for path in (_HERE / "ohif_extension").glob("*.js")},
}
_NEXT = _HERE / "ohif_extension" / "next.html"
# The package is built to lie at the root of a server; its bundles and styles name each other from there.
_MOVED = {
    ".js": ("text/javascript", b'__webpack_require__.p = "/";', b'__webpack_require__.p = "/ohif/";'),
    ".css": ("text/css", b"url(/", b"url(/ohif/"),
}
_KEEP = {"Cache-Control": "private, max-age=3600"}


@router.get("/ohif", include_in_schema=False)
def ohif_without_slash(caller: Anyone) -> Response:
    return RedirectResponse(_BASE, status_code=303)


@router.get("/ohif/next", include_in_schema=False)
def ohif_next(caller: Drawer) -> Response:
    """A page that fetches the caller's next case and opens it, or says in words why OHIF cannot."""
    page = _with_token(_NEXT.read_text(encoding="utf-8"), caller)
    return Response(page, media_type="text/html", headers={"Cache-Control": "no-store"})


@router.get("/ohif/{path:path}", include_in_schema=False)
def ohif(path: str, caller: Anyone) -> Response:
    """A file of the package; addresses without a file's suffix are the viewer's own pages."""
    if path in _OWN:
        return FileResponse(_OWN[path], media_type="text/javascript", headers={"Cache-Control": "no-cache"})
    root = asset("ohif").resolve()
    if path and not _PATH.fullmatch(path):
        raise UnknownError("OHIF has no such file")
    file = (root / path).resolve()
    if path and file.is_relative_to(root) and file.is_file() and file.name != "index.html":
        if file.suffix not in _MOVED:
            return FileResponse(file, headers=_KEEP)
        media_type, root_address, base_address = _MOVED[file.suffix]
        return Response(file.read_bytes().replace(root_address, base_address), media_type=media_type, headers=_KEEP)
    if Path(path).suffix in ("", ".html"):
        return Response(
            _with_token(_index(root), caller), media_type="text/html", headers={"Cache-Control": "no-store"}
        )
    raise UnknownError("OHIF has no such file")


def _index(root: Path) -> str:
    """The packaged page, moved to `/ohif/`."""
    page = (root / "index.html").read_text(encoding="utf-8")
    for attribute in ("href", "src", "content"):
        page = page.replace(f'{attribute}="/', f'{attribute}="{_BASE}')
    return page.replace('PUBLIC_URL="/"', f'PUBLIC_URL="{_BASE}"')


def _with_token(page: str, caller: Caller) -> str:
    """The page with what its scripts must send to show that they are ours (`identity.py`)."""
    token = html.escape(caller.csrf, quote=True)
    return page.replace("<head>", f'<head><meta name="overread-csrf" content="{token}">', 1)
