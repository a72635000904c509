"""DICOM files that somebody stored over DICOMweb in; de-identified cases out, or why a series was refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from apps.dicom_logs import keep_values_out_of_logs
from apps.ingest.deidentify import new_uid
from apps.ingest.folder import add_series
from apps.settings import Site
from labeling_protocols import schema
from labeling_protocols.protocol import Protocol
from labeling_protocols.series import Series, SeriesError, SeriesFiles, read_series, scan
from labeling_protocols.store import Store


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What became of a series' files: the case, or None and the reason in words."""

    files: tuple[Path, ...]
    case: str | None
    reason: str = ""


def take_in(store: Store, site: Site, files: Sequence[Path], protocol_name: str, *, actor: str) -> list[Taken]:
    """Make each series a case, its headers de-identified; what is acknowledged is on disk.

    Without a name the protocol is the only one that labels the modality. A series comes whole, in one request: slices
    that come later would be another image than the one that is read. Raises `UnknownError` for an unknown protocol.
    """
    keep_values_out_of_logs()
    named = store.protocol(protocol_name) if protocol_name else None
    taken = []
    for found in scan(files):
        try:
            protocol = named or _only_protocol(store, found.modality)
            if protocol.channels:
                raise SeriesError(f"protocol {protocol.name} labels several series as one case: use `overread ingest`")
            series = read_series(found.files)
            _refuse_more_of_a_case(store, site, protocol, found, series)
            case, _ = add_series(store, site, found, protocol, series, actor=actor)
            taken.append(Taken(files=found.files, case=case))
        except ValueError as error:
            taken.append(Taken(files=found.files, case=None, reason=str(error)))
    return taken


def site_uid(site: Site, uid: str) -> str:
    """What an image, series or study that was stored is called here."""
    return new_uid(site.secret, uid)


def _only_protocol(store: Store, modality: str) -> Protocol:
    fitting = [protocol for protocol in store.protocols() if modality in protocol.modality]
    if len(fitting) != 1:
        names = ", ".join(protocol.name for protocol in fitting) or "none"
        raise SeriesError(f"the protocols for {modality or 'no modality'} are {names}; name one: ?protocol=NAME")
    return fitting[0]


def _refuse_more_of_a_case(store: Store, site: Site, protocol: Protocol, found: SeriesFiles, series: Series) -> None:
    own = site_uid(site, found.uid)
    table = schema.cases
    query = sa.select(table.c.id).where(table.c.series == own, table.c.protocol == protocol.name)
    with store.engine.connect() as connection:
        is_case = connection.execute(query).first() is not None
    kept = {path.stem for path in (site.folder("archive") / own).glob("*.dcm")}
    if is_case and kept != {site_uid(site, str(one.SOPInstanceUID)) for one in series.sources}:
        raise SeriesError(
            f"the series is a case already, of {len(kept)} slices; a series is stored whole, in one request"
        )
