"""monailabel's unmodified client, from its sign-in to the truth, as two readers; blindness on the way."""

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest
import requests
from monailabel.client.client import MONAILabelClient, MONAILabelClientException

from labeling_protocols import settlement
from labeling_protocols.records import Account, Role
from labeling_protocols.volumes import read_volume, read_volume_bytes, write_volume
from tests.annotation.served import INFO, Served
from tests.conftest import label_of

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_two_readers_work_from_sign_in_to_truth(served: Served, tmp_path: Path) -> None:
    protocol = served.protocol()
    [case] = served.cases(protocol)
    for reader, shift in ((served.account(), 0), (served.account(), 0)):
        client = served.client(reader)
        assert client.auth_enabled()
        assert client.auth_valid_token()
        assert client.info()["name"] == "Overread"
        sample = client.next_sample("worklist", {"protocol": protocol.name})
        assert sample["id"] == case.id
        assert "path" not in sample
        image = requests.get(f"{served.url}/datastore/image?image={case.id}", headers=client._headers, timeout=10)
        assert image.headers["content-disposition"] == f'attachment; filename="{case.id}.nii.gz"'
        assert sample["checksum"] == f"SHA256:{hashlib.sha256(image.content).hexdigest()}"
        found = read_volume_bytes(image.content, ".nii.gz")
        np.testing.assert_array_equal(found.array_ZYX, served.store.image(case).array_ZYX)
        answer = served.save(reader, case.id, label_of(shift), tmp_path)
        assert (answer["image"], answer["label"], answer["revision"]) == (case.id, case.id, 1)
        own = read_volume(Path(client.download_label(case.id, "final")))
        np.testing.assert_array_equal(own.array_ZYX, label_of(shift).array_ZYX)
    truth = settlement.truth(served.store, case.id)
    assert truth is not None
    np.testing.assert_array_equal(served.store.label(truth.label).array_ZYX, label_of().array_ZYX)


def test_a_second_save_is_the_next_revision_and_the_first_one_stays(served: Served, tmp_path: Path) -> None:
    protocol = served.protocol()
    [case] = served.cases(protocol)
    reader = served.account()
    served.client(reader).next_sample("worklist", {"protocol": protocol.name})
    for shift, revision in ((0, 1), (1, 2), (1, 2)):
        assert served.save(reader, case.id, label_of(shift), tmp_path)["revision"] == revision
    first, second = served.store.reads(case.id, reader.id)
    np.testing.assert_array_equal(served.store.label(first.label).array_ZYX, label_of(0).array_ZYX)
    np.testing.assert_array_equal(served.store.label(second.label).array_ZYX, label_of(1).array_ZYX)


def test_what_a_reader_is_told_does_not_change_when_another_one_saves(served: Served, tmp_path: Path) -> None:
    protocol = served.protocol()
    [case] = served.cases(protocol)
    first, second = served.account(), served.account()
    for reader in (first, second):
        served.client(reader).next_sample("worklist", {"protocol": protocol.name})

    def told(reader: Account) -> list[tuple[int, bytes]]:
        session = served.session(reader)
        answers = [
            session.get(f"{served.url}{path}")
            for path in (
                "/info/",
                *(f"/datastore/?output={output}" for output in ("all", "train", "stats")),
                f"/datastore/image/info?image={case.id}",
                *(f"/datastore/label?label={case.id}&tag={tag}" for tag in ("", "final", "original")),
                *(f"/datastore/label/info?label={case.id}&tag={tag}" for tag in ("", "final", "original")),
            )
        ]
        return [(answer.status_code, answer.content) for answer in answers]

    before = told(second)
    served.save(first, case.id, label_of(0), tmp_path)
    assert told(second) == before
    served.save(second, case.id, label_of(2), tmp_path)
    assert settlement.settle(served.store, case.id) is not None
    mine = told(second)
    served.save(first, case.id, label_of(1), tmp_path)
    assert told(second) == mine
    assert first.id.encode() not in b"".join(content for _, content in mine)
    assert first.name.encode() not in b"".join(content for _, content in mine)


def test_truth_is_for_those_who_read_nothing_themselves(served: Served, tmp_path: Path) -> None:
    protocol = served.protocol()
    [case] = served.cases(protocol)
    for reader in (served.account(), served.account()):
        served.client(reader).next_sample("worklist", {"protocol": protocol.name})
        served.save(reader, case.id, label_of(), tmp_path)
    address = f"{served.url}/datastore/label?label={case.id}&tag=final"
    for roles, status in (
        ((Role.ENGINEER,), 200),
        ((Role.ADJUDICATOR,), 200),
        ((Role.ADMINISTRATOR,), 200),
        ((Role.VIEWER,), 404),
        ((Role.READER, Role.ADJUDICATOR), 404),
    ):
        assert served.session(served.account(*roles)).get(address).status_code == status, roles


def test_a_reader_resumes_what_he_left_and_is_told_when_nothing_is_left(served: Served, tmp_path: Path) -> None:
    protocol = served.protocol()
    cases = served.cases(protocol, 2)
    reader = served.account()
    client = served.client(reader)
    ask = {"protocol": protocol.name}
    left = client.next_sample("worklist", dict(ask))["id"]
    assert client.next_sample("worklist", dict(ask))["id"] == left
    served.save(reader, left, label_of(), tmp_path)
    other = client.next_sample("worklist", dict(ask))["id"]
    assert {left, other} == {case.id for case in cases}
    served.save(reader, other, label_of(), tmp_path)
    assert client.next_sample("worklist", dict(ask)) == {}


def test_a_personal_address_needs_no_password_and_is_not_written_down(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As 3D Slicer uses it: it asks for nothing, and downloads images without a token."""
    protocol = served.protocol()
    [case] = served.cases(protocol)
    reader = served.account()
    secret = served.accounts.new_address(reader)
    client = MONAILabelClient(f"{served.url}/u/{secret}")
    with caplog.at_level(logging.DEBUG, logger="overread"):
        assert not client.auth_enabled()
        assert client.next_sample("worklist", {"protocol": protocol.name})["id"] == case.id
        assert requests.get(f"{client.get_server_url()}/datastore/image?image={case.id}", timeout=10).ok
        path = tmp_path / "label.nrrd"
        write_volume(label_of(), path)
        client.save_label(case.id, str(path), params={"label_info": INFO})
    [read] = served.store.reads(case.id, reader.id)
    assert read.provenance.client == "monailabel client"
    assert "GET /u/…/datastore/image 200" in caplog.text
    assert secret not in caplog.text
    served.accounts.revoke_addresses(reader)
    with pytest.raises(MONAILabelClientException):
        client.info()


def test_client_id_and_form_fields_do_not_say_who_calls(served: Served, tmp_path: Path) -> None:
    protocol = served.protocol()
    [case] = served.cases(protocol)
    reader, other = served.account(), served.account()
    for account in (reader, other):
        served.client(account).next_sample("worklist", {"protocol": protocol.name, "client_id": other.name})
    served.save(reader, case.id, label_of(), tmp_path, client_id=other.name, user=other.name, reader=other.id)
    assert [read.reader for read in served.store.reads(case.id)] == [reader.id]


def test_3d_slicers_segments_in_another_order_are_kept_in_protocol_values(served: Served, tmp_path: Path) -> None:
    protocol = served.protocol()
    [case] = served.cases(protocol)
    reader = served.account()
    served.client(reader).next_sample("worklist", {"protocol": protocol.name})
    info = [{"name": "posterior", "idx": 1}, {"name": "anterior", "idx": 2}]
    served.save(reader, case.id, label_of(), tmp_path, label_info=info)
    [read] = served.store.reads(case.id, reader.id)
    np.testing.assert_array_equal(served.store.label(read.label).array_ZYX == 2, label_of().array_ZYX == 1)


def test_an_unknown_strategy_model_or_trainer_is_a_404_in_words(served: Served) -> None:
    client = served.client(served.account(Role.READER, Role.ENGINEER))
    for call, arguments in (
        (client.next_sample, ("first", {})),
        (client.infer, ("liver", "x", {})),
        (client.train_start, ("liver", {})),
    ):
        with pytest.raises(MONAILabelClientException) as refusal:
            call(*arguments)
        assert "404" in refusal.value.msg
        assert "unknown" in refusal.value.msg


def test_before_there_is_a_champion_infer_says_so_and_keeps_nothing(served: Served) -> None:
    protocol = served.protocol()
    [case] = served.cases(protocol)
    reader = served.account()
    served.seat(reader, case)
    client = served.client(reader)
    assert protocol.name not in client.info()["models"]
    with pytest.raises(MONAILabelClientException) as refusal:
        client.infer(protocol.name, case.id, {})
    assert "409" in refusal.value.msg
    assert "no model of protocol" in refusal.value.msg
    assert served.store.prelabel(case.id) is None


def test_training_is_started_watched_and_cancelled_with_the_client(served: Served) -> None:
    """No worker runs here: the job waits, and waiting is told as running, as viewers expect it."""
    protocol = served.protocol()
    client = served.client(served.account(Role.ENGINEER))
    assert protocol.name in client.info()["trainers"]
    client.train_stop()
    assert not client.train_status(check_if_running=True)
    started = client.train_start(protocol.name, {"max_epochs": 1})
    assert started["status"] == "RUNNING"
    second = client.train_start(protocol.name, {})
    assert second["id"] != started["id"]  # it waits for the first
    assert [job.id for job in served.app.state.annotation.jobs.active("train")] == [started["id"], second["id"]]
    assert client.train_status(check_if_running=True)
    assert client.train_status()["id"] == started["id"]
    assert client.info()["train_stats"][protocol.name] == {"epoch": 0, "total_epochs": 1}
    assert client.train_stop()["status"] == "STOPPED"
    assert not client.train_status(check_if_running=True)
    assert client.train_stop() is None


def test_sessions_are_their_owners_and_survive_the_clients_stale_headers(served: Served, tmp_path: Path) -> None:
    protocol = served.protocol()
    [case] = served.cases(protocol)
    path = tmp_path / "image.nii.gz"
    path.write_bytes(served.store.blobs.get(case.image))
    client, other = served.client(served.account()), served.client(served.account())
    # From here on the client sends this request's content type and length with everything.
    client.next_sample("worklist", {"protocol": protocol.name})
    session = client.create_session(str(path))
    session_id = session["session_id"]
    assert client.get_session(session_id) == session["session_info"]
    assert str(served.site.root) not in str(session)
    with pytest.raises(MONAILabelClientException):
        other.get_session(session_id)
    client.remove_session(session_id)
    with pytest.raises(MONAILabelClientException):
        client.get_session(session_id)
    assert not (served.site.root / "sessions" / session_id).exists()


def test_an_expired_session_is_gone(served: Served) -> None:
    sessions = served.app.state.sessions
    session = sessions.create("somebody", label_of(), 60)
    folder = served.site.root / "sessions" / session.id
    about = folder / "owner.json"
    about.write_text(about.read_text().replace(f'"created": {session.created}', f'"created": {session.created - 61}'))
    with pytest.raises(LookupError, match="expired"):
        sessions.get(session.id, "somebody")
    sessions.create("somebody", label_of())
    assert not folder.exists()
