"""Folders become cases; what cannot is named with its reason, and the rest of the batch goes on."""

from pathlib import Path

import numpy as np
import pytest
from dicomweb_client import DICOMfileClient
from pydicom import dcmread

from apps.ingest.folder import IngestError, ingest
from apps.settings import Site
from labeling_protocols.series_writer import write_series
from labeling_protocols.store import Store, UnknownError
from labeling_protocols.strata import Strata
from labeling_protocols.volumes import write_volume
from tests.conftest import OBLIQUE, image_of
from tests.dicom.examples import AXIAL, dciodvfy_errors, identity_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


def test_volumes_of_both_formats_become_cases_on_their_own_grids(folder: Path, store: Store, site: Site) -> None:
    write_volume(image_of(1), folder / "roe_richard.nii.gz")
    write_volume(image_of(2), folder / "doe_jane.nrrd")
    report = ingest(store, site, folder, "hippocampus")
    assert (len(report.added), report.known, report.refused) == (2, (), ())
    cases = store.cases("hippocampus")
    assert len({case.patient for case in cases}) == 2
    assert all(case.geometry.difference(OBLIQUE, tolerance_mm=0.01) is None for case in cases)
    assert {case.modality for case in cases} == {"MR"}


def test_a_second_run_finds_every_case_known(folder: Path, store: Store, site: Site) -> None:
    write_volume(image_of(1), folder / "a.nii.gz")
    write_series(image_of(2), folder / "series", identity_of("again"))
    first = ingest(store, site, folder, "hippocampus")
    archived = {path: path.read_bytes() for path in site.folder("archive").rglob("*.dcm")}
    second = ingest(store, site, folder, "hippocampus")
    assert second.added == ()
    assert sorted(second.known) == sorted(first.added)
    assert {path: path.read_bytes() for path in site.folder("archive").rglob("*.dcm")} == archived


def test_a_dicom_series_becomes_a_case_where_its_voxels_lay_and_an_archive_without_identifiers(
    folder: Path, store: Store, site: Site
) -> None:
    paths = write_series(image_of(3), folder, identity_of("roe"), flipped=True, shuffle=6)
    report = ingest(store, site, folder, "hippocampus")
    assert len(report.added) == 1
    (case,) = store.cases("hippocampus")
    image = store.image(case)
    low, high = sorted((case.geometry.corners_mm_LPS().min(0), OBLIQUE.corners_mm_LPS().min(0)), key=tuple)
    assert np.allclose(low, high, atol=0.01)
    assert np.array_equal(image.array_ZYX[::-1], image_of(3).array_ZYX)  # its z axis now runs along the normal
    archive = list(site.folder("archive").rglob("*.dcm"))
    assert len(archive) == len(paths)
    assert {dcmread(path).SeriesInstanceUID for path in archive} == {case.series}
    assert {dcmread(path).PatientID for path in archive} == {case.patient}
    assert dciodvfy_errors(archive[0]) == []


def test_the_archive_is_served_by_dicomweb_clients_folder_client(folder: Path, store: Store, site: Site) -> None:
    write_series(image_of(3), folder, identity_of("served"))
    ingest(store, site, folder, "hippocampus")
    client = DICOMfileClient(f"file://{site.folder('archive')}", update_db=True, recreate_db=True, in_memory=True)
    (series,) = client.search_for_series()
    (case,) = store.cases("hippocampus")
    assert series["0020000E"]["Value"] == [case.series]
    assert len(client.search_for_instances()) == OBLIQUE.shape_ZYX[0]


def test_no_name_of_a_patient_or_file_reaches_the_site_folder(folder: Path, store: Store, site: Site) -> None:
    write_volume(image_of(1), folder / "Xylander_Ottilie.nii.gz")
    write_series(image_of(2), folder / "Xylander", identity_of("Xylander"))
    ingest(store, site, folder, "hippocampus")
    store.close()  # so that the write-ahead log is in the database file
    for path in site.root.rglob("*"):
        assert "Xylander" not in path.name
        if path.is_file():
            content = path.read_bytes()
            assert not any(word in content for word in (b"Xylander", b"Ottilie", b"Roe^Richard")), path.name


def test_studies_of_one_patient_share_a_pseudonym_and_repeated_file_names_do_not(
    folder: Path, store: Store, site: Site
) -> None:
    for seed, name in enumerate(("ann/t1.nii.gz", "ben/t1.nii.gz", "sub-07_run-1.nii.gz", "sub-07_run-2.nii.gz")):
        (folder / name).parent.mkdir(exist_ok=True)
        write_volume(image_of(seed), folder / name)
    ingest(store, site, folder, "hippocampus")
    patients = sorted(case.patient for case in store.cases("hippocampus"))
    assert len(patients) == 4
    assert len(set(patients)) == 3


def test_bad_items_are_named_with_their_reason_and_the_rest_goes_on(folder: Path, store: Store, site: Site) -> None:
    write_volume(image_of(1), folder / "good.nii.gz")
    (folder / "corrupt.nii.gz").write_bytes(b"\x1f\x8b\x08 this is no NIfTI")
    (folder / "labels").mkdir()
    write_volume(image_of(2), folder / "labels" / "good.nii.gz")
    write_series(image_of(3), folder / "gap", identity_of("gap"))[2].unlink()
    write_series(image_of(4), folder / "ct", identity_of("ct"), modality="CT")
    burned = write_series(image_of(5), folder / "burned", identity_of("burned"))
    image = dcmread(burned[0])
    image.BurnedInAnnotation = "YES"
    image.save_as(burned[0])
    (folder / "notes.txt").write_text("not an image")
    (folder / "._good.nii.gz").write_bytes(b"a resource fork")
    steps: list[tuple[int, int]] = []
    report = ingest(store, site, folder, "hippocampus", progress=lambda done, total: steps.append((done, total)))
    assert len(report.added) == 1
    reasons = {refusal.where.split("/")[0].split(" ")[0]: refusal.reason for refusal in report.refused}
    assert reasons.keys() == {"corrupt.nii.gz", "labels", "gap", "ct", "burned"}
    assert "NIfTI file could not be read" in reasons["corrupt.nii.gz"]
    assert "folder of labels" in reasons["labels"]
    assert "missing slice" in reasons["gap"]
    assert reasons["ct"] == "CT Image Storage of modality CT; protocol hippocampus labels MR"
    assert "burned-in text" in reasons["burned"]
    assert steps == [(done, 6) for done in range(7)]
    assert list(site.folder("archive").iterdir()) == []


def test_a_single_file_is_taken_too(folder: Path, store: Store, site: Site) -> None:
    write_volume(image_of(1), folder / "one.nrrd")
    write_volume(image_of(2), folder / "other.nrrd")
    assert len(ingest(store, site, folder / "one.nrrd", "hippocampus").added) == 1


def test_an_unknown_protocol_or_path_is_an_error_before_anything_is_read(
    folder: Path, store: Store, site: Site
) -> None:
    with pytest.raises(UnknownError, match="unknown protocol"):
        ingest(store, site, folder, "liver")
    with pytest.raises(IngestError, match="no such file or folder"):
        ingest(store, site, folder / "absent", "hippocampus")


def test_headers_tell_the_strata_of_a_series_and_nothing_that_identifies(
    folder: Path, store: Store, site: Site
) -> None:
    planted = {
        "PatientName": "Xylander^Ottilie",
        "PatientBirthDate": "19411203",
        "StudyDate": "20191224",
        "PatientSex": "F",
        "DeviceSerialNumber": "QX40764",
        "StationName": "MRWARD7",
        "InstitutionName": "St Elsewhere",
        "Manufacturer": "SIEMENS",
        "ManufacturerModelName": "Skyra",
    }
    for path in write_series(image_of(3), folder, identity_of("strata")):
        image = dcmread(path)
        for keyword, value in planted.items():
            setattr(image, keyword, value)
        image.save_as(path)
    ingest(store, site, folder, "hippocampus", site_name="north")
    (case,) = store.cases("hippocampus")
    assert case.strata == Strata(
        maker="Siemens", model="Skyra", slice_thickness_mm=2.5, sex="F", age_band="70-79", site="north"
    )
    store.close()  # so that the write-ahead log is in the database file
    for path in [*site.root.rglob("*.db"), *site.root.rglob("*.log"), *site.folder("archive").rglob("*.dcm")]:
        content = path.read_bytes()
        for word in ("Xylander", "Ottilie", "19411203", "20191224", "QX40764", "MRWARD7", "Elsewhere"):
            assert word.encode() not in content, (path.name, word)


@pytest.mark.real_data
def test_real_headers_tell_their_strata(real_data: Path, store: Store, site: Site) -> None:
    for name in ("mr_brain_dicom/PGBM-003_SIEMENS_T1post", "deid/mr_series", "mr_brain_dicom/PGBM-002_HCropVolume"):
        if not (real_data / name).is_dir():
            pytest.skip(f"no {name} among the real images")
    (first,) = ingest(store, site, real_data / "mr_brain_dicom" / "PGBM-003_SIEMENS_T1post", "hippocampus").added
    assert store.case(first).strata == Strata(
        maker="Siemens", model="Espree", slice_thickness_mm=6.5, sex="M", age_band="40-49"
    )
    (second,) = ingest(store, site, real_data / "deid" / "mr_series", "hippocampus", site_name="south").added
    assert store.case(second).strata == Strata(
        maker="Siemens", model="MAGNETOM VISION plus", slice_thickness_mm=9.6, sex="F", age_band="60-69", site="south"
    )
    (third,) = ingest(store, site, real_data / "mr_brain_dicom" / "PGBM-002_HCropVolume", "hippocampus").added
    assert store.case(third).strata == Strata(slice_thickness_mm=1.0)


@pytest.mark.real_data
def test_real_series_are_taken_or_refused_by_name(real_data: Path, store: Store, site: Site) -> None:
    report = ingest(store, site, real_data / "mr_brain_dicom", "hippocampus")
    assert (len(report.added), report.refused) == (4, ())
    assert len({case.patient for case in store.cases("hippocampus")}) == 2  # PGBM-002 and PGBM-003
    refused = ingest(store, site, real_data / "enhanced_multiframe", "hippocampus")
    assert refused.added == ()
    assert all("multi-frame object" in refusal.reason for refusal in refused.refused)


def test_the_label_geometry_of_axial_series_is_kept(folder: Path, store: Store, site: Site) -> None:
    write_series(image_of(3, AXIAL), folder, identity_of("axial"))
    ingest(store, site, folder, "hippocampus")
    (case,) = store.cases("hippocampus")
    assert case.geometry.difference(AXIAL) is None
    assert np.array_equal(store.image(case).array_ZYX, image_of(3, AXIAL).array_ZYX)
