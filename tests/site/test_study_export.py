"""A reader study comes out whole, tidy and under pseudonyms; its codebook is true, its bytes are the same each time."""

import csv
import hashlib
import io
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import apps.study_export as exporting
from apps.accounts import Accounts
from apps.command import app
from apps.export_folder import MANIFEST, ExportError
from apps.settings import Site
from apps.study_export import export_study
from apps.study_files import CodebookError, codebook, write_tables
from labeling_protocols import audit
from labeling_protocols.adjudications import adjudicate
from labeling_protocols.edits import begin_edit, save_edit
from labeling_protocols.label import Box, Label, Point
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.protocol_parts import TextQuestion
from labeling_protocols.records import Account, Case, Part, Role
from labeling_protocols.settlement import judge as judge_cases
from labeling_protocols.store import Store, UnknownError
from labeling_protocols.worklist import next_case
from tests.conftest import OBLIQUE, image_of, label_of

FORMULA = '=HYPERLINK("http://evil","a, b")\nsecond line'
POINT = Point(structure="micronodule", position_mm_LPS=(-29.5, 15.0, 5.0))
BOX = Box(structure="nodule", centre_mm_LPS=(-30.0, 14.0, 3.0), size_mm_XYZ=(2.0, 3.0, 4.0))


def tables(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Every table as a spreadsheet reads it."""
    return {
        path.stem: list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))
        for path in (folder / "csv").iterdir()
    }


def json_tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.stem: json.loads(path.read_text()) for path in (folder / "json").iterdir()}


def save(store: Store, case: Case, reader: Account, shift: int, **found: Any) -> None:
    store.save_read(case_id=case.id, reader=reader.id, label=replace(Label.of(label_of(shift)), **found))


@pytest.fixture
def cases(store: Store, readers: tuple[Account, Account]) -> tuple[Case, Case]:
    """A case two readers agree on after a second revision, and one they dispute."""
    pair = [
        store.add_case(protocol="hippocampus", patient=f"P{number}", volume=image_of(number), modality="MR")[0]
        for number in (1, 2)
    ]
    for reader in readers:
        for _ in pair:
            assert next_case(store, "hippocampus", reader.id) is not None
            taken = next_case(store, "hippocampus", reader.id)
            assert taken is not None
            save(store, taken, reader, 3 if taken == pair[1] and reader == readers[1] else 0)
    save(store, pair[0], readers[0], 1)
    save(store, pair[0], readers[0], 0)
    return pair[0], pair[1]


def study(store: Store, site: Site, folder: Path, protocol: str = "hippocampus") -> dict[str, list[dict[str, str]]]:
    export_study(store, site, protocol=protocol, folder=folder, actor="tests")
    return tables(folder)


def test_every_column_is_in_the_codebook_with_its_meaning_and_source(
    store: Store, site: Site, cases: tuple[Case, Case], tmp_path: Path
) -> None:
    study(store, site, tmp_path / "out")
    defined = list(csv.DictReader((tmp_path / "out" / "codebook.csv").open(newline="", encoding="utf-8")))
    by_table: dict[str, list[str]] = {}
    for row in defined:
        by_table.setdefault(row["table"], []).append(row["column"])
        assert row["meaning"]
        assert row["source"]
        assert row["type"] in ("text", "integer", "number", "boolean", "time")
    headers = {
        path.stem: path.read_text(encoding="utf-8").splitlines()[0].split(",")
        for path in (tmp_path / "out" / "csv").iterdir()
    }
    assert headers == by_table
    described = (tmp_path / "out" / "codebook.md").read_text()
    for table, columns in by_table.items():
        assert f"## {table}" in described
        assert all(f"| `{column}` |" in described for column in columns)


def test_every_cell_is_of_the_type_its_column_promises(
    store: Store, site: Site, cases: tuple[Case, Case], tmp_path: Path
) -> None:
    study(store, site, tmp_path / "out")
    kinds = {"text": str, "integer": int, "number": (int, float), "boolean": bool, "time": str}
    found = json_tables(tmp_path / "out")
    for table in codebook():
        for column in table.columns:
            cells = [row[column.column] for row in found[table.name] if row[column.column] is not None]
            assert all(isinstance(cell, kinds[column.type]) for cell in cells), (table.name, column.column)
            if column.type == "integer":
                assert not any(isinstance(cell, bool) for cell in cells)
            if column.type == "time":
                assert all(datetime.fromisoformat(cell).utcoffset() is not None for cell in cells)


def test_reads_agreement_and_truths_stand_one_fact_a_row(
    store: Store, site: Site, cases: tuple[Case, Case], readers: tuple[Account, Account], tmp_path: Path
) -> None:
    found = study(store, site, tmp_path / "out")
    agreed, disputed = cases
    assert {row["case"]: row["outcome"] for row in found["cases"]} == {agreed.id: "agreed", disputed.id: "disputed"}
    of_ann = [row for row in found["reads"] if (row["case"], row["reader"]) == (agreed.id, readers[0].id)]
    assert [(row["revision"], row["counts"]) for row in of_ann] == [("1", "false"), ("2", "false"), ("3", "true")]
    # A box of 4 × 4 × 4 voxels of 0.8 × 1.1 × 2.5 mm each
    volumes = {row["volume_ml"] for row in found["read_structures"] if row["read"] == of_ann[0]["read"]}
    assert [float(volume) for volume in volumes] == pytest.approx([64 * 2.2e-3])
    # Moved by 3 of its 4 voxels: 16 of 64 in common, so Dice 2·16 / 128 and IoU 16 / 112
    pairs = {(row["case"], row["structure"]): row for row in found["agreement"]}
    assert float(pairs[disputed.id, "anterior"]["dice"]) == pytest.approx(0.25)
    assert float(pairs[disputed.id, "anterior"]["iou"]) == pytest.approx(16 / 112)
    assert float(pairs[agreed.id, "anterior"]["dice"]) == 1
    assert {row["reader_a"] for row in found["agreement"]} | {row["reader_b"] for row in found["agreement"]} == {
        reader.id for reader in readers
    }
    (truth,) = found["truths"]
    assert (truth["case"], truth["settled"], truth["rule"], truth["adjudication"]) == (
        agreed.id,
        "consensus",
        "majority",
        "",
    )
    assert len(found["truth_reads"]) == 2
    assert {row["case"] for row in found["reasons"]} == {disputed.id}
    assert {row["structure"]: row["cases"] for row in found["pair_reliability"]} == {"anterior": "2", "posterior": "2"}


def test_a_withdrawn_read_stays_with_the_reason_and_a_formula_in_it_is_only_text(
    store: Store, site: Site, cases: tuple[Case, Case], readers: tuple[Account, Account], tmp_path: Path
) -> None:
    store.withdraw(case_id=cases[0].id, reader=readers[0].id, actor=readers[0].id, reason=FORMULA)
    found = study(store, site, tmp_path / "out")
    withdrawn = [row for row in found["reads"] if row["withdrawn"] == "true"]
    assert [row["revision"] for row in withdrawn] == ["1", "2", "3"]
    assert not any(row["counts"] == "true" for row in withdrawn)
    (row,) = found["withdrawals"]
    assert (row["read"], row["withdrawn_by"]) == (withdrawn[-1]["read"], readers[0].id)
    assert row["reason"] == f"'{FORMULA}"
    (verbatim,) = json_tables(tmp_path / "out")["withdrawals"]
    assert verbatim["reason"] == FORMULA


def test_a_decision_stands_with_its_parts_reads_edits_and_signature(
    store: Store,
    site: Site,
    cases: tuple[Case, Case],
    readers: tuple[Account, Account],
    accounts: Accounts,
    tmp_path: Path,
) -> None:
    disputed = cases[1].id
    judge = accounts.add("Dorothea Weiss", "dorothea-password", frozenset({Role.ADJUDICATOR}))
    judge_cases(store, "hippocampus")
    begin_edit(store, disputed, judge.id, f"reader:{readers[0].id}")
    drawn = label_of(1)
    drawn.array_ZYX[1] = 0  # one of four slices less
    save_edit(store, disputed, judge.id, Label.of(drawn))
    adjudicate(
        store,
        case_id=disputed,
        adjudicator=judge.id,
        parts=[Part(source=f"reader:{readers[1].id}"), Part(source="edit:1", structure="anterior")],
        rationale="-2 mm at the tail",
        signing_key=site.signing_key,
    )
    found = study(store, site, tmp_path / "out")
    (decision,) = found["adjudications"]
    assert (decision["case"], decision["adjudicator"], decision["round"]) == (disputed, judge.id, "1")
    assert (decision["rationale"], decision["counts"], decision["signature_holds"]) == (
        "'-2 mm at the tail",
        "true",
        "true",
    )
    assert [(row["structure"], row["source"]) for row in found["adjudication_parts"]] == [
        ("", f"reader:{readers[1].id}"),
        ("anterior", "edit:1"),
    ]
    assert len(found["adjudication_reads"]) == 2
    assert [(row["revision"], row["source"]) for row in found["edits"]] == [
        ("0", f"reader:{readers[0].id}"),
        ("1", "edit:0"),
    ]
    (truth,) = [row for row in found["truths"] if row["case"] == disputed]
    assert (truth["settled"], truth["adjudication"], truth["rule"]) == ("adjudication", decision["adjudication"], "")
    assert {row["state"] for row in found["disputes"]} == {"settled"}
    # The reads he decided between are still there, the one he did not follow too
    assert {row["case"] for row in found["reads"] if row["counts"] == "true"} == {case.id for case in cases}
    assert [row["voxels"] for row in found["truth_structures"] if row["case"] == disputed] == ["48", "64"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "＝"])
def test_no_text_begins_a_formula(start: str, tmp_path: Path) -> None:
    rows: dict[str, list[Any]] = {table.name: [] for table in codebook()}
    rows["read_answers"] = [{"read": -1, "question": "remark", "answer": f"{start}1+1"}]
    write_tables(tmp_path, rows)
    assert tables(tmp_path)["read_answers"] == [{"read": "-1", "question": "remark", "answer": f"'{start}1+1"}]
    content = (tmp_path / "csv" / "read_answers.csv").read_bytes()
    assert content.startswith(b"read,question,answer\r\n")
    assert content.endswith(b"\r\n")


def test_a_row_that_the_codebook_does_not_define_is_refused(tmp_path: Path) -> None:
    rows: dict[str, list[Any]] = {table.name: [] for table in codebook()}
    rows["read_answers"] = [{"read": 1, "question": "remark", "reply": "yes"}]
    with pytest.raises(CodebookError, match="read_answers differ in answer, reply"):
        write_tables(tmp_path, rows)


def test_answers_boxes_and_points_are_rows_of_their_own(
    store: Store, site: Site, readers: tuple[Account, Account], tmp_path: Path
) -> None:
    lung = lung_of_two()
    store.add_protocol(lung)
    case, _ = store.add_case(protocol=lung.name, patient="P1", volume=image_of(3), modality="CT")
    for reader, malignancy in zip(readers, (2, 3), strict=True):
        assert next_case(store, lung.name, reader.id) == case
        layers_LZYX = (label_of().array_ZYX == 1).astype("uint8")[None]
        answers = {"malignancy": malignancy, "remark": "as in =A1"}
        label = Label(geometry=OBLIQUE, layers_LZYX=layers_LZYX, boxes=(BOX,), points=(POINT,), answers=answers)
        store.save_read(case_id=case.id, reader=reader.id, label=label)
    found = study(store, site, tmp_path / "out", lung.name)
    assert [(row["question"], row["answer"]) for row in found["read_answers"]] == [
        ("malignancy", "2"),
        ("remark", "as in =A1"),
        ("malignancy", "3"),
        ("remark", "as in =A1"),
    ]
    box, point = found["read_findings"][:2]
    assert (box["kind"], box["structure"], box["x_mm"], box["size_z_mm"]) == ("box", "nodule", "-30.0", "4.0")
    assert (point["kind"], point["structure"], point["z_mm"], point["size_z_mm"]) == ("point", "micronodule", "5.0", "")
    nodule, micronodule = found["read_structures"][:2]
    assert (nodule["voxels"], nodule["boxes"], nodule["points"]) == ("64", "1", "")
    assert (micronodule["voxels"], micronodule["boxes"], micronodule["points"]) == ("", "", "1")
    (asked,) = [row for row in found["answer_reliability"] if row["question"] == "malignancy"]
    assert (asked["cases"], asked["answers"]) == ("1", "2")
    assert {row["reader"] for row in found["lesion_reads"]} == {reader.id for reader in readers}


def lung_of_two() -> Protocol:
    """The shipped protocol for two readers, with a remark to write."""
    lung = load_protocol(SHIPPED / "lung_nodule.yaml")
    kept = tuple(question for question in lung.questions if question.name == "malignancy")
    remark = TextQuestion(name="remark", title="Anything else?", kind="text")
    return replace(lung, readers_per_case=2, calibration=None, questions=(*kept, remark))


def test_the_same_store_gives_the_same_bytes_but_for_the_audit_head(
    store: Store, site: Site, cases: tuple[Case, Case], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        export_study(store, site, protocol="hippocampus", folder=tmp_path / name, actor="tests")
    files = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()}
    for file in files - {Path(MANIFEST)}:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    one, two = (json.loads((tmp_path / name / MANIFEST).read_text()) for name in ("one", "two"))
    assert one.pop("audit_head")["hash"] != two.pop("audit_head")["hash"]
    assert one == two


def test_the_manifest_names_every_file_by_its_digest_and_the_audit_knows_of_it(
    store: Store, site: Site, cases: tuple[Case, Case], tmp_path: Path
) -> None:
    report = export_study(store, site, protocol="hippocampus", folder=tmp_path / "out", actor="tests")
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files - {MANIFEST} == set(manifest["files"])
    assert report.files == len(files)
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    with store.engine.connect() as connection:
        *before, last = audit.entries(connection)
    assert (last.actor, last.action, last.subject) == ("tests", audit.Action.LABELS_EXPORTED, "hippocampus")
    assert manifest["audit_head"] == {"entries": len(before), "hash": before[-1].hash, "broken": None}


def test_each_audit_entry_can_be_checked_by_itself(
    store: Store, site: Site, cases: tuple[Case, Case], tmp_path: Path
) -> None:
    study(store, site, tmp_path / "out")
    rows = json_tables(tmp_path / "out")["audit"]
    assert {row["subject"] for row in rows} == {cases[0].id, cases[1].id, f"hippocampus {hippocampus().version}"}
    for row in rows:
        content = [row[name] for name in ("entry", "at", "actor", "action", "subject", "details")]
        assert hashlib.sha256((row["previous_hash"] + json.dumps(content)).encode()).hexdigest() == row["hash"]


def hippocampus() -> Protocol:
    return load_protocol(SHIPPED / "hippocampus.yaml")


def test_the_protocol_comes_along_as_a_file_that_can_be_loaded(
    store: Store, site: Site, cases: tuple[Case, Case], tmp_path: Path
) -> None:
    study(store, site, tmp_path / "out")
    (path,) = (tmp_path / "out" / "protocol").glob("*.yaml")
    assert load_protocol(path).digest == hippocampus().digest
    assert Protocol.from_json(path.with_suffix(".json").read_text()).digest == hippocampus().digest


def test_no_account_name_stands_anywhere(
    store: Store, site: Site, cases: tuple[Case, Case], accounts: Accounts, tmp_path: Path
) -> None:
    accounts.add("Dorothea Weiss", "dorothea-password", frozenset({Role.ADJUDICATOR}))
    study(store, site, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.*"):
        words = path.read_text(encoding="utf-8")
        assert "Dorothea" not in words
        for table in json_tables(tmp_path / "out").values():
            for row in table:
                assert not {"ann", "ben"} & set(row.values())


def test_nothing_is_written_over_what_is_there_and_what_breaks_off_leaves_nothing(
    store: Store, site: Site, cases: tuple[Case, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="not an empty folder"):
        export_study(store, site, protocol="hippocampus", folder=tmp_path / "theirs", actor="tests")
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["notes.txt"]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "write_durably", full)
    with pytest.raises(OSError, match="No space left"):
        export_study(store, site, protocol="hippocampus", folder=tmp_path / "place" / "out", actor="tests")
    assert list((tmp_path / "place").iterdir()) == []
    with store.engine.connect() as connection:
        assert not [entry for entry in audit.entries(connection) if entry.action == audit.Action.LABELS_EXPORTED]
    with pytest.raises(UnknownError, match="unknown protocol"):
        export_study(store, site, protocol="liver", folder=tmp_path / "liver", actor="tests")


def test_a_protocol_without_cases_has_no_study(store: Store, site: Site, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no cases to export"):
        export_study(store, site, protocol="hippocampus", folder=tmp_path / "out", actor="tests")


def test_the_command_writes_a_study_and_says_what(
    store: Store, site: Site, cases: tuple[Case, Case], tmp_path: Path
) -> None:
    def overread(*words: object) -> Result:
        return CliRunner().invoke(app, [*map(str, words), "--site", str(site.root)])

    done = overread("export", "study", "hippocampus", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "2 cases, 6 reads, 1 truths, 0 adjudications in" in done.output
    again = overread("export", "study", "hippocampus", "--out", tmp_path / "out")
    assert isinstance(again.exception, ExportError)
    # What was typed before there were studies
    assert overread("export", "--format", "nifti", "hippocampus", tmp_path / "labels").exit_code == 0
    assert overread("export", "labels", "hippocampus", tmp_path / "more").exit_code == 0
