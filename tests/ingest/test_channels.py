"""Series of one study and files of one name become one case of several channels, or are refused in words."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread, dcmwrite

from apps.ingest.channels import ChannelRuleError
from apps.ingest.folder import ingest
from apps.settings import Site
from labeling_protocols.protocol import Protocol
from labeling_protocols.series_writer import SeriesIdentity, write_series
from labeling_protocols.store import Store
from labeling_protocols.volumes import write_volume
from tests.conftest import OBLIQUE, image_of
from tests.dicom.examples import AXIAL, identity_of, uid

TWO = ("T1=ScanningSequence:SE", r"FLAIR=ScanningSequence:SE\\IR")


@pytest.fixture(autouse=True)
def two_channels(store: Store, protocol: Protocol) -> Protocol:
    two = replace(protocol, name="tumour", channels=("T1", "FLAIR"))
    store.add_protocol(two)
    return two


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


def series_of(study: str, name: str) -> SeriesIdentity:
    return replace(identity_of(study), series_uid=uid(study, name))


def write_sequence(folder: Path, identity: SeriesIdentity, seed: int, sequence: list[str], **how: object) -> None:
    """A series whose header says by which sequence it was scanned."""
    geometry = how.pop("geometry", AXIAL)
    for path in write_series(image_of(seed, geometry), folder / identity.series_uid[-8:], identity):  # type: ignore[arg-type]
        header = dcmread(path)
        header.ScanningSequence = sequence
        for keyword, value in how.items():
            setattr(header, keyword, value)
        dcmwrite(path, header, enforce_file_format=True)


def test_series_of_a_study_become_one_case_by_what_their_headers_say(folder: Path, store: Store, site: Site) -> None:
    for number in (1, 2):
        write_sequence(folder, series_of(f"study{number}", "flair"), 10 + number, ["SE", "IR"])
        write_sequence(folder, series_of(f"study{number}", "t1"), number, ["SE"])
    report = ingest(store, site, folder, "tumour", channels=TWO)
    assert (len(report.added), report.known, report.refused) == (2, (), ())
    cases = store.cases("tumour")
    images = {tuple(int(volume.array_ZYX[0, 0, 0]) for volume in store.channels(case)) for case in cases}
    assert images == {tuple(int(image_of(s, AXIAL).array_ZYX[0, 0, 0]) for s in (n, 10 + n)) for n in (1, 2)}
    assert all(case.resampled == () for case in cases)
    assert {case.series for case in cases}.isdisjoint(case.channel_series[0] for case in cases)
    kept = {path.parent.name for path in site.folder("archive").rglob("*.dcm")}
    assert kept == {case.series for case in cases} | {case.channel_series[0] for case in cases}
    again = ingest(store, site, folder, "tumour", channels=TWO)
    assert (again.added, sorted(again.known)) == ((), sorted(report.added))


def test_a_channel_on_another_grid_of_the_same_frame_is_resampled_and_the_case_says_so(
    folder: Path, store: Store, site: Site
) -> None:
    coarse = replace(AXIAL, shape_ZYX=(6, 5, 6), spacing_mm_XYZ=(1.5, 1.5, 1.0), origin_mm_LPS=(0.0, 0.0, -0.5))
    write_sequence(folder, series_of("study", "t1"), 1, ["SE"])
    write_sequence(folder, series_of("study", "flair"), 2, ["SE", "IR"], geometry=coarse)
    assert len(ingest(store, site, folder, "tumour", channels=TWO).added) == 1
    (case,) = store.cases("tumour")
    assert case.resampled == ("FLAIR",)
    first, second = store.channels(case)
    assert second.geometry == first.geometry
    drawn = image_of(2, coarse).array_ZYX
    # Between slices 1 and 2 of the coarse grid, in its first row and column: the mean of the two.
    assert second.array_ZYX[1, 0, 0] == pytest.approx((float(drawn[1, 0, 0]) + float(drawn[2, 0, 0])) / 2, abs=0.01)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"FrameOfReferenceUID": "1.2.3"}, "T1 and FLAIR lie in different ones; expected one frame of reference"),
        ({"FrameOfReferenceUID": ""}, "do not say in which frame of reference they lie"),
        ({"PatientID": "somebody else"}, "are of different patients"),
        ({"Modality": "CT"}, "modality CT"),
        ({"ScanningSequence": ["GR"]}, "it lacks channel FLAIR"),
        ({"StudyInstanceUID": "1.2.3"}, "it lacks channel FLAIR"),
    ],
    ids=["frame", "no frame", "patient", "modality", "no channel", "study"],
)
def test_series_that_are_not_registered_channels_of_a_patient_are_refused(
    folder: Path, store: Store, site: Site, told: dict[str, object], words: str
) -> None:
    write_sequence(folder, series_of("study", "t1"), 1, ["SE"])
    write_sequence(folder, series_of("study", "flair"), 2, ["SE", "IR"], **told)
    report = ingest(store, site, folder, "tumour", channels=TWO)
    assert report.added == ()
    assert any(words in refusal.reason for refusal in report.refused), report.refused
    assert not any("somebody else" in refusal.reason for refusal in report.refused)
    assert store.cases("tumour") == []
    assert list(site.folder("archive").rglob("*.dcm")) == []


def test_two_series_of_one_channel_and_series_without_rules_are_refused(folder: Path, store: Store, site: Site) -> None:
    write_sequence(folder, series_of("study", "t1"), 1, ["SE"])
    write_sequence(folder, series_of("study", "flair"), 2, ["SE", "IR"])
    write_sequence(folder, series_of("study", "flair again"), 3, ["SE", "IR"])
    [twice] = ingest(store, site, folder, "tumour", channels=TWO).refused
    assert "more than one image is channel FLAIR" in twice.reason
    told = ingest(store, site, folder, "tumour").refused
    assert all("--channel NAME=Keyword:PATTERN" in refusal.reason for refusal in told)
    both = ingest(store, site, folder, "tumour", channels=("T1=ScanningSequence:.*", TWO[1])).refused
    assert any("it is channel T1 and FLAIR by the rules told" in refusal.reason for refusal in both)


def test_files_numbered_as_nnu_net_does_become_one_case(folder: Path, store: Store, site: Site) -> None:
    write_volume(image_of(2), folder / "sub-a_0001.nii.gz")
    write_volume(image_of(1), folder / "sub-a_0000.nii.gz")
    report = ingest(store, site, folder, "tumour")
    assert (len(report.added), report.refused) == (1, ())
    (case,) = store.cases("tumour")
    first, second = store.channels(case)
    assert np.array_equal(first.array_ZYX, image_of(1).array_ZYX)
    assert np.array_equal(second.array_ZYX, image_of(2).array_ZYX)
    assert case.geometry.difference(OBLIQUE, tolerance_mm=0.01) is None


def test_files_are_told_apart_by_the_operators_suffixes_too(folder: Path, store: Store, site: Site) -> None:
    write_volume(image_of(2), folder / "a_FLAIR.nrrd")
    write_volume(image_of(1), folder / "a_T1w.nrrd")
    write_volume(image_of(3), folder / "b_T1w.nrrd")
    report = ingest(store, site, folder, "tumour", channels=("T1=_T1w", "FLAIR=_FLAIR"))
    assert len(report.added) == 1
    [lacking] = report.refused
    assert (lacking.where, "it lacks channel FLAIR" in lacking.reason) == ("b_T1w.nrrd", True)


def test_a_file_with_a_fourth_axis_holds_the_channels_in_the_protocols_order(
    folder: Path, store: Store, site: Site
) -> None:
    voxels = np.stack([image_of(1).array_ZYX.T, image_of(2).array_ZYX.T], axis=-1)
    nib.save(nib.Nifti1Image(voxels, OBLIQUE.affine_RAS()), folder / "both.nii.gz")
    nib.save(nib.Nifti1Image(voxels[..., [0, 1, 0]], OBLIQUE.affine_RAS()), folder / "three.nii.gz")
    report = ingest(store, site, folder, "tumour")
    assert len(report.added) == 1
    (case,) = store.cases("tumour")
    assert [int(one.array_ZYX[2, 3, 4]) for one in store.channels(case)] == [
        int(image_of(seed).array_ZYX[2, 3, 4]) for seed in (1, 2)
    ]
    [three] = report.refused
    assert "it holds 3 image(s); expected 2 (T1, FLAIR)" in three.reason


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a_0000.nrrd",), "it lacks channel FLAIR"),
        (("a_0000.nrrd", "a_0001.nrrd", "a_0002.nrrd"), "it has channel _0002"),
        (("a_0000.nrrd", "a_0001.nrrd", "elsewhere_0001.nrrd"), "it lacks channel T1"),
        (("a.nrrd",), "it holds 1 image(s)"),
    ],
)
def test_files_that_are_no_whole_case_are_refused(
    folder: Path, store: Store, site: Site, names: tuple[str, ...], words: str
) -> None:
    for number, name in enumerate(names):
        write_volume(image_of(number), folder / name)
    assert any(words in refusal.reason for refusal in ingest(store, site, folder, "tumour").refused)


def test_a_file_on_another_grid_than_the_first_channels_is_refused(folder: Path, store: Store, site: Site) -> None:
    write_volume(image_of(1), folder / "a_0000.nrrd")
    write_volume(image_of(2, AXIAL), folder / "a_0001.nrrd")
    [refusal] = ingest(store, site, folder, "tumour").refused
    assert "channel FLAIR does not lie on the first channel's grid" in refusal.reason


@pytest.mark.parametrize(
    "rule", ["T2=_t2", "T1", "T1=", "T1=PatientID:4711", "T1=NoSuchElement:x", "T1=EchoTime:[", "=_x"]
)
def test_a_rule_that_tells_nothing_apart_is_refused(folder: Path, store: Store, site: Site, rule: str) -> None:
    write_volume(image_of(1), folder / "a_0000.nrrd")
    with pytest.raises(ChannelRuleError, match="--channel"):
        ingest(store, site, folder, "tumour", channels=[rule])
    with pytest.raises(ChannelRuleError, match="none: its cases are one image"):
        ingest(store, site, folder, "hippocampus", channels=["T1=_t1"])


def test_real_series_of_a_study_become_one_case(real_data: Path, store: Store, site: Site) -> None:
    rules = ("T1=ScanningSequence:SE", r"FLAIR=ScanningSequence:.*IR", "FLAIR=InversionTime:\\d+")
    report = ingest(store, site, real_data / "mr_brain_dicom", "tumour", channels=rules)
    assert len(report.added) == 1, report.refused
    assert [refusal.reason.partition(" by the rules")[0] for refusal in report.refused] == [
        "it is none of the channels T1, FLAIR"
    ] * 2
    (case,) = store.cases("tumour")
    first, second = store.channels(case)
    assert first.geometry == second.geometry
    assert first.array_ZYX.shape == (22, 320, 280)
    # Both show the same head: where the one is dark around it, the other is too.
    dark = [one.array_ZYX < np.percentile(one.array_ZYX, 30) for one in (first, second)]
    assert (dark[0] & dark[1]).mean() > 0.2
