"""An adjudicator edits a dispute with monailabel's unmodified client: the base comes to him, what he saves returns."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import sqlalchemy as sa
from monailabel.client.client import MONAILabelClient, MONAILabelClientException

from labeling_protocols import schema, settlement
from labeling_protocols.disputes import claim, release, standing_over
from labeling_protocols.edits import edits
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Box, Label
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.pseudonyms import keyed_order
from labeling_protocols.records import Account, Case, Role
from labeling_protocols.store import now
from labeling_protocols.volumes import read_volume, volume_bytes, write_volume
from tests.annotation.served import INFO, Served
from tests.conftest import OBLIQUE, label_of

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

APART = (Label.of(label_of(0)), Label.of(label_of(3)))  # by 3 of 4 voxels: a dispute
NUMBERS = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Disputed:
    """A case of two readers who disagree, and an adjudicator."""

    served: Served
    protocol: Protocol
    case: Case
    readers: tuple[Account, Account]
    judge: Account

    def api(self, path: str = "", **said: Any) -> dict[str, Any]:
        """The review API as the adjudicator's page asks it: GET without anything said, POST otherwise."""
        url = f"{self.served.url}/review/api/disputes/{self.case.id}{path}"
        session = self.served.session(self.judge)
        answer = session.post(url, json=said) if said or path else session.get(url)
        assert answer.ok, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def letter(self, number: int) -> str:
        """The letter under which the adjudicator sees the first (0) or second reader's work."""
        order = keyed_order(self.served.site.secret, self.case.id, [reader.id for reader in self.readers])
        return "AB"[order.index(self.readers[number].id)]


def disputed(served: Served, protocol: Protocol | None = None, labels: Sequence[Label] = APART) -> Disputed:
    protocol = protocol or served.protocol(readers_per_case=2)
    (case,) = served.cases(protocol)
    readers = (served.account(), served.account())
    for reader, label in zip(readers, labels, strict=True):
        served.seat(reader, case)
        served.store.save_read(case_id=case.id, reader=reader.id, label=label)
    settlement.judge(served.store, protocol.name)
    judge = served.account(Role.ADJUDICATOR)
    return Disputed(served=served, protocol=protocol, case=case, readers=readers, judge=judge)


def saved(client: MONAILabelClient, case: str, label: Volume, folder: Path, **params: Any) -> dict[str, Any]:
    """Submit Label, as 3D Slicer does it: without a tag."""
    path = folder / f"label{next(NUMBERS)}.nrrd"
    write_volume(label, path)
    answer: dict[str, Any] = client.save_label(case, str(path), params={"label_info": INFO, **params})
    return answer


def refusal(client: MONAILabelClient, case: str, label: Volume, folder: Path) -> str:
    with pytest.raises(MONAILabelClientException) as refused:
        saved(client, case, label, folder)
    assert "Status: 409" in str(refused.value)
    return str(refused.value)


def downloaded(client: MONAILabelClient, case: str, tag: str) -> np.ndarray[Any, Any]:
    return read_volume(Path(client.download_label(case, tag))).array_ZYX


@pytest.mark.parametrize("way", [Served.client, Served.client_at_address], ids=["login", "address"])
def test_the_chosen_base_comes_first_and_what_is_saved_returns_to_the_decision(
    way: Callable[[Served, Account], MONAILabelClient], served: Served, tmp_path: Path
) -> None:
    dispute = disputed(served)
    case, judge = dispute.case.id, dispute.judge
    base = dispute.letter(1)
    begun = dispute.api("/edit", take=base)["edit"]
    assert (begun["revision"], begun["source"], begun["saved"]) == (0, base, False)

    client = way(served, judge)
    assert client.next_sample("worklist", {})["id"] == case
    shown = client.datastore()["objects"][case]["labels"]
    assert set(shown) >= {"original", "final"}
    assert shown["original"]["info"]["params"]["label_names"] == {"anterior": 1, "posterior": 2}
    for tag in ("original", "final"):
        np.testing.assert_array_equal(downloaded(client, case, tag), label_of(3).array_ZYX)

    for revision, shift in ((1, 1), (2, 2)):
        answer = saved(client, case, label_of(shift), tmp_path)
        assert answer == {"image": case, "label": case, "revision": revision}
        np.testing.assert_array_equal(downloaded(client, case, "original"), label_of(shift).array_ZYX)
    assert client.next_sample("worklist", {})["id"] == case  # until it is decided
    told = dispute.api()["edit"]
    assert (told["revision"], told["source"], told["saved"]) == (2, base, True)

    assert served.store.reads(case, judge.id) == []
    with served.store.engine.connect() as connection:
        seats = schema.seats
        assert not connection.execute(sa.select(seats).where(seats.c.reader == judge.id)).all()
    dispute.api("", parts=[{"take": "edit"}], rationale="between the two of them", password=f"{judge.name}-password")
    truth = settlement.truth(served.store, case)
    assert truth is not None
    np.testing.assert_array_equal(served.store.label(truth.label).array_ZYX, label_of(2).array_ZYX)

    assert client.next_sample("worklist", {}) == {}
    words = refusal(client, case, label_of(0), tmp_path)
    assert "settled" in words
    assert "your drawing is still in your viewer" in words
    assert "reopen it on its review page" in words
    assert [edit.revision for edit in edits(served.store, case, judge.id)] == [0, 1, 2]


def test_nothing_of_the_base_says_whose_it_is(served: Served) -> None:
    """The file is voxels and grid and nothing else, whoever drew it; no name, id or letter of a reader comes along."""
    dispute = disputed(served)
    dispute.api("/edit", take=dispute.letter(0))
    session, case = served.session(dispute.judge), dispute.case.id
    told = [session.get(f"{served.url}/datastore/?output=all")]
    for tag in ("", "final", "original"):
        label = session.get(f"{served.url}/datastore/label?label={case}&tag={tag}")
        assert label.content == volume_bytes(label_of(0), ".nrrd")
        told += [label, session.get(f"{served.url}/datastore/label/info?label={case}&tag={tag}")]
    told.append(session.post(f"{served.url}/activelearning/worklist", json={}))
    for answer in told:
        assert answer.ok
        for reader in dispute.readers:
            for secret in (reader.id, reader.name):
                assert secret.encode() not in answer.content
                assert secret not in json.dumps(dict(answer.headers))
    info = session.get(f"{served.url}/datastore/label/info?label={case}&tag=original").json()
    assert set(info) == {"name", "params", "label_info", "client_id"}
    assert info["client_id"] == dispute.judge.name


def test_structures_that_overlap_come_and_return_as_slicers_segmentation(served: Served, tmp_path: Path) -> None:
    protocol = served.protocol(readers_per_case=2, overlaps=(("anterior", "posterior"),))
    drawn = label_of(0).array_ZYX
    over_LZYX = np.stack([np.where(drawn == 1, 1, 0), np.where(drawn > 0, 2, 0)]).astype(np.uint8)
    dispute = disputed(served, protocol, (Label(geometry=OBLIQUE, layers_LZYX=over_LZYX), APART[1]))
    other = dispute.case
    dispute.api("/edit", take=dispute.letter(0))
    client = served.client(dispute.judge)
    assert client.next_sample("worklist", {"protocol": protocol.name})["id"] == other.id
    path = Path(client.download_label(other.id, "original"))
    assert path.name.endswith(".seg.nrrd")
    header = path.read_bytes().partition(b"\n\n")[0]
    for reader in dispute.readers:
        assert reader.id.encode() not in header
        assert reader.name.encode() not in header
    client.save_label(other.id, str(path), params={})
    begun, kept = edits(served.store, other.id, dispute.judge.id)
    for value in (1, 2):
        shown, back = (served.store.label(edit.label).mask_ZYX(value) for edit in (begun, kept))
        np.testing.assert_array_equal(back, shown)
        assert back.sum() == value * 64


def test_what_a_save_does_not_speak_of_stays_as_it_was_in_the_base(served: Served, tmp_path: Path) -> None:
    shipped = load_protocol(SHIPPED / "lung_nodule.yaml")
    protocol = replace(shipped, name=f"lung_{next(NUMBERS)}", readers_per_case=2, calibration=None)
    served.store.add_protocol(protocol)
    box = Box(structure="nodule", centre_mm_LPS=(-30.0, 16.0, 1.0), size_mm_XYZ=(2.0, 3.0, 4.0))
    one = np.where(label_of(0).array_ZYX == 1, 1, 0).astype(np.uint8)
    boxed = Label(geometry=OBLIQUE, layers_LZYX=one[None], boxes=(box,), answers={"malignancy": 4})
    dispute = disputed(served, protocol, (boxed, replace(boxed, layers_LZYX=np.roll(one, 3, axis=2)[None], boxes=())))
    case = dispute.case
    dispute.api("/edit", take=dispute.letter(0))
    info = served.session(dispute.judge).get(f"{served.url}/datastore/label/info?label={case.id}&tag=final").json()
    assert info["answers"] == {"malignancy": 4}
    (kept,) = info["boxes"]
    assert tuple(kept["centre_mm_LPS"]) == box.centre_mm_LPS
    smaller = one.copy()
    smaller[1] = 0
    client = served.client(dispute.judge)
    path = tmp_path / "smaller.nrrd"
    write_volume(Volume(array_ZYX=smaller, geometry=OBLIQUE), path)
    client.save_label(
        case.id, str(path), params={"label_info": [{"name": "nodule", "idx": 1}], "answers": {"malignancy": 5}}
    )
    newest = served.store.label(edits(served.store, case.id, dispute.judge.id)[-1].label)
    np.testing.assert_array_equal(newest.array_ZYX, smaller)
    assert newest.boxes == (box,)
    assert newest.answers == {"malignancy": 5}


def test_who_lost_the_dispute_is_told_so_and_can_save_once_he_has_it_again(served: Served, tmp_path: Path) -> None:
    dispute = disputed(served)
    case, other = dispute.case.id, served.account(Role.ADJUDICATOR)
    dispute.api("/edit", take="majority")
    client = served.client(dispute.judge)
    saved(client, case, label_of(1), tmp_path)
    release(served.store, case, dispute.judge.id)
    assert client.next_sample("worklist", {}) == {}  # he gave it back
    claim(served.store, case, other.id)
    words = refusal(client, case, label_of(2), tmp_path)
    assert "another adjudicator has this dispute since" in words
    assert "Nothing was saved; your drawing is still in your viewer" in words
    assert [edit.revision for edit in edits(served.store, case, dispute.judge.id)] == [0, 1]
    assert served.client(other).next_sample("worklist", {}) == {}  # he began no edit
    release(served.store, case, other.id)
    assert saved(client, case, label_of(2), tmp_path)["revision"] == 2
    found = standing_over(served.store, case)
    assert found is not None
    assert found.holder == dispute.judge.id


def test_an_adjudicator_does_nothing_else_on_these_routes(served: Served, tmp_path: Path) -> None:
    dispute = disputed(served)
    (free,) = served.cases(dispute.protocol)  # a case with free seats
    client, session = served.client(dispute.judge), served.session(dispute.judge)
    assert client.next_sample("worklist", {"protocol": dispute.protocol.name}) == {}
    for case in (free.id, dispute.case.id):
        assert "you began no edit of this case" in refusal(client, case, label_of(1), tmp_path)
        assert served.store.reads(case, dispute.judge.id) == []
    assert session.get(f"{served.url}/worklist/").status_code == 403
    assert session.post(f"{served.url}/worklist/skip?case={free.id}", json={"reason": "no"}).status_code == 403
    for role in (Role.ENGINEER, Role.VIEWER):
        stranger = served.account(role)
        assert served.put_label(stranger, free.id, volume_bytes(label_of(1), ".nrrd")).status_code == 403
        assert served.session(stranger).post(f"{served.url}/activelearning/worklist", json={}).status_code == 403


def test_a_damaged_or_foreign_label_or_a_version_is_refused_and_nothing_is_kept(served: Served) -> None:
    dispute = disputed(served)
    dispute.api("/edit", take="majority")
    foreign = Volume(array_ZYX=np.full(OBLIQUE.shape_ZYX, 9, np.uint8), geometry=OBLIQUE)
    whole = volume_bytes(label_of(1), ".nrrd")

    def answer(content: bytes, **how: Any) -> requests.Response:
        return served.put_label(dispute.judge, dispute.case.id, content, **how)

    assert answer(whole[:-20]).status_code == 422
    assert answer(volume_bytes(foreign, ".nrrd"), params="{}").status_code == 422
    version = answer(whole, tag="version_3")
    assert version.status_code == 409
    assert "save your edit without a tag" in version.json()["detail"]
    assert answer(whole, tag="original").status_code == 403
    assert [edit.revision for edit in edits(served.store, dispute.case.id, dispute.judge.id)] == [0]
    assert answer(whole, tag="final").json()["revision"] == 1


def test_a_reader_who_adjudicates_too_edits_first_and_never_reads_what_he_edited(
    served: Served, tmp_path: Path
) -> None:
    dispute = disputed(served)
    both = served.account(Role.ADJUDICATOR, Role.READER)
    dispute = replace(dispute, judge=both)
    (own,) = served.cases(dispute.protocol)
    client = served.client(both)
    wanted = {"protocol": dispute.protocol.name}
    assert client.next_sample("worklist", wanted)["id"] == own.id
    assert saved(client, own.id, label_of(0), tmp_path)["version"] == 1  # a read
    dispute.api("/edit", take="majority")
    assert client.next_sample("worklist", wanted)["id"] == dispute.case.id
    assert saved(client, dispute.case.id, label_of(1), tmp_path) == {
        "image": dispute.case.id,
        "label": dispute.case.id,
        "revision": 1,
    }
    np.testing.assert_array_equal(downloaded(client, dispute.case.id, "final"), label_of(1).array_ZYX)
    dispute.api("", choice="edit", rationale="the edge is there", password=f"{both.name}-password")
    assert "settled" in refusal(client, dispute.case.id, label_of(2), tmp_path)
    assert served.store.reads(dispute.case.id, both.id) == []
    assert len(served.store.reads(own.id, both.id)) == 1


def test_who_works_on_an_edit_has_the_dispute_for_longer(served: Served) -> None:
    dispute = disputed(served)
    dispute.api("/edit", take="majority")
    table = schema.disputes
    for path in (f"label?label={dispute.case.id}&tag=original", f"image?image={dispute.case.id}"):
        soon = now() + timedelta(minutes=10)
        with served.store.writing() as connection:
            connection.execute(sa.update(table).where(table.c.case == dispute.case.id).values(held_until=soon))
        assert served.session(dispute.judge).get(f"{served.url}/datastore/{path}").ok
        found = standing_over(served.store, dispute.case.id)
        assert found is not None
        assert found.held_until is not None
        assert found.held_until > soon + timedelta(minutes=30)
