"""Each revision says how it was made: seconds, client, the prelabel there was and whether it was shown, and volumes."""

from datetime import timedelta

import pytest

from labeling_protocols.label import Label
from labeling_protocols.records import Account, Provenance
from labeling_protocols.store import Store, now
from labeling_protocols.worklist import next_case, renew
from tests.conftest import OBLIQUE, label_of
from tests.store.test_store import add_case, seated_case


def test_seconds_run_from_the_hand_out_and_then_from_the_save_before(
    store: Store, readers: tuple[Account, Account]
) -> None:
    case, begun, reader = add_case(store), now(), readers[0].id
    next_case(store, "hippocampus", reader, at=begun)
    seconds = [
        store.save_read(
            case_id=case.id, reader=reader, label=Label.of(label_of(shift)), created=begun + timedelta(seconds=after)
        ).provenance.seconds
        for shift, after in ((0, 90), (1, 120))
    ]
    assert seconds == [90, 30]


def test_a_case_opened_again_later_does_not_count_the_night(store: Store, readers: tuple[Account, Account]) -> None:
    case, begun, reader = add_case(store), now(), readers[0].id
    next_case(store, "hippocampus", reader, at=begun)
    store.save_read(case_id=case.id, reader=reader, label=Label.of(label_of()), created=begun + timedelta(seconds=60))
    morning = begun + timedelta(hours=14)
    renew(store, case.id, reader, at=morning)
    read = store.save_read(
        case_id=case.id, reader=reader, label=Label.of(label_of(1)), created=morning + timedelta(seconds=20)
    )
    assert read.provenance.seconds == 20


def test_what_the_client_tells_is_kept(store: Store, readers: tuple[Account, Account]) -> None:
    case = seated_case(store, readers[0])
    told = Provenance(client="3D Slicer 5.10", seconds=321.5)
    store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label_of()), provenance=told)
    kept = store.reads(case.id)[0].provenance
    assert (kept.client, kept.seconds) == ("3D Slicer 5.10", 321.5)


@pytest.mark.parametrize("shown", [True, False])
def test_a_revision_knows_the_prelabel_and_whether_its_reader_saw_it(
    store: Store, readers: tuple[Account, Account], shown: bool
) -> None:
    case = seated_case(store, *readers)
    store.save_prelabel(case.id, "hippocampus-segmentation 3", Label.of(label_of()))
    if shown:
        store.prelabel_shown(case.id, readers[0].id, "hippocampus-segmentation 3")
    for reader in readers:
        store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of(1)))
    kept = {read.reader: read.provenance for read in store.reads(case.id)}
    assert kept[readers[0].id].prelabel_model == "hippocampus-segmentation 3"
    assert [kept[reader.id].prelabel_shown for reader in readers] == [shown, False]


def test_a_prelabel_shown_after_the_first_save_is_told_of_the_second_only(
    store: Store, readers: tuple[Account, Account]
) -> None:
    case = seated_case(store, readers[0])
    store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label_of()))
    store.save_prelabel(case.id, "m 1", Label.of(label_of()))
    store.prelabel_shown(case.id, readers[0].id, "m 1")
    store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label_of(1)))
    told = [(read.provenance.prelabel_model, read.provenance.prelabel_shown) for read in store.reads(case.id)]
    assert told == [(None, False), ("m 1", True)]


def test_volumes_are_in_millilitres(store: Store, readers: tuple[Account, Account]) -> None:
    case = seated_case(store, readers[0])
    read = store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label_of()))
    x, y, z = OBLIQUE.spacing_mm_XYZ
    assert read.voxels == {"anterior": 64, "posterior": 64}
    assert read.volumes_ml["anterior"] == pytest.approx(64 * x * y * z / 1000)
    assert store.reads(case.id) == [read]
