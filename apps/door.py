"""The door for names and passwords: what was typed in, the account it opens out, with a bound on tries from one place.

Hashing takes 64 MiB and a moment, so only some run at the same time; the others wait without holding a thread.
"""

import functools
import ipaddress
import threading
import time
from collections import OrderedDict, deque

import anyio
from fastapi import Request

from apps.accounts import Accounts
from apps.settings import AccountSettings
from labeling_protocols.records import Account

_AT_ONCE = 4
_WINDOW_S = 600.0
_PLACES = 10_000  # remembered; the longest quiet one is forgotten first

WRONG = "Unknown name or wrong password. After several wrong ones in a row, an account opens again only after a while."


class TooManyTriesError(PermissionError):
    """Too many refused sign-ins from one computer, whichever accounts they were for."""


class Door:
    """Where every name and password comes in; one for a server."""

    def __init__(self, accounts: Accounts, settings: AccountSettings) -> None:
        self._accounts = accounts
        self._tries = Tries(settings.wrong_passwords_per_computer)
        self._limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def sign_in(
        self, request: Request, name: str, password: str, *, through: str, new: str | None = None
    ) -> Account | None:
        """The account, or None; raises `TooManyTriesError`, and what `Accounts.sign_in` raises."""
        return await self._guarded(request, functools.partial(self._opened, name, password, through, new))

    async def change_password(self, request: Request, account: Account, present: str, new: str) -> bool:
        """Replace one's own password; whether the present one was right."""
        done = await self._guarded(
            request, functools.partial(self._opened, account.name, present, "password change", new)
        )
        return done is not None

    async def _guarded(self, request: Request, act: "functools.partial[Account | None]") -> Account | None:
        place = place_of(request.client.host if request.client else "")
        self._tries.require_some_left(place)
        account = await anyio.to_thread.run_sync(act, limiter=self._limiter)
        if account is None:
            self._tries.refused(place)
        return account

    def _opened(self, name: str, password: str, through: str, new: str | None) -> Account | None:
        return self._accounts.sign_in(name, password, through=through, new=new)


class Tries:
    """Refused tries of the last ten minutes, by where they came from; in memory alone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._refused: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def require_some_left(self, place: str) -> None:
        with self._lock:
            moments = self._refused.get(place, deque())
            while moments and moments[0] < time.monotonic() - _WINDOW_S:
                moments.popleft()
            if len(moments) >= self._most:
                raise TooManyTriesError("too many wrong passwords came from this computer; wait ten minutes")

    def refused(self, place: str) -> None:
        with self._lock:
            moments = self._refused.setdefault(place, deque(maxlen=self._most))
            moments.append(time.monotonic())
            self._refused.move_to_end(place)
            while len(self._refused) > _PLACES:
                self._refused.popitem(last=False)


def place_of(host: str) -> str:
    """A computer's address; of IPv6 the /64, of which one computer has as many addresses as it likes."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
