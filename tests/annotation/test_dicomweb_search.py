"""What the archive's index finds (PS3.4 C.2.2.2): each way of matching, paging, and following a folder that changes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from apps.archive_index import Index
from apps.archive_matching import filters_of, tag_of
from labeling_protocols.series_writer import write_series
from labeling_protocols.store import UnknownError
from tests.conftest import image_of
from tests.dicom.examples import identity_of

EVERYTHING = frozenset(tag_of(name) for name in ("PatientName", "StudyDate", "Modality", "SeriesNumber", "StudyID"))
EVERYTHING |= {tag_of("StudyInstanceUID"), tag_of("ModalitiesInStudy")}


def matches(key: str, asked: str, *values: Any, fuzzy: bool = False) -> bool:
    return filters_of({key: asked}, EVERYTHING, fuzzy=fuzzy).match({tag_of(key): {"vr": "LO", "Value": list(values)}})


@pytest.mark.parametrize(
    ("key", "asked", "value", "found"),
    [
        ("StudyID", "A1", "A1", True),
        ("StudyID", "A1", "A12", False),
        ("StudyID", "a1", "A1", False),  # only names are compared without case
        ("StudyID", "A*", "A12", True),
        ("StudyID", "A?", "A1", True),
        ("StudyID", "A?", "A12", False),
        ("StudyID", "%1", "A1", False),  # no wildcard of DICOM
        ("StudyID", "A.", "A1", False),
        ("StudyDate", "20200102", "20200102", True),
        ("StudyDate", "20200101-20200131", "20200131", True),
        ("StudyDate", "20200101-20200131", "20200201", False),
        ("StudyDate", "-20200131", "20191231", True),
        ("StudyDate", "20200101-", "20191231", False),
        ("SeriesNumber", "7", 7, True),
        ("SeriesNumber", "07", 7, True),
        ("SeriesNumber", "x", 7, False),
        ("StudyInstanceUID", "1.2,1.3", "1.3", True),
        ("StudyInstanceUID", "1.2\\1.3", "1.3", True),
        ("StudyInstanceUID", "1.*", "1.3", False),  # UIDs have no wildcards
        ("PatientName", "roe^*", {"Alphabetic": "Roe^Richard"}, True),
        ("PatientName", "richard", {"Alphabetic": "Roe^Richard"}, False),
    ],
)
def test_a_key_matches_as_the_standard_says(key: str, asked: str, value: object, found: bool) -> None:
    assert matches(key, asked, value) is found
    assert matches(tag_of(key).lower(), asked, value) is found


def test_fuzzy_matching_finds_the_beginnings_of_names_in_any_order() -> None:
    name = {"Alphabetic": "Roe^Richard"}
    assert matches("PatientName", "rich roe", name, fuzzy=True)
    assert not matches("PatientName", "ichard", name, fuzzy=True)


def test_any_of_several_values_is_enough_and_an_absent_one_never_is() -> None:
    assert matches("ModalitiesInStudy", "MR", "CT", "MR")
    assert matches("ModalitiesInStudy", "SEG,MR", "CT", "MR")
    assert not matches("ModalitiesInStudy", "SEG", "CT", "MR")
    assert not matches("StudyID", "A1")
    assert matches("StudyID", "*"), "universal matching"


def test_keys_that_rows_do_not_have_are_named_and_what_is_no_attribute_is_not() -> None:
    filters = filters_of({"EchoTime": "1", "patient": "x", "StudyID": ""}, EVERYTHING, fuzzy=False)
    assert filters.passed_over == ("EchoTime",)
    assert filters.tests == ()


@pytest.fixture
def index(tmp_path: Path) -> Index:
    for name in ("a", "b", "c"):
        who = identity_of(name)
        write_series(image_of(ord(name)), tmp_path / who.series_uid, who, modality="CT" if name == "c" else "MR")
    made = Index(tmp_path)
    made.refresh()
    return made


def test_studies_series_and_instances_are_counted_and_paged(index: Index) -> None:
    assert [row["00201208"]["Value"] for row in index.search_for_studies()] == [[6], [6], [6]]
    pages = [index.studies(limit=2, offset=offset) for offset in (0, 2)]
    assert [(len(page.rows), page.more) for page in pages] == [(2, True), (1, False)]
    assert index.search_for_studies(limit=2)[1:] == index.search_for_studies(limit=1, offset=1)
    [ct] = index.search_for_studies(search_filters={"ModalitiesInStudy": "CT"})
    [series] = index.search_for_series(ct["0020000D"]["Value"][0])
    assert series["00201209"]["Value"] == [6]
    assert index.search_for_series("1.2.3") == []
    found = index.search_for_instances(search_filters={"Modality": "CT"})
    assert [row["00200013"]["Value"] for row in found] == [[n] for n in range(1, 7)]


def test_fields_beyond_the_usual_come_when_they_are_asked_for(index: Index) -> None:
    study = identity_of("a").study_uid
    [usual] = index.search_for_series(study)
    [more] = index.search_for_series(study, fields=["SliceThickness", "00180088"])
    assert set(more) - set(usual) == {"00180050", "00180088"}
    assert more["00180050"]["Value"] == [2.5]
    [every] = index.search_for_series(study, fields=["all"])
    assert set(every) > set(more)
    assert "7FE00010" not in every


def test_the_index_follows_its_folder_and_reads_only_what_changed(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counting(path: Path, **how: Any) -> Any:
        read.append(path)
        return dcmread(path, **how)

    monkeypatch.setattr("apps.archive_index._CLOCK_NS", -1)
    index.refresh()
    monkeypatch.setattr("apps.archive_index.dcmread", counting)
    index.refresh()
    assert read == []
    who = identity_of("d")
    paths = write_series(image_of(1), tmp_path / who.series_uid, who)
    shutil.rmtree(tmp_path / identity_of("a").series_uid)
    index.refresh()
    assert read == paths[:1], "one header of the new series"
    assert {row["0020000D"]["Value"][0] for row in index.search_for_studies()} == {
        identity_of(name).study_uid for name in "bcd"
    }
    paths[-1].unlink()
    index.refresh()
    assert len(index.slices(who.study_uid)) == 5


def test_a_folder_that_nobody_sorted_is_read_too(tmp_path: Path) -> None:
    for name in ("x", "y"):
        for path in write_series(image_of(1), tmp_path / "all" / name, identity_of(name)):
            path.rename(tmp_path / "all" / f"{name}{path.name}")
    (tmp_path / "all" / "notes.txt").write_text("no DICOM")
    index = Index(tmp_path)
    index.refresh()
    assert len(index.search_for_series()) == 2
    assert len(index.slices(identity_of("x").study_uid)) == 6
    with pytest.raises(UnknownError):
        index.slices(identity_of("x").study_uid, identity_of("y").series_uid)


def test_an_instance_is_no_path(tmp_path: Path, index: Index) -> None:
    who = identity_of("a")
    (tmp_path / "secret.dcm").write_bytes(b"x")
    with pytest.raises(UnknownError):
        index.slices(who.study_uid, who.series_uid, "../secret")
