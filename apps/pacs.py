"""A DICOMweb server beside the site's own folder: its own UIDs in, its series and images out, or why not in words.

It is asked through dicomweb-client's `DICOMClient`, which a folder of files answers as well. What comes from it names
patients: only `apps/ingest` looks at headers, and nothing that is said here repeats an address, a name or a UID.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import requests
import urllib3
from dicomweb_client import DICOMwebClient
from dicomweb_client.protocol import DICOMClient
from pydicom import Dataset

from apps.settings import Site, SiteError
from labeling_protocols.store import UnknownError

# Its messages repeat what was asked for: UIDs, and what was typed into a search box.
logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL)

PASSWORD = "OVERREAD_ARCHIVE_PASSWORD"  # noqa: S105  the name of a variable
TOKEN = "OVERREAD_ARCHIVE_TOKEN"  # noqa: S105
_AS_STORED = (("application/dicom", "*"),)
_CONNECT_S = 5.0
_LEFT_ALONE_S = 5.0
_PAGE = 500

_Answer = TypeVar("_Answer")


class PacsError(RuntimeError):
    """The archive server cannot be asked, or what it answered cannot be used."""


class PacsTimeoutError(PacsError):
    """The archive server did not answer in time."""


@dataclass(frozen=True, kw_only=True)
class PacsSeries:
    """One series as the server calls it."""

    study: str
    series: str
    modality: str


class Pacs:
    """One DICOMweb server, for many threads; `connect` makes the client of each."""

    def __init__(self, connect: Callable[[], DICOMClient]) -> None:
        self._connect = connect
        self._own = threading.local()
        self._left_alone_until = 0.0

    def series(self, filters: Mapping[str, str]) -> list[PacsSeries]:
        """The series that match (QIDO-RS keys, PS3.18 8.3.4)."""
        found: list[PacsSeries] = []
        while True:
            with self._asking() as client:
                page = client.search_for_series(limit=_PAGE, offset=len(found), search_filters=dict(filters))
                found += [
                    PacsSeries(
                        study=_text(row, "0020000D"), series=_text(row, "0020000E"), modality=_text(row, "00080060")
                    )
                    for row in page
                ]
            if len(page) < _PAGE:
                return found

    def images(self, study: str, series: str) -> Iterator[Dataset]:
        """Each image of a series as it is stored, one at a time; raises `UnknownError` where there is none."""
        with self._asking() as client:
            yield from client.iter_series(study, series, media_types=_AS_STORED)

    def image(self, study: str, series: str, instance: str) -> Dataset:
        """One image as it is stored; raises `UnknownError`."""
        with self._asking() as client:
            return client.retrieve_instance(study, series, instance, media_types=_AS_STORED)

    @contextmanager
    def _asking(self) -> Iterator[DICOMClient]:
        """This thread's client; what goes wrong with it becomes words.

        A server that hung is left alone for a while, so that a viewer's hundred requests do not each wait for it.
        """
        if time.monotonic() < self._left_alone_until:
            raise PacsTimeoutError(_LATE)
        try:
            if not hasattr(self._own, "client"):
                self._own.client = self._connect()
            yield self._own.client
        except (UnknownError, PacsError):
            raise
        except Exception as error:  # noqa: BLE001  it is somebody else's server and client: whatever fails has a status
            problem = _problem(error)
            if isinstance(problem, PacsTimeoutError):
                self._left_alone_until = time.monotonic() + _LEFT_ALONE_S
            raise problem from None  # its own words name addresses and UIDs


def pacs_of(site: Site) -> Pacs | None:
    """The site's archive server, None where its folder is all there is; raises `SiteError` where a file is missing."""
    settings = site.config.archive
    if not settings.url:
        return None
    password = _secret(site, settings.password_file, "password_file", PASSWORD)
    token = _secret(site, settings.token_file, "token_file", TOKEN)
    ca_file = site.root / settings.ca_file if settings.ca_file else None
    if ca_file is not None and not ca_file.is_file():
        raise SiteError(f"archive.ca_file: {ca_file} is no file; the certificate of its authority was expected")

    def connect() -> DICOMClient:
        session = requests.Session()
        session.trust_env = False  # neither a proxy nor a .netrc of this machine has a part in this
        if ca_file is not None:
            session.verify = str(ca_file)
        if settings.username:
            session.auth = (settings.username, password)
        elif token:
            session.headers["Authorization"] = f"Bearer {token}"
        url = settings.url.rstrip("/")
        timeouts_s = (min(_CONNECT_S, settings.timeout_seconds), settings.timeout_seconds)
        client = DICOMwebClient(url, session=session, permissive_uid=True, timeout=timeouts_s)
        client.set_http_retry_params(retry=False)  # whoever waits decides
        return client

    try:
        connect()
    except ValueError:
        raise SiteError("archive.url is no address of a DICOMweb server; https://host/path was expected") from None
    return Pacs(connect)


_LATE = "the archive server does not answer in time; try again later. Nothing was changed."


def _problem(error: Exception) -> PacsError | UnknownError:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _refusal(error.response.status_code)
    if isinstance(error, requests.Timeout) or _timed_out_while_reading(error):
        return PacsTimeoutError(_LATE)
    if isinstance(error, requests.exceptions.SSLError):
        return PacsError("the archive server's certificate is not trusted here (archive.ca_file). Nothing was changed.")
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return PacsError("the archive server cannot be reached, or broke off. Nothing was changed.")
    if isinstance(error, requests.RequestException):
        return PacsError(f"the archive server cannot be asked ({type(error).__name__}). Nothing was changed.")
    return PacsError(f"the archive server's answer is no DICOM that can be read ({type(error).__name__}).")


def _timed_out_while_reading(error: Exception) -> bool:
    """requests tells of a timeout within a streamed answer as of a broken connection."""
    return isinstance(error, requests.ConnectionError) and any(
        isinstance(cause, urllib3.exceptions.ReadTimeoutError) for cause in error.args
    )


def _refusal(status: int) -> PacsError | UnknownError:
    if status == requests.codes.not_found:
        return UnknownError("the archive server does not have this any more")
    if status in (requests.codes.unauthorized, requests.codes.forbidden):
        return PacsError(
            "the archive server does not accept this site's name, password or token (archive in config.toml)"
        )
    if status in (requests.codes.request_timeout, requests.codes.gateway_timeout):
        return PacsTimeoutError(_LATE)
    return PacsError(f"the archive server refused with status {status}. Nothing was changed.")


def _secret(site: Site, file: str, setting: str, variable: str) -> str:
    if not file:
        return os.environ.get(variable, "")
    try:
        return (site.root / file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SiteError(f"archive.{setting}: {file} cannot be read ({error.strerror})") from error


def _text(row: Mapping[str, Mapping[str, list[object]]], tag: str) -> str:
    values = row.get(tag, {}).get("Value", [])
    return str(values[0]) if values else ""
