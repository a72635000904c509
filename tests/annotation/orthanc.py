"""A real Orthanc with its DICOMweb plugin, running on free ports for as long as a test needs it."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset

from tests.ports import free_ports

USER, PASSWORD = "site", "orthanc-password"
_PLUGINS = (
    "/usr/share/orthanc/plugins/libOrthancDicomWeb.so",
    "/usr/lib/orthanc/libOrthancDicomWeb.so",
    "/usr/share/orthanc/plugins-available/libOrthancDicomWeb.so",
)
_START_S = 120.0


class Orthanc:
    """The server's DICOMweb address, and what fills it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/dicom-web"
        self._client = DICOMwebClient(f"http://127.0.0.1:{port}/dicom-web", session=_session())

    def fill(self, images: Sequence[Dataset]) -> None:
        self._client.store_instances(images)


@contextmanager
def running_orthanc(folder: Path) -> Iterator[Orthanc]:
    """Orthanc over an empty folder; skips where Debian's `orthanc` and `orthanc-dicomweb` are not installed."""
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin")
    plugin = next((path for path in _PLUGINS if Path(path).exists()), None)
    if program is None or plugin is None:
        pytest.skip("no Orthanc with DICOMweb: install Debian's orthanc and orthanc-dicomweb")
    http, dicom = free_ports(2)
    settings = {
        "Name": "tests",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "Plugins": [plugin],
        "HttpPort": http,
        "DicomPort": dicom,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(path)], stdout=log, stderr=subprocess.STDOUT)
    try:
        _await(process, f"http://127.0.0.1:{http}/system", folder / "log")
        yield Orthanc(http)
    finally:
        process.terminate()
        process.wait()


def _await(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    """Wait until it answers: it says nothing of its own accord that it does."""
    with _session() as session:
        while process.poll() is None:
            try:
                if session.get(url, timeout=_START_S).ok:
                    return
            except requests.ConnectionError:
                try:
                    process.wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
    raise AssertionError(f"Orthanc ended before it answered: {log.read_text(errors='replace')[-500:]}")


def _session() -> requests.Session:
    session = requests.Session()
    session.auth = (USER, PASSWORD)
    session.trust_env = False
    return session
