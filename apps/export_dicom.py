"""A label and the case it is of in, a DICOM segmentation of the case's archived series out."""

from pathlib import Path

from apps.settings import Site
from labeling_protocols.blobs import replacing
from labeling_protocols.dicom_seg import Algorithm, ObjectIdentity, SegError, seg_from_label
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.pseudonyms import keyed_uid
from labeling_protocols.records import Case
from labeling_protocols.series import read_series, scan

_SERIES_NUMBER = 950


def write_segmentation(
    site: Site,
    protocol: Protocol,
    case: Case,
    label: Label,
    path: Path,
    *,
    digest: str,
    creator: str,
    prelabel_model: str | None,
) -> None:
    """Write a segmentation by a human, who began from a model's prelabel where one is named.

    The same label (`digest`) of the same case gets the same UIDs each time. Raises `SegError` or `SeriesError`.
    """
    series = read_series(slices(site, case))
    key = (case.id, path.stem, digest)
    identity = ObjectIdentity(
        series_uid=keyed_uid(site.secret, "export series", *key),
        instance_uid=keyed_uid(site.secret, "export instance", *key),
        series_number=_SERIES_NUMBER,
    )
    algorithm = None
    if prelabel_model is not None:
        name, _, version = prelabel_model.rpartition(" ")
        device_uid = keyed_uid(site.secret, "device", prelabel_model)
        algorithm = Algorithm(name=name or prelabel_model, version=version or "unknown", device_uid=device_uid)
    seg = seg_from_label(label, series.sources, protocol, identity, algorithm=algorithm, creator=creator)
    with replacing(path) as temporary:
        seg.save_as(temporary)


def slices(site: Site, case: Case) -> tuple[Path, ...]:
    """The files of the series a case came from; raises `SegError` where it came from none."""
    if case.series is None:
        raise SegError("it did not come from DICOM, so there is no series that a segmentation could refer to")
    found = scan(site.folder("archive") / case.series)
    if len(found) != 1:
        raise SegError("its DICOM series is no longer in the site's archive")
    return found[0].files
