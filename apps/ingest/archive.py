"""Series of the archive's DICOMweb server in, cases out: pixels stay there, de-identified headers are kept here.

Each series is fetched once, read as any other, and its volume kept as the case's image. Of its files the archive keeps
headers, de-identified as those of a folder are, and a sealed link to where the pixels lie. The originals lie in a
folder of the site for the time it takes to read them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread, dcmwrite

from apps.dicom_logs import keep_values_out_of_logs
from apps.incoming import incoming
from apps.ingest.deidentify import METHOD, deidentified_bytes, new_uid
from apps.ingest.folder import IngestError, IngestReport, Keep, Refusal, add_series
from apps.pacs import Pacs, PacsSeries, pacs_of
from apps.pacs_links import Link, write_link
from apps.settings import Site
from labeling_protocols.blobs import write_durably
from labeling_protocols.protocol import Protocol
from labeling_protocols.series import Series, SeriesError, SeriesFiles, scan
from labeling_protocols.store import Store, UnknownError
from labeling_protocols.strata import Strata

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which of the server's series: by its own UIDs or a modality; those of the protocol's modalities if not said."""

    study: str = ""
    series: str = ""
    modality: str = ""


def ingest_from_archive(
    store: Store,
    site: Site,
    wanted: Wanted,
    protocol_name: str,
    progress: Progress = lambda done, total: None,
    *,
    site_name: str | None = None,
) -> IngestReport:
    """Make the wanted series cases of the protocol; those that are cases already are not fetched again.

    Raises `IngestError` where the settings name no server or it has no such series, `PacsError` where it cannot be
    asked, and `UnknownError` where there is no such protocol. `Refusal.where` is the server's UID, for the screen only.
    """
    keep_values_out_of_logs()
    protocol = store.protocol(protocol_name)
    if len(protocol.channels) > 1:
        raise IngestError(
            f"protocol {protocol.name} labels several registered series as one case; these are taken from a folder with"
            " `overread ingest PATH` only. No case was made"
        )
    site_name = Strata(site=site_name).site
    pacs = pacs_of(site)
    if pacs is None:
        raise IngestError("the settings name no archive server ([archive] url in config.toml); no case was made")
    found = _found(pacs, wanted, protocol)
    if not found:
        raise IngestError("the archive server has no such series; no case was made")
    known = {case.series: case.id for case in store.cases(protocol.name) if case.series is not None}
    added: list[str] = []
    old: list[str] = []
    refused: list[Refusal] = []
    progress(0, len(found))
    for done, one in enumerate(found, start=1):
        try:
            case = _known_case(site, pacs, one, known)
            is_new = case is None
            if case is None:
                case, is_new = _fetched_case(store, site, pacs, one, protocol, site_name)
            (added if is_new else old).append(case)
        except (ValueError, UnknownError) as error:
            refused.append(Refusal(where=f"series {one.series}", reason=str(error)))
        progress(done, len(found))
    return IngestReport(added=tuple(added), known=tuple(old), refused=tuple(refused))


def _found(pacs: Pacs, wanted: Wanted, protocol: Protocol) -> list[PacsSeries]:
    """What the server has of it, each once; it is asked for modalities, and believed in none of its matching."""
    uids = {"StudyInstanceUID": wanted.study, "SeriesInstanceUID": wanted.series}
    named = {keyword: uid for keyword, uid in uids.items() if uid}
    modalities = (wanted.modality,) if wanted.modality else protocol.modality
    rows = (one for modality in modalities for one in pacs.series({**named, "Modality": modality}))
    chosen = {
        one.series: one
        for one in rows
        if one.modality in modalities and wanted.study in ("", one.study) and wanted.series in ("", one.series)
    }
    return list(chosen.values())


def _known_case(site: Site, pacs: Pacs, one: PacsSeries, known: Mapping[str, str]) -> str | None:
    """The case a series is already, by the UID it has here or by one that it was moved to the server under."""
    own = new_uid(site.secret, one.series)
    if own in known and _is_kept(site, own):
        return known[own]
    if one.series in known:
        _link_own(site, pacs, one)
        return known[one.series]
    return None


def _fetched_case(
    store: Store, site: Site, pacs: Pacs, one: PacsSeries, protocol: Protocol, site_name: str | None
) -> tuple[str, bool]:
    with _originals(site, pacs.images(one.study, one.series)) as folder:
        found = scan(folder)
        if len(found) != 1:
            raise SeriesError(f"the archive server sent {len(found)} series where one was asked for")
        return add_series(store, site, found[0], protocol, site_name=site_name, keep=_headers_of(one))


def _is_kept(site: Site, series: str) -> bool:
    return any((site.folder("archive") / series).glob("*.dcm"))


@contextmanager
def _originals(site: Site, images: Iterator[object]) -> Iterator[Path]:
    """The images as files, one at a time in memory, for as long as the block takes."""
    with incoming(site) as folder:
        for number, image in enumerate(images):
            dcmwrite(folder / f"{number:05d}", image, enforce_file_format=True)
        yield folder


def _headers_of(one: PacsSeries) -> Keep:
    """What the archive keeps of a series whose pixels stay in the server."""

    def keep(site: Site, files: SeriesFiles, series: Series) -> None:
        content: dict[str, bytes] = {}
        images: dict[str, str] = {}
        for path in series.files:
            header = dcmread(path, stop_before_pixels=True)
            uid, content_of_header = deidentified_bytes(header, site.secret)
            content[uid], images[uid] = content_of_header, str(header.SOPInstanceUID)
        _keep(site, new_uid(site.secret, files.uid), one, content, images)

    return keep


def _keep(site: Site, series: str, one: PacsSeries, headers: Mapping[str, bytes], images: Mapping[str, str]) -> None:
    """Keep what is not kept yet; the link first, since headers without it would be images without pixels."""
    folder = site.folder("archive") / series
    if {path.stem for path in folder.glob("*.dcm")} == set(headers):
        return
    folder.mkdir(exist_ok=True)
    write_link(folder, site.secret, Link(study=one.study, series=one.series, images=images))
    for uid, content in headers.items():
        write_durably(folder / f"{uid}.dcm", content)


def _link_own(site: Site, pacs: Pacs, one: PacsSeries) -> None:
    """Find the pixels of a series that was de-identified here and moved to the server since, under its UIDs of here."""
    if _is_kept(site, one.series):
        return
    headers: dict[str, bytes] = {}
    with _originals(site, pacs.images(one.study, one.series)) as folder:
        for path in sorted(folder.iterdir()):
            header = dcmread(path, stop_before_pixels=True)
            if header.get("DeidentificationMethod") != METHOD or header.get("SeriesInstanceUID") != one.series:
                raise SeriesError(
                    "it has the UID of a series of this site and was not de-identified here; not taken in"
                )
            without_pixels = folder / "header"
            dcmwrite(without_pixels, header, enforce_file_format=True)
            headers[str(header.SOPInstanceUID)] = without_pixels.read_bytes()
    _keep(site, one.series, one, headers, {uid: uid for uid in headers})
