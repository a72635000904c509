"""What the serving benchmark serves: images drawn or from a folder in, a site with champions and its server out."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import requests
from stock_server import await_answer

from apps.accounts import Accounts
from apps.settings import Site, make_site
from apps.training_site import workplace
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import SHIPPED, load_protocol
from labeling_protocols.records import Role
from labeling_protocols.settlement import settle
from labeling_protocols.store import Store
from labeling_protocols.volumes import read_volume, read_volume_bytes
from labeling_protocols.worklist import next_case
from tests.ports import free_ports
from training.pipeline import train_candidate
from training.plan import ModelTask
from training.request import TrainingRequest
from training.samples import phantom

ROOT = Path(__file__).resolve().parents[1]
PROTOCOL = "hippocampus"
LEARNED = 24
_ASKED = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server: where it is, its model and strategy, and who asks it for inferences and for the next case."""

    url: str
    model: str
    strategy: str
    images: Sequence[str]  # as this server names them
    asking: requests.Session
    reading: requests.Session

    def infer(self, image: str, model: str = "", **params: Any) -> Volume:
        answer = self.asking.post(
            f"{self.url}/infer/{model or self.model}?image={image}&output=image",
            data={"params": json.dumps({**_ASKED, **params})},
        )
        answer.raise_for_status()
        return read_volume_bytes(answer.content, ".nrrd")

    def info(self) -> None:
        self.reading.get(f"{self.url}/info/").raise_for_status()

    def next_sample(self) -> None:
        self.reading.post(f"{self.url}/activelearning/{self.strategy}", json={}).raise_for_status()


def learned_pairs(data: Path | None) -> list[tuple[Volume, Volume]]:
    if data is None:
        return [phantom(np.random.default_rng(number)) for number in range(LEARNED)]
    names = sorted(path.name for path in (data / "images").iterdir())[:LEARNED]
    return [(read_volume(data / "images" / name), read_volume(data / "labels" / name)) for name in names]


def large_image(pairs: Sequence[tuple[Volume, Volume]], seed: int, shape_ZYX: tuple[int, int, int]) -> Volume:
    """Images side by side until the shape is filled, each brought to one mean and deviation; 1 mm, along R, A and S."""
    random = np.random.default_rng(seed)
    tile = np.min([image.geometry.shape_ZYX for image, _ in pairs], axis=0)
    large = np.zeros([-(-whole // part) * part for whole, part in zip(shape_ZYX, tile, strict=True)], np.float32)
    for corner in np.ndindex(*(np.array(large.shape) // tile)):
        image, _ = pairs[random.integers(len(pairs))]
        voxels = image.array_ZYX[tuple(slice(0, part) for part in tile)].astype(np.float32)
        place = tuple(slice(at * part, (at + 1) * part) for at, part in zip(corner, tile, strict=True))
        large[place] = 1000 + 200 * (voxels - voxels.mean()) / (voxels.std() or 1)
    noisy = large[tuple(slice(0, edge) for edge in shape_ZYX)] + random.normal(0, 2, shape_ZYX)
    geometry = Geometry(
        shape_ZYX=shape_ZYX,
        spacing_mm_XYZ=(1.0, 1.0, 1.0),
        origin_mm_LPS=(0.0, 0.0, 0.0),
        direction_LPS=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
    )
    return Volume(array_ZYX=np.clip(noisy, 0, 32767).astype(np.int16), geometry=geometry)


def released_site(root: Path, pairs: Sequence[tuple[Volume, Volume]], epochs: int) -> Site:
    """A site with a champion of each kind, trained in minutes: well enough to be sure of where structures end."""
    with contextlib.redirect_stdout(sys.stderr):
        site = make_site(root)
    store = Store(site.database_url, site.blobs)
    shipped = load_protocol(SHIPPED / f"{PROTOCOL}.yaml")
    none = dict.fromkeys(shipped.values, 0.0)
    gate = replace(shipped.gate, dice_mean_min=0.0, dice_min=none, missed_max=10**6, dice_drop_max=1.0)
    store.add_protocol(replace(shipped, gate=gate))
    accounts = Accounts(store, site)
    readers = [accounts.add(f"reader{n}", "a long password", frozenset({Role.READER})) for n in range(2)]
    labels = {}
    for number, (image, label) in enumerate(pairs):
        case, _ = store.add_case(protocol=PROTOCOL, patient=f"P{number}", volume=image, modality="MR")
        labels[case.id] = label
    for reader in readers:
        while (case_or_none := next_case(store, PROTOCOL, reader.id)) is not None:
            store.save_read(case_id=case_or_none.id, reader=reader.id, label=Label.of(labels[case_or_none.id]))
            settle(store, case_or_none.id)
    store.close()
    overrides: Mapping[str, Any] = {"epochs": epochs, "spacing_mm_RAS": [1.0, 1.0, 1.0]}
    with workplace(site) as place:
        for number, task in enumerate((ModelTask.SEGMENTATION, ModelTask.INTERACTIVE)):
            request = TrainingRequest(protocol=PROTOCOL, task=task, overrides=overrides)
            train_candidate(place, request, f"train-{PROTOCOL}-{number:04d}")
    return site


@contextlib.contextmanager
def our_server(site: Site, images: Sequence[Volume]) -> Iterator[Server]:
    """Ours, with these images as cases."""
    store = Store(site.database_url, site.blobs)
    accounts = Accounts(store, site)
    engineer = accounts.add("engineer", "a long password", frozenset({Role.ENGINEER}))
    reader = accounts.add("reader", "a long password", frozenset({Role.READER}))
    cases = [
        store.add_case(protocol=PROTOCOL, patient=f"L{number}", volume=image, modality="MR")[0].id
        for number, image in enumerate(images)
    ]
    sessions = [requests.Session(), requests.Session()]
    for session, account in zip(sessions, (engineer, reader), strict=True):
        session.headers["Authorization"] = f"Bearer {accounts.token(account)}"
    store.close()
    [port] = free_ports(1)
    log = site.root / "web.log"
    process = subprocess.Popen(
        [sys.executable, "-m", "apps.web", "--site", str(site.root), "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        await_answer(f"{url}/healthz", process, log)
        asking, reading = sessions
        yield Server(url=url, model=PROTOCOL, strategy="worklist", images=cases, asking=asking, reading=reading)
    finally:
        process.terminate()
        process.wait()
