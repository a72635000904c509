"""Signed bundles in the site's `models` folder: offered where a trusted key signed them, and the log says where not."""

import io
import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from monailabel.client.client import MONAILabelClientException

from labeling_protocols.records import Role
from labeling_protocols.volumes import read_volume
from tests.annotation.released import parts_of, segmentation_parts
from tests.annotation.served import Served
from tests.training.drawn import draw
from training.bundle import CONFIG, METADATA, BundleError, write_bundle
from training.foreign_bundle import bundle_values
from training.publishing import public_pem


def metadata(**channels: str) -> dict[str, Any]:
    """As MONAI's model zoo writes it."""
    told = {"0": "background", **{number.removeprefix("c"): name for number, name in channels.items()}}
    return {
        "name": "Bright things",
        "version": "0.3.1",
        "description": "What shines.",
        "network_data_format": {"outputs": {"pred": {"type": "image", "format": "segmentation", "channel_def": told}}},
    }


def zoo_parts(told: dict[str, Any]) -> dict[str, bytes]:
    """A bundle as in MONAI's model zoo: brightness tells two structures apart, in values 1 and 2 of its own."""
    config = {
        "imports": ["$import torch"],
        "device": "$torch.device('cpu')",
        "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 3, "kernel_size": 1},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": ["LR", "PA", "IS"]},
                {
                    "_target_": "ScaleIntensityRanged",
                    "keys": "image",
                    **{"a_min": 0, "a_max": 200, "b_min": 0, "b_max": 1, "clip": True},
                },
            ],
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "sw_batch_size": 2, "overlap": 0.25},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                    "to_tensor": True,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "/nowhere"},
            ],
        },
    }
    weight = torch.tensor([0.0, 5.0, 25.0])[:, None, None, None, None]
    parts = parts_of(config, {"weight": weight, "bias": torch.tensor([0.0, -1.25, -19.0])})
    return parts | {METADATA: json.dumps(told).encode()}


def put(served: Served, name: str, parts: dict[str, bytes], key: Ed25519PrivateKey) -> Path:
    folder = served.site.folder("models")
    written = write_bundle(parts, name="bright", folder=folder, signing_key=key)
    return written.rename(folder / f"{name}.zip")


def offered(served: Served) -> dict[str, Any]:
    models: dict[str, Any] = served.client(served.account(Role.ENGINEER)).info()["models"]
    return {name: model for name, model in models.items() if name.startswith("bundle-")}


def test_a_bundle_of_the_site_s_own_key_answers_in_the_protocol_s_values(served: Served) -> None:
    """Its values are 1 for posterior and 2 for anterior, the protocol's are the other way round."""
    put(served, "zoo", zoo_parts(metadata(c1="posterior", c2="anterior")), served.site.signing_key)
    told = offered(served)["bundle-zoo"]
    assert (told["type"], told["labels"]) == ("segmentation", {"posterior": 1, "anterior": 2})
    assert (told["description"], told["version"]) == ("What shines.", "Bright things 0.3.1")
    protocol = served.protocol()
    image, _ = draw(3)
    case, _ = served.store.add_case(protocol=protocol.name, patient="P3", volume=image, modality="MR")
    reader = served.account()
    file, params = served.client(reader).infer("bundle-zoo", case.id, {"result_extension": ".nrrd"})
    bright = np.clip(image.array_ZYX.astype(np.float64) / 200, 0, 1)
    rule = np.argmax([0 * bright, 25 * bright - 19, 5 * bright - 1.25], axis=0)
    np.testing.assert_array_equal(read_volume(Path(file)).array_ZYX, rule)
    assert params["label_names"] == {"anterior": 1, "posterior": 2}
    assert params["model"] == "Bright things 0.3.1"
    assert served.store.prelabel(case.id) is None


def test_an_engineer_keeps_its_answer_as_the_prelabel(served: Served) -> None:
    put(served, "kept", zoo_parts(metadata(c1="posterior", c2="anterior")), served.site.signing_key)
    protocol = served.protocol()
    [case] = served.cases(protocol)
    with pytest.raises(MONAILabelClientException, match="403"):
        served.client(served.account()).infer("bundle-kept", case.id, {"save_label": True})
    assert served.store.prelabel(case.id) is None
    engineer = served.client(served.account(Role.ENGINEER))
    file, _ = engineer.infer("bundle-kept", case.id, {"save_label": True})
    kept = served.store.prelabel(case.id)
    assert kept is not None
    assert kept.model == "Bright things 0.3.1"
    np.testing.assert_array_equal(served.store.label(kept.label).array_ZYX, read_volume(Path(file)).array_ZYX)


def test_structures_the_protocol_has_not_are_shown_under_their_names_and_never_kept(served: Served) -> None:
    put(served, "livers", zoo_parts(metadata(c1="liver", c2="anterior")), served.site.signing_key)
    protocol = served.protocol()
    image, _ = draw(3)
    case, _ = served.store.add_case(protocol=protocol.name, patient="P3", volume=image, modality="MR")
    client = served.client(served.account(Role.ENGINEER))
    _, params = client.infer("bundle-livers", case.id, {})
    assert params["label_names"] == {"liver": 1, "anterior": 2}
    with pytest.raises(MONAILabelClientException) as refusal:
        client.infer("bundle-livers", case.id, {"save_label": True})
    assert "liver are none of the protocol's" in refusal.value.msg
    assert served.store.prelabel(case.id) is None


def test_a_bundle_of_this_server_s_make_is_served_by_file_too(served: Served) -> None:
    told = {
        "name": "ours",
        "version": "1.0.0",
        "overread": {"task": "segmentation", "values": {"anterior": 1, "posterior": 2}},
    }
    put(served, "ours", segmentation_parts() | {METADATA: json.dumps(told).encode()}, served.site.signing_key)
    protocol = served.protocol()
    image, _ = draw(3)
    case, _ = served.store.add_case(protocol=protocol.name, patient="P3", volume=image, modality="MR")
    file, _ = served.client(served.account()).infer("bundle-ours", case.id, {"result_extension": ".nrrd"})
    bright = np.clip(image.array_ZYX.astype(np.float64) / 200, 0, 1)
    rule = np.argmax([0 * bright, 25 * bright - 19, 5 * bright - 1.25], axis=0)
    np.testing.assert_array_equal(read_volume(Path(file)).array_ZYX, rule)


def test_another_site_s_bundle_is_offered_once_its_key_is_trusted(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="overread.models")
    theirs = Ed25519PrivateKey.generate()
    put(served, "theirs", zoo_parts(metadata(c1="anterior")), theirs)
    assert "bundle-theirs" not in offered(served)
    assert "bundle-theirs" not in offered(served)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1  # once for each state of the file
    assert "theirs.zip is not offered" in said[0]
    assert "signed with another key" in said[0]
    trusted = served.site.folder("models") / "trusted"
    trusted.mkdir(exist_ok=True)
    (trusted / "theirs.pem").write_bytes(public_pem(theirs.public_key()))
    assert "bundle-theirs" in offered(served)
    (trusted / "theirs.pem").unlink()
    assert "bundle-theirs" not in offered(served)
    answer = served.session(served.account(Role.ENGINEER)).post(f"{served.url}/infer/bundle-theirs?image=x")
    assert answer.status_code == 404


def test_nothing_of_a_bundle_that_was_touched_is_parsed(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Its metadata are no JSON any more: whoever parsed them first would say so."""
    caplog.set_level(logging.WARNING, logger="overread.models")
    path = put(served, "touched", zoo_parts(metadata(c1="anterior")), served.site.signing_key)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'{"name": "Bright', b'"name": "Bright {', 1))
    assert "bundle-touched" not in offered(served)
    [said] = [record.getMessage() for record in caplog.records]
    assert "JSON" not in said
    path.write_bytes(content)
    assert "bundle-touched" in offered(served)
    path.unlink()
    assert "bundle-touched" not in offered(served)


def test_an_unsigned_bundle_is_not_offered(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="overread.models")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, part in zoo_parts(metadata(c1="anterior")).items():
            archive.writestr(f"bright/{name}", part)
    path = served.site.folder("models") / "unsigned.zip"
    path.write_bytes(content.getvalue())
    assert "bundle-unsigned" not in offered(served)
    assert "not signed" in caplog.text
    path.unlink()


def test_an_unpacked_bundle_is_served_until_a_byte_of_it_changes(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="overread.models")
    zipped = write_bundle(
        zoo_parts(metadata(c1="anterior")), name="bright", folder=tmp_path, signing_key=served.site.signing_key
    )
    folder = served.site.folder("models") / "unpacked-one"
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "bright").rename(folder)
    assert "bundle-unpacked-one" in offered(served)
    [case] = served.cases(served.protocol())
    served.client(served.account(Role.ENGINEER)).infer("bundle-unpacked-one", case.id, {})
    (folder / METADATA).write_bytes(b"{}")
    assert "bundle-unpacked-one" not in offered(served)
    assert "was changed after the bundle was signed" in caplog.text
    (folder / METADATA).unlink()
    (folder / METADATA).symlink_to("/etc/hostname")
    assert "bundle-unpacked-one" not in offered(served)
    assert "has a link" in caplog.text


def test_a_network_for_several_images_is_refused_in_words(served: Served) -> None:
    parts = zoo_parts(metadata(c1="anterior"))
    parts[CONFIG] = parts[CONFIG].replace(b'"in_channels": 1', b'"in_channels": 4')
    put(served, "four", parts, served.site.signing_key)
    [case] = served.cases(served.protocol())
    session = served.session(served.account(Role.ENGINEER))
    answer = session.post(f"{served.url}/infer/bundle-four?image={case.id}")
    assert answer.status_code == 503
    assert "shown 4 images together" in answer.json()["detail"]


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"network_data_format": {"outputs": {"pred": {"channel_def": ["background", "liver"]}}}},
        {"network_data_format": {"outputs": {"pred": {"channel_def": {"0": "background"}}}}},
        {"network_data_format": {"outputs": {"pred": {"format": "dict", "channel_def": {"1": "nodule"}}}}},
        {"network_data_format": {"outputs": {"pred": {"channel_def": {"300": "liver"}}}}},
        {"overread": {"task": "detection", "values": {}}},
    ],
)
def test_metadata_that_tell_of_no_segmentation_are_refused(told: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="not offered"):
        bundle_values(told)
