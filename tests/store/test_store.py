"""Reads are kept, per reader and revision, or refused with a reason."""

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.exc import DatabaseError

from labeling_protocols import schema
from labeling_protocols.blobs import DamagedBlobError, FolderBlobs
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol, ProtocolError
from labeling_protocols.records import Account, Case, Provenance
from labeling_protocols.store import LabelError, SeatError, Store, UnknownError
from labeling_protocols.worklist import next_case
from tests.conftest import OBLIQUE, image_of, label_of


def add_case(store: Store, seed: int = 1) -> Case:
    return store.add_case(protocol="hippocampus", patient=f"P{seed}", volume=image_of(seed), modality="MR")[0]


def seated_case(store: Store, *readers: Account) -> Case:
    case = add_case(store)
    for reader in readers:
        assert next_case(store, "hippocampus", reader.id) == case
    return case


def test_a_second_readers_save_never_touches_the_firsts(store: Store, readers: tuple[Account, Account]) -> None:
    ann, ben = readers
    case = seated_case(store, ann, ben)
    first = store.save_read(case_id=case.id, reader=ann.id, label=Label.of(label_of()))
    store.save_read(case_id=case.id, reader=ben.id, label=Label.of(label_of(shift=1)))
    assert store.reads(case.id, ann.id) == [first]
    assert np.array_equal(store.label(first.label).array_ZYX, label_of().array_ZYX)


def test_a_correction_is_the_readers_next_revision(store: Store, readers: tuple[Account, Account]) -> None:
    ann, ben = readers
    case = seated_case(store, ann, ben)
    for shift in (0, 1, 2):
        store.save_read(
            case_id=case.id, reader=ann.id, label=Label.of(label_of(shift)), provenance=Provenance(client="3D Slicer")
        )
    assert [read.revision for read in store.reads(case.id, ann.id)] == [1, 2, 3]
    assert [read.revision for read in store.latest_reads(case.id)] == [3]
    assert store.latest_reads(case.id)[0].voxels == {"anterior": 64, "posterior": 64}


def test_a_label_saved_twice_is_one_revision(store: Store, readers: tuple[Account, Account]) -> None:
    case = seated_case(store, readers[0])
    once = store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label_of()))
    assert store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label_of())) == once
    assert len(store.reads(case.id)) == 1


def shifted_grid() -> Geometry:
    return Geometry(**{**OBLIQUE.__dict__, "origin_mm_LPS": (-31.0, 12.5, 9.75)})


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (
            Volume(
                array_ZYX=np.ones((6, 10, 7), np.uint8),
                geometry=Geometry(**{**OBLIQUE.__dict__, "shape_ZYX": (6, 10, 7)}),
            ),
            "shape",
        ),
        (label_of(geometry=shifted_grid()), "2.50 mm"),
        (Volume(array_ZYX=label_of().array_ZYX * 3, geometry=OBLIQUE), "3, 6"),
        (Volume(array_ZYX=label_of().array_ZYX * 0.5, geometry=OBLIQUE), "0.5"),
        (Volume(array_ZYX=np.zeros(OBLIQUE.shape_ZYX, np.uint8), geometry=OBLIQUE), "empty"),
    ],
    ids=["shape", "affine", "foreign values", "fractions", "empty"],
)
def test_a_label_that_does_not_fit_is_refused_and_nothing_is_stored(
    store: Store, readers: tuple[Account, Account], label: Volume, words: str
) -> None:
    case = seated_case(store, readers[0])
    with pytest.raises(LabelError, match=words):
        store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label))
    assert store.reads(case.id) == []


def test_a_reader_without_a_seat_cannot_save(store: Store, readers: tuple[Account, Account]) -> None:
    case = add_case(store)
    with pytest.raises(SeatError, match="no seat"):
        store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label_of()))
    assert store.reads(case.id) == []


def test_the_same_image_is_one_case(store: Store) -> None:
    case, added = store.add_case(protocol="hippocampus", patient="P", volume=image_of(5), modality="MR")
    again, added_again = store.add_case(protocol="hippocampus", patient="P", volume=image_of(5), modality="MR")
    assert (case, added, added_again) == (again, True, False)
    assert np.array_equal(store.image(case).array_ZYX, image_of(5).array_ZYX)
    assert store.image(case).geometry.difference(OBLIQUE, tolerance_mm=1e-3) is None


def test_unknown_names_are_told_in_words(store: Store) -> None:
    with pytest.raises(UnknownError, match="this site has hippocampus"):
        store.protocol("../../etc/passwd")
    with pytest.raises(UnknownError, match="unknown case"):
        store.case("nothing")
    with pytest.raises(UnknownError):
        store.add_case(protocol="liver", patient="P", volume=image_of(1), modality="CT")


def test_a_protocol_version_never_changes(store: Store, protocol: Protocol) -> None:
    store.add_protocol(protocol)
    changed = Protocol.from_json(protocol.as_json().replace('"readers_per_case":2', '"readers_per_case":3'))
    with pytest.raises(ProtocolError, match="new version number"):
        store.add_protocol(changed)
    assert store.protocol("hippocampus") == protocol


def test_the_database_itself_refuses_a_second_read_of_the_same_revision(
    store: Store, readers: tuple[Account, Account]
) -> None:
    case = seated_case(store, readers[0])
    read = store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label_of()))
    row = {
        "case": case.id,
        "reader": readers[0].id,
        "protocol_version": 1,
        "revision": read.revision,
        "label": "0" * 64,
        "voxels": {},
        "client": "",
        "created": read.created,
    }
    with pytest.raises(DatabaseError), store.writing() as connection:
        connection.execute(schema.reads.insert().values(row))


def test_a_blob_whose_bytes_changed_is_noticed(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    digest = blobs.put(b"a label")
    blobs.path(digest).write_bytes(b"another")
    with pytest.raises(DamagedBlobError, match=digest):
        blobs.get(digest)


def test_a_full_disk_leaves_no_half_written_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = FolderBlobs(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("labeling_protocols.blobs.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        blobs.put(b"a label")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
