"""The champion as the model viewers see: proposals, prelabels, replacement without a restart, a busy server."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from monailabel.client.client import MONAILabelClientException

from labeling_protocols.geometry import Volume
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Role
from labeling_protocols.volumes import read_volume, write_volume
from tests.annotation.released import release, segmentation_parts
from tests.annotation.served import Served
from tests.training.drawn import STRAIGHT, anything_passes, draw, settle_cases, workplace


def train(served: Served, protocol: Protocol) -> str:
    return release(served, protocol, "segmentation", segmentation_parts())


@pytest.fixture(scope="module")
def released(served: Served) -> tuple[Protocol, str]:
    """A protocol with a champion made by hand, and a case that two readers read."""
    protocol = anything_passes(served.protocol())
    settle_cases(served.store, protocol, (served.account(), served.account()), range(1))
    return protocol, train(served, protocol)


def test_the_champion_proposes_and_its_proposal_is_kept_as_the_prelabel(
    served: Served, released: tuple[Protocol, str], tmp_path: Path
) -> None:
    protocol, model = released
    reader = served.account()
    client = served.client(reader)
    assert client.info()["models"][protocol.name]["labels"] == protocol.values
    image, _ = draw(50)
    case, _ = served.store.add_case(protocol=protocol.name, patient="P50", volume=image, modality="MR")
    served.seat(reader, case)
    file, params = client.infer(protocol.name, case.id, {"result_extension": ".nrrd", "result_dtype": "uint8"})
    proposed = read_volume(Path(file))
    assert proposed.array_ZYX.dtype == np.uint8
    assert case.geometry.difference(proposed.geometry) is None
    assert params["model"] == model
    present = {name: value for name, value in protocol.values.items() if (proposed.array_ZYX == value).any()}
    assert params["label_names"] == present
    prelabel = served.store.prelabel(case.id)
    assert prelabel is not None
    assert prelabel.model == model
    np.testing.assert_array_equal(served.store.label(prelabel.label).array_ZYX, proposed.array_ZYX)
    original = client.datastore()["objects"][case.id]["labels"]["original"]
    assert original["info"]["params"]["label_names"] == present
    shown = read_volume(Path(client.download_label(case.id, "original")))
    np.testing.assert_array_equal(shown.array_ZYX, proposed.array_ZYX)
    assert served.store.reads(case.id) == []


def test_a_read_says_which_prelabel_it_may_have_begun_from(
    served: Served, released: tuple[Protocol, str], tmp_path: Path
) -> None:
    protocol, model = released
    image, label = draw(51)
    case, _ = served.store.add_case(protocol=protocol.name, patient="P51", volume=image, modality="MR")
    reader = served.account()
    client = served.client(reader)
    served.seat(reader, case)
    client.infer(protocol.name, case.id, {})
    served.save(reader, case.id, label, tmp_path)
    [read] = served.store.reads(case.id, reader.id)
    assert (read.provenance.prelabel_model, read.provenance.prelabel_shown) == (model, True)


@pytest.mark.parametrize("output", ["image", "json", "all"])
def test_each_kind_of_answer_carries_what_it_says(served: Served, released: tuple[Protocol, str], output: str) -> None:
    protocol, model = released
    case = served.store.cases(protocol.name)[0]
    answer = served.session(served.account(Role.ENGINEER)).post(
        f"{served.url}/infer/{protocol.name}?image={case.id}&output={output}",
        data={"params": '{"result_extension": ".nii.gz"}'},
    )
    assert answer.status_code == 200
    assert (model in answer.text) == (output != "image")
    assert ("filename=" in answer.text or "filename=" in answer.headers.get("content-disposition", "")) == (
        output != "json"
    )
    if output == "json":
        assert answer.json()["model"] == model


def test_an_uploaded_session_is_read_and_nothing_of_it_is_kept(
    served: Served, released: tuple[Protocol, str], tmp_path: Path
) -> None:
    protocol, _ = released
    client = served.client(served.account())
    path = tmp_path / "image.nii.gz"
    image, _ = draw(60)
    write_volume(image, path)
    before = served.store.progress(protocol.name)
    session_id = client.create_session(str(path))["session_id"]
    file, _ = client.infer(protocol.name, "", {"result_extension": ".nrrd"}, session_id=session_id)
    assert image.geometry.difference(read_volume(Path(file)).geometry) is None
    file, _ = client.infer(protocol.name, "", {}, file=str(path))
    assert image.geometry.difference(read_volume(Path(file)).geometry) is None
    assert served.store.progress(protocol.name) == before
    with pytest.raises(MONAILabelClientException, match="404"):
        served.client(served.account()).infer(protocol.name, "", {}, session_id=session_id)


def test_a_case_of_another_protocol_is_not_read_by_this_model(served: Served, released: tuple[Protocol, str]) -> None:
    protocol, _ = released
    [case] = served.cases(served.protocol())
    with pytest.raises(MONAILabelClientException) as refusal:
        served.client(served.account(Role.ENGINEER)).infer(protocol.name, case.id, {})
    assert "another protocol" in refusal.value.msg
    assert served.store.prelabel(case.id) is None


def test_the_server_answers_while_an_inference_runs(
    served: Served, released: tuple[Protocol, str], tmp_path: Path
) -> None:
    protocol, _ = released
    large = replace(STRAIGHT, shape_ZYX=(160, 160, 160), spacing_mm_XYZ=(1.5, 1.5, 1.5))
    path = tmp_path / "large.nrrd"
    noise = np.random.default_rng(1).normal(0, 5, large.shape_ZYX).astype(np.float32)
    write_volume(Volume(array_ZYX=noise, geometry=large), path)
    client = served.client(served.account())
    session_id = client.create_session(str(path))["session_id"]
    ended: list[float] = []

    def infer() -> None:
        client.infer(protocol.name, "", {}, session_id=session_id)
        ended.append(time.monotonic())

    session = served.session(served.account())
    session.get(f"{served.url}/info/")
    began = time.monotonic()
    running = threading.Thread(target=infer)
    running.start()
    answered = []
    while running.is_alive():
        asked = time.monotonic()
        assert session.get(f"{served.url}/info/").status_code == 200
        answered.append((time.monotonic(), time.monotonic() - asked))
    running.join()
    within = [took for at, took in answered if at < ended[0]]
    assert len(within) >= 3, f"only {len(within)} answers in {ended[0] - began:.2f} s of inference"
    assert max(within) < 0.5 * (ended[0] - began)


def test_a_newly_released_champion_is_served_without_a_restart(served: Served, released: tuple[Protocol, str]) -> None:
    protocol, first = released
    case = served.store.cases(protocol.name)[0]
    client = served.client(served.account(Role.ENGINEER))
    assert client.infer(protocol.name, case.id, {})[1]["model"] == first
    second = train(served, protocol)
    assert second != first
    assert client.infer(protocol.name, case.id, {})[1]["model"] == second


def test_a_tampered_bundle_is_not_served(served: Served, released: tuple[Protocol, str]) -> None:
    protocol, _ = released
    place = workplace(served.site, served.store)
    third = train(served, protocol)
    bundle = place.bundles / f"{place.registry.champion(protocol.name).bundle_sha256}.zip"
    content = bundle.read_bytes()
    bundle.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    [case] = served.cases(protocol)
    try:
        session = served.session(served.account(Role.ENGINEER))
        answer = session.post(f"{served.url}/infer/{protocol.name}?image={case.id}")
        assert answer.status_code == 503
        assert "loaded" in answer.json()["detail"]
        assert served.store.prelabel(case.id) is None
    finally:
        bundle.write_bytes(content)
    assert served.client(served.account(Role.ENGINEER)).infer(protocol.name, case.id, {})[1]["model"] == third
