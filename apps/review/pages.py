"""The pages people open in a browser: home here, all others from the modules of their kind."""

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from apps.accounts import TokenError
from apps.identity import Caller, Identities, Means
from apps.review import (
    account_pages,
    dispute_pages,
    feedback_pages,
    frame,
    leads_pages,
    queue_pages,
    seats_pages,
    sign_in,
    volume_files,
    work_pages,
)
from apps.review.access import TheStore
from apps.review.frame import page

router = APIRouter()


@router.get("/")
def home(request: Request, store: TheStore) -> Response:
    """Where to go from here; who is not signed in is asked to."""
    caller = _known(request)
    if caller is None:
        return RedirectResponse("/sign-in", status_code=303)
    return page(request, "home.html", caller, server=str(request.base_url).rstrip("/"))


def _known(request: Request) -> Caller | None:
    """Who a browser is signed in as, if anybody."""
    identities: Identities = request.app.state.identities
    try:
        caller = identities.caller(request)
    except TokenError:
        return None
    return caller if caller is not None and caller.means is Means.COOKIE else None


_OF_READERS = (frame, sign_in, account_pages, work_pages, feedback_pages)
_OF_LEADS = (queue_pages, dispute_pages, volume_files, seats_pages, leads_pages)

for _pages in (*_OF_READERS, *_OF_LEADS):
    router.include_router(_pages.router)
