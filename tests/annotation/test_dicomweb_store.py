"""STOW-RS: engineers' series become de-identified cases, all else is refused with its reason, and nothing by halves."""

from collections.abc import Sequence
from io import BytesIO

import pytest
import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import ComprehensiveSRStorage

from apps.ingest.deidentify import new_uid
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Role
from labeling_protocols.series import read_series
from labeling_protocols.series_writer import series_datasets
from tests.annotation.served import Served
from tests.conftest import image_of
from tests.dicom.examples import identity_of

BOUNDARY = "a-boundary"
KIND = {"Content-Type": f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'}


def series(name: str) -> list[Dataset]:
    """A series with the names of people and places in it."""
    images = series_datasets(image_of(sum(name.encode())), identity_of(name))
    for number, image in enumerate(images, start=1):
        image.InstanceNumber = number
        image.InstitutionName = "St. Example"
        image.OperatorsName = "Doe^Jane"
    return images


def client(served: Served, *roles: Role) -> DICOMwebClient:
    return DICOMwebClient(f"{served.url}/dicomweb", session=served.session(served.account(*roles)))


def body(images: Sequence[Dataset]) -> bytes:
    parts = b""
    for image in images:
        file = BytesIO()
        dcmwrite(file, image, enforce_file_format=True)
        parts += f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + file.getvalue() + b"\r\n"
    return parts + f"--{BOUNDARY}--\r\n".encode()


def post(
    served: Served, content: bytes, *roles: Role, path: str = "/dicomweb/studies", **how: dict[str, str]
) -> requests.Response:
    session = served.session(served.account(*roles))
    return session.post(f"{served.url}{path}", data=content, **{"headers": KIND, **how})


def reasons(answer: requests.Response) -> list[int]:
    return [item["00081197"]["Value"][0] for item in answer.json()["00081198"]["Value"]]


@pytest.fixture(scope="module")
def protocol(served: Served) -> Protocol:
    """So that two protocols label MR, and one has to be named."""
    return served.protocol()


def test_an_engineers_series_becomes_a_case_without_a_name(served: Served, protocol: Protocol) -> None:
    images = series("stored")
    told = client(served, Role.ENGINEER).store_instances(images, additional_params={"protocol": protocol.name})
    assert {item.ReferencedSOPInstanceUID for item in told.ReferencedSOPSequence} == {
        one.SOPInstanceUID for one in images
    }
    [case] = served.store.cases(protocol.name)
    assert case.series == new_uid(served.site.secret, images[0].SeriesInstanceUID)
    archived = read_series(list((served.site.folder("archive") / case.series).iterdir()))
    # It was drawn on a left-handed grid; a series is read along its slices' normal.
    assert (archived.volume.array_ZYX == image_of(sum(b"stored")).array_ZYX[::-1]).all()
    assert not list(served.site.folder("incoming").iterdir()), "nothing that names the patient stays"
    for path in archived.files:
        content = path.read_bytes()
        assert not [word for word in (b"Roe", b"ID-stored", b"Example", b"Jane") if word in content]
    study = new_uid(served.site.secret, images[0].StudyInstanceUID)
    assert told.RetrieveURL.endswith(f"/dicomweb/studies/{study}")
    again = post(served, body(images), Role.ENGINEER, params={"protocol": protocol.name})
    assert (again.status_code, len(served.store.cases(protocol.name))) == (200, 1)
    assert "Roe" not in again.text


def test_a_series_comes_whole_or_not_at_all(served: Served, protocol: Protocol) -> None:
    images = series("whole")
    named = {"params": {"protocol": protocol.name}}
    assert post(served, body(images[:5]), Role.ENGINEER, **named).status_code == 200
    late = post(served, body(images), Role.ENGINEER, **named)
    assert (late.status_code, set(reasons(late))) == (409, {0xC000})
    assert "a case already, of 5 slices" in late.headers["warning"]


def test_whoever_only_reads_stores_no_images(served: Served, protocol: Protocol) -> None:
    before = len(served.store.cases(protocol.name))
    for role in (Role.READER, Role.ADJUDICATOR):
        answer = post(served, body(series("refused")), role, params={"protocol": protocol.name})
        assert (answer.status_code, set(reasons(answer))) == (409, {0x0124})
        assert "readers store segmentations" in answer.headers["warning"]
        assert answer.json()["00081198"]["Value"][0]["00000902"]["Value"][0].startswith("MR Image Storage: readers")
    assert post(served, body(series("refused")), Role.VIEWER).status_code == 403
    assert len(served.store.cases(protocol.name)) == before


def test_some_may_be_kept_while_others_are_refused(served: Served, protocol: Protocol) -> None:
    report = Dataset()
    report.update(series("report")[0])
    report.file_meta = series("report")[0].file_meta
    del report.PixelData
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = ComprehensiveSRStorage
    report.Modality = "SR"
    content = body([*series("kept"), report]).replace(f"--{BOUNDARY}--\r\n".encode(), b"")
    content += f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\nno DICOM\r\n--{BOUNDARY}--\r\n".encode()
    answer = post(served, content, Role.ENGINEER, params={"protocol": protocol.name})
    assert answer.status_code == 202
    assert len(answer.json()["00081199"]["Value"]) == 6
    assert reasons(answer) == [0xC000]
    assert [item["00081197"]["Value"] for item in answer.json()["0008119A"]["Value"]] == [[0xC000]]


def test_a_study_in_the_address_has_to_be_theirs_and_a_protocol_has_to_be_clear(
    served: Served, protocol: Protocol
) -> None:
    images = series("addressed")
    elsewhere = post(served, body(images), Role.ENGINEER, path="/dicomweb/studies/1.2.3")
    assert set(reasons(elsewhere)) == {0xA900}
    unclear = post(served, body(images), Role.ENGINEER, path=f"/dicomweb/studies/{images[0].StudyInstanceUID}")
    assert unclear.status_code == 409
    assert "?protocol=NAME" in unclear.headers["warning"]
    unknown = post(served, body(images), Role.ENGINEER, params={"protocol": "nobody's"})
    assert unknown.status_code == 409


def test_a_burned_in_name_is_refused(served: Served, protocol: Protocol) -> None:
    images = series("burned")
    for image in images:
        image.BurnedInAnnotation = "YES"
    answer = post(served, body(images), Role.ENGINEER, params={"protocol": protocol.name})
    assert answer.status_code == 409
    assert "burned-in" in answer.headers["warning"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", KIND["Content-Type"], 400),
        (b"no multipart", KIND["Content-Type"], 400),
        (f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\nhalf".encode(), KIND["Content-Type"], 400),
        (f"--{BOUNDARY}\r\nContent-Type: text/html\r\n\r\nx\r\n--{BOUNDARY}--".encode(), KIND["Content-Type"], 415),
        (b"x", "application/dicom", 415),
        (b"x", 'multipart/related; type="application/dicom+json"; boundary=b', 415),
    ],
)
def test_what_is_no_stow_request_is_refused_in_words(served: Served, content: bytes, kind: str, status: int) -> None:
    answer = post(served, content, Role.ENGINEER, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert "Nothing was stored" in answer.json()["detail"]
    assert not list(served.site.folder("incoming").iterdir())


def test_monailabels_own_paths_lead_to_the_same(served: Served, protocol: Protocol) -> None:
    images = series("proxied")
    named = {"params": {"protocol": protocol.name}}
    assert post(served, body(images), Role.ADMINISTRATOR, path="/proxy/dicom/stow/studies", **named).ok
    session = served.session(served.account(Role.VIEWER))
    study = new_uid(served.site.secret, images[0].StudyInstanceUID)
    asked = {"StudyInstanceUID": study}
    served.app.state.archive._looked = 0.0
    assert len(session.get(f"{served.url}/proxy/dicom/qido/studies", params=asked).json()) == 1
    metadata = session.get(f"{served.url}/proxy/dicom/wado/studies/{study}/metadata").json()
    assert len(metadata) == 6
    assert session.get(f"{served.url}/proxy/dicom/qido/studies/{study}/metadata").json() == metadata
    assert requests.get(f"{served.url}/proxy/dicom/qido/studies").status_code == 401
    assert session.get(f"{served.url}/proxy/dicom/other/studies").status_code == 404


def test_a_stored_series_is_fetched_again_as_any_client_does(served: Served, protocol: Protocol) -> None:
    images = series("fetched")
    named = {"protocol": protocol.name}
    client(served, Role.ENGINEER).store_instances(images, additional_params=named)
    served.app.state.archive._looked = 0.0
    reading = client(served, Role.READER)
    study = new_uid(served.site.secret, images[0].StudyInstanceUID)
    own = new_uid(served.site.secret, images[0].SeriesInstanceUID)
    fetched = {one.InstanceNumber: one for one in reading.iter_series(study, own)}
    for image in images:
        assert (fetched[image.InstanceNumber].pixel_array == image.pixel_array).all()
    instance = fetched[1].SOPInstanceUID
    [frame] = reading.retrieve_instance_frames(study, own, instance, [1])
    assert frame == images[0].PixelData
    png = reading.retrieve_instance_rendered(study, own, instance, media_types=("image/png",))
    assert png.startswith(b"\x89PNG")
    address = f"{served.url}/dicomweb/studies/{study}/series/{own}"
    session = served.session(served.account())
    single = session.get(f"{address}/instances/{instance}", headers={"Accept": "application/dicom"})
    assert dcmread(BytesIO(single.content)).SOPInstanceUID == instance
    whole = session.get(f"{address}/instances/{instance}/bulkdata/7FE00010")
    assert images[0].PixelData in whole.content
    assert session.get(f"{address}/thumbnail").headers["content-type"] == "image/jpeg"
    for query in ("window=1,2", "window=1,0,sigmoid", "window=x,1,linear", "viewport=0,9", "viewport=1", "quality=0"):
        assert session.get(f"{address}/instances/{instance}/rendered?{query}").status_code == 400, query
    assert session.get(f"{address}/instances/{instance}/rendered?accept=image/gif").status_code == 406
    assert session.get(f"{address}/instances/{instance}/frames/2/rendered").status_code == 404
