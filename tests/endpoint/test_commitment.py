"""A sender that asks whether its images are held hears so on an association of its own, even after a crash."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from apps.endpoint.receiver import Receiver
from apps.settings import Site
from labeling_protocols.series_writer import series_datasets
from tests.conftest import image_of
from tests.dicom.examples import AXIAL, identity_of
from tests.endpoint.peers import Process, free_port, send, site_with_endpoint
from tests.waiting import until

ALL_HELD, SOME_LACKING = 1, 2
NO_SUCH_INSTANCE = 0x0112


class Modality:
    """The sender, listening for reports; `refusals` is how many of them it does not take at first."""

    def __init__(self, port: int) -> None:
        self.reports: list[tuple[int, Dataset]] = []
        self.refusals = 0
        entity = AE(ae_title="MODALITY")
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        self._server = entity.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._hear)]
        )

    def _hear(self, event: Event) -> tuple[int, None]:
        if self.refusals:
            self.refusals -= 1
            return 0x0110, None
        self.reports.append((int(event.event_type), event.event_information))
        return 0x0000, None

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def modality(port: int) -> Iterator[Modality]:
    one = Modality(port)
    yield one
    one.close()


@pytest.fixture
def site(tmp_path: Path, port: int) -> Site:
    made = site_with_endpoint(tmp_path / "site", quiet_seconds=600)
    peer = f'[[dicom.peers]]\nae_title = "MODALITY"\nhost = "127.0.0.1"\nport = {port}\n'
    with (made.root / "config.toml").open("a") as settings:
        settings.write(peer)
    return Site(made.root)


def ask(site: Site, images: Sequence[Dataset], **changed: Any) -> Dataset:
    """The answer to a request for storage commitment."""
    request = Dataset()
    request.TransactionUID = generate_uid()
    request.ReferencedSOPSequence = []
    for image in images:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        request.ReferencedSOPSequence.append(item)
    for keyword, value in changed.items():
        setattr(request, keyword, value)
    entity = AE(ae_title="MODALITY")
    entity.add_requested_context(StorageCommitmentPushModel)
    opened = entity.associate("127.0.0.1", site.config.dicom.port, ae_title="OVERREAD")
    assert opened.is_established
    try:
        status, _ = opened.send_n_action(request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        answered: Dataset = status
        return answered
    finally:
        opened.release()


def test_what_is_held_and_what_is_not_is_reported_until_it_is_taken(site: Site, modality: Modality) -> None:
    images = series_datasets(image_of(1, AXIAL), identity_of("committed"))
    modality.refusals = 2
    with Receiver(site):
        assert send(site, images[:3]) == [0] * 3
        assert ask(site, images).Status == 0
        assert ask(site, images[:3]).Status == 0
    assert modality.reports == []  # nobody works yet, and nothing is forgotten
    worker = Process("-m", "apps.worker", "--site", str(site.root))
    try:
        until(lambda: len(modality.reports) == 2, "both reports", 60)
    finally:
        worker.stop()
    reports = dict(modality.reports)
    [some, all_] = reports[SOME_LACKING], reports[ALL_HELD]
    held = {item.ReferencedSOPInstanceUID for item in some.ReferencedSOPSequence}
    assert held == {image.SOPInstanceUID for image in images[:3]}
    lacking = {item.ReferencedSOPInstanceUID: item.FailureReason for item in some.FailedSOPSequence}
    assert lacking == {image.SOPInstanceUID: NO_SUCH_INSTANCE for image in images[3:]}
    assert "FailedSOPSequence" not in all_
    assert len(all_.ReferencedSOPSequence) == 3


def test_an_image_whose_file_is_gone_is_not_said_to_be_held(site: Site, modality: Modality) -> None:
    images = series_datasets(image_of(1, AXIAL), identity_of("gone"))
    worker = Process("-m", "apps.worker", "--site", str(site.root))
    try:
        with Receiver(site):
            send(site, images[:1])
            for path in site.folder("inbox").glob("??/*"):
                path.unlink()
            assert ask(site, images[:1]).Status == 0
        until(lambda: modality.reports, "the report", 60)
    finally:
        worker.stop()
    [(event, report)] = modality.reports
    assert (event, report.FailedSOPSequence[0].FailureReason) == (SOME_LACKING, NO_SUCH_INSTANCE)


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")  # they are meant to be
def test_a_request_that_cannot_be_answered_is_refused_in_words(site: Site) -> None:
    images = series_datasets(image_of(1, AXIAL), identity_of("refused"))
    with Receiver(site):
        for asked, words in (
            ({"ReferencedSOPSequence": []}, "expected valid UIDs of 1 to"),
            ({"TransactionUID": "../x"}, "expected valid UIDs of 1 to"),
        ):
            answer = ask(site, images, **asked)
            assert answer.Status == 0x0110
            assert answer.ErrorComment.startswith(words)
    unknown = site_with_endpoint(site.root.parent / "unknown", quiet_seconds=600)
    with Receiver(unknown):
        answer = ask(unknown, images)
    assert (answer.Status, answer.ErrorComment) == (0x0110, "no address of this AE title is in the settings")
