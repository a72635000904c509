"""Models of several registered images: each channel prepared by itself, learned from together, and run by file."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from apps.accounts import Accounts
from apps.acquisition_job import Scoring
from apps.acquisition_ordering import order_cases
from apps.acquisition_start import ScoringRequest
from apps.settings import Site, make_site
from labeling_protocols.channels import Channel, ChannelsError
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Role
from labeling_protocols.settlement import settle, truths
from labeling_protocols.store import Store
from labeling_protocols.volumes import read_volume, write_volume
from labeling_protocols.worklist import reassign
from tests.training.drawn import STRAIGHT, anything_passes, draw, small_plan, turned, workplace
from training.augmentation import augment
from training.bundle import open_bundle
from training.data import Bank, prepare_example
from training.external import ExternalTestSetError, open_test_set
from training.external_evaluation import evaluate_externally
from training.loop import fit
from training.networks import NETWORKS, build_network
from training.pipeline import train_candidate
from training.plan import Normalisation, Plan, PlanError, take_fingerprint
from training.request import TrainingRequest
from training.segmentation import SegmentationLearner
from training.segmentation_inference import Segmenter, segmentation_config
from training.signature import signature_of
from training.snapshot import Snapshot, make_snapshot
from training.snapshot_verification import verify

CPU = torch.device("cpu")
INPUTS = ("T1", "FLAIR")
OBLIQUE_AXES = np.array([[0.0, 1.0, 0.0], [0.8, 0.0, 0.6], [0.6, 0.0, -0.8]])


def two_channels(seed: int, geometry: Geometry = STRAIGHT) -> tuple[tuple[Volume, Volume], Volume]:
    """A first channel of nothing but noise, and a second that shows the balls, in a unit of its own."""
    shown, label = draw(seed, geometry, scale=40.0)
    noise = np.random.default_rng(10_000 + seed).normal(0, 300, geometry.shape_ZYX).astype(np.float32)
    return (Volume(array_ZYX=noise, geometry=geometry), shown), label


def with_inputs(**values: object) -> Plan:
    return small_plan(inputs=INPUTS, **values)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, dict[str, torch.Tensor]]:
    """A network that learned the balls from the second channel."""
    plan = with_inputs(epochs=30)
    examples = [prepare_example(plan, f"case{seed}", *two_channels(seed)) for seed in range(5)]
    folder = tmp_path_factory.mktemp("learned")
    told = []
    weights = fit(
        plan, SegmentationLearner(plan), examples[:4], examples[4:], folder=folder, device=CPU, tell=told.append
    )
    assert min(told[-1].figures.values()) > 0.75, told[-1].figures
    return plan, weights


def dice(ours: Volume, theirs: Volume) -> float:
    a, b = ours.array_ZYX > 0, theirs.array_ZYX > 0
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_each_channel_is_normalised_by_itself() -> None:
    plan = with_inputs(spacing_mm_RAS=(3.0, 1.5, 0.75))
    example = prepare_example(plan, "c", *two_channels(1, turned(OBLIQUE_AXES, (1.2, 1.5, 2.0))))
    assert example.image.shape == (2, *example.label.shape)
    for channel in example.image:
        assert float(channel.mean()) == pytest.approx(0, abs=1e-4)
        assert float(channel.std()) == pytest.approx(1, abs=1e-3)


def test_each_channel_is_clipped_and_scaled_by_its_own_figures() -> None:
    plan = with_inputs(
        normalisation=Normalisation.CT,
        **{"intensity_mean": 10.0, "intensity_std": 2.0, "intensity_low": 0.0, "intensity_high": 20.0},
        further_intensities=((100.0, 50.0, 50.0, 400.0),),
    )
    grid = replace(STRAIGHT, shape_ZYX=(2, 2, 2))
    first, second = (
        Volume(array_ZYX=np.array(values, np.float32).reshape(2, 2, 2), geometry=grid)
        for values in ([-5, 0, 4, 8, 10, 16, 20, 99], [0, 50, 75, 100, 150, 200, 400, 999])
    )
    label = Volume(array_ZYX=np.zeros((2, 2, 2), np.uint8), geometry=grid)
    image = prepare_example(plan, "c", (first, second), label).image
    told = {float(v) for v in image[0].ravel()}, {float(v) for v in image[1].ravel()}
    assert told == ({-5.0, -3.0, -1.0, 0.0, 3.0, 5.0}, {-1.0, -0.5, 0.0, 1.0, 2.0, 6.0})


def test_a_fingerprint_has_the_figures_of_every_channel_inside_the_structures() -> None:
    grid = replace(STRAIGHT, shape_ZYX=(1, 2, 4))
    label = Volume(array_ZYX=np.array([[[1, 1, 0, 0], [1, 1, 0, 0]]], np.uint8), geometry=grid)
    first = Volume(array_ZYX=np.array([[[1, 2, 90, 90], [3, 4, 90, 90]]], np.float32), geometry=grid)
    second = Volume(array_ZYX=np.array([[[10, 10, 0, 0], [30, 30, 0, 0]]], np.float32), geometry=grid)
    seen = take_fingerprint([((first, second), label)], {"ball": 1})
    assert (seen.intensity_mean, len(seen.further_intensities)) == (2.5, 1)
    mean, deviation, low, high = seen.further_intensities[0]
    assert (mean, deviation, low, high) == (20.0, 10.0, 10.0, 30.0)
    alone = take_fingerprint([(first, label)], {"ball": 1})
    assert alone == replace(seen, further_intensities=())


def test_augmentation_moves_channels_together_and_varies_them_apart() -> None:
    plan = with_inputs(patch_RAS=(16, 16, 16))
    one = draw(3)[0]
    example = prepare_example(plan, "c", (one, one), draw(3)[1])
    bank = Bank(plan, [example], CPU)
    varied = 0
    for seed in range(12):
        image, label = bank.patches([0], [seed])
        assert (image.shape[1], label.shape[1]) == (2, 1)
        a, b = image[0]
        varied += not torch.allclose(a, b, atol=1e-5)
        assert float(torch.corrcoef(torch.stack([a.ravel(), b.ravel()]))[0, 1]) > 0.8  # the same place in both
    assert varied >= 3


def test_one_channel_is_augmented_as_it_ever_was() -> None:
    image, label = torch.randn(2, 1, 8, 8, 8), torch.zeros(2, 1, 8, 8, 8)
    twice = augment(image.repeat(1, 2, 1, 1, 1), label, (1.0, 1.0, 1.0), (4, 5))[0]
    assert twice.shape == (2, 2, 8, 8, 8)
    assert torch.equal(*(augment(image, label, (1.0, 1.0, 1.0), (4, 5))[0] for _ in range(2)))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_network_takes_as_many_channels_as_the_plan_has(name: str) -> None:
    edge = {"patch_RAS": (64, 64, 64), "channels": (12, 16, 16)} if name == "SwinUNETR" else {}
    plan = with_inputs(network=name, **edge)
    network = build_network(plan).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 2, *plan.patch_RAS)).shape[1] == plan.channels_out


def test_a_network_learns_what_only_the_second_channel_shows(learned: tuple[Plan, dict[str, torch.Tensor]]) -> None:
    plan, weights = learned
    model = Segmenter(segmentation_config(plan), weights, CPU)
    images, truth = two_channels(40, turned(OBLIQUE_AXES, (1.2, 1.5, 2.0)))
    predicted = model.predict(images)
    assert predicted.geometry == truth.geometry
    assert dice(predicted, truth) > 0.7
    nothing = Volume(array_ZYX=np.zeros_like(images[1].array_ZYX), geometry=truth.geometry)
    assert dice(model.predict((images[0], nothing)), truth) < 0.3
    with pytest.raises(ChannelsError, match=r"found 1 image\(s\); the model is shown 2"):
        model.predict(images[1])
    shares = dict(model.probabilities(images, list(plan.targets)))
    assert all(share.shape == truth.array_ZYX.shape for share in shares.values())


def test_monai_alone_runs_the_bundle_on_numbered_files_and_on_a_file_of_four_axes(
    learned: tuple[Plan, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    plan, weights = learned
    images, _ = two_channels(41, turned(OBLIQUE_AXES, (1.2, 1.5, 2.0)))
    (tmp_path / "models").mkdir()
    torch.save(weights, tmp_path / "models" / "model.pt")
    for folder in ("numbered", "one"):
        (tmp_path / folder).mkdir()
    for number, image in enumerate(images):
        write_volume(image, tmp_path / "numbered" / f"case_a_{number:04d}.nii.gz")
        write_volume(image, tmp_path / "numbered" / f"case_b_{number:04d}.nii.gz")
    stacked = np.stack([image.array_ZYX.T for image in images], axis=-1)
    nib.save(nib.Nifti1Image(stacked, images[0].geometry.affine_RAS()), tmp_path / "one" / "case.nii.gz")
    expected = Segmenter(segmentation_config(plan), weights, CPU).predict(images).array_ZYX
    for folder, count in (("numbered", 2), ("one", 1)):
        config = {**json.loads(json.dumps(segmentation_config(plan))), "bundle_root": str(tmp_path)}
        config |= {"dataset_dir": str(tmp_path / folder), "output_dir": str(tmp_path / f"{folder}-out")}
        config["device"] = "$torch.device('cpu')"
        parser = ConfigParser(config)
        parser.get_parsed_content("initialize")
        parser.get_parsed_content("run")
        written = sorted((tmp_path / f"{folder}-out").rglob("*.nii.gz"))
        assert len(written) == count
        for path in written:
            assert (read_volume(path).array_ZYX == expected).mean() > 0.999


def test_the_plan_of_one_image_is_written_as_it_ever_was() -> None:
    assert "inputs" not in small_plan().as_json()
    assert Plan.from_json(with_inputs().as_json()) == with_inputs()
    assert (small_plan().channels_in, with_inputs().channels_in) == (1, 2)
    assert signature_of(with_inputs()).inputs.inputs[0].shape[1] == 2


def site_with_cases(root: Path, protocol: Protocol) -> tuple[Site, Store]:
    """Six settled cases of two channels."""
    site = make_site(root)
    store = Store(site.database_url, site.blobs)
    two = replace(anything_passes(protocol), version=2, channels=INPUTS)
    store.add_protocol(two)
    accounts = Accounts(store, site)
    readers = [accounts.add(name, f"{name}-password", frozenset({Role.READER})) for name in ("ann", "ben")]
    for seed in range(6):
        (first, second), label = two_channels(seed)
        case, _ = store.add_case(
            protocol=two.name,
            patient=f"P{seed}",
            volume=first,
            modality="MR",
            channels=[Channel(name="FLAIR", volume=second)],
        )
        for reader in readers:
            reassign(store, case.id, from_reader=None, to_reader=reader.id, actor="tests")
            store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label))
        settle(store, case.id)
    return site, store


@pytest.mark.slow
def test_a_site_trains_releases_and_evaluates_a_model_of_two_channels(protocol: Protocol, tmp_path: Path) -> None:
    site, store = site_with_cases(tmp_path / "site", protocol)
    place = workplace(site, store)
    job = "train-hippocampus-0001"
    outcome = train_candidate(place, TrainingRequest(protocol="hippocampus"), job)
    assert outcome.promoted
    snapshot = Snapshot.from_json(store.blobs.get(outcome.snapshot).decode())
    assert snapshot.digest == outcome.snapshot
    cases = {case.id: case for case in store.cases("hippocampus")}
    for one in snapshot.cases:
        assert one.channels == (("FLAIR", cases[one.case].channel_images[0]),)
    assert verify(store, outcome.snapshot, site.public_key).wrong == ()
    bundle = open_bundle(place.bundles / f"{outcome.bundle_sha256}.zip", site.public_key)
    image = bundle.metadata["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], image["channel_def"]) == (2, {"0": "T1", "1": "FLAIR"})
    assert "`NAME_0001.nii.gz` (FLAIR)" in bundle.read("docs/README.md").decode()
    folder = tmp_path / "external"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    images, label = two_channels(70)
    for number, one in enumerate(images):
        write_volume(one, folder / "images" / f"x_{number:04d}.nii.gz")
    write_volume(label, folder / "labels" / "x.nii.gz")
    newest = store.protocol("hippocampus")
    report, _ = evaluate_externally(bundle, open_test_set(folder, newest), newest, device="cpu")
    assert report.cases == 1
    (folder / "images" / "x_0001.nii.gz").unlink()
    with pytest.raises(ExternalTestSetError, match=r"holds x_0000.nii.gz; expected of x _0000 \(T1\), _0001 \(FLAIR\)"):
        open_test_set(folder, newest)
    (noise, shown), _ = two_channels(80)
    store.add_case(
        protocol="hippocampus",
        patient="P80",
        volume=noise,
        modality="MR",
        channels=[Channel(name="FLAIR", volume=shown)],
    )
    with Scoring(site, ScoringRequest(protocol="hippocampus", strategy="bald")) as scoring:
        looked = scoring.look_at_cases(lambda said: None, lambda: False)
    assert (looked["scored"], looked["failed"]) == (7, {})
    assert order_cases(store, "hippocampus", looked["model"], "bald", actor="tests").cases == 1
    warm = train_candidate(place, TrainingRequest(protocol="hippocampus", warm_start=True), "train-hippocampus-0002")
    assert warm.cases == outcome.cases
    with pytest.raises(PlanError, match="the task interactive learns from one image"):
        train_candidate(place, TrainingRequest(protocol="hippocampus", task="interactive"), "train-hippocampus-0003")
    overridden = TrainingRequest(protocol="hippocampus", overrides={"inputs": ["FLAIR", "T1"]})
    with pytest.raises(PlanError, match="inputs are the channels of the protocol"):
        train_candidate(place, overridden, "train-hippocampus-0004")
    store.close()


def test_a_case_without_a_channel_is_left_out_of_a_snapshot_and_says_why(protocol: Protocol, tmp_path: Path) -> None:
    site, store = site_with_cases(tmp_path / "site", protocol)
    found = list(truths(store, "hippocampus"))
    three = replace(store.protocol("hippocampus"), version=3, channels=(*INPUTS, "T2"))
    store.add_protocol(three)
    some = [
        replace(one, case=replace(one.case, channels=(*INPUTS[1:], "T2"), channel_images=("a", "b"))) for one in found
    ]
    snapshot = make_snapshot(three, [*some[:5], found[5]], secret=site.secret, since_version=2)
    assert [exclusion.reason for exclusion in snapshot.exclusions] == ["it lacks channel T2"]
    assert {case.channels for case in snapshot.cases} == {(("FLAIR", "a"), ("T2", "b"))}
    assert Snapshot.from_json(snapshot.as_json()) == snapshot
    store.close()
