"""monailabel's scribbles over the same route: what was scribbled in, the structure it means out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from numpy.typing import NDArray

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account, Case, Role
from labeling_protocols.volumes import read_volume, volume_bytes, write_volume
from tests.annotation.served import Served
from tests.training.drawn import STRAIGHT, draw

MODEL = "Histogram+GraphCut"
# As 3D Slicer numbers segments when it exports them.
INFO = [
    {"name": "anterior", "id": 1},
    {"name": "posterior", "id": 2},
    {"name": "background_scribbles", "id": 3},
    {"name": "foreground_scribbles", "id": 4},
]
# A turned grid, on which each axis has another length.
TURNED = Geometry(
    shape_ZYX=(18, 44, 30),
    spacing_mm_XYZ=(1.5, 1.5, 1.5),
    origin_mm_LPS=(-32.25, 21.75, 12.75),
    direction_LPS=(0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
)


def drawn_case(served: Served, protocol: Protocol, geometry: Geometry = STRAIGHT) -> tuple[Case, NDArray[Any]]:
    image, label = draw(3, geometry)
    case, _ = served.store.add_case(protocol=protocol.name, patient="P3", volume=image, modality="MR")
    return case, label.array_ZYX


def scribbled(label_ZYX: NDArray[Any], value: int, geometry: Geometry, folder: Path) -> Path:
    """A few voxels of a structure as foreground, a few beside it as background, and another structure's label."""
    scribbles = np.zeros(label_ZYX.shape, np.uint8)
    inside = np.argwhere(label_ZYX == value)
    for voxel in inside[len(inside) // 2 - 6 : len(inside) // 2 + 6]:
        scribbles[tuple(voxel)] = 4
    scribbles[2, 2:-2, 2:-2] = 3
    scribbles[-3, 2:-2, 2:-2] = 3
    scribbles[label_ZYX == 3 - value] = 3
    path = folder / "scribbles.nrrd"
    write_volume(Volume(array_ZYX=scribbles, geometry=geometry), path)
    return path


@pytest.mark.parametrize("geometry", [STRAIGHT, TURNED], ids=["straight", "turned"])
@pytest.mark.parametrize("name", ["anterior", "posterior"])
def test_scribbles_find_the_structure_they_are_in(
    served: Served, tmp_path: Path, geometry: Geometry, name: str
) -> None:
    protocol = served.protocol()
    case, label = drawn_case(served, protocol, geometry)
    value = protocol.values[name]
    path = scribbled(label, value, geometry, tmp_path)
    params = {"label_info": INFO, "selected_label_name": name, "roi": [], "result_extension": ".nrrd"}
    file, told = served.client(served.account()).infer(MODEL, case.id, params, label_in=str(path))
    found = read_volume(Path(file))
    assert case.geometry.difference(found.geometry) is None
    assert told["label_names"] == {name: value}
    assert set(np.unique(found.array_ZYX)) == {0, value}
    overlap = ((found.array_ZYX == value) & (label == value)).sum()
    assert 2 * overlap / ((found.array_ZYX == value).sum() + (label == value).sum()) > 0.8
    assert served.store.prelabel(case.id) is None


def test_a_box_does_without_scribbles(served: Served, tmp_path: Path) -> None:
    """Its middle is foreground, everything outside it background."""
    protocol = served.protocol()
    case, label = drawn_case(served, protocol)
    low, high = np.argwhere(label == 1).min(axis=0), np.argwhere(label == 1).max(axis=0)
    roi = [int(high[2]), int(low[2]), int(low[1]), int(high[1]), int(low[0]), int(high[0])]
    path = tmp_path / "scribbles.nrrd"
    write_volume(Volume(array_ZYX=np.zeros(label.shape, np.uint8), geometry=STRAIGHT), path)
    params = {"label_info": INFO, "selected_label_name": "anterior", "roi": roi}
    file, _ = served.client(served.account()).infer(MODEL, case.id, params, label_in=str(path))
    found = read_volume(Path(file)).array_ZYX
    outside = found.copy()
    outside[low[0] : high[0] + 1, low[1] : high[1] + 1, low[2] : high[2] + 1] = 0
    assert found.any()
    assert not outside.any()


def test_an_uploaded_image_is_scribbled_on_too(served: Served, tmp_path: Path) -> None:
    image, label = draw(3)
    write_volume(image, tmp_path / "image.nrrd")
    client = served.client(served.account(Role.ENGINEER))
    session_id = client.create_session(str(tmp_path / "image.nrrd"))["session_id"]
    path = scribbled(label.array_ZYX, 1, STRAIGHT, tmp_path)
    _, told = client.infer(MODEL, "", {"label_info": INFO}, label_in=str(path), session_id=session_id)
    assert told["label_names"] == {"foreground": 1}


def posted(
    served: Served, account: Account, case: Case, params: dict[str, Any], label: Volume | None, name: str
) -> requests.Response:
    files = {"label": (name, volume_bytes(label, ".nrrd"))} if label is not None else None
    url = f"{served.url}/infer/Histogram%2BGraphCut?image={case.id}"
    return served.session(account).post(url, data={"params": json.dumps(params)}, files=files)


EMPTY = Volume(array_ZYX=np.zeros(STRAIGHT.shape_ZYX, np.uint8), geometry=STRAIGHT)


@pytest.mark.parametrize(
    ("params", "label", "name", "said"),
    [
        ({}, None, "", "needs scribbles"),
        ({}, EMPTY, "label.nrrd", "no foreground"),
        ({"label_info": "all"}, EMPTY, "label.nrrd", "label_info must be a list"),
        ({"label_info": [{"name": "foreground_scribbles", "id": "4"}]}, EMPTY, "label.nrrd", "no number"),
        ({}, EMPTY, "scribbles.bin", "volume file"),
        ({}, draw(3, TURNED)[1], "label.nrrd", "do not lie on the image's grid"),
    ],
)
def test_scribbles_that_cannot_be_used_are_refused_in_words(
    served: Served, params: dict[str, Any], label: Volume | None, name: str, said: str
) -> None:
    case, _ = drawn_case(served, served.protocol())
    answer = posted(served, served.account(), case, params, label, name)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert "Nothing was done" in answer.json()["detail"]
