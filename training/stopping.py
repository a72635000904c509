"""Work that may be left: asked between its steps whether somebody still waits, it goes on or raises."""

from collections.abc import Callable

Stopped = Callable[[], bool]


class InferenceStopped(RuntimeError):  # noqa: N818  a wish, not an error
    """Somebody went away, or the time was over; nothing was proposed."""


def never() -> bool:
    """Work that nobody stops."""
    return False


def go_on(stopped: Stopped) -> None:
    """Raise `InferenceStopped` where nobody waits any more."""
    if stopped():
        raise InferenceStopped("nobody waited for this inference any more. Nothing was proposed.")
