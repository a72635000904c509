"""What is adopted from MONAI Label or imported from the LIDC has its strata too."""

from pathlib import Path

from apps.adopt import adopt
from apps.lidc_import import import_lidc
from apps.settings import Site
from labeling_protocols.protocol import SHIPPED, load_protocol
from labeling_protocols.records import Account
from labeling_protocols.store import Store
from labeling_protocols.strata import Strata
from tests.dicom.examples import ANISOTROPIC
from tests.lidc_files import WrittenSeries
from tests.site.test_adopt import Studies


def test_images_of_a_studies_folder_are_told_of_by_a_file_and_a_name(
    store: Store, site: Site, readers: tuple[Account, Account], tmp_path: Path
) -> None:
    studies = Studies(tmp_path)
    studies.add_image("first", 1)
    studies.add_image("second", 2)
    table = tmp_path / "strata.csv"
    table.write_text("file,maker,sex\nfirst.nii.gz,GE HealthCare,F\n")
    adopt(
        store,
        site,
        studies.root,
        protocol_name="hippocampus",
        readers=readers[0],
        site_name="north",
        strata_file=table,
    )
    assert {case.strata for case in store.cases("hippocampus")} == {
        Strata(maker="GE", sex="F", slice_thickness_mm=2.5, site="north"),
        Strata(slice_thickness_mm=2.5, site="north"),
    }


def test_a_scan_of_the_lidc_has_its_headers_strata(store: Store, site: Site, tmp_path: Path) -> None:
    store.add_protocol(load_protocol(SHIPPED / "lung_nodule.yaml"))
    series = WrittenSeries(tmp_path / "series", ANISOTROPIC)
    (tmp_path / "072.xml").write_bytes(series.xml([], []))
    report = import_lidc(store, site, [tmp_path / "072.xml"], series.folder, "lung_nodule", site_name="north")
    (scan,) = report.scans
    assert store.case(scan.case).strata == Strata(
        maker="Overread", model="Phantom", slice_thickness_mm=4.0, site="north"
    )
