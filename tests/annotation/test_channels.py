"""Cases of several channels: the first one is the viewers' image, the others go by name; models see them all."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import requests
from monailabel.client.client import MONAILabelClientException
from numpy.typing import NDArray

from apps.export import Form, What, export
from apps.export_folder import MANIFEST
from apps.jobs import Job, Jobs
from apps.prelabel_job import PrelabelRequest, outcome_of, start_prelabelling
from labeling_protocols.channels import Channel
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account, Case
from labeling_protocols.volumes import read_volume, read_volume_bytes, write_volume
from tests.annotation.released import brightness_plan, release, segmentation_parts
from tests.annotation.served import Served
from tests.conftest import image_of, label_of
from tests.endpoint.peers import Process
from tests.training.drawn import draw
from tests.waiting import until


@pytest.fixture(scope="module")
def reader(served: Served) -> Account:
    return served.account()


@pytest.fixture(scope="module")
def case(served: Served, reader: Account) -> Case:
    protocol = served.protocol(channels=("T1", "FLAIR"), readers_per_case=1)
    flair = Channel(name="FLAIR", volume=image_of(902))
    made, _ = served.store.add_case(
        protocol=protocol.name, patient="P1", volume=image_of(901), modality="MR", channels=[flair]
    )
    served.seat(reader, made)
    return made


def fetched(served: Served, reader: Account, **asked: str) -> requests.Response:
    return served.session(reader).get(f"{served.url}/datastore/image", params=asked)


def test_viewers_get_the_first_channel_and_the_others_by_name(served: Served, reader: Account, case: Case) -> None:
    for channel, seed in (({}, 901), ({"channel": "T1"}, 901), ({"channel": "FLAIR"}, 902)):
        answer = fetched(served, reader, image=case.id, **channel)
        image = read_volume_bytes(answer.content, ".nii.gz")
        np.testing.assert_array_equal(image.array_ZYX, image_of(seed).array_ZYX)
    assert gzip.decompress(answer.content)
    assert f"{case.id}_FLAIR.nii.gz" in answer.headers["content-disposition"]
    unknown = fetched(served, reader, image=case.id, channel="../../T2")
    assert (unknown.status_code, unknown.json()["detail"]) == (404, "this case has no such channel; it has T1, FLAIR")


def test_the_images_info_names_its_channels(served: Served, reader: Account, case: Case) -> None:
    session = served.session(reader)
    told = session.get(f"{served.url}/datastore/image/info", params={"image": case.id}).json()
    assert told["channels"] == ["T1", "FLAIR"]
    [single] = served.cases(served.protocol())
    assert "channels" not in session.get(f"{served.url}/datastore/image/info", params={"image": single.id}).json()


def test_an_export_has_every_channel(served: Served, reader: Account, case: Case, tmp_path: Path) -> None:
    served.store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of()))
    export(
        served.store,
        served.site,
        protocol=case.protocol,
        folder=tmp_path / "out",
        form=Form.NIFTI,
        what=What.READS,
        images=True,
        actor="tests",
    )
    for name, seed in ((case.id, 901), (f"{case.id}_FLAIR", 902)):
        written = read_volume(tmp_path / "out" / "images" / f"{name}.nii.gz")
        np.testing.assert_array_equal(written.array_ZYX, image_of(seed).array_ZYX)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert len(manifest["images"][case.id]) == 2


def drawn_case(served: Served, protocol: Protocol, seed: int) -> tuple[Case, NDArray[np.uint8]]:
    """A case whose first channel is noise and whose second shows the balls, and where they are."""
    shown, label = draw(seed)
    noise = np.random.default_rng(seed).normal(0, 300, shown.array_ZYX.shape).astype(np.float32)
    case, _ = served.store.add_case(
        protocol=protocol.name,
        patient=f"P{seed}",
        volume=Volume(array_ZYX=noise, geometry=shown.geometry),
        modality="MR",
        channels=[Channel(name="FLAIR", volume=shown)],
    )
    return case, label.array_ZYX


@pytest.fixture(scope="module")
def champion(served: Served) -> tuple[Protocol, str]:
    """A model that goes by the brightness of the second channel alone."""
    protocol = served.protocol(channels=("T1", "FLAIR"))
    plan = brightness_plan(inputs=("T1", "FLAIR"), further_intensities=((0.0, 200.0, 0.0, 200.0),))
    return protocol, release(served, protocol, "segmentation", segmentation_parts(plan))


def test_a_reader_gets_what_the_model_sees_in_all_channels_together(
    served: Served, champion: tuple[Protocol, str]
) -> None:
    protocol, model = champion
    case, balls_ZYX = drawn_case(served, protocol, 3)
    reader = served.account()
    served.seat(reader, case)
    file, params = served.client(reader).infer(protocol.name, case.id, {"result_extension": ".nrrd"})
    proposed = read_volume(Path(file))
    assert (params["model"], case.geometry.difference(proposed.geometry)) == (model, None)
    np.testing.assert_array_equal(proposed.array_ZYX, balls_ZYX)
    prelabel = served.store.prelabel(case.id)
    assert prelabel is not None
    np.testing.assert_array_equal(served.store.label(prelabel.label).array_ZYX, balls_ZYX)


def test_an_uploaded_image_alone_is_refused_by_a_model_of_two_channels(
    served: Served, champion: tuple[Protocol, str], tmp_path: Path
) -> None:
    protocol, _ = champion
    path = tmp_path / "image.nii.gz"
    write_volume(draw(4)[0], path)
    with pytest.raises(MONAILabelClientException) as refusal:
        served.client(served.account()).infer(protocol.name, "", {}, file=str(path))
    assert "422" in refusal.value.msg
    assert "found 1 image(s); the model is shown 2 of one grid together" in refusal.value.msg


def test_a_worklist_of_two_channels_is_prelabelled(served: Served, champion: tuple[Protocol, str]) -> None:
    protocol, model = champion
    made = [drawn_case(served, protocol, seed) for seed in (11, 12)]
    jobs = Jobs(served.site)
    worker = Process("-m", "apps.worker", "--site", str(served.site.root))
    try:
        job_id = start_prelabelling(jobs, PrelabelRequest(protocol=protocol.name), "somebody")
        until(lambda: not found(jobs, job_id).active, "the prelabels")
        assert outcome_of(jobs, found(jobs, job_id))["failed"] == {}
    finally:
        worker.kill()
        jobs.close()
    for case, balls_ZYX in made:
        prelabel = served.store.prelabel(case.id, model)
        assert prelabel is not None
        np.testing.assert_array_equal(served.store.label(prelabel.label).array_ZYX, balls_ZYX)


def found(jobs: Jobs, job_id: str) -> Job:
    job = jobs.find(job_id)
    assert job is not None
    return job
