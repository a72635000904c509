"""`final`, `version_N` and saves as viewers know them: revisions in, nothing lost, resumed where they were left."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
from monailabel.client.client import MONAILabelClient

from labeling_protocols import settlement
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.protocol_parts import AgreementLimits, Blinding, BlindingLifts, BooleanQuestion, Task
from labeling_protocols.records import Account, Case, Role
from labeling_protocols.volumes import read_volume, volume_bytes
from tests.annotation.served import INFO, Served
from tests.conftest import OBLIQUE, label_of

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

CENTRE = tuple(float(part) for part in (OBLIQUE.affine_LPS() @ [3, 4, 2, 1])[:3])
BOX = {"structure": "anterior", "centre_mm_LPS": list(CENTRE), "size_mm_XYZ": [1.6, 2.2, 2.5]}


def array(client: MONAILabelClient, case: str, tag: str) -> np.ndarray[Any, Any]:
    return read_volume(Path(client.download_label(case, tag))).array_ZYX


def begun(served: Served, **changes: Any) -> tuple[Protocol, Case, Account]:
    protocol = served.protocol(**changes)
    [case] = served.cases(protocol)
    reader = served.account()
    served.seat(reader, case)
    return protocol, case, reader


def test_every_save_is_a_version_and_the_next_one_may_be_named(served: Served) -> None:
    _, case, reader = begun(served)
    contents = [volume_bytes(label_of(shift), ".nrrd") for shift in range(3)]
    saves = ((contents[0], {}), (contents[1], {"tag": "version_2"}), (contents[2], {"tag": "final"}))
    for number, (content, how) in enumerate(saves, 1):
        answer = served.put_label(reader, case.id, content, **how)
        assert answer.json() == {"image": case.id, "label": case.id, "revision": number, "version": number}
    client = served.client(reader)
    for tag, shift in (("version_1", 0), ("version_2", 1), ("version_3", 2), ("final", 2), ("", 2)):
        np.testing.assert_array_equal(array(client, case.id, tag), label_of(shift).array_ZYX)
    assert list(client.datastore()["objects"][case.id]["labels"]) == ["final", "version_1", "version_2", "version_3"]


def test_a_version_is_not_overwritten_and_none_is_skipped(served: Served) -> None:
    _, case, reader = begun(served)
    first, second = (volume_bytes(label_of(shift), ".nrrd") for shift in (0, 1))
    assert served.put_label(reader, case.id, first, tag="version_1").status_code == 200
    assert served.put_label(reader, case.id, first, tag="version_1").json()["revision"] == 1  # the same, sent once more
    for content, tag, words in (
        (second, "version_1", "version_1 exists and is not overwritten"),
        (second, "version_3", "your next version is version_2"),
    ):
        answer = served.put_label(reader, case.id, content, tag=tag)
        assert (answer.status_code, words in answer.json()["detail"]) == (409, True), answer.text
    for tag in ("version_0", "version_01", "version_x", "version_9999999", "another"):
        assert served.put_label(reader, case.id, second, tag=tag).status_code == 422, tag
    assert len(served.store.reads(case.id)) == 1


def test_a_withdrawn_read_is_final_no_longer_and_stays_a_version(served: Served) -> None:
    _, case, reader = begun(served)
    served.put_label(reader, case.id, volume_bytes(label_of(), ".nrrd"))
    served.store.withdraw(case_id=case.id, reader=reader.id, actor="tests", reason="the wrong side")
    session = served.session(reader)
    of = f"{served.url}/datastore/label?label={case.id}&tag="
    assert [session.get(of + tag).status_code for tag in ("final", "version_1", "version_2")] == [404, 200, 404]
    assert list(served.client(reader).datastore()["objects"][case.id]["labels"]) == ["version_1"]
    trained = session.get(f"{served.url}/datastore/?output=train").json()
    assert case.id not in {entry["image"] for entry in trained}
    served.put_label(reader, case.id, volume_bytes(label_of(1), ".nrrd"))
    np.testing.assert_array_equal(array(served.client(reader), case.id, "final"), label_of(1).array_ZYX)


@pytest.mark.parametrize(("lifts", "seen"), [(BlindingLifts.NEVER, 1), (BlindingLifts.WHEN_SETTLED, 0)])
def test_final_is_the_truth_once_blinding_lifts(served: Served, lifts: BlindingLifts, seen: int) -> None:
    """The second reader's truth is computed from both reads: where a voxel is in one of two only, it is background."""
    protocol, case, reader = begun(served, blinding=Blinding(lifts=lifts))
    other, stranger = served.account(), served.account()
    served.seat(other, case)
    served.put_label(reader, case.id, volume_bytes(grown(), ".nrrd"))
    served.put_label(other, case.id, volume_bytes(label_of(), ".nrrd"))
    session = served.session(reader)
    address = f"{served.url}/datastore/label/info?label={case.id}&tag="
    assert "settled" not in session.get(address).json()  # nobody judged it yet, and a reader's question does not
    assert settlement.judge(served.store, protocol.name) == 1
    assert session.get(address + "final").json().get("settled") == (None if seen else "consensus")
    assert array(served.client(reader), case.id, "final")[0, 0, 0] == seen
    assert array(served.client(reader), case.id, "version_1")[0, 0, 0] == 1
    assert served.session(stranger).get(address + "final").status_code == 404
    truth = served.session(served.account(Role.ENGINEER)).get(address + "final").json()
    assert truth["settled"] == "consensus"


def grown() -> Volume:
    """`label_of()` and one voxel more: the readers agree."""
    array_ZYX = label_of().array_ZYX.copy()
    array_ZYX[0, 0, 0] = 1
    return Volume(array_ZYX=array_ZYX, geometry=OBLIQUE)


def test_who_sees_truths_sees_each_readers_newest_read_as_a_version(served: Served) -> None:
    _, case, reader = begun(served)
    other = served.account()
    served.seat(other, case)
    for who, shifts in ((reader, (1, 0)), (other, (2,))):
        for shift in shifts:
            served.put_label(who, case.id, volume_bytes(label_of(shift), ".nrrd"))
    client = served.client(served.account(Role.ENGINEER))
    listed = client.datastore()["objects"][case.id]["labels"]
    assert [tag for tag in listed if tag.startswith("version_")] == ["version_1", "version_2"]
    assert "final" not in listed  # they do not agree
    found = {int(array(client, case.id, f"version_{number}")[1, 1].argmax()) for number in (1, 2)}
    assert found == {1, 3}  # where each label begins along x: nobody sees the first reader's first revision
    info = client.datastore()["objects"][case.id]["labels"]["version_1"]["info"]
    assert reader.name not in json.dumps(info)
    assert reader.id not in json.dumps(info)


# What a save may carry


def findings(**changes: Any) -> dict[str, Any]:
    """Changes that make the hippocampus protocol ask for boxes, points and an answer too."""
    shipped = load_protocol(SHIPPED / "hippocampus.yaml")
    anterior, posterior = shipped.structures
    boxed = replace(anterior, tasks=(Task.SEGMENTATION, Task.BOXES, Task.POINTS))
    limits = replace(shipped.agreement["anterior"], match_mm_max=5.0, f1_min=0.5)
    question = BooleanQuestion(kind="boolean", name="motion", title="Did the patient move?")
    agreement: dict[str, AgreementLimits] = {**shipped.agreement, "anterior": limits}
    return {"structures": (boxed, posterior), "questions": (question,), "agreement": agreement, **changes}


def test_boxes_points_answers_and_seconds_come_with_a_save_and_go_with_its_info(served: Served) -> None:
    _, case, reader = begun(served, **findings())
    point = {"structure": "anterior", "position_mm_LPS": list(CENTRE)}
    said = {"boxes": [BOX], "points": [point], "answers": {"motion": False}, "seconds": 431.5}
    answer = served.put_label(
        reader, case.id, volume_bytes(label_of(), ".nrrd"), params=json.dumps({"label_info": INFO, **said})
    )
    assert answer.status_code == 200, answer.text
    [read] = served.store.reads(case.id, reader.id)
    assert read.provenance.seconds == 431.5
    info = served.session(reader).get(f"{served.url}/datastore/label/info?label={case.id}").json()
    assert {name: info[name] for name in ("boxes", "points", "answers")} == {
        name: said[name] for name in ("boxes", "points", "answers")
    }


def test_what_a_save_does_not_speak_of_stays_as_it_was(served: Served) -> None:
    """3D Slicer sends outlines in one file, boxes in another, and answers in none."""
    _, case, reader = begun(served, **findings())
    outlines = volume_bytes(label_of(), ".nrrd")
    served.put_label(reader, case.id, outlines, params=json.dumps({"label_info": INFO, "answers": {"motion": True}}))
    markup = {"type": "ROI", "name": "anterior", "center": list(CENTRE), "size": [1.0, 1.0, 1.0]}
    roi = json.dumps({"markups": [markup]}).encode()
    answer = served.put_label(reader, case.id, roi, filename="R.mrk.json", params="{}")
    assert answer.json()["revision"] == 2, answer.text
    label = newest(served, case, reader)
    assert (len(label.boxes), dict(label.answers)) == (1, {"motion": True})
    np.testing.assert_array_equal(label.array_ZYX, label_of().array_ZYX)
    served.put_label(reader, case.id, volume_bytes(label_of(1), ".nrrd"))
    label = newest(served, case, reader)
    assert (len(label.boxes), dict(label.answers)) == (1, {"motion": True})
    np.testing.assert_array_equal(label.array_ZYX, label_of(1).array_ZYX)
    served.put_label(
        reader, case.id, volume_bytes(label_of(1), ".nrrd"), params=json.dumps({"label_info": INFO, "boxes": []})
    )
    assert newest(served, case, reader).boxes == ()


def newest(served: Served, case: Case, reader: Account) -> Label:
    return served.store.label(served.store.reads(case.id, reader.id)[-1].label)


def test_a_segmentation_with_overlap_comes_back_as_one(served: Served, tmp_path: Path) -> None:
    _, case, reader = begun(served, overlaps=(("anterior", "posterior"),))
    layers = np.zeros((2, *OBLIQUE.shape_ZYX), np.uint8)
    layers[0, 1:4, 1:4, 1:4] = 1
    layers[1, 2:5, 2:5, 2:5] = 1  # each segment's own value within its layer
    header = {
        "space": "left-posterior-superior",
        "space directions": np.vstack([np.full(3, np.nan), OBLIQUE.affine_LPS()[:3, :3].T]),
        "space origin": np.asarray(OBLIQUE.origin_mm_LPS),
        "kinds": ["list", "domain", "domain", "domain"],
        "encoding": "gzip",
        **{f"Segment{n}_{key}": str(value) for n, fields in enumerate(SEGMENTS) for key, value in fields.items()},
    }
    path = tmp_path / "drawn.seg.nrrd"
    nrrd.write(str(path), layers.transpose(0, 3, 2, 1), header, index_order="F")
    answer = served.put_label(reader, case.id, path.read_bytes(), filename="drawn.seg.nrrd", params="{}")
    assert answer.status_code == 200, answer.text
    kept = newest(served, case, reader)
    assert [int(kept.mask_ZYX(value).sum()) for value in (1, 2)] == [27, 27]
    back = served.session(reader).get(f"{served.url}/datastore/label?label={case.id}")
    assert back.headers["content-disposition"] == f'attachment; filename="{case.id}.seg.nrrd"'
    assert b"Segment1_Name:=posterior" in back.content
    assert nrrd.read_header(io.BytesIO(back.content))["sizes"].tolist() == [2, 8, 10, 6]
    again = served.put_label(reader, case.id, back.content, filename="again.seg.nrrd", params="{}")
    assert again.json()["revision"] == 1, "the same label came back as another one"


SEGMENTS = (
    {"ID": "s0", "Name": "anterior", "LabelValue": 1, "Layer": 0},
    {"ID": "s1", "Name": "posterior", "LabelValue": 1, "Layer": 1},
)


@pytest.mark.parametrize(
    "said",
    [
        {"boxes": [{**BOX, "size_mm_XYZ": [1, 2]}]},
        {"boxes": [{**BOX, "centre_mm_LPS": ["a", 0, 0]}]},
        {"boxes": "all"},
        {"points": [BOX]},
        {"answers": ["motion"]},
        {"answers": {"motion": {"x": 1}}},
        {"answers": {"motion": "perhaps"}},
        {"answers": {"colour": "red"}},
        {"seconds": -1},
        {"seconds": 1e9},
        {"seconds": "long"},
        {"boxes": [{**BOX, "structure": "liver"}]},
    ],
)
def test_what_a_save_says_in_another_form_is_refused_in_words(served: Served, said: dict[str, Any]) -> None:
    _, case, reader = begun(served, **findings())
    answer = served.put_label(
        reader, case.id, volume_bytes(label_of(), ".nrrd"), params=json.dumps({"label_info": INFO, **said})
    )
    assert answer.status_code == 422, answer.text
    assert "Nothing was saved" in answer.json()["detail"]
    assert served.store.reads(case.id) == []
