"""A label and the case it is of in; a DICOM segmentation of the case's archived series and a report on it out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset

from apps.dicom_logs import keep_values_out_of_logs
from apps.settings import Site
from labeling_protocols.blobs import replacing
from labeling_protocols.dicom_label_sr import DeviceObserver, Observer, PersonObserver, sr_of_label
from labeling_protocols.dicom_seg import Algorithm, ObjectIdentity, SegError, seg_from_label
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.pseudonyms import keyed_uid
from labeling_protocols.records import Case
from labeling_protocols.series import read_headers, scan

_SEG_NUMBER = 950
_SR_NUMBER = 951


@dataclass(frozen=True, kw_only=True)
class Made:
    """How a label came about: by which people (none for a consensus of `readers`), and from what model's prelabel."""

    digest: str
    people: tuple[str, ...]
    readers: int
    prelabel_model: str | None


def write_objects(
    site: Site, protocol: Protocol, case: Case, label: Label, folder: Path, stem: str, made: Made
) -> tuple[Path, ...]:
    """Write `stem`.dcm, a segmentation, unless nothing is outlined, and `stem`_sr.dcm, the report on it.

    The same label of the same case gets the same UIDs each time. Raises `SegError` or `SeriesError`.
    """
    keep_values_out_of_logs()
    sources = read_headers(slices(site, case))
    key = (case.id, stem, made.digest)
    files = []
    seg = None
    if label.layers_LZYX.any():
        identity = _identity(site, "", _SEG_NUMBER, key)
        seg = _segmentation(site, protocol, label, sources, identity, made)
        files.append(_written(seg, folder / f"{stem}.dcm"))
    identity = _identity(site, " report", _SR_NUMBER, key)
    report = sr_of_label(label, seg, sources, protocol, identity, _observers(site, protocol, made))
    files.append(_written(report, folder / f"{stem}_sr.dcm"))
    return tuple(files)


def slices(site: Site, case: Case) -> tuple[Path, ...]:
    """The files of the series a case came from, headers alone where its pixels lie elsewhere.

    Raises `SegError` where it came from none.
    """
    if case.series is None:
        raise SegError("it did not come from DICOM, so there is no series that a segmentation could refer to")
    found = scan(site.folder("archive") / case.series)
    if len(found) != 1:
        raise SegError("its DICOM series is no longer in the site's archive")
    return found[0].files


def _segmentation(
    site: Site, protocol: Protocol, label: Label, sources: Sequence[Dataset], identity: ObjectIdentity, made: Made
) -> Dataset:
    algorithm = None
    if made.prelabel_model is not None:
        name, _, version = made.prelabel_model.rpartition(" ")
        device_uid = keyed_uid(site.secret, "device", made.prelabel_model)
        algorithm = Algorithm(name=name or made.prelabel_model, version=version or "unknown", device_uid=device_uid)
    creator = made.people[-1] if made.people else "Consensus"
    return seg_from_label(label, sources, protocol, identity, algorithm=algorithm, creator=creator)


def _observers(site: Site, protocol: Protocol, made: Made) -> list[Observer]:
    """Those who drew or decided, as the segmentation's content creator is named; a consensus observes as a device."""
    if made.people:
        return [PersonObserver(name=name) for name in made.people]
    rule = protocol.consensus.rule.value
    uid = keyed_uid(site.secret, "device", "consensus", protocol.name, str(protocol.version), rule)
    return [DeviceObserver(name=f"Consensus of {made.readers} readers", model=rule, uid=uid)]


def _identity(site: Site, kind: str, number: int, key: tuple[str, ...]) -> ObjectIdentity:
    return ObjectIdentity(
        series_uid=keyed_uid(site.secret, f"export{kind} series", *key),
        instance_uid=keyed_uid(site.secret, f"export{kind} instance", *key),
        series_number=number,
    )


def _written(document: Dataset, path: Path) -> Path:
    with replacing(path) as temporary:
        document.save_as(temporary)
    return path
