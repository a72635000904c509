"""Real DICOM peers around the endpoint: senders, a destination, and the endpoint as a process of its own."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import AE, StoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.events import Event

from apps.settings import CONFIG, Site, make_site

_LIMIT_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def site_with_endpoint(root: Path, *, quiet_seconds: float = 0.5, destination: int | None = None) -> Site:
    """A site whose endpoint listens on a free port; `destination` is the port of a peer called PACS."""
    make_site(root)
    settings = CONFIG.replace("port = 11112", f"port = {free_port()}")
    settings = settings.replace("quiet_seconds = 5.0", f"quiet_seconds = {quiet_seconds}")
    if destination is not None:
        settings += f'[[dicom.destinations]]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {destination}\n'
    (root / "config.toml").write_text(settings)
    return Site(root)


@contextlib.contextmanager
def association(
    site: Site, called: str = "OVERREAD", contexts: Sequence[tuple[str, str]] = ()
) -> Iterator[Association]:
    """An association of pynetdicom's client with the endpoint; contexts are (SOP class, transfer syntax)."""
    entity = AE(ae_title="MODALITY")
    if contexts:
        for abstract_syntax, transfer_syntax in contexts:
            entity.add_requested_context(abstract_syntax, transfer_syntax)
    else:
        entity.requested_contexts = StoragePresentationContexts[:128]
    opened = entity.associate("127.0.0.1", site.config.dicom.port, ae_title="OVERREAD")
    try:
        yield opened
    finally:
        if opened.is_established:
            opened.release()


def send(site: Site, images: Sequence[Dataset]) -> list[int]:
    """The endpoint's answer to each image."""
    contexts = {(str(image.SOPClassUID), str(image.file_meta.TransferSyntaxUID)) for image in images}
    with association(site, contexts=sorted(contexts)) as opened:
        assert opened.is_established
        return [int(opened.send_c_store(image).Status) for image in images]


def dcmtk(program: str) -> str:
    """dcmtk's own program, or a skip; the environment has namesakes of pynetdicom."""
    found = shutil.which(program, path="/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    if found is None:
        pytest.skip(f"{program} is not installed (Debian package dcmtk)")
    return found


class Destination:
    """A storage provider that keeps what it is sent, and can be made to refuse or to hesitate."""

    def __init__(self, port: int, ae_title: str = "PACS") -> None:
        self.received: list[Dataset] = []
        self._refusals_left = 0
        self._may_answer = threading.Event()
        self._may_answer.set()
        self._asked = threading.Event()
        entity = AE(ae_title=ae_title)
        entity.require_called_aet = True
        entity.supported_contexts = StoragePresentationContexts
        self._server = entity.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._keep)]
        )

    def refuse(self, count: int) -> None:
        """Answer the next objects with Out of Resources."""
        self._refusals_left = count

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Answer nobody while the block runs."""
        self._asked.clear()
        self._may_answer.clear()
        try:
            yield
        finally:
            self._may_answer.set()

    def wait_for_sender(self) -> None:
        """Wait until an object has come that is not answered yet."""
        assert self._asked.wait(_LIMIT_S)

    def close(self) -> None:
        self._server.shutdown()

    def _keep(self, event: Event) -> int:
        self._asked.set()
        self._may_answer.wait(_LIMIT_S)
        if self._refusals_left:
            self._refusals_left -= 1
            return 0xA700
        instance = event.dataset
        instance.file_meta = event.file_meta
        self.received.append(instance)
        return 0x0000


class Process:
    """A module of ours as a process of its own, which says 'ready' when it is."""

    def __init__(self, *arguments: str) -> None:
        self._lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        )
        threading.Thread(target=self._read, daemon=True).start()
        wait_until(lambda: self.said("ready") or self.process.poll() is not None)
        assert self.said("ready"), self.output

    def _read(self) -> None:
        assert self.process.stdout is not None
        self._lines.extend(self.process.stdout)

    def said(self, words: str) -> bool:
        return any(words in line for line in self._lines)

    @property
    def output(self) -> str:
        return "".join(self._lines)

    def kill(self) -> None:
        """End it as a power cut would: kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to end; returns its exit code."""
        self.process.terminate()
        return self.process.wait(_LIMIT_S)


def wait_until(condition: Callable[[], bool], limit_s: float = _LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
