"""Free ports on the loopback address, and sites that use them."""

import contextlib
import socket

from apps.settings import Site


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def with_free_ports(site: Site, more: str = "") -> Site:
    """The same site, its services on free ports; `more` is added to its settings."""
    web, mlflow, dicom = free_ports(3)
    (site.root / "config.toml").write_text(
        f"[web]\nport = {web}\n[mlflow]\nport = {mlflow}\n[dicom]\nport = {dicom}\nquiet_seconds = 1.0\n{more}"
    )
    return Site(site.root)
