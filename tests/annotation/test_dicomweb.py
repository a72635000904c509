"""The archive over DICOMweb: what is searched, described and fetched is what lies in the folder."""

import email
import time
from pathlib import Path

import numpy as np
import pytest
import requests
from pydicom import Dataset, dcmread
from pydicom.uid import ImplicitVRLittleEndian, RLELossless, generate_uid

from labeling_protocols.series_writer import SeriesIdentity, write_series
from tests.annotation.served import Served
from tests.conftest import image_of


def identity() -> SeriesIdentity:
    return SeriesIdentity(
        patient_id="P0123",
        patient_name="P0123",
        study_uid=generate_uid(prefix=None),
        series_uid=generate_uid(prefix=None),
        frame_of_reference_uid=generate_uid(prefix=None),
    )


def archive(served: Served) -> tuple[SeriesIdentity, list[Dataset]]:
    """A series in the archive, as ingest leaves it there."""
    who = identity()
    paths = write_series(image_of(9), served.site.folder("archive") / who.series_uid, who)
    return who, [dcmread(path) for path in paths]


@pytest.fixture(scope="module")
def series(served: Served) -> tuple[SeriesIdentity, list[Dataset]]:
    return archive(served)


@pytest.fixture(scope="module")
def session(served: Served) -> requests.Session:
    return served.session(served.account())


def parts_of(answer: requests.Response) -> list[tuple[str, bytes]]:
    """Media type and content of each part of a multipart/related answer."""
    assert answer.status_code == 200, answer.text
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.content)
    payloads = message.get_payload()
    assert isinstance(payloads, list)
    boundary = message.get_boundary()
    raw = answer.content.split(f"--{boundary}".encode())[1:-1]
    return [
        (part["Content-Type"], body.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n"))
        for part, body in zip(payloads, raw, strict=True)
    ]


def test_a_study_is_found_and_the_query_counts(
    served: Served, session: requests.Session, series: tuple[SeriesIdentity, list[Dataset]]
) -> None:
    who, slices = series
    base = f"{served.url}/dicomweb/studies"
    [study] = session.get(base, params={"StudyInstanceUID": who.study_uid}).json()
    assert study["00201208"]["Value"] == [len(slices)]
    assert study["00080061"]["Value"] == ["MR"]
    assert session.get(base, params={"0020000D": generate_uid(prefix=None)}).json() == []
    assert session.get(base, params={"PatientID": "P01*", "limit": "1"}).json() != []
    assert session.get(base, params={"limit": "0"}).json() == []
    [found] = session.get(f"{base}/{who.study_uid}/series", params={"Modality": "MR"}).json()
    assert found["0020000E"]["Value"] == [who.series_uid]
    assert session.get(f"{base}/{who.study_uid}/series", params={"Modality": "CT"}).json() == []
    instances = session.get(f"{base}/{who.study_uid}/series/{who.series_uid}/instances").json()
    assert {one["00080018"]["Value"][0] for one in instances} == {one.SOPInstanceUID for one in slices}


def test_metadata_describes_every_slice_without_its_pixels(
    served: Served, session: requests.Session, series: tuple[SeriesIdentity, list[Dataset]]
) -> None:
    who, slices = series
    base = f"{served.url}/dicomweb/studies/{who.study_uid}"
    answers = session.get(f"{base}/series/{who.series_uid}/metadata").json()
    assert session.get(f"{base}/metadata").json() == answers
    by_uid = {answer["00080018"]["Value"][0]: answer for answer in answers}
    assert set(by_uid) == {one.SOPInstanceUID for one in slices}
    for one in slices:
        answer = by_uid[one.SOPInstanceUID]
        assert answer["00200032"]["Value"] == pytest.approx([float(v) for v in one.ImagePositionPatient])
        assert "7FE00010" not in answer
    one = slices[0]
    [single] = session.get(f"{base}/series/{who.series_uid}/instances/{one.SOPInstanceUID}/metadata").json()
    assert single == by_uid[one.SOPInstanceUID]


def test_an_instance_and_its_frame_come_back_byte_for_byte(
    served: Served, session: requests.Session, series: tuple[SeriesIdentity, list[Dataset]]
) -> None:
    who, slices = series
    one = slices[2]
    address = f"{served.url}/dicomweb/studies/{who.study_uid}/series/{who.series_uid}/instances/{one.SOPInstanceUID}"
    [(media, content)] = parts_of(session.get(address))
    assert media == "application/dicom"
    assert content == Path(one.filename).read_bytes()
    [(media, frame)] = parts_of(session.get(f"{address}/frames/1"))
    assert media == "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"
    np.testing.assert_array_equal(np.frombuffer(frame, "<i2").reshape(one.Rows, one.Columns), one.pixel_array)
    assert session.get(f"{address}/frames/2").status_code == 404
    assert session.get(f"{address}/frames/0").status_code == 404
    assert session.get(f"{address}/frames/1,x").status_code == 400


def test_a_new_series_shows_up_whatever_its_transfer_syntax(served: Served, session: requests.Session) -> None:
    """Implicit VR is the most common one, and the one that dicomweb-client's own retrieval does not know."""
    base = f"{served.url}/dicomweb/studies"
    session.get(base)
    who, slices = archive(served)
    implicit, compressed = slices[0], slices[1]
    pixels = {one.SOPInstanceUID: one.pixel_array.copy() for one in slices}
    compressed.compress(RLELossless)
    compressed.VOILUTFunction = "LINEAR"
    compressed.save_as(compressed.filename, enforce_file_format=True)
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    implicit.save_as(implicit.filename, implicit_vr=True, little_endian=True, enforce_file_format=True)
    deadline = time.monotonic() + 10
    while not session.get(base, params={"StudyInstanceUID": who.study_uid}).json():
        assert time.monotonic() < deadline, "the new series never showed up"
    found = f"{base}/{who.study_uid}/series/{who.series_uid}/instances"
    [(media, frame)] = parts_of(session.get(f"{found}/{implicit.SOPInstanceUID}/frames/1"))
    assert media == "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"
    assert np.array_equal(np.frombuffer(frame, "<i2"), pixels[implicit.SOPInstanceUID].ravel())
    [(media, _)] = parts_of(session.get(f"{found}/{compressed.SOPInstanceUID}/frames/1"))
    assert media == "image/dicom-rle; transfer-syntax=1.2.840.10008.1.2.5"
    [metadata] = session.get(f"{found}/{compressed.SOPInstanceUID}/metadata").json()
    assert "00281056" not in metadata  # the default, on which OHIF stumbles where it is spelled out


def test_what_is_not_in_the_archive_is_a_404_and_nonsense_a_400(
    served: Served, session: requests.Session, series: tuple[SeriesIdentity, list[Dataset]]
) -> None:
    who, slices = series
    base = f"{served.url}/dicomweb/studies"
    for path in (
        f"/{generate_uid(prefix=None)}/metadata",
        f"/{who.study_uid}/series/{generate_uid(prefix=None)}/metadata",
        f"/{generate_uid(prefix=None)}/series/{who.series_uid}/instances/{slices[0].SOPInstanceUID}",
        "/..%2F..%2Foverread.db/series",
    ):
        assert session.get(base + path).status_code == 404, path
    for query in ({"limit": "x"}, {"offset": "-1"}, {"limit": str(2**40)}):
        assert session.get(base, params=query).status_code == 400, query
