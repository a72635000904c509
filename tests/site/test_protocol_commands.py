"""The commands `overread protocol`, as a person who writes protocols uses them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from apps.command import app
from apps.settings import Site
from labeling_protocols.label import Label
from labeling_protocols.protocol import SHIPPED, ProtocolError, load_protocol
from labeling_protocols.records import Account
from labeling_protocols.store import Store
from labeling_protocols.worklist import next_case
from tests.conftest import image_of, label_of

HIPPOCAMPUS = SHIPPED / "hippocampus.yaml"


def overread(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["protocol", *map(str, arguments)], env={"COLUMNS": "200"}, catch_exceptions=False)


def changed(folder: Path, *edits: tuple[str, str]) -> Path:
    text = HIPPOCAMPUS.read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "changed.yaml"
    path.write_text(text)
    return path


def test_check_says_what_a_protocol_asks_for() -> None:
    said = overread("check", SHIPPED / "lung_nodule.yaml").stdout
    assert "protocol lung_nodule version 2: Lung nodules on chest CT." in said
    assert "boxes, segmentation" in said
    assert "Asked (integer, may be left open): How likely" in said
    assert "F1 of lesions ≥ 1" in said
    assert "Readers a case: 4" in said
    assert "Consensus: majority. Adjudicators a dispute: 1 (anyone)." in said


def test_check_says_how_findings_become_truth_and_every_limit(tmp_path: Path) -> None:
    more = "surface_dice_min: 0.9, surface_tolerance_mm: 1.5, volume_difference_max: 0.2, dice_min"
    path = changed(
        tmp_path,
        ("anterior: {dice_min", f"anterior: {{{more}"),
        ("rule: majority", "rule: staple, found_by_min: 1"),
    )
    said = overread("check", path).stdout
    assert "Consensus: staple, boxes and points that at least 1 found." in said
    assert all(shown in said for shown in ("surface Dice ≥ 0.9", "surface mm ≤ 1.5", "volume difference ≤ 0.2"))


def test_check_refuses_a_bad_file_with_its_line(tmp_path: Path) -> None:
    path = changed(tmp_path, ("readers_per_case: 2", "readers_per_case: 0"))
    with pytest.raises(ProtocolError, match=r"changed\.yaml, line 24: readers_per_case: "):
        overread("check", path)


def test_the_printed_schema_is_json_that_describes_a_protocol() -> None:
    schema = json.loads(overread("schema").stdout)
    assert "structures" in schema["required"]


def test_diff_compares_a_file_with_the_sites_version(store: Store, site: Site, tmp_path: Path) -> None:
    path = changed(tmp_path, ("version: 1", "version: 2"), ("{dice_min: 0.75", "{dice_min: 0.80"))
    said = overread("diff", path, "--site", site.root).stdout
    assert "dice_min of anterior 0.75 -> 0.8" in said
    assert "verdicts are computed again, reads stay" in said
    assert "Reads made before count on." in said


def test_diff_compares_two_files_and_asks_for_a_new_number(tmp_path: Path) -> None:
    path = changed(tmp_path, ("value: 2", "value: 3"))
    said = overread("diff", HIPPOCAMPUS, path).stdout
    assert "value of posterior 2 -> 3" in said
    assert "do not count under the new version: its cases are read again" in said
    assert "give it a version above 1" in said


def test_diff_of_the_same_says_so(store: Store, site: Site) -> None:
    assert "ask for the same" in overread("diff", HIPPOCAMPUS, "--site", site.root).stdout


def test_list_shows_each_protocol(store: Store, site: Site) -> None:
    store.add_protocol(load_protocol(SHIPPED / "lung_nodule.yaml"))
    said = overread("list", "--site", site.root).stdout
    assert "anterior, posterior" in said
    assert "malignancy, subtlety, internal_structure, calcification" in said


def test_a_version_that_would_void_reads_is_added_only_on_purpose(
    store: Store, site: Site, readers: tuple[Account, Account], tmp_path: Path
) -> None:
    store.add_case(protocol="hippocampus", patient="P1", volume=image_of(1), modality="MR")
    path = changed(tmp_path, ("version: 1", "version: 2"), ("value: 2", "value: 3"))
    case = next_case(store, "hippocampus", readers[0].id)
    assert case is not None
    store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label_of()))
    with pytest.raises(ProtocolError, match=r"(?s)1 read\(s\) .* value of posterior 2 -> 3.*Nothing was added"):
        overread("add", path, "--site", site.root)
    assert store.protocol("hippocampus").version == 1
    assert "version 2 is in use" in overread("add", path, "--begin-anew", "--site", site.root).stdout
    assert store.protocol("hippocampus").version == 2
