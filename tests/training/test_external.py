"""An external test set by folder: what it gives, what names it, and what is refused before anything is evaluated."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labeling_protocols.geometry import Volume
from labeling_protocols.protocol import Protocol
from labeling_protocols.strata import Strata
from labeling_protocols.volumes import write_volume
from tests.conftest import OBLIQUE, image_of, label_of
from training.evaluation import evaluate
from training.external import ExternalTestSetError, open_test_set
from training.segmentation_report import segmentation_report

STRATA = """file,patient,maker,slice_thickness_mm,sex
one.nii.gz,A,Siemens,2.5,F
two,A,Siemens,,
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two cases, one of each kind of file."""
    for seed, (name, suffix) in enumerate((("one", ".nii.gz"), ("two", ".nrrd"))):
        for kind, volume in (("images", image_of(seed)), ("labels", label_of(seed))):
            (tmp_path / kind).mkdir(exist_ok=True)
            write_volume(volume, tmp_path / kind / f"{name}{suffix}")
    return tmp_path


def put(folder: Path, volume: Volume, *, kind: str = "labels", name: str = "one.nii.gz") -> None:
    write_volume(volume, folder / kind / name)


def test_every_case_comes_with_image_truth_patient_and_strata(folder: Path, protocol: Protocol) -> None:
    (folder / "strata.csv").write_text(STRATA)
    found = open_test_set(folder, protocol)
    by_name = {one.image.name: one for one in found.cases}
    assert by_name["one.nii.gz"].strata == Strata(maker="Siemens", slice_thickness_mm=2.5, sex="F")
    assert by_name["two.nrrd"].strata == Strata(maker="Siemens")
    assert {one.patient for one in found.cases} == {"A"}
    volumes = {case: (image, truth) for case, image, truth in found.volumes()}
    for seed, name in enumerate(("one.nii.gz", "two.nrrd")):
        image, truth = volumes[by_name[name].case]
        np.testing.assert_array_equal(image.array_ZYX, image_of(seed).array_ZYX)
        np.testing.assert_array_equal(truth.array_ZYX, label_of(seed).array_ZYX)
        assert image.geometry.difference(OBLIQUE) is None


def test_it_is_evaluated_and_reported_as_a_snapshot_is(folder: Path, protocol: Protocol) -> None:
    (folder / "strata.csv").write_text(STRATA)
    found = open_test_set(folder, protocol)
    truths = {image.array_ZYX.tobytes(): truth for _, image, truth in found.volumes()}
    evaluation = evaluate(lambda image: truths[image.array_ZYX.tobytes()], found.volumes(), protocol.values)
    report = segmentation_report(evaluation, found.cases, model="m", test_set=found.digest)
    assert (report.cases, report.patients, report.test_set) == (2, 1, found.digest)
    assert report.figure("dice_mean").value == 1.0  # type: ignore[union-attr]
    text = report.as_json()
    assert "one" not in text.replace("none", "")
    assert "two" not in text


def test_without_strata_every_file_is_a_patient_of_whom_nothing_is_known(folder: Path, protocol: Protocol) -> None:
    found = open_test_set(folder, protocol)
    assert len({one.patient for one in found.cases}) == 2
    assert {one.strata for one in found.cases} == {Strata()}


def test_the_digest_is_of_the_contents_not_of_names_or_compression(folder: Path, protocol: Protocol) -> None:
    before = open_test_set(folder, protocol)
    for kind in ("images", "labels"):
        (folder / kind / "two.nrrd").rename(folder / kind / "another.nrrd")
        put(folder, (image_of if kind == "images" else label_of)(0), kind=kind, name="one.nii")
        (folder / kind / "one.nii.gz").unlink()
    after = open_test_set(folder, protocol)
    assert after.digest == before.digest
    assert [one.case for one in after.cases] == [one.case for one in before.cases]


def test_another_voxel_patient_or_stratum_gives_another_digest(folder: Path, protocol: Protocol) -> None:
    digests = [open_test_set(folder, protocol).digest]
    (folder / "strata.csv").write_text("file,patient\none,A\ntwo,A\n")
    digests.append(open_test_set(folder, protocol).digest)
    (folder / "strata.csv").write_text("file,patient,sex\none,A,F\ntwo,A,F\n")
    digests.append(open_test_set(folder, protocol).digest)
    label = label_of(0)
    label.array_ZYX[0, 0, 0] = 1
    put(folder, label)
    digests.append(open_test_set(folder, protocol).digest)
    assert len({*digests}) == 4


def test_a_file_that_changes_while_it_is_in_use_is_noticed(folder: Path, protocol: Protocol) -> None:
    found = open_test_set(folder, protocol)
    put(folder, label_of(1))
    with pytest.raises(ExternalTestSetError, match=r"image or label one\.nii\.gz changed while it was in use"):
        list(found.volumes())


@pytest.mark.parametrize(("gone", "missing"), [("labels", "no label for two"), ("images", "no image for two")])
def test_half_a_pair_is_refused(folder: Path, protocol: Protocol, gone: str, missing: str) -> None:
    (folder / gone / "two.nrrd").unlink()
    with pytest.raises(ExternalTestSetError, match=missing):
        open_test_set(folder, protocol)


def test_no_folder_and_nothing_in_it_are_refused(tmp_path: Path, protocol: Protocol) -> None:
    with pytest.raises(ExternalTestSetError, match=r"there is no folder .*images"):
        open_test_set(tmp_path, protocol)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "notes.txt").write_text("no volume")
    with pytest.raises(ExternalTestSetError, match="no volume in"):
        open_test_set(tmp_path, protocol)


def test_a_label_on_another_grid_is_refused(folder: Path, protocol: Protocol) -> None:
    put(folder, replace(label_of(), geometry=replace(OBLIQUE, origin_mm_LPS=(0.0, 0.0, 0.0))))
    with pytest.raises(ExternalTestSetError, match=r"label one\.nii\.gz does not lie on its image's grid: its corners"):
        open_test_set(folder, protocol)


def test_a_value_that_the_protocol_has_not_is_refused(folder: Path, protocol: Protocol) -> None:
    label = label_of()
    label.array_ZYX[0, 0, :2] = (7, 9)
    put(folder, label)
    with pytest.raises(ExternalTestSetError, match=r"the value\(s\) 7, 9; protocol hippocampus has 1 \(anterior\), 2"):
        open_test_set(folder, protocol)


def test_a_label_of_fractions_is_refused(folder: Path, protocol: Protocol) -> None:
    put(folder, replace(label_of(), array_ZYX=label_of().array_ZYX * np.float32(0.5)))
    with pytest.raises(ExternalTestSetError, match=r"label one\.nii\.gz: .*no whole numbers from 0 to 255: 0\.5"):
        open_test_set(folder, protocol)


def test_a_file_that_is_no_volume_is_refused(folder: Path, protocol: Protocol) -> None:
    (folder / "images" / "one.nii.gz").write_bytes(b"nothing of the kind")
    with pytest.raises(ExternalTestSetError, match=r"images/one\.nii\.gz: NIfTI file could not be read"):
        open_test_set(folder, protocol)


def test_one_image_under_two_names_is_refused(folder: Path, protocol: Protocol) -> None:
    for kind, volume in (("images", image_of(0)), ("labels", label_of(1))):
        put(folder, volume, kind=kind, name="two.nrrd")
    with pytest.raises(ExternalTestSetError, match=r"two\.nrrd and one\.nii\.gz are the same image"):
        open_test_set(folder, protocol)


def test_two_files_of_one_name_are_refused(folder: Path, protocol: Protocol) -> None:
    put(folder, image_of(3), kind="images", name="one.nrrd")
    with pytest.raises(ExternalTestSetError, match=r"images holds one\.nii\.gz and one\.nrrd; expected one of them"):
        open_test_set(folder, protocol)


@pytest.mark.parametrize(
    ("content", "refused"),
    [
        ("patient\nA\n", r"has the columns \['patient'\]; expected file and any of"),
        ("file,name\none,Doe\n", r"has the columns \['file', 'name'\]; expected file and any of"),
        ("file\none\n", "no line for two"),
        ("file\none\ntwo\nthree\n", "line 4: expected each file of images/ once, found 'three'"),
        ("file\none\none\ntwo\n", "line 3: expected each file of images/ once, found 'one'"),
        ("file,sex\none,F\ntwo,female\n", "line 3: found a sex"),
        ("file,slice_thickness_mm\none,thin\ntwo,1\n", "line 2: could not convert string to float: 'thin'"),
        ("file,sex\none,F,M\ntwo,F\n", "line 2: more values than the 2 columns"),
        ('file,sex\none,"F\ntwo,F\n', "is no CSV file in UTF-8"),
        ("", r"has the columns \[\]"),
    ],
)
def test_strata_that_do_not_fit_are_refused(folder: Path, protocol: Protocol, content: str, refused: str) -> None:
    (folder / "strata.csv").write_text(content)
    with pytest.raises(ExternalTestSetError, match=refused):
        open_test_set(folder, protocol)


def test_strata_in_another_encoding_are_refused(folder: Path, protocol: Protocol) -> None:
    (folder / "strata.csv").write_bytes("file,site\none,Zürich\ntwo,Zürich\n".encode("latin-1"))
    with pytest.raises(ExternalTestSetError, match="is no CSV file in UTF-8"):
        open_test_set(folder, protocol)
