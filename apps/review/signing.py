"""Whether who decides is the person who signed in: a password typed anew in, a refusal in words, if any, out."""

from datetime import timedelta

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool

from apps.door import Door
from apps.identity import Caller, Identities
from labeling_protocols.store import now

SIGNED_IN_AT_MOST = timedelta(minutes=5)  # for accounts whose password an identity provider has
_THROUGH = "decision"


async def require_signature(request: Request, caller: Caller, password: str) -> None:
    """Refuse a decision without its maker's password; a wrong one counts towards a lock-out as at the sign-in.

    Who signs in at an identity provider has no password here and must have signed in a moment ago.
    """
    identities: Identities = request.app.state.identities
    provider = await run_in_threadpool(identities.accounts.provider_of, caller.account.id)
    if provider:
        _require_fresh(caller)
        return
    door: Door = request.app.state.door
    opened = await door.sign_in(request, caller.account.name, password, through=_THROUGH)
    if opened is None or opened.id != caller.account.id:
        words = "the password is wrong, or the account is locked after several wrong ones"
        raise HTTPException(403, f"{words}: a decision is signed with your password. Nothing was decided.")


def needs_password(identities: Identities, caller: Caller) -> bool:
    """Whether decisions are signed with a password; otherwise with a sign-in of a moment ago."""
    return not identities.accounts.provider_of(caller.account.id)


def _require_fresh(caller: Caller) -> None:
    began = caller.claims.began if caller.claims is not None else None
    if began is None or now() - began > SIGNED_IN_AT_MOST:
        minutes = SIGNED_IN_AT_MOST // timedelta(minutes=1)
        words = f"a decision needs a sign-in on this server's page at most {minutes} minutes old; sign in again"
        raise HTTPException(403, f"{words}. Nothing was decided.")
