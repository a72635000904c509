"""monailabel's unmodified client, under login and at personal addresses: four readers at once, and one cut off."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import requests
from monailabel.client.client import MONAILabelClient

from labeling_protocols import audit
from labeling_protocols.geometry import Volume
from labeling_protocols.records import Account
from labeling_protocols.volumes import read_volume, write_volume
from tests.annotation.served import INFO, Served
from tests.conftest import OBLIQUE

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

CASES, REVISIONS = 3, 4


def drawing(reader: int, case: int, revision: int) -> Volume:
    """A label that says who drew it: as many voxels as no other of the test's."""
    array_ZYX = np.zeros(OBLIQUE.shape_ZYX, np.uint8)
    array_ZYX.ravel()[: 1 + revision + REVISIONS * (case + CASES * reader)] = 1 + reader % 2
    return Volume(array_ZYX=array_ZYX, geometry=OBLIQUE)


def test_four_readers_at_once_keep_every_revision_and_each_their_own(served: Served, tmp_path: Path) -> None:
    protocol = served.protocol(readers_per_case=4)
    cases = [case.id for case in served.cases(protocol, CASES)]
    readers = [served.account() for _ in range(4)]
    clients = [
        served.client(reader) if number % 2 else served.client_at_address(reader)
        for number, reader in enumerate(readers)
    ]
    start = Barrier(len(readers))

    def read_all(number: int) -> list[str]:
        client, seen = clients[number], []
        start.wait()
        while sample := client.next_sample("worklist", {"protocol": protocol.name}):
            seen.append(sample["id"])
            image = requests.get(
                f"{client.get_server_url()}/datastore/image?image={sample['id']}", headers=client._headers, timeout=30
            )
            assert image.ok
            for revision in range(REVISIONS):
                path = tmp_path / f"{number}-{revision}.nrrd"
                write_volume(drawing(number, cases.index(sample["id"]), revision), path)
                saved = client.save_label(sample["id"], str(path), params={"label_info": INFO})
                assert saved["revision"] == revision + 1
        return seen

    with ThreadPoolExecutor(len(readers)) as pool:
        seen = list(pool.map(read_all, range(len(readers))))
    for number, (reader, client) in enumerate(zip(readers, clients, strict=True)):
        assert sorted(seen[number]) == sorted(cases)
        for place, case in enumerate(cases):
            reads = served.store.reads(case, reader.id)
            expected = [drawing(number, place, revision).array_ZYX for revision in range(REVISIONS)]
            assert [read.revision for read in reads] == list(range(1, REVISIONS + 1))
            for read, array_ZYX in zip(reads, expected, strict=True):
                np.testing.assert_array_equal(served.store.label(read.label).array_ZYX, array_ZYX)
            back = read_volume(Path(client.download_label(case, "version_2"))).array_ZYX
            np.testing.assert_array_equal(back, expected[1])
    for case in cases:
        assert len(served.store.reads(case)) == 4 * REVISIONS
    with served.store.engine.connect() as connection:
        assert audit.verify(connection).broken is None


READER = """
import sys
import requests
from monailabel.client.client import MONAILabelClient

url, name, password, protocol = sys.argv[1:5]
client = MONAILabelClient(url)
client.update_auth(client.auth_token(name, password))
for label in sys.argv[5:]:
    sample = client.next_sample("worklist", {"protocol": protocol})
    image = requests.get(f"{url}/datastore/image?image={sample['id']}", headers=client._headers, timeout=30)
    assert image.ok
    if label != "-":
        client.save_label(sample["id"], label, params={"label_info": [{"name": "anterior", "idx": 1}]})
    print(sample["id"], flush=True)
sys.stdin.read()  # until somebody ends this
"""


def started(served: Served, reader: Account, protocol: str, *labels: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", READER]
    command += [served.url, reader.name, f"{reader.name}-password", protocol, *labels]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_client_that_is_killed_resumes_its_case_and_its_revisions(served: Served, tmp_path: Path) -> None:
    """The first computer saves one case, asks for the next one, downloads it and dies; nobody else gets that case."""
    protocol = served.protocol()
    served.cases(protocol, 3)
    reader = served.account()
    path = tmp_path / "label.nrrd"
    write_volume(drawing(0, 0, 2), path)
    first = started(served, reader, protocol.name, str(path), "-")
    done, left = told(first), told(first)
    first.kill()
    first.communicate()
    assert done != left
    second = started(served, reader, protocol.name, "-")
    resumed = told(second)
    second.communicate("")
    assert resumed == left
    client: MONAILabelClient = served.client(reader)
    for tag in ("final", "version_1"):
        back = read_volume(Path(client.download_label(done, tag)))
        np.testing.assert_array_equal(back.array_ZYX, drawing(0, 0, 2).array_ZYX)
    own = served.session(reader).get(f"{served.url}/worklist/").json()["protocols"]
    [work] = [entry["work"] for entry in own if entry["protocol"] == protocol.name]
    assert [(entry["case"], entry["state"]) for entry in work] == [(left, "claimed"), (done, "read")]
