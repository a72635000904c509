"""The sign-in page: a name and password, or the organisation's provider, in; a browser's session out, and its end."""

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from apps.accounts import AccountError, OneTimePasswordError, TokenError
from apps.door import WRONG, Door
from apps.identity import COOKIE, Identities, same_origin
from apps.oidc import PENDING_S, ProviderRefusalError
from apps.provider_accounts import NoRoleError
from apps.provider_keys import ProviderUnreachableError
from apps.provider_sign_in import ProviderSignIn
from apps.review.frame import SignedIn, page
from labeling_protocols.records import Account

router = APIRouter()

_PENDING = "overread_pending"
_BACK = "/sign-in/provider/back"


@router.get("/sign-in")
def sign_in_page(request: Request, next: str = "/") -> Response:
    return _page(request, next)


@router.post("/sign-in")
async def sign_in(
    request: Request,
    name: Annotated[str, Form()],
    password: Annotated[str, Form()],
    next: Annotated[str, Form()] = "/",
    new: Annotated[str | None, Form()] = None,
) -> Response:
    """A cookie for a name and password; `new` replaces a one-time password."""
    door: Door = request.app.state.door
    if not same_origin(request):
        raise HTTPException(403, "this sign-in did not come from a page of this server. Nothing was done.")
    try:
        account = await door.sign_in(request, name, password, through="page", new=new or None)
    except OneTimePasswordError:
        words = "This password works for one time. Choose your own now."
        return _page(request, next, name=name, problem=words, choose=True)
    except AccountError as error:
        return _page(request, next, 422, name=name, problem=str(error), choose=True)
    if account is None:
        return _page(request, next, 401, name=name, problem=WRONG, choose=new is not None)
    answer = RedirectResponse(own_path(next), status_code=303)
    return _signed_in(request, answer, account)


@router.get("/sign-in/provider")
def to_provider(request: Request, next: str = "/") -> Response:
    """Send the browser to the organisation's sign-in, with what it must bring back in a cookie."""
    try:
        departure = _provider(request).depart(_back(request), own_path(next))
    except ProviderUnreachableError as error:
        return _page(request, next, 503, problem=str(error))
    answer = RedirectResponse(departure.address, status_code=303)
    # Lax, as the way back is a link from another site; it holds nothing that signs anybody in.
    answer.set_cookie(
        _PENDING,
        departure.pending,
        max_age=PENDING_S,
        path=_BACK,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return answer


@router.get(_BACK)
async def from_provider(request: Request) -> Response:
    """Sign in who comes back.

    A page leads on from here: after a redirect the request would still count as the other site's, and bring no cookie.
    """
    provider, pending = _provider(request), request.cookies.get(_PENDING, "")
    answer: Response
    try:
        account, then = await run_in_threadpool(provider.arrive, pending, dict(request.query_params))
    except ProviderUnreachableError as error:
        answer = _page(request, "/", 503, problem=str(error))
    except (ProviderRefusalError, TokenError) as error:
        answer = _page(request, "/", 401, problem=f"{error}.")
    except NoRoleError as error:
        answer = _page(request, "/", 403, problem=str(error))
    else:
        answer = _signed_in(request, page(request, "signed_in.html", None, then=own_path(then)), account)
    answer.delete_cookie(_PENDING, path=_BACK, httponly=True, samesite="lax")
    return answer


@router.post("/sign-out")
def sign_out(request: Request, caller: SignedIn) -> Response:
    """End the session: its tokens are refused from now on, wherever they were copied to."""
    identities: Identities = request.app.state.identities
    if caller.claims is not None:
        identities.accounts.sign_out(caller.claims)
    answer = RedirectResponse("/sign-in", status_code=303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


def own_path(path: str) -> str:
    """A path of this server to go to after signing in; anything else becomes its home."""
    plain = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if plain and not urlsplit(path).netloc else "/"


def _signed_in(request: Request, answer: Response, account: Account) -> Response:
    identities: Identities = request.app.state.identities
    identities.set_cookie(answer, request, identities.accounts.token(account))
    return answer


def _page(
    request: Request, then: str, status: int = 200, *, name: str = "", problem: str = "", choose: bool = False
) -> Response:
    provider: ProviderSignIn | None = request.app.state.identities.provider
    return page(
        request,
        "sign_in.html",
        None,
        status=status,
        next=own_path(then),
        name=name,
        problem=problem,
        choose=choose,
        provider=provider.title if provider is not None else "",
    )


def _provider(request: Request) -> ProviderSignIn:
    provider: ProviderSignIn | None = request.app.state.identities.provider
    if provider is None:
        raise HTTPException(404, "this site has no identity provider; sign in with a name and password.")
    return provider


def _back(request: Request) -> str:
    return str(request.base_url).rstrip("/") + _BACK
