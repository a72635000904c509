"""What is exported is what was saved, under names of ours, whole or not at all, and the audit says so."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydicom import dcmread

from apps import export as exporting
from apps.accounts import Accounts
from apps.export import Form, What, export
from apps.export_folder import MANIFEST, ExportError
from apps.ingest.folder import ingest
from apps.settings import Site
from labeling_protocols import audit
from labeling_protocols.dicom_seg import label_from_seg
from labeling_protocols.dicom_sr import volumes_from_sr
from labeling_protocols.label import Label
from labeling_protocols.label_files import read_label
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import AdjudicationRule
from labeling_protocols.records import Account, Case, Part, Role
from labeling_protocols.series_writer import write_series
from labeling_protocols.settlement import adjudicate
from labeling_protocols.store import Store
from labeling_protocols.worklist import next_case
from tests.conftest import OBLIQUE, image_of, label_of
from tests.dicom.examples import dciodvfy_errors, identity_of

# As DICOM's slices lie: right-handed.
SLICES = replace(OBLIQUE, direction_LPS=(0.866025403784, -0.5, 0.0, 0.5, 0.866025403784, 0.0, 0.0, 0.0, 1.0))


def read_case(store: Store, case: Case, shifts: dict[str, int]) -> None:
    """Let each reader (by id) save the label moved by so many voxels."""
    for reader, shift in shifts.items():
        assert next_case(store, "hippocampus", reader) == case
        store.save_read(case_id=case.id, reader=reader, label=Label.of(label_of(shift, case.geometry)))


@pytest.fixture
def volume_case(store: Store, readers: tuple[Account, Account]) -> Case:
    """A case that did not come from DICOM and that two readers agree on."""
    case, _ = store.add_case(protocol="hippocampus", patient="P1", volume=image_of(1), modality="MR")
    read_case(store, case, {account.id: 0 for account in readers})
    return case


@pytest.fixture
def series_case(store: Store, site: Site, readers: tuple[Account, Account], tmp_path: Path) -> Case:
    """A case from DICOM, with a prelabel that the first reader was shown, and a second read that disagrees."""
    write_series(image_of(2, SLICES), tmp_path / "series", identity_of("export"))
    (case_id,) = ingest(store, site, tmp_path / "series", "hippocampus").added
    store.save_prelabel(case_id, "hippocampus-segmentation 3", Label.of(label_of(0, SLICES)))
    ann, ben = readers
    assert next_case(store, "hippocampus", ann.id) == store.case(case_id)
    store.prelabel_shown(case_id, ann.id, "hippocampus-segmentation 3")
    store.save_read(case_id=case_id, reader=ann.id, label=Label.of(label_of(0, SLICES)))
    read_case(store, store.case(case_id), {ben.id: 3})
    return store.case(case_id)


def manifest_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return content


def exports(store: Store) -> list[audit.Entry]:
    with store.engine.connect() as connection:
        return [entry for entry in audit.entries(connection) if entry.action == audit.Action.LABELS_EXPORTED]


@pytest.mark.parametrize("form", [Form.NIFTI, Form.SEG_NRRD])
def test_truths_come_out_as_they_count_with_a_manifest(
    form: Form, store: Store, site: Site, protocol: Protocol, volume_case: Case, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    report = export(
        store, site, protocol="hippocampus", folder=folder, form=form, what=What.TRUTHS, images=True, actor="tests"
    )
    assert (report.labels, report.images, report.skipped) == (1, 1, ())
    (entry,) = manifest_of(folder)["labels"]
    assert (entry["case"], entry["settled"], entry["reader"]) == (volume_case.id, "consensus", None)
    assert set(entry["reads"]) == {read.id for read in store.latest_reads(volume_case.id)}
    ((name, digest),) = entry["files"].items()
    assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert np.array_equal(read_label([folder / name], protocol, OBLIQUE).array_ZYX, label_of().array_ZYX)
    image = folder / "images" / f"{volume_case.id}.nii.gz"
    assert hashlib.sha256(image.read_bytes()).hexdigest() == volume_case.image
    (written,) = exports(store)
    assert (written.actor, written.subject) == ("tests", "hippocampus")
    assert json.loads(written.details)["labels"] == 1


def test_reads_come_out_under_pseudonyms_each_readers_newest(
    store: Store, site: Site, protocol: Protocol, volume_case: Case, readers: tuple[Account, Account], tmp_path: Path
) -> None:
    ann, ben = readers
    store.save_read(case_id=volume_case.id, reader=ann.id, label=Label.of(label_of(1)))
    export(
        store, site, protocol="hippocampus", folder=tmp_path / "all", form=Form.NIFTI, what=What.READS, actor="tests"
    )
    names = {path.name for path in (tmp_path / "all" / "labels").iterdir()}
    assert names == {f"{volume_case.id}_{ann.id}_r2.nii.gz", f"{volume_case.id}_{ben.id}_r1.nii.gz"}
    found = read_label([tmp_path / "all" / "labels" / f"{volume_case.id}_{ann.id}_r2.nii.gz"], protocol, OBLIQUE)
    assert np.array_equal(found.array_ZYX, label_of(1).array_ZYX)
    export(
        store,
        site,
        protocol="hippocampus",
        folder=tmp_path / "one",
        form=Form.NIFTI,
        what=What.READS,
        reader=ben.id,
        actor="tests",
    )
    assert [entry["reader"] for entry in manifest_of(tmp_path / "one")["labels"]] == [ben.id]


def test_a_segmentation_says_who_drew_it_and_what_he_began_from(
    store: Store, site: Site, protocol: Protocol, series_case: Case, readers: tuple[Account, Account], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    report = export(
        store,
        site,
        protocol="hippocampus",
        folder=folder,
        form=Form.DICOM_SEG,
        what=What.READS,
        images=True,
        actor="tests",
    )
    assert (report.labels, report.images, report.skipped) == (2, 1, ())
    for account, drawn_by, shift in zip(readers, ("SEMIAUTOMATIC", "MANUAL"), (0, 3), strict=True):
        assert observers(folder / "labels" / f"{series_case.id}_{account.id}_r1_sr.dcm") == [f"{account.id}^"]
        seg = dcmread(folder / "labels" / f"{series_case.id}_{account.id}_r1.dcm")
        assert seg.ContentCreatorName == f"{account.id}^"
        assert seg.SegmentSequence[0].SegmentAlgorithmType == drawn_by
        assert np.array_equal(label_from_seg(seg, protocol, SLICES).array_ZYX, label_of(shift).array_ZYX)
        slices = {dcmread(path).SOPInstanceUID for path in (folder / "images" / series_case.id).iterdir()}
        referenced = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        assert {item.ReferencedSOPInstanceUID for item in referenced} == slices
    again = tmp_path / "again"
    export(store, site, protocol="hippocampus", folder=again, form=Form.DICOM_SEG, what=What.READS, actor="tests")
    for path in (folder / "labels").iterdir():
        assert dcmread(path).SOPInstanceUID == dcmread(again / "labels" / path.name).SOPInstanceUID


def test_an_adjudicated_truth_names_the_adjudicator(
    store: Store,
    site: Site,
    accounts: Accounts,
    series_case: Case,
    readers: tuple[Account, Account],
    tmp_path: Path,
) -> None:
    judge = accounts.add("judge", "judge-password", frozenset({Role.ADJUDICATOR}))
    adjudicate(
        store,
        case_id=series_case.id,
        adjudicator=judge.id,
        parts=[Part(source=f"reader:{readers[1].id}")],
        rationale="the edge is there",
        signing_key=Ed25519PrivateKey.generate(),
    )
    folder = tmp_path / "out"
    export(store, site, protocol="hippocampus", folder=folder, form=Form.DICOM_SEG, what=What.TRUTHS, actor="tests")
    (entry,) = manifest_of(folder)["labels"]
    assert (entry["settled"], entry["decided_by"]) == ("adjudication", judge.id)
    seg = dcmread(folder / "labels" / f"{series_case.id}.dcm")
    assert seg.ContentCreatorName == f"{judge.id}^"
    report = folder / "labels" / f"{series_case.id}_sr.dcm"
    assert observers(report) == [f"{judge.id}^"]
    assert dciodvfy_errors(report) == []
    # 64 voxels of 0.8 × 1.1 × 2.5 mm each
    assert volumes_from_sr(dcmread(report)) == pytest.approx({"anterior": 0.1408, "posterior": 0.1408})
    evidence = dcmread(report).CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert {item.SeriesInstanceUID for item in evidence} == {seg.SeriesInstanceUID, series_case.series}


def test_two_who_decided_the_same_are_both_observers(
    store: Store, site: Site, protocol: Protocol, accounts: Accounts, readers: tuple[Account, Account], tmp_path: Path
) -> None:
    asks_two = replace(protocol, name="asks_two", adjudication=AdjudicationRule(adjudicators=2))
    store.add_protocol(asks_two)
    write_series(image_of(5, SLICES), tmp_path / "series", identity_of("two"))
    (case_id,) = ingest(store, site, tmp_path / "series", "asks_two").added
    for reader, shift in zip(readers, (0, 3), strict=True):
        assert next_case(store, "asks_two", reader.id) == store.case(case_id)
        store.save_read(case_id=case_id, reader=reader.id, label=Label.of(label_of(shift, SLICES)))
    judges = [accounts.add(name, f"{name}-password", frozenset({Role.ADJUDICATOR})) for name in ("cleo", "dora")]
    for judge in judges:
        adjudicate(
            store,
            case_id=case_id,
            adjudicator=judge.id,
            parts=[Part(source=f"reader:{readers[1].id}")],
            rationale="the edge is there",
            signing_key=site.signing_key,
        )
    folder = tmp_path / "out"
    export(store, site, protocol="asks_two", folder=folder, form=Form.DICOM_SEG, what=What.TRUTHS, actor="tests")
    assert observers(folder / "labels" / f"{case_id}_sr.dcm") == [f"{judge.id}^" for judge in judges]


def test_a_consensus_observes_as_a_device_and_an_empty_one_is_reported_without_a_segmentation(
    store: Store, site: Site, protocol: Protocol, readers: tuple[Account, Account], tmp_path: Path
) -> None:
    may_be_empty = replace(protocol, name="may_be_empty", may_be_empty=True)
    store.add_protocol(may_be_empty)
    write_series(image_of(4, SLICES), tmp_path / "series", identity_of("empty"))
    (case_id,) = ingest(store, site, tmp_path / "series", "may_be_empty").added
    nothing = Label(geometry=store.case(case_id).geometry, layers_LZYX=np.zeros((1, *SLICES.shape_ZYX), np.uint8))
    for reader in readers:
        assert next_case(store, "may_be_empty", reader.id) == store.case(case_id)
        store.save_read(case_id=case_id, reader=reader.id, label=nothing)
    folder = tmp_path / "out"
    report = export(
        store, site, protocol="may_be_empty", folder=folder, form=Form.DICOM_SEG, what=What.TRUTHS, actor="tests"
    )
    assert (report.labels, report.skipped) == (1, ())
    (path,) = (folder / "labels").iterdir()
    assert path.name == f"{case_id}_sr.dcm"
    assert dciodvfy_errors(path) == []
    assert observers(path) == ["Consensus of 2 readers"]
    assert volumes_from_sr(dcmread(path)) == {"anterior": 0.0, "posterior": 0.0}


def observers(path: Path) -> list[str]:
    """Who observed, as highdicom reads it: persons' names and devices'."""
    contexts = hd.sr.srread(path).content.get_observer_contexts()
    return [str(context.observer_identifying_attributes.name) for context in contexts]


def test_cases_that_did_not_come_from_dicom_are_named_and_left_out(
    store: Store, site: Site, volume_case: Case, series_case: Case, tmp_path: Path
) -> None:
    report = export(
        store,
        site,
        protocol="hippocampus",
        folder=tmp_path / "out",
        form=Form.DICOM_SEG,
        what=What.READS,
        actor="tests",
    )
    assert report.labels == 2
    assert {skipped.case for skipped in report.skipped} == {volume_case.id}
    assert all("did not come from DICOM" in skipped.reason for skipped in report.skipped)
    assert len(manifest_of(tmp_path / "out")["skipped"]) == 2


def test_nothing_is_written_over_what_is_there(store: Store, site: Site, volume_case: Case, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs.txt").write_text("mine")
    with pytest.raises(ExportError, match="not an empty folder"):
        export(
            store,
            site,
            protocol="hippocampus",
            folder=tmp_path / "out",
            form=Form.NIFTI,
            what=What.TRUTHS,
            actor="tests",
        )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs.txt"]
    assert exports(store) == []


def test_an_export_that_breaks_off_leaves_nothing(
    store: Store, site: Site, volume_case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "write_durably", full)
    with pytest.raises(OSError, match="No space left"):
        export(
            store,
            site,
            protocol="hippocampus",
            folder=tmp_path / "place" / "out",
            form=Form.NIFTI,
            what=What.TRUTHS,
            actor="tests",
        )
    assert list((tmp_path / "place").iterdir()) == []
    assert exports(store) == []


def test_the_commands_take_over_and_write_out_again(
    store: Store, site: Site, volume_case: Case, readers: tuple[Account, Account], tmp_path: Path
) -> None:
    def overread(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "apps.command", *map(str, words), "--site", str(site.root)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = overread("export", "hippocampus", tmp_path / "out", "--what", "reads", "--reader", "ann", "--images")
    assert "1 label(s) and 1 image(s)" in done.stdout, done.stderr
    assert done.returncode == 0
    left_out = overread("export", "hippocampus", tmp_path / "dicom", "--format", "dicom-seg")
    assert left_out.returncode == 1
    assert f"left out {volume_case.id}: it did not come from DICOM" in left_out.stdout
    refused = overread("adopt", tmp_path / "out", "--protocol", "hippocampus", "--reader", "ann")
    assert refused.returncode == 1
    assert "no datastore_v2.json" in refused.stderr
    both = overread("adopt", tmp_path, "--protocol", "hippocampus", "--reader", "ann", "--readers-by-client")
    assert "either --reader or --readers-by-client" in both.stderr
    assert "Traceback" not in left_out.stderr + refused.stderr + both.stderr
