"""Every kind of champion as viewers use it: clicks and boxes in, outlines out; an image in, boxes out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monailabel.client.client import MONAILabelClientException
from numpy.typing import NDArray

from apps.annotation.served_model import case_asked
from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Label
from labeling_protocols.markups import read_markups
from labeling_protocols.protocol import Protocol, Task
from labeling_protocols.records import Account, Case, Role
from labeling_protocols.volumes import read_volume, volume_bytes
from tests.annotation.released import case_on, interactive_parts, parts_of, release, segmentation_parts
from tests.annotation.served import Served
from tests.conftest import label_of
from tests.training.drawn import STRAIGHT, draw
from tests.training.drawn_spheres import CUBE, draw_spheres, sphere_plan
from training.detection_inference import Detector, detection_config
from training.detection_network import build_network

# The network turns it round, and looks at the part about the clicks alone. Anterior lies about voxel (12, 18, 10),
# posterior about (18, 25, 6).
LONG = Geometry(
    shape_ZYX=(18, 44, 30),
    spacing_mm_XYZ=(1.5, 1.5, 1.5),
    origin_mm_LPS=(-32.25, 21.75, 12.75),
    direction_LPS=(0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
)
SIGMA_MM = 3.0  # two voxels of 1.5 mm
VALUES = {"anterior": 1, "posterior": 2}


def expected(image: NDArray[Any], clicks: dict[str, list[list[int]]]) -> NDArray[np.int64]:
    """What the network made by hand says (`released.py`), worked out voxel by voxel."""
    bright = np.clip(image.astype(np.float64) / 200, 0, 1)
    near = {name: shown(image.shape, clicks.get(name, [])) for name in (*VALUES, "background")}
    scores = [
        10 * near["background"],
        25 * bright - 19 + 40 * near["anterior"],
        5 * bright - 1.25 + 40 * near["posterior"],
    ]
    return np.argmax(scores, axis=0)


def shown(shape_ZYX: tuple[int, ...], clicks: list[list[int]]) -> NDArray[np.float64]:
    """A Gaussian in millimetres about each click (i, j, k), cut off after four deviations along each axis."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape_ZYX), indexing="ij")
    height = np.zeros(shape_ZYX)
    for i, j, k in clicks:
        away_mm = 1.5 * np.stack([x - i, y - j, z - k])
        there = (np.abs(away_mm) <= 4 * SIGMA_MM).all(axis=0)
        height = np.maximum(height, there * np.exp(-0.5 * (away_mm**2).sum(axis=0) / SIGMA_MM**2))
    return height


@pytest.fixture(scope="module")
def clicked(served: Served) -> tuple[Protocol, str]:
    protocol = served.protocol()
    return protocol, release(served, protocol, "interactive", interactive_parts())


@pytest.fixture(scope="module")
def boxed(served: Served) -> tuple[Protocol, str]:
    """A protocol that boxes nodules, and an untrained network for them: what it finds does not matter here."""
    shipped = served.protocol()
    first, second = shipped.structures
    nodule = replace(first, name="nodule", title="Nodule", tasks=(Task.SEGMENTATION, Task.BOXES))
    limits = replace(shipped.agreement["anterior"], match_mm_max=3.0, f1_min=0.1)
    protocol = served.protocol(
        structures=(nodule, second),
        agreement={"nodule": limits, "posterior": shipped.agreement["posterior"]},
        gate=replace(shipped.gate, dice_min={"nodule": 0.0, "posterior": 0.0}),
    )
    torch.manual_seed(2)
    weights = build_network(sphere_plan()).state_dict()
    weights["classification_head.cls_logits.bias"].zero_()
    weights["classification_head.cls_logits.weight"].mul_(8)
    detector = Detector(detection_config(sphere_plan()), weights, torch.device("cpu"))
    middle = detector.predict(draw_spheres(1)[0])[4].score
    parts = parts_of(detection_config(sphere_plan(), operating_point=middle), weights)
    return protocol, release(served, protocol, "detection", parts)


def asked(
    served: Served, account: Account, model: str, case: Case, **params: Any
) -> tuple[NDArray[Any], dict[str, Any]]:
    """What the model answers as 3D Slicer asks it; the label lies on the case's grid."""
    file, told = served.client(account).infer(model, case.id, {"result_extension": ".nrrd", **params})
    label = read_volume(Path(file))
    assert case.geometry.difference(label.geometry) is None
    assert label.array_ZYX.dtype == np.uint8
    return label.array_ZYX, told


def test_an_interactive_model_is_told_of_as_viewers_need_it(served: Served, clicked: tuple[Protocol, str]) -> None:
    """3D Slicer sends clicks of every label of the server, of a "deepedit" model with labels one list for each."""
    protocol, model = clicked
    told = served.client(served.account()).info()
    mine = told["models"][f"{protocol.name}-interactive"]
    assert (mine["type"], mine["labels"]) == ("deepedit", {"anterior": 1, "posterior": 2, "background": 0})
    assert (mine["version"], mine["dimension"]) == (model, 3)
    assert protocol.title in mine["description"]
    assert protocol.name not in told["models"]  # it has no champion that answers by itself
    assert told["labels"][-1] == "background"


@pytest.mark.parametrize(
    ("geometry", "inside_anterior"), [(STRAIGHT, [6, 12, 6]), (LONG, [12, 18, 10])], ids=["straight", "flipped"]
)
def test_clicks_change_what_lies_about_them(
    served: Served, clicked: tuple[Protocol, str], geometry: Geometry, inside_anterior: list[int]
) -> None:
    protocol, model = clicked
    case, reader = case_on(served, protocol, geometry), served.account()
    image = served.store.image(case).array_ZYX
    automatic, told = asked(served, reader, f"{protocol.name}-interactive", case)
    np.testing.assert_array_equal(automatic, expected(image, {}))
    assert (told["model"], told["label_names"]) == (model, VALUES)
    clicks = {"anterior": [[3, 4, 5], [15, 3, 2]], "posterior": [], "background": [inside_anterior]}
    corrected, _ = asked(served, reader, f"{protocol.name}-interactive", case, **clicks, label="anterior", other=[[1]])
    np.testing.assert_array_equal(corrected, expected(image, clicks))
    assert (automatic[tuple(inside_anterior[::-1])], corrected[tuple(inside_anterior[::-1])]) == (1, 0)


def test_a_first_click_corrects_the_champions_prelabel_and_both_were_shown(served: Served, tmp_path: Path) -> None:
    protocol = served.protocol()
    model = release(served, protocol, "interactive", interactive_parts())
    champion = release(served, protocol, "segmentation", segmentation_parts())
    case, reader = case_on(served, protocol, LONG), served.account()
    served.seat(reader, case)
    proposed = np.zeros(LONG.shape_ZYX, np.uint8)
    proposed[:2] = proposed[-2:] = 2
    image = served.store.image(case)
    served.store.save_prelabel(case.id, champion, Label.of(replace(image, array_ZYX=proposed)))
    ours = served.app.state.annotation.model(f"{protocol.name}-interactive")
    clicks = {"anterior": [[12, 18, 10]]}
    label, _ = asked(served, reader, ours.key, case, **clicks)
    changed = label != proposed
    assert changed.any()
    np.testing.assert_array_equal(label[changed], expected(image.array_ZYX, clicks)[changed])
    np.testing.assert_array_equal(label[:, :4], proposed[:, :4])  # beyond the part that was looked at
    assert ours.is_quick(case_asked(served.store, ours.images, case, clicks))
    assert not ours.is_quick(case_asked(served.store, ours.images, case, {}))
    served.save(reader, case.id, replace(image, array_ZYX=label), tmp_path)
    [read] = served.store.reads(case.id, reader.id)
    assert (read.provenance.prelabel_model, read.provenance.prelabel_shown) == (model, True)
    automatic, _ = asked(served, reader, ours.key, case)
    np.testing.assert_array_equal(automatic, expected(image.array_ZYX, {}))


def test_deepgrow_s_words_for_clicks_are_understood(served: Served, clicked: tuple[Protocol, str]) -> None:
    protocol, _ = clicked
    case = case_on(served, protocol, STRAIGHT)
    said = {"foreground": [[3, 4, 5]], "background": [[12, 12, 9]], "label": "posterior"}
    label, _ = asked(served, served.account(), f"{protocol.name}-interactive", case, **said)
    meant = {"posterior": [[3, 4, 5]], "background": [[12, 12, 9]]}
    np.testing.assert_array_equal(label, expected(served.store.image(case).array_ZYX, meant))


def test_a_box_bounds_the_structure_it_is_drawn_for(served: Served, clicked: tuple[Protocol, str]) -> None:
    """3D Slicer sends its corners in the order of the patient's axes, so that the first can be the larger one."""
    protocol, _ = clicked
    case = case_on(served, protocol, LONG)
    image = served.store.image(case).array_ZYX
    roi = [16, 10, 18, 24, 3, 9]
    label, _ = asked(served, served.account(), f"{protocol.name}-interactive", case, roi=roi, label="posterior")
    without = expected(image, {"posterior": [[13, 21, 6]]})
    outside = np.ones(image.shape, bool)
    outside[3:10, 18:25, 10:17] = False
    assert ((label == 2) & outside).sum() == 0
    assert ((without == 2) & outside).any()
    np.testing.assert_array_equal(label[~outside], without[~outside])
    elsewhere = without != 2  # what it leaves goes to the structure that is next
    np.testing.assert_array_equal(label[elsewhere], without[elsewhere])


def test_an_answer_to_clicks_is_no_prelabel_but_was_shown(
    served: Served, clicked: tuple[Protocol, str], tmp_path: Path
) -> None:
    protocol, model = clicked
    case, reader = case_on(served, protocol, STRAIGHT, seed=4), served.account()
    served.seat(reader, case)
    label, _ = asked(served, reader, f"{protocol.name}-interactive", case, anterior=[[3, 4, 5]])
    assert served.store.prelabel(case.id) is None
    served.save(reader, case.id, replace(draw(4)[1], array_ZYX=label), tmp_path)
    [read] = served.store.reads(case.id, reader.id)
    assert (read.provenance.prelabel_model, read.provenance.prelabel_shown) == (model, True)


def test_a_second_click_finds_its_image_decoded_and_prepared(served: Served, clicked: tuple[Protocol, str]) -> None:
    protocol, _ = clicked
    case, reader = case_on(served, protocol, STRAIGHT, seed=5), served.account()
    images = served.app.state.annotation.images
    assert not images.known((case.digest, "volume"))
    asked(served, reader, f"{protocol.name}-interactive", case)
    assert images.known((case.digest, "volume"))
    kept = images.bytes
    asked(served, reader, f"{protocol.name}-interactive", case, anterior=[[3, 4, 5]])
    assert images.bytes - kept <= np.prod(STRAIGHT.shape_ZYX)  # the voxels of one part


def test_an_uploaded_image_is_clicked_too(served: Served, clicked: tuple[Protocol, str], tmp_path: Path) -> None:
    protocol, _ = clicked
    image, _ = draw(6)
    path = tmp_path / "image.nrrd"
    path.write_bytes(volume_bytes(image, ".nrrd"))
    client = served.client(served.account(Role.ENGINEER))
    session_id = client.create_session(str(path))["session_id"]
    for clicks in ({}, {"anterior": [[3, 4, 5]]}):
        file, _ = client.infer(f"{protocol.name}-interactive", "", dict(clicks), session_id=session_id)
        np.testing.assert_array_equal(read_volume(Path(file)).array_ZYX, expected(image.array_ZYX, clicks))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"anterior": [[3, 4, 99]]}, "outside the image"),
        ({"anterior": [[3, 4]]}, "expected three voxel indices"),
        ({"anterior": "here"}, "expected a list of clicks"),
        ({"foreground": [[3, 4, 5]], "label": "liver"}, "expected one of anterior, posterior"),
        ({"roi": [1, 2, 3]}, "six voxel indices"),
        ({"roi": [100, 120, 0, 9, 0, 9]}, "outside the image"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(
    served: Served, clicked: tuple[Protocol, str], params: dict[str, Any], said: str
) -> None:
    protocol, _ = clicked
    case = case_on(served, protocol, STRAIGHT)
    with pytest.raises(MONAILabelClientException) as refusal:
        served.client(served.account()).infer(f"{protocol.name}-interactive", case.id, params)
    assert "Status: 422" in refusal.value.msg
    assert said in refusal.value.msg
    assert "Nothing was outlined" in refusal.value.msg


def test_findings_come_as_markups_that_can_be_saved_again(
    served: Served, boxed: tuple[Protocol, str], tmp_path: Path
) -> None:
    protocol, model = boxed
    assert served.client(served.account()).info()["models"][f"{protocol.name}-detection"]["type"] == "detection"
    image, _ = draw_spheres(1)
    case, _ = served.store.add_case(protocol=protocol.name, patient="P1", volume=image, modality="MR")
    reader = served.account()
    served.seat(reader, case)
    client = served.client(reader)
    file, told = client.infer(f"{protocol.name}-detection", case.id, {"result_extension": ".nrrd"})
    assert file.endswith(".json")
    assert (told["model"], told["label"]) == (model, ["nodule"] * 5)
    assert told["score"] == sorted(told["score"], reverse=True)
    found, _ = read_markups(Path(file).read_bytes(), protocol, CUBE)
    for box, row in zip(found, told["box"], strict=True):
        assert [*box.centre_mm_LPS, *box.size_mm_XYZ] == pytest.approx(row)
    # 3D Slicer's module calls all ROIs by number and saves them under ".json".
    renamed = json.loads(Path(file).read_text())
    for number, markup in enumerate(renamed["markups"]):
        markup["name"] = f"Detection ROI - {number}"
    saved = tmp_path / "boxes.json"
    saved.write_text(json.dumps(renamed))
    served.store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of(geometry=CUBE)))
    client.save_label(case.id, str(saved), params={"label_info": []})
    read = served.store.reads(case.id, reader.id)[-1]
    assert served.store.label(read.label).boxes == tuple(found)
    assert (read.provenance.prelabel_model, read.provenance.prelabel_shown) == (model, True)
    assert served.store.prelabel(case.id) is None


def test_an_image_in_which_nothing_is_found_has_no_file(served: Served, boxed: tuple[Protocol, str]) -> None:
    """3D Slicer takes a file without any markup for a damaged one."""
    protocol, _ = boxed
    weights = build_network(sphere_plan()).state_dict()
    release(served, protocol, "detection", parts_of(detection_config(sphere_plan(), operating_point=1.0), weights))
    image, _ = draw_spheres(2)
    case, _ = served.store.add_case(protocol=protocol.name, patient="P2", volume=image, modality="MR")
    file, _ = served.client(served.account()).infer(f"{protocol.name}-detection", case.id, {})
    assert file is None


@pytest.mark.parametrize(
    ("way", "status", "said"),
    [
        ("/infer/nobody?image={case}", 404, "unknown model"),
        ("/infer/{protocol}-segmentation?image={case}", 404, "unknown model"),
        ("/infer/{protocol}-interactive?image=nobody", 404, ""),
        ("/infer/{protocol}-interactive", 404, ""),
        ("/infer/{protocol}-interactive?session_id=0123", 404, "session"),
        ("/infer/{protocol}-detection?image={case}", 409, "no detection model"),
        ("/infer/{protocol}-interactive?image={other}", 404, "another protocol"),
        ("/infer/nninteractive?image={case}", 404, "nnInteractive is not set up"),
        ("/infer/GMM%2BGraphCut?image={case}", 422, "needs a GPU"),
    ],
)
def test_what_is_unknown_or_not_there_is_said_in_words(
    served: Served, clicked: tuple[Protocol, str], way: str, status: int, said: str
) -> None:
    if "GPU" in said and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    protocol, _ = clicked
    case, [other] = case_on(served, protocol, STRAIGHT), served.cases(served.protocol())
    address = way.format(protocol=protocol.name, case=case.id, other=other.id)
    answer = served.session(served.account(Role.ENGINEER)).post(f"{served.url}{address}")
    assert answer.status_code == status
    assert said in answer.json()["detail"]


def test_what_cannot_work_here_is_not_offered(served: Served) -> None:
    offered = served.client(served.account(Role.ENGINEER)).info()["models"]
    assert "nninteractive" not in offered
    assert "Histogram+GraphCut" in offered
    assert ("GMM+GraphCut" in offered) == torch.cuda.is_available()
