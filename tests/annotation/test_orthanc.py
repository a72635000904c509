"""An archive server by URL, a real Orthanc with patients' names in it: it answers as the folder does, without them."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread, dcmwrite
from typer.testing import CliRunner

from apps.archive import Archive
from apps.command import app as command
from apps.export_dicom import slices
from apps.ingest.archive import Wanted, ingest_from_archive
from apps.ingest.deidentify import METHOD, new_uid
from apps.ingest.folder import IngestError, ingest
from apps.pacs import PacsError, pacs_of
from apps.pacs_links import FILE, Link, LinkError, read_link, write_link
from apps.settings import Site, SiteError, make_site
from labeling_protocols.dicom_seg import seg_from_label
from labeling_protocols.records import Case, Role
from labeling_protocols.series import read_headers
from labeling_protocols.series_writer import series_datasets
from labeling_protocols.store import Store
from tests.annotation.orthanc import PASSWORD, USER, Orthanc, running_orthanc
from tests.annotation.served import Served, serving
from tests.conftest import image_of, label_of
from tests.dicom.examples import identity_of, object_of

NAMES = ("Roe", "Richard", "ID-patient", "St. Example", "19700102", "Doe")
RETRIEVE_URL = "00081190"


def identified(name: str, modality: str = "MR") -> list[Dataset]:
    """A series as a clinical archive has it."""
    images = series_datasets(image_of(sum(name.encode())), identity_of(name), modality=modality)
    for number, image in enumerate(images, start=1):
        image.InstanceNumber = number
        image.InstitutionName = "St. Example"
        image.PatientBirthDate = "19700102"
        image.StudyDescription = "Roe, follow-up"
        image.private_block(0x0009, "SOMEBODY", create=True).add_new(1, "LO", "Doe^Jane")
    return images


def settings(url: str, seconds: float = 20) -> str:
    return (
        f'[archive]\nurl = "{url}"\nusername = "{USER}"\npassword_file = "keys/archive.password"\n'
        f"timeout_seconds = {seconds}\n"
    )


@dataclass
class Both:
    """Two sites with one key: one took the series from a folder, the other's pixels stay in Orthanc."""

    folder: Served
    server: Served
    orthanc: Orthanc
    images: list[Dataset]

    @property
    def sites(self) -> tuple[Served, Served]:
        return self.folder, self.server

    def client(self, site: Served) -> DICOMwebClient:
        return DICOMwebClient(f"{site.url}/dicomweb", session=site.session(site.account()))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    root = tmp_path_factory.mktemp("both")
    (root / "orthanc").mkdir()
    (root / "dicom").mkdir()
    images = identified("patient")
    for image in images:
        dcmwrite(root / "dicom" / f"{image.InstanceNumber}.dcm", image, enforce_file_format=True)
    with running_orthanc(root / "orthanc") as orthanc:
        orthanc.fill(images)
        orthanc.fill(identified("patient of nobody's", modality="CT"))
        with serving(root / "a") as folder, serving(root / "b", without_password(orthanc)) as server:
            share_the_key(folder.site, server)
            assert len(ingest(folder.store, folder.site, root / "dicom", "hippocampus").added) == 1
            assert len(ingest_from_archive(server.store, server.site, Wanted(), "hippocampus").added) == 1
            yield Both(folder=folder, server=server, orthanc=orthanc, images=images)


def without_password(orthanc: Orthanc) -> str:
    """The server starts before there is a password file."""
    return settings(orthanc.url).replace('password_file = "keys/archive.password"\n', "")


def share_the_key(site: Site, other: Served) -> None:
    (other.site.root / "keys" / "site.key").write_text((site.root / "keys" / "site.key").read_text())
    (other.site.root / "keys" / "archive.password").write_text(f"{PASSWORD}\n")
    (other.site.root / "config.toml").write_text(settings(other.site.config.archive.url))
    other.site = Site(other.site.root)
    reconnect(other)


def reconnect(served: Served) -> None:
    served.app.state.archive.close()
    archive = Archive(served.site.folder("archive"), served.site.secret, pacs_of(served.site))
    served.app.state.archive = archive


def without_addresses(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{tag: value for tag, value in row.items() if tag != RETRIEVE_URL} for row in rows]


def only_case(served: Served) -> Case:
    [case] = served.store.cases("hippocampus")
    return case


def test_the_folder_and_orthanc_are_told_of_alike(both: Both) -> None:
    folder, server = (both.client(site) for site in both.sites)
    [study] = folder.search_for_studies()
    uid = study["0020000D"]["Value"][0]
    series = only_case(both.server).series
    assert series == only_case(both.folder).series
    asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("search_for_studies", (), {"search_filters": {"ModalitiesInStudy": "MR"}}),
        ("search_for_studies", (), {"search_filters": {"PatientID": "P*"}, "fields": ["SliceThickness"]}),
        ("search_for_series", (uid,), {}),
        ("search_for_series", (), {"search_filters": {"Modality": "CT"}}),
        ("search_for_instances", (uid, series), {"limit": 2, "offset": 1}),
        ("search_for_instances", (), {"fields": ["all"]}),
        ("retrieve_study_metadata", (uid,), {}),
        ("retrieve_series_metadata", (uid, series), {}),
    ]
    for method, where, how in asked:
        answers = [without_addresses(getattr(client, method)(*where, **how)) for client in (folder, server)]
        assert answers[0] == answers[1], method
    assert server.search_for_series(search_filters={"Modality": "CT"}) == [], "Orthanc has one that is no case"


def test_the_folder_and_orthanc_give_the_same_pixels(both: Both) -> None:
    study = both.client(both.folder).search_for_studies()[0]["0020000D"]["Value"][0]
    series = only_case(both.folder).series
    fetched = []
    for site in both.sites:
        client = both.client(site)
        images = sorted(client.iter_series(study, series), key=lambda one: one.InstanceNumber)
        instance = images[2].SOPInstanceUID
        [frame] = client.retrieve_instance_frames(study, series, instance, [1])
        shown = client.retrieve_instance_rendered(
            study, series, instance, media_types=("image/png",), params={"window": "500,1000,linear"}
        )
        fetched.append((images, frame, shown))
    for ours, theirs, original in zip(fetched[0][0], fetched[1][0], both.images, strict=True):
        assert ours == theirs
        assert (theirs.pixel_array == original.pixel_array).all()
    assert fetched[0][1:] == fetched[1][1:]
    assert fetched[0][1] == both.images[2].PixelData


def test_pixels_are_kept_once(both: Both) -> None:
    """As the case's image; the archive's folder has headers, and a link that only the site's key opens."""
    folder = both.server.site.folder("archive") / str(only_case(both.server).series)
    headers = sorted(folder.glob("*.dcm"))
    assert len(headers) == 6
    assert not any("PixelData" in dcmread(path) for path in headers)
    assert read_link(folder, both.server.site.secret).study == both.images[0].StudyInstanceUID
    with pytest.raises(LinkError):
        read_link(folder, b"x" * 32)
    images = [site.store.image(only_case(site)) for site in both.sites]
    assert (images[0].array_ZYX == images[1].array_ZYX).all()
    assert not list(both.server.site.folder("incoming").iterdir())


def test_no_name_of_a_patient_and_no_uid_of_the_server_leaves(both: Both) -> None:
    client, session = both.client(both.server), both.server.session(both.server.account())
    original = both.images[0]
    secret = [*NAMES, original.StudyInstanceUID, original.SeriesInstanceUID, original.SOPInstanceUID]
    study = client.search_for_studies()[0]["0020000D"]["Value"][0]
    at = f"{both.server.url}/dicomweb/studies/{study}"
    instance = client.search_for_instances(study)[0]
    series, uid = instance["0020000E"]["Value"][0], instance["00080018"]["Value"][0]
    one = f"{at}/series/{series}/instances/{uid}"
    addresses = [at, f"{at}/metadata", f"{at}/series/{series}", one, f"{one}/metadata", f"{one}/frames/1"]
    addresses += [f"{one}/rendered", f"{one}/bulkdata/7FE00010", f"{at}/thumbnail"]
    addresses += [
        f"{both.server.url}/dicomweb/{level}?includefield=all" for level in ("studies", "series", "instances")
    ]
    for address in addresses:
        answer = session.get(address)
        assert answer.ok, address
        found = [word for word in secret if word.encode() in answer.content or word in str(answer.headers)]
        assert not found, address
    for path in both.server.site.folder("archive").rglob("*"):
        assert path.is_dir() or not [word for word in secret if word.encode() in path.read_bytes()]


def test_what_is_no_case_stays_unseen(both: Both) -> None:
    """By its own UIDs, by those it would have here, and by the UIDs that a case has in Orthanc."""
    session = both.server.session(both.server.account(*Role))
    other, own = identity_of("patient of nobody's"), both.images[0]
    secret = both.server.site.secret
    for study, series in (
        (other.study_uid, other.series_uid),
        (new_uid(secret, other.study_uid), new_uid(secret, other.series_uid)),
        (own.StudyInstanceUID, own.SeriesInstanceUID),
    ):
        at = f"{both.server.url}/dicomweb/studies/{study}"
        for address in (at, f"{at}/metadata", f"{at}/series/{series}", f"{at}/series/{series}/metadata"):
            assert session.get(address).status_code == 404
        assert session.get(f"{at}/series").json() == []


def test_a_segmentation_that_a_reader_stores_is_their_read(both: Both) -> None:
    for site in both.sites:
        case, reader, other = only_case(site), site.account(), site.account()
        site.seat(reader, case)
        sources = read_headers(slices(site.site, case))
        protocol = site.store.protocol("hippocampus")
        label = label_of(geometry=case.geometry)
        seg = seg_from_label(label, sources, protocol, object_of(f"seg {site.url}"), creator="Reader")
        gateway = DICOMwebClient(f"{site.url}/dicomweb", session=site.session(reader))
        told = gateway.store_instances([seg])
        assert told.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == seg.SOPInstanceUID
        [read] = site.store.reads(case.id)
        assert (read.reader, read.revision) == (reader.id, 1)
        assert (site.store.label(read.label).layers_LZYX[0] == label.array_ZYX).all()
        file = BytesIO()
        dcmwrite(file, seg, enforce_file_format=True)
        content = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file.getvalue() + b"\r\n--b--\r\n"
        kind = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
        for account in (other, site.account(Role.ENGINEER)):  # without a seat, without the role
            answer = site.session(account).post(f"{site.url}/dicomweb/studies", data=content, headers=kind)
            assert answer.status_code == 409, answer.text
            assert answer.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0x0124]
        assert len(site.store.reads(case.id)) == 1


def test_series_are_taken_by_command_and_once(both: Both) -> None:
    both.orthanc.fill(identified("patient two"))
    who = identity_of("patient two")
    given = ["ingest", "--from-archive", "--protocol", "hippocampus", "--site", str(both.server.site.root)]
    told = CliRunner().invoke(command, [*given, "--study", who.study_uid])
    assert "1 case(s) added, 0 known already, 0 refused" in told.output, told.output
    told = CliRunner().invoke(command, given)
    assert "0 case(s) added, 2 known already, 0 refused" in told.output, told.output
    told = CliRunner().invoke(command, [*given, "--modality", "CT"])
    assert told.exit_code == 1
    assert "labels MR" in told.output
    assert CliRunner().invoke(command, [*given, "somewhere"]).exit_code == 2
    series = {case.series for case in both.server.store.cases("hippocampus")}
    assert series == {only_case(both.folder).series, new_uid(both.server.site.secret, who.series_uid)}


def test_an_archive_that_moved_to_orthanc_is_found_there(both: Both, tmp_path: Path) -> None:
    """The folder's de-identified images were sent to Orthanc and removed: their cases stay what they are."""
    site = make_site(tmp_path / "site")
    (tmp_path / "one").mkdir()
    for image in identified("patient who moves"):
        dcmwrite(tmp_path / "one" / f"{image.InstanceNumber}.dcm", image, enforce_file_format=True)
    (site.root / "keys" / "archive.password").write_text(PASSWORD)
    (site.root / "config.toml").write_text(settings(both.orthanc.url))
    site = Site(site.root)
    store = Store(site.database_url, site.blobs)
    store.add_protocol(both.folder.store.protocol("hippocampus"))
    ingest(store, site, tmp_path / "one", "hippocampus")
    [case] = store.cases("hippocampus")
    kept = [dcmread(path) for path in slices(site, case)]
    both.orthanc.fill(kept)
    for path in slices(site, case):
        path.unlink()
    report = ingest_from_archive(store, site, Wanted(series=str(case.series)), "hippocampus")
    assert (report.added, report.known, report.refused) == ((), (case.id,), ())
    archive = Archive(site.folder("archive"), site.secret, pacs_of(site))
    found = archive.slices(kept[0].StudyInstanceUID, case.series)
    assert {one.instance for one in found} == {one.SOPInstanceUID for one in kept}
    image = archive.image(found[0])
    assert image.DeidentificationMethod == METHOD
    assert (image.pixel_array == next(k for k in kept if k.SOPInstanceUID == found[0].instance).pixel_array).all()
    archive.close()
    store.close()


def test_other_pixels_than_those_taken_in_are_not_shown(both: Both) -> None:
    folder = both.server.site.folder("archive") / str(only_case(both.folder).series)
    one = next(path for path in sorted(folder.glob("*.dcm")))
    header = dcmread(one)
    before = one.read_bytes()
    header.Rows = int(header.Rows) + 1
    header.save_as(one)
    study = f"{both.server.url}/dicomweb/studies/{header.StudyInstanceUID}"
    at = f"{study}/series/{header.SeriesInstanceUID}/instances/{header.SOPInstanceUID}"
    answer = both.server.session(both.server.account()).get(f"{at}/frames/1")
    one.write_bytes(before)
    assert answer.status_code == 502
    assert "not the one that was taken in" in answer.json()["detail"]


@pytest.fixture
def hanging() -> Iterator[str]:
    """A server that takes a connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/dicom-web"


@pytest.fixture
def gone() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/dicom-web"


def one_frame_from(served: Served, url: str, seconds: float) -> requests.Response:
    """Ask a running server for one frame while its archive server is this one."""
    config = served.site.root / "config.toml"
    before, site = config.read_text(), served.site
    config.write_text(settings(url, seconds))
    served.site = Site(site.root)
    reconnect(served)
    session = served.session(served.account())
    series = next(case.series for case in served.store.cases("hippocampus"))
    [found] = session.get(f"{served.url}/dicomweb/instances?SeriesInstanceUID={series}&limit=1").json()
    study, uid = found["0020000D"]["Value"][0], found["00080018"]["Value"][0]
    answer = session.get(f"{served.url}/dicomweb/studies/{study}/series/{series}/instances/{uid}/frames/1")
    config.write_text(before)
    served.site = site
    reconnect(served)
    return answer


def test_a_server_that_hangs_is_a_504_and_one_that_is_gone_a_502(both: Both, hanging: str, gone: str) -> None:
    for url, status, words in ((hanging, 504, "does not answer in time"), (gone, 502, "cannot be reached")):
        answer = one_frame_from(both.server, url, 0.3)
        assert answer.status_code == status
        assert words in answer.json()["detail"]
        told = answer.text + str(answer.headers)
        assert not [word for word in (PASSWORD, USER + ":", url, "Traceback", "127.0.0.1") if word in told]


def test_wrong_credentials_are_told_and_not_repeated(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    site = both.server.site
    monkeypatch.setenv("OVERREAD_ARCHIVE_PASSWORD", "wrong-password")
    (site.root / "config.toml").write_text(settings(both.orthanc.url).replace("password_file", "# password_file"))
    pacs = pacs_of(Site(site.root))
    (site.root / "config.toml").write_text(settings(both.orthanc.url))
    assert pacs is not None
    with pytest.raises(PacsError, match="does not accept") as refused:
        pacs.series({})
    assert "wrong-password" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_settings_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    config = site.root / "config.toml"
    assert pacs_of(site) is None
    for text, words in (
        ('[archive]\nurl = "http://me:hidden@host/dicom-web"\n', "holds a name or password"),
        ('[archive]\nurl = "me:hidden@host"\n', "archive.url"),
        ('[archive]\nurl = "ftp://host"\n', "archive.url"),
    ):
        config.write_text(text)
        with pytest.raises(SiteError, match=words) as refused:
            Site(site.root)
        assert "hidden" not in str(refused.value)
    config.write_text('[archive]\nurl = "http://host/dicom-web"\ntoken_file = "keys/none"\n')
    with pytest.raises(SiteError, match=r"archive\.token_file: keys/none cannot be read"):
        pacs_of(Site(site.root))
    config.write_text('[archive]\nurl = "https://host/dicom-web"\nca_file = "keys/none"\n')
    with pytest.raises(SiteError, match=r"archive\.ca_file"):
        pacs_of(Site(site.root))


def test_without_a_server_there_is_nothing_to_take_from(site: Site, store: Store) -> None:
    with pytest.raises(IngestError, match="name no archive server"):
        ingest_from_archive(store, site, Wanted(), "hippocampus")


def test_a_link_says_where_pixels_are_to_nobody_else(tmp_path: Path) -> None:
    write_link(tmp_path, b"k" * 32, Link(study="1.2.3", series="1.2.4", images={"2.25.1": "1.2.5"}))
    assert b"1.2" not in (tmp_path / FILE).read_bytes()
    assert read_link(tmp_path, b"k" * 32) == Link(study="1.2.3", series="1.2.4", images={"2.25.1": "1.2.5"})
    assert read_link(tmp_path / "elsewhere", b"k" * 32) is None
