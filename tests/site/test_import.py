"""Scans of the LIDC-IDRI become cases and their radiologists' readings reads, whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from apps.accounts import AccountError, Accounts
from apps.command import app
from apps.ingest.folder import ingest
from apps.lidc_import import CLIENT, LidcReport, import_lidc
from apps.settings import Site
from labeling_protocols import audit
from labeling_protocols.lidc import LidcError
from labeling_protocols.protocol import SHIPPED, load_protocol
from labeling_protocols.records import Outcome, Read, Role
from labeling_protocols.store import Store, UnknownError
from tests.conftest import OBLIQUE
from tests.lidc_files import Marked, Roi, WrittenSeries, rated, square
from tests.site.test_command import overread

NODULE = rated(Roi(k=1, points=square(1, 1, 4)), Roi(k=2, points=square(1, 1, 4)))
LARGER = rated(Roi(k=1, points=square(1, 1, 5)), malignancy=5)
POINT = Marked(rois=[Roi(k=4, points=[(6, 8)])])
FOUR = ([NODULE], [NODULE, POINT], [LARGER], [])


@pytest.fixture
def lung(store: Store) -> Store:
    store.add_protocol(load_protocol(SHIPPED / "lung_nodule.yaml"))
    return store


@pytest.fixture
def series(tmp_path: Path) -> WrittenSeries:
    return WrittenSeries(tmp_path / "dicom" / "one", OBLIQUE)


def written(tmp_path: Path, content: bytes, name: str = "072.xml") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def taken(store: Store, site: Site, tmp_path: Path, *files: Path) -> LidcReport:
    return import_lidc(store, site, files, tmp_path / "dicom", "lung_nodule")


def reads(store: Store) -> list[Read]:
    return [read for case in store.cases("lung_nodule") for read in store.reads(case.id)]


def left_untouched(store: Store, site: Site) -> bool:
    """Whether no case, read, account or archived image was kept."""
    accounts = [one for one in Accounts(store, site).all() if one.name.startswith("lidc")]
    return not (store.cases("lung_nodule") or accounts or list(site.folder("archive").rglob("*.dcm")))


def test_a_scan_becomes_a_case_with_a_read_by_each_radiologist(
    lung: Store, site: Site, series: WrittenSeries, tmp_path: Path
) -> None:
    report = taken(lung, site, tmp_path, written(tmp_path, series.xml(*FOUR)))
    assert report.refused == ()
    (case,) = lung.cases("lung_nodule")
    assert [(scan.case, scan.is_new, scan.reads) for scan in report.scans] == [(case.id, True, 4)]
    names = {account.id: account.name for account in Accounts(lung, site).all()}
    by_name = {names[read.reader]: read for read in lung.latest_reads(case.id)}
    assert sorted(by_name) == [f"lidc_reader_{number}" for number in (1, 2, 3, 4)]
    voxels = [by_name[f"lidc_reader_{number}"].voxels.get("nodule", 0) for number in (1, 2, 3, 4)]
    assert voxels == [8, 8, 9, 0]
    labels = [lung.label(by_name[f"lidc_reader_{number}"].label) for number in (1, 2, 3, 4)]
    assert [(len(label.boxes), len(label.points)) for label in labels] == [(1, 0), (1, 1), (1, 0), (0, 0)]
    assert [label.answers.get("malignancy") for label in labels] == [3, 3, 5, None]
    assert {read.provenance.client for read in by_name.values()} == {CLIENT}
    with lung.engine.connect() as connection:
        actions = [entry.action for entry in audit.entries(connection)]
    assert actions.count(audit.Action.READ_ADOPTED) == 4
    assert len(list(site.folder("archive").rglob("*.dcm"))) == len(series.paths)
    assert lung.progress("lung_nodule").reads == 4


def test_importing_again_adds_nothing(lung: Store, site: Site, series: WrittenSeries, tmp_path: Path) -> None:
    path = written(tmp_path, series.xml(*FOUR))
    taken(lung, site, tmp_path, path)
    before = reads(lung)
    again = taken(lung, site, tmp_path, path)
    assert [(scan.is_new, scan.reads) for scan in again.scans] == [(False, 0)]
    assert reads(lung) == before
    assert len([one for one in Accounts(lung, site).all() if one.name.startswith("lidc")]) == 4


def test_a_case_that_was_there_without_reads_gets_them(
    lung: Store, site: Site, series: WrittenSeries, tmp_path: Path
) -> None:
    """So is an import finished that ended between the case and its reads."""
    ingest(lung, site, tmp_path / "dicom", "lung_nodule")
    report = taken(lung, site, tmp_path, written(tmp_path, series.xml(*FOUR)))
    assert [(scan.is_new, scan.reads) for scan in report.scans] == [(False, 4)]


def test_several_scans_are_told_apart_by_their_series(
    lung: Store, site: Site, series: WrittenSeries, tmp_path: Path
) -> None:
    other = WrittenSeries(tmp_path / "dicom" / "two", OBLIQUE, name="other", seed=2)
    folder = tmp_path / "xml"
    folder.mkdir()
    written(folder, series.xml(*FOUR), "a.xml")
    written(folder, other.xml([LARGER], [LARGER]), "b.xml")
    report = taken(lung, site, tmp_path, folder)
    assert [scan.reads for scan in report.scans] == [4, 2]
    outcomes = {case.id: case for case in lung.cases("lung_nodule", [Outcome.OPEN])}
    assert list(outcomes) == [report.scans[1].case]  # two of its four seats are free


def test_a_file_that_does_not_belong_to_the_series_leaves_nothing_behind(
    lung: Store, site: Site, series: WrittenSeries, tmp_path: Path
) -> None:
    good = series.xml(*FOUR)
    wrong = {
        "expected a LidcReadMessage": b"<html/>",
        "no whole XML": good[:-20],
        "none of the 1 in the folder": good.replace(b"<SeriesInstanceUid>", b"<SeriesInstanceUid>9."),
        "images are missing, or it is another": good.replace(b"<imageSOP_UID>", b"<imageSOP_UID>9."),
        "reaches column 60": good.replace(b"<xCoord>6<", b"<xCoord>60<"),
    }
    for words, content in wrong.items():
        (refusal,) = taken(lung, site, tmp_path, written(tmp_path, content)).refused
        assert words in refusal.reason
        assert series.identity.series_uid not in refusal.reason
    assert left_untouched(lung, site)


def test_a_missing_slice_is_refused_and_a_short_series_is_cut(
    lung: Store, site: Site, series: WrittenSeries, tmp_path: Path
) -> None:
    path = written(tmp_path, series.xml(*FOUR))
    content = series.paths[2].read_bytes()
    series.paths[2].unlink()
    (refusal,) = taken(lung, site, tmp_path, path).refused
    assert "missing slice" in refusal.reason
    assert left_untouched(lung, site)
    series.paths[2].write_bytes(content)
    for k in (0, 1):
        series.paths[k].unlink()
    (scan,) = taken(lung, site, tmp_path, path).scans
    assert [tally.cut for tally in scan.tallies] == [1, 1, 0, 0]
    assert [tally.beyond for tally in scan.tallies] == [0, 0, 1, 0]


def test_one_refused_file_does_not_stop_the_others(
    lung: Store, site: Site, series: WrittenSeries, tmp_path: Path
) -> None:
    files = [written(tmp_path, b"nothing", "bad.xml"), written(tmp_path, series.xml(*FOUR), "good.xml")]
    report = taken(lung, site, tmp_path, *files)
    assert [refusal.where for refusal in report.refused] == ["bad.xml"]
    assert [scan.reads for scan in report.scans] == [4]


def test_a_second_file_about_a_scan_that_says_something_else_is_refused(
    lung: Store, site: Site, series: WrittenSeries, tmp_path: Path
) -> None:
    taken(lung, site, tmp_path, written(tmp_path, series.xml(*FOUR)))
    before = reads(lung)
    turned = written(tmp_path, series.xml(*reversed(FOUR)), "turned.xml")
    (refusal,) = taken(lung, site, tmp_path, turned).refused
    assert "imported before and said something else" in refusal.reason
    assert reads(lung) == before


def test_a_reading_that_the_protocol_has_no_place_for_leaves_nothing_behind(
    store: Store, site: Site, series: WrittenSeries, tmp_path: Path
) -> None:
    """A site that requires an answer refuses a radiologist who found nothing to answer about."""
    shipped = (SHIPPED / "lung_nodule.yaml").read_text()
    strict = tmp_path / "lung_nodule.yaml"
    strict.write_text(shipped.replace("  - name: malignancy\n", "  - name: malignancy\n    required: true\n"))
    store.add_protocol(load_protocol(strict))
    (refusal,) = taken(store, site, tmp_path, written(tmp_path, series.xml(*FOUR))).refused
    assert "'malignancy'" in refusal.reason
    assert left_untouched(store, site)


def test_what_cannot_begin_is_refused_whole(lung: Store, site: Site, series: WrittenSeries, tmp_path: Path) -> None:
    path = written(tmp_path, series.xml(*FOUR))
    with pytest.raises(UnknownError, match="unknown protocol"):
        import_lidc(lung, site, [path], tmp_path / "dicom", "liver")
    with pytest.raises(LidcError, match="no structure 'nodule'"):
        import_lidc(lung, site, [path], tmp_path / "dicom", "hippocampus")
    with pytest.raises(LidcError, match="no such XML file"):
        taken(lung, site, tmp_path, tmp_path / "none.xml")
    with pytest.raises(LidcError, match="folder is none"):
        import_lidc(lung, site, [path], path, "lung_nodule")
    assert left_untouched(lung, site)


# The readers' accounts


def test_nobody_can_sign_in_as_a_radiologist_of_the_lidc(
    lung: Store, site: Site, series: WrittenSeries, tmp_path: Path
) -> None:
    taken(lung, site, tmp_path, written(tmp_path, series.xml(*FOUR)))
    accounts = Accounts(lung, site)
    reader = accounts.find("lidc_reader_1")
    assert reader is not None
    assert reader.roles == {Role.READER}
    for password in ("", "lidc_reader_1", "None"):
        assert accounts.sign_in("lidc_reader_1", password) is None
    with pytest.raises(AccountError, match="nobody signs in"):
        accounts.reset_password(reader.id, actor="command line")
    with pytest.raises(AccountError, match="nobody signs in"):
        accounts.new_address(reader)


def test_a_person_of_a_readers_name_is_not_given_the_lidcs_reads(
    lung: Store, site: Site, series: WrittenSeries, tmp_path: Path
) -> None:
    accounts = Accounts(lung, site)
    person = accounts.add("lidc_reader_2", "a long password", frozenset({Role.READER}))
    (refusal,) = taken(lung, site, tmp_path, written(tmp_path, series.xml(*FOUR))).refused
    assert "somebody signs in as lidc_reader_2" in refusal.reason
    assert lung.cases("lung_nodule") == []
    assert accounts.all() == [person]


# The command


def test_the_command_says_what_it_took_and_nothing_that_identifies(
    site: Site, series: WrittenSeries, tmp_path: Path, lung: Store
) -> None:
    beyond = rated(Roi(k=0, points=square(1, 1, 4), z_mm=99.0, uid="1.2.3"))
    thin = rated(Roi(k=3, points=[(2, 2)]))
    path = written(tmp_path, series.xml([NODULE, thin], [beyond, POINT], non_nodules=[4.75, 99.0]))
    words = ("import", "lidc", path, "--series", tmp_path / "dicom", "--site", site.root)
    done = overread(*words)
    assert done.returncode == 0, done.stderr
    assert "1 case(s) and 2 read(s) added, 0 case(s) known already, 0 file(s) refused." in done.stdout
    for said in (
        "2 reading(s) with 2 nodule(s), 1 below 3 mm",
        "1 boxed and not outlined",
        "2 mark(s) of other lesions left out",
        "1 marked slice(s) beyond the series left out",
        "1 nodule(s) beyond the series left out",
        "2 of 4 seats still free",
        "need not be who read another",
    ):
        assert said in done.stdout
    again = CliRunner().invoke(app, list(map(str, words)))
    assert again.exit_code == 0
    assert "0 case(s) and 0 read(s) added, 1 case(s) known already" in again.stdout
    identity = series.identity
    for secret in (identity.patient_id, "Roe", identity.series_uid, identity.study_uid, "-119094", "IL057"):
        assert secret not in done.stdout + done.stderr
    listed = CliRunner().invoke(app, ["account", "list", "--site", str(site.root)]).stdout
    assert listed.count("nothing") == 2


def test_the_command_ends_with_code_1_where_a_file_is_refused(site: Site, tmp_path: Path, lung: Store) -> None:
    (tmp_path / "dicom").mkdir()
    path = written(tmp_path, b"<LidcReadMessage>")
    words = ["import", "lidc", str(path), "--series", str(tmp_path / "dicom"), "--site", str(site.root)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "refused 072.xml: the file is no whole XML" in done.stdout
    nowhere = overread("import", "lidc", tmp_path / "none.xml", "--series", tmp_path, "--site", site.root)
    assert nowhere.returncode == 1
    assert "no such XML file" in nowhere.stderr
    assert "Traceback" not in nowhere.stderr


def test_the_outline_lies_in_the_patient_where_it_was_marked(
    lung: Store, site: Site, series: WrittenSeries, tmp_path: Path
) -> None:
    """On the slice written as number 1 of a stack that runs the other way."""
    taken(lung, site, tmp_path, written(tmp_path, series.xml([LARGER])))
    (read,) = reads(lung)
    label = lung.label(read.label)
    found_XYZ1 = np.c_[np.argwhere(label.layers_LZYX[0])[:, ::-1], np.ones(9)]
    marked_XYZ1 = [(x, y, 1, 1) for x in (2, 3, 4) for y in (2, 3, 4)]
    found_mm, marked_mm = found_XYZ1 @ label.geometry.affine_LPS().T, marked_XYZ1 @ OBLIQUE.affine_LPS().T
    assert np.allclose(np.sort(found_mm, axis=0), np.sort(marked_mm, axis=0), atol=1e-6)
