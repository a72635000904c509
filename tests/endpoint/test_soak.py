"""Two senders at once while processes are killed, the destination goes away and the disk fills: nothing is lost.

Small as a rule; OVERREAD_SOAK_SERIES=500 OVERREAD_SOAK_KILLS=50 OVERREAD_SOAK_AWAY_S=60 make it the long one.
"""

import itertools
import os
import random
import resource
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage

from apps.endpoint.results import DeliveryState, ResultState, deliveries, results
from apps.settings import Site
from labeling_protocols.protocol import Protocol
from labeling_protocols.series_writer import series_datasets
from labeling_protocols.store import Store
from tests.conftest import OBLIQUE
from tests.dicom.examples import identity_of, uid
from tests.endpoint.champion import phantom_of, release_champion
from tests.endpoint.peers import Destination, Process, free_port, site_with_endpoint
from tests.waiting import until

SERIES = int(os.environ.get("OVERREAD_SOAK_SERIES", "40"))
KILLS = int(os.environ.get("OVERREAD_SOAK_KILLS", "9"))
AWAY_S = float(os.environ.get("OVERREAD_SOAK_AWAY_S", "3"))
LIMIT_S = 600 + 6 * SERIES
MODULES = {"endpoint": "apps.endpoint", "worker": "apps.worker", "sender": "apps.endpoint.sender"}


class Machine:
    """The endpoint's processes; each is started again when it was killed."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.processes = {name: self._started(name) for name in MODULES}
        self.kills = Counter[str]()

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name] = self._started(name)
        self.kills[name] += 1

    def fill_the_disk(self, ended: threading.Event) -> None:
        """For a moment the kernel lets the endpoint write nothing, as a full disk would."""
        pid = self.processes["endpoint"].process.pid
        unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (100, unlimited[1]))
        ended.wait(1.0)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()

    def _started(self, name: str) -> Process:
        return Process("-m", MODULES[name], "--site", str(self._site.root))


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def site(tmp_path: Path, port: int) -> Site:
    return site_with_endpoint(tmp_path / "site", quiet_seconds=3.0, destination=port)


@pytest.fixture
def store(site: Site, protocol: Protocol) -> Iterator[Store]:
    opened = Store(site.database_url, site.blobs)
    opened.add_protocol(protocol)
    yield opened
    opened.close()


def images_of(number: int) -> list[Dataset]:
    return series_datasets(phantom_of(OBLIQUE)[0], identity_of(f"soak{number}"))


def send_until_acknowledged(site: Site, images: list[Dataset], refused: Counter[str]) -> None:
    """As a modality does: what was not acknowledged is sent again."""
    left = {image.SOPInstanceUID: image for image in images}
    entity = AE(ae_title="MODALITY")
    entity.add_requested_context(MRImageStorage, images[0].file_meta.TransferSyntaxUID)
    entity.connection_timeout = entity.dimse_timeout = entity.acse_timeout = 10
    while left:
        association = entity.associate("127.0.0.1", site.config.dicom.port, ae_title="OVERREAD")
        if not association.is_established:
            threading.Event().wait(0.2)
            continue
        for image in list(left.values()):
            try:
                status = association.send_c_store(image).get("Status")
            except (RuntimeError, ValueError):
                break  # the association has gone
            if status == 0:
                del left[image.SOPInstanceUID]
            elif status is None:
                break
            else:
                refused[f"{status:#06x}"] += 1
                threading.Event().wait(0.1)
        association.release() if association.is_established else association.abort()


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_and_every_result_arrives_once(
    site: Site, store: Store, protocol: Protocol, port: int
) -> None:
    champion = release_champion(site, protocol)
    destination, machine, ended = Destination(port), Machine(site), threading.Event()
    received: list[Dataset] = []
    refused = Counter[str]()
    chance = random.Random(7)
    try:
        with ThreadPoolExecutor(2) as senders:
            sent = [
                senders.submit(
                    lambda numbers: [send_until_acknowledged(site, images_of(n), refused) for n in numbers], half
                )
                for half in (range(0, SERIES, 2), range(1, SERIES, 2))
            ]
            for number, name in enumerate(itertools.islice(itertools.cycle(MODULES), KILLS)):
                ended.wait(chance.uniform(0.5, 3.0))
                machine.kill(name)
                if number == KILLS // 3:
                    machine.fill_the_disk(ended)
                if number == KILLS // 2:
                    received += destination.received
                    destination.close()
                    ended.wait(AWAY_S)
                    destination = Destination(port)
            for one in sent:
                one.result()
        wanted = {uid(f"soak{number}", "series") for number in range(SERIES)}
        until(lambda: {one.series for one in results(store)} >= wanted, "a result of every series", LIMIT_S)
        until(lambda: not deliveries(store, state=DeliveryState.WAITING), "every delivery", LIMIT_S)
        made = [one for one in results(store) if one.superseded_by is None]
    finally:
        machine.stop()
        destination.close()
    received += destination.received
    assert Counter(one.series for one in made) == dict.fromkeys(wanted, 1)
    whole = [one for one in made if one.state is ResultState.DONE]
    assert whole == made, [one.reason for one in made if one not in whole]
    assert {one.model for one in made} == {champion.name}
    arrived = {f"{image.SOPInstanceUID}.dcm" for image in received}
    assert {name for one in made for name in one.files} <= arrived
    assert arrived <= {name for one in results(store) for name in one.files}, "nothing came that no result has"
    assert sum(machine.kills.values()) == KILLS
    assert set(refused) <= {"0xa700"}
