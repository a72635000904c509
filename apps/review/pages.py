"""The pages people open in a browser: sign-in, home, the queue of disputes, one dispute, progress."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates
from starlette.concurrency import run_in_threadpool

from apps.accounts import TokenError
from apps.assets import asset
from apps.identity import COOKIE, Caller, Identities, Means, requires, same_origin
from apps.review.api import Adjudicator, Decision, Lead, TheDispute, TheSite, TheStore, counts_of, decide, detail
from apps.review.disputes import open_disputes
from labeling_protocols.records import Role
from labeling_protocols.settlement import AdjudicationError
from labeling_protocols.store import UnknownError

router = APIRouter()

_HERE = Path(__file__).parent
_templates = Jinja2Templates(_HERE / "templates")
_STATIC = {"review.css": "text/css", "dispute.js": "text/javascript"}
_SESSION_MINUTES = 720
# Nothing but this server's own files runs or is asked; NiiVue draws from blobs and starts a worker from one.
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:;"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

SignedIn = Annotated[Caller, requires(means=(Means.COOKIE,))]


@router.get("/")
def home(request: Request, store: TheStore) -> Response:
    """Where to go from here; who is not signed in is asked to."""
    caller = _known(request)
    if caller is None:
        return RedirectResponse("/sign-in", status_code=303)
    return page(request, "home.html", caller, server=str(request.base_url).rstrip("/"))


@router.get("/sign-in")
def sign_in_page(request: Request, next: str = "/") -> Response:
    return page(request, "sign_in.html", None, next=_own_path(next))


@router.post("/sign-in")
async def sign_in(
    request: Request,
    name: Annotated[str, Form()],
    password: Annotated[str, Form()],
    next: Annotated[str, Form()] = "/",
) -> Response:
    """A cookie for a name and password, which scripts cannot read and other sites cannot use."""
    identities: Identities = request.app.state.identities
    if not same_origin(request):
        raise HTTPException(403, "this sign-in did not come from a page of this server. Nothing was done.")
    account = await run_in_threadpool(identities.accounts.sign_in, name, password)
    if account is None:
        words = "Unknown name or wrong password."
        return page(request, "sign_in.html", None, status=401, next=_own_path(next), name=name, problem=words)
    answer = RedirectResponse(_own_path(next), status_code=303)
    answer.set_cookie(
        COOKIE,
        identities.accounts.token(account, minutes=_SESSION_MINUTES),
        max_age=60 * _SESSION_MINUTES,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/sign-out")
def sign_out(caller: SignedIn) -> Response:
    answer = RedirectResponse("/sign-in", status_code=303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


@router.get("/review", include_in_schema=False)
def review_without_slash(caller: Adjudicator) -> Response:
    return RedirectResponse("/review/", status_code=303)


@router.get("/review/")
def queue(request: Request, caller: Adjudicator, store: TheStore, settled: str = "") -> Response:
    """The open disputes of every protocol, worst first."""
    groups = []
    for protocol in store.protocols():
        found, hidden = open_disputes(store, protocol.name, caller.account)
        groups.append({"protocol": protocol, "disputes": found, "hidden": hidden})
    return page(request, "queue.html", caller, groups=groups, settled=settled)


@router.get("/review/progress")
def progress(request: Request, caller: Lead, store: TheStore) -> Response:
    rows = [(protocol, counts_of(store, protocol.name)) for protocol in store.protocols()]
    return page(request, "progress.html", caller, rows=rows)


@router.get("/review/disputes/{case}")
def dispute_page(request: Request, dispute: TheDispute, caller: Adjudicator, store: TheStore) -> Response:
    return _dispute_page(request, dispute, caller, store)


@router.post("/review/disputes/{case}")
def settle(
    request: Request,
    dispute: TheDispute,
    caller: Adjudicator,
    store: TheStore,
    site: TheSite,
    choice: Annotated[str, Form()] = "",
    rationale: Annotated[str, Form()] = "",
) -> Response:
    """Settle, then go on to the worst dispute that is left."""
    try:
        decide(store, site, dispute, caller, Decision(choice=choice[:16], rationale=rationale[:10_000]))
    except AdjudicationError as error:
        return _dispute_page(request, dispute, caller, store, str(error), choice, rationale)
    return RedirectResponse(f"/review/?settled={dispute.case.id}", status_code=303)


@router.get("/review/static/{name}", include_in_schema=False)
def static(name: str) -> Response:
    """Style, script and viewer: the same for everybody, so nobody needs to sign in for them."""
    if name == "niivue.umd.js":
        return FileResponse(asset("niivue", name), media_type="text/javascript")
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
    }
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
    return _templates.TemplateResponse(request, template, values, status_code=status, headers=headers)


def wants_page(request: Request) -> bool:
    """Whether a person in a browser asked for this, not a program or a page's own script."""
    path = request.url.path
    of_ours = path in ("/", "/sign-in", "/ohif", "/ohif/") or path.startswith(("/review", "/ohif/viewer"))
    return of_ours and not path.startswith("/review/api") and "text/html" in request.headers.get("accept", "")


def sign_in_address(request: Request) -> str:
    """The sign-in page, which leads back to what was asked for."""
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return f"/sign-in?next={quote(asked if request.method == 'GET' else '/', safe='')}"


def error_page(request: Request, status: int, words: str) -> Response:
    return page(request, "message.html", None, status=status, words=words)


def _dispute_page(
    request: Request,
    dispute: TheDispute,
    caller: Caller,
    store: TheStore,
    problem: str = "",
    choice: str = "",
    rationale: str = "",
) -> Response:
    return page(
        request,
        "dispute.html",
        caller,
        status=409 if problem else 200,
        dispute=dispute,
        detail=detail(store, dispute),
        problem=problem,
        choice=choice,
        rationale=rationale,
    )


def _known(request: Request) -> Caller | None:
    """Who a browser is signed in as, if anybody."""
    identities: Identities = request.app.state.identities
    try:
        caller = identities.caller(request)
    except TokenError:
        return None
    return caller if caller is not None and caller.means is Means.COOKIE else None


def _own_path(path: str) -> str:
    """A path of this server to go to after signing in; anything else becomes its home."""
    plain = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if plain else "/"
