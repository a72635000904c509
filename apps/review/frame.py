"""What every page has: its frame, its style and its security headers; a template and values in, an answer out."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from fastapi.templating import Jinja2Templates

from apps.assets import asset
from apps.identity import Caller, Means, requires
from labeling_protocols.records import Role
from labeling_protocols.store import UnknownError

router = APIRouter()

_HERE = Path(__file__).parent
_templates = Jinja2Templates(_HERE / "templates")
_STATIC = {"review.css": "text/css"} | dict.fromkeys(
    ("dispute.js", "volume.js", "outlines.js", "drawing.js", "decision.js", "claim.js", "queue.js", "tables.js"),
    "text/javascript",
)
_PACKAGES = {"niivue.umd.js": "niivue", "htmx.min.js": "htmx"}
# Nothing but this server's own files runs or is asked; NiiVue draws from blobs and starts a worker from one.
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:;"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_PAGES = ("/", "/sign-in", "/account", "/accounts", "/work", "/work/", "/ohif", "/ohif/", "/ohif/next")
_PAGES_BELOW = ("/review", "/ohif/viewer", "/ohif/segmentation", "/account/", "/accounts/", "/sign-in/", "/work/")

SignedIn = Annotated[Caller, requires(means=(Means.COOKIE,))]


@router.get("/review/static/{name}", include_in_schema=False)
def static(name: str) -> Response:
    """Style, script and viewer: the same for everybody, so nobody needs to sign in for them."""
    if name in _PACKAGES:
        return FileResponse(asset(_PACKAGES[name], name), media_type="text/javascript")
    if name not in _STATIC:
        raise UnknownError("no such file")
    return FileResponse(_HERE / "static" / name, media_type=_STATIC[name])


def page(request: Request, template: str, caller: Caller | None, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page with the frame every page has."""
    values |= {
        "caller": caller,
        "csrf": caller.csrf if caller else "",
        "may_adjudicate": caller is not None and caller.has(Role.ADJUDICATOR, Role.ADMINISTRATOR),
        "may_lead": caller is not None and caller.has(Role.ADJUDICATOR, Role.ADMINISTRATOR, Role.ENGINEER),
        "may_administer": caller is not None and caller.has(Role.ADMINISTRATOR),
        "may_read": caller is not None and caller.has(Role.READER),
        "may_see_seats": caller is not None and may_see_seats(caller),
        "may_see_figures": caller is not None and may_see_figures(caller),
    }
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
    return _templates.TemplateResponse(request, template, values, status_code=status, headers=headers)


def may_see_seats(caller: Caller) -> bool:
    """Administrators, and adjudicators who read no cases: the others would see how far other readers are."""
    return caller.has(Role.ADMINISTRATOR) or (caller.has(Role.ADJUDICATOR) and not caller.has(Role.READER))


def may_see_figures(caller: Caller) -> bool:
    """Leads who read no cases, whatever else they are: agreement tells of other readers' work."""
    return caller.has(Role.ADJUDICATOR, Role.ADMINISTRATOR, Role.ENGINEER) and not caller.has(Role.READER)


def sentence(error: Exception) -> str:
    """An error of ours as a sentence on a page."""
    return sentence_of(str(error.args[0]) if error.args else "")


def sentence_of(words: str) -> str:
    """Words of ours as a sentence on a page."""
    full = words if words.endswith(".") or not words else f"{words}."
    return full[:1].upper() + full[1:]


def wants_page(request: Request) -> bool:
    """Whether a person in a browser asked for this, not a program or a page's own script."""
    path = request.url.path
    of_ours = path in _PAGES or path.startswith(_PAGES_BELOW)
    return of_ours and not path.startswith("/review/api") and "text/html" in request.headers.get("accept", "")


def sign_in_address(request: Request) -> str:
    """The sign-in page, which leads back to what was asked for."""
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return f"/sign-in?next={quote(asked if request.method == 'GET' else '/', safe='')}"


def error_page(request: Request, status: int, words: str) -> Response:
    return page(request, "message.html", None, status=status, words=words)
