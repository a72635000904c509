"""monailabel's wire contract, as its unmodified client and 3D Slicer speak it, with an account behind every call.

HTTP in, JSON and volumes out. Paths, parameters and answers are those of monailabel 0.8.5's endpoints, except that no
path of this machine is answered, identity is never taken from `client_id`, and errors are words.
"""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request

from apps.annotation import (
    batch_routes,
    datastore_routes,
    infer_routes,
    queue_routes,
    refusals,
    review_routes,
    train_routes,
    worklist_routes,
)
from apps.annotation.calling import calling
from apps.annotation.dependencies import Anyone, Overread
from apps.door import WRONG, Door
from apps.identity import Identities, Means, at_address, same_origin
from labeling_protocols.records import Role
from labeling_protocols.store import now

router = APIRouter()

_ABOUT_TO_EXPIRE = timedelta(minutes=2)

# monailabel knows four roles; an account's own are the ones that count.
_MONAILABEL_ROLES = {
    Role.ADMINISTRATOR: "monailabel-admin",
    Role.ADJUDICATOR: "monailabel-reviewer",
    Role.READER: "monailabel-annotator",
}

# Sign-in


@router.get("/auth/")
def auth(request: Request) -> dict[str, Any]:
    """Whether a viewer must ask for a password; at a personal address it need not."""
    return {"enabled": not at_address(request), "client_id": "overread", "realm": "overread"}


@router.post("/auth/token")
async def auth_token(
    request: Request, username: Annotated[str, Form()], password: Annotated[str, Form()]
) -> dict[str, Any]:
    """A token for a name and password."""
    identities: Identities = request.app.state.identities
    door: Door = request.app.state.door
    account = await door.sign_in(request, username, password, through="viewer") if same_origin(request) else None
    if account is None:
        raise HTTPException(401, WRONG, headers={"WWW-Authenticate": "Bearer"})
    lifetime_s = round(identities.accounts.tokens.lifetime.total_seconds())
    return {"access_token": identities.accounts.token(account), "token_type": "bearer", "expires_in": lifetime_s}


@router.get("/auth/token/valid")
def auth_token_valid(caller: Anyone) -> dict[str, Any]:
    """Who the token is for.

    Viewers ask this before each request and fetch a new token where it is refused. One that is about to expire is
    refused here alone, so that none expires between this answer and the end of the upload that follows.
    """
    if caller.means is Means.TOKEN and caller.claims and caller.claims.expires - now() < _ABOUT_TO_EXPIRE:
        raise HTTPException(
            401, "the token is about to expire; fetch a new one", headers={"WWW-Authenticate": "Bearer"}
        )
    roles = {"monailabel-user"} | {_MONAILABEL_ROLES[r] for r in caller.account.roles if r in _MONAILABEL_ROLES}
    return {"username": caller.account.name, "email": None, "name": caller.account.name, "roles": sorted(roles)}


# The app


@router.get("/info/")
def info(caller: Anyone, overread: Overread) -> dict[str, Any]:
    with calling(caller.account):
        return overread.info()


for _routes in (
    worklist_routes,
    datastore_routes,
    review_routes,
    queue_routes,
    infer_routes,
    batch_routes,
    train_routes,
    refusals,
):
    router.include_router(_routes.router)
