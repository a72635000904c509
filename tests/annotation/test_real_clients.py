"""monailabel's unmodified client, under login and at personal addresses: four readers at once, and one cut off."""

import importlib.util
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import requests
import torch
from monailabel.client.client import MONAILabelClient

from labeling_protocols import audit
from labeling_protocols.geometry import Volume
from labeling_protocols.protocol import Protocol, Task
from labeling_protocols.records import Account
from labeling_protocols.volumes import read_volume, write_volume
from tests.annotation.released import interactive_parts, parts_of, release, segmentation_parts
from tests.annotation.served import INFO, Served
from tests.conftest import OBLIQUE
from tests.training.drawn import draw
from tests.training.drawn_spheres import sphere_plan
from training.bundle import METADATA, write_bundle
from training.detection_inference import detection_config
from training.detection_network import build_network

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

CASES, REVISIONS = 3, 4


def drawing(reader: int, case: int, revision: int) -> Volume:
    """A label that says who drew it: as many voxels as no other of the test's."""
    array_ZYX = np.zeros(OBLIQUE.shape_ZYX, np.uint8)
    array_ZYX.ravel()[: 1 + revision + REVISIONS * (case + CASES * reader)] = 1 + reader % 2
    return Volume(array_ZYX=array_ZYX, geometry=OBLIQUE)


def test_four_readers_at_once_keep_every_revision_and_each_their_own(served: Served, tmp_path: Path) -> None:
    protocol = served.protocol(readers_per_case=4)
    cases = [case.id for case in served.cases(protocol, CASES)]
    readers = [served.account() for _ in range(4)]
    clients = [
        served.client(reader) if number % 2 else served.client_at_address(reader)
        for number, reader in enumerate(readers)
    ]
    start = Barrier(len(readers))

    def read_all(number: int) -> list[str]:
        client, seen = clients[number], []
        start.wait()
        while sample := client.next_sample("worklist", {"protocol": protocol.name}):
            seen.append(sample["id"])
            image = requests.get(
                f"{client.get_server_url()}/datastore/image?image={sample['id']}", headers=client._headers, timeout=30
            )
            assert image.ok
            for revision in range(REVISIONS):
                path = tmp_path / f"{number}-{revision}.nrrd"
                write_volume(drawing(number, cases.index(sample["id"]), revision), path)
                saved = client.save_label(sample["id"], str(path), params={"label_info": INFO})
                assert saved["revision"] == revision + 1
        return seen

    with ThreadPoolExecutor(len(readers)) as pool:
        seen = list(pool.map(read_all, range(len(readers))))
    for number, (reader, client) in enumerate(zip(readers, clients, strict=True)):
        assert sorted(seen[number]) == sorted(cases)
        for place, case in enumerate(cases):
            reads = served.store.reads(case, reader.id)
            expected = [drawing(number, place, revision).array_ZYX for revision in range(REVISIONS)]
            assert [read.revision for read in reads] == list(range(1, REVISIONS + 1))
            for read, array_ZYX in zip(reads, expected, strict=True):
                np.testing.assert_array_equal(served.store.label(read.label).array_ZYX, array_ZYX)
            back = read_volume(Path(client.download_label(case, "version_2"))).array_ZYX
            np.testing.assert_array_equal(back, expected[1])
    for case in cases:
        assert len(served.store.reads(case)) == 4 * REVISIONS
    with served.store.engine.connect() as connection:
        assert audit.verify(connection).broken is None


READER = """
import sys
import requests
import torch
from monailabel.client.client import MONAILabelClient

url, name, password, protocol = sys.argv[1:5]
client = MONAILabelClient(url)
client.update_auth(client.auth_token(name, password))
for label in sys.argv[5:]:
    sample = client.next_sample("worklist", {"protocol": protocol})
    image = requests.get(f"{url}/datastore/image?image={sample['id']}", headers=client._headers, timeout=30)
    assert image.ok
    if label != "-":
        client.save_label(sample["id"], label, params={"label_info": [{"name": "anterior", "idx": 1}]})
    print(sample["id"], flush=True)
sys.stdin.read()  # until somebody ends this
"""


def started(served: Served, reader: Account, protocol: str, *labels: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", READER]
    command += [served.url, reader.name, f"{reader.name}-password", protocol, *labels]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_client_that_is_killed_resumes_its_case_and_its_revisions(served: Served, tmp_path: Path) -> None:
    """The first computer saves one case, asks for the next one, downloads it and dies; nobody else gets that case."""
    protocol = served.protocol()
    served.cases(protocol, 3)
    reader = served.account()
    path = tmp_path / "label.nrrd"
    write_volume(drawing(0, 0, 2), path)
    first = started(served, reader, protocol.name, str(path), "-")
    done, left = told(first), told(first)
    first.kill()
    first.communicate()
    assert done != left
    second = started(served, reader, protocol.name, "-")
    resumed = told(second)
    second.communicate("")
    assert resumed == left
    client: MONAILabelClient = served.client(reader)
    for tag in ("final", "version_1"):
        back = read_volume(Path(client.download_label(done, tag)))
        np.testing.assert_array_equal(back.array_ZYX, drawing(0, 0, 2).array_ZYX)
    own = served.session(reader).get(f"{served.url}/worklist/").json()["protocols"]
    [work] = [entry["work"] for entry in own if entry["protocol"] == protocol.name]
    assert [(entry["case"], entry["state"]) for entry in work] == [(left, "claimed"), (done, "read")]


def plugin_client() -> type[MONAILabelClient]:
    """The client that 3D Slicer's module brings along, an older one than the package's."""
    path = Path(sys.prefix) / "monailabel" / "plugins" / "slicer" / "MONAILabel" / "MONAILabelLib" / "client.py"
    if not path.is_file():
        pytest.skip("monailabel's wheel has no module for 3D Slicer here")
    spec = importlib.util.spec_from_file_location("slicer_module_client", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: type[MONAILabelClient] = module.MONAILabelClient
    return found


@pytest.fixture(scope="module")
def every_kind(served: Served) -> Protocol:
    """A protocol with a champion of each task, and a signed bundle by file."""
    shipped = served.protocol()
    first, second = shipped.structures
    protocol = served.protocol(
        structures=(replace(first, tasks=(Task.SEGMENTATION, Task.BOXES)), second),
        agreement={
            **shipped.agreement,
            "anterior": replace(shipped.agreement["anterior"], match_mm_max=3.0, f1_min=0.1),
        },
    )
    plan = replace(sphere_plan(), targets=("anterior",))
    torch.manual_seed(2)
    weights = build_network(plan).state_dict()
    weights["classification_head.cls_logits.bias"].zero_()
    release(served, protocol, "segmentation", segmentation_parts())
    release(served, protocol, "interactive", interactive_parts())
    release(served, protocol, "detection", parts_of(detection_config(plan, operating_point=0.3), weights))
    told = {"name": "by file", "version": "1.0.0", "overread": {"task": "segmentation", "values": protocol.values}}
    folder = served.site.folder("models")
    parts = segmentation_parts() | {METADATA: json.dumps(told).encode()}
    written = write_bundle(parts, name="by-file", folder=folder, signing_key=served.site.signing_key)
    written.rename(folder / "by-file.zip")
    return protocol


@pytest.mark.parametrize("whose", ["package", "slicer"])
def test_both_clients_drive_every_kind_of_model(
    served: Served, every_kind: Protocol, tmp_path: Path, whose: str
) -> None:
    """Requests are made as 3D Slicer's module makes them: types decide where a model is offered and what is sent."""
    name, kind = every_kind.name, plugin_client() if whose == "slicer" else MONAILabelClient
    reader = served.account()
    client = kind(served.url, str(tmp_path))
    client.update_auth(client.auth_token(reader.name, f"{reader.name}-password"))
    image, truth = draw(7 if whose == "slicer" else 8)
    case, _ = served.store.add_case(protocol=name, patient="P7", volume=image, modality="MR")
    served.seat(reader, case)
    info = client.info()
    kinds = {model: info["models"][model]["type"] for model in info["models"] if name in model or "by-file" in model}
    assert kinds == {
        name: "segmentation",
        f"{name}-interactive": "deepedit",
        f"{name}-detection": "detection",
        "bundle-by-file": "segmentation",
    }
    common = {"result_extension": ".nrrd", "result_dtype": "uint8"}

    def answered(model: str, params: dict[str, Any], label_in: str | None = None) -> tuple[Path, dict[str, Any]]:
        file, told = client.infer(model, case.id, {**params, **common}, label_in, None, None)
        return Path(file), told

    labels = {model: answered(model, {})[0] for model in (name, "bundle-by-file", f"{name}-interactive")}
    automatic = read_volume(labels[name]).array_ZYX
    assert set(np.unique(automatic)) == {0, 1, 2}
    for path in labels.values():
        np.testing.assert_array_equal(read_volume(path).array_ZYX, automatic)

    clicks: dict[str, Any] = {structure: [] for structure in info["labels"]}  # as many as the server has
    clicks |= {"anterior": [[2, 3, 4]], "background": [[17, 17, 3]], "label": "anterior"}
    corrected = read_volume(answered(f"{name}-interactive", clicks)[0]).array_ZYX
    assert (automatic[4, 3, 2], corrected[4, 3, 2]) == (0, 1)

    file, told = answered(f"{name}-detection", {})
    assert file.name.endswith(".json")
    markups = json.loads(file.read_text())["markups"]
    assert [markup["center"] for markup in markups] == [row[:3] for row in told["box"]]
    assert {markup["type"] for markup in markups} == {"ROI"}

    scribbles = np.where(truth.array_ZYX == 1, 4, 3).astype(np.uint8)
    scribbles[:, ::2] = 0
    write_volume(replace(truth, array_ZYX=scribbles), tmp_path / "scribbles.nrrd")
    segments = ["anterior", "posterior", "background_scribbles", "foreground_scribbles"]
    info_of = [{"name": segment, "id": number} for number, segment in enumerate(segments, start=1)]
    params = {"roi": [], "label_info": info_of, "selected_label_name": "anterior"}
    drawn = read_volume(answered("Histogram+GraphCut", params, str(tmp_path / "scribbles.nrrd"))[0]).array_ZYX
    assert np.mean(drawn[truth.array_ZYX == 1] == 1) > 0.9

    saved = tmp_path / "corrected.nrrd"
    write_volume(replace(truth, array_ZYX=corrected), saved)
    client.save_label(case.id, str(saved), params={"label_info": INFO})
    [read] = served.store.reads(case.id, reader.id)
    np.testing.assert_array_equal(served.store.label(read.label).array_ZYX, corrected)


@pytest.mark.parametrize("whose", ["package", "slicer"])
def test_both_clients_are_told_what_is_unknown(served: Served, tmp_path: Path, whose: str) -> None:
    kind = plugin_client() if whose == "slicer" else MONAILabelClient
    reader = served.account()
    client = kind(served.url, str(tmp_path))
    client.update_auth(client.auth_token(reader.name, f"{reader.name}-password"))
    [case] = served.cases(served.protocol())
    for model, image, session, said in (
        ("nobody", case.id, None, "unknown model"),
        (case.protocol, "nobody", None, "case"),
        (case.protocol, case.id, "nobody", "session"),
        ("nninteractive", case.id, None, "not set up"),
    ):
        with pytest.raises(Exception, match=f"Status: 404.*{said}"):
            client.infer(model, image, {}, session_id=session)
