"""What OHIF stores and asks: a SEG becomes its reader's read under his name, and cases are told as they are."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import requests
from pydicom import Dataset, dcmwrite
from pydicom.uid import DeflatedExplicitVRLittleEndian, generate_uid

from apps.annotation.submissions import submit
from apps.annotation.visible import RefusedError
from labeling_protocols.dicom_seg import ObjectIdentity, seg_from_label
from labeling_protocols.geometry import Volume
from labeling_protocols.label import LabelError
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account, Case, Role
from labeling_protocols.store import SeatError, UnknownError
from labeling_protocols.volumes import volume_bytes
from tests.annotation.dicom_cases import OBLIQUE_AND_FLIPPED, sources_of, take_in, write_drawn
from tests.annotation.served import Served
from tests.training.drawn import draw

DRAWN = draw(3, OBLIQUE_AND_FLIPPED)[1]


@pytest.fixture
def protocol(served: Served) -> Protocol:
    return served.protocol()


@pytest.fixture
def case(served: Served, protocol: Protocol, tmp_path: Path) -> Case:
    return take_in(served, protocol, write_drawn(tmp_path, next(served.numbers)))


@pytest.fixture
def reader(served: Served, case: Case) -> Account:
    reader = served.account()
    served.seat(reader, case)
    return reader


def seg_of(served: Served, protocol: Protocol, case: Case, label: Volume = DRAWN) -> Dataset:
    identity = ObjectIdentity(
        series_uid=generate_uid(prefix=None), instance_uid=generate_uid(prefix=None), series_number=9
    )
    return seg_from_label(label, sources_of(served, case), protocol, identity)


def as_ohif_writes(seg: Dataset, labels: Sequence[str]) -> Dataset:
    """The segmentation with the one code that OHIF gives every segment, and these labels."""
    for segment, label in zip(seg.SegmentSequence, labels, strict=True):
        tissue = Dataset()
        tissue.CodeValue, tissue.CodingSchemeDesignator, tissue.CodeMeaning = "T-D0050", "SRT", "Tissue"
        segment.SegmentLabel = label
        segment.SegmentedPropertyCategoryCodeSequence = [tissue]
        segment.SegmentedPropertyTypeCodeSequence = [tissue]
    return seg


def part_10(seg: Dataset) -> bytes:
    file = io.BytesIO()
    dcmwrite(file, seg, enforce_file_format=True)
    return file.getvalue()


def kept(served: Served, case: Case, reader: Account) -> np.ndarray:
    [read] = served.store.reads(case.id)
    assert read.reader == reader.id
    assert read.provenance.client == "OHIF"
    return served.store.label(read.label).array_ZYX


def test_a_stored_segmentation_becomes_the_read_of_who_stored_it(
    served: Served, protocol: Protocol, case: Case, reader: Account
) -> None:
    submitted = submit(served.app.state.annotation, reader, part_10(seg_of(served, protocol, case)))
    assert (submitted.case, submitted.revision) == (case.id, 1)
    np.testing.assert_array_equal(kept(served, case, reader), DRAWN.array_ZYX)


def test_segments_that_only_ohif_named_are_the_structures_of_these_names(
    served: Served, protocol: Protocol, case: Case, reader: Account
) -> None:
    """The segments' order is turned round: the first is drawn where the posterior structure is, and says so."""
    swapped = replace(DRAWN, array_ZYX=np.array([0, 2, 1], np.uint8)[DRAWN.array_ZYX])
    seg = as_ohif_writes(seg_of(served, protocol, case, swapped), ["Posterior hippocampus", "anterior"])
    submit(served.app.state.annotation, reader, part_10(seg))
    np.testing.assert_array_equal(kept(served, case, reader), DRAWN.array_ZYX)


@pytest.mark.parametrize("labels", [("Segment 1", "Segment 2"), ("anterior", "Segment 2"), ("anterior", "anterior")])
def test_segments_that_are_no_structures_are_refused(
    served: Served, protocol: Protocol, case: Case, reader: Account, labels: tuple[str, str]
) -> None:
    content = part_10(as_ohif_writes(seg_of(served, protocol, case), labels))
    with pytest.raises(LabelError, match="Nothing was saved"):
        submit(served.app.state.annotation, reader, content)
    assert served.store.reads(case.id) == []


@pytest.mark.parametrize("role", [Role.VIEWER, Role.ENGINEER])
def test_who_reads_nothing_stores_nothing(served: Served, protocol: Protocol, case: Case, role: Role) -> None:
    content = part_10(seg_of(served, protocol, case))
    with pytest.raises(RefusedError, match="only readers"):
        submit(served.app.state.annotation, served.account(role), content)


def test_a_reader_without_a_seat_stores_nothing(served: Served, protocol: Protocol, case: Case) -> None:
    content = part_10(seg_of(served, protocol, case))
    with pytest.raises(SeatError):
        submit(served.app.state.annotation, served.account(), content)
    assert served.store.reads(case.id) == []


def test_a_series_that_is_no_case_is_refused(served: Served, protocol: Protocol, case: Case, reader: Account) -> None:
    seg = seg_of(served, protocol, case)
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = generate_uid(prefix=None)
    with pytest.raises(UnknownError, match="no case here"):
        submit(served.app.state.annotation, reader, part_10(seg))


def test_of_several_protocols_that_label_a_series_the_one_of_the_readers_seat_is_meant(
    served: Served, protocol: Protocol, tmp_path: Path
) -> None:
    other, reader = served.protocol(), served.account()
    series = write_drawn(tmp_path, next(served.numbers))
    cases = [take_in(served, one, series) for one in (protocol, other)]
    assert cases[0].series == cases[1].series
    served.seat(reader, cases[1])
    content = part_10(seg_of(served, protocol, cases[0]))
    assert submit(served.app.state.annotation, reader, content).case == cases[1].id
    with pytest.raises(LabelError, match="several protocols"):
        submit(served.app.state.annotation, served.account(), content)


@pytest.mark.parametrize("content", [b"", b"no DICOM", b"\0" * 128 + b"DICM" + b"\xff" * 64])
def test_what_is_no_segmentation_is_refused_in_words(served: Served, reader: Account, content: bytes) -> None:
    with pytest.raises(LabelError, match="Nothing was saved"):
        submit(served.app.state.annotation, reader, content)


def test_an_image_and_a_deflated_object_are_refused(
    served: Served, protocol: Protocol, case: Case, reader: Account
) -> None:
    [image, *_] = (served.site.folder("archive") / str(case.series)).glob("*.dcm")
    with pytest.raises(LabelError, match="no DICOM Segmentation"):
        submit(served.app.state.annotation, reader, image.read_bytes())
    seg = seg_of(served, protocol, case)
    seg.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(LabelError, match="deflated"):
        submit(served.app.state.annotation, reader, part_10(seg))


def test_a_case_is_told_with_where_ohif_opens_it(
    served: Served, protocol: Protocol, case: Case, reader: Account
) -> None:
    session = served.session(reader)
    told = session.get(f"{served.url}/ohif/cases/{case.id}").json()
    assert [each["value"] for each in told["structures"]] == [1, 2]
    np.testing.assert_allclose(told["grid"]["affine_LPS"], case.geometry.affine_LPS())
    address = urlsplit(told["address"])
    asked = parse_qs(address.query)
    assert address.path == "/ohif/segmentation"
    assert asked["case"] == [case.id]
    assert asked["initialSeriesInstanceUID"] == [case.series]
    assert asked["StudyInstanceUIDs"] == [str(sources_of(served, case)[0].StudyInstanceUID)]
    assert told["yours"]
    of_series = session.get(f"{served.url}/ohif/cases?series={case.series}").json()
    assert of_series == {"cases": [told]}
    stranger = served.session(served.account()).get(f"{served.url}/ohif/cases/{case.id}").json()
    assert not stranger["yours"]


def test_a_case_that_came_as_a_volume_file_is_sent_to_3d_slicer(served: Served, protocol: Protocol) -> None:
    [case] = served.cases(protocol)
    told = served.session(served.account()).get(f"{served.url}/ohif/cases/{case.id}").json()
    assert told["address"] is None
    assert "3D Slicer" in told["why"]
    assert "DICOM" in told["why"]


def test_what_the_extension_sends_is_the_callers_read(served: Served, case: Case, reader: Account) -> None:
    answer = served.session(reader).put(
        f"{served.url}/ohif/cases/{case.id}/label",
        data={"params": '{"seconds": 12.5}'},
        files={"label": ("label.nrrd", volume_bytes(DRAWN, ".nrrd"))},
    )
    assert answer.json() == {"image": case.id, "revision": 1, "version": 1}
    np.testing.assert_array_equal(kept(served, case, reader), DRAWN.array_ZYX)
    [read] = served.store.reads(case.id)
    assert read.provenance.seconds == 12.5


def test_a_browser_must_show_that_a_page_of_ours_sends(served: Served, case: Case, reader: Account) -> None:
    """The cookie alone does not save: the value stands in the page, where no other site can read it."""
    session = served.session(reader)
    del session.headers["Authorization"]
    session.cookies.set("overread_session", served.accounts.token(reader))
    page = session.get(f"{served.url}/ohif/next").text
    [token] = [part.split('"')[0] for part in page.split('name="overread-csrf" content="')[1:]]
    address = f"{served.url}/ohif/cases/{case.id}/label"
    files = {"label": ("label.nrrd", volume_bytes(DRAWN, ".nrrd"))}
    assert session.put(address, files=files).status_code == 403
    assert served.store.reads(case.id) == []
    assert session.put(address, files=files, headers={"X-CSRF-Token": token}).status_code == 200


def test_the_extension_is_served_and_nothing_beside_it(served: Served, reader: Account) -> None:
    session = served.session(reader)
    answer = session.get(f"{served.url}/ohif/overread/extension.js")
    assert answer.headers["content-type"].startswith("text/javascript")
    assert "preRegistration" in answer.text
    for path in ("overread/none.js", "overread/%2e%2e/ohif_config.js"):
        assert session.get(f"{served.url}/ohif/{path}").status_code in (404, 503)
    nobody = requests.get(f"{served.url}/ohif/next", headers={"accept": "text/html"}, allow_redirects=False)
    assert (nobody.status_code, nobody.headers["location"]) == (303, "/sign-in?next=%2Fohif%2Fnext")
