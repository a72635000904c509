"""One's own account (password, sessions, personal addresses) and, for administrators, everybody's."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from apps import passwords
from apps.accounts import AccountError, Accounts
from apps.addresses import AddressError
from apps.door import Door
from apps.identity import Caller, Identities, Means, requires
from apps.review.frame import SignedIn, page, sentence
from labeling_protocols.records import Role

router = APIRouter()

Administrator = Annotated[Caller, requires(Role.ADMINISTRATOR, means=(Means.COOKIE,))]


@router.get("/account")
def account(request: Request, caller: SignedIn, done: str = "") -> Response:
    return _account(request, caller, done=_DONE.get(done, ""))


@router.post("/account/password")
async def change_password(
    request: Request,
    caller: SignedIn,
    present: Annotated[str, Form()],
    new: Annotated[str, Form()],
    again: Annotated[str, Form()],
) -> Response:
    """Replace one's own password; every session ends but this one, which goes on with a new token."""
    if new != again:
        return _account(request, caller, problem="The two new passwords differ. Nothing was changed.")
    door: Door = request.app.state.door
    identities: Identities = request.app.state.identities
    try:
        if not await door.change_password(request, caller.account, present, new):
            words = "That is not your present password, or it was wrong too often of late. Nothing was changed."
            return _account(request, caller, problem=words)
    except AccountError as error:
        return _account(request, caller, problem=sentence(error))
    answer = RedirectResponse("/account?done=password", status_code=303)
    identities.set_cookie(answer, request, identities.accounts.token(caller.account))
    return answer


@router.post("/account/sign-out-everywhere")
def sign_out_everywhere(request: Request, caller: SignedIn) -> Response:
    _accounts(request).end_sessions(caller.account.id, actor=caller.account.id)
    return RedirectResponse("/sign-in", status_code=303)


@router.post("/account/addresses")
def make_address(
    request: Request, caller: SignedIn, title: Annotated[str, Form()] = "", days: Annotated[int, Form(ge=1)] = 30
) -> Response:
    """Make a personal address and show it, this once."""
    accounts = _accounts(request)
    try:
        secret = accounts.new_address(caller.account, days=days, title=title, actor=caller.account.id)
    except AddressError as error:
        return _account(request, caller, problem=sentence(error))
    return _account(request, caller, address=f"{str(request.base_url).rstrip('/')}/u/{secret}")


@router.post("/account/addresses/{address}/revoke")
def revoke_address(request: Request, caller: SignedIn, address: str) -> Response:
    _accounts(request).addresses.revoke(caller.account.id, address, actor=caller.account.id)
    return RedirectResponse("/account?done=address", status_code=303)


@router.get("/accounts")
def accounts(request: Request, caller: Administrator, done: str = "") -> Response:
    return _everybody(request, caller, done=_DONE.get(done, ""))


@router.post("/accounts")
def add_account(
    request: Request,
    caller: Administrator,
    name: Annotated[str, Form()],
    roles: Annotated[list[Role] | None, Form()] = None,
    groups: Annotated[str, Form()] = "",
) -> Response:
    """Make an account and show its one-time password, this once."""
    password = passwords.made_up()
    try:
        _accounts(request).add(
            name, password, frozenset(roles or ()), _split(groups), actor=caller.account.id, once=True
        )
    except AccountError as error:
        return _everybody(request, caller, problem=sentence(error))
    return _everybody(request, caller, password=password, whose=name)


@router.post("/accounts/{account}")
def change_account(
    request: Request,
    caller: Administrator,
    account: str,
    roles: Annotated[list[Role] | None, Form()] = None,
    groups: Annotated[str, Form()] = "",
) -> Response:
    """Give an account these roles and groups; a provider's roles are not changed here."""
    kept = _accounts(request)
    found = next((one for one in kept.details() if one.account.id == account), None)
    theirs = None if found is not None and found.provider else frozenset(roles or ())
    try:
        kept.change(account, actor=caller.account.id, roles=theirs, groups=_split(groups))
    except AccountError as error:
        return _everybody(request, caller, problem=sentence(error))
    ended_own = account == caller.account.id and theirs is not None and theirs != caller.account.roles
    return RedirectResponse("/sign-in" if ended_own else "/accounts?done=account", status_code=303)


@router.post("/accounts/{account}/{act}")
def act_on_account(request: Request, caller: Administrator, account: str, act: str) -> Response:
    """Disable, enable or unlock an account, or reset its password, which is shown this once."""
    kept, actor = _accounts(request), caller.account.id
    try:
        match act:
            case "disable" | "enable":
                kept.change(account, actor=actor, disabled=act == "disable")
            case "unlock":
                kept.unlock(account, actor=actor)
            case "reset":
                password = kept.reset_password(account, actor=actor)
                found = kept.get(account)
                return _everybody(request, caller, password=password, whose=found.name if found else "")
            case _:
                raise AccountError("an account can be disabled, enabled, unlocked or reset. Nothing was changed.")
    except AccountError as error:
        return _everybody(request, caller, problem=sentence(error))
    return RedirectResponse("/accounts?done=account", status_code=303)


_DONE = {
    "password": "Your password is changed, and you are signed out everywhere else.",
    "address": "The address is revoked.",
    "account": "The account is changed.",
}


def _account(request: Request, caller: Caller, *, problem: str = "", done: str = "", address: str = "") -> Response:
    kept = _accounts(request)
    details = next(one for one in kept.details() if one.account.id == caller.account.id)
    return page(
        request,
        "account.html",
        caller,
        status=422 if problem else 200,
        details=details,
        addresses=kept.addresses.of(caller.account.id),
        problem=problem,
        done=done,
        address=address,
    )


def _everybody(
    request: Request, caller: Caller, *, problem: str = "", done: str = "", password: str = "", whose: str = ""
) -> Response:
    return page(
        request,
        "accounts.html",
        caller,
        status=422 if problem else 200,
        everybody=_accounts(request).details(),
        every_role=list(Role),
        problem=problem,
        done=done,
        password=password,
        whose=whose,
    )


def _accounts(request: Request) -> Accounts:
    identities: Identities = request.app.state.identities
    return identities.accounts


def _split(groups: str) -> frozenset[str]:
    return frozenset(groups.replace(",", " ").split())
