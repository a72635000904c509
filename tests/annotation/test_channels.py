"""Cases of several channels as viewers get them: the first one as the image, the others by name; and as exports."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import requests

from apps.export import Form, What, export
from apps.export_folder import MANIFEST
from labeling_protocols.channels import Channel
from labeling_protocols.label import Label
from labeling_protocols.records import Account, Case
from labeling_protocols.volumes import read_volume, read_volume_bytes
from tests.annotation.served import Served
from tests.conftest import image_of, label_of


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
