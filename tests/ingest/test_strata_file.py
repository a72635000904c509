"""A CSV file tells of images without headers; one that cannot be used is refused by its line, before any is taken."""

from pathlib import Path

import pytest

from apps.ingest.folder import ingest
from apps.ingest.strata_file import StrataFileError
from apps.settings import Site
from labeling_protocols.series_writer import write_series
from labeling_protocols.store import Store
from labeling_protocols.strata import Strata, StrataError
from labeling_protocols.volumes import write_volume
from tests.conftest import image_of
from tests.dicom.examples import identity_of

HEADER = "file,maker,model,slice_thickness_mm,sex,age_band,site"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "incoming"
    (folder / "deep").mkdir(parents=True)
    write_volume(image_of(1), folder / "Xylander.nii.gz")
    write_volume(image_of(2), folder / "deep" / "second.nrrd")
    return folder


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "strata.csv"


def taken(store: Store, site: Site, path: Path, table: Path, site_name: str | None = None) -> list[Strata]:
    report = ingest(store, site, path, "hippocampus", site_name=site_name, strata_file=table)
    assert report.refused == ()
    return [store.case(case).strata for case in report.added or report.known]


def test_lines_tell_of_images_and_the_name_given_at_ingest_of_the_others(
    folder: Path, table: Path, store: Store, site: Site
) -> None:
    lines = [HEADER, "Xylander.nii.gz,SIEMENS,Skyra,3.5,F,40-49,south", "", "deep/second.nrrd,,,,,90+,"]
    table.write_text("\ufeff" + "\r\n".join(lines))
    assert taken(store, site, folder, table, "north") == [
        Strata(maker="Siemens", model="Skyra", slice_thickness_mm=3.5, sex="F", age_band="40-49", site="south"),
        Strata(slice_thickness_mm=2.5, age_band="90+", site="north"),
    ]


def test_columns_may_be_left_out_and_images_unmentioned(folder: Path, table: Path, store: Store, site: Site) -> None:
    table.write_text("sex,file\nM,deep/second.nrrd\n")
    assert taken(store, site, folder, table) == [
        Strata(slice_thickness_mm=2.5),
        Strata(slice_thickness_mm=2.5, sex="M"),
    ]


def test_images_taken_in_before_learn_what_the_file_tells(folder: Path, table: Path, store: Store, site: Site) -> None:
    ingest(store, site, folder, "hippocampus")
    table.write_text("file,sex\nXylander.nii.gz,F\n")
    assert {strata.sex for strata in taken(store, site, folder, table)} == {"F", None}
    assert len(store.cases("hippocampus")) == 2


def test_one_file_of_several_is_taken_in_with_the_table_of_all(
    folder: Path, table: Path, store: Store, site: Site
) -> None:
    write_volume(image_of(3), folder / "third.nii.gz")
    table.write_text("file,sex\nXylander.nii.gz,F\nthird.nii.gz,M\n")
    assert [strata.sex for strata in taken(store, site, folder / "third.nii.gz", table)] == ["M"]


REFUSED = {
    "no such column": ("file,serial\nXylander.nii.gz,40764\n", "its first line has other columns"),
    "no file column": ("sex\nF\n", "its first line has other columns"),
    "a column twice": ("file,sex,sex\nXylander.nii.gz,F,F\n", "its first line has other columns"),
    "nothing": ("", "its first line has other columns"),
    "unknown file": ("file,sex\nXylander.nii.gz,F\nOttilie.nii.gz,F\n", "line 3 names no NIfTI or NRRD image"),
    "outside": ("file,sex\n../strata.csv,F\n", "line 2 names no NIfTI or NRRD image"),
    "no name": ("file,sex\n,F\n", "line 2 names no NIfTI or NRRD image"),
    "file twice": ("file,sex\nXylander.nii.gz,F\nXylander.nii.gz,M\n", "line 3 names an image that a line before"),
    "cells missing": ("file,sex\nXylander.nii.gz\n", "line 2 has 1 cells, its first line 2"),
    "bad sex": ("file,sex\nXylander.nii.gz,Ottilie\n", "line 2: found a sex that is none of F, M, O"),
    "bad age": ("file,age_band\nXylander.nii.gz,47\n", "line 2: found an age that is no band of ten years"),
    "bad thickness": ("file,slice_thickness_mm\nXylander.nii.gz,thick\n", "line 2: found a slice thickness"),
    "thin": ("file,slice_thickness_mm\nXylander.nii.gz,-1\n", "line 2: found slices -1.0 mm thick"),
    "long site": (f"file,site\nXylander.nii.gz,{'s' * 65}\n", "line 2: found a site of 65 characters"),
    "open quote": ('file,sex\n"Xylander.nii.gz,F\n', "it is no CSV file"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_file_that_cannot_be_used_is_refused_by_its_line_and_names_nobody(
    folder: Path, table: Path, store: Store, site: Site, what: str
) -> None:
    content, words = REFUSED[what]
    table.write_text(content)
    with pytest.raises(StrataFileError) as refused:
        ingest(store, site, folder, "hippocampus", strata_file=table)
    assert words in str(refused.value)
    assert "Xylander" not in str(refused.value)
    assert "Ottilie" not in str(refused.value)
    assert store.cases("hippocampus") == []


def test_a_file_that_is_not_there_or_no_text_is_refused(folder: Path, table: Path, store: Store, site: Site) -> None:
    with pytest.raises(StrataFileError, match="No such file"):
        ingest(store, site, folder, "hippocampus", strata_file=table)
    table.write_bytes(b"\x1f\x8b\xff\xfe")
    with pytest.raises(StrataFileError, match="no CSV file in UTF-8"):
        ingest(store, site, folder, "hippocampus", strata_file=table)


def test_a_series_is_told_of_by_its_headers_alone(folder: Path, table: Path, store: Store, site: Site) -> None:
    first = write_series(image_of(3), folder / "series", identity_of("series"))[0]
    table.write_text(f"file,sex\nseries/{first.name},F\n")
    with pytest.raises(StrataFileError, match="line 2 names no NIfTI or NRRD image"):
        ingest(store, site, folder, "hippocampus", strata_file=table)


def test_a_name_of_a_site_that_cannot_be_used_is_refused_before_anything_is_taken_in(
    folder: Path, store: Store, site: Site
) -> None:
    with pytest.raises(StrataError, match="found a site of 65 characters"):
        ingest(store, site, folder, "hippocampus", site_name="s" * 65)
    assert store.cases("hippocampus") == []
