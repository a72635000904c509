"""Who the present request is for, for code that monailabel calls without saying so: an account held in a context."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from labeling_protocols.records import Account

_account: ContextVar[Account | None] = ContextVar("account", default=None)


class NobodyError(PermissionError):
    """Something that needs to know its caller was called outside a request."""


@contextlib.contextmanager
def calling(account: Account) -> Iterator[None]:
    """While the block runs, this account calls."""
    token = _account.set(account)
    try:
        yield
    finally:
        _account.reset(token)


def caller_or_nobody() -> Account | None:
    """The account that calls, or None outside a request of ours."""
    return _account.get()


def caller() -> Account:
    """The account that calls; raises `NobodyError`."""
    account = _account.get()
    if account is None:
        raise NobodyError(
            "nobody is signed in. Start the server with `overread serve`, which knows its readers. Nothing was done."
        )
    return account
