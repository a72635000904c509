"""Bad labels, hostile names and wrong callers: refused in words, nothing stored, nothing read outside the site."""

import gzip
import json
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.records import Account, Case, Role
from labeling_protocols.volumes import volume_bytes
from tests.annotation.served import Served
from tests.conftest import OBLIQUE, label_of

HOSTILE = ("../../x", "..%2f..%2fx", "/etc/passwd", "a/../../b", "x\x00y", "é" * 300, "'; DROP TABLE reads; --", "")


@pytest.fixture(scope="module")
def reader(served: Served) -> Account:
    return served.account()


@pytest.fixture(scope="module")
def case(served: Served, reader: Account) -> Case:
    protocol = served.protocol()
    [case] = served.cases(protocol)
    served.client(reader).next_sample("worklist", {"protocol": protocol.name})
    return case


def elsewhere(**changes: object) -> Volume:
    geometry: Geometry = replace(OBLIQUE, **changes)  # type: ignore[arg-type]
    return Volume(array_ZYX=np.ones(geometry.shape_ZYX, dtype=np.uint8), geometry=geometry)


def stray(value: int) -> Volume:
    array = label_of().array_ZYX.copy()
    array[0, 0, 0] = value
    return Volume(array_ZYX=array, geometry=OBLIQUE)


def nothing() -> Volume:
    return Volume(array_ZYX=np.zeros(OBLIQUE.shape_ZYX, dtype=np.uint8), geometry=OBLIQUE)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (elsewhere(shape_ZYX=(6, 10, 9)), "expected shape (6, 10, 8)"),
        (elsewhere(origin_mm_LPS=(0.0, 0.0, 0.0)), "mm from the image's"),
        (elsewhere(direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)), "mm from the image's"),
        (stray(3), "label_info does not name: [3]"),
        (nothing(), "the label is empty"),
    ],
    ids=["shape", "place", "direction", "value", "empty"],
)
def test_a_label_that_does_not_fit_is_refused_in_words(
    served: Served, reader: Account, case: Case, label: Volume, words: str
) -> None:
    answer = served.put_label(reader, case.id, volume_bytes(label, ".nrrd"))
    assert (answer.status_code, words in answer.json()["detail"]) == (422, True), answer.text
    assert served.store.reads(case.id) == []


def test_a_value_outside_the_protocol_is_refused_without_label_info_too(
    served: Served, reader: Account, case: Case
) -> None:
    answer = served.put_label(reader, case.id, volume_bytes(stray(9), ".nrrd"), params="{}")
    assert answer.status_code == 422
    assert "values the protocol does not: 9" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("filename", "content"),
    [
        ("label.nii.gz", b"not gzip"),
        ("label.nii.gz", gzip.compress(b"not a NIfTI file")),
        ("label.nii.gz", volume_bytes(label_of(), ".nii.gz")[:-200]),
        ("label.nrrd", volume_bytes(label_of(), ".nrrd")[:-20]),
        ("label.nrrd", b""),
        ("label.dcm", volume_bytes(label_of(), ".nrrd")),
        ("label", volume_bytes(label_of(), ".nrrd")),
        ("../../label.exe", b"MZ"),
    ],
    ids=["no gzip", "gzip of no NIfTI", "cut NIfTI", "cut NRRD", "nothing", "DICOM suffix", "no suffix", "a program"],
)
def test_a_damaged_or_foreign_file_is_refused_in_words(
    served: Served, reader: Account, case: Case, filename: str, content: bytes
) -> None:
    answer = served.put_label(reader, case.id, content, filename=filename)
    assert answer.status_code == 422, answer.text
    assert set(answer.json()) == {"detail"}
    assert "/" not in answer.json()["detail"]
    assert served.store.reads(case.id) == []


@pytest.mark.parametrize("params", ["{", "[]", '"x"', json.dumps({"label_info": 3}), "[" * 100_000])
def test_params_that_are_no_object_are_refused(served: Served, reader: Account, case: Case, params: str) -> None:
    assert served.put_label(reader, case.id, volume_bytes(label_of(), ".nrrd"), params=params).status_code == 422
    assert served.store.reads(case.id) == []


def test_without_a_seat_nothing_is_saved(served: Served, case: Case) -> None:
    answer = served.put_label(served.account(), case.id, volume_bytes(label_of(), ".nrrd"))
    assert answer.status_code == 403
    assert "no seat" in answer.json()["detail"]
    assert served.store.reads(case.id) == []


def test_a_viewer_cannot_save_a_prelabel(served: Served, reader: Account, case: Case) -> None:
    answer = served.put_label(reader, case.id, volume_bytes(label_of(), ".nrrd"), tag="original")
    assert answer.status_code == 403
    assert served.store.prelabel(case.id) is None


def files(root: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and "-wal" not in path.name and "-shm" not in path.name:
            yield str(path.relative_to(root)), path.stat().st_size


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_read_and_write_nothing(served: Served, reader: Account, case: Case, name: str) -> None:
    session = served.session(served.accounts.find(reader.name) or reader)
    label = volume_bytes(label_of(), ".nrrd")
    before = list(files(served.site.root.parent))
    answers = [
        served.put_label(reader, name, label),
        served.put_label(reader, case.id, label, tag=name or "x", filename=f"{name}.nrrd"),
        session.get(f"{served.url}/datastore/image", params={"image": name}),
        session.head(f"{served.url}/datastore/image", params={"image": name}),
        session.get(f"{served.url}/datastore/label", params={"label": name, "tag": "final"}),
        session.get(f"{served.url}/datastore/label", params={"label": case.id, "tag": name or "x"}),
        session.get(f"{served.url}/datastore/label/info", params={"label": name, "tag": name}),
        session.post(f"{served.url}/infer/hippocampus", params={"image": name}),
        session.post(f"{served.url}/infer/hippocampus", params={"session_id": name or "x"}),
        session.post(f"{served.url}/infer/x{name}"),
        session.post(f"{served.url}/activelearning/x{name}", json={}),
        session.post(f"{served.url}/activelearning/worklist", json={"protocol": name or "x"}),
        session.get(f"{served.url}/session/x{name}"),
        session.delete(f"{served.url}/session/x{name}"),
        session.get(f"{served.url}/ohif/x{name}.js"),
        session.get(f"{served.url}/dicomweb/studies/x{name}/series"),
        session.get(f"{served.url}/review/static/x{name}"),
    ]
    for answer in answers:
        assert 400 <= answer.status_code < 500, (answer.request.url, answer.status_code)
        assert "root:" not in answer.text
        assert str(served.site.root) not in answer.text
    assert list(files(served.site.root.parent)) == before
    assert served.store.reads(case.id) == []


@pytest.mark.parametrize(
    ("room", "status"), [(100, 507), (3000, 503)], ids=["for nothing", "for the label but not for its row"]
)
def test_on_a_full_disk_nothing_is_acknowledged_and_later_it_is(served: Served, room: int, status: int) -> None:
    """The kernel refuses files above some bytes, as a full disk would refuse them."""
    protocol, reader = served.protocol(), served.account()
    [case] = served.cases(protocol)
    served.client(reader).next_sample("worklist", {"protocol": protocol.name})
    label = volume_bytes(label_of(), ".nrrd")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, unlimited[1]))
    try:
        answer = served.put_label(reader, case.id, label)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert answer.status_code == status, answer.text
    assert "Nothing was saved" in answer.json()["detail"]
    assert served.store.reads(case.id) == []
    assert served.put_label(reader, case.id, label).status_code == 200
    assert len(served.store.reads(case.id)) == 1


def test_what_monailabel_has_and_this_server_does_not_do_is_refused_in_words(served: Served, case: Case) -> None:
    session = served.session(served.account(*Role))
    for method, path, words in (
        ("PUT", "/datastore/image?image=x", "overread ingest"),
        ("PUT", "/datastore/?image=x", "overread ingest"),
        ("DELETE", f"/datastore/label?id={case.id}&tag=final", "never removed"),
        ("PUT", f"/datastore/updatelabelinfo?label={case.id}&tag=final", "a reader does not review"),
        ("DELETE", "/model/hippocampus", "signed bundles"),
        ("PUT", "/model/hippocampus", "signed bundles"),
        ("GET", "/logs/", "stay on the server"),
    ):
        answer = session.request(method, f"{served.url}{path}")
        assert (answer.status_code, words in answer.json()["detail"]) == (403, True), (method, path, answer.text)


def test_a_wrong_parameter_is_named_and_not_repeated(served: Served) -> None:
    answer = served.session(served.account()).get(f"{served.url}/datastore/?output=Doe%5EJohn")
    assert answer.status_code == 422
    assert "output" in answer.json()["detail"]
    assert "Doe" not in answer.text


def test_another_site_gets_no_permission_to_read(served: Served) -> None:
    answer = served.session(served.account()).get(
        f"{served.url}/info/", headers={"Origin": "https://elsewhere.example"}
    )
    assert "access-control-allow-origin" not in answer.headers
