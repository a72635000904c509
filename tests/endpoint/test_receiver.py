"""What the endpoint acknowledges is on disk and in the table, and every complete series gets one job."""

import hashlib
import resource
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pynetdicom
import pytest
import sqlalchemy as sa
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage, Verification

from apps.endpoint.receiver import LABELMAP_SEGMENTATION_STORAGE, ListenError, Receiver, job_id_of
from apps.jobs import Job, Jobs
from apps.settings import Site
from labeling_protocols import schema
from labeling_protocols.series_writer import series_datasets, write_series
from labeling_protocols.store import Store
from tests.conftest import image_of
from tests.dicom.examples import AXIAL, identity_of, uid
from tests.endpoint.peers import Process, association, dcmtk, send, site_with_endpoint, wait_until


@pytest.fixture
def endpoint_site(tmp_path: Path) -> Site:
    return site_with_endpoint(tmp_path / "site")


@pytest.fixture
def receiver(endpoint_site: Site) -> Iterator[Receiver]:
    with Receiver(endpoint_site) as running:
        yield running


def images_of(name: str) -> list[Dataset]:
    return series_datasets(image_of(1, AXIAL), identity_of(name))


def rows(site: Site) -> list[sa.Row[tuple[object, ...]]]:
    store = Store(site.database_url, site.blobs)
    with store.engine.connect() as connection:
        found = list(connection.execute(sa.select(schema.received_instances)))
    store.close()
    return found


def kept_files(site: Site) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in site.folder("inbox").rglob("*") if path.is_file()}


def jobs(site: Site) -> list[Job]:
    client = Jobs(site)
    try:
        return client.all("infer_series")
    finally:
        client.close()


def test_an_echo_is_answered_and_another_called_title_is_not(receiver: Receiver, endpoint_site: Site) -> None:
    entity = AE()
    entity.add_requested_context(Verification)
    port = endpoint_site.config.dicom.port
    opened = entity.associate("127.0.0.1", port, ae_title="OVERREAD")
    assert opened.send_c_echo().Status == 0x0000
    opened.release()
    assert entity.associate("127.0.0.1", port, ae_title="SOMEBODY").is_rejected


def test_what_is_acknowledged_is_on_disk_under_its_digest_and_in_the_table(
    receiver: Receiver, endpoint_site: Site
) -> None:
    images = images_of("kept")
    assert send(endpoint_site, images) == [0x0000] * 5
    files = kept_files(endpoint_site)
    assert all(hashlib.sha256(content).hexdigest() == name for name, content in files.items())
    assert {row.digest for row in rows(endpoint_site)} == files.keys()
    assert {row.instance for row in rows(endpoint_site)} == {image.SOPInstanceUID for image in images}
    assert {row.series for row in rows(endpoint_site)} == {uid("kept", "series")}


def test_dcmtks_sender_is_served_and_the_encoded_bytes_are_kept_as_sent(
    receiver: Receiver, endpoint_site: Site, tmp_path: Path
) -> None:
    paths = write_series(image_of(1, AXIAL), tmp_path / "series", identity_of("dcmtk"), shuffle=2)
    port = str(endpoint_site.config.dicom.port)
    subprocess.run(
        [dcmtk("storescu"), "-aec", "OVERREAD", "127.0.0.1", port, *map(str, paths)],
        check=True,
        env={"TCP_NODELAY": "1"},
    )
    files = kept_files(endpoint_site)
    assert len(files) == len(paths)
    for content in files.values():
        assert content[128:132] == b"DICM"
    sent = {_data_set(path.read_bytes()) for path in paths}
    assert {_data_set(content) for content in files.values()} == sent


def _data_set(content: bytes) -> bytes:
    """The bytes after the file meta group, whose length stands in its first element (PS3.10 section 7.1)."""
    return content[144 + int.from_bytes(content[140:144], "little") :]


def test_the_same_bytes_again_are_acknowledged_and_kept_once(receiver: Receiver, endpoint_site: Site) -> None:
    images = images_of("twice")
    assert send(endpoint_site, images + images) == [0x0000] * 10
    assert len(kept_files(endpoint_site)) == len(rows(endpoint_site)) == 5


def test_compressed_syntaxes_and_label_maps_are_accepted(receiver: Receiver, endpoint_site: Site) -> None:
    contexts = [(MRImageStorage, syntax) for syntax in (JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1, RLELossless)]
    contexts.append((LABELMAP_SEGMENTATION_STORAGE, ExplicitVRLittleEndian))
    contexts.append((MRImageStorage, ImplicitVRLittleEndian))
    with association(endpoint_site, contexts=contexts) as opened:
        accepted = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in opened.accepted_contexts}
    assert accepted == {(str(a), str(t)) for a, t in contexts}


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")  # they are meant to be
@pytest.mark.parametrize(
    ("elements", "comment"),
    [
        ({"SeriesInstanceUID": None}, "SeriesInstanceUID is missing; nothing was kept"),
        ({"StudyInstanceUID": "../../etc/passwd"}, "StudyInstanceUID is not a valid UID; nothing was kept"),
        ({"SOPInstanceUID": "1.2.3"}, "SOPInstanceUID is not the one of the request; nothing kept"),
    ],
)
def test_an_instance_that_cannot_be_placed_is_refused_with_the_reason(
    elements: dict[str, str | None], comment: str, receiver: Receiver, endpoint_site: Site, tmp_path: Path
) -> None:
    image = images_of("bad")[0]
    sent_as = image.SOPInstanceUID
    for keyword, value in elements.items():
        if value is None:
            delattr(image, keyword)
        else:
            image.add_new(keyword, "UI", value)
    status = _send_as(endpoint_site, image, sent_as, tmp_path)
    assert 0xC000 <= status.Status <= 0xCFFF
    assert status.ErrorComment == comment
    assert kept_files(endpoint_site) == {}
    assert rows(endpoint_site) == []


def test_a_data_set_of_noise_is_refused_and_the_next_one_taken(
    receiver: Receiver, endpoint_site: Site, tmp_path: Path
) -> None:
    image = images_of("noise")[0]
    status = _send_as(endpoint_site, image, image.SOPInstanceUID, tmp_path, encoded=b"\x08\0\x05\0CS\xff\xff junk" * 9)
    assert 0xC000 <= status.Status <= 0xCFFF
    assert send(endpoint_site, [image]) == [0x0000]


def _send_as(site: Site, image: Dataset, announced: str, tmp_path: Path, encoded: bytes | None = None) -> Dataset:
    """Send a data set's bytes as they are, under an instance UID of one's own choice, as a faulty sender would."""
    file = BytesIO()
    dcmwrite(file, image, enforce_file_format=True)
    content = encoded if encoded is not None else _data_set(file.getvalue())
    meta = FileMetaDataset(image.file_meta)
    meta.MediaStorageSOPInstanceUID = announced
    path = tmp_path / "faulty.dcm"
    with path.open("wb") as target:
        target.write(b"\0" * 128 + b"DICM")
        write_file_meta_info(target, meta)
        target.write(content)
    with (
        pytest.MonkeyPatch.context() as patch,
        association(site, contexts=[(str(image.SOPClassUID), str(ExplicitVRLittleEndian))]) as opened,
    ):
        patch.setattr(pynetdicom._config, "STORE_SEND_CHUNKED_DATASET", True)
        status: Dataset = opened.send_c_store(path)
        return status


@pytest.mark.parametrize("room", [100, 4000], ids=["for nothing", "for the file but not for its row"])
def test_a_full_disk_is_answered_with_out_of_resources_and_leaves_nothing(room: int, endpoint_site: Site) -> None:
    """The kernel refuses the process files above some bytes, as a full disk would refuse them."""
    image = images_of("full")[0]
    process = Process("-m", "apps.endpoint", "--site", str(endpoint_site.root))
    try:
        unlimited = resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (room, unlimited[1]))
        assert send(endpoint_site, [image]) == [0xA700]
        assert kept_files(endpoint_site) == {}
        resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, unlimited)
        assert rows(endpoint_site) == []
        assert send(endpoint_site, [image]) == [0x0000]
    finally:
        process.stop()


def test_a_quiet_series_gets_one_job_and_late_slices_a_second(receiver: Receiver, endpoint_site: Site) -> None:
    images = images_of("late")
    send(endpoint_site, images[:4])
    wait_until(lambda: len(jobs(endpoint_site)) == 1)
    send(endpoint_site, images[:2])  # known bytes change nothing
    send(endpoint_site, images[4:])
    wait_until(lambda: len(jobs(endpoint_site)) == 2)
    assert all(job.id.startswith("infer-") for job in jobs(endpoint_site))


def test_a_series_that_still_arrives_gets_no_job(tmp_path: Path) -> None:
    site = site_with_endpoint(tmp_path / "patient", quiet_seconds=600)
    with Receiver(site):
        send(site, images_of("arriving"))
        other = site_with_endpoint(tmp_path / "quick", quiet_seconds=0.1)
        with Receiver(other):  # the time in which another endpoint starts its job has passed here too
            send(other, images_of("arriving"))
            wait_until(lambda: len(jobs(other)) == 1)
        assert jobs(site) == []


def test_nothing_acknowledged_is_lost_when_the_endpoint_is_killed(tmp_path: Path) -> None:
    """kill -9 between acknowledgements; the next endpoint runs what was acknowledged, and the rest when it comes."""
    site = site_with_endpoint(tmp_path / "site", quiet_seconds=1.0)
    images = images_of("killed")
    process = Process("-m", "apps.endpoint", "--site", str(site.root))
    with association(site, contexts=[(MRImageStorage, ExplicitVRLittleEndian)]) as opened:
        assert [opened.send_c_store(image).Status for image in images[:3]] == [0x0000] * 3
        process.kill()
        opened.abort()
    assert {row.instance for row in rows(site)} == {image.SOPInstanceUID for image in images[:3]}
    assert jobs(site) == []
    again = Process("-m", "apps.endpoint", "--site", str(site.root))
    try:
        wait_until(lambda: len(jobs(site)) == 1)
        assert send(site, images[3:]) == [0x0000] * 2
        wait_until(lambda: len(jobs(site)) == 2)
    finally:
        assert again.stop() == 0
    stored = {dcmread(site.folder("inbox") / row.digest[:2] / row.digest).SOPInstanceUID for row in rows(site)}
    assert stored == {image.SOPInstanceUID for image in images}
    digests = "".join(sorted(row.digest for row in rows(site)))
    whole = job_id_of(uid("killed", "series"), hashlib.sha256(digests.encode()).hexdigest())
    assert whole in {job.id for job in jobs(site)}


def test_a_taken_address_is_named(receiver: Receiver, endpoint_site: Site) -> None:
    with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1:{endpoint_site.config.dicom.port}"):
        Receiver(endpoint_site).__enter__()
